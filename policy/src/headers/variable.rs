//! Envoy's command operators, such as `%PROTOCOL%`, in the values of headers
//! (<https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage>). What has no value, here
//! or in Envoy, is empty.

use std::{borrow::Cow, net::SocketAddr};

use http::{HeaderMap, HeaderName, Version};

use super::HeaderContext;
use crate::{
    access_log::protocol_name,
    date::{Date, DateFormat},
    normalise::decoded,
};

/// Text, or what stands for it.
#[derive(Debug, PartialEq)]
pub(crate) enum Part {
    Text(String),
    Request(Lookup),
    Response(Lookup),
    Path {
        original: Original,
        has_query: bool,
    },
    QueryParameter(String),
    Protocol,
    UpstreamProtocol,
    Address(Party, Shown),
    /// `None` is RFC 3339.
    Started(Option<DateFormat>),
    Now(Option<DateFormat>),
    /// Milliseconds since the request came.
    Duration,
    /// The same, once there is a response from an endpoint.
    UntilResponse,
    Received,
    /// What has been sent of the response's body: nothing yet.
    Sent,
    Status,
    Flags,
    Details,
    Failure,
    Attempts,
    Route,
    Cluster,
    Node,
    /// What callers in the clear do not have, and messages whose heads are changed do not have yet.
    Nothing,
}

/// Whose address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Party {
    Remote,
    Local,
    Endpoint,
    /// This end of the connection to it.
    EndpointLocal,
}

/// What of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Whole,
    Ip,
    Port,
}

/// Which path: the one that the caller asked for, the one that is sent on, or the first of these that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Original {
    Only,
    Never,
    First,
}

/// One field of a message's head, or another if there is none, and how many bytes of it.
#[derive(Debug, PartialEq)]
pub(crate) struct Lookup {
    first: Field,
    second: Option<Field>,
    limit: Option<usize>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Field {
    Header(HeaderName),
    Method,
    Path,
    Authority,
    Scheme,
    Status,
}

/// Why a value cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TemplateError {
    Malformed(String),
    /// An operator of Envoy's for what weft does not have.
    NotHere,
}

/// Operators without arguments that are about the caller's TLS, which it does not have, and about what is only known at
/// the end of an exchange.
const NOTHING: [&str; 11] = [
    "CONNECTION_TERMINATION_DETAILS",
    "DOWNSTREAM_HANDSHAKE_DURATION",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "LOCAL_REPLY_BODY",
    "REQUESTED_SERVER_NAME",
    "RESPONSE_TX_DURATION",
    "ROUNDTRIP_DURATION",
    "TLS_JA3_FINGERPRINT",
    "TLS_JA4_FINGERPRINT",
    "TRAILER",
    "VIRTUAL_CLUSTER_NAME",
];
const NOTHING_BEGINS: [&str; 3] = ["DOWNSTREAM_LOCAL_SUBJECT", "DOWNSTREAM_PEER_", "DOWNSTREAM_TLS_"];

