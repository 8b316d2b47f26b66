//! Files as users write them: many documents, lists, and kinds that belong to others.

use std::collections::BTreeSet;

use weft_wire::{
    document::{DocumentKey, MAX_DOCUMENT_LEN},
    id::Namespace,
};

use super::{
    DocumentError, MAX_DOCUMENTS, MAX_FILE_LEN, Problem,
    header::{Header, TypeName, title_of},
    read::Field,
    read_spec,
    tree::{Node, Value, read_yaml},
};
use crate::kinds;

/// What a file holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ParsedFile {
    pub documents: Vec<ParsedDocument>,
    /// What was accepted but has no effect, for the user to know.
    pub notices: Vec<Notice>,
}

/// One document of a file, checked, and ready to be stamped, signed and stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedDocument {
    pub key: DocumentKey,
    /// Canonical JSON: sorted keys, with its namespace, without what a Kubernetes server sets.
    pub json: String,
}

/// Something that was accepted but has no effect, such as a Deployment in a file of many kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Counted from 1; 0 where it is not known.
    pub line: u64,
    pub text: String,
}

/// Reads a file: one or many documents, `kind: List`, empty documents. The file is right as a whole or refused.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub fn parse_yaml(text: &str, default_namespace: &Namespace) -> Result<ParsedFile, DocumentError> {
    let too_large = |what, limit| Err(DocumentError::at(0, Problem::TooLarge { what, limit }));
    if text.len() > MAX_FILE_LEN {
        return too_large("the file", format!("{MAX_FILE_LEN} bytes"));
    }
    let mut nodes = Vec::new();
    for root in read_yaml(text)? {
        flatten(root, &mut nodes)?;
        if nodes.len() > MAX_DOCUMENTS {
            return too_large("the number of documents", format!("{MAX_DOCUMENTS} in one file"));
        }
    }

    let mut file = ParsedFile::default();
    let mut keys = BTreeSet::new();
    for node in nodes {
        if let Some(document) = read_document(node, default_namespace, &mut file.notices, &mut keys)? {
            file.documents.push(document);
        }
    }
    Ok(file)
}

/// Takes a `List` apart.
fn flatten(root: Node, nodes: &mut Vec<Node>) -> Result<(), DocumentError> {
    let type_name = TypeName::read(&root)?;
    if type_name.api_version != "v1" || type_name.kind != "List" {
        nodes.push(root);
        return Ok(());
    }
    Field::root(&root).map(&["apiVersion", "kind", "metadata", "items"])?.list("items")?;
    let Value::Map(entries) = root.value else { return Ok(()) };
    for entry in entries {
        if let (true, Value::List(items)) = (entry.key == "items", entry.node.value) {
            nodes.extend(items);
        }
    }
    Ok(())
}

/// Reads one document; `None` if it is skipped.
fn read_document(
    mut node: Node,
    default_namespace: &Namespace,
    notices: &mut Vec<Notice>,
    keys: &mut BTreeSet<DocumentKey>,
) -> Result<Option<ParsedDocument>, DocumentError> {
    let type_name = TypeName::read(&node)?;
    if kinds::is_workload(type_name.group(), &type_name.kind) {
        let title = title_of(&node).unwrap_or(type_name.kind);
        let text = format!("{title} skipped: workloads are declared in node.yaml or by weft run");
        notices.push(Notice { line: node.line, text });
        return Ok(None);
    }
    let header = Header::read(&node, Some(default_namespace))?;
    let line = node.line;
    let refuse = |problem| Err(DocumentError::at(line, problem).of_document(&header.title()));
    if !keys.insert(header.key.clone()) {
        return refuse(Problem::Invalid { path: String::new(), what: "stands twice in this file".into() });
    }
    read_spec(&header, &node, notices)?;

    header.canonicalise(&mut node);
    let json = node.to_json().to_string();
    if json.len() > MAX_DOCUMENT_LEN {
        return refuse(Problem::TooLarge { what: "the document", limit: format!("{MAX_DOCUMENT_LEN} bytes of JSON") });
    }
    Ok(Some(ParsedDocument { key: header.key, json }))
}
