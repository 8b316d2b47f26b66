//! HTTPRoute: how HTTP requests to a gateway or a service are routed.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Backend, BackendObjectReference, CorsOrigin, Duration, GatewayDefaultScope, HeaderName, HeaderValue, Hostname,
    LocalObjectReference, ParentReferences, PreciseHostname, SectionName,
    layer4::check_hostnames,
    references::{Weight, backend_ref, check_parents, weight_one},
};
use crate::{
    api::values::{Int, List, NonEmpty, Port},
    document::Checker,
    kinds::Resource,
    pattern::Pattern,
    session,
};

/// Most matches of all rules together.
const MAX_MATCHES: usize = 128;
/// Longest path, or value of a query parameter, to match, in characters.
pub(super) const MAX_VALUE_CHARS: usize = 1024;

/// How HTTP requests to some hosts are routed: of all rules that match, the most specific one decides.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRoute {
    #[serde(default)]
    pub parent_refs: ParentReferences,
    #[serde(default)]
    pub use_default_gateways: Option<GatewayDefaultScope>,
    /// Hosts; all of the parent's if there are none.
    #[serde(default)]
    pub hostnames: List<Hostname, 0, 16>,
    #[serde(default = "one_rule")]
    pub rules: List<HttpRouteRule, 1, 16>,
}

fn one_rule() -> List<HttpRouteRule, 1, 16> {
    List::of_one(HttpRouteRule::default())
}

/// One rule: conditions, what is done to the request, and where it goes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpRouteRule {
    pub name: Option<SectionName>,
    /// The rule holds for requests that match any of these; for all if there is none.
    pub matches: List<HttpRouteMatch, 0, 64>,
    pub filters: List<HttpRouteFilter, 0, 16>,
    /// Where requests go, by weight. Without any, requests are answered with 500, unless a filter answers.
    pub backend_refs: List<HttpBackendRef, 0, 16>,
    pub timeouts: Option<HttpRouteTimeouts>,
    pub retry: Option<HttpRouteRetry>,
    pub session_persistence: Option<SessionPersistence>,
}

/// What a request must be: all conditions hold together.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpRouteMatch {
    pub path: HttpPathMatch,
    pub headers: List<HttpHeaderMatch, 0, 16>,
    pub query_params: List<HttpQueryParamMatch, 0, 16>,
    pub method: Option<HttpMethod>,
}

/// The path, without query.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpPathMatch {
    #[serde(rename = "type")]
    pub kind: PathMatchType,
    #[schemars(length(max = 1024))]
    pub value: String,
}

impl Default for HttpPathMatch {
    fn default() -> Self {
        Self { kind: PathMatchType::PathPrefix, value: "/".into() }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum PathMatchType {
    Exact,
    /// By whole segments: `/a` matches `/a` and `/a/b`, not `/ab`.
    #[default]
    PathPrefix,
    RegularExpression,
}

/// How a value is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ValueMatchType {
    #[default]
    Exact,
    RegularExpression,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpHeaderMatch {
    #[serde(rename = "type", default)]
    pub kind: ValueMatchType,
    pub name: HeaderName,
    pub value: HeaderValue,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpQueryParamMatch {
    #[serde(rename = "type", default)]
    pub kind: ValueMatchType,
    pub name: HeaderName,
    #[schemars(length(max = 1024))]
    pub value: NonEmpty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpMethod {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
}

impl HttpMethod {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
        }
    }
}

/// Something done to a request or its response: the field that `type` names.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteFilter {
    #[serde(rename = "type")]
    pub kind: HttpRouteFilterType,
    #[serde(default)]
    pub request_header_modifier: Option<HttpHeaderFilter>,
    #[serde(default)]
    pub response_header_modifier: Option<HttpHeaderFilter>,
    #[serde(default)]
    pub request_mirror: Option<HttpRequestMirrorFilter>,
    #[serde(default)]
    pub request_redirect: Option<HttpRequestRedirectFilter>,
    #[serde(default)]
    pub direct_response: Option<HttpDirectResponseFilter>,
    #[serde(default)]
    pub url_rewrite: Option<HttpUrlRewriteFilter>,
    #[serde(default)]
    pub cors: Option<HttpCorsFilter>,
    #[serde(default)]
    pub external_auth: Option<HttpExternalAuthFilter>,
    #[serde(default)]
    pub extension_ref: Option<LocalObjectReference>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
pub enum HttpRouteFilterType {
    RequestHeaderModifier,
    ResponseHeaderModifier,
    RequestMirror,
    RequestRedirect,
    DirectResponse,
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    #[serde(rename = "CORS")]
    Cors,
    ExternalAuth,
    ExtensionRef,
}

/// Headers to set (replacing), to add (beside what there is), and to remove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpHeaderFilter {
    pub set: List<HttpHeader, 0, 16>,
    pub add: List<HttpHeader, 0, 16>,
    pub remove: List<HeaderName, 0, 16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpHeader {
    pub name: HeaderName,
    pub value: HeaderValue,
}

/// A copy of a share of the requests goes here; its answer is dropped. All are copied if neither `percent` nor
/// `fraction` is given.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRequestMirrorFilter {
    pub backend_ref: BackendObjectReference,
    #[serde(default)]
    pub percent: Option<Int<0, 100>>,
    #[serde(default)]
    pub fraction: Option<Fraction>,
}

/// A share: `numerator` of `denominator`, which is 100 if absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fraction {
    pub numerator: Int<0, { i32::MAX as i64 }>,
    #[serde(default)]
    pub denominator: Option<Int<1, { i32::MAX as i64 }>>,
}

