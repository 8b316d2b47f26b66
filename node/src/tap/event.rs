//! A request as a tap shows it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_policy::{
    access_log::{Entry, RequestLine, protocol_name},
    endpoint::Workload,
    service_id::ServiceId,
};
use weft_proxy::tap::Tapped;

use super::redact;
use crate::{
    admin::api::rfc3339,
    traffic::{Call, Side, UNKNOWN},
};

/// Longest path, and value of a header, in characters.
const MAX_TEXT: usize = 1_024;
/// Headers of each head.
const MAX_HEADERS: usize = 64;

/// One request and what became of it. A field that this version does not know is left out: it may come from another node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Seen {
    /// When it began: RFC 3339.
    pub at: String,
    /// Which node tells it.
    pub node: String,
    #[serde(flatten)]
    pub call: Call,
    pub reporter: Side,
    pub duration_ms: f64,
    pub method: String,
    pub authority: String,
    /// With its query, secrets hidden.
    pub path: String,
    pub version: String,
    /// 0: there was none.
    pub status: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u8>,
    /// Envoy's response flag, `-` for none.
    pub flag: String,
    /// Why the proxy answered itself, or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    pub mutual_tls: bool,
    /// How often it was sent.
    pub attempts: u32,
    /// The address that it was sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    pub request_bytes: u64,
    pub response_bytes: u64,
    pub request_headers: Vec<(String, String)>,
    pub response_headers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trailers: Vec<(String, String)>,
    /// The beginnings of the bodies, if they were asked for and can be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_body: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_body: Option<String>,
}

impl Seen {
    /// `None` for what is no request. Of bodies there are so many bytes at most.
    pub fn of(tapped: &Tapped, node: &str, body: usize) -> Option<Self> {
        let entry = &*tapped.entry;
        let request = entry.request.as_ref()?;
        let began = entry.start.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let text =
            |value: Option<&http::HeaderValue>| value.map(|value| short(&String::from_utf8_lossy(value.as_bytes())));
        let shown = |headers: Option<&http::HeaderMap>, bytes: &[u8], total| {
            let of =
                |name: http::HeaderName| headers.and_then(|all| all.get(name)).and_then(|value| value.to_str().ok());
            let is_encoded = of(http::header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity");
            let kind = of(http::header::CONTENT_TYPE).unwrap_or_default();
            redact::body(kind, is_encoded, &bytes[..bytes.len().min(body)], total)
        };
        Some(Self {
            at: rfc3339(u64::try_from(began.as_millis()).unwrap_or(u64::MAX)),
            node: node.to_owned(),
            call: Self::call_of(tapped),
            reporter: if entry.is_server { Side::Destination } else { Side::Source },
            duration_ms: (entry.duration.as_secs_f64() * 1_000_000.0).round() / 1_000.0,
            method: request.method.to_string(),
            authority: redact::url(&short(request.authority().unwrap_or_default())),
            path: short(&redact::url(request.path())),
            version: protocol_name(request.version).to_owned(),
            status: entry.status,
            grpc_status: entry.grpc_status,
            flag: entry.flag.to_owned(),
            failure: entry.failure.as_deref().map(short),
            mutual_tls: entry.is_server || entry.upstream.is_tls,
            attempts: entry.upstream.attempts,
            endpoint: entry.upstream.host.map(|host| host.to_string()),
            request_id: text(request.request_id.as_ref()),
            trace: entry.trace.map(|trace| format!("{:032x}", trace.trace)),
            request_bytes: entry.bytes_received,
            response_bytes: entry.bytes_sent,
            request_headers: headers(request.headers()),
            response_headers: headers(entry.response.as_deref()),
            trailers: headers(entry.trailers.as_deref()),
            request_body: shown(request.headers(), &tapped.request_body, entry.bytes_received),
            response_body: shown(entry.response.as_deref(), &tapped.response_body, entry.bytes_sent),
        })
    }

    /// Who has called whom.
    pub fn call_of(tapped: &Tapped) -> Call {
        let Entry { source, destination, request, .. } = &*tapped.entry;
        let of = |workload: &Option<std::sync::Arc<Workload>>, value: fn(&Workload) -> String| {
            workload.as_deref().map_or_else(|| UNKNOWN.to_owned(), value)
        };
        let is_grpc = |request: &RequestLine| {
            let kind = request.header(&http::header::CONTENT_TYPE);
            kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
        };
        let service = tapped.service.as_ref();
        Call {
            source_namespace: of(source, |workload| workload.namespace.to_string()),
            source_workload: of(source, |workload| workload.name.to_string()),
            source_app: of(source, |workload| workload.canonical_service.clone()),
            source_version: of(source, |workload| workload.canonical_revision.clone()),
            service_namespace: service.map_or_else(|| UNKNOWN.to_owned(), |id| id.namespace().to_string()),
            service: service.map_or_else(|| UNKNOWN.to_owned(), |id| id.name().to_owned()),
            outside: matches!(service, Some(ServiceId::Host { .. })),
            destination_namespace: of(destination, |workload| workload.namespace.to_string()),
            destination_workload: of(destination, |workload| workload.name.to_string()),
            destination_app: of(destination, |workload| workload.canonical_service.clone()),
            destination_version: of(destination, |workload| workload.canonical_revision.clone()),
            protocol: if request.as_ref().is_some_and(is_grpc) { "grpc" } else { "http" }.to_owned(),
        }
    }
}

fn headers(all: Option<&http::HeaderMap>) -> Vec<(String, String)> {
    let all = all.into_iter().flatten().take(MAX_HEADERS);
    all.map(|(name, value)| {
        let value = redact::header(name, &String::from_utf8_lossy(value.as_bytes()));
        (name.to_string(), short(&value))
    })
    .collect()
}

fn short(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => text[..end].to_owned() + "…",
        None => text.to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        sync::Arc,
        time::{Duration, UNIX_EPOCH},
    };

