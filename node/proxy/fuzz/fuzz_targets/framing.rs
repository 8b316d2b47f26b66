//! HTTP/1 bytes mean the same however they are split. Run: `cargo +nightly fuzz run framing`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks.rs"]
mod checks;

fuzz_target!(|bytes: &[u8]| checks::framing(bytes));
