//! What is analysed: files, and what a mesh holds.

use std::collections::{BTreeMap, BTreeSet};

use weft_wire::{
    document::DocumentKey,
    fact::Protocol,
    id::{Namespace, ServiceName},
};

use super::{Code, Message};
use crate::document::{
    DocumentError, Notice, Problem, Spec,
    survey::{Found, Survey},
    tree::{Node, Value},
};

/// Everything that is known of a mesh.
#[derive(Debug, Default)]
pub struct Input {
    pub(super) subjects: BTreeMap<DocumentKey, Subject>,
    pub(super) announced: BTreeMap<ServiceName, AnnouncedService>,
    /// Nodes by name, with their labels: each may be a gateway.
    pub(super) nodes: Vec<(String, BTreeMap<String, String>)>,
    /// What was said when files were read.
    pub(super) refused: Vec<Message>,
    /// Whether it holds what a mesh does, so that nothing has to be supposed.
    pub(super) is_mesh: bool,
}

/// One document.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) key: DocumentKey,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) content: Content,
    pub(super) tree: Node,
    pub(super) file: Option<String>,
}

#[derive(Debug)]
pub(super) enum Content {
    Spec(Spec),
    /// A Pod, or what makes Pods.
    Workload,
    /// A host of workloads.
    Host,
    /// What it says could not be read.
    Nothing,
}

/// A service that nodes announce.
#[derive(Debug, Default)]
pub(super) struct AnnouncedService {
    pub(super) ports: BTreeSet<u16>,
    /// Which nodes say what is spoken on a port.
    pub(super) spoken: BTreeMap<u16, BTreeMap<Protocol, BTreeSet<String>>>,
    /// Labels of its endpoints.
    pub(super) endpoints: Vec<BTreeMap<String, String>>,
}

impl Subject {
    pub(super) fn namespace(&self) -> Namespace {
        self.key.namespace.clone().unwrap_or_else(Namespace::default_namespace)
    }
}

impl Input {
    /// Adds what a file says, as if it was applied: it replaces what is known of the same documents. What would be
    /// refused is told, and taken in as far as it can be read.
    pub fn add_file(&mut self, file: &str, text: &str, default_namespace: &Namespace) {
        match Survey::of_yaml(text, default_namespace) {
            Ok(survey) => {
                survey.errors.into_iter().for_each(|error| self.refuse(None, Some(file), error));
                survey.found.into_iter().for_each(|found| self.add(found, Some(file), default_namespace));
            }
            Err(error) => self.refuse(None, Some(file), error),
        }
    }

    /// Adds a document that the mesh holds, as JSON. From then on nothing is supposed of the mesh.
    pub fn add_stored(&mut self, json: &str) {
        self.is_mesh = true;
        match Survey::of_json(json) {
            Ok(survey) => {
                survey.found.into_iter().for_each(|found| self.add(found, None, &Namespace::default_namespace()));
            }
            Err(error) => self.refuse(None, None, error),
        }
    }

    /// Adds an endpoint that a node announces: its service with the service's port and what is spoken there, and its
    /// labels. From then on nothing is supposed of the mesh.
    pub fn add_announced(
        &mut self,
        node: &str,
        service: ServiceName,
        (port, protocol): (u16, Protocol),
        labels: BTreeMap<String, String>,
    ) {
        self.is_mesh = true;
        let announced = self.announced.entry(service).or_default();
        announced.ports.insert(port);
        // What nobody declared is found out, and contradicts nothing.
        if protocol != Protocol::Auto {
            let nodes = announced.spoken.entry(port).or_default().entry(protocol).or_default();
            nodes.insert(node.to_owned());
        }
        announced.endpoints.push(labels);
    }

    /// Adds a node, which serves the Gateways that select its labels. From then on nothing is supposed of the mesh.
    pub fn add_node(&mut self, name: String, labels: BTreeMap<String, String>) {
        self.is_mesh = true;
        self.nodes.push((name, labels));
    }

