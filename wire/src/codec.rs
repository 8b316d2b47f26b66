//! The one place where bytes become values. Limits first: nothing is allocated for a length that was only claimed.
//!
//! `bincode` 2.0.1 is the last release that works (3.0.0 is an empty tombstone, RUSTSEC-2025-0141), so it is pinned
//! and named in this file alone; the golden bytes in `tests/codec/golden.rs` let another encoder take its place.

use serde::{Serialize, de::DeserializeOwned};

/// Version of the encoding, the first byte of every encoded value.
pub const VERSION: u8 = 1;

/// No single encoded value is larger. A compile-time bound lets the decoder refuse a claimed length before it allocates.
const HARD_LIMIT: usize = crate::frame::MAX_FRAME_LEN;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("{len} bytes is more than the limit of {limit}")]
    TooLarge { len: usize, limit: usize },
    #[error("{items} items are more than the limit of {limit}")]
    TooMany { items: usize, limit: usize },
    #[error("encoding version {0} is not known here (this build reads {VERSION})")]
    UnknownVersion(u8),
    #[error("{0} bytes left over after the value")]
    TrailingBytes(usize),
    #[error("malformed: {0}")]
    Malformed(String),
}

/// Fixed-width integers would cost more bytes; little-endian variable-length is bincode's standard.
fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<HARD_LIMIT>()
}

/// Encodes a value as a version byte and its content.
///
/// # Errors
/// [`WireError::TooLarge`] if the result is longer than `limit` bytes.
pub fn encode<T: Serialize>(value: &T, limit: usize) -> Result<Vec<u8>, WireError> {
    let mut bytes = vec![VERSION];
    bincode::serde::encode_into_std_write(value, &mut bytes, config())
        .map_err(|error| WireError::Malformed(error.to_string()))?;
    if bytes.len() > limit {
        return Err(WireError::TooLarge { len: bytes.len(), limit });
    }
    Ok(bytes)
}

/// Decodes what [`encode`] made.
///
/// # Errors
/// Every input that [`encode`] could not have made is refused; none panics or allocates more than a small multiple
/// of its length.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, WireError> {
    if bytes.len() > limit.min(HARD_LIMIT) {
        return Err(WireError::TooLarge { len: bytes.len(), limit: limit.min(HARD_LIMIT) });
    }
    let (&version, content) = bytes.split_first().ok_or_else(|| WireError::Malformed("empty".into()))?;
    if version != VERSION {
        return Err(WireError::UnknownVersion(version));
    }
    let (value, read) = bincode::serde::decode_from_slice(content, config())
        .map_err(|error| WireError::Malformed(error.to_string()))?;
    match content.len() - read {
        0 => Ok(value),
        left => Err(WireError::TrailingBytes(left)),
    }
}

/// The bytes that a signature covers: a domain, so that a signature for one purpose never serves another, then the
/// encoded value.
pub fn signing_bytes<T: Serialize>(domain: &str, value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(domain.as_bytes());
    bytes.push(0);
    bytes.push(VERSION);
    bincode::serde::encode_into_std_write(value, &mut bytes, config())
        .expect("a Vec takes all that is written, and derived types have no sequence of unknown length");
    bytes
}
