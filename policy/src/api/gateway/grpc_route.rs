//! GRPCRoute: how gRPC requests to a gateway or a service are routed.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Backend, GatewayDefaultScope, HeaderName, HeaderValue, Hostname, HttpHeaderFilter, HttpRequestMirrorFilter,
    LocalObjectReference, ParentReferences, SectionName, SessionPersistence, ValueMatchType,
    http_route::{MAX_VALUE_CHARS, check_chars, check_match_count, check_union, check_value, refuse_extension},
    layer4::check_hostnames,
    references::{Weight, backend_ref, check_parents, weight_one},
};
use crate::{api::values::List, document::Checker, kinds::Resource, pattern::Pattern};

/// How gRPC requests to some hosts are routed: of all rules that match, the most specific one decides.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GrpcRoute {
    pub parent_refs: ParentReferences,
    pub use_default_gateways: Option<GatewayDefaultScope>,
    /// Hosts; all of the parent's if there are none.
    pub hostnames: List<Hostname, 0, 16>,
    pub rules: List<GrpcRouteRule, 0, 16>,
}

/// One rule: conditions, what is done to the request, and where it goes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GrpcRouteRule {
    pub name: Option<SectionName>,
    /// The rule holds for requests that match any of these; for all if there is none.
    pub matches: List<GrpcRouteMatch, 0, 64>,
    pub filters: List<GrpcRouteFilter, 0, 16>,
    /// Where requests go, by weight. Without any, requests are answered with UNAVAILABLE.
    pub backend_refs: List<GrpcBackendRef, 0, 16>,
    pub session_persistence: Option<SessionPersistence>,
}

/// What a request must be: all conditions hold together.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GrpcRouteMatch {
    pub method: Option<GrpcMethodMatch>,
    pub headers: List<GrpcHeaderMatch, 0, 16>,
}

/// A service, a method, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GrpcMethodMatch {
    #[serde(rename = "type")]
    pub kind: ValueMatchType,
    /// With its package, such as `bookinfo.Reviews`.
    #[schemars(length(max = 1024))]
    pub service: Option<String>,
    #[schemars(length(max = 1024))]
    pub method: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcHeaderMatch {
    #[serde(rename = "type", default)]
    pub kind: ValueMatchType,
    pub name: HeaderName,
    pub value: HeaderValue,
}

/// Something done to a request or its response: the field that `type` names.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRouteFilter {
    #[serde(rename = "type")]
    pub kind: GrpcRouteFilterType,
    #[serde(default)]
    pub request_header_modifier: Option<HttpHeaderFilter>,
    #[serde(default)]
    pub response_header_modifier: Option<HttpHeaderFilter>,
    #[serde(default)]
    pub request_mirror: Option<HttpRequestMirrorFilter>,
    #[serde(default)]
    pub extension_ref: Option<LocalObjectReference>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
pub enum GrpcRouteFilterType {
    RequestHeaderModifier,
    ResponseHeaderModifier,
    RequestMirror,
    ExtensionRef,
}

backend_ref! {
    /// Where a share of the requests goes.
    GrpcBackendRef {
        /// Its part of the sum of all weights; 1 if absent.
        #[serde(default = "weight_one")]
        weight: Weight,
        /// Only for requests that go here.
        #[serde(default)]
        filters: List<GrpcRouteFilter, 0, 16>,
    }
}

impl Resource for GrpcRoute {
    fn check(&self, checker: &mut Checker<'_>) {
        check_parents(&self.parent_refs, checker);
        check_hostnames(&self.hostnames, checker);
        checker.unique("rules", &self.rules, |rule| rule.name.as_ref());
        check_match_count(self.rules.iter().map(|rule| rule.matches.len()).sum(), checker);
        checker.each("rules", &self.rules, |checker, rule| rule.check(checker));
        checker.pending("useDefaultGateways", self.use_default_gateways == Some(GatewayDefaultScope::All));
    }
}

