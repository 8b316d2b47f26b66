//! What all documents have: `apiVersion`, `kind` and `metadata`.

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};
use weft_wire::{
    document::{DocumentKey, NoVersion, VersionId},
    id::{Namespace, ServiceLabel, is_dns_name},
};

use super::{
    DocumentError, Problem,
    read::read,
    tree::{Entry, Node, Position, Value},
};
use crate::{
    api::values::Labels,
    kinds::{self, Kind, nearest},
};

/// The fields that this file reads, and `status`, which a Kubernetes server writes.
pub(super) const HEADER_FIELDS: &[&str] = &["apiVersion", "kind", "metadata", "status"];

/// Fields that a Kubernetes server sets, so that they stand in documents that were read back from one.
const SERVER_SET: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// What kind of document it is; read first, as all else depends on it.
#[derive(Debug)]
pub(super) struct TypeName {
    pub(super) api_version: String,
    pub(super) kind: String,
}

impl TypeName {
    pub(super) fn read(node: &Node) -> Result<Self, DocumentError> {
        if !matches!(node.value, Value::Map(_)) {
            return read::<BTreeMap<String, IgnoredAny>>(node)
                .and(Err(DocumentError::invalid("a document is a map").located(node.at)));
        }
        let text_of = |key: &str| match node.get(key) {
            Some(value) => read::<String>(value).map_err(|error| error.inside_key(key)),
            None => Err(DocumentError::new(Problem::Missing).inside_key(key).located(node.at)),
        };
        Ok(Self { kind: text_of("kind")?, api_version: text_of("apiVersion")? })
    }

    pub(super) fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// What the items of a list of one kind are, such as `ServiceList`.
    fn of_items(&self) -> Option<&str> {
        let kind = self.kind.strip_suffix("List")?;
        let is_known = kinds::kinds().iter().any(|known| known.kind == kind && known.group == self.group());
        (is_known || kinds::is_workload(self.group(), kind)).then_some(kind)
    }

    pub(super) fn is_list(&self) -> bool {
        self.of_items().is_some() || self.kind == "List" && self.api_version == "v1"
    }

    /// Says what an item is that leaves it to its list.
    pub(super) fn name_item(&self, item: &mut Node) {
        let (at, Some(kind), Value::Map(entries)) = (item.at, self.of_items(), &mut item.value) else { return };
        for (key, text) in [("apiVersion", self.api_version.as_str()), ("kind", kind)] {
            if entries.iter().all(|entry| entry.key != key) {
                let node = Node { at, value: Value::Text(text.to_owned()) };
                entries.push(Entry { key: key.to_owned(), at, node });
            }
        }
    }

    fn known(&self) -> Result<&'static Kind, DocumentError> {
        let known = kinds::kinds()
            .iter()
            .find(|kind| kind.kind == self.kind && kind.api_versions().any(|version| version == self.api_version));
        known.ok_or_else(|| DocumentError::new(self.unknown()))
    }

    /// Why no document of this kind can be read.
    fn unknown(&self) -> Problem {
        if let Some(instead) = kinds::instead_of(self.group(), &self.kind) {
            return Problem::UnsupportedKind { kind: self.kind.clone(), instead };
        }
        let type_name = format!("{} ({})", self.kind, self.api_version);
        let same = kinds::kinds().iter().find(|kind| kind.kind == self.kind && kind.group == self.group());
        if let Some(kind) = same {
            return Problem::UnknownVersion { type_name, known: kind.versions };
        }
        let names: Vec<&str> = kinds::kinds().iter().map(|kind| kind.kind).collect();
        let nearest = nearest(&self.kind, &names).filter(|nearest| *nearest != self.kind);
        Problem::UnknownKind { type_name, nearest }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Metadata {
    name: String,
    namespace: Option<Namespace>,
    #[serde(default)]
    labels: Labels,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(rename = "creationTimestamp")]
    _creation_timestamp: Option<IgnoredAny>,
    #[serde(rename = "deletionGracePeriodSeconds")]
    _deletion_grace_period_seconds: Option<IgnoredAny>,
    #[serde(rename = "deletionTimestamp")]
    _deletion_timestamp: Option<IgnoredAny>,
    #[serde(rename = "finalizers")]
    _finalizers: Option<IgnoredAny>,
    #[serde(rename = "generation")]
    _generation: Option<IgnoredAny>,
    #[serde(rename = "managedFields")]
    _managed_fields: Option<IgnoredAny>,
    #[serde(rename = "ownerReferences")]
    _owner_references: Option<IgnoredAny>,
    resource_version: Option<String>,
    #[serde(rename = "selfLink")]
    _self_link: Option<IgnoredAny>,
    #[serde(rename = "uid")]
    _uid: Option<IgnoredAny>,
}

