//! What a caller is told when the proxy answers itself: the only place that turns errors into status codes. The
//! codes, bodies and flags are Envoy's, so that clients and dashboards that know them understand ours.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use weft_policy::fault::FaultEnd;

use crate::{
    body::ResponseBody,
    error::{BrokeOff, ConnectError, Denial, ProxyError, WhyDenied, certificate_problem, reset_by_certificate},
    metrics::{Flag, Refused},
    record::{ExchangeRecord, with_sources},
};

/// Why the proxy answered instead of an upstream: one word for programs; the body has the sentence for people.
pub(crate) const X_WEFT_REASON: HeaderName = HeaderName::from_static("x-weft-reason");
/// [`X_WEFT_REASON`] of a node that does not host the workload that it was asked for: nobody has seen the request.
pub(crate) const NOT_HOSTED: &str = "not_hosted";
/// Names a refusal among those that the node keeps (`crate::decisions`).
pub(crate) const X_WEFT_DECISION: HeaderName = HeaderName::from_static("x-weft-decision");

/// A limit of the cluster was reached: nothing was sent.
const X_ENVOY_OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

impl ProxyError {
    fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::RequestBroke(BrokeOff::Gone | BrokeOff::Malformed) => StatusCode::BAD_REQUEST,
            Self::RequestBroke(BrokeOff::Stalled) => StatusCode::REQUEST_TIMEOUT,
            Self::NotImplemented(_) => StatusCode::NOT_IMPLEMENTED,
            Self::BadResponse(_) => StatusCode::BAD_GATEWAY,
            Self::NoRoute(_) => StatusCode::NOT_FOUND,
            Self::UnknownHost { .. } | Self::UnknownPort { .. } | Self::NotHttp { .. } | Self::NotOutside(_) => {
                StatusCode::BAD_GATEWAY
            }
            Self::Unresolved { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Overload => StatusCode::SERVICE_UNAVAILABLE,
            Self::UnknownCluster(_) | Self::NoEndpoint(_) | Self::NotHosted(_) | Self::Connect(_) | Self::Reset(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::InvalidBackend(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Overflow => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Aborted(FaultEnd::HttpStatus(status)) => *status,
            Self::Aborted(FaultEnd::GrpcStatus(_)) => StatusCode::OK,
            Self::Aborted(FaultEnd::Reset | FaultEnd::BlackHole { .. }) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Denied(denial) => match &denial.why {
                WhyDenied::Token { refusal, .. } => refusal.status(),
                WhyDenied::Policy { .. } => StatusCode::FORBIDDEN,
                WhyDenied::Provider(refusal) => refusal.status,
            },
        }
    }

    pub(crate) fn flag(&self) -> Flag {
        match self {
            Self::BadRequest(_) | Self::NotImplemented(_) | Self::RequestBroke(BrokeOff::Malformed) => {
                Flag::DownstreamProtocol
            }
            Self::RequestBroke(BrokeOff::Gone) => Flag::DownstreamGone,
            Self::RequestBroke(BrokeOff::Stalled) => Flag::IdleTimeout,
            Self::BadResponse(_) => Flag::UpstreamProtocol,
            Self::UnknownHost { .. }
            | Self::UnknownPort { .. }
            | Self::NotHttp { .. }
            | Self::NotOutside(_)
            | Self::NoRoute(_) => Flag::NoRoute,
            Self::Unresolved { .. } => Flag::NameNotResolved,
            Self::UnknownCluster(_) | Self::InvalidBackend(_) => Flag::NoCluster,
            Self::NoEndpoint(_) | Self::NotHosted(_) => Flag::NoHealthyUpstream,
            Self::Connect(_) => Flag::ConnectFailure,
            Self::Reset(_) => Flag::UpstreamReset,
            Self::Overflow => Flag::Overflow,
            Self::Timeout => Flag::Timeout,
            Self::RateLimited(_) => Flag::RateLimited,
            Self::Overload => Flag::Overload,
            Self::Aborted(_) => Flag::FaultInjected,
            Self::Denied(denial) => match &denial.why {
                WhyDenied::Token { .. } | WhyDenied::Provider(_) => Flag::Unauthorized,
                // Envoy flags only what others have decided.
                WhyDenied::Policy { .. } => Flag::None,
            },
        }
    }

    /// Envoy's response code details; weft's own word for what Envoy does not have.
    pub(crate) fn code_details(&self) -> String {
        let text = |text: &str| text.to_owned();
        match self {
            Self::NoRoute(_) => text("route_not_found"),
            Self::UnknownCluster(_) | Self::InvalidBackend(_) => text("cluster_not_found"),
            Self::NoEndpoint(_) => text("no_healthy_upstream"),
            Self::Connect(ConnectError::Timeout { .. }) => {
                text("upstream_reset_before_response_started{connection_timeout}")
            }
            Self::Connect(_) => text("upstream_reset_before_response_started{remote_connection_failure}"),
            Self::Reset(_) => text("upstream_reset_before_response_started{connection_termination}"),
            Self::BadResponse(_) => text("upstream_reset_before_response_started{protocol_error}"),
            Self::Overflow => text("upstream_reset_before_response_started{overflow}"),
            Self::Timeout => text("response_timeout"),
            Self::RateLimited(_) => text("local_rate_limited"),
            Self::Overload => text("overload"),
            Self::Aborted(_) => text("fault_filter_abort"),
            Self::BadRequest(_) | Self::RequestBroke(BrokeOff::Malformed) => text("http1.codec_error"),
            Self::RequestBroke(BrokeOff::Gone) => text("downstream_remote_disconnect"),
            Self::RequestBroke(BrokeOff::Stalled) => text("request_payload_timeout"),
            Self::Denied(denial) => denial.details(),
            error => text(error.reason()),
        }
    }

    /// What it is counted as, where hostile or broken peers are counted.
    fn refused(&self) -> Option<Refused> {
        match self {
            Self::BadRequest(_) | Self::NotImplemented(_) => Some(Refused::BadRequest),
            Self::RequestBroke(BrokeOff::Malformed) => Some(Refused::MalformedBody),
            Self::RequestBroke(BrokeOff::Stalled) => Some(Refused::StalledBody),
            Self::BadResponse(_) => Some(Refused::MalformedResponse),
            _ => None,
        }
    }

    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad_request",
            Self::NotImplemented(_) => "not_implemented",
            Self::RequestBroke(BrokeOff::Gone) => "caller_gone",
            Self::RequestBroke(BrokeOff::Malformed) => "malformed_body",
            Self::RequestBroke(BrokeOff::Stalled) => "stalled_body",
            Self::BadResponse(_) => "malformed_response",
            Self::UnknownHost { .. } => "unknown_host",
            Self::Unresolved { .. } => "name_not_resolved",
            Self::NotOutside(_) => "not_outside",
            Self::UnknownPort { .. } => "unknown_port",
            Self::NotHttp { .. } => "not_http",
            Self::NoRoute(_) => "no_route",
            Self::UnknownCluster(_) => "unknown_cluster",
            Self::InvalidBackend(_) => "invalid_backend",
            Self::NoEndpoint(_) => "no_healthy_upstream",
            Self::NotHosted(_) => NOT_HOSTED,
            Self::Connect(ConnectError::NoCaller) => "no_caller",
            Self::Connect(ConnectError::NoIdentity(_)) => "no_identity",
            Self::Connect(ConnectError::Peer { .. }) => "wrong_identity",
            Self::Connect(ConnectError::Unprotected(_)) => "tls_unavailable",
            Self::Connect(ConnectError::Tls { source, .. }) => certificate_problem(source).unwrap_or("tls_failure"),
            Self::Connect(ConnectError::Tunnel { .. }) => "tunnel_refused",
            Self::Connect(_) => "connect_failure",
            Self::Reset(error) => reset_by_certificate(error).unwrap_or("upstream_reset"),
            Self::Overflow => "overflow",
            Self::Timeout => "timeout",
            Self::RateLimited(_) => "rate_limited",
            Self::Overload => "overload",
            Self::Aborted(_) => "fault_abort",
            Self::Denied(denial) => match &denial.why {
                WhyDenied::Token { .. } => "bad_token",
                WhyDenied::Policy { .. } => "access_denied",
                WhyDenied::Provider(_) => "authorizer_denied",
            },
        }
    }
}

