//! `weft schema`: the kinds of documents, and what each may hold.

use anyhow::Result;

use super::{
    SchemaArgs,
    output::{self, Format},
};
use crate::admin::schemas::{self, KindEntry};

/// Prints the JSON Schema of a kind, or the list of kinds.
pub(super) fn schema(format: &Format, args: &SchemaArgs) -> Result<()> {
    let Some(word) = &args.kind else {
        let header = ["KIND", "PLURAL", "SHORT", "GROUP", "VERSIONS", "NAMESPACED"];
        return output::data(format, &schemas::list(), &header, |entries| entries.iter().map(row).collect());
    };
    let schema = schemas::of(word)?;
    // A schema is no table: it is JSON unless YAML is asked for.
    let format = if *format == Format::Table { &Format::Json } else { format };
    output::data(format, &schema, &[], |_| Vec::new())
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
