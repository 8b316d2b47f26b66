//! ConfigMap: text that documents refer to by name, such as the certificates of authorities.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{check_keys, secret::Base64};
use crate::{document::Checker, kinds::Resource};

/// Text and files that are no secret, such as the certificates of authorities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ConfigMap {
    pub data: BTreeMap<String, String>,
    pub binary_data: BTreeMap<String, Base64>,
    pub immutable: Option<bool>,
}

impl ConfigMap {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        let text = self.data.get(key).map(String::as_bytes);
        text.or_else(|| self.binary_data.get(key).map(|bytes| bytes.0.as_slice()))
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
    }
}
