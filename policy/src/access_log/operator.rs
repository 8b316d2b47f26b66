//! Envoy's command operators in access logs
//! (<https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage>). Those that headers'
//! values have too are read by `headers/variable.rs`; what each is worth was compared with Envoy 1.40.

use std::{
    borrow::Cow,
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use http::Version;

use super::{Entry, RequestLine, is_always_kept, protocol_name};
use crate::{
    date::{Date, DateFormat},
    headers::{
        TemplateError,
        variable::{Field, Lookup, Original, Part, Party, Shown},
    },
    normalise::decoded,
};

/// What an operator is worth.
#[derive(Debug, PartialEq)]
pub(super) enum Value<'e> {
    /// `-` in a text, `null` in JSON.
    Nothing,
    Text(Cow<'e, str>),
    Number(u64),
    Address(SocketAddr),
    Ip(IpAddr),
    /// RFC 3339 where there is no format.
    Date(SystemTime, Option<&'e DateFormat>),
}

impl Value<'_> {
    /// As a text has it. By hand where each line of a log has several: `core::fmt` costs five times as much.
    pub(super) fn write(&self, text: &mut String) {
        match self {
            Self::Nothing => text.push('-'),
            Self::Text(value) => text.push_str(value),
            Self::Number(number) => push_number(*number, text),
            Self::Ip(ip) => push_ip(*ip, text),
            Self::Address(SocketAddr::V4(address)) => {
                push_ip((*address.ip()).into(), text);
                text.push(':');
                push_number(address.port().into(), text);
            }
            Self::Address(address) => {
                // Writing to a text does not fail.
                let _ = write!(text, "{address}");
            }
            Self::Date(time, None) => Date::of(*time).push_rfc3339(text),
            Self::Date(time, Some(format)) => format.write(&Date::of(*time), text),
        }
    }
}

fn push_number(mut number: u64, text: &mut String) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    text.push_str(std::str::from_utf8(&digits[at..]).unwrap_or_default());
}

fn push_ip(ip: IpAddr, text: &mut String) {
    let IpAddr::V4(ip) = ip else {
        let _ = write!(text, "{ip}");
        return;
    };
    for (i, octet) in ip.octets().into_iter().enumerate() {
        if i > 0 {
            text.push('.');
        }
        push_number(octet.into(), text);
    }
}

#[derive(Debug, PartialEq)]
pub(super) enum Operator {
    /// One that values of headers have too.
    Shared(Part),
    Details {
        spaces: bool,
    },
    LongFlags,
    Termination,
    ServerName,
    LogType,
    PeerIdentity,
    OwnIdentity,
    TlsVersion,
    UpstreamIdentity,
    UpstreamOwnIdentity,
    UpstreamTlsVersion,
    GrpcStatus(GrpcShown),
    ResponseSending,
    Trace,
    Span,
    Stream,
    Query,
    Trailer(Lookup),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GrpcShown {
    Camel,
    Snake,
    Number,
}

/// Operators that values of headers have as nothing, since these belong to callers in the clear, or are written before
/// the end. Here they would be something that is not kept.
const NOT_KEPT: [&str; 3] = ["DOWNSTREAM_HANDSHAKE_DURATION", "LOCAL_REPLY_BODY", "TRAILER"];
const NOT_KEPT_BEGINS: [&str; 3] = ["DOWNSTREAM_LOCAL_", "DOWNSTREAM_PEER_", "DOWNSTREAM_TLS_"];

/// gRPC's status codes by number.
const GRPC_CODES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

/// Envoy's response flags: the short name, the long one, and the bit that CEL's `response.flags` has.
pub(super) const FLAGS: [(&str, &str, u32); 19] = [
    ("UH", "NoHealthyUpstream", 1),
    ("UT", "UpstreamRequestTimeout", 2),
    ("UF", "UpstreamConnectionFailure", 5),
    ("UC", "UpstreamConnectionTermination", 6),
    ("UO", "UpstreamOverflow", 7),
    ("NR", "NoRouteFound", 8),
    ("DI", "DelayInjected", 9),
    ("FI", "FaultInjected", 10),
    ("RL", "RateLimited", 11),
    ("UAEX", "UnauthorizedExternalService", 12),
    ("DC", "DownstreamConnectionTermination", 14),
    ("URX", "UpstreamRetryLimitExceeded", 15),
    ("SI", "StreamIdleTimeout", 16),
    ("DPE", "DownstreamProtocolError", 18),
    ("UPE", "UpstreamProtocolError", 23),
    ("NC", "NoClusterFound", 24),
    ("OM", "OverloadManagerTerminated", 25),
    ("DF", "DnsResolutionFailed", 26),
    ("UR", "UpstreamRemoteReset", 4),
];

impl Operator {
    /// Reads an operator behind its first percent sign, and gives what follows it; `None` if it has no end.
    ///
    /// # Errors
    /// Envoy does not know it, or it is for what weft does not have.
    pub(super) fn read(text: &str) -> Result<Option<(Self, &str)>, TemplateError> {
        Part::split(text).map(|(name, argument, limit, rest)| Ok((Self::of(name, argument, limit)?, rest))).transpose()
    }

