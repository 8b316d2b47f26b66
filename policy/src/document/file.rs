//! Files as users write them: many documents, lists, and kinds that belong to others.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::IgnoredAny;
use serde_json::Value;
use weft_wire::{
    document::{DocumentKey, MAX_DOCUMENT_LEN, VersionId},
    id::Namespace,
    secret::{SecretBytes, SecretPayload},
};

use super::{
    Checker, DocumentError, MAX_DOCUMENTS, MAX_FILE_LEN, Pending, Problem, Spec,
    header::{Header, TypeName, title_of},
    read::read,
    read_spec,
    survey::read_what_is_right,
    tree::{self, Node, Position, read_yaml},
};
use crate::{
    api::core::{CONTENT, ContentHead, Secret},
    kinds,
};

/// Where kubectl keeps what was applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What a file holds.
#[derive(Debug, Default, PartialEq)]
pub struct ParsedFile {
    /// Those that are right.
    pub documents: Vec<ParsedDocument>,
    /// What is wrong with the others, in the file's order.
    pub errors: Vec<DocumentError>,
    /// What was accepted and deserves a word: warnings, and what has no effect.
    pub notices: Vec<Notice>,
}

/// One document of a file, checked, and ready to be stamped, signed and stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedDocument {
    pub key: DocumentKey,
    /// Canonical JSON: sorted keys, with its namespace, without what a Kubernetes server sets.
    pub json: String,
    /// Its `metadata.resourceVersion`: the version that it is a change of.
    pub version: Option<VersionId>,
    /// What it asks for that the data path does not do yet.
    pub pending: Vec<Pending>,
    /// The content of a Secret, which is no part of its JSON.
    pub secret: Option<BTreeMap<String, SecretBytes>>,
}

impl ParsedDocument {
    /// The JSON to sign and store, and the content that it commits to if it is a Secret. `salt` is of
    /// [`SecretPayload::SALT_LEN`] random bytes.
    ///
    /// # Errors
    /// If the JSON is not what [`parse_yaml`] makes.
    pub fn seal(&self, salt: SecretBytes) -> serde_json::Result<(String, Option<SecretPayload>)> {
        let Some(data) = &self.secret else { return Ok((self.json.clone(), None)) };
        let content = SecretPayload { salt, data: data.clone() };
        let mut json: Value = serde_json::from_str(&self.json)?;
        json[CONTENT]["digest"] = content.digest().to_string().into();
        Ok((json.to_string(), Some(content)))
    }
}

/// Something that was accepted and that its author should know, such as a Deployment in a file of many kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub at: Position,
    pub text: String,
}

/// Reads a file: one or many documents, lists of them, empty documents.
///
/// # Errors
/// If the file as a whole cannot be read: it is no YAML, or too large.
pub fn parse_yaml(text: &str, default_namespace: &Namespace) -> Result<ParsedFile, DocumentError> {
    let (nodes, errors) = documents_in(text)?;
    let mut file = ParsedFile { errors, ..ParsedFile::default() };
    let mut keys = BTreeSet::new();
    for node in nodes {
        file.read(node, default_namespace, &mut keys);
    }
    Ok(file)
}

/// The documents of a file, unread, and what cannot be one.
pub(super) fn documents_in(text: &str) -> Result<(Vec<Node>, Vec<DocumentError>), DocumentError> {
    let too_large = |what, limit| Err(DocumentError::new(Problem::TooLarge { what, limit }));
    if text.len() > MAX_FILE_LEN {
        return too_large("the file", format!("{MAX_FILE_LEN} bytes"));
    }
    let (mut nodes, mut errors) = (Vec::new(), Vec::new());
    for root in read_yaml(text)? {
        if root.value == tree::Value::Null {
            continue;
        }
        flatten(root, &mut nodes, &mut errors);
        if nodes.len() > MAX_DOCUMENTS {
            return too_large("the number of documents", format!("{MAX_DOCUMENTS} in one file"));
        }
    }
    Ok((nodes, errors))
}

