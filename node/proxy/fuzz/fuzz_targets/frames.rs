//! The kinds of HTTP/2 frames. Run: `cargo +nightly fuzz run frames`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../checks.rs"]
mod checks;

fuzz_target!(|bytes: &[u8]| checks::frames(bytes));
