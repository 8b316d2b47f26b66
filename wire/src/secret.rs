//! What a Secret holds. It is no part of the document that spreads: every node has the document, which commits to
//! these bytes by their digest; the bytes themselves go only to nodes that may have them, when they ask.

use std::{collections::BTreeMap, fmt, str::FromStr};

use aws_lc_rs::digest;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::codec;

/// Most bytes of a Secret, its keys counted with their values.
pub const MAX_SECRET_LEN: usize = 256 * 1024;
/// Most keys of a Secret.
pub const MAX_SECRET_KEYS: usize = 256;

/// Bytes that must not be seen: they print as `***`, and are overwritten when they are dropped.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop, JsonSchema)]
#[serde(transparent)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes themselves: for whoever uses them, and for nobody who prints.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The content of one version of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretPayload {
    /// 32 random bytes, new for each version. Without them, whoever holds the digest could try passwords against it.
    pub salt: SecretBytes,
    pub data: BTreeMap<String, SecretBytes>,
}

impl SecretPayload {
    /// Length of the salt in bytes.
    pub const SALT_LEN: usize = 32;

    /// Whether salt, keys and values are within their bounds.
    pub fn is_bounded(&self) -> bool {
        let len: usize = self.data.iter().map(|(key, value)| key.len() + value.expose().len()).sum();
        self.salt.expose().len() == Self::SALT_LEN && self.data.len() <= MAX_SECRET_KEYS && len <= MAX_SECRET_LEN
    }

    /// What the document that spreads says of this content.
    pub fn digest(&self) -> SecretDigest {
        let bytes = Zeroizing::new(codec::signing_bytes("weft/secret/1", self));
        let mut digest = [0; 32];
        digest.copy_from_slice(digest::digest(&digest::SHA256, &bytes).as_ref());
        SecretDigest(digest)
    }
}

/// SHA-256 of a Secret's salt and content. It prints as 64 hexadecimal digits, and is text in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretDigest(pub [u8; 32]);

impl fmt::Display for SecretDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The text is no digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 64 hexadecimal digits in lower case")]
pub struct NoDigest;

impl FromStr for SecretDigest {
    type Err = NoDigest;

    fn from_str(text: &str) -> Result<Self, NoDigest> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(NoDigest),
        };
        let mut digest = [0; 32];
        if text.len() != 2 * digest.len() {
            return Err(NoDigest);
        }
        for (byte, digits) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let [high, low] = digits else { return Err(NoDigest) };
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(Self(digest))
    }
}

/// Text for people's formats, bytes for the wire.
impl Serialize for SecretDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for SecretDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return <[u8; 32]>::deserialize(deserializer).map(Self);
        }
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(salt: u8, value: &str) -> SecretPayload {
        let data = BTreeMap::from([("password".to_owned(), SecretBytes::new(value.into()))]);
        SecretPayload { salt: SecretBytes::new(vec![salt; SecretPayload::SALT_LEN]), data }
    }

    #[test]
    fn a_secret_prints_nothing_of_itself() {
        let printed = format!("{:?} {:#?}", payload(7, "hunter2"), payload(7, "hunter2").data);
        assert!(printed.contains("***") && !printed.contains("hunter2") && !printed.contains("104"), "{printed}");
    }

    #[test]
    fn a_digest_tells_contents_and_salts_apart() {
        assert_eq!(payload(7, "hunter2").digest(), payload(7, "hunter2").digest());
        assert_ne!(payload(7, "hunter2").digest(), payload(7, "hunter3").digest());
        assert_ne!(payload(7, "hunter2").digest(), payload(8, "hunter2").digest(), "so that it cannot be guessed");
    }

    #[test]
    fn a_digest_is_64_digits_of_text() {
        let digest = payload(7, "hunter2").digest();
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for text in ["", "00", &"0".repeat(63), &"0".repeat(66), &"A".repeat(64), &"é".repeat(32)] {
            assert_eq!(text.parse::<SecretDigest>(), Err(NoDigest), "{text}");
        }
    }

    #[test]
    fn contents_are_bounded() {
        assert!(payload(7, "hunter2").is_bounded());
        assert!(!SecretPayload { salt: SecretBytes::default(), ..payload(7, "") }.is_bounded());
        assert!(!payload(7, &"x".repeat(MAX_SECRET_LEN)).is_bounded());
        let many = (0..=MAX_SECRET_KEYS).map(|key| (key.to_string(), SecretBytes::default())).collect();
        assert!(!SecretPayload { data: many, ..payload(7, "") }.is_bounded());
    }
}