    use http::{HeaderMap, Method, Version};

    use super::*;

    /// A request with a token, which was answered with this status.
    pub(crate) fn tapped(status: u16) -> Tapped {
        let headers: HeaderMap =
            [("host", "web"), ("authorization", "Bearer abc"), ("content-type", "application/json")]
                .into_iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect();
        let uri = "/items?page=2&token=abc".parse().unwrap();
        let entry = Entry {
            start: UNIX_EPOCH + Duration::from_millis(1_764_437_280_123),
            duration: Duration::from_micros(1_500),
            request: Some(RequestLine::of(&Method::POST, &uri, Version::HTTP_11, &headers, true)),
            status,
            bytes_received: 20,
            bytes_sent: 4,
            response: Some(Box::new(
                [("set-cookie".parse().unwrap(), "id=abc".parse().unwrap())].into_iter().collect(),
            )),
            ..Entry::new("127.0.0.1:15001".parse().unwrap(), "127.0.0.1:5".parse().unwrap())
        };
        let body = b"{\"password\":\"abc\",\"n\":1}";
        Tapped {
            entry: Arc::new(entry),
            service: None,
            request_body: body[..].into(),
            response_body: b"done"[..].into(),
        }
    }

    #[test]
    fn a_request_is_shown_without_its_secrets() {
        let seen = Seen::of(&tapped(201), "host-1", 1_024).unwrap();
        assert_eq!((seen.at.as_str(), seen.duration_ms), ("2025-11-29T17:28:00.123Z", 1.5));
        assert_eq!((seen.path.as_str(), seen.status), ("/items?page=2&token=[hidden]", 201));
        assert_eq!(seen.request_body.as_deref(), Some("{\"password\": \"[hidden]\",\"n\":1}"));
        let json = serde_json::to_string(&seen).unwrap();
        assert!(!json.contains("abc"), "{json}");
        assert_eq!(serde_json::from_str::<Seen>(&json).unwrap(), seen);
        assert_eq!(Seen::of(&tapped(201), "host-1", 0).unwrap().request_body, None);
    }
}
