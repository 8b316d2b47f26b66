//! `headers`: what a rule removes, sets and adds in requests and responses. Envoy's order: removals, then `set`, then
//! `add`; all values are worked out after the removals and before anything else changes.

pub(crate) mod variable;

use std::{net::SocketAddr, time::SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};

use self::variable::Part;
pub(crate) use self::variable::TemplateError;

/// The header operations of a rule or of a destination.
#[derive(Debug, Default, PartialEq)]
pub struct HeaderRules {
    pub request: HeaderOperations,
    pub response: HeaderOperations,
}

#[derive(Debug, Default, PartialEq)]
pub struct HeaderOperations {
    remove: Vec<HeaderName>,
    put: Vec<(HeaderName, Template, Put)>,
    has_variables: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Put {
    Set,
    Add,
}

/// What values may speak of, beside the headers that are changed.
#[derive(Clone, Copy, Debug)]
pub struct HeaderContext<'a> {
    pub method: &'a Method,
    pub path_and_query: &'a str,
    pub authority: &'a str,
    pub protocol: Version,
    /// The caller's end of its connection, and ours.
    pub remote: SocketAddr,
    pub local: SocketAddr,
    /// When the request came, and the time now.
    pub started: SystemTime,
    pub now: SystemTime,
    /// This node's name.
    pub node: &'a str,
    pub route: &'a str,
    pub cluster: Option<&'a str>,
    /// Bytes of the request's body.
    pub received: u64,
    /// `None` where the headers of a request are changed.
    pub response: Option<ResponseContext<'a>>,
}

/// What values in headers of a response may speak of besides.
#[derive(Clone, Copy, Debug)]
pub struct ResponseContext<'a> {
    /// The headers of the request, as they were sent on.
    pub request: &'a HeaderMap,
    pub status: StatusCode,
    /// The protocol in which it came, if it came from an endpoint.
    pub protocol: Option<Version>,
    /// The endpoint of the last try.
    pub endpoint: Option<SocketAddr>,
    pub attempts: u32,
    /// As in the access log: response flags, code details, and why an endpoint could not be asked.
    pub flags: &'a str,
    pub details: &'a str,
    pub failure: Option<&'a str>,
}

impl HeaderRules {
    /// These and then others, as one.
    pub(crate) fn joined(self, others: Self) -> Self {
        Self { request: self.request.joined(others.request), response: self.response.joined(others.response) }
    }
}

impl HeaderOperations {
    pub(crate) fn new(remove: Vec<HeaderName>, put: Vec<(HeaderName, Template, Put)>) -> Self {
        let has_variables = put.iter().any(|(_, template, _)| matches!(template, Template::Parts(_)));
        Self { remove, put, has_variables }
    }

    fn joined(mut self, others: Self) -> Self {
        self.remove.extend(others.remove);
        self.put.extend(others.put);
        // Stable: of each kind, these come first.
        self.put.sort_by_key(|(_, _, put)| *put);
        self.has_variables |= others.has_variables;
        self
    }

    /// Whether any value has to be worked out.
    pub fn has_variables(&self) -> bool {
        self.has_variables
    }

    /// Changes `headers`. A value that comes out empty is left out, as by Envoy. `context` is only asked for where a
    /// value has to be worked out.
    pub fn apply<'a>(&self, headers: &mut HeaderMap, context: impl FnOnce() -> HeaderContext<'a>) {
        for name in &self.remove {
            headers.remove(name);
        }
        if !self.has_variables {
            for (name, template, kind) in &self.put {
                if let Template::Fixed(value) = template {
                    put(headers, name, value.clone(), *kind);
                }
            }
            return;
        }
        let context = context();
        let values: Vec<Option<HeaderValue>> =
            self.put.iter().map(|(_, template, _)| template.value(headers, &context)).collect();
        for ((name, _, kind), value) in self.put.iter().zip(values) {
            if let Some(value) = value {
                put(headers, name, value, *kind);
            }
        }
    }
}

fn put(headers: &mut HeaderMap, name: &HeaderName, value: HeaderValue, kind: Put) {
    match kind {
        _ if value.is_empty() => {}
        Put::Set => {
            headers.insert(name, value);
        }
        Put::Add => {
            headers.append(name, value);
        }
    }
}

/// Headers that belong to one connection, or frame its messages: no document changes them.
pub(crate) fn is_of_connection(name: &HeaderName) -> bool {
    [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ]
    .contains(name)
}

/// A header's value, with Envoy's command operators such as `%PROTOCOL%` in it.
#[derive(Debug, PartialEq)]
pub(crate) enum Template {
    Fixed(HeaderValue),
    Parts(Vec<Part>),
}

impl Template {
    pub(crate) fn read(text: &str) -> Result<Self, TemplateError> {
        let malformed = |what: String| Err(TemplateError::Malformed(what));
        if HeaderValue::from_str(text).is_err() {
            return malformed(format!("{text:?} is not a header's value"));
        }
        let mut parts: Vec<Part> = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            push_text(&mut parts, before);
            if let Some(after) = after.strip_prefix('%') {
                push_text(&mut parts, "%");
                rest = after;
                continue;
            }
            let Some((part, after)) = Part::read(after)? else {
                return malformed(format!("{text:?} has a % alone: write %% for one"));
            };
            parts.push(part);
            rest = after;
        }
        push_text(&mut parts, rest);
        match parts.as_slice() {
            [] => Ok(Self::Fixed(HeaderValue::from_static(""))),
            [Part::Text(text)] => match HeaderValue::from_str(text) {
                Ok(value) => Ok(Self::Fixed(value)),
                Err(_) => malformed(format!("{text:?} is not a header's value")),
            },
            _ => Ok(Self::Parts(parts)),
        }
    }

    /// `None` if it is no header's value.
    fn value(&self, headers: &HeaderMap, context: &HeaderContext<'_>) -> Option<HeaderValue> {
        match self {
            Self::Fixed(value) => Some(value.clone()),
            Self::Parts(parts) => {
                let mut text = Vec::new();
                for part in parts {
                    part.write(headers, context, &mut text);
                }
                HeaderValue::from_bytes(&text).ok()
            }
        }
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(known)) => known.push_str(text),
        _ => parts.push(Part::Text(text.to_owned())),
    }
}

#[cfg(test)]
pub(crate) mod tests;