    fn of(name: &str, argument: Option<&str>, limit: Option<usize>) -> Result<Self, TemplateError> {
        Ok(match (name, argument) {
            ("RESPONSE_CODE_DETAILS", None) => Self::Details { spaces: false },
            ("RESPONSE_CODE_DETAILS", Some("ALLOW_WHITESPACES")) => Self::Details { spaces: true },
            ("RESPONSE_FLAGS_LONG", None) => Self::LongFlags,
            ("CONNECTION_TERMINATION_DETAILS", None) => Self::Termination,
            ("REQUESTED_SERVER_NAME", None) => Self::ServerName,
            ("ACCESS_LOG_TYPE", None) => Self::LogType,
            ("DOWNSTREAM_PEER_URI_SAN", None) => Self::PeerIdentity,
            ("DOWNSTREAM_LOCAL_URI_SAN", None) => Self::OwnIdentity,
            ("DOWNSTREAM_TLS_VERSION", None) => Self::TlsVersion,
            ("UPSTREAM_PEER_URI_SAN", None) => Self::UpstreamIdentity,
            ("UPSTREAM_LOCAL_URI_SAN", None) => Self::UpstreamOwnIdentity,
            ("UPSTREAM_TLS_VERSION", None) => Self::UpstreamTlsVersion,
            ("GRPC_STATUS", None | Some("CAMEL_STRING")) => Self::GrpcStatus(GrpcShown::Camel),
            ("GRPC_STATUS", Some("SNAKE_STRING")) => Self::GrpcStatus(GrpcShown::Snake),
            ("GRPC_STATUS", Some("NUMBER")) | ("GRPC_STATUS_NUMBER", None) => Self::GrpcStatus(GrpcShown::Number),
            ("RESPONSE_TX_DURATION", None) => Self::ResponseSending,
            ("TRACE_ID", None) => Self::Trace,
            ("SPAN_ID", None) => Self::Span,
            ("STREAM_ID", None) => Self::Stream,
            ("QUERY_PARAMS", None | Some("ORIG" | "ORIG_OR_PATH")) => Self::Query,
            ("TRAILER", Some(names)) => Self::Trailer(Lookup::read(names, limit)?),
            // Addresses, which are kept, begin like what is not.
            ("DOWNSTREAM_LOCAL_ADDRESS" | "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_LOCAL_PORT", None) => {
                Self::Shared(Part::of(name, argument, limit)?)
            }
            _ if NOT_KEPT.contains(&name) || NOT_KEPT_BEGINS.iter().any(|begin| name.starts_with(begin)) => {
                return Err(TemplateError::NotHere);
            }
            _ => Self::Shared(Part::of(name, argument, limit)?),
        })
    }

    /// Whether it reads headers or trailers that are not kept unless asked for.
    pub(super) fn needs_heads(&self) -> bool {
        match self {
            Self::Trailer(_) => true,
            Self::Shared(Part::Request(lookup)) => lookup.headers().any(|name| !is_always_kept(name)),
            Self::Shared(Part::Response(lookup)) => lookup.headers().any(|name| name != SERVICE_TIME),
            _ => false,
        }
    }

