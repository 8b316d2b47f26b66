//! VirtualService: how requests to a host are routed. Rules: Istio's `pkg/config/validation/virtualservice.go`.

use std::collections::BTreeMap;

use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;
use weft_wire::id::Namespace;

use super::names::{
    Export, check_export_to, check_subnets, is_fqdn, is_ip, is_name, is_subnet, read_name, warn_of_no_service,
};
use crate::{
    api::{
        core::Base64,
        values::{Int, Labels, NonEmpty, Percent, Port, Span, StringMatch, Timeout},
    },
    document::Checker,
    headers::{Template, TemplateError, is_of_connection},
    hosts::HostPattern,
    kinds::Resource,
    retry::RetryPolicy,
    rewrite::RegexRewrite as CompiledRewrite,
};

/// Largest body of a direct response, in bytes.
const MAX_BODY_LEN: usize = 1024 * 1024;
/// The gateway that stands for all clients inside the mesh.
pub(crate) const MESH_GATEWAY: &str = "mesh";

/// How requests to some hosts are routed: the first rule that matches decides.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct VirtualService {
    /// Which hosts it is for. A name without a dot is a service of the document's namespace.
    pub hosts: Vec<String>,
    /// Where it holds: gateways, or `mesh` for clients inside the mesh, which is the default.
    pub gateways: Vec<String>,
    pub http: Vec<HttpRoute>,
    pub tls: Vec<TlsRoute>,
    pub tcp: Vec<TcpRoute>,
    /// The namespaces that see it: `.` for its own, `*` for all, which is the default.
    pub export_to: Vec<String>,
}

/// One rule for HTTP.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpRoute {
    /// Shows in logs and metrics.
    pub name: String,
    /// The rule holds for requests that match any of these; for all if there is none.
    #[serde(rename = "match")]
    pub matches: Vec<HttpMatchRequest>,
    /// Where requests go, by weight.
    pub route: Vec<HttpRouteDestination>,
    pub redirect: Option<HttpRedirect>,
    pub direct_response: Option<HttpDirectResponse>,
    /// A VirtualService without hosts that has the rules for these requests.
    pub delegate: Option<Delegate>,
    pub rewrite: Option<HttpRewrite>,
    /// Bounds the whole exchange, retries with it. Without it there is no limit.
    pub timeout: Option<Timeout>,
    pub retries: Option<HttpRetry>,
    pub fault: Option<HttpFaultInjection>,
    pub mirror: Option<Destination>,
    pub mirrors: Vec<HttpMirrorPolicy>,
    /// Old form of `mirrorPercentage`.
    pub mirror_percent: Option<Int<0, 100>>,
    /// Share of requests that `mirror` gets; 100 if absent.
    pub mirror_percentage: Option<Percent>,
    pub cors_policy: Option<CorsPolicy>,
    pub headers: Option<Headers>,
    pub session_persistence: Option<SessionPersistence>,
}

/// What a request must be: all conditions hold together.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpMatchRequest {
    pub name: String,
    /// The path, without query.
    pub uri: Option<StringMatch>,
    pub scheme: Option<StringMatch>,
    pub method: Option<StringMatch>,
    pub authority: Option<StringMatch>,
    pub headers: BTreeMap<String, StringMatch>,
    /// The port that the client dialled.
    pub port: Option<Port>,
    /// Labels of the client.
    pub source_labels: Labels,
    pub gateways: Vec<String>,
    pub query_params: BTreeMap<String, StringMatch>,
    /// For exact and prefix matches of the path.
    pub ignore_uri_case: bool,
    /// Conditions that must not hold.
    pub without_headers: BTreeMap<String, StringMatch>,
    pub source_namespace: String,
    pub stat_prefix: String,
}

/// Where a share of the requests goes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteDestination {
    pub destination: Destination,
    /// Its part of the sum of all weights. A single destination needs none.
    #[serde(default)]
    pub weight: Option<Int<0, { i32::MAX as i64 }>>,
    #[serde(default)]
    pub headers: Option<Headers>,
}