/// Operators for what only Envoy has (state and metadata of its filters, numbers of its connections), what is not
/// counted apart (bytes on the wire, some durations, the mesh's own TLS), and what a document must not tell of a host (its environment).
const NOT_HERE: [&str; 39] = [
    "ACCESS_LOG_TYPE",
    "BYTES_RETRANSMITTED",
    "CEL",
    "CLUSTER_METADATA",
    "COALESCE",
    "COMMON_DURATION",
    "CONNECTION_ID",
    "CUSTOM_FLAGS",
    "DOWNSTREAM_DETECTED_CLOSE_TYPE",
    "DOWNSTREAM_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_HEADER_BYTES_SENT",
    "DOWNSTREAM_LOCAL_CLOSE_REASON",
    "DOWNSTREAM_WIRE_BYTES_RECEIVED",
    "DOWNSTREAM_WIRE_BYTES_SENT",
    "DYNAMIC_METADATA",
    "ENVIRONMENT",
    "FILTER_CHAIN_NAME",
    "FILTER_STATE",
    "METADATA",
    "PACKETS_RETRANSMITTED",
    "PER_REQUEST_STATE",
    "QUERY_PARAMS",
    "REQUEST_DURATION",
    "REQUEST_HEADERS_BYTES",
    "REQUEST_TX_DURATION",
    "RESPONSE_FLAGS_LONG",
    "RESPONSE_HEADERS_BYTES",
    "RESPONSE_TRAILERS_BYTES",
    "SPAN_ID",
    "START_TIME_LOCAL",
    "STREAM_ID",
    "TRACE_ID",
    "UNIQUE_ID",
    "UPSTREAM_CONNECTION_ID",
    "UPSTREAM_CONNECTION_POOL_READY_DURATION",
    "UPSTREAM_DETECTED_CLOSE_TYPE",
    "UPSTREAM_HOST_METADATA",
    "UPSTREAM_LOCAL_CLOSE_REASON",
    "UPSTREAM_METADATA",
];
const NOT_HERE_BEGINS: [&str; 7] = [
    "GRPC_STATUS",
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_",
    "UPSTREAM_HEADER_BYTES_",
    "UPSTREAM_LOCAL_",
    "UPSTREAM_PEER_",
    "UPSTREAM_TLS_",
    "UPSTREAM_WIRE_BYTES_",
];

impl Part {
    /// Reads an operator behind its first percent sign, and gives what follows it; `None` if it has no end.
    pub(super) fn read(text: &str) -> Result<Option<(Self, &str)>, TemplateError> {
        let Some((name, argument, limit, rest)) = Self::split(text) else { return Ok(None) };
        match Self::of(name, argument, limit)? {
            // Made when an endpoint is called, which is after the headers are changed.
            Self::Address(Party::EndpointLocal, _) => Err(TemplateError::NotHere),
            part => Ok(Some((part, rest))),
        }
    }

    /// The name, the argument and the length of an operator behind its first percent sign, and what follows it.
    pub(crate) fn split(text: &str) -> Option<(&str, Option<&str>, Option<usize>, &str)> {
        let name_end = text.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
        let (name, rest) = text.split_at(name_end.unwrap_or(text.len()));
        let (argument, limit, rest) = arguments(rest)?;
        Some((name, argument, limit, rest))
    }

