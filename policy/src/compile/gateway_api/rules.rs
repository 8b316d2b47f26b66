//! From the rules of routes, in the order in which they are tried, to the rules that requests are routed by.

use std::time::Duration;

use super::{
    conditions,
    filters::{Filter, Filters},
    rank::{Ranked, Seniority, ranked_grpc, ranked_http},
    route::Attached,
};
use crate::{
    api::gateway::{
        Backend, CookieLifetimeType, GrpcRoute, GrpcRouteRule, HttpRoute, HttpRouteMatch, HttpRouteRule, PathMatchType,
        SessionPersistence, SessionPersistenceType,
    },
    cors::Cors,
    document::Spec,
    headers::HeaderRules,
    matcher::{Fields, RequestMatch},
    provider::Provider,
    retry::RetryPolicy,
    route::{
        DestinationFilters, ForwardRule, HttpDestination, HttpRule, NamedMatch, RuleAction, Target, Unresolved,
        Weighted,
    },
    session::{self, Lifetime, Session},
};

/// The rules of all HTTPRoutes among these.
pub(in crate::compile) fn http_rules(attached: &[Attached<'_>], fields: &mut Fields) -> Vec<HttpRule> {
    let of_kind = of_kind(attached, |spec| match spec {
        Spec::HttpRoute(route) => Some(&**route),
        _ => None,
    });
    let routes: Vec<(Seniority, &HttpRoute)> =
        of_kind.iter().map(|(attached, route)| (attached.route.seniority.clone(), *route)).collect();
    let mut rules = Rules { attached: of_kind.iter().map(|(attached, _)| *attached).collect(), rules: Vec::new() };
    for one in ranked_http(&routes) {
        let condition = one.condition.map(|(_, condition)| condition);
        rules.add(&one, one.rule.name.as_deref(), |port| conditions::http(condition, port, fields), http_consequence);
    }
    rules.into_rules()
}

/// The rules of all GRPCRoutes among these.
pub(in crate::compile) fn grpc_rules(attached: &[Attached<'_>], fields: &mut Fields) -> Vec<HttpRule> {
    let of_kind = of_kind(attached, |spec| match spec {
        Spec::GrpcRoute(route) => Some(&**route),
        _ => None,
    });
    let routes: Vec<(Seniority, &GrpcRoute)> =
        of_kind.iter().map(|(attached, route)| (attached.route.seniority.clone(), *route)).collect();
    let mut rules = Rules { attached: of_kind.iter().map(|(attached, _)| *attached).collect(), rules: Vec::new() };
    for one in ranked_grpc(&routes) {
        let condition = one.condition.map(|(_, condition)| condition);
        rules.add(&one, one.rule.name.as_deref(), |port| conditions::grpc(condition, port, fields), grpc_consequence);
    }
    rules.into_rules()
}

fn of_kind<'a, 'r, Kind>(
    attached: &'a [Attached<'r>],
    read: impl Fn(&'r Spec) -> Option<&'r Kind>,
) -> Vec<(&'a Attached<'r>, &'r Kind)> {
    attached.iter().filter_map(|one| Some((one, read(&one.route.document.spec)?))).collect()
}

/// Rules that grow match by match; of one route's rule, matches that follow each other are one.
struct Rules<'a, 'r> {
    attached: Vec<&'a Attached<'r>>,
    rules: Vec<((usize, usize), HttpRule)>,
}

impl Rules<'_, '_> {
    fn add<Rule, Match>(
        &mut self,
        ranked: &Ranked<'_, Rule, Match>,
        name: Option<&str>,
        mut condition: impl FnMut(Option<u16>) -> Option<RequestMatch>,
        consequence: impl FnOnce(&Rule, &Attached<'_>) -> Consequence,
    ) {
        let Some(attached) = self.attached.get(ranked.route) else { return };
        let Attached { route, ports, .. } = attached;
        let route_name = name.map_or_else(
            || format!("{}.{}.{}", route.namespace, route.document.key.name, ranked.rule_index),
            str::to_owned,
        );
        let place = ranked.condition.map(|(place, _)| place);
        let matches = ports.iter().filter_map(|port| condition(*port));
        let matches = matches.map(|request| NamedMatch { route_name: route_name.clone(), condition: place, request });
        let which = (ranked.route, ranked.rule_index);
        if let Some((last, rule)) = self.rules.last_mut()
            && *last == which
        {
            rule.matches.extend(matches);
            return;
        }
        let matches = matches.collect();
        let Consequence { cors, authorizers, headers, action } = consequence(ranked.rule, attached);
        let document = route.document.clone();
        self.rules.push((
            which,
            HttpRule { document, place: ranked.rule_index, matches, cors, authorizers, fault: None, headers, action },
        ));
    }

    fn into_rules(self) -> Vec<HttpRule> {
        self.rules.into_iter().map(|(_, rule)| rule).collect()
    }
}

/// What a rule does.
struct Consequence {
    cors: Option<Cors>,
    authorizers: Vec<Provider>,
    headers: Option<HeaderRules>,
    action: RuleAction,
}

fn http_consequence(rule: &HttpRouteRule, route: &Attached<'_>) -> Consequence {
    let timeouts = rule.timeouts.unwrap_or_default();
    let manner = Manner {
        timeout: timeouts.request.and_then(|limit| limit.limit()),
        retry: RetryPolicy::of_route(rule.retry.as_ref(), timeouts.backend_request.and_then(|limit| limit.limit())),
        session: rule.session_persistence.as_ref().map(|session| (session, cookie_path(&rule.matches))),
    };
    let backends = rule.backend_refs.iter();
    let backends = backends.map(|backend| (backend.weight.get(), backend.object(), &*backend.filters));
    Consequence::new(&rule.filters, backends, manner, route)
}

/// Where a rule's cookie holds: at the path that all its matches have, else everywhere.
fn cookie_path(matches: &[HttpRouteMatch]) -> &str {
    let is_fixed = |one: &HttpRouteMatch| {
        one.path.kind != PathMatchType::RegularExpression && session::is_cookie_path(&one.path.value)
    };
    let mut paths = matches.iter().map(|one| is_fixed(one).then_some(one.path.value.as_str()));
    match paths.next() {
        Some(Some(first)) if paths.all(|other| other == Some(first)) => first,
        _ => "/",
    }
}

fn grpc_consequence(rule: &GrpcRouteRule, route: &Attached<'_>) -> Consequence {
    let backends = rule.backend_refs.iter();
    let backends = backends.map(|backend| (backend.weight.get(), backend.object(), &*backend.filters));
    let manner =
        Manner { session: rule.session_persistence.as_ref().map(|session| (session, "/")), ..Manner::default() };
    Consequence::new(&rule.filters, backends, manner, route)
}

/// How requests are sent.
#[derive(Default)]
struct Manner<'r> {
    timeout: Option<Duration>,
    retry: Option<RetryPolicy>,
    /// With the path of its cookie.
    session: Option<(&'r SessionPersistence, &'r str)>,
}

impl Consequence {
    fn new<'a, F: 'a>(
        filters: &'a [F],
        backends: impl Iterator<Item = (i64, Backend<'a>, &'a [F])>,
        manner: Manner<'_>,
        route: &Attached<'_>,
    ) -> Self
    where
        Filter<'a>: From<&'a F>,
    {
        let mut of_rule = Filters::new(filters, route);
        let redirect = of_rule.redirect.take().map(RuleAction::Redirect);
        if let Some(action) = redirect.or(of_rule.response.take().map(RuleAction::Respond)) {
            let Filters { cors, authorizers, headers, .. } = of_rule;
            return Self { cors, authorizers, headers, action };
        }
        // Those without weight get nothing, even one alone.
        let backends = backends.filter(|(weight, ..)| *weight > 0 && !of_rule.is_unsupported);
        let destinations: Vec<(u64, HttpDestination)> = backends
            .map(|(weight, backend, filters)| (weight.unsigned_abs(), destination(backend, filters, &of_rule, route)))
            .collect();
        let session = manner.session.and_then(|(said, path)| session(said, path, &destinations));
        let action = RuleAction::Forward(Box::new(ForwardRule {
            session,
            destinations: Weighted::new(destinations.into_iter()),
            timeout: manner.timeout,
            retry: manner.retry,
            path_rewrite: of_rule.path_rewrite,
            authority: of_rule.authority,
            mirrors: of_rule.mirrors,
            unresolved: Unresolved::InvalidBackend,
        }));
        Self { cors: of_rule.cors, authorizers: of_rule.authorizers, headers: of_rule.headers, action }
    }
}

fn session(said: &SessionPersistence, path: &str, destinations: &[(u64, HttpDestination)]) -> Option<Session> {
    let lifetime = Lifetime {
        absolute: said.absolute_timeout.and_then(|limit| limit.limit()),
        idle: said.idle_timeout.and_then(|limit| limit.limit()),
    };
    let name = said
        .session_name
        .clone()
        .unwrap_or_else(|| session::default_name(destinations.iter().map(|(_, destination)| &destination.target)));
    match said.kind {
        SessionPersistenceType::Header => Session::of_header(&name, lifetime),
        SessionPersistenceType::Cookie => {
            let kind = said.cookie_config.unwrap_or_default().lifetime_type;
            Some(Session::of_cookie(&name, path, kind == CookieLifetimeType::Permanent, lifetime))
        }
    }
}

fn destination<'a, F: 'a>(
    backend: Backend<'a>,
    filters: &'a [F],
    of_rule: &Filters,
    route: &Attached<'_>,
) -> HttpDestination
where
    Filter<'a>: From<&'a F>,
{
    let mut own = Filters::new(filters, route);
    let has_own = own.redirect.is_some()
        || own.path_rewrite.is_some()
        || own.cors.is_some()
        || !own.mirrors.is_empty()
        || !own.authorizers.is_empty();
    own.mirrors.extend(of_rule.mirrors.iter().cloned());
    let target = route.target(backend);
    HttpDestination {
        // What cannot be done to its requests must not be left out.
        target: if own.is_unsupported { Target::default() } else { target },
        headers: own.headers,
        has_rules_headers: false,
        authority: own.authority,
        own: has_own.then(|| {
            Box::new(DestinationFilters {
                redirect: own.redirect,
                path_rewrite: own.path_rewrite,
                mirrors: own.mirrors,
                cors: own.cors,
                authorizers: own.authorizers,
            })
        }),
    }
}
