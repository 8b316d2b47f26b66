//! What all documents have: `apiVersion`, `kind` and `metadata`.

use std::collections::BTreeMap;

use weft_wire::{
    document::DocumentKey,
    id::{Namespace, ServiceLabel},
};

use super::{
    DocumentError, Notice, Problem,
    read::{Field, nearest},
    tree::{Entry, Node, Value},
    validate,
};
use crate::{
    hosts::{self, HostPattern},
    kinds::{self, Kind},
};

/// Fields of a document whose kind has no `spec`.
pub(super) const ROOT_FIELDS: &[&str] = &["apiVersion", "kind", "metadata", "status"];
/// Fields of a document whose kind has one.
pub(super) const ROOT_FIELDS_WITH_SPEC: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];

const METADATA_FIELDS: &[&str] = &[
    "name",
    "namespace",
    "labels",
    "annotations",
    "creationTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];
/// Fields that a Kubernetes server sets, so that they stand in documents that were read back from one.
const SERVER_SET: &[&str] = &["creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid"];

/// What kind of document it is; read first, as all else depends on it.
#[derive(Debug)]
pub(super) struct TypeName {
    pub(super) api_version: String,
    pub(super) kind: String,
}

impl TypeName {
    pub(super) fn read(node: &Node) -> Result<Self, DocumentError> {
        let root = Field::root(node);
        let text_of = |key: &'static str| match root.entries()?.iter().find(|entry| entry.key == key) {
            Some(entry) => Ok(root.entry(entry).text()?.to_owned()),
            None => Err(DocumentError::at(node.line, Problem::Missing { path: key.to_owned() })),
        };
        Ok(Self { kind: text_of("kind")?, api_version: text_of("apiVersion")? })
    }

    pub(super) fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    fn known(&self) -> Option<&'static Kind> {
        kinds::kinds()
            .iter()
            .find(|kind| kind.kind == self.kind && kind.api_versions().any(|version| version == self.api_version))
    }

    pub(super) fn unknown(&self, line: u64) -> DocumentError {
        let names = kinds::kinds().iter().map(|kind| kind.kind);
        let problem = Problem::UnknownKind {
            kind: self.kind.clone(),
            api_version: self.api_version.clone(),
            nearest: nearest(&self.kind, names).filter(|nearest| *nearest != self.kind),
        };
        DocumentError::at(line, problem)
    }
}

/// A document's header, checked.
#[derive(Debug)]
pub(super) struct Header {
    type_name: TypeName,
    line: u64,
    pub(super) key: DocumentKey,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
}

impl Header {
    /// `default_namespace` is that of documents that name none; without one they are refused.
    pub(super) fn read(node: &Node, default_namespace: Option<&Namespace>) -> Result<Self, DocumentError> {
        let type_name = TypeName::read(node)?;
        let title = title_of(node).unwrap_or_else(|| type_name.kind.clone());
        Self::read_rest(type_name, node, default_namespace).map_err(|error| match error.problem {
            Problem::UnknownKind { .. } => error,
            _ => error.of_document(&title),
        })
    }

    fn read_rest(
        type_name: TypeName,
        node: &Node,
        default_namespace: Option<&Namespace>,
    ) -> Result<Self, DocumentError> {
        let kind = type_name.known().ok_or_else(|| type_name.unknown(node.line))?;
        let root = Field::root(node);
        let metadata = root
            .entries()?
            .iter()
            .find(|entry| entry.key == "metadata")
            .map(|entry| root.entry(entry))
            .ok_or_else(|| DocumentError::at(node.line, Problem::Missing { path: "metadata".into() }))?;
        let fields = metadata.map(METADATA_FIELDS)?;

        let name = fields.required("name")?;
        match kind.kind {
            "Service" => drop(name.parse::<ServiceLabel>()?),
            "Namespace" => drop(name.parse::<Namespace>()?),
            _ => validate::dns_name(&name)?,
        }
        let namespace = match (fields.get("namespace"), kind.namespaced) {
            (Some(field), true) => Some(field.parse()?),
            (Some(field), false) => return Err(field.error(format!("a {} has no namespace: leave it out", kind.kind))),
            (None, true) => Some(default_namespace.cloned().ok_or_else(|| fields.missing("namespace"))?),
            (None, false) => None,
        };
        let labels = fields.text_map("labels")?;
        if let Some(field) = fields.get("labels") {
            validate::labels(&field, &labels)?;
        }
        let key =
            DocumentKey { group: kind.group.into(), kind: kind.kind.into(), namespace, name: name.text()?.to_owned() };
        Ok(Self { type_name, line: node.line, key, labels, annotations: fields.text_map("annotations")? })
    }