/// Takes lists apart: `List`, and those of one kind, such as `ServiceList`, as a Kubernetes server answers with.
fn flatten(root: Node, nodes: &mut Vec<Node>, errors: &mut Vec<DocumentError>) {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct List {
        #[serde(rename = "apiVersion")]
        _api_version: IgnoredAny,
        #[serde(rename = "kind")]
        _kind: IgnoredAny,
        #[serde(rename = "metadata")]
        _metadata: Option<IgnoredAny>,
        #[serde(rename = "items")]
        _items: Option<Vec<IgnoredAny>>,
    }
    let list = match TypeName::read(&root) {
        Ok(type_name) if type_name.is_list() => type_name,
        Ok(_) => return nodes.push(root),
        Err(error) => return errors.push(error),
    };
    if let Err(error) = read::<List>(&root) {
        return errors.push(error);
    }
    let tree::Value::Map(entries) = root.value else { return };
    for entry in entries {
        if let (true, tree::Value::List(items)) = (entry.key == "items", entry.node.value) {
            for mut item in items {
                list.name_item(&mut item);
                flatten(item, nodes, errors);
            }
        }
    }
}

impl ParsedFile {
    /// Takes in one document.
    fn read(&mut self, mut node: Node, default_namespace: &Namespace, keys: &mut BTreeSet<DocumentKey>) {
        match read_document(&mut node, default_namespace, keys, &mut self.notices) {
            Ok(Some(document)) => self.documents.push(document),
            Ok(None) => {}
            Err(errors) => self.errors.extend(errors),
        }
    }
}

/// Reads one document; `None` if it is skipped.
fn read_document(
    node: &mut Node,
    default_namespace: &Namespace,
    keys: &mut BTreeSet<DocumentKey>,
    notices: &mut Vec<Notice>,
) -> Result<Option<ParsedDocument>, Vec<DocumentError>> {
    let one = |error: DocumentError| vec![error];
    let type_name = TypeName::read(node).map_err(one)?;
    if kinds::is_workload(type_name.group(), &type_name.kind) {
        let title = title_of(node).unwrap_or(type_name.kind);
        let text = format!("{title} skipped: workloads are declared in node.yaml or by weft run");
        notices.push(Notice { at: node.at, text });
        return Ok(None);
    }
    let header = Header::read(node, Some(default_namespace)).map_err(one)?;
    let at = node.at;
    let refuse = |problem| Err(vec![DocumentError::new(problem).located(at).of_document(&header.title())]);
    if !keys.insert(header.key.clone()) {
        return refuse(Problem::Invalid("stands twice in this file".into()));
    }
    let (spec, mut findings) = read_spec(&header, node).map_err(|_| read_what_is_right(&header, node).1)?;
    if let Spec::Secret(secret) = &spec {
        let mut checker = Checker::new(&header, node);
        secret.check_credential(&mut checker);
        findings.errors.extend(checker.findings().errors);
    }
    notices.extend(findings.notices);
    if !findings.errors.is_empty() {
        return Err(findings.errors);
    }
    header.canonicalise(node);
    let (json, secret) = match spec {
        Spec::SecretHead(_) => return refuse(Problem::Sealed { kind: header.kind.kind }),
        Spec::Secret(secret) => (head_of(&secret, node.to_json()), Some(secret.content())),
        _ => (node.to_json(), None),
    };
    let json = json.to_string();
    if json.len() > MAX_DOCUMENT_LEN {
        return refuse(Problem::TooLarge { what: "the document", limit: format!("{MAX_DOCUMENT_LEN} bytes of JSON") });
    }
    let version = header.version;
    Ok(Some(ParsedDocument { key: header.key, json, version, pending: findings.pending, secret }))
}

/// What is stored of a Secret, all but its digest.
fn head_of(secret: &Secret, mut json: Value) -> Value {
    if let Some(fields) = json.as_object_mut() {
        fields.retain(|field, _| field == "apiVersion" || field == "kind" || field == "metadata");
        fields.insert("type".into(), secret.kind().into());
        if let Some(immutable) = secret.immutable() {
            fields.insert("immutable".into(), immutable.into());
        }
        fields.insert(CONTENT.into(), serde_json::json!(ContentHead::of(secret)));
    }
    if let Some(annotations) = json.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        // kubectl keeps the whole document there, and with it the data.
        annotations.remove(LAST_APPLIED);
    }
    json
}