impl GrpcRouteRule {
    /// All that it sends anything to, copies too.
    pub(crate) fn backends(&self) -> impl Iterator<Item = Backend<'_>> {
        let filters = self.filters.iter().chain(self.backend_refs.iter().flat_map(|backend| backend.filters.iter()));
        let mirrors = filters.filter_map(|filter| filter.request_mirror.as_ref());
        self.backend_refs.iter().map(GrpcBackendRef::object).chain(mirrors.map(|mirror| mirror.backend_ref.object()))
    }

    fn check(&self, checker: &mut Checker<'_>) {
        checker.each("matches", &self.matches, |checker, one| {
            checker.given("method", &one.method, |checker, method| method.check(checker));
            checker.unique("headers", &one.headers, |header| Some(&header.name));
            checker.each("headers", &one.headers, |checker, header| check_value(header.kind, &header.value, checker));
        });
        check_filters(&self.filters, checker);
        checker.each("backendRefs", &self.backend_refs, |checker, backend| {
            backend.object().check(checker);
            check_filters(&backend.filters, checker);
        });
        checker.given("sessionPersistence", &self.session_persistence, |checker, session| session.check(checker));
    }
}

impl GrpcMethodMatch {
    /// What the whole path matches, which in gRPC is `/SERVICE/METHOD`.
    ///
    /// # Errors
    /// Both together are too much for one expression.
    pub(crate) fn path_pattern(&self) -> Result<Pattern, String> {
        let part =
            |text: &Option<String>| text.as_ref().map_or_else(|| "[^/]+".to_owned(), |text| format!("(?:{text})"));
        Pattern::new(&format!("/{}/{}", part(&self.service), part(&self.method)))
    }

    fn check(&self, checker: &mut Checker<'_>) {
        if self.service.is_none() && self.method.is_none() {
            checker.error("one of service, method must be given, or both");
        }
        for (key, value, is_exact) in [
            ("service", self.service.as_deref(), is_service as fn(&str) -> bool),
            ("method", self.method.as_deref(), is_identifier),
        ] {
            check_chars(key, value, MAX_VALUE_CHARS, checker);
            let Some(value) = value else { continue };
            match self.kind {
                ValueMatchType::RegularExpression => {
                    if let Err(what) = Pattern::new(value) {
                        checker.error_in(key, what);
                    }
                }
                ValueMatchType::Exact if !is_exact(value) => {
                    checker.error_in(
                        key,
                        format!("{value:?} must be a name of letters, digits and '_', not starting with a digit"),
                    );
                }
                ValueMatchType::Exact => {}
            }
        }
        let is_right = |part: &Option<String>| part.as_ref().is_none_or(|part| Pattern::new(part).is_ok());
        if self.kind == ValueMatchType::RegularExpression
            && is_right(&self.service)
            && is_right(&self.method)
            && let Err(what) = self.path_pattern()
        {
            checker.error(format!("service and method together: {what}"));
        }
    }
}

/// Identifiers joined by dots, with a dot at most before them.
fn is_service(name: &str) -> bool {
    name.strip_prefix('.').unwrap_or(name).split('.').all(is_identifier)
}

fn is_identifier(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn check_filters(filters: &[GrpcRouteFilter], checker: &mut Checker<'_>) {
    use GrpcRouteFilterType as Type;
    // Of the others, each one has an effect.
    let once = [Type::RequestHeaderModifier, Type::ResponseHeaderModifier];
    checker.unique("filters", filters, |filter| once.contains(&filter.kind).then(|| filter.kind.name()));
    checker.each("filters", filters, |checker, filter| {
        let fields = [
            ("requestHeaderModifier", Type::RequestHeaderModifier, filter.request_header_modifier.is_some()),
            ("responseHeaderModifier", Type::ResponseHeaderModifier, filter.response_header_modifier.is_some()),
            ("requestMirror", Type::RequestMirror, filter.request_mirror.is_some()),
            ("extensionRef", Type::ExtensionRef, filter.extension_ref.is_some()),
        ];
        check_union(filter.kind, &fields, Type::name, checker);
        checker.given("requestHeaderModifier", &filter.request_header_modifier, |checker, one| one.check(checker));
        checker.given("responseHeaderModifier", &filter.response_header_modifier, |checker, one| one.check(checker));
        checker.given("requestMirror", &filter.request_mirror, |checker, mirror| mirror.check(checker));
        refuse_extension(&filter.extension_ref, checker);
    });
}

impl GrpcRouteFilterType {
    fn name(self) -> &'static str {
        match self {
            Self::RequestHeaderModifier => "RequestHeaderModifier",
            Self::ResponseHeaderModifier => "ResponseHeaderModifier",
            Self::RequestMirror => "RequestMirror",
            Self::ExtensionRef => "ExtensionRef",
        }
    }
}
