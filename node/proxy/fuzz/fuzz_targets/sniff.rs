//! What a client's first bytes begin. Run: `cargo +nightly fuzz run sniff`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks.rs"]
mod checks;

fuzz_target!(|bytes: &[u8]| checks::sniff(bytes));