    /// How errors and notices name the document.
    pub(super) fn title(&self) -> String {
        format!("{} {}", self.key.kind, self.key.name)
    }

    pub(super) fn unknown_kind(&self) -> DocumentError {
        self.type_name.unknown(self.line)
    }

    /// Makes the document what is stored: with its namespace, without what a server sets.
    pub(super) fn canonicalise(&self, node: &mut Node) {
        let Value::Map(root) = &mut node.value else { return };
        root.retain(|entry| entry.key != "status");
        let Some(Value::Map(metadata)) =
            root.iter_mut().find(|entry| entry.key == "metadata").map(|entry| &mut entry.node.value)
        else {
            return;
        };
        metadata.retain(|entry| !SERVER_SET.contains(&entry.key.as_str()) && entry.key != "namespace");
        if let Some(namespace) = &self.key.namespace {
            let value = Value::Text(namespace.to_string());
            metadata.push(Entry { key: "namespace".into(), line: 0, node: Node { line: 0, value } });
        }
    }
}

/// What the readers of each kind share: whose document it is, and what the user should hear.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) header: &'a Header,
    /// Short names mean services of this namespace.
    pub(super) namespace: Namespace,
    pub(super) notices: &'a mut Vec<Notice>,
}

impl Context<'_> {
    /// Tells the user something about a field that is not wrong.
    pub(super) fn notice(&mut self, field: &Field<'_>, what: &str) {
        let text = format!("{}: {} {what}", self.header.title(), field.path);
        self.notices.push(Notice { line: field.line, text });
    }

    /// Reads a host, and says so where it is taken as it stands and cannot be a service: that is easily meant
    /// otherwise.
    pub(super) fn host(&mut self, field: &Field<'_>) -> Result<HostPattern, DocumentError> {
        let host = HostPattern::read(field.text()?, &self.namespace).map_err(|what| field.error(what))?;
        if let HostPattern::Exact(name) = &host
            && hosts::service_of(name).is_none()
        {
            let advice = "a service of another namespace is written NAME.NAMESPACE.svc.cluster.local";
            self.notice(field, &format!("{name} is taken as it stands and names no service; {advice}"));
        }
        Ok(host)
    }
}

/// Kind and name as far as they can be read, for errors and notices about documents that are not read further.
pub(super) fn title_of(node: &Node) -> Option<String> {
    let child = |node: &'_ Node, key: &str| match &node.value {
        Value::Map(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| entry.node.clone()),
        _ => None,
    };
    let text = |node: Node| match node.value {
        Value::Text(text) => Some(text),
        _ => None,
    };
    let kind = child(node, "kind").and_then(text)?;
    let name = child(node, "metadata").and_then(|metadata| child(&metadata, "name")).and_then(text);
    Some(name.map_or(kind.clone(), |name| format!("{kind} {name}")))
}

/// A Namespace has nothing but its header; `finalizers` is what a Kubernetes server writes into each.
pub(super) fn read_namespace(root: &Field<'_>) -> Result<(), DocumentError> {
    if let Some(spec) = root.map(ROOT_FIELDS_WITH_SPEC)?.get("spec") {
        spec.map(&["finalizers"])?;
    }
    Ok(())
}
