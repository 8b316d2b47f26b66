//! Why a document is refused.

use std::fmt;

use serde::de::{self, Expected, Unexpected};

use super::tree::{Position, Step};
use crate::kinds::nearest;

/// Why a document is refused, and where. Prints as `14:9: VirtualService reviews: spec.…`; see
/// [`DocumentError::in_file`] for the form with the file's name.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentError {
    pub at: Position,
    /// Kind and name, such as `VirtualService reviews`, once they were read.
    pub document: Option<String>,
    /// Of the field, such as `spec.http[0].timeout`; empty where it is about the whole document.
    pub path: String,
    pub problem: Problem,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Problem {
    #[error("{0}")]
    Syntax(String),
    #[error("is not a field that weft knows here;{} it knows {}", did_you_mean(*nearest), list(known))]
    UnknownField { nearest: Option<&'static str>, known: &'static [&'static str] },
    #[error(
        "{type_name} is not a kind that weft knows;{} `weft schema` lists those",
        did_you_mean(*nearest)
    )]
    UnknownKind { type_name: String, nearest: Option<&'static str> },
    #[error("{type_name} is no version that weft knows; it must be one of {}", list(known))]
    UnknownVersion { type_name: String, known: &'static [&'static str] },
    #[error("{kind} is not supported: {instead}")]
    UnsupportedKind { kind: String, instead: &'static str },
    #[error("holds the content of a {kind}, which is never stored in the clear: `weft apply` seals it")]
    Unsealed { kind: &'static str },
    #[error("is a {kind} without its content, as `weft get` prints it: apply the file with its data")]
    Sealed { kind: &'static str },
    #[error("is missing")]
    Missing,
    #[error("{0}")]
    Invalid(String),
    #[error("{what} is larger than the limit of {limit}")]
    TooLarge { what: &'static str, limit: String },
}

fn did_you_mean(nearest: Option<&'static str>) -> String {
    nearest.map_or(String::new(), |nearest| format!(" did you mean {nearest}?"))
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

impl DocumentError {
    pub(crate) fn new(problem: Problem) -> Self {
        Self { at: Position::default(), document: None, path: String::new(), problem }
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::new(Problem::Invalid(what.into()))
    }

    /// Says where it stands, unless a closer place is known already.
    pub(crate) fn located(mut self, at: Position) -> Self {
        if self.at == Position::default() {
            self.at = at;
        }
        self
    }

    /// Says which document it is about, unless that is known already.
    pub(crate) fn of_document(mut self, document: &str) -> Self {
        self.document.get_or_insert_with(|| document.to_owned());
        self
    }

    /// Moves it down into a field: `path` becomes `key.path`.
    pub(crate) fn inside_key(mut self, key: &str) -> Self {
        let mut path = String::new();
        push_key(&mut path, key);
        self.prepend(path);
        self
    }

    /// Moves it down into a list's item.
    pub(crate) fn inside_item(mut self, index: usize) -> Self {
        self.prepend(format!("[{index}]"));
        self
    }

    fn prepend(&mut self, mut path: String) {
        if !self.path.is_empty() && !self.path.starts_with('[') {
            path.push('.');
        }
        path.push_str(&self.path);
        self.path = path;
    }

    /// Prints as `bookinfo.yaml:14:9: VirtualService reviews: spec.…`.
    pub fn in_file<'a>(&'a self, file: &'a str) -> impl fmt::Display + 'a {
        InFile { error: self, file }
    }

    fn fmt_after_place(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(document) = &self.document {
            write!(f, "{document}: ")?;
        }
        match (&self.problem, self.path.is_empty()) {
            (problem, true) => write!(f, "{problem}"),
            (problem @ (Problem::UnknownField { .. } | Problem::Missing), false) => {
                write!(f, "{} {problem}", self.path)
            }
            (problem, false) => write!(f, "{}: {problem}", self.path),
        }
    }
}

/// Appends a map's key to a path; keys that are no plain words are quoted, such as `labels["a.b/c"]`.
pub(crate) fn push_key(path: &mut String, key: &str) {
    let is_word = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if is_word {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
    } else {
        path.push_str(&format!("[{key:?}]"));
    }
}

/// The steps of a path, as [`push_key`] and items wrote it.
pub(crate) fn steps_of(path: &str) -> Vec<Step> {
    let (mut steps, mut rest) = (Vec::new(), path);
    while !rest.is_empty() {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let Some((key, after)) = quoted.split_once("\"]") else { break };
            steps.push(Step::Key(key.to_owned()));
            rest = after;
        } else if let Some(item) = rest.strip_prefix('[') {
            let Some((index, after)) = item.split_once(']') else { break };
            let Ok(index) = index.parse() else { break };
            steps.push(Step::Item(index));
            rest = after;
        } else {
            let (key, after) = rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len()));
            if key.is_empty() {
                break;
            }
            steps.push(Step::Key(key.to_owned()));
            rest = after;
        }
    }
    steps
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.at != Position::default() {
            write!(f, "{}: ", self.at)?;
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
        match self.error.at == Position::default() {
            true => write!(f, "{}: ", self.file)?,
            false => write!(f, "{}:{}: ", self.file, self.error.at)?,
        }
        self.error.fmt_after_place(f)
    }
}

/// What serde says of a value becomes what the user is told.
impl de::Error for DocumentError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::invalid(message.to_string())
    }
    fn invalid_type(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::invalid(format!("is {}; it must be {wanted}", Found(found)))
    }
    fn invalid_value(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::invalid(format!("is {}; it must be {wanted}", Found(found)))
    }
    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Self {
        Self::invalid(format!("is {found:?};{} it must be one of {}", did_you_mean(nearest(found, known)), list(known)))
    }
    fn unknown_field(found: &str, known: &'static [&'static str]) -> Self {
        Self::new(Problem::UnknownField { nearest: nearest(found, known), known })
    }
    fn missing_field(field: &'static str) -> Self {
        Self::new(Problem::Missing).inside_key(field)
    }
}

/// A value that was found, in the words of those who write documents.
struct Found<'a>(Unexpected<'a>);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Unexpected::Unit => f.write_str("nothing"),
            Unexpected::Bool(value) => write!(f, "the boolean {value}"),
            Unexpected::Signed(value) => write!(f, "the number {value}"),
            Unexpected::Float(value) => write!(f, "the number {value}"),
            Unexpected::Str(text) => write!(f, "the text {text:?}"),
            Unexpected::Seq => f.write_str("a list"),
            Unexpected::Map => f.write_str("a map"),
            other => write!(f, "{other}"),
        }
    }
}
