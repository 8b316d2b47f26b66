//! Documents: from a user's text to checked, typed values.
//!
//! [`parse_yaml`] reads what a user brings and makes the canonical JSON that is signed, stored and spread;
//! [`parse_stored`] reads that JSON again on every node. Both read strictly: what this build does not know is refused
//! by name, never ignored.

mod destination_rule;
mod error;
mod file;
mod header;
mod read;
mod service;
mod tree;
mod validate;
mod virtual_service;

use std::collections::BTreeMap;

use weft_wire::{
    document::{DocumentKey, MAX_DOCUMENT_LEN, Stamp},
    id::Namespace,
};

pub use self::{
    destination_rule::DestinationRule,
    error::{DocumentError, Problem},
    file::{Notice, ParsedDocument, ParsedFile, parse_yaml},
    service::Service,
    virtual_service::VirtualService,
};
pub(crate) use self::{
    destination_rule::Subset,
    service::Port,
    virtual_service::{Destination, HttpRule},
};
use self::{
    header::{Context, Header},
    read::Field,
    tree::{Node, read_json},
};

/// Largest file that is read, in bytes.
pub const MAX_FILE_LEN: usize = 1024 * 1024;
/// Most documents in one file.
pub const MAX_DOCUMENTS: usize = 500;

/// A checked document.
#[derive(Debug, PartialEq)]
pub struct Document {
    pub key: DocumentKey,
    /// When the document's first version was written, which decides what is "oldest".
    pub created: Stamp,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub spec: Spec,
}

/// What a document says, by kind.
#[derive(Debug, PartialEq)]
pub enum Spec {
    Namespace,
    ServiceAccount,
    Service(Service),
    VirtualService(VirtualService),
    DestinationRule(DestinationRule),
}

/// Reads a stored document, as every node does with what it receives.
///
/// # Errors
/// What [`parse_yaml`] could not have made, or of a kind or with a field that this build does not know: the author's
/// build may be newer.
pub fn parse_stored(key: &DocumentKey, json: &str, created: Stamp) -> Result<Document, DocumentError> {
    let refuse = |problem| Err(DocumentError::at(0, problem).of_document(&format!("{} {}", key.kind, key.name)));
    if json.len() > MAX_DOCUMENT_LEN {
        return refuse(Problem::TooLarge { what: "the document", limit: format!("{MAX_DOCUMENT_LEN} bytes of JSON") });
    }
    let node = read_json(json)?;
    let header = Header::read(&node, None)?;
    if header.key != *key {
        let what = format!("its body says that it is {}", header.key);
        return refuse(Problem::Invalid { path: String::new(), what });
    }
    let spec = read_spec(&header, &node, &mut Vec::new())?;
    Ok(Document { key: header.key, created, labels: header.labels, annotations: header.annotations, spec })
}

/// Reads what stands beside the header.
fn read_spec(header: &Header, node: &Node, notices: &mut Vec<Notice>) -> Result<Spec, DocumentError> {
    let root = Field::root(node);
    let namespace = header.key.namespace.clone().unwrap_or_else(Namespace::default_namespace);
    let context = &mut Context { header, namespace, notices };
    let read = match header.key.kind.as_str() {
        "Namespace" => header::read_namespace(&root).map(|()| Spec::Namespace),
        "ServiceAccount" => root.map(header::ROOT_FIELDS).map(|_| Spec::ServiceAccount),
        "Service" => Service::read(&root, context).map(Spec::Service),
        "VirtualService" => VirtualService::read(&root, context).map(Spec::VirtualService),
        "DestinationRule" => DestinationRule::read(&root, context).map(Spec::DestinationRule),
        _ => Err(header.unknown_kind()),
    };
    read.map_err(|error| error.of_document(&header.title()))
}

#[cfg(test)]
mod tests;
