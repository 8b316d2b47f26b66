//! Which VirtualService and which DestinationRules hold for a service, and what they make of it. Istio's rules for
//! hosts and precedence.

use std::{collections::BTreeMap, sync::Arc};

use weft_wire::{
    document::{DocumentKey, Stamp},
    id::ServiceName,
};

use super::{clusters::Clusters, services::Model};
use crate::{
    balance::{Balancer, Cluster},
    document::{self, DestinationRule, Document, HttpRule, Spec, Subset, VirtualService},
    hosts::{self, HostPattern},
    route::{Destinations, Rule},
};

/// Documents here hold for the whole mesh where no nearer one does.
const ROOT_NAMESPACE: &str = "istio-system";

/// The documents that steer traffic, oldest first.
#[derive(Debug)]
pub(super) struct Rules<'a> {
    virtual_services: Vec<&'a VirtualService>,
    destination_rules: Vec<(&'a DocumentKey, &'a DestinationRule)>,
}

/// What DestinationRules say of one service.
#[derive(Debug, Default)]
pub(super) struct TrafficPolicy<'a> {
    pub(super) balancer: Balancer,
    pub(super) subsets: Vec<&'a Subset>,
}

impl<'a> Rules<'a> {
    pub(super) fn new(documents: &'a [Arc<Document>]) -> Self {
        let mut sorted: Vec<(Stamp, &DocumentKey, &Spec)> =
            documents.iter().map(|document| (document.created, &document.key, &document.spec)).collect();
        // Equal stamps are possible, of two authors; the key makes all nodes choose alike.
        sorted.sort_by_key(|(created, key, _)| (*created, *key));
        let (mut virtual_services, mut destination_rules) = (Vec::new(), Vec::new());
        for (_, key, spec) in sorted {
            match spec {
                Spec::VirtualService(service) => virtual_services.push(service),
                Spec::DestinationRule(rule) => destination_rules.push((key, rule)),
                Spec::Namespace | Spec::ServiceAccount | Spec::Service(_) => {}
            }
        }
        Self { virtual_services, destination_rules }
    }

    /// The VirtualService that rules a host: the most specific one, of those the oldest.
    fn virtual_service_for(&self, fqdn: &str) -> Option<&'a VirtualService> {
        let mut best: Option<((bool, usize), &'a VirtualService)> = None;
        for service in &self.virtual_services {
            let matching = service.hosts.iter().filter(|host| host.matches(fqdn)).map(HostPattern::specificity).max();
            if let Some(specificity) = matching
                && best.is_none_or(|(known, _)| specificity > known)
            {
                best = Some((specificity, service));
            }
        }
        best.map(|(_, service)| service)
    }

    /// Merges the DestinationRules for a service: those of its own namespace, else of the root namespace; of these
    /// the ones with the most specific host; of those the oldest top-level policy, and all subsets, the oldest of a
    /// name.
    pub(super) fn policy_for(&self, service: &ServiceName, fqdn: &str) -> TrafficPolicy<'a> {
        let in_namespace = |wanted: &str| -> Vec<&'a DestinationRule> {
            let matching = self.destination_rules.iter().filter(|(key, rule)| {
                key.namespace.as_ref().is_some_and(|namespace| namespace.as_str() == wanted) && rule.host.matches(fqdn)
            });
            let matching: Vec<&'a DestinationRule> = matching.map(|(_, rule)| *rule).collect();
            let most_specific = matching.iter().map(|rule| rule.host.specificity()).max();
            matching.into_iter().filter(|rule| Some(rule.host.specificity()) == most_specific).collect()
        };
        let mut chosen = in_namespace(service.namespace.as_str());
        if chosen.is_empty() {
            chosen = in_namespace(ROOT_NAMESPACE);
        }
        let mut policy = TrafficPolicy {
            balancer: chosen.iter().find_map(|rule| rule.balancer).unwrap_or_default(),
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
        let find = |destination: &document::Destination| -> Option<Arc<Cluster>> {
            let service = hosts::service_of(&destination.host)?;
            let port = match (destination.port, models.get(&service)?.ports.as_slice()) {
                (Some(port), _) => port,
                (None, [only]) => only.port,
                (None, _) => dialled_port,
            };
            clusters.get(&service, port, &destination.subset).cloned()
        };
        let rules = &self.virtual_service_for(fqdn)?.http;
        Some(rules.iter().map(|rule| compile_rule(rule, find)).collect())
    }
}

fn compile_rule(rule: &HttpRule, find: impl Fn(&document::Destination) -> Option<Arc<Cluster>>) -> Rule {
    let destinations = match rule.route.as_slice() {
        [only] => Destinations::One(find(only)),
        several => {
            let mut sum = 0;
            let weighted = several.iter().filter(|destination| destination.weight > 0);
            let with_sums = weighted.map(|destination| {
                sum += destination.weight;
                (sum, find(destination))
            });
            Destinations::Weighted(with_sums.collect())
        }
    };
    Rule {
        name: rule.name.clone(),
        matches: rule.matches.clone(),
        destinations,
        timeout: rule.timeout,
        path_rewrite: rule.path_rewrite.clone(),
        authority_rewrite: rule.authority_rewrite.clone(),
    }
}
