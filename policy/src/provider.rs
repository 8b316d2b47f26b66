//! External authorizers, as requests read them: those that policies name, and those that rules of routes ask.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use weft_wire::id::Namespace;

use crate::{
    api::{
        gateway::{self, ExternalAuthProtocol, HttpAuthConfig, HttpExternalAuthFilter},
        mesh::{self as api, MAX_TOLD_BODY, read_status},
    },
    authorize::ProviderKind,
    balance::Cluster,
    route::{Client, Target},
    sidecar::Sight,
    view::{HTTP_PORT, Host, MeshView},
};

/// How long an answer may take where the configuration does not say it.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
/// The same for a rule of a route, which cannot say it.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(10);

/// Somebody whom policies of action `CUSTOM` ask, or a rule of a route.
#[derive(Debug)]
pub struct Provider {
    place: Place,
    /// What its service is called.
    pub host: String,
    pub port: u16,
    pub timeout: Duration,
    /// Whether requests pass for which it gives no answer.
    pub fail_open: bool,
    /// What callers get where it gives no answer.
    pub status_on_error: StatusCode,
    pub body: Option<BodyInCheck>,
    pub protocol: Protocol,
}

/// Which service it is.
#[derive(Debug)]
enum Place {
    /// That of its host, as seen from this namespace.
    Host(Namespace),
    /// A backend of a route.
    Backend(Target),
}

/// How it is asked.
#[derive(Debug)]
pub enum Protocol {
    Http(HttpCheck),
    Grpc(GrpcCheck),
}

/// What one that speaks gRPC is told.
#[derive(Debug, Default)]
pub struct GrpcCheck {
    /// Headers of the request; `None` is all.
    include: Option<HeaderSet>,
}

impl GrpcCheck {
    /// Whether it is told a header.
    pub fn is_told(&self, name: &HeaderName) -> bool {
        self.include.as_ref().is_none_or(|include| include.has(name))
    }
}

/// How much of a request's body it is told.
#[derive(Clone, Copy, Debug)]
pub struct BodyInCheck {
    pub max_bytes: usize,
    /// Whether it is told the beginning of a longer one.
    pub allows_partial: bool,
    /// Bytes, not text; of gRPC alone.
    pub as_bytes: bool,
}

/// Which headers are told to whom.
#[derive(Debug)]
pub struct HttpCheck {
    pub path_prefix: String,
    include: HeaderSet,
    additional: Vec<(HeaderName, HeaderValue)>,
    /// `None` is all that do not describe the answer itself.
    to_workload: Option<HeaderSet>,
    /// `None` is all.
    with_refusal: Option<HeaderSet>,
    with_response: HeaderSet,
}

/// Headers by their names.
#[derive(Debug, Default)]
struct HeaderSet(Vec<NamePattern>);

#[derive(Debug)]
enum NamePattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
}

impl HeaderSet {
    fn read(patterns: &[String]) -> Self {
        let read = |pattern: &String| {
            let pattern = pattern.to_ascii_lowercase();
            match (pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
                (Some(prefix), _) => NamePattern::Prefix(prefix.to_owned()),
                (None, Some(suffix)) => NamePattern::Suffix(suffix.to_owned()),
                (None, None) => NamePattern::Exact(pattern),
            }
        };
        Self(patterns.iter().map(read).collect())
    }

    /// As the Gateway API lists them: without wildcards.
    fn exactly(names: &[gateway::HeaderName]) -> Self {
        Self(names.iter().map(|name| NamePattern::Exact(name.to_ascii_lowercase())).collect())
    }

    fn has(&self, name: &HeaderName) -> bool {
        self.0.iter().any(|pattern| match pattern {
            NamePattern::Exact(exact) => name.as_str() == exact,
            NamePattern::Prefix(prefix) => name.as_str().starts_with(prefix),
            NamePattern::Suffix(suffix) => name.as_str().ends_with(suffix),
        })
    }

