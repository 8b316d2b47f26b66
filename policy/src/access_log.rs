//! Access logs: what is known of an exchange at its end, how that is written, and which exchanges are. All of it is
//! worked out where logs are written, never in a request's way.

mod expression;
mod format;
mod operator;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header};

pub(crate) use self::expression::ExpressionError;
pub use self::{
    expression::{EXPRESSION_STACK, Expression, ExpressionContext, Known},
    format::LogFormat,
};
use crate::endpoint::Workload;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_ENVOY_ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

/// What is known of one exchange when it ends.
#[derive(Debug)]
pub struct Entry {
    pub start: SystemTime,
    pub duration: Duration,
    /// `None` for a connection of bytes.
    pub request: Option<RequestLine>,
    /// 0 if there was no response.
    pub status: u16,
    /// 0 to 16, of a gRPC response.
    pub grpc_status: Option<u8>,
    /// Envoy's response flag; `-` for none.
    pub flag: &'static str,
    /// Why the proxy answered itself, or failed.
    pub failure: Option<String>,
    /// Envoy's response code details, where it is not `via_upstream`.
    pub code_details: Option<String>,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// How long the head of the upstream's response took.
    pub until_response: Option<Duration>,
    /// Only where a format or filter reads them.
    pub response: Option<Box<HeaderMap>>,
    pub trailers: Option<Box<HeaderMap>>,
    pub upstream: Upstream,
    pub downstream_local: SocketAddr,
    pub downstream_remote: SocketAddr,
    pub requested_server_name: Option<Arc<str>>,
    pub route_name: Option<String>,
    /// Whether the called workload's side tells it.
    pub is_server: bool,
    /// The identity that a caller from another node proved, such as `spiffe://cluster.local/ns/default/sa/web`.
    pub peer: Option<Arc<str>>,
    pub source: Option<Arc<Workload>>,
    pub destination: Option<Arc<Workload>>,
    pub trace: Option<TraceIds>,
}

impl Entry {
    /// One of which nothing is known yet but between which addresses it is.
    pub fn new(downstream_local: SocketAddr, downstream_remote: SocketAddr) -> Self {
        Self {
            start: SystemTime::UNIX_EPOCH,
            duration: Duration::ZERO,
            request: None,
            status: 0,
            grpc_status: None,
            flag: "-",
            failure: None,
            code_details: None,
            bytes_received: 0,
            bytes_sent: 0,
            until_response: None,
            response: None,
            trailers: None,
            upstream: Upstream::default(),
            downstream_local,
            downstream_remote,
            requested_server_name: None,
            route_name: None,
            is_server: false,
            peer: None,
            source: None,
            destination: None,
            trace: None,
        }
    }
}

/// Where an exchange went.
#[derive(Debug, Default)]
pub struct Upstream {
    pub host: Option<SocketAddr>,
    /// This end of the connection to it.
    pub local: Option<SocketAddr>,
    pub cluster: Option<Arc<str>>,
    pub protocol: Option<Version>,
    /// How often it was tried.
    pub attempts: u32,
    /// Whether it went by the mesh's TLS.
    pub is_tls: bool,
}

/// The span of an exchange, and the trace that it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceIds {
    pub trace: u128,
    pub span: u64,
}

/// What is kept of a request's head.
#[derive(Clone, Debug)]
pub struct RequestLine {
    pub method: Method,
    pub uri: Uri,
    pub version: Version,
    authority: Option<HeaderValue>,
    forwarded_for: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    original_path: Option<HeaderValue>,
    pub request_id: Option<HeaderValue>,
    /// All of them; only where a format or filter reads others than those above.
    headers: Option<Box<HeaderMap>>,
}

impl RequestLine {
    pub fn of(method: &Method, uri: &Uri, version: Version, headers: &HeaderMap, keeps_headers: bool) -> Self {
        let mut line = Self {
            method: method.clone(),
            uri: uri.clone(),
            version,
            authority: None,
            forwarded_for: None,
            user_agent: None,
            original_path: None,
            request_id: None,
            headers: keeps_headers.then(|| Box::new(headers.clone())),
        };
        // Looking at the few that are there is cheaper than looking up each that could be.
        for (name, value) in headers {
            let kept = match name.as_str() {
                "host" => &mut line.authority,
                "user-agent" => &mut line.user_agent,
                "x-forwarded-for" => &mut line.forwarded_for,
                "x-envoy-original-path" => &mut line.original_path,
                "x-request-id" => &mut line.request_id,
                _ => continue,
            };
            kept.get_or_insert_with(|| value.clone());
        }
        line
    }

    /// The host that was asked for, with its port if that was named.
    pub fn authority(&self) -> Option<&str> {
        let named = self.uri.authority().map(|authority| authority.as_str());
        named.or_else(|| self.authority.as_ref()?.to_str().ok())
    }

    /// With the query.
    pub fn path(&self) -> &str {
        self.uri.path_and_query().map_or("/", |path| path.as_str())
    }

    /// A header, if it was kept.
    pub fn header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        match name.as_str() {
            "x-request-id" => self.request_id.as_ref(),
            "x-forwarded-for" => self.forwarded_for.as_ref(),
            "x-envoy-original-path" => self.original_path.as_ref(),
            "user-agent" => self.user_agent.as_ref(),
            "host" => self.authority.as_ref(),
            _ => self.headers.as_ref()?.get(name),
        }
    }

    /// All headers, if they were kept.
    pub fn headers(&self) -> Option<&HeaderMap> {
        self.headers.as_deref()
    }
}

/// A protocol as Envoy writes it.
pub fn protocol_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 | Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

/// Whether a header of a request is kept whoever asks for it.
fn is_always_kept(name: &HeaderName) -> bool {
    [X_REQUEST_ID, X_FORWARDED_FOR, X_ENVOY_ORIGINAL_PATH, header::USER_AGENT, header::HOST].contains(name)
}

impl Entry {
    /// Envoy's response code details; of requests alone.
    pub fn code_details(&self) -> Option<&str> {
        self.request.as_ref()?;
        self.code_details.as_deref().or_else(|| self.until_response.is_some().then_some("via_upstream"))
    }

    /// The workload whose side tells it.
    pub fn own_workload(&self) -> Option<&Arc<Workload>> {
        if self.is_server { self.destination.as_ref() } else { self.source.as_ref() }
    }

    fn end(&self) -> SystemTime {
        self.start + self.duration
    }

    /// The identity that this side of a caller's connection showed.
    fn own_identity(&self) -> Option<&str> {
        let own = self.destination.as_deref().filter(|_| self.peer.is_some());
        own.map(|workload| workload.principal.as_str())
    }

    /// The identity that the called side proved.
    fn upstream_identity(&self) -> Option<&str> {
        let called = self.destination.as_deref().filter(|_| self.upstream.is_tls);
        called.map(|workload| workload.principal.as_str())
    }
}

#[cfg(test)]
pub(crate) mod tests;
