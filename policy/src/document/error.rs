//! Why a document is refused.

use std::fmt;

use crate::kinds;

/// Why a document is refused, and where. Prints as `line 14: VirtualService reviews: spec.…`; see
/// [`DocumentError::in_file`] for the form with the file's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentError {
    /// Counted from 1; 0 where it is not known.
    pub line: u64,
    /// Kind and name, such as `VirtualService reviews`, once they were read.
    pub document: Option<String>,
    pub problem: Problem,
}

/// What is wrong. Paths are those of the fields, such as `spec.http[0].timeout`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("{0}")]
    Syntax(String),
    #[error(
        "{path} is not supported by this version of weft;{} supported here: {}",
        did_you_mean(*nearest),
        list(supported)
    )]
    UnknownField { path: String, nearest: Option<&'static str>, supported: &'static [&'static str] },
    #[error(
        "{kind} ({api_version}) is not supported by this version of weft;{} supported here: {}",
        did_you_mean(*nearest),
        supported_kinds()
    )]
    UnknownKind { kind: String, api_version: String, nearest: Option<&'static str> },
    #[error("{path} is missing")]
    Missing { path: String },
    #[error("{path} is {found}; it must be {wanted}")]
    WrongType { path: String, found: &'static str, wanted: &'static str },
    #[error("{}{what}", prefix(path))]
    Invalid { path: String, what: String },
    #[error("{what} is larger than the limit of {limit}")]
    TooLarge { what: &'static str, limit: String },
}

fn did_you_mean(nearest: Option<&'static str>) -> String {
    nearest.map_or(String::new(), |nearest| format!(" did you mean {nearest}?"))
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "nothing".into() } else { names.join(", ") }
}

fn supported_kinds() -> String {
    let name = |kind: &kinds::Kind| format!("{} ({})", kind.kind, kind.api_versions().collect::<Vec<_>>().join(", "));
    kinds::kinds().iter().map(name).collect::<Vec<_>>().join(", ")
}

fn prefix(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}: ") }
}

impl DocumentError {
    pub(crate) fn at(line: u64, problem: Problem) -> Self {
        Self { line, document: None, problem }
    }

    /// Says which document it is about, unless that is known already.
    pub(crate) fn of_document(mut self, document: &str) -> Self {
        self.document.get_or_insert_with(|| document.to_owned());
        self
    }

    /// Prints as `bookinfo.yaml:14: VirtualService reviews: spec.…`.
    pub fn in_file<'a>(&'a self, file: &'a str) -> impl fmt::Display + 'a {
        InFile { error: self, file }
    }

    fn fmt_after_place(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(document) = &self.document {
            write!(f, "{document}: ")?;
        }
        write!(f, "{}", self.problem)
    }
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        self.fmt_after_place(f)
    }
}

impl std::error::Error for DocumentError {}

struct InFile<'a> {
    error: &'a DocumentError,
    file: &'a str,
}

impl fmt::Display for InFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.error.line {
            0 => write!(f, "{}: ", self.file)?,
            line => write!(f, "{}:{line}: ", self.file)?,
        }
        self.error.fmt_after_place(f)
    }
}