    pub(crate) fn of(name: &str, argument: Option<&str>, limit: Option<usize>) -> Result<Self, TemplateError> {
        use {Party::*, Shown::*};
        let malformed = |what: String| Err(TemplateError::Malformed(what));
        let takes_limit = matches!(name, "REQ" | "RESP" | "TRAILER");
        if limit.is_some() && !takes_limit && !NOT_HERE.contains(&name) {
            return malformed(format!("%{name}% takes no length"));
        }
        let date = || match argument {
            None => Ok(None),
            Some(format) => DateFormat::read(format).map(Some).ok_or(TemplateError::NotHere),
        };
        Ok(match (name, argument) {
            ("REQ", Some(names)) => Self::Request(Lookup::read(names, limit)?),
            ("RESP", Some(names)) => Self::Response(Lookup::read(names, limit)?),
            ("REQ" | "RESP" | "QUERY_PARAM", None) => {
                return malformed(format!("%{name}% needs a name in parentheses"));
            }
            ("QUERY_PARAM", Some(parameter)) => Self::QueryParameter(parameter.to_owned()),
            ("PATH", argument) => path(argument.unwrap_or_default())?,
            ("START_TIME", _) => Self::Started(date()?),
            ("EMIT_TIME", _) => Self::Now(date()?),
            ("RESPONSE_CODE_DETAILS", None | Some("ALLOW_WHITESPACES")) => Self::Details,
            ("UPSTREAM_LOCAL_ADDRESS", None) => Self::Address(EndpointLocal, Whole),
            ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", None) => Self::Address(EndpointLocal, Ip),
            ("UPSTREAM_LOCAL_PORT", None) => Self::Address(EndpointLocal, Port),
            (name, _) if NOT_HERE.contains(&name) || begins(name, &NOT_HERE_BEGINS) => {
                return Err(TemplateError::NotHere);
            }
            (name, _) if NOTHING.contains(&name) || is_of_tls(name) => Self::Nothing,
            (name, Some(_)) => return malformed(format!("%{name}% takes no argument")),
            ("PROTOCOL", None) => Self::Protocol,
            ("UPSTREAM_PROTOCOL", None) => Self::UpstreamProtocol,
            ("DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS", None) => Self::Address(Remote, Whole),
            ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", None) => {
                Self::Address(Remote, Ip)
            }
            ("DOWNSTREAM_REMOTE_PORT" | "DOWNSTREAM_DIRECT_REMOTE_PORT", None) => Self::Address(Remote, Port),
            ("DOWNSTREAM_LOCAL_ADDRESS" | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS", None) => Self::Address(Local, Whole),
            ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT", None) => {
                Self::Address(Local, Ip)
            }
            ("DOWNSTREAM_LOCAL_PORT" | "DOWNSTREAM_DIRECT_LOCAL_PORT", None) => Self::Address(Local, Port),
            ("UPSTREAM_HOST" | "UPSTREAM_HOST_NAME" | "UPSTREAM_REMOTE_ADDRESS", None) => {
                Self::Address(Endpoint, Whole)
            }
            ("UPSTREAM_HOST_NAME_WITHOUT_PORT" | "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", None) => {
                Self::Address(Endpoint, Ip)
            }
            ("UPSTREAM_REMOTE_PORT", None) => Self::Address(Endpoint, Port),
            ("DURATION", None) => Self::Duration,
            ("RESPONSE_DURATION", None) => Self::UntilResponse,
            ("BYTES_RECEIVED", None) => Self::Received,
            ("BYTES_SENT", None) => Self::Sent,
            ("RESPONSE_CODE", None) => Self::Status,
            ("RESPONSE_FLAGS", None) => Self::Flags,
            ("UPSTREAM_TRANSPORT_FAILURE_REASON", None) => Self::Failure,
            ("UPSTREAM_REQUEST_ATTEMPT_COUNT", None) => Self::Attempts,
            ("ROUTE_NAME", None) => Self::Route,
            ("UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW", None) => Self::Cluster,
            ("HOSTNAME", None) => Self::Node,
            _ => return malformed(format!("%{name}% is not a variable of Envoy's")),
        })
    }

    /// Writes what it stands for in the head whose `headers` are changed.
    pub(super) fn write(&self, headers: &HeaderMap, context: &HeaderContext<'_>, text: &mut Vec<u8>) {
        let response = context.response.as_ref();
        let request = response.map_or(headers, |response| response.request);
        match self {
            Self::Text(literal) => text.extend_from_slice(literal.as_bytes()),
            Self::Request(lookup) => lookup.write(request, context, text),
            Self::Response(lookup) if response.is_some() => lookup.write(headers, context, text),
            Self::Response(_) | Self::Nothing => {}
            Self::Path { original, has_query } => {
                let kept = request.get("x-envoy-original-path").map(|path| path.as_bytes());
                let sent = Some(context.path_and_query.as_bytes());
                let path = match original {
                    Original::Only => kept,
                    Original::Never => sent,
                    Original::First => kept.or(sent),
                };
                let path = path.unwrap_or_default();
                let end = path.iter().position(|byte| *byte == b'?').filter(|_| !has_query);
                text.extend_from_slice(path.get(..end.unwrap_or(path.len())).unwrap_or_default());
            }
            Self::QueryParameter(name) => {
                let query = context.path_and_query.split_once('?').map_or("", |(_, query)| query);
                let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
                if let Some((_, value)) = pairs.find(|(key, _)| decoded(key) == *name) {
                    text.extend_from_slice(decoded(value).as_bytes());
                }
            }
            Self::Protocol => write_protocol(context.protocol, text),
            Self::UpstreamProtocol => {
                if let Some(protocol) = response.and_then(|response| response.protocol) {
                    write_protocol(protocol, text);
                }
            }
            Self::Address(party, shown) => {
                let address = match party {
                    Party::Remote => Some(context.remote),
                    Party::Local => Some(context.local),
                    Party::Endpoint => response.and_then(|response| response.endpoint),
                    Party::EndpointLocal => None,
                };
                if let Some(address) = address {
                    write_address(address, *shown, text);
                }
            }
            Self::Started(format) => write_date(&Date::of(context.started), format.as_ref(), text),
            Self::Now(format) => write_date(&Date::of(context.now), format.as_ref(), text),
            Self::Duration => write_number(millis(context), text),
            Self::UntilResponse => {
                if response.is_some_and(|response| response.protocol.is_some()) {
                    write_number(millis(context), text);
                }
            }
            Self::Received => write_number(context.received.into(), text),
            Self::Sent => text.push(b'0'),
            Self::Status => write_number(response.map_or(0, |response| response.status.as_u16().into()), text),
            Self::Flags => text.extend_from_slice(response.map_or("-", |response| response.flags).as_bytes()),
            Self::Details => text.extend_from_slice(response.map_or("", |response| response.details).as_bytes()),
            Self::Failure => {
                let failure = response.and_then(|response| response.failure).unwrap_or_default();
                text.extend_from_slice(failure.as_bytes());
            }
            // The request is about to be tried.
            Self::Attempts => write_number(response.map_or(1, |response| response.attempts.into()), text),
            Self::Route => text.extend_from_slice(context.route.as_bytes()),
            Self::Cluster => text.extend_from_slice(context.cluster.unwrap_or_default().as_bytes()),
            Self::Node => text.extend_from_slice(context.node.as_bytes()),
        }
    }
}