    fn refuse(&mut self, about: Option<DocumentKey>, file: Option<&str>, error: DocumentError) {
        let DocumentError { at, document, path, problem } = error;
        let text = match (&about, document, path.is_empty()) {
            (None, Some(document), true) => format!("{document}: {problem}"),
            (None, Some(document), false) => format!("{document}: {path}: {problem}"),
            (_, _, true) => problem.to_string(),
            (_, _, false) => format!("{path}: {problem}"),
        };
        let (code, file) = (Code::SchemaValidationError, file.map(str::to_owned));
        self.refused.push(Message { code, about, path, file, at, text });
    }

    fn add(&mut self, found: Found, file: Option<&str>, default_namespace: &Namespace) {
        let is_outside = found.is_outside();
        let Found { group, kind, tree, document, errors, notices } = found;
        let is_host = is_outside && kind == "Node";
        let (key, labels, annotations, content) = match document {
            Some(read) => {
                let content = read.spec.map_or(Content::Nothing, Content::Spec);
                (Some(read.header.key), read.header.labels, read.header.annotations, content)
            }
            None => {
                let content = match (is_outside, is_host) {
                    (true, true) => Content::Host,
                    (true, false) => Content::Workload,
                    (false, _) => Content::Nothing,
                };
                let key = unread_key(group, kind, &tree, (!is_host).then_some(default_namespace));
                (key, texts(&tree, &["metadata", "labels"]), texts(&tree, &["metadata", "annotations"]), content)
            }
        };
        errors.into_iter().for_each(|error| self.refuse(key.clone(), file, error));
        for Notice { at, text } in notices {
            // The message itself says which document it is about.
            let title = key.as_ref().map(|key| format!("{} {}: ", key.kind, key.name)).unwrap_or_default();
            let text = text.strip_prefix(&title).map_or(text.clone(), str::to_owned);
            let (code, about, file) = (Code::SchemaWarning, key.clone(), file.map(str::to_owned));
            self.refused.push(Message { code, about, path: String::new(), file, at, text });
        }
        let Some(key) = key else { return };
        let subject = Subject { key: key.clone(), labels, annotations, content, tree, file: file.map(str::to_owned) };
        if let Some(replaced) = self.subjects.insert(key.clone(), subject) {
            match (&replaced.file, file) {
                (Some(before), Some(file)) if before == file => {
                    let twice = DocumentError::new(Problem::Invalid("stands twice in this file".into()));
                    self.refuse(Some(key), Some(file), twice.located(replaced.tree.at));
                }
                // What was said of the document that is replaced holds no more.
                _ => self
                    .refused
                    .retain(|message| message.about.as_ref() != Some(&key) || message.file.as_deref() == file),
            }
        }
    }
}

/// The key of what is no document of the mesh, or none that can be read; without a default namespace it has none.
fn unread_key(group: String, kind: String, tree: &Node, default_namespace: Option<&Namespace>) -> Option<DocumentKey> {
    let metadata = tree.get("metadata")?;
    let name = metadata.get("name").or_else(|| metadata.get("generateName"))?.text()?.to_owned();
    let given = metadata.get("namespace").and_then(Node::text).and_then(|text| text.parse().ok());
    let namespace = default_namespace.map(|default| given.unwrap_or_else(|| default.clone()));
    Some(DocumentKey { group, kind, namespace, name })
}

/// What stands in a tree at these keys.
pub(super) fn inside<'n>(tree: &'n Node, keys: &[&str]) -> Option<&'n Node> {
    keys.iter().try_fold(tree, |node, key| node.get(key))
}

/// A map of texts in a tree; what is no text is left out.
pub(super) fn texts(tree: &Node, keys: &[&str]) -> BTreeMap<String, String> {
    let Some(Node { value: Value::Map(entries), .. }) = inside(tree, keys) else { return BTreeMap::new() };
    let text = |node: &Node| match &node.value {
        Value::Text(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Integer(value) => Some(value.to_string()),
        _ => None,
    };
    entries.iter().filter_map(|entry| Some((entry.key.clone(), text(&entry.node)?))).collect()
}
