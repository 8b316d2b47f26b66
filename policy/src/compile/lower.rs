//! From what a document says to what requests are matched against and done with.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use weft_wire::id::Namespace;

use super::audience::Audience;
use crate::{
    api::{
        networking::{
            self, CookieLifetime, CorsPolicy, Destination, HeaderOperations as Operations, Headers, HttpBody,
            HttpMatchRequest, HttpRedirect, HttpRewrite, HttpRoute, RedirectPortSelection, SessionPersistence,
            TcpRoute, TlsRoute, UnmatchedPreflights,
        },
        values::{Int, Port, Share, StringMatch},
    },
    cors::Cors,
    headers::{HeaderOperations, HeaderRules, Put, Template, is_of_connection},
    hosts::HostPattern,
    matcher::{ClientMatch, Field, Fields, RequestMatch, UriMatch, ValueMatch},
    ranges,
    redirect::{Redirect, RedirectPath, RedirectPort},
    retry::RetryPolicy,
    rewrite::{PathRewrite, RegexRewrite},
    route::{
        ConnectionMatch, DirectResponse, ForwardRule, HttpDestination, Mirror, RuleAction, Target, TargetHost, TcpRule,
        TlsMatch, TlsRule, Unresolved, Weighted,
    },
    session::{self, Lifetime, Session},
};

pub(super) fn request_match(one: &HttpMatchRequest, audience: Audience<'_>, fields: &mut Fields) -> RequestMatch {
    let mut values = Vec::new();
    let mut ask = |field: Field, wanted: &StringMatch, inverted: bool| {
        values.push(ValueMatch { field: fields.place_of(field), wanted: wanted.clone(), inverted, question: None });
    };
    for (field, wanted) in
        [(Field::Method, &one.method), (Field::Authority, &one.authority), (Field::Scheme, &one.scheme)]
    {
        if let Some(wanted) = wanted {
            ask(field, wanted, false);
        }
    }
    for (conditions, inverted) in [(&one.headers, false), (&one.without_headers, true)] {
        for (name, wanted) in conditions {
            ask(header_field(name), wanted, inverted);
        }
    }
    for (name, wanted) in &one.query_params {
        ask(Field::Query(name.clone()), wanted, false);
    }
    RequestMatch {
        // Where gateways are named, Istio does not look at the client.
        client: match one.gateways.is_empty() && audience.is_known() {
            true => client_match(one.port, &one.source_namespace, &one.source_labels),
            false => of_port(one.port),
        },
        uri: one.uri.clone().map(|value| UriMatch {
            value,
            ignore_case: one.ignore_uri_case,
            whole_segments: false,
            question: None,
        }),
        values,
    }
}

fn client_match(
    port: Option<Port>,
    namespace: &str,
    labels: &std::collections::BTreeMap<String, String>,
) -> ClientMatch {
    ClientMatch {
        port: port.map(Port::number),
        namespace: namespace.parse().ok(),
        labels: labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
    }
}

fn of_port(port: Option<Port>) -> ClientMatch {
    ClientMatch { port: port.map(Port::number), ..ClientMatch::default() }
}

/// What a header condition reads.
fn header_field(name: &str) -> Field {
    match name {
        ":method" => Field::Method,
        ":scheme" => Field::Scheme,
        ":authority" => Field::Authority,
        name if name.eq_ignore_ascii_case("host") => Field::Authority,
        name => match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => Field::Header(name),
            // Checked when the document was read: what is no header's name is a claim's.
            Err(_) => Field::Claim(name.to_owned()),
        },
    }
}

