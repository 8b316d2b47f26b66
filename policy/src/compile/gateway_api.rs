//! What attaches to what in the Gateway API, and in which order rules are tried: pure functions on the documents.

use std::{cmp::Reverse, collections::BTreeMap};

use weft_wire::{
    document::Stamp,
    id::{Namespace, ServiceName},
};

use crate::api::gateway::{
    AllowedRoutes, GROUP, GrpcMethodMatch, GrpcRoute, GrpcRouteMatch, GrpcRouteRule, HttpRoute, HttpRouteMatch,
    HttpRouteRule, ListenerNamespaces, ListenersFrom, ParentReference, PathMatchType, ReferenceGrant, RoutesFrom,
};

/// What decides between rules that match alike: the older route goes first, then the first by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seniority {
    created: Stamp,
    /// `namespace/name`, which is compared as one text.
    name: String,
}

impl Seniority {
    pub fn new(created: Stamp, namespace: &Namespace, name: &str) -> Self {
        Self { created, name: format!("{namespace}/{name}") }
    }
}

/// One match of one rule, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked<'r, Rule, Match> {
    /// The route's place in the list that was ranked.
    pub route: usize,
    /// The rule's place in its route.
    pub rule_index: usize,
    pub rule: &'r Rule,
    /// `None` for a rule without matches: it holds for all requests.
    pub condition: Option<&'r Match>,
}

/// Ranks the matches of HTTPRoutes that attach to the same parent and hold for the same host: Exact before PathPrefix
/// before RegularExpression, the longer path, one with a method, more headers, more query parameters; then by seniority
/// of the routes, and by the written order in a route.
pub fn ranked_http<'r>(routes: &[(Seniority, &'r HttpRoute)]) -> Vec<Ranked<'r, HttpRouteRule, HttpRouteMatch>> {
    let rules = routes.iter().map(|(seniority, route)| (seniority, &route.rules[..]));
    ranked(rules, |rule| &rule.matches, http_precision)
}

/// Ranks the matches of GRPCRoutes likewise: the longer service, the longer method, more headers; then as
/// [`ranked_http`].
pub fn ranked_grpc<'r>(routes: &[(Seniority, &'r GrpcRoute)]) -> Vec<Ranked<'r, GrpcRouteRule, GrpcRouteMatch>> {
    let rules = routes.iter().map(|(seniority, route)| (seniority, &route.rules[..]));
    ranked(rules, |rule| &rule.matches, grpc_precision)
}

fn ranked<'s, 'r: 's, Rule: 'r, Match: 'r, Precision: Ord>(
    routes: impl Iterator<Item = (&'s Seniority, &'r [Rule])>,
    matches_of: impl Fn(&'r Rule) -> &'r [Match],
    precision_of: impl Fn(Option<&Match>) -> Precision,
) -> Vec<Ranked<'r, Rule, Match>> {
    let mut all = Vec::new();
    for (route, (seniority, rules)) in routes.enumerate() {
        for (rule_index, rule) in rules.iter().enumerate() {
            let conditions: Vec<Option<&Match>> = match matches_of(rule) {
                [] => vec![None],
                matches => matches.iter().map(Some).collect(),
            };
            for (place, condition) in conditions.into_iter().enumerate() {
                let key = (Reverse(precision_of(condition)), seniority, rule_index, place);
                all.push((key, Ranked { route, rule_index, rule, condition }));
            }
        }
    }
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all.into_iter().map(|(_, one)| one).collect()
}

/// How closely a match says what it means; what is compared first stands first.
fn http_precision(condition: Option<&HttpRouteMatch>) -> (u8, usize, bool, usize, usize) {
    let everything = HttpRouteMatch::default();
    let condition = condition.unwrap_or(&everything);
    let path = match condition.path.kind {
        PathMatchType::Exact => 2,
        PathMatchType::PathPrefix => 1,
        PathMatchType::RegularExpression => 0,
    };
    (
        path,
        condition.path.value.len(),
        condition.method.is_some(),
        condition.headers.len(),
        condition.query_params.len(),
    )
}

