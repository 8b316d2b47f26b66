//! Documents read as far as they can be, for analysis: what is wrong with one does not hide it from the others.

use weft_wire::id::Namespace;

use super::{
    DocumentError, Notice, Problem,
    file::documents_in,
    header::{Header, TypeName},
    read_spec, steps_of,
    tree::{Node, Step, read_json},
};
use crate::kinds::{Spec, is_workload};

/// Most errors of one document that are told: each costs another reading.
const MAX_ERRORS: usize = 16;

/// What stands in a file.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) found: Vec<Found>,
    /// Of what is no document.
    pub(crate) errors: Vec<DocumentError>,
}

/// One document.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) group: String,
    pub(crate) kind: String,
    pub(crate) tree: Node,
    /// `None` if its header cannot be read, or it is of a kind that describes hosts or processes.
    pub(crate) document: Option<Read>,
    pub(crate) errors: Vec<DocumentError>,
    pub(crate) notices: Vec<Notice>,
}

/// A document of a kind that weft knows.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) header: Header,
    /// What it says, without the fields that are wrong; `None` if nothing is left.
    pub(crate) spec: Option<Spec>,
}

impl Survey {
    /// Reads a file.
    ///
    /// # Errors
    /// If the file as a whole cannot be read.
    pub(crate) fn of_yaml(text: &str, default_namespace: &Namespace) -> Result<Self, DocumentError> {
        let (nodes, errors) = documents_in(text)?;
        Ok(Self { found: nodes.into_iter().map(|node| Found::read(node, default_namespace)).collect(), errors })
    }

    /// Reads one document that the mesh has.
    ///
    /// # Errors
    /// If it is no JSON.
    pub(crate) fn of_json(text: &str) -> Result<Self, DocumentError> {
        let found = Found::read(read_json(text)?, &Namespace::default_namespace());
        Ok(Self { found: vec![found], errors: Vec::new() })
    }
}

impl Found {
    fn read(tree: Node, default_namespace: &Namespace) -> Self {
        let mut found = Self {
            group: String::new(),
            kind: String::new(),
            tree,
            document: None,
            errors: Vec::new(),
            notices: Vec::new(),
        };
        match TypeName::read(&found.tree) {
            Ok(name) => (found.group, found.kind) = (name.group().to_owned(), name.kind),
            Err(error) => {
                found.errors.push(error);
                return found;
            }
        }
        if found.is_outside() {
            return found;
        }
        match Header::read(&found.tree, Some(default_namespace)) {
            Ok(header) => {
                let spec = found.read_spec(&header);
                found.document = Some(Read { header, spec });
            }
            Err(error) => found.errors.push(error),
        }
        found
    }

    /// Whether it is no document of the mesh, but says which processes run, or on which hosts.
    pub(crate) fn is_outside(&self) -> bool {
        is_workload(&self.group, &self.kind) || (self.group.is_empty() && self.kind == "Node")
    }

    fn read_spec(&mut self, header: &Header) -> Option<Spec> {
        let (spec, errors, notices) = read_what_is_right(header, &self.tree);
        self.errors.extend(errors);
        self.notices.extend(notices);
        spec
    }
}

/// Leaves out what is wrong until the rest can be read; with all that is wrong, or as much as one wants to hear of, but
/// not what follows from what was left out.
pub(super) fn read_what_is_right(header: &Header, tree: &Node) -> (Option<Spec>, Vec<DocumentError>, Vec<Notice>) {
    let (mut rest, mut errors, mut left_out) = (tree.clone(), Vec::new(), Vec::<Vec<Step>>::new());
    // Each wrong field costs a reading, and another where what held it needs it.
    for _ in 0..2 * MAX_ERRORS {
        let error = match read_spec(header, &rest) {
            Ok((spec, findings)) => {
                if errors.is_empty() {
                    // Otherwise they may follow from what was left out.
                    errors = findings.errors;
                }
                return (Some(spec), errors, findings.notices);
            }
            Err(error) => error,
        };
        let mut path = steps_of(&error.path);
        let follows = left_out.iter().any(|gone| gone.starts_with(&path) || path.starts_with(gone));
        if error.problem == Problem::Missing {
            // What lacks a field is left out whole.
            path.pop();
        }
        path.truncate(rest.reach(&path));
        if !follows {
            errors.push(error);
        }
        if errors.len() == MAX_ERRORS || !rest.remove(&path) {
            break;
        }
        if let Some(Step::Item(_)) = path.last() {
            // The items after it have other numbers now.
            path.pop();
        }
        left_out.push(path);
    }
    (None, errors, Vec::new())
}