/// What a rule does; `None` if it says nothing, which its document's check has refused.
pub(super) fn action(rule: &HttpRoute, namespace: &Namespace) -> Option<RuleAction> {
    if let Some(to) = &rule.redirect {
        return Some(RuleAction::Redirect(redirect(to)?));
    }
    if let Some(response) = &rule.direct_response {
        let status = StatusCode::from_u16(u16::try_from(response.status.get()).ok()?).ok()?;
        let body = response.body.as_ref().and_then(HttpBody::content).unwrap_or_default();
        return Some(RuleAction::Respond(DirectResponse { status, body: Bytes::from(body) }));
    }
    let is_only = rule.route.len() == 1;
    let destinations = rule.route.iter().map(|share| {
        let own = share.headers.as_ref().map(headers);
        let destination = HttpDestination {
            target: target(&share.destination, namespace),
            // Istio makes an only destination's operations one with the rule's.
            has_rules_headers: is_only && own.is_some(),
            headers: match (&rule.headers, own) {
                (Some(of_rule), Some(own)) if is_only => Some(headers(of_rule).joined(own)),
                (_, own) => own,
            },
            authority: share.headers.as_ref().and_then(authority),
            own: None,
        };
        (weight(share.weight), destination)
    });
    let rewrite = rule.rewrite.as_ref();
    let rewritten = rewrite.map(|rewrite| rewrite.authority.clone()).filter(|authority| !authority.is_empty());
    Some(RuleAction::Forward(Box::new(ForwardRule {
        destinations: Weighted::new(destinations),
        timeout: rule.timeout.map(|timeout| timeout.get()),
        retry: rule.retries.as_ref().map(RetryPolicy::of),
        path_rewrite: rewrite.and_then(path_rewrite),
        authority: rewritten.or_else(|| rule.headers.as_ref().and_then(authority)),
        mirrors: mirrors(rule, namespace),
        session: rule.session_persistence.as_ref().and_then(|session| self::session(session, rule, namespace)),
        unresolved: Unresolved::UnknownCluster,
    })))
}

fn session(said: &SessionPersistence, rule: &HttpRoute, namespace: &Namespace) -> Option<Session> {
    let lifetime = Lifetime { absolute: said.absolute_timeout.map(|timeout| timeout.get()), idle: None };
    if let Some(header) = &said.header {
        return Session::of_header(&header.name, lifetime);
    }
    let cookie = said.cookie.clone().unwrap_or_default();
    let name = Some(cookie.name).filter(|name| !name.is_empty()).unwrap_or_else(|| {
        let targets: Vec<Target> = rule.route.iter().map(|share| target(&share.destination, namespace)).collect();
        session::default_name(targets.iter())
    });
    let path = if cookie.path.is_empty() { "/" } else { &cookie.path };
    Some(Session::of_cookie(&name, path, cookie.lifetime_type == Some(CookieLifetime::Permanent), lifetime))
}

fn weight(weight: Option<Int<0, { i32::MAX as i64 }>>) -> u64 {
    // Never negative, by its type.
    weight.map_or(0, |weight| weight.get().unsigned_abs())
}

/// What a document in `namespace` names.
pub(crate) fn target(destination: &Destination, namespace: &Namespace) -> Target {
    Target {
        host: Some(TargetHost::read(destination.fqdn(namespace))),
        port: destination.port.map(|port| port.number.number()),
        subset: destination.subset.clone(),
    }
}

fn redirect(redirect: &HttpRedirect) -> Option<Redirect> {
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let code = redirect.redirect_code.map_or(301, |code| code.get());
    Some(Redirect {
        status: StatusCode::from_u16(u16::try_from(code).ok()?).ok()?,
        scheme: given(&redirect.scheme),
        authority: given(&redirect.authority),
        port: match (redirect.port, redirect.derive_port) {
            (Some(port), _) => RedirectPort::Fixed(port.number()),
            (None, Some(RedirectPortSelection::FromRequestPort)) => RedirectPort::Dialled,
            (None, Some(RedirectPortSelection::FromProtocolDefault) | None) => RedirectPort::Default,
        },
        keeps_port: true,
        path: match (redirect.uri.strip_prefix("%PREFIX()%"), redirect.uri.as_str()) {
            (Some(prefix), _) => RedirectPath::Prefix(prefix.to_owned()),
            (None, "") if !redirect.prefix_rewrite.is_empty() => RedirectPath::Prefix(redirect.prefix_rewrite.clone()),
            (None, "") => RedirectPath::Keep,
            (None, path) => RedirectPath::Whole(path.to_owned()),
        },
    })
}

/// `None` leaves it as it is.
fn path_rewrite(rewrite: &HttpRewrite) -> Option<PathRewrite> {
    match &rewrite.uri_regex_rewrite {
        // Compiled once when it was checked, so it compiles.
        Some(regex) => RegexRewrite::new(&regex.pattern, &regex.rewrite).ok().map(PathRewrite::Regex),
        None => (!rewrite.uri.is_empty()).then(|| PathRewrite::Matched(rewrite.uri.clone())),
    }
}

fn mirrors(rule: &HttpRoute, namespace: &Namespace) -> Vec<Mirror> {
    let mirror = |destination: &Destination, share: Share| Mirror { target: target(destination, namespace), share };
    let old_share = match (rule.mirror_percentage, rule.mirror_percent) {
        (Some(percentage), _) => percentage.value,
        (None, Some(percent)) => Share::of_percent(percent),
        (None, None) => Share::ALL,
    };
    let one = rule.mirror.iter().map(|destination| mirror(destination, old_share));
    let several = rule.mirrors.iter();
    let several = several.map(|policy| mirror(&policy.destination, policy.percentage.map_or(Share::ALL, |p| p.value)));
    one.chain(several).filter(|mirror| mirror.share != Share::default()).collect()
}