fn grpc_precision(condition: Option<&GrpcRouteMatch>) -> (usize, usize, usize) {
    let Some(condition) = condition else { return (0, 0, 0) };
    let len_of =
        |part: fn(&GrpcMethodMatch) -> Option<&String>| condition.method.as_ref().and_then(part).map_or(0, String::len);
    (len_of(|method| method.service.as_ref()), len_of(|method| method.method.as_ref()), condition.headers.len())
}

/// For whom a route of a Service holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Of the service's namespace: for all clients.
    Producer,
    /// Of another namespace: for the clients there.
    Consumer,
}

/// A Service that a route attaches to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceParent<'r> {
    pub service: ServiceName,
    pub side: Side,
    reference: &'r ParentReference,
}

impl ServiceParent<'_> {
    /// Whether the route holds for a port of the service, given by number and name.
    pub fn holds_for(&self, number: u16, name: &str) -> bool {
        self.reference.port.is_none_or(|port| port.number() == number)
            && self.reference.section_name.as_ref().is_none_or(|section| &**section == name)
    }
}

/// The Services among a route's parents. A name that no service can have names none.
pub fn service_parents<'r>(
    route_namespace: &'r Namespace,
    parents: &'r [ParentReference],
) -> impl Iterator<Item = ServiceParent<'r>> {
    parents.iter().filter(|parent| parent.group.is_empty() && &*parent.kind == "Service").filter_map(move |reference| {
        let namespace = reference.namespace.as_ref().unwrap_or(route_namespace);
        let side = if namespace == route_namespace { Side::Producer } else { Side::Consumer };
        let service = ServiceName { name: reference.name.parse().ok()?, namespace: namespace.clone() };
        Some(ServiceParent { service, side, reference })
    })
}

/// Of the routes that attach to a port of a service, each given by its namespace, those that hold for a client: the
/// routes of the client's own namespace if there are some, else the service's. Routes of a third namespace are not
/// for this client.
pub fn routes_for_client<'a, R>(
    client: &Namespace,
    service: &Namespace,
    attached: &'a [(Namespace, R)],
) -> impl Iterator<Item = &'a R> + use<'a, R> {
    let of = |wanted: &Namespace| attached.iter().any(|(namespace, _)| namespace == wanted);
    let chosen = if of(client) { client.clone() } else { service.clone() };
    attached.iter().filter(move |(namespace, _)| *namespace == chosen).map(|(_, route)| route)
}

/// One end of a reference between documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Referent<'a> {
    pub group: &'a str,
    pub kind: &'a str,
    pub namespace: &'a Namespace,
    pub name: &'a str,
}

/// Whether a document may refer to another one: within a namespace always, across namespaces by a grant of the
/// target's, each given with its namespace.
pub fn may_refer<'g>(
    from: Referent<'_>,
    to: Referent<'_>,
    grants: impl IntoIterator<Item = (&'g Namespace, &'g ReferenceGrant)>,
) -> bool {
    from.namespace == to.namespace
        || grants.into_iter().filter(|(namespace, _)| *namespace == to.namespace).any(|(_, grant)| {
            let is_from = grant
                .from
                .iter()
                .any(|one| &*one.group == from.group && &*one.kind == from.kind && one.namespace == *from.namespace);
            let is_to = grant.to.iter().any(|one| {
                let is_name = one.name.as_ref().is_none_or(|name| &**name == to.name);
                &*one.group == to.group && &*one.kind == to.kind && is_name
            });
            is_from && is_to
        })
}

/// Kinds of routes that a listener of a protocol takes unless it says which.
fn kinds_of_protocol(protocol: &str) -> &'static [&'static str] {
    match protocol.to_ascii_uppercase().as_str() {
        "HTTP" | "HTTPS" => &["HTTPRoute", "GRPCRoute"],
        "TLS" => &["TLSRoute", "TCPRoute"],
        "TCP" => &["TCPRoute"],
        "UDP" => &["UDPRoute"],
        _ => &[],
    }
}

