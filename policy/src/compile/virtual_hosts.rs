//! Hosts that VirtualServices name and that are no service.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use super::{Parts, visible_rules};
use crate::{
    hosts::{self, HostPattern},
    route::RuleSet,
    view::{Service, VirtualHost, VirtualHosts},
};

/// The hosts that no service has. `services` are all of the mesh, `is_service` knows their `name.namespace`.
pub(super) fn compile(parts: &Parts, services: &[Arc<Service>], is_service: impl Fn(&str) -> bool) -> VirtualHosts {
    let mut by_name: BTreeMap<&str, Vec<Arc<RuleSet>>> = BTreeMap::new();
    let mut by_end: BTreeMap<&HostPattern, Vec<Arc<RuleSet>>> = BTreeMap::new();
    for rules in &parts.documents.rules_by_age {
        for host in &rules.hosts {
            let of_host = match host {
                HostPattern::Exact(name) if is_service(hosts::lookup_name(name)) => continue,
                HostPattern::Exact(name) => by_name.entry(name).or_default(),
                HostPattern::Wildcard(_) => by_end.entry(host).or_default(),
            };
            of_host.push(Arc::clone(rules));
        }
    }
    if !by_end.is_empty() {
        // An end that rules a service is for services, as in Istio.
        let of_mesh = services.iter().flat_map(|service| ends_that_rule(&service.fqdn, parts));
        let mut ends: HashSet<&HostPattern> = of_mesh.collect();
        for host in parts.documents.entries.keys() {
            ends.extend(ends_that_rule(&host.to_string(), parts));
        }
        by_end.retain(|end, _| !ends.contains(end));
    }
    let host = |rules: Vec<Arc<RuleSet>>| Arc::new(VirtualHost { rules: visible_rules(&rules) });
    let mut made = VirtualHosts::default();
    for (name, rules) in by_name {
        made.by_name.entry(hosts::lookup_name(name).into()).or_insert_with(|| host(rules));
    }
    for (end, rules) in by_end {
        made.by_end.insert(end, host(rules));
    }
    made
}

/// The wildcards that rule a service.
fn ends_that_rule<'p>(fqdn: &str, parts: &'p Parts) -> Vec<&'p HostPattern> {
    let hosts = parts.documents.rules.matching(fqdn).flat_map(|rules| &rules.hosts);
    hosts.filter(|host| matches!(host, HostPattern::Wildcard(_)) && host.matches(fqdn)).collect()
}
