//! Rules between fields, beyond the type of each: a [`Checker`] walks a typed document beside its tree, so that each
//! error and warning names path and place.

use std::collections::BTreeSet;

use weft_wire::id::Namespace;

use super::{
    DocumentError, Notice, Problem,
    error::push_key,
    header::Header,
    tree::{Node, Position, Step},
};

/// Most errors, and most warnings, of one document: finding the place of each takes time.
const MAX_FINDINGS: usize = 100;

/// Collects what is wrong with one document, and what its author should hear.
#[derive(Debug)]
pub(crate) struct Checker<'n> {
    pub(crate) header: &'n Header,
    root: &'n Node,
    path: Vec<Step>,
    errors: Vec<DocumentError>,
    notices: Vec<Notice>,
    pending: Vec<Pending>,
}

/// Something that a document asks for and the data path does not do yet. It shows as `Programmed: False`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Such as `spec.http[0].fault`.
    pub path: String,
}

/// Fields that are listed in [`not_enforced`]; of more it says how many.
const LISTED: usize = 8;

/// What is not done yet, in words, such as `not enforced yet: spec.http[0].fault`; `None` if all is done.
pub fn not_enforced(pending: &[Pending]) -> Option<String> {
    if pending.is_empty() {
        return None;
    }
    let listed: Vec<&str> = pending.iter().take(LISTED).map(|pending| pending.path.as_str()).collect();
    let more = match pending.len() - listed.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!("not enforced yet: {}{more}", listed.join(", ")))
}

/// What a check found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) errors: Vec<DocumentError>,
    pub(crate) notices: Vec<Notice>,
    pub(crate) pending: Vec<Pending>,
}

impl<'n> Checker<'n> {
    pub(crate) fn new(header: &'n Header, root: &'n Node) -> Self {
        Self { header, root, path: Vec::new(), errors: Vec::new(), notices: Vec::new(), pending: Vec::new() }
    }

    pub(crate) fn findings(self) -> Findings {
        Findings { errors: self.errors, notices: self.notices, pending: self.pending }
    }

    /// The document's own namespace: what short names in it mean.
    pub(crate) fn namespace(&self) -> Namespace {
        self.header.namespace()
    }

    /// Walks into a field.
    pub(crate) fn field<R>(&mut self, key: &str, inside: impl FnOnce(&mut Self) -> R) -> R {
        self.path.push(Step::Key(key.to_owned()));
        let result = inside(self);
        self.path.pop();
        result
    }

    /// Walks into a field that may be absent.
    pub(crate) fn given<T>(&mut self, key: &str, value: &Option<T>, inside: impl FnOnce(&mut Self, &T)) {
        if let Some(value) = value {
            self.field(key, |checker| inside(checker, value));
        }
    }

    /// Walks into each item of a list.
    pub(crate) fn each<'i, T>(&mut self, key: &str, items: &'i [T], inside: impl FnMut(&mut Self, &'i T)) {
        self.field(key, |checker| checker.items(items, inside));
    }

    /// Walks into each item of the list that is here.
    pub(crate) fn items<'i, T>(&mut self, items: &'i [T], mut inside: impl FnMut(&mut Self, &'i T)) {
        for (index, item) in items.iter().enumerate() {
            self.path.push(Step::Item(index));
            inside(self, item);
            self.path.pop();
        }
    }

    /// Something wrong here. It refuses the document.
    pub(crate) fn error(&mut self, what: impl Into<String>) {
        self.refuse(DocumentError::invalid(what));
    }

    fn refuse(&mut self, error: DocumentError) {
        if self.errors.len() < MAX_FINDINGS {
            let error = DocumentError { path: self.path(), ..error };
            self.errors.push(error.located(self.position()).of_document(&self.header.title()));
        }
    }

    /// Something wrong in a field.
    pub(crate) fn error_in(&mut self, key: &str, what: impl Into<String>) {
        self.field(key, |checker| checker.error(what));
    }

    /// A field that must be there.
    pub(crate) fn require(&mut self, key: &str, present: bool) {
        if !present {
            self.field(key, |checker| checker.refuse(DocumentError::new(Problem::Missing)));
        }
    }

    /// A list or map that must not have more entries, or a text that must not have more characters.
    pub(crate) fn limit(&mut self, key: &str, len: usize, max: usize) {
        if len > max {
            self.error_in(key, format!("has a length of {len}; {max} is the most"));
        }
    }

    /// Of some fields at most one may be given: each by name and whether it is.
    pub(crate) fn at_most_one(&mut self, fields: &[(&str, bool)]) {
        let given: Vec<&str> = fields.iter().filter(|(_, present)| *present).map(|(name, _)| *name).collect();
        if given.len() > 1 {
            self.error(format!("only one of {} may be given", given.join(", ")));
        }
    }

    /// Of some fields exactly one must be given.
    pub(crate) fn exactly_one(&mut self, fields: &[(&str, bool)]) {
        self.at_most_one(fields);
        if fields.iter().all(|(_, present)| !present) {
            let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
            self.error(format!("one of {} must be given", names.join(", ")));
        }
    }

    /// No two items of a list may have the same name; `None` is no name.
    pub(crate) fn unique<'i, T, N: Ord + std::fmt::Display>(
        &mut self,
        key: &str,
        items: &'i [T],
        name_of: impl Fn(&'i T) -> Option<N>,
    ) {
        let mut seen = BTreeSet::new();
        self.field(key, |checker| {
            for (index, item) in items.iter().enumerate() {
                let Some(name) = name_of(item) else { continue };
                let what = format!("{name} is given twice");
                if !seen.insert(name) {
                    checker.path.push(Step::Item(index));
                    checker.error(what);
                    checker.path.pop();
                }
            }
        });
    }

    /// The document's `apiVersion` without its group, such as `v1`.
    pub(crate) fn version(&self) -> &'n str {
        let api_version = self.root.get("apiVersion").and_then(Node::text).unwrap_or_default();
        api_version.rsplit('/').next().unwrap_or_default()
    }

    /// Something that is accepted, and that the author should know. It refuses nothing.
    pub(crate) fn warn(&mut self, what: &str) {
        if self.notices.len() >= MAX_FINDINGS {
            return;
        }
        let text = format!("{}: {} {what}", self.header.title(), self.path());
        self.notices.push(Notice { at: self.position(), text });
    }

    pub(crate) fn warn_in(&mut self, key: &str, what: &str) {
        self.field(key, |checker| checker.warn(what));
    }

    /// A field that is right, and that the data path does not do yet.
    pub(crate) fn pending(&mut self, key: &str, given: bool) {
        if given {
            let path = self.field(key, |checker| checker.path());
            self.pending.push(Pending { path });
        }
    }

    fn path(&self) -> String {
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Key(key) => push_key(&mut path, key),
                Step::Item(index) => path.push_str(&format!("[{index}]")),
            }
        }
        path
    }

    /// Where the path's end stands, or what there is of it.
    fn position(&self) -> Position {
        self.root.position(&self.path)
    }
}