    fn of(&self, headers: &HeaderMap) -> HeaderMap {
        let kept = headers.iter().filter(|(name, _)| self.has(name));
        kept.map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

/// Whether a header says something of its own message's body, or of who made the message.
fn describes_message(name: &HeaderName) -> bool {
    name.as_str().starts_with("content-") || *name == header::DATE || *name == header::SERVER
}

impl HttpCheck {
    /// As the Gateway API says: the host, the path and the method are told anyway, by the request that asks.
    fn of_route(http: &HttpAuthConfig) -> Self {
        let mut include = HeaderSet::exactly(&http.allowed_headers);
        include.0.push(NamePattern::Exact(header::AUTHORIZATION.as_str().to_owned()));
        let to_workload = &http.allowed_response_headers;
        Self {
            path_prefix: http.path.clone(),
            include,
            additional: Vec::new(),
            to_workload: (!to_workload.is_empty()).then(|| HeaderSet::exactly(to_workload)),
            with_refusal: None,
            with_response: HeaderSet::default(),
        }
    }

    fn of(http: &api::HttpProvider) -> Self {
        let include = match http.include_request_headers_in_check.is_empty() {
            true => &http.include_headers_in_check,
            false => &http.include_request_headers_in_check,
        };
        let additional = http.include_additional_headers_in_check.iter();
        let with_refusal = &http.headers_to_downstream_on_deny;
        Self {
            path_prefix: http.path_prefix.clone(),
            include: HeaderSet::read(include),
            additional: additional
                .filter_map(|(name, value)| Some((name.parse().ok()?, HeaderValue::from_str(value).ok()?)))
                .collect(),
            to_workload: Some(HeaderSet::read(&http.headers_to_upstream_on_allow)),
            with_refusal: (!with_refusal.is_empty()).then(|| HeaderSet::read(with_refusal)),
            with_response: HeaderSet::read(&http.headers_to_downstream_on_allow),
        }
    }

    /// The headers that the authorizer is told of a request, but for its host and the length of what it is told of the
    /// body.
    pub fn told(&self, request: &HeaderMap) -> HeaderMap {
        let mut told = self.include.of(request);
        told.remove(header::CONTENT_LENGTH);
        for (name, value) in &self.additional {
            told.insert(name.clone(), value.clone());
        }
        told
    }

    /// The headers of an answer that the workload gets.
    pub fn to_workload(&self, answer: &HeaderMap) -> HeaderMap {
        match &self.to_workload {
            Some(named) => named.of(answer),
            None => {
                let all = answer.iter().filter(|(name, _)| !describes_message(name));
                all.map(|(name, value)| (name.clone(), value.clone())).collect()
            }
        }
    }

    /// The headers of an answer that the caller gets with a refusal.
    pub fn with_refusal(&self, answer: &HeaderMap) -> HeaderMap {
        match &self.with_refusal {
            None => answer.clone(),
            Some(named) => {
                let mut told = named.of(answer);
                for name in [header::WWW_AUTHENTICATE, header::LOCATION] {
                    if let (false, Some(value)) = (told.contains_key(&name), answer.get(&name)) {
                        told.insert(name, value.clone());
                    }
                }
                told
            }
        }
    }

    /// The headers of an answer that the caller gets with the workload's response.
    pub fn with_response(&self, answer: &HeaderMap) -> HeaderMap {
        self.with_response.of(answer)
    }
}

impl Provider {
    /// `None` for one that could not have been stored: without a kind or a port.
    pub(crate) fn of(provider: &api::Provider) -> Option<Self> {
        let (service, port, timeout, fail_open, status, body, protocol) =
            match (&provider.envoy_ext_authz_http, &provider.envoy_ext_authz_grpc) {
                (Some(http), _) => {
                    let body = http.include_request_body_in_check;
                    let protocol = Protocol::Http(HttpCheck::of(http));
                    (&http.service, http.port, http.timeout, http.fail_open, &http.status_on_error, body, protocol)
                }
                (None, Some(grpc)) => {
                    let body = grpc.include_request_body_in_check;
                    let status = &grpc.status_on_error;
                    let protocol = Protocol::Grpc(GrpcCheck::default());
                    (&grpc.service, grpc.port, grpc.timeout, grpc.fail_open, status, body, protocol)
                }
                (None, None) => return None,
            };
        let (namespace, host) = match service.split_once('/') {
            Some((namespace, host)) => (namespace.parse().ok()?, host),
            None => (Namespace::default_namespace(), service.as_str()),
        };
        let body = body.map(|body| BodyInCheck {
            max_bytes: body.max_request_bytes.map_or(0, |bytes| usize::try_from(bytes.get()).unwrap_or(0)),
            allows_partial: body.allow_partial_message,
            as_bytes: body.pack_as_bytes,
        });
        Some(Self {
            place: Place::Host(namespace),
            host: host.to_owned(),
            port: port?.number(),
            timeout: timeout.map_or(DEFAULT_TIMEOUT, |timeout| timeout.get()),
            fail_open,
            status_on_error: status.as_deref().and_then(read_status).unwrap_or(StatusCode::FORBIDDEN),
            body,
            protocol,
        })
    }

    /// The one that a filter of a route asks; `backend` is what that may name. Where it gives no answer, nothing passes.
    pub(crate) fn of_route(filter: &HttpExternalAuthFilter, backend: Target) -> Self {
        let protocol = match filter.protocol {
            ExternalAuthProtocol::Http => Protocol::Http(HttpCheck::of_route(&filter.http.clone().unwrap_or_default())),
            ExternalAuthProtocol::Grpc => {
                let told = filter.grpc.as_ref().map(|grpc| &*grpc.allowed_headers).filter(|told| !told.is_empty());
                Protocol::Grpc(GrpcCheck { include: told.map(HeaderSet::exactly) })
            }
        };
        let most = filter.forward_body.and_then(|body| body.max_size).map_or(0, |size| size.get());
        let max_bytes = usize::try_from(most.min(MAX_TOLD_BODY)).unwrap_or(0);
        Self {
            host: backend.host.as_ref().map_or_else(String::new, |host| host.name().to_owned()),
            port: backend.port.unwrap_or(HTTP_PORT),
            place: Place::Backend(backend),
            timeout: ROUTE_TIMEOUT,
            fail_open: false,
            status_on_error: StatusCode::FORBIDDEN,
            body: (max_bytes > 0).then_some(BodyInCheck { max_bytes, allows_partial: false, as_bytes: false }),
            protocol,
        }
    }

    pub(crate) fn kind(&self) -> ProviderKind {
        match self.protocol {
            Protocol::Http(_) => ProviderKind::Http,
            Protocol::Grpc(_) => ProviderKind::Grpc,
        }
    }

    /// The endpoints to ask, as a client sees them; `None` if the mesh has no such service or port.
    pub fn cluster<'v>(&self, view: &'v MeshView, client: Client<'_>) -> Option<&'v Arc<Cluster>> {
        match &self.place {
            Place::Host(namespace) => match view.find(&self.host, Sight::of_all(namespace))? {
                Host::Service(service) => service.cluster_of(client, self.port, ""),
                Host::Virtual(_) | Host::Passthrough(_) => None,
            },
            Place::Backend(target) => view.query(self.port, client, 0).target(target).map(|(_, cluster)| cluster),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: serde_json::Value) -> HttpCheck {
        HttpCheck::of(&serde_json::from_value(config).unwrap())
    }

    fn headers(all: &[(&str, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn an_authorizer_is_told_the_headers_that_are_listed_and_the_fixed_ones() {
        let check = check(serde_json::json!({
            "includeRequestHeadersInCheck": ["X-Auth-*", "*-token", "cookie", "content-length"],
            "includeHeadersInCheck": ["x-old"],
            "includeAdditionalHeadersInCheck": {"x-auth-fixed": "1"},
        }));
        let all = [
            ("x-auth-a", "a"),
            ("x-auth-fixed", "forged"),
            ("my-token", "t"),
            ("cookie", "c=1"),
            ("cookie", "d=2"),
            ("x-old", "o"),
            ("content-length", "7"),
        ];
        let wanted =
            [("x-auth-a", "a"), ("my-token", "t"), ("cookie", "c=1"), ("cookie", "d=2"), ("x-auth-fixed", "1")];
        assert_eq!(check.told(&headers(&all)), headers(&wanted));
    }

    #[test]
    fn a_route_has_an_authorizer_told_what_it_lists_and_hears_all_but_what_describes_the_answer() {
        let http = |config: serde_json::Value| HttpCheck::of_route(&serde_json::from_value(config).unwrap());
        let request = headers(&[("authorization", "a"), ("x-a", "a"), ("x-b", "b"), ("content-length", "7")]);
        let least = http(serde_json::json!({}));
        assert_eq!(least.told(&request), headers(&[("authorization", "a")]));
        let more =
            http(serde_json::json!({"allowedHeaders": ["X-A"], "allowedResponseHeaders": ["x-user", "content-type"]}));
        assert_eq!(more.told(&request), headers(&[("authorization", "a"), ("x-a", "a")]));
        let answer = headers(&[("x-user", "ann"), ("x-b", "b"), ("content-type", "text/plain"), ("date", "now")]);
        assert_eq!(least.to_workload(&answer), headers(&[("x-user", "ann"), ("x-b", "b")]));
        assert_eq!(more.to_workload(&answer), headers(&[("x-user", "ann"), ("content-type", "text/plain")]));
        assert_eq!(least.with_refusal(&answer), answer);
        assert!(least.with_response(&answer).is_empty());
    }

    #[test]
    fn headers_of_the_answer_go_where_they_are_listed() {
        let answer = headers(&[("x-user", "ann"), ("location", "/login"), ("set-cookie", "s"), ("x-other", "o")]);
        let nothing = check(serde_json::json!({}));
        assert_eq!(nothing.to_workload(&answer), HeaderMap::new());
        assert_eq!(nothing.with_response(&answer), HeaderMap::new());
        assert_eq!(nothing.with_refusal(&answer), answer, "all, if none are listed");
        let some = check(serde_json::json!({
            "headersToUpstreamOnAllow": ["x-user"],
            "headersToDownstreamOnAllow": ["set-*"],
            "headersToDownstreamOnDeny": ["x-user"],
        }));
        assert_eq!(some.to_workload(&answer), headers(&[("x-user", "ann")]));
        assert_eq!(some.with_response(&answer), headers(&[("set-cookie", "s")]));
        assert_eq!(some.with_refusal(&answer), headers(&[("x-user", "ann"), ("location", "/login")]));
    }
}