/// An operator's argument and length, and what comes behind its last percent sign. An argument ends with the first
/// parenthesis that only a length stands behind, so it may have percent signs and parentheses itself.
fn arguments(rest: &str) -> Option<(Option<&str>, Option<usize>, &str)> {
    let end = |rest: &str| -> Option<(Option<usize>, usize)> {
        if rest.starts_with('%') {
            return Some((None, 1));
        }
        let digits = rest.strip_prefix(':')?;
        let length = digits.find(|c: char| !c.is_ascii_digit())?;
        let limit = digits.get(..length)?.parse().ok()?;
        digits.get(length..)?.starts_with('%').then_some((Some(limit), length + 2))
    };
    let Some(argument) = rest.strip_prefix('(') else {
        let (limit, length) = end(rest)?;
        return Some((None, limit, rest.get(length..)?));
    };
    argument.match_indices(')').find_map(|(at, _)| {
        let behind = argument.get(at + 1..)?;
        let (limit, length) = end(behind)?;
        Some((Some(argument.get(..at)?), limit, behind.get(length..)?))
    })
}

fn begins(name: &str, beginnings: &[&str]) -> bool {
    beginnings.iter().any(|beginning| name.starts_with(beginning))
}

/// Whether it is about the certificates or the TLS of a caller in the clear, or of a connection that is not made yet.
fn is_of_tls(name: &str) -> bool {
    begins(name, &NOTHING_BEGINS) || (name.starts_with("DOWNSTREAM_LOCAL_") && name.ends_with("_SAN"))
}

/// The argument of `%PATH()%`: `NQ` is without query; behind a colon, which path.
fn path(argument: &str) -> Result<Part, TemplateError> {
    let (query, original) = argument.split_once(':').unwrap_or((argument, ""));
    let unknown =
        || TemplateError::Malformed(format!("%PATH({argument})% is not known: write WQ or NQ, and ORIG or PATH"));
    Ok(Part::Path {
        has_query: match query {
            "" | "WQ" => true,
            "NQ" => false,
            _ => return Err(unknown()),
        },
        original: match original {
            "" | "ORIG_OR_PATH" => Original::First,
            "ORIG" => Original::Only,
            "PATH" => Original::Never,
            _ => return Err(unknown()),
        },
    })
}