/// Where a share of the connections goes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteDestination {
    pub destination: Destination,
    #[serde(default)]
    pub weight: Option<Int<0, { i32::MAX as i64 }>>,
}

/// A service, or a part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Destination {
    pub host: String,
    /// A subset that a DestinationRule of the host has.
    #[serde(default)]
    pub subset: String,
    /// Needed where the service has several ports and the client's is not meant.
    #[serde(default)]
    pub port: Option<PortSelector>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortSelector {
    pub number: Port,
}

/// Another VirtualService.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Delegate {
    pub name: String,
    /// That of this document if empty.
    pub namespace: String,
}

/// Sends the client elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpRedirect {
    pub uri: String,
    /// Replaces the prefix that matched, and keeps the rest of the path.
    pub prefix_rewrite: String,
    pub authority: String,
    pub port: Option<Port>,
    pub derive_port: Option<RedirectPortSelection>,
    pub scheme: String,
    /// 301 if absent.
    pub redirect_code: Option<Int<300, 399>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RedirectPortSelection {
    FromProtocolDefault,
    FromRequestPort,
}

/// An answer that the proxy gives itself.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpDirectResponse {
    pub status: Int<200, 599>,
    #[serde(default)]
    pub body: Option<HttpBody>,
}

/// One of `string` and `bytes` (base64).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpBody {
    pub string: Option<String>,
    pub bytes: Option<Base64>,
}

/// What goes upstream instead of what came.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpRewrite {
    /// Replaces what the rule's condition on the path matched.
    pub uri: String,
    pub authority: String,
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegexRewrite {
    #[serde(rename = "match")]
    pub pattern: String,
    /// May name groups as `\1`.
    pub rewrite: NonEmpty,
}