    /// What it is worth. `node` is the name of this one.
    pub(super) fn value<'e>(&'e self, entry: &'e Entry, node: &'e str) -> Value<'e> {
        let text = |text: Option<&'e str>| text.map_or(Value::Nothing, |text| Value::Text(text.into()));
        match self {
            Self::Shared(part) => shared(part, entry, node),
            Self::Details { spaces: true } => text(entry.code_details()),
            Self::Details { spaces: false } => without_spaces(entry.code_details()),
            Self::LongFlags => {
                let long = FLAGS.iter().find(|(short, ..)| *short == entry.flag).map(|(_, long, _)| *long);
                Value::Text(long.unwrap_or("-").into())
            }
            Self::Termination => without_spaces(entry.code_details.as_deref().filter(|_| entry.request.is_none())),
            Self::ServerName => text(entry.requested_server_name.as_deref()),
            Self::LogType => text(Some(if entry.request.is_some() { "DownstreamEnd" } else { "TcpConnectionEnd" })),
            Self::PeerIdentity => text(entry.peer.as_deref()),
            Self::OwnIdentity => text(entry.own_identity()),
            Self::TlsVersion => text(entry.peer.as_ref().map(|_| "TLSv1.3")),
            Self::UpstreamIdentity => text(entry.upstream_identity()),
            Self::UpstreamOwnIdentity => {
                let own = entry.source.as_deref().filter(|_| entry.upstream.is_tls);
                text(own.map(|workload| workload.principal.as_str()))
            }
            Self::UpstreamTlsVersion => text(entry.upstream.is_tls.then_some("TLSv1.3")),
            Self::GrpcStatus(shown) => match entry.grpc_status {
                None => Value::Nothing,
                Some(code) if *shown == GrpcShown::Number => Value::Number(code.into()),
                Some(code) => match GRPC_CODES.get(usize::from(code)) {
                    Some((camel, _)) if *shown == GrpcShown::Camel => text(Some(camel)),
                    Some((_, snake)) => text(Some(snake)),
                    None => Value::Text(code.to_string().into()),
                },
            },
            Self::ResponseSending => {
                entry.until_response.map_or(Value::Nothing, |until| millis(entry.duration.saturating_sub(until)))
            }
            Self::Trace => match entry.trace {
                Some(trace) => Value::Text(format!("{:032x}", trace.trace).into()),
                None => Value::Nothing,
            },
            Self::Span => match entry.trace {
                Some(trace) => Value::Text(format!("{:016x}", trace.span).into()),
                None => Value::Nothing,
            },
            Self::Stream => {
                let id = entry.request.as_ref().and_then(|request| request.request_id.as_ref());
                text(id.and_then(|id| id.to_str().ok()))
            }
            Self::Query => text(entry.request.as_ref().and_then(|request| request.uri.query())),
            Self::Trailer(lookup) => {
                let found = lookup.find(|field| match field {
                    Field::Header(name) => {
                        let value = entry.trailers.as_ref()?.get(name)?;
                        Some(String::from_utf8_lossy(value.as_bytes()))
                    }
                    _ => None,
                });
                found.map_or(Value::Nothing, Value::Text)
            }
        }
    }
}

/// The header in which Envoy tells how long the upstream took. Nobody sends it here; its value is known all the same.
const SERVICE_TIME: &str = "x-envoy-upstream-service-time";

