//! Routes whose parents are services: what they say to clients inside the mesh.

use std::{collections::BTreeMap, sync::Arc};

use weft_wire::id::{Namespace, ServiceName};

use super::{
    attach::service_parents,
    route::{Attached, ParentKind, Route},
    rules::{grpc_rules, http_rules},
};
use crate::{
    api::gateway::{ConnectionRule, TlsRoute},
    document::Spec,
    hosts::HostPattern,
    matcher::{ClientMatch, Fields},
    namespaces::Visibility,
    route::{HttpRules, RuleSet, TcpRule, TlsMatch, TlsRule},
    view::ServicePort,
};

/// The rules of a service's routes. Each holds for the clients who see it, and the first that has a rule for a client
/// decides: a consumer's before the producer's, and of one namespace those of GRPCRoutes before those of HTTPRoutes.
pub(in crate::compile) fn rule_sets(
    service: &ServiceName,
    ports: &[ServicePort],
    routes: &[Arc<Route>],
) -> Vec<Arc<RuleSet>> {
    let mut by_namespace: BTreeMap<&Namespace, Vec<Attached<'_>>> = BTreeMap::new();
    for route in routes {
        let ports = attached_ports(route, service, ports);
        if !ports.is_empty() {
            by_namespace.entry(&route.namespace).or_default().push(Attached {
                route,
                ports,
                parent: ParentKind::Service,
            });
        }
    }
    let producers = by_namespace.remove_entry(&service.namespace);
    let host = HostPattern::Exact(service.fqdn());
    let of_consumers = by_namespace
        .into_iter()
        .map(|(namespace, attached)| (namespace, Visibility::Only([namespace.clone()].into()), attached));
    let of_producers = producers.into_iter().map(|(namespace, attached)| (namespace, Visibility::All, attached));
    of_consumers
        .chain(of_producers)
        .flat_map(|(namespace, visible, attached)| sets_of(namespace, &host, &visible, &attached))
        .collect()
}

/// The ports at which a route holds that names the service as a parent, `None` being any; empty if it holds nowhere.
pub(crate) fn attached_ports(route: &Route, service: &ServiceName, ports: &[ServicePort]) -> Vec<Option<u16>> {
    let parents: Vec<_> =
        service_parents(&route.namespace, route.parents()).filter(|parent| parent.service == *service).collect();
    if parents.iter().any(|parent| parent.is_whole()) {
        return vec![None];
    }
    let is_attached = |port: &&ServicePort| parents.iter().any(|parent| parent.holds_for(port.port, &port.name));
    ports.iter().filter(is_attached).map(|port| Some(port.port)).collect()
}

/// The rules of one namespace's routes for a service.
fn sets_of(
    namespace: &Namespace,
    host: &HostPattern,
    visible: &Visibility,
    attached: &[Attached<'_>],
) -> Vec<Arc<RuleSet>> {
    let created = attached.iter().map(|one| one.route.document.created).min().unwrap_or_default();
    let set = |http, fields, tls, tcp| {
        let (hosts, visible) = (vec![host.clone()], visible.clone());
        let http = HttpRules::new(http, fields);
        RuleSet { created, namespace: Some(namespace.clone()), hosts, visible, http, tls, tcp }
    };
    let (mut of_grpc, mut of_http) = (Fields::default(), Fields::default());
    let grpc = grpc_rules(attached, &mut of_grpc);
    let http = http_rules(attached, &mut of_http);
    let sets =
        [set(grpc, of_grpc, Vec::new(), Vec::new()), set(http, of_http, tls_rules(attached), tcp_rules(attached))];
    let says_something = |set: &RuleSet| !(set.http.is_empty() && set.tls.is_empty() && set.tcp.is_empty());
    sets.into_iter().filter(says_something).map(Arc::new).collect()
}

/// The rules of TLSRoutes, the oldest first. Without hostnames, which only old versions allow, a route takes any name.
fn tls_rules(attached: &[Attached<'_>]) -> Vec<TlsRule> {
    let rules = by_age(attached).into_iter().filter_map(|one| match &one.route.document.spec {
        Spec::TlsRoute(route) => Some((one, route)),
        _ => None,
    });
    let rule = |one: &Attached<'_>, route: &TlsRoute, rule: &ConnectionRule| {
        let mut server_names: Vec<HostPattern> =
            route.hostnames.iter().map(|name| HostPattern::verbatim(name)).collect();
        if server_names.is_empty() {
            server_names.push(HostPattern::verbatim("*"));
        }
        let of_port =
            |port: &Option<u16>| TlsMatch { connection: at_port(*port).into(), server_names: server_names.clone() };
        TlsRule { matches: one.ports.iter().map(of_port).collect(), destinations: one.connection_targets(rule) }
    };
    rules.flat_map(|(one, route)| route.rules.iter().map(move |each| rule(one, route, each))).collect()
}

fn at_port(port: Option<u16>) -> ClientMatch {
    ClientMatch { port, ..ClientMatch::default() }
}

/// The rules of TCPRoutes, the oldest first.
pub(in crate::compile) fn tcp_rules(attached: &[Attached<'_>]) -> Vec<TcpRule> {
    let rules = by_age(attached).into_iter().filter_map(|one| match &one.route.document.spec {
        Spec::TcpRoute(route) => Some((one, &route.rules)),
        _ => None,
    });
    let rule = |one: &Attached<'_>, rule: &ConnectionRule| TcpRule {
        matches: one.ports.iter().map(|port| at_port(*port).into()).collect(),
        destinations: one.connection_targets(rule),
    };
    rules.flat_map(|(one, rules)| rules.iter().map(move |each| rule(one, each))).collect()
}

/// The oldest first.
pub(in crate::compile) fn by_age<'a, 'r>(attached: &'a [Attached<'r>]) -> Vec<&'a Attached<'r>> {
    let mut attached: Vec<&Attached<'_>> = attached.iter().collect();
    attached.sort_by(|a, b| a.route.seniority.cmp(&b.route.seniority));
    attached
}
