//! What attaches to what, and what may name what.

use std::collections::BTreeMap;

use weft_wire::id::{Namespace, ServiceName};

use crate::api::gateway::{
    AllowedRoutes, GROUP, ListenerNamespaces, ListenersFrom, ParentReference, ReferenceGrant, RoutesFrom,
};

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
    /// Whether the route holds for all ports of the service, whichever it has.
    pub fn is_whole(&self) -> bool {
        self.reference.port.is_none() && self.reference.section_name.is_none()
    }

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
    parents.iter().filter(|parent| parent.is_service()).filter_map(move |reference| {
        let namespace = reference.namespace.as_ref().unwrap_or(route_namespace);
        let side = if namespace == route_namespace { Side::Producer } else { Side::Consumer };
        let service = ServiceName { name: reference.name.parse().ok()?, namespace: namespace.clone() };
        Some(ServiceParent { service, side, reference })
    })
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
pub fn kinds_of_protocol(protocol: &str) -> &'static [&'static str] {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::testing::{namespace, spec},
        *,
    };
    use crate::document::Spec;

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
    }

    proptest! {
        #[test]
        fn hosts_meet_in_the_same_one_whoever_asks(a in "(\\*\\.)?[ab](\\.[ab]){0,3}", b in "(\\*\\.)?[ab](\\.[ab]){0,3}") {
            prop_assert_eq!(common_host(&a, &b), common_host(&b, &a));
        }
    }
}