/// Answers in the upstream's place.
pub(crate) fn refuse(error: &ProxyError, mut record: ExchangeRecord) -> Response<ResponseBody> {
    if let ProxyError::Aborted(FaultEnd::Reset | FaultEnd::BlackHole { .. }) = error {
        record.fail(error.flag(), error);
        return Response::new(ResponseBody::cut(record));
    }
    let response = refusal(error, &mut record);
    send(response, record)
}

/// What a caller is told of an error, in its own protocol: a gRPC client gets a gRPC status. The record has the error
/// then.
pub(crate) fn refusal(error: &ProxyError, record: &mut ExchangeRecord) -> Response<Bytes> {
    let text = with_sources(error);
    let mut headers = HeaderMap::new();
    if let ProxyError::Denied(denial) = error {
        add_denial(denial, &mut headers);
    }
    headers.insert(X_WEFT_REASON, HeaderValue::from_static(error.reason()));
    if matches!(error, ProxyError::Overflow) {
        headers.insert(X_ENVOY_OVERLOADED, HeaderValue::from_static("true"));
    }
    if let ProxyError::RateLimited(quota) = error {
        quota.refuse(&mut headers);
    }
    let (status, body) = if record.is_grpc() {
        let code = match error {
            ProxyError::Aborted(FaultEnd::GrpcStatus(status)) => status.code(),
            // UNAVAILABLE, as the Gateway API says.
            ProxyError::InvalidBackend(_) => 14,
            error => grpc_code(error.status()),
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(code));
        if let Ok(message) = HeaderValue::from_str(&percent_encoded(&text)) {
            headers.insert("grpc-message", message);
        }
        (StatusCode::OK, Bytes::new())
    } else {
        headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain; charset=utf-8"));
        // Faults and denials look as Envoy's do, to the byte.
        let is_envoys = matches!(error, ProxyError::Aborted(_) | ProxyError::Denied(_) | ProxyError::Overflow);
        let end = if is_envoys { "" } else { "\n" };
        let body = match error {
            ProxyError::Denied(denial) => denial.body(),
            _ => None,
        };
        (error.status(), body.unwrap_or_else(|| Bytes::from(text + end)))
    };
    record.fail(error.flag(), error);
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if let Some(refused) = error.refused() {
        record.count_refused(refused);
        response.extensions_mut().insert(LastOnConnection);
    }
    response
}

