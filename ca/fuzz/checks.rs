//! What must hold for any input. The fuzz targets look for one that breaks it; tests/seeds.rs replays the seeds.

use weft_ca::token::JoinToken;

/// What a joining host may send as its token: what is read is printed as it was.
pub fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(token) = text.parse::<JoinToken>() {
        assert_eq!(token.to_string(), text.trim());
    }
}