/// A client's requests go to the endpoint that its first one went to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SessionPersistence {
    /// `COOKIE` if absent.
    #[serde(rename = "type")]
    pub kind: Option<SessionPersistenceType>,
    pub absolute_timeout: Option<Timeout>,
    pub cookie: Option<SessionCookie>,
    pub header: Option<SessionHeader>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SessionPersistenceType {
    #[default]
    Cookie,
    Header,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SessionCookie {
    pub name: String,
    pub path: String,
    /// `SESSION` if absent.
    pub lifetime_type: Option<CookieLifetime>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CookieLifetime {
    Session,
    /// Ends with `absoluteTimeout`.
    Permanent,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionHeader {
    pub name: String,
}

impl SessionPersistence {
    fn check(&self, checker: &mut Checker<'_>) {
        let fits = match self.kind.unwrap_or_default() {
            SessionPersistenceType::Cookie => self.header.is_none(),
            SessionPersistenceType::Header => self.header.is_some() && self.cookie.is_none(),
        };
        if !fits {
            checker.error("type must match what is given: cookie for COOKIE, header for HEADER");
        }
        let lifetime = self.cookie.as_ref().and_then(|cookie| cookie.lifetime_type);
        if lifetime == Some(CookieLifetime::Permanent) && self.absolute_timeout.is_none() {
            checker.error("a cookie with lifetimeType PERMANENT needs absoluteTimeout");
        }
        checker.given("header", &self.header, |checker, header| {
            if !is_header_name(&header.name) {
                checker.error_in("name", format!("{:?} is not a header's name", header.name));
            }
        });
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpRetry {
    /// Tries after the first; 0, or none given, switches retries off.
    pub attempts: Option<Int<0, { i32::MAX as i64 }>>,
    pub per_try_timeout: Option<Span<0>>,
    /// Conditions joined by commas, such as `5xx,reset`; a number is a status code.
    pub retry_on: String,
    pub retry_remote_localities: Option<bool>,
    pub retry_ignore_previous_hosts: Option<bool>,
    /// Wait before the first retry; 25 ms if absent.
    pub backoff: Option<Timeout>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpFaultInjection {
    pub delay: Option<FaultDelay>,
    pub abort: Option<FaultAbort>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FaultDelay {
    /// Old form of `percentage`.
    pub percent: Option<Int<0, 100>>,
    pub fixed_delay: Option<Timeout>,
    pub exponential_delay: Option<Timeout>,
    /// Share of requests; without it, none.
    pub percentage: Option<Percent>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FaultAbort {
    pub http_status: Option<Int<200, 599>>,
    /// A gRPC status by name, such as `UNAVAILABLE`.
    pub grpc_status: Option<GrpcStatus>,
    pub http2_error: Option<String>,
    /// Share of requests; without it, none.
    pub percentage: Option<Percent>,
}

/// gRPC's status codes, in order of their numbers (<https://grpc.io/docs/guides/status-codes/>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum GrpcStatus {
    Ok,
    Cancelled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}

impl GrpcStatus {
    /// Its number, as `grpc-status` has it.
    pub fn code(self) -> u16 {
        self as u16 // declared in order of their numbers
    }
}

/// A copy of a share of the requests goes here; its answer is dropped.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpMirrorPolicy {
    pub destination: Destination,
    /// 100 if absent.
    #[serde(default)]
    pub percentage: Option<Percent>,
}

/// Cross-origin requests (<https://fetch.spec.whatwg.org/#http-cors-protocol>).
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CorsPolicy {
    /// Old form of `allowOrigins`: exact names.
    pub allow_origin: Vec<String>,
    pub allow_origins: Vec<StringMatch>,
    pub allow_methods: Vec<String>,
    pub allow_headers: Vec<String>,
    pub expose_headers: Vec<String>,
    pub max_age: Option<Span<0>>,
    pub allow_credentials: Option<bool>,
    pub unmatched_preflights: Option<UnmatchedPreflights>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UnmatchedPreflights {
    Unspecified,
    /// To the service: the default.
    Forward,
    /// Answered by the proxy, without the headers that would allow the request.
    Ignore,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Headers {
    pub request: Option<HeaderOperations>,
    pub response: Option<HeaderOperations>,
}

/// Headers to remove, then to set (replacing), then to add (beside what there is).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HeaderOperations {
    pub set: BTreeMap<String, String>,
    pub add: BTreeMap<String, String>,
    pub remove: Vec<String>,
}

/// One rule for TLS that passes through, by server name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TlsRoute {
    #[serde(rename = "match")]
    pub matches: Vec<TlsMatchAttributes>,
    pub route: Vec<RouteDestination>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TlsMatchAttributes {
    pub sni_hosts: Vec<String>,
    pub destination_subnets: Vec<String>,
    pub port: Option<Port>,
    pub source_labels: Labels,
    pub gateways: Vec<String>,
    pub source_namespace: String,
}

/// One rule for TCP.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TcpRoute {
    #[serde(rename = "match")]
    pub matches: Vec<L4MatchAttributes>,
    pub route: Vec<RouteDestination>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct L4MatchAttributes {
    pub destination_subnets: Vec<String>,
    pub port: Option<Port>,
    pub source_subnet: String,
    pub source_labels: Labels,
    pub gateways: Vec<String>,
    pub source_namespace: String,
}

impl VirtualService {
    /// Whether it holds rules for others to delegate to, and no hosts of its own.
    pub(crate) fn is_delegate(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Whether it holds for clients inside the mesh.
    pub(crate) fn is_for_mesh(&self) -> bool {
        self.gateways.is_empty() || self.gateways.iter().any(|gateway| gateway == MESH_GATEWAY)
    }
}

impl Resource for VirtualService {
    fn check(&self, checker: &mut Checker<'_>) {
        if self.is_delegate() {
            self.check_delegate(checker);
        } else {
            self.check_hosts(checker);
        }
        self.check_gateways(checker);
        if self.http.is_empty() && self.tls.is_empty() && self.tcp.is_empty() {
            checker.error("http, tcp or tls must be given");
        }
        checker.each("http", &self.http, |checker, rule| rule.check(self, checker));
        checker.each("tls", &self.tls, |checker, rule| rule.check(self, checker));
        checker.each("tcp", &self.tcp, |checker, rule| rule.check(checker));
        check_export_to(&self.export_to, Export::Namespaces, checker);
        let names = self.gateways.iter().any(|gateway| gateway != MESH_GATEWAY);
        checker.pending("gateways", names);
        checker.pending("tls", !self.tls.is_empty());
    }
}

impl VirtualService {
    fn check_delegate(&self, checker: &mut Checker<'_>) {
        if !self.gateways.is_empty() {
            checker.error_in("gateways", "must be empty in a VirtualService without hosts, which others delegate to");
        }
        for (key, given) in [("tls", !self.tls.is_empty()), ("tcp", !self.tcp.is_empty())] {
            if given {
                checker.error_in(key, "a VirtualService without hosts, which others delegate to, has only http");
            }
        }
        checker.each("http", &self.http, |checker, rule| {
            if rule.delegate.is_some() {
                checker.error_in("delegate", "a rule that is delegated to must not delegate further");
            }
        });
    }

    /// No two hosts may overlap: which of them holds would depend on their order.
    fn check_hosts(&self, checker: &mut Checker<'_>) {
        let mut seen: Vec<HostPattern> = Vec::new();
        let (namespace, for_mesh) = (checker.namespace(), self.is_for_mesh());
        checker.each("hosts", &self.hosts, |checker, text| {
            let host = match read_name(text, &namespace) {
                Ok(host) => host,
                // At a gateway clients may ask for an address.
                Err(_) if is_ip(text) => return,
                Err(what) => return checker.error(what),
            };
            if host.is_everything() && for_mesh {
                checker.error("* is not allowed on the gateway mesh: name the services");
            }
            if let Some(other) = seen.iter().find(|other| other.overlaps(&host)) {
                checker.error(format!("{host} overlaps with {other} of the same document"));
            }
            if for_mesh {
                warn_of_no_service(&host, checker);
            }
            seen.push(host);
        });
    }

    fn check_gateways(&self, checker: &mut Checker<'_>) {
        checker.each("gateways", &self.gateways, |checker, gateway| check_gateway_name(gateway, checker));
    }
}

/// `gateway`, `namespace/gateway` or `mesh`. Without a namespace it may also be an old full name.
fn check_gateway_name(gateway: &str, checker: &mut Checker<'_>) {
    let is_right = match gateway.split_once('/') {
        Some((namespace, name)) => is_name(namespace) && is_name(name),
        None => is_fqdn(gateway),
    };
    if !is_right {
        checker.error(format!("{gateway:?} is not NAME, NAMESPACE/NAME or mesh"));
    } else if gateway.contains('.') {
        checker.warn("is an old form: write NAMESPACE/NAME");
    }
}

impl Destination {
    pub(crate) fn check(&self, checker: &mut Checker<'_>) {
        let namespace = checker.namespace();
        match read_name(&self.host, &namespace) {
            Ok(host) if host.is_everything() => checker.error_in("host", "must be a host, not *"),
            Ok(host) => checker.field("host", |checker| warn_of_no_service(&host, checker)),
            Err(what) => checker.error_in("host", what),
        }
        if !self.subset.is_empty() && !is_name(&self.subset) {
            checker.error_in("subset", "must be the name of a subset: letters, digits and '-'");
        }
    }

    /// The host, fully qualified.
    pub(crate) fn fqdn(&self, namespace: &Namespace) -> String {
        HostPattern::read(&self.host, namespace).map_or_else(|_| self.host.clone(), |host| host.to_string())
    }
}

/// Of several destinations at least one needs a weight. (Istio does not ask that they sum up to 100.)
fn check_weights<'a>(weights: impl ExactSizeIterator<Item = Option<i64>> + 'a, checker: &mut Checker<'_>) {
    if weights.len() > 1 && weights.map(Option::unwrap_or_default).sum::<i64>() == 0 {
        checker.error_in("route", "the weights of several destinations must not all be 0");
    }
}

impl HttpRoute {
    fn check(&self, service: &VirtualService, checker: &mut Checker<'_>) {
        self.check_actions(service.is_delegate(), checker);
        checker.each("match", &self.matches, |checker, one| one.check(service.is_for_mesh(), checker));
        checker.each("route", &self.route, |checker, share| {
            checker.field("destination", |checker| share.destination.check(checker));
            checker.given("headers", &share.headers, |checker, headers| headers.check(checker));
        });
        check_weights(self.route.iter().map(|share| share.weight.map(Int::get)), checker);
        checker.given("redirect", &self.redirect, |checker, redirect| redirect.check(&self.matches, checker));
        checker.given("directResponse", &self.direct_response, |checker, response| response.check(checker));
        checker.given("rewrite", &self.rewrite, |checker, rewrite| rewrite.check(checker));
        checker.given("retries", &self.retries, |checker, retries| retries.check(checker));
        checker.given("fault", &self.fault, |checker, fault| fault.check(checker));
        checker.given("mirror", &self.mirror, |checker, mirror| mirror.check(checker));
        checker.each("mirrors", &self.mirrors, |checker, mirror| {
            checker.field("destination", |checker| mirror.destination.check(checker));
        });
        checker.given("corsPolicy", &self.cors_policy, |checker, policy| policy.check(checker));
        checker.given("headers", &self.headers, |checker, headers| headers.check(checker));
        self.check_authority(checker);
        checker.given("sessionPersistence", &self.session_persistence, |checker, session| session.check(checker));
        checker.pending("sessionPersistence", self.session_persistence.is_some());
    }

    /// What a rule does: exactly one thing.
    fn check_actions(&self, in_delegate: bool, checker: &mut Checker<'_>) {
        let (route, redirect) = (("route", !self.route.is_empty()), ("redirect", self.redirect.is_some()));
        let response = ("directResponse", self.direct_response.is_some());
        let delegate = ("delegate", self.delegate.is_some());
        if in_delegate {
            checker.exactly_one(&[route, redirect, response]);
        } else {
            checker.exactly_one(&[route, redirect, response, delegate]);
        }
        let (fault, rewrite) = (("fault", self.fault.is_some()), ("rewrite", self.rewrite.is_some()));
        for other in [fault, rewrite] {
            checker.at_most_one(&[redirect, other]);
        }
        checker.at_most_one(&[response, rewrite]);
        checker.at_most_one(&[response, fault]);
        checker.at_most_one(&[("mirror", self.mirror.is_some()), ("mirrors", !self.mirrors.is_empty())]);
        checker.given("delegate", &self.delegate, |checker, delegate| {
            checker.require("name", !delegate.name.is_empty());
            if !delegate.namespace.is_empty() && delegate.namespace.parse::<Namespace>().is_err() {
                checker.error_in("namespace", "must be a namespace");
            }
        });
        if self.mirror.is_none() && (self.mirror_percent.is_some() || self.mirror_percentage.is_some()) {
            checker.warn("has a share of mirrored requests, but no mirror");
        }
        if self.mirror_percent.is_some() {
            checker.warn_in("mirrorPercent", "is deprecated: use mirrorPercentage");
        }
    }

    /// Host can be set in several places, but only in one at a time.
    fn check_authority(&self, checker: &mut Checker<'_>) {
        let rewritten = self.rewrite.as_ref().is_some_and(|rewrite| !rewrite.authority.is_empty());
        let request = self.headers.as_ref().and_then(|headers| headers.request.as_ref());
        let set = request.map_or(0, |request| {
            request.set.keys().chain(request.add.keys()).filter(|name| is_authority(name)).count()
        });
        if set + usize::from(rewritten) > 1 {
            checker.error("sets the authority twice, in rewrite.authority or headers.request: leave one out");
        }
    }
}

/// Whether a header operation means the request's host.
pub(crate) fn is_authority(name: &str) -> bool {
    name == ":authority" || name.eq_ignore_ascii_case("host")
}

impl HttpMatchRequest {
    fn check(&self, for_mesh: bool, checker: &mut Checker<'_>) {
        for (key, conditions) in [("headers", &self.headers), ("withoutHeaders", &self.without_headers)] {
            checker.field(key, |checker| {
                for name in conditions.keys() {
                    check_matched_header(name, for_mesh, checker);
                    checker.pending(name, name.starts_with('@'));
                }
            });
        }
        checker.field("queryParams", |checker| {
            if self.query_params.contains_key("") {
                checker.error("the name of a parameter must not be empty");
            }
        });
        checker.each("gateways", &self.gateways, |checker, gateway| check_gateway_name(gateway, checker));
        if !self.source_namespace.is_empty() && !is_name(&self.source_namespace) {
            checker.error_in("sourceNamespace", "must be a namespace");
        }
        let of_gateway = |gateway: &String| gateway != MESH_GATEWAY;
        checker.pending("gateways", self.gateways.iter().any(of_gateway));
    }

    /// Whether it asks for the path alone, by a prefix.
    fn is_by_prefix(&self) -> bool {
        matches!(self.uri, Some(StringMatch::Prefix(_)))
    }
}

fn check_matched_header(name: &str, for_mesh: bool, checker: &mut Checker<'_>) {
    if name.starts_with('@') {
        // `@request.auth.claims.NAME`: a claim of the caller's token.
        let claim = name.strip_prefix("@request.auth.claims.").or_else(|| name.strip_prefix("@request.auth.claims["));
        if claim.is_none_or(str::is_empty) {
            checker.error_in(name, "must be @request.auth.claims.NAME or @request.auth.claims[NAME]");
        } else if for_mesh {
            checker.error_in(name, "is a claim: it can be matched at gateways only, so gateways must name some");
        }
    } else if name.starts_with(':') {
        if ![":method", ":authority", ":scheme"].contains(&name) {
            checker.error_in(name, "is not one of :method, :authority, :scheme; match the path by uri");
        }
    } else if !is_header_name(name) {
        checker.error_in(name, "is not a header's name");
    }
}

/// The names of headers that conditions may ask for: Istio lets them have letters, digits, `-` and `_`.
pub(crate) fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

impl HttpRedirect {
    fn check(&self, matches: &[HttpMatchRequest], checker: &mut Checker<'_>) {
        let (by_uri, by_prefix) = (!self.uri.is_empty(), !self.prefix_rewrite.is_empty());
        let sets_port = self.port.is_some() || self.derive_port.is_some();
        if !by_uri && !by_prefix && self.authority.is_empty() && !sets_port && self.scheme.is_empty() {
            checker.error("must set uri, prefixRewrite, authority, port or scheme");
        }
        checker.at_most_one(&[("uri", by_uri), ("prefixRewrite", by_prefix)]);
        checker.at_most_one(&[("port", self.port.is_some()), ("derivePort", self.derive_port.is_some())]);
        if !self.scheme.is_empty() && !["http", "https"].contains(&self.scheme.as_str()) {
            checker.error_in("scheme", "must be http or https");
        }
        let code = self.redirect_code.map_or(301, Int::get);
        checker.pending("redirectCode", ![301, 302, 303, 307, 308].contains(&code));
        let all_by_prefix = !matches.is_empty() && matches.iter().all(HttpMatchRequest::is_by_prefix);
        for (key, given) in [("uri", self.uri.contains("%PREFIX()%")), ("prefixRewrite", by_prefix)] {
            if given && !all_by_prefix {
                checker.error_in(key, "replaces a prefix: every match must have a prefix of uri");
            }
        }
    }
}

impl HttpDirectResponse {
    fn check(&self, checker: &mut Checker<'_>) {
        checker.given("body", &self.body, |checker, body| {
            checker.exactly_one(&[("string", body.string.is_some()), ("bytes", body.bytes.is_some())]);
            let len =
                body.string.as_ref().map_or(0, String::len) + body.bytes.as_ref().map_or(0, |bytes| bytes.0.len());
            if len > MAX_BODY_LEN {
                checker.error(format!("has {len} bytes; {MAX_BODY_LEN} are the most"));
            } else if len > 100 * 1024 {
                checker.warn("is large: every node keeps it in memory");
            }
        });
    }
}

impl HttpBody {
    /// What is sent; `None` for neither.
    pub(crate) fn content(&self) -> Option<Vec<u8>> {
        match (&self.string, &self.bytes) {
            (Some(text), _) => Some(text.clone().into_bytes()),
            (None, bytes) => bytes.as_ref().map(|bytes| bytes.0.clone()),
        }
    }
}

impl HttpRewrite {
    fn check(&self, checker: &mut Checker<'_>) {
        let by_regex = self.uri_regex_rewrite.is_some();
        if self.uri.is_empty() && self.authority.is_empty() && !by_regex {
            checker.error("must give uri, uriRegexRewrite or authority");
        }
        checker.at_most_one(&[("uri", !self.uri.is_empty()), ("uriRegexRewrite", by_regex)]);
        if !self.uri.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
            checker.error_in("uri", "must be a path: visible ASCII without '#'");
        }
        if !self.authority.is_empty() && !is_authority_value(&self.authority) {
            checker.error_in("authority", format!("{:?} must be HOST or HOST:PORT", self.authority));
        }
        checker.given("uriRegexRewrite", &self.uri_regex_rewrite, |checker, rewrite| {
            if let Err(what) = CompiledRewrite::new(&rewrite.pattern, &rewrite.rewrite) {
                checker.error(what);
            }
        });
    }
}

/// User information has no place in a Host header.
fn is_authority_value(text: &str) -> bool {
    text.parse::<http::uri::Authority>().is_ok() && !text.contains('@')
}

impl HttpRetry {
    pub(crate) fn check(&self, checker: &mut Checker<'_>) {
        if let Err(what) = RetryPolicy::default().retry_on(&self.retry_on) {
            checker.error_in("retryOn", what);
        }
        checker.pending("retryRemoteLocalities", self.retry_remote_localities == Some(true));
        let detail =
            !self.retry_on.is_empty() || self.per_try_timeout.is_some() || self.retry_remote_localities.is_some();
        if self.attempts.is_none_or(|attempts| attempts.get() == 0) && detail {
            checker
                .error("attempts is 0 or absent, which switches retries off: give it, or leave the other fields out");
        }
    }
}

impl HttpFaultInjection {
    fn check(&self, checker: &mut Checker<'_>) {
        if self.delay.is_none() && self.abort.is_none() {
            checker.error("must give delay or abort");
        }
        checker.given("delay", &self.delay, |checker, delay| {
            if delay.exponential_delay.is_some() {
                checker.error_in("exponentialDelay", "is not implemented, here as in Istio: use fixedDelay");
            }
            checker.at_most_one(&[
                ("fixedDelay", delay.fixed_delay.is_some()),
                ("exponentialDelay", delay.exponential_delay.is_some()),
            ]);
            if delay.fixed_delay.is_none() {
                checker.warn("has no effect without fixedDelay");
            }
        });
        checker.given("abort", &self.abort, |checker, abort| {
            if abort.http2_error.is_some() {
                checker.error_in("http2Error", "is not supported, here as in Istio: use httpStatus or grpcStatus");
            }
            checker.at_most_one(&[
                ("httpStatus", abort.http_status.is_some()),
                ("grpcStatus", abort.grpc_status.is_some()),
            ]);
            if abort.http_status.is_none() && abort.grpc_status.is_none() {
                checker.warn("has no effect without httpStatus or grpcStatus");
            }
        });
    }
}

/// The methods that a CORS policy may name.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"];

impl CorsPolicy {
    fn check(&self, checker: &mut Checker<'_>) {
        checker.each("allowMethods", &self.allow_methods, |checker, method| {
            if method != "*" && !METHODS.contains(&method.as_str()) {
                checker.error(format!("{method:?} is not one of {}", METHODS.join(", ")));
            }
        });
        for (key, names) in [("allowHeaders", &self.allow_headers), ("exposeHeaders", &self.expose_headers)] {
            checker.each(key, names, |checker, name| {
                if name != "*" && !is_header_name(name) {
                    checker.error(format!("{name:?} is not a header's name"));
                }
            });
        }
        checker.each("allowOrigins", &self.allow_origins, |checker, origin| {
            if *origin == StringMatch::Any || *origin == StringMatch::Exact(String::new()) {
                checker.error("must give one of exact, prefix, suffix and regex");
            }
        });
        checker.given("maxAge", &self.max_age, |checker, age| {
            if age.get().subsec_nanos() != 0 {
                checker.error("must be whole seconds");
            }
        });
    }
}

impl Headers {
    pub(crate) fn check(&self, checker: &mut Checker<'_>) {
        checker.given("request", &self.request, |checker, operations| operations.check(true, checker));
        checker.given("response", &self.response, |checker, operations| operations.check(false, checker));
    }
}

impl HeaderOperations {
    fn check(&self, of_request: bool, checker: &mut Checker<'_>) {
        for (key, values) in [("set", &self.set), ("add", &self.add)] {
            checker.field(key, |checker| {
                for (name, value) in values {
                    check_operated_header(name, of_request, checker);
                    match Template::read(value) {
                        Ok(template) => checker.pending(name, template.reads_request() && !of_request),
                        Err(TemplateError::NotYet) => checker.pending(name, true),
                        Err(TemplateError::Malformed(what)) => checker.error_in(name, what),
                    }
                }
            });
        }
        checker.each("remove", &self.remove, |checker, name| {
            if is_authority(name) {
                checker.error("a request needs its host: it cannot be removed");
            } else {
                check_operated_header(name, false, checker);
            }
        });
    }
}

fn check_operated_header(name: &str, authority: bool, checker: &mut Checker<'_>) {
    if is_authority(name) {
        if !authority {
            checker.error_in(name, "may be set in requests only");
        }
    } else if name.starts_with(':') {
        checker.error_in(name, "is a pseudo-header: only :authority may be set");
    } else {
        match HeaderName::from_bytes(name.as_bytes()) {
            Err(_) => checker.error_in(name, "is not a header's name"),
            Ok(known) if is_of_connection(&known) => {
                checker.warn_in(name, "has no effect: the header belongs to one connection, not to the request");
            }
            Ok(_) => {}
        }
    }
}

impl TlsRoute {
    fn check(&self, service: &VirtualService, checker: &mut Checker<'_>) {
        if self.matches.is_empty() {
            checker.error_in("match", "a rule for TLS needs at least one match");
        }
        let namespace = checker.namespace();
        let hosts: Vec<_> = service.hosts.iter().filter_map(|host| HostPattern::read(host, &namespace).ok()).collect();
        checker.each("match", &self.matches, |checker, one| {
            if one.sni_hosts.is_empty() {
                checker.error_in("sniHosts", "needs at least one name");
            }
            checker.each("sniHosts", &one.sni_hosts, |checker, name| match HostPattern::read(name, &namespace) {
                _ if is_ip(name) => checker.warn("is an address: clients send none as a server name"),
                Err(what) => checker.error(what),
                Ok(name) if !hosts.iter().any(|host| host.covers(&name)) => {
                    checker.error(format!("{name} is not one of the document's hosts"));
                }
                Ok(_) => {}
            });
            check_subnets("destinationSubnets", &one.destination_subnets, checker);
            checker.each("gateways", &one.gateways, |checker, gateway| check_gateway_name(gateway, checker));
        });
        check_connection_routes(&self.route, checker);
    }
}

impl TcpRoute {
    fn check(&self, checker: &mut Checker<'_>) {
        checker.each("match", &self.matches, |checker, one| {
            check_subnets("destinationSubnets", &one.destination_subnets, checker);
            checker.pending("destinationSubnets", !one.destination_subnets.is_empty());
            checker.pending("sourceSubnet", !one.source_subnet.is_empty());
            if !one.source_subnet.is_empty() && !is_subnet(&one.source_subnet) {
                checker.error_in("sourceSubnet", "is not an address or a CIDR range");
            }
            checker.each("gateways", &one.gateways, |checker, gateway| check_gateway_name(gateway, checker));
        });
        check_connection_routes(&self.route, checker);
    }
}

fn check_connection_routes(routes: &[RouteDestination], checker: &mut Checker<'_>) {
    if routes.is_empty() {
        checker.error_in("route", "needs at least one destination");
    }
    checker.each("route", routes, |checker, share| {
        checker.field("destination", |checker| share.destination.check(checker));
    });
    check_weights(routes.iter().map(|share| share.weight.map(Int::get)), checker);
}