pub(super) fn cors(policy: &CorsPolicy) -> Cors {
    let joined = |names: &[String]| HeaderValue::from_str(&names.join(",")).ok().filter(|value| !value.is_empty());
    let exact = policy.allow_origin.iter().cloned().map(StringMatch::Exact);
    Cors {
        origins: match policy.allow_origins.as_slice() {
            [] => exact.collect(),
            origins => origins.to_vec(),
        },
        methods: joined(&policy.allow_methods),
        headers: joined(&policy.allow_headers),
        exposed: joined(&policy.expose_headers),
        max_age: policy.max_age.map(|age| age.get().as_secs().into()),
        credentials: policy.allow_credentials.unwrap_or(false),
        answers_unmatched: policy.unmatched_preflights == Some(UnmatchedPreflights::Ignore),
        echoes_headers: false,
    }
}

pub(super) fn headers(headers: &Headers) -> HeaderRules {
    let operations = |operations: &Option<Operations>| operations.as_ref().map(header_operations).unwrap_or_default();
    HeaderRules { request: operations(&headers.request), response: operations(&headers.response) }
}

fn header_operations(operations: &Operations) -> HeaderOperations {
    // The host is not among the headers: see `authority`.
    let read = |name: &str| -> Option<HeaderName> {
        name.parse().ok().filter(|name| *name != http::header::HOST && !is_of_connection(name))
    };
    let put = |values: &std::collections::BTreeMap<String, String>, put: Put| -> Vec<(HeaderName, Template, Put)> {
        let values = values.iter();
        values.filter_map(|(name, value)| Some((read(name)?, Template::read(value).ok()?, put))).collect()
    };
    let mut all = put(&operations.set, Put::Set);
    all.extend(put(&operations.add, Put::Add));
    HeaderOperations::new(operations.remove.iter().filter_map(|name| read(name)).collect(), all)
}

/// The host that `headers.request` sets; `set` wins over `add`.
fn authority(headers: &Headers) -> Option<String> {
    let request = headers.request.as_ref()?;
    let mut values = request.set.iter().chain(&request.add);
    values.find(|(name, _)| networking::is_authority(name)).map(|(_, value)| value.clone())
}

/// `subnets` are those of a document that was checked.
fn connection_match(client: ClientMatch, subnets: &[String]) -> ConnectionMatch {
    ConnectionMatch { client, subnets: subnets.iter().filter_map(|text| ranges::read(text)).collect() }
}

/// `None` for a rule that no client of the audience could match.
pub(super) fn tls_rule(rule: &TlsRoute, namespace: &Namespace, audience: Audience<'_>) -> Option<TlsRule> {
    let matches = rule.matches.iter().filter(|one| audience.takes(&one.gateways, namespace)).map(|one| TlsMatch {
        connection: connection_match(
            match audience.is_known() {
                true => client_match(one.port, &one.source_namespace, &one.source_labels),
                false => of_port(one.port),
            },
            &one.destination_subnets,
        ),
        server_names: one.sni_hosts.iter().map(|name| HostPattern::verbatim(name)).collect(),
    });
    let matches: Vec<TlsMatch> = matches.collect();
    let destinations = rule.route.iter().map(|share| (weight(share.weight), target(&share.destination, namespace)));
    (!matches.is_empty()).then(|| TlsRule { matches, destinations: Weighted::new(destinations) })
}

/// `None` for a rule that no client of the audience could match.
pub(super) fn tcp_rule(rule: &TcpRoute, namespace: &Namespace, audience: Audience<'_>) -> Option<TcpRule> {
    let matches = rule.matches.iter().filter(|one| audience.takes(&one.gateways, namespace));
    let matches = matches.map(|one| {
        let client = match audience.is_known() {
            true => client_match(one.port, &one.source_namespace, &one.source_labels),
            false => of_port(one.port),
        };
        connection_match(client, &one.destination_subnets)
    });
    let matches: Vec<ConnectionMatch> = matches.collect();
    let destinations = rule.route.iter().map(|share| (weight(share.weight), target(&share.destination, namespace)));
    let never = matches.is_empty() && !rule.matches.is_empty();
    (!never).then(|| TcpRule { matches, destinations: Weighted::new(destinations) })
}
