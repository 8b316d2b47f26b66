//! `rewrite.uri` and `rewrite.uriRegexRewrite`: the path that goes upstream.

use regex::bytes::{Captures, Regex};

use crate::{matcher::MatchedPath, pattern, route::RequestHead};

/// How a rule changes the path. The query stays; a fragment is dropped.
#[derive(Debug, PartialEq)]
pub(crate) enum PathRewrite {
    /// Replaces what the rule's condition matched: the prefix, or for exact and regex the whole path.
    Matched(String),
    /// Replaces the whole path.
    Whole(String),
    Regex(RegexRewrite),
}

impl PathRewrite {
    /// The path and query to send. It starts with `/`, as a request needs, whatever the document says.
    pub(crate) fn apply(&self, head: &RequestHead<'_>, matched: MatchedPath) -> String {
        let path = head.path();
        let mut new = match self {
            Self::Matched(new) => format!("{new}{}", path.get(matched.0..).unwrap_or_default()),
            Self::Whole(new) => new.clone(),
            Self::Regex(rewrite) => rewrite.apply(path),
        };
        if !new.starts_with('/') {
            new.insert(0, '/');
        }
        if let Some(query) = head.query() {
            new.push('?');
            new.push_str(query);
        }
        new
    }
}

/// Replaces each match of an expression.
#[derive(Debug)]
pub(crate) struct RegexRewrite {
    regex: Regex,
    substitution: Vec<Piece>,
}

impl PartialEq for RegexRewrite {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str() && self.substitution == other.substitution
    }
}

#[derive(Debug, PartialEq)]
enum Piece {
    Text(String),
    /// The group of this number; 0 is the whole match.
    Group(usize),
}

impl RegexRewrite {
    pub(crate) fn new(pattern: &str, substitution: &str) -> Result<Self, String> {
        let regex = pattern::search(pattern)?;
        let substitution = read_substitution(substitution, regex.captures_len())?;
        Ok(Self { regex, substitution })
    }

    fn apply(&self, path: &str) -> String {
        let replaced = self.regex.replace_all(path.as_bytes(), |captures: &Captures<'_>| {
            let mut text = Vec::new();
            for piece in &self.substitution {
                match piece {
                    Piece::Text(literal) => text.extend_from_slice(literal.as_bytes()),
                    Piece::Group(group) => text.extend(captures.get(*group).map_or(&b""[..], |m| m.as_bytes())),
                }
            }
            text
        });
        String::from_utf8_lossy(&replaced).into_owned()
    }
}

/// Reads RE2's syntax: `\0` to `\9` are groups, `\\` a backslash.
fn read_substitution(text: &str, groups: usize) -> Result<Vec<Piece>, String> {
    if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Err("rewrite must be visible ASCII without '#'".into());
    }
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            literal.push(c);
            continue;
        }
        match chars.next() {
            Some('\\') => literal.push('\\'),
            Some(digit @ '0'..='9') => {
                let group = usize::from(digit as u8 - b'0');
                if group >= groups {
                    return Err(format!("rewrite names group \\{group}, but match has {} groups", groups - 1));
                }
                if !literal.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut literal)));
                }
                pieces.push(Piece::Group(group));
            }
            _ => return Err(r"rewrite may have a backslash only as \0 to \9 or \\".into()),
        }
    }
    if !literal.is_empty() {
        pieces.push(Piece::Text(literal));
    }
    Ok(pieces)
}
