//! What documents say that is wrong, or that taken together cannot be meant: in the codes of `istioctl analyze`, with
//! its severities and its meaning. Codes about Kubernetes itself are left out.
//!
//! An [`Input`] takes files as they are, also those that would be refused, and what a mesh holds; [`Input::analyze`]
//! tells what it finds. A file of rules: [`reachability`], [`virtual_service`], [`destination_rule`], [`gateway`],
//! [`service`], [`selector`], [`metadata`]. They ask [`mesh`] for what there is.

mod code;
mod destination_rule;
mod gateway;
mod host;
mod input;
mod mesh;
mod metadata;
mod reachability;
mod selector;
mod service;
#[cfg(test)]
mod tests;
mod virtual_service;

use std::fmt;

use weft_wire::{document::DocumentKey, id::ServiceName};

pub use self::{
    code::{Code, Severity},
    input::Input,
};
use self::{input::Subject, mesh::Mesh};
use crate::document::{Position, steps_of};

/// Something that an author should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub code: Code,
    /// What it is about; `None` where a file cannot be read so far.
    pub about: Option<DocumentKey>,
    /// Of the field, such as `spec.http[0].route[0].destination.host`; empty where it is about the whole document.
    pub path: String,
    /// The file it stands in; `None` for what the mesh holds.
    pub file: Option<String>,
    /// Zero where it stands in no file.
    pub at: Position,
    pub text: String,
}

impl Message {
    /// Such as `VirtualService default/reviews`; empty where the file cannot be read so far.
    pub fn origin(&self) -> String {
        self.about.as_ref().map(DocumentKey::to_string).unwrap_or_default()
    }

    /// Such as `reviews.yaml:12:9`; empty for what the mesh holds.
    pub fn reference(&self) -> String {
        match &self.file {
            Some(file) if self.at == Position::default() => file.clone(),
            Some(file) => format!("{file}:{}", self.at),
            None => String::new(),
        }
    }
}

/// Prints as `Error [IST0101] (VirtualService default/reviews reviews.yaml:12:9) …`.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.code.severity(), self.code.id())?;
        let place = [self.origin(), self.reference()];
        let place: Vec<&str> = place.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
        if !place.is_empty() {
            write!(f, " ({})", place.join(" "))?;
        }
        write!(f, " {}", self.text)
    }
}

/// An annotation that lists codes, or `*`, which its author does not want to hear.
const SUPPRESS_ANNOTATION: &str = "galley.istio.io/analyze-suppress";

/// Collects messages.
#[derive(Debug, Default)]
struct Report {
    messages: Vec<Message>,
}

impl Report {
    fn add(&mut self, code: Code, subject: &Subject, path: &str, text: String) {
        let suppressed = subject.annotations.get(SUPPRESS_ANNOTATION).is_some_and(|codes| {
            codes.split(',').map(str::trim).any(|suppressed| suppressed == "*" || suppressed == code.id())
        });
        if suppressed {
            return;
        }
        let place = if path.is_empty() { "metadata.name" } else { path };
        self.messages.push(Message {
            code,
            about: Some(subject.key.clone()),
            path: path.to_owned(),
            file: subject.file.clone(),
            at: subject.tree.position(&steps_of(place)),
            text,
        });
    }

    /// Tells something of a service as nodes announce it, which a document may describe.
    fn add_announced(&mut self, code: Code, service: &ServiceName, subject: Option<&Subject>, text: String) {
        if let Some(subject) = subject {
            return self.add(code, subject, "", text);
        }
        let key = DocumentKey {
            group: String::new(),
            kind: "Service".into(),
            namespace: Some(service.namespace.clone()),
            name: service.name.to_string(),
        };
        let about = Some(key);
        self.messages.push(Message { code, about, path: String::new(), file: None, at: Position::default(), text });
    }
}

impl Input {
    /// Tells what is wrong, the worst first. `now` is in seconds since 1970: certificates end.
    pub fn analyze(&self, now: i64) -> Vec<Message> {
        let mesh = Mesh::of(self);
        let mut report = Report { messages: self.refused.clone() };
        reachability::analyze(&mesh, &mut report);
        virtual_service::analyze(&mesh, &mut report);
        destination_rule::analyze(&mesh, &mut report);
        gateway::analyze(&mesh, now, &mut report);
        service::analyze(self, &mesh, &mut report);
        selector::analyze(&mesh, &mut report);
        metadata::analyze(self, &mesh, &mut report);
        let mut messages = report.messages;
        messages.sort_by(|a, b| {
            let key = |message: &Message| (std::cmp::Reverse(message.code.severity()), message.code);
            (key(a), &a.about, &a.file, a.at, &a.path, &a.text).cmp(&(
                key(b),
                &b.about,
                &b.file,
                b.at,
                &b.path,
                &b.text,
            ))
        });
        messages.dedup();
        messages
    }
}