/// Whether a listener takes a route of a kind of the Gateway API.
pub fn allows_kind(allowed: &AllowedRoutes, protocol: &str, kind: &str) -> bool {
    let fits = kinds_of_protocol(protocol).contains(&kind);
    let is_listed =
        allowed.kinds.is_empty() || allowed.kinds.iter().any(|one| &*one.group == GROUP && &*one.kind == kind);
    fits && is_listed
}

/// Whether a listener takes routes of a namespace, which has these labels.
pub fn allows_namespace(
    allowed: &AllowedRoutes,
    gateway: &Namespace,
    route: &Namespace,
    labels: &BTreeMap<String, String>,
) -> bool {
    match allowed.namespaces.from {
        RoutesFrom::All => true,
        RoutesFrom::Same => gateway == route,
        RoutesFrom::Selector => allowed.namespaces.selector.as_ref().is_some_and(|selector| selector.selects(labels)),
    }
}

/// Whether a gateway takes the ListenerSets of a namespace, which has these labels.
pub fn allows_listener_sets(
    allowed: &ListenerNamespaces,
    gateway: &Namespace,
    set: &Namespace,
    labels: &BTreeMap<String, String>,
) -> bool {
    match allowed.from {
        ListenersFrom::All => true,
        ListenersFrom::Same => gateway == set,
        ListenersFrom::Selector => allowed.selector.as_ref().is_some_and(|selector| selector.selects(labels)),
        ListenersFrom::None => false,
    }
}

/// The host that both a listener's and a route's hostname mean, the narrower of the two; `None` if they have no host in
/// common. `*.example.com` means all hosts that end so, and not `example.com`.
pub fn common_host<'h>(listener: &'h str, route: &'h str) -> Option<&'h str> {
    match (listener.strip_prefix('*'), route.strip_prefix('*')) {
        (None, None) => (listener == route).then_some(route),
        (Some(end), None) => (route.len() > end.len() && route.ends_with(end)).then_some(route),
        (None, Some(end)) => (listener.len() > end.len() && listener.ends_with(end)).then_some(listener),
        (Some(a), Some(b)) if b.ends_with(a) => Some(route),
        (Some(a), Some(b)) => a.ends_with(b).then_some(listener),
    }
}