/// A document's header, checked.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) kind: &'static Kind,
    pub(crate) key: DocumentKey,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    /// The version that the document's author has seen, if it says so.
    pub(crate) version: Option<VersionId>,
}

impl Header {
    /// `default_namespace` is that of documents that name none; without one they are refused.
    pub(super) fn read(node: &Node, default_namespace: Option<&Namespace>) -> Result<Self, DocumentError> {
        let type_name = TypeName::read(node)?;
        let kind = type_name.known().map_err(|error| error.located(node.at))?;
        let title = title_of(node).unwrap_or(type_name.kind);
        Self::read_metadata(kind, node, default_namespace).map_err(|error| error.located(node.at).of_document(&title))
    }

    fn read_metadata(
        kind: &'static Kind,
        node: &Node,
        default_namespace: Option<&Namespace>,
    ) -> Result<Self, DocumentError> {
        let Some(field) = node.get("metadata") else {
            return Err(DocumentError::new(Problem::Missing).inside_key("metadata"));
        };
        let in_metadata = |error: DocumentError| error.located(field.at).inside_key("metadata");
        let metadata: Metadata = read(field).map_err(in_metadata)?;
        let wrong = |key: &str, what: String| {
            let at = field.get(key).map_or(field.at, |value| value.at);
            in_metadata(DocumentError::invalid(what).located(at).inside_key(key))
        };
        let name = metadata.name;
        match kind.kind {
            "Service" => drop(name.parse::<ServiceLabel>().map_err(|error| wrong("name", error.to_string()))?),
            "Namespace" => drop(name.parse::<Namespace>().map_err(|error| wrong("name", error.to_string()))?),
            _ if !is_dns_name(&name) => {
                let what = "must be a DNS name: a-z, 0-9 and '-' in labels joined by dots, 253 characters at most";
                return Err(wrong("name", what.into()));
            }
            _ => {}
        }
        let namespace = match (metadata.namespace, kind.namespaced) {
            (Some(namespace), true) => Some(namespace),
            (Some(_), false) => return Err(wrong("namespace", format!("a {} has none: leave it out", kind.kind))),
            (None, true) => Some(
                default_namespace
                    .cloned()
                    .ok_or_else(|| in_metadata(DocumentError::new(Problem::Missing).inside_key("namespace")))?,
            ),
            (None, false) => None,
        };
        let version = match metadata.resource_version {
            // A number is a Kubernetes server's, and means nothing here.
            Some(text) if !text.bytes().all(|b| b.is_ascii_digit()) => {
                Some(text.parse().map_err(|error: NoVersion| wrong("resourceVersion", error.to_string()))?)
            }
            _ => None,
        };
        let key = DocumentKey { group: kind.group.into(), kind: kind.kind.into(), namespace, name };
        Ok(Self { kind, key, labels: metadata.labels.0, annotations: metadata.annotations, version })
    }

    /// How errors and notices name the document.
    pub(crate) fn title(&self) -> String {
        format!("{} {}", self.key.kind, self.key.name)
    }

    /// The namespace that short names in the document mean.
    pub(crate) fn namespace(&self) -> Namespace {
        self.key.namespace.clone().unwrap_or_else(Namespace::default_namespace)
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
            let (at, value) = (Position::default(), Value::Text(namespace.to_string()));
            metadata.push(Entry { key: "namespace".into(), at, node: Node { at, value } });
        }
    }
}

/// Kind and name as far as they can be read, for errors and notices about documents that are not read further.
pub(super) fn title_of(node: &Node) -> Option<String> {
    let kind = node.get("kind")?.text()?;
    let name = node.get("metadata").and_then(|metadata| metadata.get("name")).and_then(Node::text);
    Some(name.map_or(kind.to_owned(), |name| format!("{kind} {name}")))
}