impl HttpRequestMirrorFilter {
    /// The share of requests that is copied: the numerator and the denominator.
    pub fn share(&self) -> (i64, i64) {
        match (self.percent, self.fraction) {
            (Some(percent), _) => (percent.get(), 100),
            (None, Some(fraction)) => (fraction.numerator.get(), fraction.denominator()),
            (None, None) => (1, 1),
        }
    }
}

impl Fraction {
    fn denominator(&self) -> i64 {
        self.denominator.map_or(100, Int::get)
    }
}

/// Sends the client elsewhere. What is not given is taken from the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpRequestRedirectFilter {
    pub scheme: Option<RedirectScheme>,
    pub hostname: Option<PreciseHostname>,
    pub path: Option<HttpPathModifier>,
    /// If absent: the scheme's own if `scheme` is given, else the listener's.
    pub port: Option<Port>,
    pub status_code: RedirectStatus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RedirectScheme {
    Http,
    Https,
}

/// An answer without any backend (GEP-2826). The Gateway API would take a status of 1xx, which answers no request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpDirectResponseFilter {
    pub status_code: Int<200, 599>,
    #[serde(default)]
    pub body: Option<HttpDirectResponseBody>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpDirectResponseBody {
    /// 4,096 characters at most.
    #[schemars(length(max = 4096))]
    pub string: String,
}

/// 301, 302, 303, 307 or 308.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Int<300, 399>")]
pub struct RedirectStatus(u16);

impl RedirectStatus {
    const ALLOWED: [u16; 5] = [301, 302, 303, 307, 308];

    pub fn code(self) -> u16 {
        self.0
    }
}

impl Default for RedirectStatus {
    fn default() -> Self {
        Self(302)
    }
}

impl TryFrom<Int<300, 399>> for RedirectStatus {
    type Error = String;

    fn try_from(code: Int<300, 399>) -> Result<Self, String> {
        let found = Self::ALLOWED.into_iter().find(|allowed| i64::from(*allowed) == code.get());
        found.map(Self).ok_or_else(|| format!("is {}; it must be one of 301, 302, 303, 307, 308", code.get()))
    }
}

impl JsonSchema for RedirectStatus {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RedirectStatus".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "enum": Self::ALLOWED })
    }
}

/// What goes upstream instead of what came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpUrlRewriteFilter {
    pub hostname: Option<PreciseHostname>,
    pub path: Option<HttpPathModifier>,
}

/// A new path: the field that `type` names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpPathModifier {
    #[serde(rename = "type")]
    pub kind: HttpPathModifierType,
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub replace_full_path: Option<String>,
    /// Replaces the prefix that the rule's only match names.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub replace_prefix_match: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum HttpPathModifierType {
    ReplaceFullPath,
    ReplacePrefixMatch,
}