/// How closely a hostname says which host it means: an exact one most, then the longer wildcard. The higher goes first.
pub fn host_precision(hostname: &str) -> (bool, usize) {
    (!hostname.starts_with('*'), hostname.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::document::{Spec, parse_stored, parse_yaml};

    fn namespace(name: &str) -> Namespace {
        name.parse().unwrap()
    }

    fn spec(kind: &str, spec: &str) -> Spec {
        let text =
            format!("{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: a}}, spec: {spec}}}");
        let file = parse_yaml(&text, &namespace("default")).unwrap();
        assert!(file.errors.is_empty(), "{:?}", file.errors);
        parse_stored(&file.documents[0].key, &file.documents[0].json, Stamp::default()).unwrap().spec
    }

    fn http_route(matches: &[&str]) -> HttpRoute {
        let rules: Vec<String> = matches.iter().map(|one| format!("{{matches: [{one}]}}")).collect();
        let Spec::HttpRoute(route) = spec("HTTPRoute", &format!("{{rules: [{}]}}", rules.join(", "))) else { panic!() };
        *route
    }

    fn seniority(millis: u64, name: &str) -> Seniority {
        Seniority::new(Stamp { millis, counter: 0 }, &namespace("default"), name)
    }

    /// From the most to the least precise.
    const BY_PRECISION: [&str; 11] = [
        "{path: {type: Exact, value: /aa}}",
        "{path: {type: Exact, value: /a}, method: GET}",
        "{path: {type: Exact, value: /a}}",
        "{path: {value: /aaa}}",
        "{path: {value: /a}, method: GET, headers: [{name: a, value: b}]}",
        "{path: {value: /a}, method: GET}",
        "{path: {value: /a}, headers: [{name: a, value: b}, {name: b, value: b}]}",
        "{path: {value: /a}, headers: [{name: a, value: b}], queryParams: [{name: a, value: b}]}",
        "{path: {value: /a}, headers: [{name: a, value: b}]}",
        "{}",
        "{path: {type: RegularExpression, value: '/aaaaaaaa'}, method: GET}",
    ];

    #[test]
    fn http_rules_are_tried_from_the_most_to_the_least_precise() {
        let mut backwards = BY_PRECISION;
        backwards.reverse();
        let route = http_route(&backwards);
        let ranked = ranked_http(&[(seniority(1, "a"), &route)]);
        let order: Vec<usize> = ranked.iter().map(|one| one.rule_index).collect();
        assert_eq!(order, (0..BY_PRECISION.len()).rev().collect::<Vec<_>>());
    }

    #[test]
    fn of_equal_rules_the_older_routes_goes_first_then_the_first_by_name_then_the_first_written() {
        let (one, two) = (http_route(&["{}", "{}"]), http_route(&["{}"]));
        let places = |routes: &[(Seniority, &HttpRoute)]| -> Vec<(usize, usize)> {
            ranked_http(routes).iter().map(|one| (one.route, one.rule_index)).collect()
        };
        assert_eq!(places(&[(seniority(2, "a"), &one), (seniority(1, "b"), &two)]), [(1, 0), (0, 0), (0, 1)]);
        assert_eq!(places(&[(seniority(1, "b"), &one), (seniority(1, "a"), &two)]), [(1, 0), (0, 0), (0, 1)]);
    }

    #[test]
    fn a_rule_without_matches_ranks_as_the_prefix_of_all_paths() {
        let route = http_route(&["", "{path: {value: /a}}", "{path: {type: RegularExpression, value: '.*'}}"]);
        let order: Vec<usize> = ranked_http(&[(seniority(1, "a"), &route)]).iter().map(|one| one.rule_index).collect();
        assert_eq!(order, [1, 0, 2]);
    }

    #[test]
    fn grpc_rules_are_tried_by_service_method_and_headers() {
        let matches = [
            "{method: {service: aaa}}",
            "{method: {service: aa, method: bb}}",
            "{method: {service: aa, method: b}, headers: [{name: a, value: b}]}",
            "{method: {service: aa, method: b}}",
            "{method: {method: bbbbbbb}}",
            "{headers: [{name: a, value: b}]}",
            "",
        ];
        let rules: Vec<String> = matches.iter().rev().map(|one| format!("{{matches: [{one}]}}")).collect();
        let Spec::GrpcRoute(route) = spec("GRPCRoute", &format!("{{rules: [{}]}}", rules.join(", "))) else { panic!() };
        let order: Vec<usize> = ranked_grpc(&[(seniority(1, "a"), &route)]).iter().map(|one| one.rule_index).collect();
        assert_eq!(order, (0..matches.len()).rev().collect::<Vec<_>>());
    }

    fn parents(text: &str) -> Vec<ParentReference> {
        let Spec::HttpRoute(route) = spec("HTTPRoute", &format!("{{parentRefs: [{text}]}}")) else { panic!() };
        route.parent_refs.to_vec()
    }

    #[test]
    fn a_route_is_the_producers_in_the_services_namespace_and_a_consumers_elsewhere() {
        let references = parents(
            "{group: '', kind: Service, name: web}, {group: '', kind: Service, name: web, namespace: other}, {name: gw}, \
             {group: '', kind: Service, name: Not_a_service}",
        );
        let route_namespace = namespace("default");
        let found: Vec<(String, Side)> = service_parents(&route_namespace, &references)
            .map(|parent| (parent.service.to_string(), parent.side))
            .collect();
        assert_eq!(found, [("web.default".into(), Side::Producer), ("web.other".into(), Side::Consumer)]);
    }

    #[test]
    fn a_parent_may_name_a_port_by_number_and_name() {
        for (fields, expected) in [
            ("", [true, true]),
            (", port: 80", [true, false]),
            (", sectionName: grpc", [false, true]),
            (", port: 80, sectionName: http", [true, false]),
            (", port: 80, sectionName: grpc", [false, false]),
        ] {
            let references = parents(&format!("{{group: '', kind: Service, name: web{fields}}}"));
            let route_namespace = namespace("default");
            let parent = service_parents(&route_namespace, &references).next().unwrap();
            assert_eq!([parent.holds_for(80, "http"), parent.holds_for(81, "grpc")], expected, "{fields}");
        }
    }

    #[test]
    fn a_consumers_routes_beat_the_producers_and_a_third_namespaces_are_ignored() {
        let attached = [(namespace("service"), "producer"), (namespace("client"), "consumer")];
        let chosen = |client: &str, attached: &[(Namespace, &'static str)]| -> Vec<&'static str> {
            routes_for_client(&namespace(client), &namespace("service"), attached).copied().collect()
        };
        assert_eq!(chosen("client", &attached), ["consumer"]);
        assert_eq!(chosen("service", &attached), ["producer"]);
        assert_eq!(chosen("third", &attached), ["producer"]);
        assert!(chosen("third", &attached[1..]).is_empty());
    }

    #[test]
    fn a_reference_to_another_namespace_needs_its_grant() {
        let grant = |to: &str| {
            let text = format!(
                "{{from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: routes}}], to: [{to}]}}"
            );
            let Spec::ReferenceGrant(grant) = spec("ReferenceGrant", &text) else { panic!() };
            *grant
        };
        let (all, one) = (grant("{group: '', kind: Service}"), grant("{group: '', kind: Service, name: web}"));
        let (routes, backends, third) = (namespace("routes"), namespace("backends"), namespace("third"));
        let from = Referent { group: GROUP, kind: "HTTPRoute", namespace: &routes, name: "r" };
        let to = Referent { group: "", kind: "Service", namespace: &backends, name: "web" };
        assert!(may_refer(from, Referent { namespace: &routes, ..to }, []), "within a namespace");
        assert!(!may_refer(from, to, []));
        assert!(may_refer(from, to, [(&backends, &all)]));
        assert!(may_refer(from, to, [(&backends, &one)]));
        assert!(!may_refer(from, Referent { name: "db", ..to }, [(&backends, &one)]), "another name");
        assert!(!may_refer(from, Referent { kind: "Secret", ..to }, [(&backends, &all)]), "another kind");
        assert!(!may_refer(Referent { kind: "TCPRoute", ..from }, to, [(&backends, &all)]), "from another kind");
        assert!(!may_refer(Referent { namespace: &third, ..from }, to, [(&backends, &all)]), "from another namespace");
        assert!(!may_refer(from, to, [(&third, &all)]), "a grant of a namespace that is not the target's");
        assert!(!may_refer(from, to, [(&routes, &all)]), "nobody grants himself");
    }

    #[test]
    fn a_listener_takes_routes_by_kind_and_namespace() {
        let allowed = |text: &str| {
            let text = format!(
                "{{gatewayClassName: a, listeners: [{{name: a, port: 1, protocol: HTTP, allowedRoutes: {text}}}]}}"
            );
            let Spec::K8sGateway(gateway) = spec("Gateway", &text) else { panic!() };
            gateway.listeners[0].allowed_routes.clone()
        };
        let any = allowed("{}");
        for (protocol, kind, expected) in [
            ("HTTP", "HTTPRoute", true),
            ("https", "GRPCRoute", true),
            ("HTTP", "TCPRoute", false),
            ("TLS", "TLSRoute", true),
            ("TCP", "TCPRoute", true),
            ("UDP", "UDPRoute", true),
            ("HBONE", "HTTPRoute", false),
        ] {
            assert_eq!(allows_kind(&any, protocol, kind), expected, "{protocol} {kind}");
        }
        let one = allowed("{kinds: [{kind: GRPCRoute}, {group: example.com, kind: HTTPRoute}]}");
        assert!(allows_kind(&one, "HTTP", "GRPCRoute") && !allows_kind(&one, "HTTP", "HTTPRoute"));

        let labels = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
        for (from, same, other) in [
            ("Same", true, false),
            ("All", true, true),
            ("Selector, selector: {matchLabels: {team: a}}", true, true),
            ("Selector, selector: {matchLabels: {team: b}}", false, false),
        ] {
            let allowed = allowed(&format!("{{namespaces: {{from: {from}}}}}"));
            let (gateway, route) = (namespace("gateway"), namespace("other"));
            assert_eq!(allows_namespace(&allowed, &gateway, &gateway, &labels), same, "{from}");
            assert_eq!(allows_namespace(&allowed, &gateway, &route, &labels), other, "{from}");
        }
    }

    #[test]
    fn listener_sets_need_to_be_allowed() {
        let (gateway, set) = (namespace("a"), namespace("b"));
        for (from, same, other) in [
            (ListenersFrom::None, false, false),
            (ListenersFrom::Same, true, false),
            (ListenersFrom::All, true, true),
            (ListenersFrom::Selector, false, false),
        ] {
            let allowed = ListenerNamespaces { from, selector: None };
            assert_eq!(allows_listener_sets(&allowed, &gateway, &gateway, &BTreeMap::new()), same);
            assert_eq!(allows_listener_sets(&allowed, &gateway, &set, &BTreeMap::new()), other);
        }
    }

    #[test]
    fn hostnames_meet_in_the_narrower_one() {
        for (listener, route, expected) in [
            ("a.example.com", "a.example.com", Some("a.example.com")),
            ("a.example.com", "b.example.com", None),
            ("*.example.com", "a.b.example.com", Some("a.b.example.com")),
            ("*.example.com", "example.com", None),
            ("a.example.com", "*.example.com", Some("a.example.com")),
            ("example.com", "*.example.com", None),
            ("*.example.com", "*.a.example.com", Some("*.a.example.com")),
            ("*.a.example.com", "*.example.com", Some("*.a.example.com")),
            ("*.example.com", "*.example.net", None),
            ("*.example.com", "*.example.com", Some("*.example.com")),
            ("*.com", "test.example.com", Some("test.example.com")),
        ] {
            assert_eq!(common_host(listener, route), expected, "{listener} and {route}");
        }
        assert!(host_precision("a.b") > host_precision("*.example.com"));
        assert!(host_precision("*.a.example.com") > host_precision("*.example.com"));
    }

    proptest! {
        #[test]
        fn the_order_of_rules_does_not_depend_on_the_order_of_documents(
            choices in prop::collection::vec((0..BY_PRECISION.len(), 0_u64..3), 1..12), rotation in 0_usize..12,
        ) {
            let named: Vec<(Seniority, HttpRoute)> = choices
                .iter()
                .enumerate()
                .map(|(i, (choice, created))| (seniority(*created, &format!("r{i}")), http_route(&[BY_PRECISION[*choice]])))
                .collect();
            let mut routes: Vec<(Seniority, &HttpRoute)> =
                named.iter().map(|(seniority, route)| (seniority.clone(), route)).collect();
            let names = |routes: &[(Seniority, &HttpRoute)]| -> Vec<String> {
                ranked_http(routes).iter().map(|one| routes[one.route].0.name.clone()).collect()
            };
            let before = names(&routes);
            let len = routes.len();
            routes.rotate_left(rotation % len);
            prop_assert_eq!(before, names(&routes));
        }

        #[test]
        fn hosts_meet_in_the_same_one_whoever_asks(a in "(\\*\\.)?[ab](\\.[ab]){0,3}", b in "(\\*\\.)?[ab](\\.[ab]){0,3}") {
            prop_assert_eq!(common_host(&a, &b), common_host(&b, &a));
        }
    }
}
