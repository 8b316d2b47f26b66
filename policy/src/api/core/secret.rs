//! Secret as its author writes it, with its content. What is stored and spread is a [`super::SecretHead`].

use std::{borrow::Cow, collections::BTreeMap, fmt, marker::PhantomData};

use base64::Engine;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};
use weft_wire::secret::{MAX_SECRET_KEYS, MAX_SECRET_LEN, SecretBytes};
use zeroize::Zeroizing;

use super::{check_keys, credential};
use crate::{document::Checker, kinds::Resource};

/// Reads one form of value; another one is refused without being printed.
struct Hidden<F>(F);

const NO_TEXT: &str = "it must be text (quote it)";

impl<T, F: FnOnce(&str) -> Result<T, &'static str>> Visitor<'_> for Hidden<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text (quote it)")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(E::custom)
    }
    fn visit_bool<E: de::Error>(self, _: bool) -> Result<T, E> {
        Err(E::custom(format_args!("is a boolean; {NO_TEXT}")))
    }
    fn visit_i64<E: de::Error>(self, _: i64) -> Result<T, E> {
        Err(E::custom(format_args!("is a number; {NO_TEXT}")))
    }
    fn visit_f64<E: de::Error>(self, _: f64) -> Result<T, E> {
        Err(E::custom(format_args!("is a number; {NO_TEXT}")))
    }
}

/// Reads base64, and prints it nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretBase64(pub SecretBytes);

impl<'de> Deserialize<'de> for SecretBase64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = deserializer.deserialize_str(Hidden(decoded))?;
        Ok(Self(SecretBytes::new(bytes)))
    }
}

/// Reads plain text, and prints it nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretText(pub SecretBytes);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = deserializer.deserialize_str(Hidden(|text: &str| Ok(text.as_bytes().to_vec())))?;
        Ok(Self(SecretBytes::new(bytes)))
    }
}

/// Line breaks may stand in it, as YAML's blocks have them.
pub(super) fn decoded(text: &str) -> Result<Vec<u8>, &'static str> {
    let text: Zeroizing<Vec<u8>> = Zeroizing::new(text.bytes().filter(|b| !matches!(b, b'\n' | b'\r')).collect());
    base64::engine::general_purpose::STANDARD.decode(&*text).map_err(|_| "is not base64")
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

/// A map whose values are read by `V`; what stands in its place is not printed either.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HiddenMap<V>(BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for HiddenMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = BTreeMap<String, V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of keys to values")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((key, value)) = map.next_entry()? {
                    entries.insert(key, value);
                }
                Ok(entries)
            }
            fn visit_str<E: de::Error>(self, _: &str) -> Result<Self::Value, E> {
                Err(E::custom("is text; it must be a map of keys to values"))
            }
            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Self::Value, E> {
                Err(E::custom("is a boolean; it must be a map of keys to values"))
            }
            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Self::Value, E> {
                Err(E::custom("is a number; it must be a map of keys to values"))
            }
            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
                Err(E::custom("is a number; it must be a map of keys to values"))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData)).map(Self)
    }
}

impl<V> Default for HiddenMap<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// Keys, certificates and passwords.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Secret {
    #[schemars(with = "BTreeMap<String, SecretBase64>")]
    data: HiddenMap<SecretBase64>,
    /// Overrides `data`.
    #[schemars(with = "BTreeMap<String, SecretText>")]
    string_data: HiddenMap<SecretText>,
    /// `Opaque` if absent; `kubernetes.io/tls` has `tls.crt` and `tls.key`.
    #[serde(rename = "type")]
    kind: String,
    immutable: Option<bool>,
}

/// What a Secret of each type must have: one of each list.
const SECRET_KEYS: [(&str, &[&[&str]]); 5] = [
    (TLS, &[&["tls.crt"], &["tls.key"]]),
    ("kubernetes.io/ssh-auth", &[&["ssh-privatekey"]]),
    ("kubernetes.io/basic-auth", &[&["username", "password"]]),
    ("kubernetes.io/dockercfg", &[&[".dockercfg"]]),
    ("kubernetes.io/dockerconfigjson", &[&[".dockerconfigjson"]]),
];
const TLS: &str = "kubernetes.io/tls";
const OPAQUE: &str = "Opaque";

impl Secret {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        let text = self.string_data.0.get(key).map(|text| text.0.expose());
        text.or_else(|| self.data.0.get(key).map(|bytes| bytes.0.expose()))
    }

    pub fn kind(&self) -> &str {
        if self.kind.is_empty() { OPAQUE } else { &self.kind }
    }

    pub fn immutable(&self) -> Option<bool> {
        self.immutable
    }

    /// All values by key, `stringData` over `data`.
    pub fn content(&self) -> BTreeMap<String, SecretBytes> {
        let bytes = self.data.0.iter().map(|(key, value)| (key.clone(), value.0.clone()));
        let texts = self.string_data.0.iter().map(|(key, value)| (key.clone(), value.0.clone()));
        bytes.chain(texts).collect()
    }

    /// What keeps a Secret of type `kubernetes.io/tls` from being used. Analysis tells it in its own words, so it is
    /// not part of [`Resource::check`].
    pub(crate) fn check_credential(&self, checker: &mut Checker<'_>) {
        let (TLS, Some(certificate), Some(key)) = (self.kind(), self.get("tls.crt"), self.get("tls.key")) else {
            return;
        };
        if let Err((at, why)) = credential::check_pair(certificate, key) {
            let field = if self.string_data.0.contains_key(at) { "stringData" } else { "data" };
            checker.field(field, |checker| checker.error_in(at, why));
        }
    }
}

impl Resource for Secret {
    const CONFIDENTIAL: bool = true;

    fn check(&self, checker: &mut Checker<'_>) {
        check_keys("data", self.data.0.keys(), checker);
        check_keys("stringData", self.string_data.0.keys(), checker);
        let content = self.content();
        checker.limit("data", content.len(), MAX_SECRET_KEYS);
        let len: usize = content.iter().map(|(key, value)| key.len() + value.expose().len()).sum();
        if len > MAX_SECRET_LEN {
            checker.error_in("data", format!("holds {len} bytes; {MAX_SECRET_LEN} are the most"));
        }
        let wanted = SECRET_KEYS.iter().find(|(kind, _)| *kind == self.kind).map_or(&[][..], |(_, keys)| keys);
        for keys in wanted {
            if keys.iter().all(|key| !content.contains_key(*key)) {
                checker.error_in("data", format!("must have {} in a Secret of type {}", keys.join(" or "), self.kind));
            }
        }
    }
}

/// Bytes, written in base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base64(pub Vec<u8>);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Hidden(decoded)).map(Self)
    }
}
