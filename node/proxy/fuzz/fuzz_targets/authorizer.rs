//! An authorizer's answer over gRPC is read or refused. Run: `cargo +nightly fuzz run authorizer`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks.rs"]
mod checks;

fuzz_target!(|bytes: &[u8]| checks::authorizer(bytes));
