//! Documents: from a user's text to checked, typed values.
//!
//! [`parse_yaml`] reads what a user brings and makes the canonical JSON that is signed, stored and spread;
//! [`parse_stored`] reads that JSON again on every node. Both read strictly: what this build does not know is refused
//! by name, never ignored. The types are those of [`crate::api`].

mod check;
mod error;
mod file;
mod header;
mod lines;
pub(crate) mod read;
mod schema;
pub(crate) mod survey;
pub(crate) mod tree;

use std::collections::BTreeMap;

use weft_wire::{
    document::{DocumentKey, MAX_DOCUMENT_LEN, Stamp},
    id::Namespace,
};

#[cfg(test)]
pub(crate) use self::schema::tests::assert_fits_its_schema;
pub(crate) use self::{check::Checker, error::steps_of};
use self::{
    check::Findings,
    header::{HEADER_FIELDS, Header},
    read::{read, read_without},
    tree::{Node, Value, read_json},
};
pub use self::{
    check::{Pending, not_enforced},
    error::{DocumentError, Problem},
    file::{Notice, ParsedDocument, ParsedFile, parse_yaml},
    lines::Lines,
    schema::schema_of,
    tree::Position,
};
pub use crate::kinds::Spec;
use crate::{
    api::core::CONTENT,
    kinds::{Place, Resource},
};

/// Largest file that is read, in bytes.
pub const MAX_FILE_LEN: usize = 4 * 1024 * 1024;
/// Most documents in one file.
pub const MAX_DOCUMENTS: usize = 5_000;

/// A checked document.
#[derive(Debug, PartialEq)]
pub struct Document {
    pub key: DocumentKey,
    /// When the document's first version was written, which decides what is "oldest".
    pub created: Stamp,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub spec: Spec,
    /// What it asks for that the data path does not do yet.
    pub pending: Vec<Pending>,
}

impl Document {
    /// The namespace that short names in the document mean.
    pub fn namespace(&self) -> Namespace {
        self.key.namespace.clone().unwrap_or_else(Namespace::default_namespace)
    }
}

/// Reads a stored document, as every node does with what it receives.
///
/// # Errors
/// What [`parse_yaml`] could not have made, or of a kind or with a field that this build does not know: the author's
/// build may be newer.
pub fn parse_stored(key: &DocumentKey, json: &str, created: Stamp) -> Result<Document, DocumentError> {
    let refuse = |problem| Err(DocumentError::new(problem).of_document(&format!("{} {}", key.kind, key.name)));
    if json.len() > MAX_DOCUMENT_LEN {
        return refuse(Problem::TooLarge { what: "the document", limit: format!("{MAX_DOCUMENT_LEN} bytes of JSON") });
    }
    let node = read_json(json)?;
    let header = Header::read(&node, None)?;
    if header.kind.confidential && node.get(CONTENT).is_none() {
        return refuse(Problem::Unsealed { kind: header.kind.kind });
    }
    if header.key != *key {
        return refuse(Problem::Invalid(format!("its body says that it is {}", header.key)));
    }
    let (spec, Findings { mut errors, pending, .. }) = read_spec(&header, &node)?;
    if !errors.is_empty() {
        return Err(errors.swap_remove(0));
    }
    Ok(Document { key: header.key, created, labels: header.labels, annotations: header.annotations, spec, pending })
}

/// Reads what stands beside the header, and checks it.
fn read_spec(header: &Header, node: &Node) -> Result<(Spec, Findings), DocumentError> {
    let read = match header.kind.confidential && node.get(CONTENT).is_some() {
        true => read_root(node).map(|head| Spec::SecretHead(Box::new(head))),
        false => (header.kind.read)(node),
    };
    let spec = read.map_err(|error| error.located(node.at).of_document(&header.title()))?;
    let mut checker = Checker::new(header, node);
    match header.kind.place {
        Place::Root => spec.check(&mut checker),
        Place::Spec => checker.field("spec", |checker| spec.check(checker)),
    }
    Ok((spec, checker.findings()))
}

/// Reads a resource that stands beside the header.
pub(crate) fn read_root<T: Resource>(node: &Node) -> Result<T, DocumentError> {
    read_without(node, HEADER_FIELDS)
}

/// Reads a resource that is the document's `spec`; an absent one is empty.
pub(crate) fn read_in_spec<T: Resource>(node: &Node) -> Result<T, DocumentError> {
    let Value::Map(entries) = &node.value else { return read(node) };
    let known = |key: &str| key == "spec" || HEADER_FIELDS.contains(&key);
    if let Some(entry) = entries.iter().find(|entry| !known(&entry.key)) {
        let nearest = crate::kinds::nearest(&entry.key, &["spec"]);
        let problem = Problem::UnknownField { nearest, known: &["apiVersion", "kind", "metadata", "spec", "status"] };
        return Err(DocumentError::new(problem).inside_key(&entry.key).located(entry.at));
    }
    let empty = Node { at: node.at, value: Value::Map(Vec::new()) };
    let spec = node.get("spec").unwrap_or(&empty);
    read(spec).map_err(|error| error.located(spec.at).inside_key("spec"))
}

#[cfg(test)]
mod tests;
