//! JSON Web Key Sets (RFC 7517), and signatures by their keys.

use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde_json::Value;

/// Longest key set that is read, in bytes.
pub const MAX_JWKS_LEN: usize = 1024 * 1024;
/// Most keys of a set: each costs a signature to try.
pub const MAX_KEYS: usize = 100;

/// The keys that an issuer signs its tokens with.
#[derive(Debug)]
pub struct Jwks {
    keys: Vec<Key>,
    /// What is wrong with the keys that were left out.
    pub problems: Vec<String>,
    /// Whether it holds what only the issuer should know.
    pub has_secrets: bool,
}

struct Key {
    id: Option<String>,
    algorithm: Option<String>,
    key: DecodingKey,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// Why no key of a set verifies a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyError {
    /// None has the token's key id and algorithm.
    NoSuchKey,
    WrongSignature,
}

impl Jwks {
    /// Reads a set, or a single key. Keys that cannot be read or are of a kind that weft does not know are left out
    /// and listed in `problems`.
    ///
    /// # Errors
    /// What is no key set, or larger than the limits, in words.
    pub fn read(text: &str) -> Result<Self, String> {
        if text.len() > MAX_JWKS_LEN {
            return Err(format!("the key set is larger than {MAX_JWKS_LEN} bytes"));
        }
        let value: Value = serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
        let keys = match (value.get("keys"), value.get("kty")) {
            (Some(Value::Array(keys)), _) => keys.as_slice(),
            (None, Some(_)) => std::slice::from_ref(&value),
            _ => return Err("is no key set: its field keys must be a list of keys".into()),
        };
        if keys.len() > MAX_KEYS {
            return Err(format!("has {} keys; {MAX_KEYS} are the most", keys.len()));
        }
        let mut set = Self { keys: Vec::new(), problems: Vec::new(), has_secrets: false };
        for (index, key) in keys.iter().enumerate() {
            set.has_secrets |= ["d", "k"].iter().any(|name| key.get(name).is_some());
            match Key::read(key) {
                Ok(key) => set.keys.push(key),
                Err(what) => set.problems.push(format!("keys[{index}] {what}")),
            }
        }
        Ok(set)
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Verifies a signature by the keys that may have made it.
    pub(crate) fn verify(
        &self,
        key_id: Option<&str>,
        algorithm: (&str, Algorithm),
        message: &str,
        signature: &str,
    ) -> Result<(), KeyError> {
        let (algorithm_name, algorithm) = algorithm;
        let mut error = KeyError::NoSuchKey;
        for key in &self.keys {
            let is_other = |mine: &Option<String>, wanted: Option<&str>| {
                mine.as_deref().zip(wanted).is_some_and(|(mine, wanted)| mine != wanted)
            };
            if is_other(&key.id, key_id) || is_other(&key.algorithm, Some(algorithm_name)) {
                continue;
            }
            error = KeyError::WrongSignature;
            let of_family = key.key.family() == algorithm.family();
            if of_family && crypto::verify(signature, message.as_bytes(), &key.key, algorithm).unwrap_or(false) {
                return Ok(());
            }
        }
        Err(error)
    }
}

impl Key {
    fn read(key: &Value) -> Result<Self, String> {
        let text = |name: &str| match key.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(format!("has a field {name} that is no text")),
        };
        let need = |name: &str| text(name)?.ok_or_else(|| format!("needs the field {name}"));
        let made = match (need("kty")?, text("crv")?) {
            ("RSA", _) => DecodingKey::from_rsa_components(need("n")?, need("e")?),
            ("EC", Some("P-256" | "P-384")) => DecodingKey::from_ec_components(need("x")?, need("y")?),
            ("OKP", Some("Ed25519")) => DecodingKey::from_ed_components(need("x")?),
            ("oct", _) => {
                use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
                let secret = BASE64_URL_SAFE_NO_PAD.decode(need("k")?).map_err(|error| error.to_string())?;
                Ok(DecodingKey::from_secret(&secret))
            }
            ("EC" | "OKP", curve) => {
                return Err(format!("has curve {}; P-256, P-384 and Ed25519 are known", curve.unwrap_or("none")));
            }
            (kind, _) => return Err(format!("has type {kind:?}; RSA, EC, OKP and oct are known")),
        };
        Ok(Self {
            id: text("kid")?.map(str::to_owned),
            algorithm: text("alg")?.map(str::to_owned),
            key: made.map_err(|error| format!("cannot be read: {error}"))?,
        })
    }
}
