//! DestinationRules: which of them hold for a service, as clients in a namespace see it, and what they say together.
//! Istio's rules of precedence.

use std::sync::Arc;

use weft_wire::id::{Namespace, ServiceName};

use crate::{
    api::networking::{DestinationRule, LoadBalancerSettings, PortTrafficPolicy, SimpleLb, Subset, TrafficPolicy},
    balance::Balancer,
    document::{Document, Spec},
    hosts::HostPattern,
    namespaces::{PerNamespace, Visibility},
    view::Service,
};

/// Documents here hold for the whole mesh where no nearer one does.
const ROOT_NAMESPACE: &str = "istio-system";

/// One DestinationRule.
#[derive(Debug)]
pub(crate) struct Policy {
    document: Arc<Document>,
    namespace: Namespace,
    pub(super) host: HostPattern,
    visible: Visibility,
}

impl Policy {
    /// `None` for another kind of document.
    pub(super) fn read(document: &Arc<Document>) -> Option<Self> {
        let Spec::DestinationRule(rule) = &document.spec else { return None };
        // One with a selector is not for all clients.
        if rule.workload_selector.is_some() {
            return None;
        }
        let namespace = document.namespace();
        Some(Self {
            document: document.clone(),
            host: HostPattern::read(&rule.host, &namespace).ok()?,
            visible: Visibility::read(&rule.export_to, &namespace),
            namespace,
        })
    }

    fn rule(&self) -> Option<&DestinationRule> {
        match &self.document.spec {
            Spec::DestinationRule(rule) => Some(rule),
            _ => None,
        }
    }
}

/// The DestinationRules that hold for a service, as clients in a namespace see it.
pub(crate) fn destination_rules(service: &Service, client: &Namespace) -> Vec<Arc<Document>> {
    let holding = holding(&service.name, service.ingredients.policies());
    holding.of(client).iter().map(|policy| policy.document.clone()).collect()
}

/// Of all whose host matches, the most specific host first and of these the oldest, the ones that hold together.
pub(super) fn holding(service: &ServiceName, candidates: &[Arc<Policy>]) -> PerNamespace<Vec<Arc<Policy>>> {
    let own = std::iter::once(&service.namespace).filter(|_| !candidates.is_empty());
    let owners = candidates.iter().map(|policy| &policy.namespace);
    let readers = candidates.iter().flat_map(|policy| policy.visible.names());
    PerNamespace::new(own.chain(owners).chain(readers), |client| choose(service, candidates, client))
}

/// The client's own namespace first, then the service's, then the root. `None` is a client in a namespace that no
/// document names.
fn choose(service: &ServiceName, candidates: &[Arc<Policy>], client: Option<&Namespace>) -> Vec<Arc<Policy>> {
    let in_root = client.is_some_and(|client| client.as_str() == ROOT_NAMESPACE);
    let of = |namespace: &str, holds: &dyn Fn(&Policy) -> bool| {
        let mut found = candidates.iter().filter(|policy| policy.namespace.as_str() == namespace && holds(policy));
        let first = found.next()?;
        let others = found.filter(|policy| policy.host == first.host);
        Some(std::iter::once(first).chain(others).cloned().collect())
    };
    // What the root exports is for everybody: nearer rules come first even for its own clients.
    let is_private = |policy: &Policy| match &policy.visible {
        Visibility::All => false,
        Visibility::Only(names) => names.len() == 1 && names.contains(&policy.namespace),
    };
    let own = client.and_then(|client| of(client.as_str(), &|policy| !in_root || is_private(policy)));
    let is_seen = |policy: &Policy| policy.visible.includes(client);
    own.or_else(|| of(service.namespace.as_str(), &is_seen))
        .or_else(|| of(ROOT_NAMESPACE, &is_seen))
        .unwrap_or_default()
}

/// What DestinationRules that hold together say.
pub(super) struct Merged<'a>(pub(super) &'a [Arc<Policy>]);

impl<'a> Merged<'a> {
    /// The oldest of the policies for the whole host.
    fn top(&self) -> Option<&'a TrafficPolicy> {
        self.0.iter().find_map(|policy| policy.rule()?.traffic_policy.as_ref())
    }

    /// All subsets, the oldest of a name.
    pub(super) fn subsets(&self) -> Vec<&'a Subset> {
        let mut subsets: Vec<&'a Subset> = Vec::new();
        for subset in self.0.iter().filter_map(|policy| policy.rule()).flat_map(|rule| &rule.subsets) {
            if !subsets.iter().any(|known| known.name == subset.name) {
                subsets.push(subset);
            }
        }
        subsets
    }

    /// What holds for one port of the whole service, or of a subset.
    pub(super) fn settings(&self, port: u16, subset: Option<&Subset>) -> Settings {
        let subset = subset.and_then(|subset| subset.traffic_policy.as_ref());
        [self.top(), subset]
            .into_iter()
            .flatten()
            .fold(Settings::default(), |settings, policy| settings.with(policy, port))
    }
}

/// What DestinationRules say of the endpoints of one port, block by block.
#[derive(Debug, Default)]
pub(super) struct Settings {
    load_balancer: Option<LoadBalancerSettings>,
}

impl Settings {
    /// A nearer policy replaces the blocks that it has. What it says of the port replaces all of them: the blocks that
    /// are missing there are the defaults.
    fn with(self, policy: &TrafficPolicy, port: u16) -> Self {
        let of_port = |settings: &&PortTrafficPolicy| settings.port.is_some_and(|of| of.number.number() == port);
        match policy.port_level_settings.iter().find(of_port) {
            Some(settings) => Self { load_balancer: settings.load_balancer.clone() },
            None => Self { load_balancer: policy.load_balancer.clone().or(self.load_balancer) },
        }
    }

    pub(super) fn balancer(&self) -> Balancer {
        match self.load_balancer.as_ref().and_then(|settings| settings.simple) {
            Some(SimpleLb::RoundRobin) => Balancer::RoundRobin,
            Some(SimpleLb::Random) => Balancer::Random,
            Some(SimpleLb::Unspecified | SimpleLb::LeastConn | SimpleLb::LeastRequest | SimpleLb::Passthrough)
            | None => Balancer::LeastRequest,
        }
    }
}
