//! The kinds of documents, and what each may hold: for `weft schema`, and for editors.

use anyhow::anyhow;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use weft_policy::{
    document::schema_of,
    kinds::{Kind, find_kind, kinds},
};

/// An element of `GET /api/v1/schemas`
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KindEntry {
    pub kind: &'static str,
    /// Empty for Kubernetes' core group.
    pub group: &'static str,
    pub versions: &'static [&'static str],
    pub plural: &'static str,
    pub short_names: &'static [&'static str],
    pub namespaced: bool,
}

impl From<&Kind> for KindEntry {
    fn from(kind: &Kind) -> Self {
        Self {
            kind: kind.kind,
            group: kind.group,
            versions: kind.versions,
            plural: kind.plural,
            short_names: kind.short,
            namespaced: kind.namespaced,
        }
    }
}

pub fn list() -> Vec<KindEntry> {
    kinds().iter().map(KindEntry::from).collect()
}

/// The JSON Schema of a kind, by any of its names.
///
/// # Errors
/// There is no such kind.
pub fn of(word: &str) -> anyhow::Result<Value> {
    let kind =
        find_kind(word).ok_or_else(|| anyhow!("{word:?} is not a kind that weft knows: `weft schema` lists those"))?;
    Ok(schema_of(kind).to_value())
}
