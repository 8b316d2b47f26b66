//! Secret and ConfigMap: what documents refer to by name.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use base64::Engine;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};

use crate::{document::Checker, kinds::Resource};

/// Bytes that must not be seen: they print as their number.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secret bytes", self.0.len())
    }
}

/// Calls `read` with a text; whatever else is there is refused without being printed.
struct Hidden<F>(F);

impl<T, F: FnOnce(&str) -> Result<T, &'static str>> Visitor<'_> for Hidden<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text (quote it)")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(E::custom)
    }
    fn visit_bool<E: de::Error>(self, _: bool) -> Result<T, E> {
        Err(E::custom("is a boolean; it must be text (quote it)"))
    }
    fn visit_i64<E: de::Error>(self, _: i64) -> Result<T, E> {
        Err(E::custom("is a number; it must be text (quote it)"))
    }
    fn visit_f64<E: de::Error>(self, _: f64) -> Result<T, E> {
        Err(E::custom("is a number; it must be text (quote it)"))
    }
}

/// Reads base64, and prints it nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretBase64(pub SecretBytes);

impl<'de> Deserialize<'de> for SecretBase64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = deserializer.deserialize_str(Hidden(decoded))?;
        Ok(Self(SecretBytes(bytes)))
    }
}

/// Reads plain text, and prints it nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretText(pub SecretBytes);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = deserializer.deserialize_str(Hidden(|text: &str| Ok(text.as_bytes().to_vec())))?;
        Ok(Self(SecretBytes(bytes)))
    }
}

/// Line breaks may stand in it, as YAML's blocks have them.
fn decoded(text: &str) -> Result<Vec<u8>, &'static str> {
    let text: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    base64::engine::general_purpose::STANDARD.decode(text).map_err(|_| "is not base64")
}

macro_rules! text_schema {
    ($($type:ty: $schema:tt)*) => { $(
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )* };
}

text_schema! {
    SecretBase64: { "type": "string", "contentEncoding": "base64" }
    SecretText: { "type": "string" }
    Base64: { "type": "string", "contentEncoding": "base64" }
}

/// Keys, certificates and passwords.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Secret {
    pub data: BTreeMap<String, SecretBase64>,
    /// Overrides `data`.
    pub string_data: BTreeMap<String, SecretText>,
    /// `Opaque` if absent; `kubernetes.io/tls` has `tls.crt` and `tls.key`.
    #[serde(rename = "type")]
    pub kind: String,
    pub immutable: Option<bool>,
}

/// What a Secret of each type must have: one of each list.
const SECRET_KEYS: [(&str, &[&[&str]]); 5] = [
    ("kubernetes.io/tls", &[&["tls.crt"], &["tls.key"]]),
    ("kubernetes.io/ssh-auth", &[&["ssh-privatekey"]]),
    ("kubernetes.io/basic-auth", &[&["username", "password"]]),
    ("kubernetes.io/dockercfg", &[&[".dockercfg"]]),
    ("kubernetes.io/dockerconfigjson", &[&[".dockerconfigjson"]]),
];

impl Secret {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        let text = self.string_data.get(key).map(|text| text.0.expose());
        text.or_else(|| self.data.get(key).map(|bytes| bytes.0.expose()))
    }
}

impl Resource for Secret {
    const CONFIDENTIAL: bool = true;

    fn check(&self, checker: &mut Checker<'_>) {
        check_keys("data", self.data.keys(), checker);
        check_keys("stringData", self.string_data.keys(), checker);
        let wanted = SECRET_KEYS.iter().find(|(kind, _)| *kind == self.kind).map_or(&[][..], |(_, keys)| keys);
        for keys in wanted {
            if keys.iter().all(|key| self.get(key).is_none()) {
                checker.error_in("data", format!("must have {} in a Secret of type {}", keys.join(" or "), self.kind));
            }
        }
    }
}

/// Text and files that are no secret, such as the certificates of authorities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ConfigMap {
    pub data: BTreeMap<String, String>,
    pub binary_data: BTreeMap<String, Base64>,
    pub immutable: Option<bool>,
}

/// Bytes, written in base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base64(pub Vec<u8>);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Hidden(decoded)).map(Self)
    }
}

impl Resource for ConfigMap {
    fn check(&self, checker: &mut Checker<'_>) {
        check_keys("data", self.data.keys(), checker);
        check_keys("binaryData", self.binary_data.keys(), checker);
        checker.field("binaryData", |checker| {
            for key in self.binary_data.keys().filter(|key| self.data.contains_key(*key)) {
                checker.error_in(key, "stands in data too");
            }
        });
        checker.pending("data", true);
    }
}

fn check_keys<'k>(field: &str, keys: impl Iterator<Item = &'k String>, checker: &mut Checker<'_>) {
    let is_key = |key: &str| {
        (1..=253).contains(&key.len())
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && key != "."
            && !key.starts_with("..")
    };
    checker.field(field, |checker| {
        for key in keys.filter(|key| !is_key(key)) {
            checker.error_in(key, "must be 1 to 253 letters, digits, '-', '_' and '.', and not start with '..'");
        }
    });
}
