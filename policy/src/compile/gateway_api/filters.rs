//! From the `filters` of a route to what is done to requests.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header::HOST};

use super::route::Attached;
use crate::{
    api::{
        gateway::{
            GrpcRouteFilter, HttpCorsFilter, HttpDirectResponseFilter, HttpExternalAuthFilter, HttpHeader,
            HttpHeaderFilter, HttpPathModifier, HttpPathModifierType, HttpRequestMirrorFilter,
            HttpRequestRedirectFilter, HttpRouteFilter, HttpUrlRewriteFilter, RedirectScheme,
        },
        values::{Regex, Share, StringMatch},
    },
    cors::Cors,
    headers::{HeaderOperations, HeaderRules, Put, Template, is_of_connection},
    pattern::Pattern,
    provider::Provider,
    redirect::{Redirect, RedirectPath, RedirectPort},
    rewrite::PathRewrite,
    route::{DirectResponse, Mirror},
};

/// What the filters of a rule, or of one of its backends, do together.
#[derive(Debug, Default)]
pub(super) struct Filters {
    pub(super) headers: Option<HeaderRules>,
    /// The host that goes upstream.
    pub(super) authority: Option<String>,
    pub(super) path_rewrite: Option<PathRewrite>,
    pub(super) redirect: Option<Redirect>,
    pub(super) response: Option<DirectResponse>,
    pub(super) mirrors: Vec<Mirror>,
    pub(super) cors: Option<Cors>,
    pub(super) authorizers: Vec<Provider>,
    /// One of them cannot be done. Such a filter must not be skipped: its requests are answered with an error.
    pub(super) is_unsupported: bool,
}

/// One filter of an HTTPRoute or GRPCRoute.
#[derive(Clone, Copy, Default)]
pub(super) struct Filter<'a> {
    request_headers: Option<&'a HttpHeaderFilter>,
    response_headers: Option<&'a HttpHeaderFilter>,
    mirror: Option<&'a HttpRequestMirrorFilter>,
    redirect: Option<&'a HttpRequestRedirectFilter>,
    direct_response: Option<&'a HttpDirectResponseFilter>,
    rewrite: Option<&'a HttpUrlRewriteFilter>,
    cors: Option<&'a HttpCorsFilter>,
    external_auth: Option<&'a HttpExternalAuthFilter>,
    is_unsupported: bool,
}

impl<'a> From<&'a HttpRouteFilter> for Filter<'a> {
    fn from(filter: &'a HttpRouteFilter) -> Self {
        Self {
            request_headers: filter.request_header_modifier.as_ref(),
            response_headers: filter.response_header_modifier.as_ref(),
            mirror: filter.request_mirror.as_ref(),
            redirect: filter.request_redirect.as_ref(),
            direct_response: filter.direct_response.as_ref(),
            rewrite: filter.url_rewrite.as_ref(),
            cors: filter.cors.as_ref(),
            external_auth: filter.external_auth.as_ref(),
            is_unsupported: filter.extension_ref.is_some(),
        }
    }
}

impl<'a> From<&'a GrpcRouteFilter> for Filter<'a> {
    fn from(filter: &'a GrpcRouteFilter) -> Self {
        Self {
            request_headers: filter.request_header_modifier.as_ref(),
            response_headers: filter.response_header_modifier.as_ref(),
            mirror: filter.request_mirror.as_ref(),
            is_unsupported: filter.extension_ref.is_some(),
            ..Self::default()
        }
    }
}

impl Filters {
    pub(super) fn new<'a>(filters: impl IntoIterator<Item = impl Into<Filter<'a>>>, route: &Attached<'_>) -> Self {
        let mut all = Self::default();
        for filter in filters {
            all.add(filter.into(), route);
        }
        all
    }

    fn add(&mut self, filter: Filter<'_>, route: &Attached<'_>) {
        if let Some(operations) = filter.request_headers {
            self.headers.get_or_insert_default().request = header_operations(operations);
            let mut set = operations.set.iter().chain(operations.add.iter());
            let host = set.find(|header| header.name.eq_ignore_ascii_case("host"));
            self.authority = self.authority.take().or_else(|| host.map(|host| host.value.to_string()));
        }
        if let Some(operations) = filter.response_headers {
            self.headers.get_or_insert_default().response = header_operations(operations);
        }
        if let Some(mirror) = filter.mirror {
            let (numerator, denominator) = mirror.share();
            let share = Share::of_parts(numerator, denominator);
            self.mirrors.push(Mirror { target: route.target(mirror.backend_ref.object()), share });
        }
        if let Some(rewrite) = filter.rewrite {
            self.path_rewrite = rewrite.path.as_ref().and_then(path_rewrite);
            self.authority = rewrite.hostname.as_ref().map(ToString::to_string).or(self.authority.take());
        }
        if let Some(to) = filter.redirect {
            self.redirect = redirect(to);
        }
        if let Some(said) = filter.direct_response {
            self.response = response(said);
        }
        if let Some(policy) = filter.cors {
            self.cors = Some(cors(policy));
        }
        if let Some(auth) = filter.external_auth {
            self.authorizers.push(Provider::of_route(auth, route.target(auth.backend_ref.object())));
        }
        self.is_unsupported |= filter.is_unsupported;
    }
}