fn shared<'e>(part: &'e Part, entry: &'e Entry, node: &'e str) -> Value<'e> {
    let request = entry.request.as_ref();
    let text = |text: Option<&'e str>| text.map_or(Value::Nothing, |text| Value::Text(text.into()));
    match part {
        Part::Text(literal) => Value::Text(literal.as_str().into()),
        Part::Nothing => Value::Nothing,
        Part::Request(lookup) => {
            let found = request.and_then(|request| lookup.find(|field| of_request(field, request)));
            found.map_or(Value::Nothing, Value::Text)
        }
        Part::Response(lookup) => lookup.find(|field| of_response(field, entry)).map_or(Value::Nothing, Value::Text),
        Part::Path { original, has_query } => {
            let Some(request) = request else { return Value::Nothing };
            let kept = request.original_path.as_ref().and_then(|path| path.to_str().ok());
            let path = match original {
                Original::Only => kept,
                Original::Never => Some(request.path()),
                Original::First => kept.or(Some(request.path())),
            };
            text(path.map(|path| if *has_query { path } else { path.split('?').next().unwrap_or_default() }))
        }
        Part::QueryParameter(name) => {
            let query = request.and_then(|request| request.uri.query()).unwrap_or_default();
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let value = pairs.find(|(key, _)| decoded(key) == *name).map(|(_, value)| decoded(value));
            value.map_or(Value::Nothing, |value| Value::Text(value.into_owned().into()))
        }
        Part::Protocol => request.map_or(Value::Nothing, |request| protocol(request.version)),
        Part::UpstreamProtocol => entry.upstream.protocol.map_or(Value::Nothing, protocol),
        Part::Address(party, shown) => {
            let of = match party {
                Party::Remote => Some(entry.downstream_remote),
                Party::Local => Some(entry.downstream_local),
                Party::Endpoint => entry.upstream.host,
                Party::EndpointLocal => entry.upstream.local,
            };
            of.map_or(Value::Nothing, |of| address(of, *shown))
        }
        Part::Started(format) => Value::Date(entry.start, format.as_ref()),
        Part::Now(format) => Value::Date(entry.end(), format.as_ref()),
        Part::Duration => millis(entry.duration),
        Part::UntilResponse => entry.until_response.map_or(Value::Nothing, millis),
        Part::Received => Value::Number(entry.bytes_received),
        Part::Sent => Value::Number(entry.bytes_sent),
        Part::Status => Value::Number(entry.status.into()),
        Part::Flags => text(Some(entry.flag)),
        Part::Details => without_spaces(entry.code_details()),
        Part::Failure => without_spaces(entry.failure.as_deref()),
        Part::Attempts => Value::Number(entry.upstream.attempts.into()),
        Part::Route => text(entry.route_name.as_deref()),
        Part::Cluster => text(entry.upstream.cluster.as_deref()),
        Part::Node => text(Some(node)),
    }
}

fn of_request<'e>(field: &Field, request: &'e RequestLine) -> Option<Cow<'e, str>> {
    Some(match field {
        Field::Header(name) => lossy(request.header(name)?.as_bytes()),
        Field::Method => request.method.as_str().into(),
        Field::Path => request.path().into(),
        Field::Authority => request.authority()?.into(),
        Field::Scheme => "http".into(),
        Field::Status => return None,
    })
}

/// Nearly all are ASCII, which the whole of it is quicker to be seen than piece by piece.
fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

fn of_response<'e>(field: &Field, entry: &'e Entry) -> Option<Cow<'e, str>> {
    match field {
        Field::Header(name) if name == SERVICE_TIME => Some(entry.until_response?.as_millis().to_string().into()),
        Field::Header(name) => Some(String::from_utf8_lossy(entry.response.as_ref()?.get(name)?.as_bytes())),
        Field::Status => (entry.status > 0).then(|| entry.status.to_string().into()),
        _ => None,
    }
}

fn without_spaces(text: Option<&str>) -> Value<'_> {
    match text {
        None => Value::Nothing,
        Some(text) if text.contains(char::is_whitespace) => Value::Text(text.replace(char::is_whitespace, "_").into()),
        Some(text) => Value::Text(text.into()),
    }
}

fn millis(duration: Duration) -> Value<'static> {
    Value::Number(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn protocol(version: Version) -> Value<'static> {
    Value::Text(protocol_name(version).into())
}

fn address(address: SocketAddr, shown: Shown) -> Value<'static> {
    match shown {
        Shown::Whole => Value::Address(address),
        Shown::Ip => Value::Ip(address.ip()),
        Shown::Port => Value::Number(address.port().into()),
    }
}
