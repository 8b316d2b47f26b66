//! `headers`: what a rule removes, sets and adds in requests and responses. Envoy's order: removals, then `set`, then
//! `add`; all values are worked out before anything changes.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};

/// The header operations of a rule or of a destination.
#[derive(Debug, Default, PartialEq)]
pub struct HeaderRules {
    pub request: HeaderOperations,
    pub response: HeaderOperations,
}

#[derive(Debug, Default, PartialEq)]
pub struct HeaderOperations {
    pub(crate) remove: Vec<HeaderName>,
    pub(crate) put: Vec<(HeaderName, Template, Put)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Put {
    Set,
    Add,
}

/// What values may speak of.
#[derive(Clone, Copy, Debug)]
pub struct HeaderContext<'a> {
    /// The headers of the request, as it came.
    pub request: &'a HeaderMap,
    pub protocol: Version,
    /// The caller's end of its connection, and ours.
    pub remote: SocketAddr,
    pub local: SocketAddr,
}

impl HeaderRules {
    /// These and then others, as one.
    pub(crate) fn joined(self, others: Self) -> Self {
        Self { request: self.request.joined(others.request), response: self.response.joined(others.response) }
    }
}

impl HeaderOperations {
    fn joined(mut self, others: Self) -> Self {
        self.remove.extend(others.remove);
        self.put.extend(others.put);
        // Stable: of each kind, these come first.
        self.put.sort_by_key(|(_, _, put)| *put);
        self
    }

    /// Whether any value has to be worked out.
    pub fn is_fixed(&self) -> bool {
        self.put.iter().all(|(_, template, _)| matches!(template, Template::Fixed(_)))
    }

    /// Changes `headers`. A value that comes out empty is left out, as by Envoy.
    pub fn apply(&self, headers: &mut HeaderMap, context: &HeaderContext<'_>) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, template, put) in &self.put {
            match (template.value(context), put) {
                (None, _) => {}
                (Some(value), Put::Set) => {
                    headers.insert(name, value);
                }
                (Some(value), Put::Add) => {
                    headers.append(name, value);
                }
            }
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

#[derive(Debug, PartialEq)]
pub(crate) enum Part {
    Text(String),
    /// A header of the request; of two the first that is there.
    Request(HeaderName, Option<HeaderName>),
    Protocol,
    Remote,
    RemoteWithoutPort,
    Local,
    LocalWithoutPort,
    LocalPort,
}

/// Why a value cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TemplateError {
    Malformed(String),
    /// An operator of Envoy's that weft does not have.
    NotYet,
}

/// Envoy's operators that weft does not have
/// (<https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage>).
const NOT_YET: [&str; 40] = [
    "BYTES_RECEIVED",
    "BYTES_SENT",
    "CONNECTION_ID",
    "CONNECTION_TERMINATION_DETAILS",
    "COALESCE",
    "CUSTOM_FLAGS",
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_DNS_SAN",
    "DOWNSTREAM_LOCAL_SUBJECT",
    "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_PEER_CERT",
    "DOWNSTREAM_PEER_CERT_V_END",
    "DOWNSTREAM_PEER_CERT_V_START",
    "DOWNSTREAM_PEER_FINGERPRINT_1",
    "DOWNSTREAM_PEER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_ISSUER",
    "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_PEER_SUBJECT",
    "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_REMOTE_PORT",
    "DOWNSTREAM_TLS_CIPHER",
    "DOWNSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_TLS_VERSION",
    "DURATION",
    "DYNAMIC_METADATA",
    "ENVIRONMENT",
    "FILTER_STATE",
    "HOSTNAME",
    "PER_REQUEST_STATE",
    "REQUESTED_SERVER_NAME",
    "RESP",
    "RESPONSE_CODE",
    "RESPONSE_CODE_DETAILS",
    "RESPONSE_FLAGS",
    "START_TIME",
    "UPSTREAM_HOST",
    "UPSTREAM_METADATA",
    "UPSTREAM_REMOTE_ADDRESS",
];

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
            let Some((operator, after)) = after.split_once('%') else {
                return malformed(format!("{text:?} has a % alone: write %% for one"));
            };
            match operator {
                "" => push_text(&mut parts, "%"),
                operator => parts.push(Part::read(operator)?),
            }
            rest = after;
        }
        push_text(&mut parts, rest);
        if let [Part::Text(text)] = parts.as_slice()
            && let Ok(value) = HeaderValue::from_str(text)
        {
            return Ok(Self::Fixed(value));
        }
        Ok(Self::Parts(parts))
    }

    /// `None` if it is empty.
    fn value(&self, context: &HeaderContext<'_>) -> Option<HeaderValue> {
        let value = match self {
            Self::Fixed(value) => value.clone(),
            Self::Parts(parts) => {
                let mut text = Vec::new();
                for part in parts {
                    part.write(context, &mut text);
                }
                HeaderValue::from_bytes(&text).ok()?
            }
        };
        Some(value).filter(|value| !value.is_empty())
    }

    pub(crate) fn reads_request(&self) -> bool {
        matches!(self, Self::Parts(parts) if parts.iter().any(|part| matches!(part, Part::Request(..))))
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(known)) => known.push_str(text),
        _ => parts.push(Part::Text(text.to_owned())),
    }
}

