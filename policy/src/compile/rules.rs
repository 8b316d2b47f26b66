//! Which VirtualService and which DestinationRules hold for a service, and what they make of it. Istio's rules for
//! hosts and precedence.

use std::{collections::BTreeMap, sync::Arc};

use weft_wire::{
    document::{DocumentKey, Stamp},
    id::ServiceName,
};

use super::{clusters::Clusters, lower, services::Model};
use crate::{
    api::networking::{self, DestinationRule, SimpleLb, Subset, TrafficPolicy, VirtualService},
    balance::{Balancer, Cluster},
    document::{Document, Spec},
    hosts::{self, HostPattern},
    route::{Destinations, Rule},
};

/// Documents here hold for the whole mesh where no nearer one does.
const ROOT_NAMESPACE: &str = "istio-system";

/// The documents that steer traffic, oldest first, with their hosts fully qualified.
#[derive(Debug)]
pub(super) struct Rules<'a> {
    virtual_services: Vec<(&'a Document, Vec<HostPattern>, &'a VirtualService)>,
    destination_rules: Vec<(&'a DocumentKey, HostPattern, &'a DestinationRule)>,
}

/// What DestinationRules say of one service.
#[derive(Debug, Default)]
pub(super) struct Chosen<'a> {
    pub(super) balancer: Balancer,
    pub(super) subsets: Vec<&'a Subset>,
}

/// What a policy says of balancing; `None` leaves it to others, and to the default in the end.
pub(super) fn balancer(policy: Option<&TrafficPolicy>) -> Option<Balancer> {
    match policy?.load_balancer.as_ref()?.simple? {
        SimpleLb::RoundRobin => Some(Balancer::RoundRobin),
        SimpleLb::Random => Some(Balancer::Random),
        SimpleLb::Unspecified | SimpleLb::LeastConn | SimpleLb::LeastRequest | SimpleLb::Passthrough => {
            Some(Balancer::LeastRequest)
        }
    }
}

impl<'a> Rules<'a> {
    pub(super) fn new(documents: &'a [Arc<Document>]) -> Self {
        let mut sorted: Vec<(Stamp, &Arc<Document>)> =
            documents.iter().map(|document| (document.created, document)).collect();
        // Equal stamps are possible, of two authors; the key makes all nodes choose alike.
        sorted.sort_by_key(|(created, document)| (*created, &document.key));
        let (mut virtual_services, mut destination_rules) = (Vec::new(), Vec::new());
        for (_, document) in sorted {
            let namespace = document.namespace();
            match &document.spec {
                Spec::VirtualService(service) if service.is_for_mesh() => {
                    let hosts = service.hosts.iter().filter_map(|host| HostPattern::read(host, &namespace).ok());
                    virtual_services.push((&**document, hosts.collect(), &**service));
                }
                // One with a selector is not for all clients.
                Spec::DestinationRule(rule) if rule.workload_selector.is_none() => {
                    if let Ok(host) = HostPattern::read(&rule.host, &namespace) {
                        destination_rules.push((&document.key, host, &**rule));
                    }
                }
                _ => {}
            }
        }
        Self { virtual_services, destination_rules }
    }

    /// The VirtualService that rules a host: the most specific one, of those the oldest.
    fn virtual_service_for(&self, fqdn: &str) -> Option<(&'a Document, &'a VirtualService)> {
        let specificity =
            |hosts: &[HostPattern]| hosts.iter().filter(|host| host.matches(fqdn)).map(HostPattern::specificity).max();
        let ruling = self
            .virtual_services
            .iter()
            .filter_map(|(document, hosts, service)| Some((specificity(hosts)?, *document, *service)));
        // Of equals the first: they are sorted by age.
        let best = ruling.reduce(|best, next| if next.0 > best.0 { next } else { best });
        best.map(|(_, document, service)| (document, service))
    }

    /// Merges the DestinationRules for a service: those of its own namespace, else of the root namespace; of these
    /// the ones with the most specific host; of those the oldest top-level policy, and all subsets, the oldest of a
    /// name.
    pub(super) fn policy_for(&self, service: &ServiceName, fqdn: &str) -> Chosen<'a> {
        let in_namespace = |wanted: &str| -> Vec<&'a DestinationRule> {
            let matching = self.destination_rules.iter().filter(|(key, host, _)| {
                key.namespace.as_ref().is_some_and(|namespace| namespace.as_str() == wanted) && host.matches(fqdn)
            });
            let most_specific = matching.clone().map(|(_, host, _)| host.specificity()).max();
            matching
                .filter(|(_, host, _)| Some(host.specificity()) == most_specific)
                .map(|(_, _, rule)| *rule)
                .collect()
        };
        let mut chosen = in_namespace(service.namespace.as_str());
        if chosen.is_empty() {
            chosen = in_namespace(ROOT_NAMESPACE);
        }
        let mut policy = Chosen {
            balancer: chosen.iter().find_map(|rule| balancer(rule.traffic_policy.as_ref())).unwrap_or_default(),
            subsets: Vec::new(),
        };
        for subset in chosen.iter().flat_map(|rule| &rule.subsets) {
            if !policy.subsets.iter().any(|known| known.name == subset.name) {
                policy.subsets.push(subset);
            }
        }
        policy
    }

    /// The rules for requests to one port of a service; `None` if no VirtualService rules it.
    pub(super) fn compile_for(
        &self,
        fqdn: &str,
        dialled_port: u16,
        models: &BTreeMap<ServiceName, Model<'_>>,
        clusters: &Clusters<'_>,
    ) -> Option<Vec<Rule>> {
        let (document, service) = self.virtual_service_for(fqdn)?;
        let namespace = document.namespace();
        let find = |destination: &networking::Destination| -> Option<Arc<Cluster>> {
            let service = hosts::service_of(&destination.fqdn(&namespace))?;
            let port = match (destination.port, models.get(&service)?.ports.as_slice()) {
                (Some(port), _) => port.number.number(),
                (None, [only]) => only.port,
                (None, _) => dialled_port,
            };
            clusters.get(&service, port, &destination.subset).cloned()
        };
        Some(service.http.iter().map(|rule| compile_rule(rule, find)).collect())
    }
}

fn compile_rule(rule: &networking::HttpRoute, find: impl Fn(&networking::Destination) -> Option<Arc<Cluster>>) -> Rule {
    let destinations = match rule.route.as_slice() {
        [only] => Destinations::One(find(&only.destination)),
        several => {
            let mut sum = 0;
            let weighted = several.iter().filter_map(|share| {
                // Never negative, by its type.
                let weight = share.weight?.get().unsigned_abs();
                sum += weight;
                (weight > 0).then(|| (sum, find(&share.destination)))
            });
            Destinations::Weighted(weighted.collect())
        }
    };
    let rewrite = rule.rewrite.as_ref();
    Rule {
        name: rule.name.as_str().into(),
        matches: rule.matches.iter().map(lower::request_match).collect(),
        destinations,
        timeout: rule.timeout.map(|timeout| timeout.get()),
        path_rewrite: rewrite.and_then(lower::path_rewrite).map(Arc::new),
        authority_rewrite: rewrite.map(|rewrite| rewrite.authority.as_str()).filter(|a| !a.is_empty()).map(Into::into),
    }
}
