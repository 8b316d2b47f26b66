//! What weft's own policies attach to: rules of routes, and services with their workloads.

use std::sync::Arc;

use weft_wire::{document::DocumentKey, id::ServiceName};

use super::documents::DocumentIndex;
use crate::{
    api::{gateway::PolicyTargetReference, mesh},
    attached::{Attached, OfRule, OfWorkload, address},
    document::{Document, Spec},
    endpoint::{EndpointAddress, Workload},
    experiment::Experiment,
    limit::{Limits, RateLimiter},
    view::{Service, ServicePort},
};

/// A RateLimit.
#[derive(Debug)]
pub(crate) struct LimitPolicy {
    document: Arc<Document>,
    pub(crate) limiter: Arc<RateLimiter>,
}

impl LimitPolicy {
    /// `before` is the policy of the same name that was known until now.
    pub(super) fn new(document: &Arc<Document>, policy: &mesh::RateLimit, before: Option<&Self>) -> Self {
        let before = before.map(|before| &*before.limiter);
        let limiter = RateLimiter::new(document.key.clone(), policy, before);
        Self { document: document.clone(), limiter: Arc::new(limiter) }
    }

    pub(super) fn key(&self) -> &DocumentKey {
        &self.document.key
    }

    fn targets(&self) -> &[PolicyTargetReference] {
        match &self.document.spec {
            Spec::RateLimit(policy) => &policy.target_refs,
            _ => &[],
        }
    }
}

/// A FaultExperiment.
#[derive(Debug)]
pub(crate) struct ExperimentPolicy {
    document: Arc<Document>,
    pub(crate) experiment: Arc<Experiment>,
}

impl ExperimentPolicy {
    /// `before` is the policy of the same name that was known until now.
    pub(super) fn new(document: &Arc<Document>, policy: &mesh::FaultExperiment, before: Option<&Self>) -> Self {
        let before = before.map(|before| &*before.experiment);
        let experiment = Experiment::new(document.key.clone(), policy, document.created, before);
        Self { document: document.clone(), experiment: Arc::new(experiment) }
    }

    pub(super) fn key(&self) -> &DocumentKey {
        &self.document.key
    }

    fn targets(&self) -> &[PolicyTargetReference] {
        match &self.document.spec {
            Spec::FaultExperiment(policy) => &policy.target_refs,
            _ => &[],
        }
    }
}

/// Finds what the policies are for.
pub(super) fn compile(documents: &DocumentIndex, services: &[Arc<Service>]) -> Arc<Attached> {
    let mut attached = Attached::default();
    if documents.limits.is_empty() && documents.experiments.is_empty() {
        return Arc::new(attached);
    }
    for policy in &documents.limits {
        for target in policy.targets() {
            if &*target.kind == "Service" {
                for (workload, port) in local_workloads(policy.key(), target, services) {
                    let found = attached.by_workload.entry((address(&workload), port));
                    let found = found.or_insert_with(|| OfWorkload { workload, limits: Limits::default() });
                    found.limits.add(&policy.limiter);
                }
            } else if let Some(route) = documents.routes.get(&route_key(policy.key(), target)) {
                for rule in rules_of(route, target) {
                    of_rule(&mut attached, route, rule).limits.add(&policy.limiter);
                }
            }
        }
    }
    for policy in &documents.experiments {
        for target in policy.targets() {
            if &*target.kind == "Service" {
                let Some(service) = service_of(policy.key(), target, services) else { continue };
                let found = attached.by_service.entry(service.id.clone()).or_default();
                for port in service.ports.iter().filter(|port| is_port(target, port)) {
                    found.push((port.port, policy.experiment.clone()));
                }
            } else if let Some(route) = documents.routes.get(&route_key(policy.key(), target)) {
                for rule in rules_of(route, target) {
                    of_rule(&mut attached, route, rule).experiments.push(policy.experiment.clone());
                }
            }
        }
    }
    Arc::new(attached)
}

fn of_rule<'a>(attached: &'a mut Attached, route: &Arc<Document>, rule: usize) -> &'a mut OfRule {
    let found = attached.by_rule.entry((address(route), rule));
    found.or_insert_with(|| OfRule { document: route.clone(), limits: Limits::default(), experiments: Vec::new() })
}

/// The workloads of this node that serve the service, or its port that the target names, each with the port that it
/// listens on.
fn local_workloads(
    policy: &DocumentKey,
    target: &PolicyTargetReference,
    services: &[Arc<Service>],
) -> Vec<(Arc<Workload>, u16)> {
    let Some(service) = service_of(policy, target, services) else { return Vec::new() };
    let ports = service.ports.iter().filter(|port| is_port(target, port));
    let endpoints = ports.filter_map(|port| service.cluster(port.port)).flat_map(|cluster| &cluster.endpoints);
    let local = endpoints.filter(|endpoint| matches!(endpoint.address, EndpointAddress::Local(_)));
    local.filter_map(|endpoint| Some((endpoint.workload.clone()?, endpoint.key.target_port))).collect()
}

fn service_of<'s>(
    policy: &DocumentKey,
    target: &PolicyTargetReference,
    services: &'s [Arc<Service>],
) -> Option<&'s Arc<Service>> {
    let name = ServiceName { namespace: policy.namespace.clone()?, name: target.name.parse().ok()? };
    services.binary_search_by(|service| service.id.mesh().cmp(&Some(&name))).ok().and_then(|at| services.get(at))
}

/// Whether a target means this port: by its name or its number, or by naming none.
pub(super) fn is_port(target: &PolicyTargetReference, port: &ServicePort) -> bool {
    target.section_name.as_ref().is_none_or(|section| **section == *port.name || section.parse() == Ok(port.port))
}

fn route_key(policy: &DocumentKey, target: &PolicyTargetReference) -> DocumentKey {
    DocumentKey {
        group: target.group.to_string(),
        kind: target.kind.to_string(),
        namespace: policy.namespace.clone(),
        name: target.name.to_string(),
    }
}

/// The places of the rules of a route that a target means: those of a name, or all.
fn rules_of(route: &Document, target: &PolicyTargetReference) -> Vec<usize> {
    fn named<'n>(names: impl Iterator<Item = Option<&'n str>>, section: Option<&str>) -> Vec<usize> {
        let is_meant = |name: Option<&str>| section.is_none() || name == section;
        names.enumerate().filter(|(_, name)| is_meant(*name)).map(|(place, _)| place).collect()
    }
    let section = target.section_name.as_deref();
    match &route.spec {
        Spec::VirtualService(service) => named(service.http.iter().map(|rule| Some(rule.name.as_str())), section),
        Spec::HttpRoute(route) => named(route.rules.iter().map(|rule| rule.name.as_deref()), section),
        Spec::GrpcRoute(route) => named(route.rules.iter().map(|rule| rule.name.as_deref()), section),
        _ => Vec::new(),
    }
}

/// Whether policies may attach to the rules of a document.
pub(super) fn is_route(document: &Document) -> bool {
    matches!(document.spec, Spec::VirtualService(_) | Spec::HttpRoute(_) | Spec::GrpcRoute(_))
}

/// Whether something of the mesh is a target; for the status of a policy.
pub(crate) fn is_target(
    policy: &DocumentKey,
    target: &PolicyTargetReference,
    documents: &DocumentIndex,
    services: &[Arc<Service>],
) -> bool {
    if &*target.kind == "Service" {
        service_of(policy, target, services)
            .is_some_and(|service| service.ports.iter().any(|port| is_port(target, port)))
    } else {
        documents.routes.get(&route_key(policy, target)).is_some_and(|route| !rules_of(route, target).is_empty())
    }
}
