//! `weft schema`: the kinds of documents, and what each may hold.

use anyhow::{Result, anyhow};
use serde::Serialize;
use weft_policy::{
    document::schema_of,
    kinds::{Kind, find_kind, kinds},
};

use super::{
    SchemaArgs,
    output::{self, Format},
};

/// One line of the list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KindEntry {
    kind: &'static str,
    /// Empty for Kubernetes' core group.
    group: &'static str,
    versions: &'static [&'static str],
    plural: &'static str,
    short_names: &'static [&'static str],
    namespaced: bool,
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

/// Prints the JSON Schema of a kind, or the list of kinds.
pub(super) fn schema(format: &Format, args: &SchemaArgs) -> Result<()> {
    let Some(word) = &args.kind else {
        let entries: Vec<KindEntry> = kinds().iter().map(KindEntry::from).collect();
        let header = ["KIND", "PLURAL", "SHORT", "GROUP", "VERSIONS", "NAMESPACED"];
        return output::data(format, &entries, &header, |entries| entries.iter().map(row).collect());
    };
    let kind =
        find_kind(word).ok_or_else(|| anyhow!("{word:?} is not a kind that weft knows: `weft schema` lists those"))?;
    // A schema is no table: it is JSON unless YAML is asked for.
    let format = if *format == Format::Table { &Format::Json } else { format };
    output::data(format, &schema_of(kind).to_value(), &[], |_| Vec::new())
}

fn row(entry: &KindEntry) -> Vec<String> {
    vec![
        entry.kind.to_owned(),
        entry.plural.to_owned(),
        entry.short_names.join(","),
        entry.group.to_owned(),
        entry.versions.join(","),
        entry.namespaced.to_string(),
    ]
}
