//! Whom a request names. Run: `cargo +nightly fuzz run target`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks.rs"]
mod checks;

fuzz_target!(|bytes: &[u8]| checks::target(bytes));