impl Part {
    /// Reads an operator without its percent signs.
    fn read(operator: &str) -> Result<Self, TemplateError> {
        let name_end = operator.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
        let (name, argument) = operator.split_at(name_end.unwrap_or(operator.len()));
        Ok(match (name, argument) {
            ("PROTOCOL", "") => Self::Protocol,
            ("DOWNSTREAM_REMOTE_ADDRESS", "") => Self::Remote,
            ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "") => Self::RemoteWithoutPort,
            ("DOWNSTREAM_LOCAL_ADDRESS", "") => Self::Local,
            ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", "") => Self::LocalWithoutPort,
            ("DOWNSTREAM_LOCAL_PORT", "") => Self::LocalPort,
            ("REQ", argument) => {
                let names = argument.strip_prefix('(').and_then(|names| names.strip_suffix(')'));
                let Some(names) = names.filter(|names| !names.contains(':')) else {
                    return Err(TemplateError::NotYet);
                };
                let read = |name: &str| {
                    let malformed = |_| TemplateError::Malformed(format!("{name:?} is not a header's name"));
                    name.parse::<HeaderName>().map_err(malformed)
                };
                match names.split_once('?') {
                    Some((first, second)) => Self::Request(read(first)?, Some(read(second)?)),
                    None => Self::Request(read(names)?, None),
                }
            }
            (name, _) if NOT_YET.contains(&name) => return Err(TemplateError::NotYet),
            _ => return Err(TemplateError::Malformed(format!("%{operator}% is not a variable of Envoy's"))),
        })
    }

    fn write(&self, context: &HeaderContext<'_>, text: &mut Vec<u8>) {
        match self {
            Self::Text(literal) => text.extend_from_slice(literal.as_bytes()),
            Self::Request(first, second) => {
                let names = std::iter::once(first).chain(second);
                if let Some(value) = names.filter_map(|name| context.request.get(name)).next() {
                    text.extend_from_slice(value.as_bytes());
                }
            }
            Self::Protocol => {
                text.extend_from_slice(format!("{:?}", context.protocol).trim_end_matches(".0").as_bytes())
            }
            Self::Remote => text.extend_from_slice(context.remote.to_string().as_bytes()),
            Self::RemoteWithoutPort => text.extend_from_slice(context.remote.ip().to_string().as_bytes()),
            Self::Local => text.extend_from_slice(context.local.to_string().as_bytes()),
            Self::LocalWithoutPort => text.extend_from_slice(context.local.ip().to_string().as_bytes()),
            Self::LocalPort => text.extend_from_slice(context.local.port().to_string().as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(operations: &HeaderOperations, headers: &[(&'static str, &str)]) -> Vec<String> {
        let mut headers: HeaderMap =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let request: HeaderMap = [("end-user".parse().unwrap(), "jason".parse().unwrap())].into_iter().collect();
        let context = HeaderContext {
            request: &request,
            protocol: Version::HTTP_11,
            remote: "10.0.0.1:4711".parse().unwrap(),
            local: "127.0.0.1:15001".parse().unwrap(),
        };
        operations.apply(&mut headers, &context);
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    fn put(name: &'static str, text: &str, put: Put) -> (HeaderName, Template, Put) {
        (HeaderName::from_static(name), Template::read(text).unwrap(), put)
    }

    #[test]
    fn a_header_that_is_removed_and_added_has_the_new_value_only() {
        let operations = HeaderOperations { remove: vec!["x".parse().unwrap()], put: vec![put("x", "new", Put::Add)] };
        assert_eq!(applied(&operations, &[("x", "old")]), ["x: new"]);
    }

    #[test]
    fn set_replaces_and_add_stands_beside() {
        let operations =
            HeaderOperations { remove: Vec::new(), put: vec![put("a", "1", Put::Set), put("b", "1", Put::Add)] };
        let all = applied(&operations, &[("a", "0"), ("a", "00"), ("b", "0")]);
        assert_eq!(all, ["a: 1", "b: 0", "b: 1"]);
    }

    #[test]
    fn variables_are_replaced_and_an_empty_value_is_left_out() {
        for (text, expected) in [
            ("a%%b", "x: a%b"),
            ("%PROTOCOL%", "x: HTTP/1.1"),
            ("from %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "x: from 10.0.0.1"),
            ("%DOWNSTREAM_REMOTE_ADDRESS%", "x: 10.0.0.1:4711"),
            ("%DOWNSTREAM_LOCAL_PORT%", "x: 15001"),
            ("%REQ(end-user)%!", "x: jason!"),
            ("%REQ(None?End-User)%", "x: jason"),
        ] {
            let operations = HeaderOperations { remove: Vec::new(), put: vec![put("x", text, Put::Set)] };
            assert_eq!(applied(&operations, &[]), [expected], "{text}");
        }
        let operations = HeaderOperations { remove: Vec::new(), put: vec![put("x", "%REQ(none)%", Put::Set)] };
        assert_eq!(applied(&operations, &[("x", "old")]), ["x: old"]);
    }

    #[test]
    fn a_single_percent_and_an_unknown_variable_are_refused() {
        for text in ["abc%123", "%", "%%%", "%NOPE%", "%REQ(a b)%", "%req(a)%", "a\nb"] {
            assert!(matches!(Template::read(text), Err(TemplateError::Malformed(_))), "{text}");
        }
        for text in ["%HOSTNAME%", "%START_TIME(%s)%%", "%REQ(:path)%", "%REQ(a):3%"] {
            assert!(Template::read(text).is_err(), "{text}");
        }
    }
}