/// Cross-origin requests (<https://fetch.spec.whatwg.org/#http-cors-protocol>).
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpCorsFilter {
    pub allow_origins: List<CorsOrigin, 0, 64>,
    pub allow_credentials: bool,
    pub allow_methods: List<CorsMethod, 0, 9>,
    pub allow_headers: List<HeaderName, 0, 64>,
    pub expose_headers: List<HeaderName, 0, 64>,
    /// How long a client may remember the answer to a preflight request, in seconds; 5 if absent.
    pub max_age: Int<1, { i32::MAX as i64 }>,
}

impl Default for HttpCorsFilter {
    fn default() -> Self {
        Self {
            allow_origins: List::default(),
            allow_credentials: false,
            allow_methods: List::default(),
            allow_headers: List::default(),
            expose_headers: List::default(),
            max_age: Int::constant::<5>(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum CorsMethod {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    #[serde(rename = "*")]
    Any,
}

impl CorsMethod {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
            Self::Any => "*",
        }
    }
}

/// Asks a server whether the request may pass.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpExternalAuthFilter {
    pub protocol: ExternalAuthProtocol,
    pub backend_ref: BackendObjectReference,
    #[serde(default)]
    pub grpc: Option<GrpcAuthConfig>,
    #[serde(default)]
    pub http: Option<HttpAuthConfig>,
    #[serde(default)]
    pub forward_body: Option<ForwardBodyConfig>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ExternalAuthProtocol {
    #[serde(rename = "HTTP")]
    Http,
    /// Envoy's `ext_authz`.
    #[serde(rename = "GRPC")]
    Grpc,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GrpcAuthConfig {
    /// Headers of the request that the server sees; all if there are none.
    pub allowed_headers: List<HeaderName, 0, 64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpAuthConfig {
    /// Stands before the request's path.
    #[schemars(length(max = 1024))]
    pub path: String,
    /// Headers of the request that the server sees beside Host, Method, Path, Content-Length and Authorization.
    pub allowed_headers: List<HeaderName, 0, 64>,
    /// Headers of the server's answer that go on with the request; all if there are none.
    pub allowed_response_headers: List<HeaderName, 0, 64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ForwardBodyConfig {
    /// In bytes; 0 sends no body.
    pub max_size: Option<Int<0, { i32::MAX as i64 }>>,
}

backend_ref! {
    /// Where a share of the requests goes.
    HttpBackendRef {
        /// Its part of the sum of all weights; 1 if absent.
        #[serde(default = "weight_one")]
        weight: Weight,
        /// Only for requests that go here.
        #[serde(default)]
        filters: List<HttpRouteFilter, 0, 16>,
    }
}

/// Limits of time; 0s is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpRouteTimeouts {
    /// Bounds the whole exchange, retries with it.
    pub request: Option<Duration>,
    /// Bounds each try.
    pub backend_request: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpRouteRetry {
    /// Status codes that are retried.
    pub codes: List<Int<400, 599>, 0, 200>,
    /// Tries after the first; 0 switches retries off.
    pub attempts: Option<Int<0, { i32::MAX as i64 }>>,
    /// Wait before the first retry.
    pub backoff: Option<Duration>,
}

/// Keeps a client at the endpoint that answered it first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SessionPersistence {
    /// Of the cookie or header.
    #[schemars(length(max = 128))]
    pub session_name: Option<String>,
    pub absolute_timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    #[serde(rename = "type")]
    pub kind: SessionPersistenceType,
    pub cookie_config: Option<CookieConfig>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum SessionPersistenceType {
    #[default]
    Cookie,
    Header,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CookieConfig {
    pub lifetime_type: CookieLifetimeType,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum CookieLifetimeType {
    /// As long as `absoluteTimeout` says.
    Permanent,
    #[default]
    Session,
}

impl Resource for HttpRoute {
    fn check(&self, checker: &mut Checker<'_>) {
        check_parents(&self.parent_refs, checker);
        check_hostnames(&self.hostnames, checker);
        checker.unique("rules", &self.rules, |rule| rule.name.as_ref());
        let matches: usize = self.rules.iter().map(|rule| rule.matches.len().max(1)).sum();
        check_match_count(matches, checker);
        checker.each("rules", &self.rules, |checker, rule| rule.check(checker));
        checker.pending("useDefaultGateways", self.use_default_gateways == Some(GatewayDefaultScope::All));
    }
}

pub(super) fn check_match_count(matches: usize, checker: &mut Checker<'_>) {
    if matches > MAX_MATCHES {
        checker.error_in("rules", format!("has {matches} matches in all; {MAX_MATCHES} are the most"));
    }
}

impl HttpRouteRule {
    /// All that it sends anything to, copies too.
    pub(crate) fn backends(&self) -> impl Iterator<Item = Backend<'_>> {
        let filters = self.filters.iter().chain(self.backend_refs.iter().flat_map(|backend| backend.filters.iter()));
        let of_filters = filters.flat_map(|filter| {
            let mirror = filter.request_mirror.as_ref().map(|mirror| mirror.backend_ref.object());
            mirror.into_iter().chain(filter.external_auth.as_ref().map(|auth| auth.backend_ref.object()))
        });
        self.backend_refs.iter().map(HttpBackendRef::object).chain(of_filters)
    }

    fn check(&self, checker: &mut Checker<'_>) {
        checker.each("matches", &self.matches, |checker, one| one.check(checker));
        check_filters(&self.filters, checker);
        checker.each("backendRefs", &self.backend_refs, |checker, backend| {
            backend.object().check(checker);
            check_filters(&backend.filters, checker);
            if backend.filters.iter().any(|filter| filter.direct_response.is_some()) {
                checker.error_in("filters", "a DirectResponse is for rules, not for backends");
            }
        });
        self.check_together(checker);
        checker.given("timeouts", &self.timeouts, |checker, timeouts| timeouts.check(checker));
        checker.given("retry", &self.retry, |checker, retry| {
            checker.unique("codes", &retry.codes, |code| Some(code.get()));
        });
        checker.given("sessionPersistence", &self.session_persistence, |checker, session| session.check(checker));
    }

    fn check_together(&self, checker: &mut Checker<'_>) {
        use HttpRouteFilterType as Type;
        let answers = |filter: &&HttpRouteFilter| matches!(filter.kind, Type::RequestRedirect | Type::DirectResponse);
        if let Some(filter) = self.filters.iter().find(answers).filter(|_| !self.backend_refs.is_empty()) {
            let kind = filter.kind.name();
            let problem = format!("must be empty in a rule with a {kind} filter, which answers itself");
            checker.error_in("backendRefs", problem);
        }
        let by_one_prefix = match &*self.matches {
            [] => true,
            [one] => one.path.kind == PathMatchType::PathPrefix,
            _ => false,
        };
        let of_backends = self.backend_refs.iter().flat_map(|backend| backend.filters.iter());
        if !by_one_prefix && self.filters.iter().chain(of_backends).any(HttpRouteFilter::replaces_prefix) {
            checker.error_in(
                "matches",
                "must be exactly one, of type PathPrefix, in a rule that replaces the matched prefix",
            );
        }
    }
}

impl HttpRouteTimeouts {
    fn check(&self, checker: &mut Checker<'_>) {
        if let (Some(limit), Some(try_limit)) = (self.request.and_then(Duration::limit), self.backend_request)
            && try_limit.get() > limit
        {
            checker.error_in("backendRequest", "must not be longer than request, which bounds it");
        }
    }
}

impl SessionPersistence {
    pub(super) fn check(&self, checker: &mut Checker<'_>) {
        check_chars("sessionName", self.session_name.as_deref(), 128, checker);
        let is_name = match self.kind {
            SessionPersistenceType::Cookie => session::is_cookie_name,
            SessionPersistenceType::Header => session::is_header_name,
        };
        if let Some(name) = self.session_name.as_deref().filter(|name| !is_name(name)) {
            checker
                .error_in("sessionName", format!("{name:?} cannot be the name of a cookie or of a header of its own"));
        }
        let permanent = self.cookie_config.is_some_and(|config| config.lifetime_type == CookieLifetimeType::Permanent);
        checker.require("absoluteTimeout", !permanent || self.absolute_timeout.is_some());
    }
}

impl HttpRouteMatch {
    fn check(&self, checker: &mut Checker<'_>) {
        checker.field("path", |checker| self.path.check(checker));
        checker.unique("headers", &self.headers, |header| Some(&header.name));
        checker.each("headers", &self.headers, |checker, header| check_value(header.kind, &header.value, checker));
        checker.unique("queryParams", &self.query_params, |parameter| Some(&parameter.name));
        checker.each("queryParams", &self.query_params, |checker, parameter| {
            check_chars("value", Some(&parameter.value), MAX_VALUE_CHARS, checker);
            check_value(parameter.kind, &parameter.value, checker);
        });
    }
}

/// Checks the expression in the field `value`.
pub(super) fn check_value(kind: ValueMatchType, value: &str, checker: &mut Checker<'_>) {
    if kind == ValueMatchType::RegularExpression
        && !value.is_empty()
        && let Err(what) = Pattern::new(value)
    {
        checker.error_in("value", what);
    }
}

pub(super) fn check_chars(key: &str, text: Option<&str>, max: usize, checker: &mut Checker<'_>) {
    let chars = text.map_or(0, |text| text.chars().count());
    if chars > max {
        checker.error_in(key, format!("has {chars} characters; {max} are the most"));
    }
}

impl HttpPathMatch {
    fn check(&self, checker: &mut Checker<'_>) {
        check_chars("value", Some(&self.value), MAX_VALUE_CHARS, checker);
        if self.kind == PathMatchType::RegularExpression {
            return check_value(ValueMatchType::RegularExpression, &self.value, checker);
        }
        if !self.value.starts_with('/') {
            checker.error_in("value", format!("{:?} must start with /", self.value));
        }
        for part in ["//", "/./", "/../", "%2f", "%2F", "#"] {
            if self.value.contains(part) {
                checker.error_in("value", format!("must not contain {part}: no request's path does once normalised"));
            }
        }
        for end in ["/.", "/.."] {
            if self.value.ends_with(end) {
                checker.error_in("value", format!("must not end with {end}: no request's path does once normalised"));
            }
        }
        if !is_path_text(&self.value) {
            checker.error_in("value", "must be a path of letters, digits, %XX and -._~!$&'()*+,;=:@/");
        }
    }
}

/// The characters of a path (RFC 3986), with the escapes complete.
fn is_path_text(path: &str) -> bool {
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let is_right = match byte {
            b'%' => (0..2).all(|_| bytes.next().is_some_and(|digit| digit.is_ascii_hexdigit())),
            b'#' => true, // named by the rule of its own
            byte => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte),
        };
        if !is_right {
            return false;
        }
    }
    true
}

/// A filter's type and its fields: each by name, the type that it is for, and whether it is given.
pub(super) fn check_union<K: PartialEq + Copy>(
    kind: K,
    fields: &[(&str, K, bool)],
    type_name: impl Fn(K) -> &'static str,
    checker: &mut Checker<'_>,
) {
    for (field, of, given) in fields {
        if *of == kind {
            checker.require(field, *given);
        } else if *given {
            checker.error_in(field, format!("is only for the type {}", type_name(*of)));
        }
    }
}

/// A filter that nobody has must not be skipped, and weft has none beside those of the Gateway API.
pub(super) fn refuse_extension(reference: &Option<LocalObjectReference>, checker: &mut Checker<'_>) {
    checker.given("extensionRef", reference, |checker, extension| {
        checker.error(format!("{} is not a filter that weft has: it has no filters of its own", extension.kind));
    });
}

/// Of a `DirectResponse`.
const MAX_BODY_CHARS: usize = 4096;

fn check_filters(filters: &[HttpRouteFilter], checker: &mut Checker<'_>) {
    use HttpRouteFilterType as Type;
    let has = |kind| filters.iter().any(|filter| filter.kind == kind);
    if has(Type::RequestRedirect) && has(Type::UrlRewrite) {
        checker.error_in("filters", "only one of RequestRedirect and URLRewrite may be given");
    }
    if has(Type::DirectResponse) && (has(Type::RequestRedirect) || has(Type::UrlRewrite)) {
        checker.error_in("filters", "only one of DirectResponse, RequestRedirect and URLRewrite may be given");
    }
    // Of the others, each one has an effect.
    let once = [
        Type::RequestHeaderModifier,
        Type::ResponseHeaderModifier,
        Type::RequestRedirect,
        Type::DirectResponse,
        Type::UrlRewrite,
        Type::Cors,
    ];
    checker.unique("filters", filters, |filter| once.contains(&filter.kind).then(|| filter.kind.name()));
    checker.each("filters", filters, |checker, filter| filter.check(checker));
}

impl HttpRouteFilterType {
    fn name(self) -> &'static str {
        match self {
            Self::RequestHeaderModifier => "RequestHeaderModifier",
            Self::ResponseHeaderModifier => "ResponseHeaderModifier",
            Self::RequestMirror => "RequestMirror",
            Self::RequestRedirect => "RequestRedirect",
            Self::DirectResponse => "DirectResponse",
            Self::UrlRewrite => "URLRewrite",
            Self::Cors => "CORS",
            Self::ExternalAuth => "ExternalAuth",
            Self::ExtensionRef => "ExtensionRef",
        }
    }
}

impl HttpRouteFilter {
    fn replaces_prefix(&self) -> bool {
        let redirect = self.request_redirect.as_ref().and_then(|redirect| redirect.path.as_ref());
        let rewrite = self.url_rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
        let mut paths = redirect.into_iter().chain(rewrite);
        paths.any(|path| path.kind == HttpPathModifierType::ReplacePrefixMatch)
    }

    fn check(&self, checker: &mut Checker<'_>) {
        use HttpRouteFilterType as Type;
        let fields = [
            ("requestHeaderModifier", Type::RequestHeaderModifier, self.request_header_modifier.is_some()),
            ("responseHeaderModifier", Type::ResponseHeaderModifier, self.response_header_modifier.is_some()),
            ("requestMirror", Type::RequestMirror, self.request_mirror.is_some()),
            ("requestRedirect", Type::RequestRedirect, self.request_redirect.is_some()),
            ("directResponse", Type::DirectResponse, self.direct_response.is_some()),
            ("urlRewrite", Type::UrlRewrite, self.url_rewrite.is_some()),
            ("cors", Type::Cors, self.cors.is_some()),
            ("externalAuth", Type::ExternalAuth, self.external_auth.is_some()),
            ("extensionRef", Type::ExtensionRef, self.extension_ref.is_some()),
        ];
        check_union(self.kind, &fields, Type::name, checker);
        checker.given("requestHeaderModifier", &self.request_header_modifier, |checker, filter| filter.check(checker));
        checker
            .given("responseHeaderModifier", &self.response_header_modifier, |checker, filter| filter.check(checker));
        checker.given("requestMirror", &self.request_mirror, |checker, mirror| mirror.check(checker));
        checker.given("requestRedirect", &self.request_redirect, |checker, redirect| {
            checker.given("path", &redirect.path, |checker, path| path.check(checker));
        });
        checker.given("directResponse", &self.direct_response, |checker, response| {
            checker.given("body", &response.body, |checker, body| {
                let length = body.string.chars().count();
                if length > MAX_BODY_CHARS {
                    checker.error_in("string", format!("has {length} characters; {MAX_BODY_CHARS} are the most"));
                }
            });
        });
        checker.given("urlRewrite", &self.url_rewrite, |checker, rewrite| {
            checker.given("path", &rewrite.path, |checker, path| path.check(checker));
        });
        checker.given("cors", &self.cors, |checker, cors| cors.check(checker));
        checker.given("externalAuth", &self.external_auth, |checker, auth| auth.check(checker));
        refuse_extension(&self.extension_ref, checker);
    }
}

impl HttpHeaderFilter {
    pub(super) fn check(&self, checker: &mut Checker<'_>) {
        checker.unique("set", &self.set, |header| Some(&header.name));
        checker.unique("add", &self.add, |header| Some(&header.name));
        checker.unique("remove", &self.remove, Some);
        let changed = self.set.iter().chain(self.add.iter()).map(|header| &header.name);
        let mut seen = BTreeSet::new();
        for name in changed.chain(self.remove.iter()) {
            if !seen.insert(name.to_ascii_lowercase()) {
                checker
                    .warn(&format!("changes the header {name} more than once: only one action per header is defined"));
            }
        }
    }
}

impl HttpRequestMirrorFilter {
    pub(super) fn check(&self, checker: &mut Checker<'_>) {
        checker.field("backendRef", |checker| self.backend_ref.object().check(checker));
        checker.at_most_one(&[("percent", self.percent.is_some()), ("fraction", self.fraction.is_some())]);
        checker.given("fraction", &self.fraction, |checker, fraction| {
            if fraction.numerator.get() > fraction.denominator() {
                checker.error_in("numerator", format!("must be at most the denominator, {}", fraction.denominator()));
            }
        });
    }
}

impl HttpPathModifier {
    fn check(&self, checker: &mut Checker<'_>) {
        use HttpPathModifierType as Type;
        let fields = [
            ("replaceFullPath", Type::ReplaceFullPath, self.replace_full_path.is_some()),
            ("replacePrefixMatch", Type::ReplacePrefixMatch, self.replace_prefix_match.is_some()),
        ];
        let name = |kind| match kind {
            Type::ReplaceFullPath => "ReplaceFullPath",
            Type::ReplacePrefixMatch => "ReplacePrefixMatch",
        };
        check_union(self.kind, &fields, name, checker);
        check_chars("replaceFullPath", self.replace_full_path.as_deref(), MAX_VALUE_CHARS, checker);
        check_chars("replacePrefixMatch", self.replace_prefix_match.as_deref(), MAX_VALUE_CHARS, checker);
    }
}

impl HttpCorsFilter {
    fn check(&self, checker: &mut Checker<'_>) {
        checker.unique("allowOrigins", &self.allow_origins, Some);
        checker.unique("allowHeaders", &self.allow_headers, Some);
        checker.unique("exposeHeaders", &self.expose_headers, Some);
        let mut methods = BTreeSet::new();
        checker.each("allowMethods", &self.allow_methods, |checker, method| {
            if !methods.insert(*method) {
                checker.error("is given twice");
            }
        });
        for (key, any, count) in [
            ("allowOrigins", self.allow_origins.iter().any(|origin| &**origin == "*"), self.allow_origins.len()),
            ("allowMethods", self.allow_methods.contains(&CorsMethod::Any), self.allow_methods.len()),
            ("allowHeaders", self.allow_headers.iter().any(|header| &**header == "*"), self.allow_headers.len()),
        ] {
            if any && count > 1 {
                checker.error_in(key, "* must stand alone");
            }
        }
    }
}

impl HttpExternalAuthFilter {
    fn check(&self, checker: &mut Checker<'_>) {
        use ExternalAuthProtocol as Protocol;
        checker.field("backendRef", |checker| self.backend_ref.object().check(checker));
        let fields = [("grpc", Protocol::Grpc, self.grpc.is_some()), ("http", Protocol::Http, self.http.is_some())];
        let name = |protocol| if protocol == Protocol::Grpc { "GRPC" } else { "HTTP" };
        check_union(self.protocol, &fields, name, checker);
        checker.given("grpc", &self.grpc, |checker, grpc| {
            checker.unique("allowedHeaders", &grpc.allowed_headers, Some);
        });
        checker.given("http", &self.http, |checker, http| {
            check_chars("path", Some(&http.path), MAX_VALUE_CHARS, checker);
            if http.path.contains('#') || !is_path_text(&http.path) {
                checker.error_in("path", "must be a path of letters, digits, %XX and -._~!$&'()*+,;=:@/");
            }
            checker.unique("allowedHeaders", &http.allowed_headers, Some);
            checker.unique("allowedResponseHeaders", &http.allowed_response_headers, Some);
        });
    }
}
