#![no_main]
//! What a joining host may send as its token.

use libfuzzer_sys::fuzz_target;
use weft_ca::token::JoinToken;

fuzz_target!(|text: &str| {
    if let Ok(token) = text.parse::<JoinToken>() {
        assert_eq!(token.to_string(), text.trim());
    }
});