/// Values are text: Envoy's variables mean nothing in the Gateway API.
fn header_operations(operations: &HttpHeaderFilter) -> HeaderOperations {
    // The host is not among the headers.
    let read = |name: &str| -> Option<HeaderName> {
        name.parse().ok().filter(|name| *name != HOST && !is_of_connection(name))
    };
    let mut all: Vec<(HeaderName, Template, Put)> = Vec::new();
    let mut put = |headers: &[HttpHeader], kind: Put| {
        for header in headers {
            let Some((name, value)) = read(&header.name).zip(HeaderValue::from_str(&header.value).ok()) else {
                continue;
            };
            // Of several entries for one header the first holds.
            if !all.iter().any(|(known, _, put)| *known == name && *put == kind) {
                all.push((name, Template::Fixed(value), kind));
            }
        }
    };
    put(&operations.set, Put::Set);
    put(&operations.add, Put::Add);
    HeaderOperations::new(operations.remove.iter().filter_map(|name| read(name)).collect(), all)
}

/// What replaces a prefix: the rest of the path begins with a slash, or is empty.
fn prefix_replacement(path: &HttpPathModifier) -> Option<String> {
    path.replace_prefix_match.as_ref().map(|prefix| prefix.trim_end_matches('/').to_owned())
}

fn path_rewrite(path: &HttpPathModifier) -> Option<PathRewrite> {
    match path.kind {
        HttpPathModifierType::ReplaceFullPath => path.replace_full_path.clone().map(PathRewrite::Whole),
        HttpPathModifierType::ReplacePrefixMatch => prefix_replacement(path).map(PathRewrite::Matched),
    }
}

/// `None` for a status that its type does not allow.
fn response(said: &HttpDirectResponseFilter) -> Option<DirectResponse> {
    let status = StatusCode::from_u16(u16::try_from(said.status_code.get()).ok()?).ok()?;
    let body = said.body.as_ref().map(|body| Bytes::from(body.string.clone()));
    Some(DirectResponse { status, body: body.unwrap_or_default() })
}

/// `None` for a status that its type does not allow.
fn redirect(to: &HttpRequestRedirectFilter) -> Option<Redirect> {
    let path = to.path.as_ref().and_then(|path| match path.kind {
        HttpPathModifierType::ReplaceFullPath => path.replace_full_path.clone().map(RedirectPath::Whole),
        HttpPathModifierType::ReplacePrefixMatch => prefix_replacement(path).map(RedirectPath::Prefix),
    });
    let scheme = to.scheme.map(|scheme| match scheme {
        RedirectScheme::Http => "http",
        RedirectScheme::Https => "https",
    });
    Some(Redirect {
        status: StatusCode::from_u16(to.status_code.code()).ok()?,
        authority: to.hostname.as_ref().map(ToString::to_string),
        port: match (to.port, scheme) {
            (Some(port), _) => RedirectPort::Fixed(port.number()),
            (None, Some(_)) => RedirectPort::Default,
            (None, None) => RedirectPort::Dialled,
        },
        scheme: scheme.map(str::to_owned),
        keeps_port: false,
        path: path.unwrap_or(RedirectPath::Keep),
    })
}

fn cors(policy: &HttpCorsFilter) -> Cors {
    let joined = |names: Vec<&str>| HeaderValue::from_str(&names.join(",")).ok().filter(|value| !value.is_empty());
    Cors {
        origins: policy.allow_origins.iter().filter_map(|origin| origin_match(origin)).collect(),
        methods: joined(policy.allow_methods.iter().map(|method| method.as_str()).collect()),
        headers: joined(policy.allow_headers.iter().map(|name| &**name).collect()),
        exposed: joined(policy.expose_headers.iter().map(|name| &**name).collect()),
        max_age: Some(u64::try_from(policy.max_age.get()).unwrap_or_default().into()),
        credentials: policy.allow_credentials,
        answers_unmatched: true,
        echoes_headers: true,
    }
}

/// A star in it stands for a part of the host, of any number of labels, or for a port; alone it is any origin.
fn origin_match(origin: &str) -> Option<StringMatch> {
    if origin == "*" || !origin.contains('*') {
        return Some(StringMatch::Exact(origin.to_owned()));
    }
    let parts: Vec<String> = origin.split('*').map(regex::escape).collect();
    let pattern = Pattern::new(&parts.join("[^/:]+")).ok()?;
    Some(StringMatch::Regex(Regex(std::sync::Arc::new(pattern))))
}