fn add_denial(denial: &Denial, headers: &mut HeaderMap) {
    if let WhyDenied::Provider(refusal) = &denial.why {
        headers.extend(refusal.headers.clone());
    }
    headers.insert(X_WEFT_DECISION, denial.id.header());
    if let WhyDenied::Token { refusal, url } = &denial.why
        && let Ok(challenge) = HeaderValue::try_from(refusal.challenge(url))
    {
        headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
}

/// Marks the response to a request after which an HTTP/1.1 connection is not read on: its peer has shown that it
/// reads HTTP in another way than we do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastOnConnection;

/// Answers with what was made here.
pub(crate) fn answer(response: Response<Bytes>, mut record: ExchangeRecord) -> Response<ResponseBody> {
    record.complete();
    send(response, record)
}

fn send(response: Response<Bytes>, mut record: ExchangeRecord) -> Response<ResponseBody> {
    record.answered(response.status().as_u16(), response.headers());
    let (head, body) = response.into_parts();
    Response::from_parts(head, ResponseBody::own(body, record))
}

/// gRPC's code for an HTTP status that gRPC did not make.
/// <https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>
fn grpc_code(status: StatusCode) -> u16 {
    match status {
        StatusCode::BAD_REQUEST => 13,
        StatusCode::UNAUTHORIZED => 16,
        StatusCode::FORBIDDEN => 7,
        StatusCode::NOT_FOUND => 12,
        // Envoy's choice is 14 unless told otherwise; 8 says what it is, and asks for no retry.
        StatusCode::TOO_MANY_REQUESTS => 8,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => 14,
        _ => 2,
    }
}

/// `grpc-message` is percent-encoded outside of visible ASCII.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