impl Lookup {
    pub(crate) fn read(names: &str, limit: Option<usize>) -> Result<Self, TemplateError> {
        let (first, second) = match names.split_once('?') {
            Some((first, second)) => (first, Some(second)),
            None => (names, None),
        };
        Ok(Self { first: Field::read(first)?, second: second.map(Field::read).transpose()?, limit })
    }

    /// The headers that it reads.
    pub(crate) fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        let fields = std::iter::once(&self.first).chain(&self.second);
        fields.filter_map(|field| match field {
            Field::Header(name) => Some(name),
            _ => None,
        })
    }

    /// What `get` has for the first of its fields that there is, as long as it may be.
    pub(crate) fn find<'v>(&self, get: impl Fn(&Field) -> Option<Cow<'v, str>>) -> Option<Cow<'v, str>> {
        let found = get(&self.first).or_else(|| self.second.as_ref().and_then(get))?;
        let Some(limit) = self.limit.filter(|limit| *limit < found.len()) else { return Some(found) };
        let end = (0..=limit).rev().find(|end| found.is_char_boundary(*end)).unwrap_or(0);
        Some(found.get(..end).unwrap_or_default().to_owned().into())
    }

    fn write(&self, headers: &HeaderMap, context: &HeaderContext<'_>, text: &mut Vec<u8>) {
        let before = text.len();
        if !self.first.write(headers, context, text)
            && let Some(second) = &self.second
        {
            second.write(headers, context, text);
        }
        if let Some(limit) = self.limit {
            text.truncate(before.saturating_add(limit));
        }
    }
}

impl Field {
    fn read(name: &str) -> Result<Self, TemplateError> {
        Ok(match name.to_ascii_lowercase().as_str() {
            ":method" => Self::Method,
            ":path" => Self::Path,
            ":authority" | "host" => Self::Authority,
            ":scheme" => Self::Scheme,
            ":status" => Self::Status,
            _ => {
                let malformed = |_| TemplateError::Malformed(format!("{name:?} is not a header's name"));
                Self::Header(name.parse().map_err(malformed)?)
            }
        })
    }

    /// Whether there is one.
    fn write(&self, headers: &HeaderMap, context: &HeaderContext<'_>, text: &mut Vec<u8>) -> bool {
        match self {
            Self::Header(name) => {
                let Some(value) = headers.get(name) else { return false };
                text.extend_from_slice(value.as_bytes());
            }
            Self::Method => text.extend_from_slice(context.method.as_str().as_bytes()),
            Self::Path => text.extend_from_slice(context.path_and_query.as_bytes()),
            Self::Authority => text.extend_from_slice(context.authority.as_bytes()),
            Self::Scheme => text.extend_from_slice(b"http"),
            Self::Status => {
                let Some(response) = &context.response else { return false };
                text.extend_from_slice(response.status.as_str().as_bytes());
            }
        }
        true
    }
}

fn millis(context: &HeaderContext<'_>) -> u128 {
    context.now.duration_since(context.started).unwrap_or_default().as_millis()
}

fn write_number(number: u128, text: &mut Vec<u8>) {
    text.extend_from_slice(number.to_string().as_bytes());
}

fn write_protocol(protocol: Version, text: &mut Vec<u8>) {
    text.extend_from_slice(protocol_name(protocol).as_bytes());
}

fn write_address(address: SocketAddr, shown: Shown, text: &mut Vec<u8>) {
    let shown = match shown {
        Shown::Whole => address.to_string(),
        Shown::Ip => address.ip().to_string(),
        Shown::Port => address.port().to_string(),
    };
    text.extend_from_slice(shown.as_bytes());
}

fn write_date(date: &Date, format: Option<&DateFormat>, text: &mut Vec<u8>) {
    let mut shown = String::new();
    match format {
        None => shown = date.rfc3339(),
        Some(format) => format.write(date, &mut shown),
    }
    text.extend_from_slice(shown.as_bytes());
}
