//! Walks a tree strictly: whoever reads a map names all fields that it takes, and any other is refused by name.

use std::collections::BTreeMap;

use super::{
    DocumentError, Problem,
    tree::{Entry, Node, Value},
};

/// A value on its path from the document's root, such as `spec.http[0].timeout`.
#[derive(Debug, Clone)]
pub(crate) struct Field<'n> {
    pub(crate) path: String,
    pub(crate) line: u64,
    value: &'n Value,
}

/// A map whose keys were all found to be supported.
#[derive(Debug)]
pub(crate) struct Map<'n> {
    path: String,
    line: u64,
    entries: &'n [Entry],
}

impl<'n> Field<'n> {
    pub(crate) fn root(node: &'n Node) -> Self {
        Self { path: String::new(), line: node.line, value: &node.value }
    }

    /// An error at this field.
    pub(crate) fn error(&self, what: impl Into<String>) -> DocumentError {
        DocumentError::at(self.line, Problem::Invalid { path: self.path.clone(), what: what.into() })
    }

    fn wrong_type(&self, wanted: &'static str) -> DocumentError {
        let found = self.value.type_name();
        DocumentError::at(self.line, Problem::WrongType { path: self.path.clone(), found, wanted })
    }

    /// A map with no other keys than these.
    pub(crate) fn map(&self, supported: &'static [&'static str]) -> Result<Map<'n>, DocumentError> {
        let entries = self.entries()?;
        for entry in entries {
            if !supported.contains(&entry.key.as_str()) {
                let problem = Problem::UnknownField {
                    path: join(&self.path, &entry.key),
                    nearest: nearest(&entry.key, supported.iter().copied()),
                    supported,
                };
                return Err(DocumentError::at(entry.line, problem));
            }
        }
        Ok(Map { path: self.path.clone(), line: self.line, entries })
    }

    /// A map with keys of the user's own.
    pub(crate) fn entries(&self) -> Result<&'n [Entry], DocumentError> {
        match self.value {
            Value::Map(entries) => Ok(entries),
            _ => Err(self.wrong_type("a map")),
        }
    }

    /// The entry of this key, in a map with keys of the user's own.
    pub(crate) fn entry(&self, entry: &'n Entry) -> Field<'n> {
        Field { path: join(&self.path, &entry.key), line: entry.line, value: &entry.node.value }
    }

    pub(crate) fn list(&self) -> Result<Vec<Field<'n>>, DocumentError> {
        let Value::List(items) = self.value else { return Err(self.wrong_type("a list")) };
        let field = |(i, item): (usize, &'n Node)| Field {
            path: format!("{}[{i}]", self.path),
            line: item.line,
            value: &item.value,
        };
        Ok(items.iter().enumerate().map(field).collect())
    }

    pub(crate) fn text(&self) -> Result<&'n str, DocumentError> {
        match self.value {
            Value::Text(text) => Ok(text),
            _ => Err(self.wrong_type("text (quote it)")),
        }
    }

    pub(crate) fn boolean(&self) -> Result<bool, DocumentError> {
        match self.value {
            Value::Bool(value) => Ok(*value),
            _ => Err(self.wrong_type("true or false")),
        }
    }

    /// A whole number within `range`.
    pub(crate) fn integer(&self, range: std::ops::RangeInclusive<i64>) -> Result<i64, DocumentError> {
        match self.value {
            Value::Integer(value) if range.contains(value) => Ok(*value),
            Value::Integer(value) => {
                Err(self.error(format!("{value} must be from {} to {}", range.start(), range.end())))
            }
            _ => Err(self.wrong_type("a whole number")),
        }
    }

    /// A port number.
    pub(crate) fn port(&self) -> Result<u16, DocumentError> {
        // In range, so the cast keeps the value.
        self.integer(1..=i64::from(u16::MAX)).map(|port| port as u16)
    }

    /// A value that its type can read, such as a name.
    pub(crate) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(&self) -> Result<T, DocumentError> {
        self.text()?.parse().map_err(|error: T::Err| self.error(error.to_string()))
    }

    /// A map from text to text: labels, annotations, selectors.
    pub(crate) fn text_map(&self) -> Result<BTreeMap<String, String>, DocumentError> {
        self.entries()?.iter().map(|entry| Ok((entry.key.clone(), self.entry(entry).text()?.to_owned()))).collect()
    }

    pub(crate) fn is_integer(&self) -> bool {
        matches!(self.value, Value::Integer(_))
    }
}

impl<'n> Map<'n> {
    /// The field of this name; `None` if it is absent or null.
    pub(crate) fn get(&self, key: &str) -> Option<Field<'n>> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        let present = entry.node.value != Value::Null;
        present.then(|| Field { path: join(&self.path, key), line: entry.line, value: &entry.node.value })
    }

    pub(crate) fn required(&self, key: &'static str) -> Result<Field<'n>, DocumentError> {
        self.get(key).ok_or_else(|| self.missing(key))
    }

    pub(crate) fn missing(&self, key: &'static str) -> DocumentError {
        DocumentError::at(self.line, Problem::Missing { path: join(&self.path, key) })
    }

    /// The items of a list; none if the field is absent.
    pub(crate) fn list(&self, key: &str) -> Result<Vec<Field<'n>>, DocumentError> {
        self.get(key).map_or(Ok(Vec::new()), |field| field.list())
    }

    /// A map from text to text; empty if the field is absent.
    pub(crate) fn text_map(&self, key: &str) -> Result<BTreeMap<String, String>, DocumentError> {
        self.get(key).map_or(Ok(BTreeMap::new()), |field| field.text_map())
    }

    /// The names of the fields that have a value.
    pub(crate) fn present(&self) -> impl Iterator<Item = &'n str> {
        self.entries.iter().filter(|entry| entry.node.value != Value::Null).map(|entry| entry.key.as_str())
    }

    /// The one field that is given, of a map of alternatives such as exact, prefix and regex.
    pub(crate) fn only_one(&self) -> Result<Option<Field<'n>>, DocumentError> {
        let given: Vec<&str> = self.present().collect();
        match given.as_slice() {
            [] => Ok(None),
            [one] => Ok(self.get(one)),
            several => Err(self.error(format!("only one of {} may be given", several.join(", ")))),
        }
    }

    /// An error about the map as a whole.
    pub(crate) fn error(&self, what: impl Into<String>) -> DocumentError {
        DocumentError::at(self.line, Problem::Invalid { path: self.path.clone(), what: what.into() })
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The word that was probably meant: at most a third of its letters differ.
pub(crate) fn nearest(word: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    // A longer word is no misspelling of a field, and the distance is quadratic.
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    known
        .map(|candidate| (distance(&lower, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance * 3 <= candidate.len().max(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
