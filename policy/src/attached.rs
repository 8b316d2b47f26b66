//! weft's own policies, found by what they attach to. A request whose host, rule and workload no policy attaches to
//! pays for a look at an empty table.

use std::{collections::HashMap, sync::Arc};

use crate::{
    document::Document, endpoint::Workload, experiment::Experiment, limit::Limits, route::Origin, service_id::ServiceId,
};

/// The policies of one view.
#[derive(Debug, Default)]
pub(crate) struct Attached {
    /// By the address of the document and the rule's place in it.
    pub(crate) by_rule: HashMap<(usize, usize), OfRule>,
    /// Of this node's workloads: by the address of the workload, and the port that it listens on.
    pub(crate) by_workload: HashMap<(usize, u16), OfWorkload>,
    /// Faults of a service's ports, at those who call it.
    pub(crate) by_service: HashMap<ServiceId, Vec<(u16, Arc<Experiment>)>>,
}

/// What holds for requests that a rule matches, at their caller.
#[derive(Debug)]
pub(crate) struct OfRule {
    /// Keeps the address in use.
    pub(crate) document: Arc<Document>,
    pub(crate) limits: Limits,
    pub(crate) experiments: Vec<Arc<Experiment>>,
}

/// What holds for requests to a workload, whoever calls.
#[derive(Debug)]
pub(crate) struct OfWorkload {
    /// Keeps the address in use.
    pub(crate) workload: Arc<Workload>,
    pub(crate) limits: Limits,
}

pub(crate) fn address<T>(of: &Arc<T>) -> usize {
    Arc::as_ptr(of).addr()
}

impl Attached {
    pub(crate) fn limits_of_rule(&self, origin: Origin<'_>) -> Option<&Limits> {
        self.of_rule(origin).map(|found| &found.limits).filter(|limits| !limits.is_empty())
    }

    pub(crate) fn limits_of_workload(&self, workload: &Arc<Workload>, target_port: u16) -> Option<&Limits> {
        if self.by_workload.is_empty() {
            return None;
        }
        let found = self.by_workload.get(&(address(workload), target_port));
        found.filter(|found| Arc::ptr_eq(&found.workload, workload)).map(|found| &found.limits)
    }

    /// The experiments with requests that a rule matched, or that go to a port of a service, each once.
    pub(crate) fn experiments(
        &self,
        origin: Option<Origin<'_>>,
        to: Option<(&ServiceId, u16)>,
    ) -> impl Iterator<Item = &Arc<Experiment>> {
        let of_rule = origin.and_then(|origin| self.of_rule(origin)).map_or(&[][..], |found| &found.experiments);
        let (port, of_service) = match to {
            Some((service, port)) if !self.by_service.is_empty() => {
                (port, self.by_service.get(service).map_or(&[][..], Vec::as_slice))
            }
            _ => (0, &[][..]),
        };
        let of_port = of_service.iter().filter(move |(known, _)| *known == port).map(|(_, experiment)| experiment);
        let is_new = move |experiment: &&Arc<Experiment>| !of_rule.iter().any(|known| Arc::ptr_eq(known, experiment));
        of_rule.iter().chain(of_port.filter(is_new))
    }

    fn of_rule(&self, origin: Origin<'_>) -> Option<&OfRule> {
        if self.by_rule.is_empty() {
            return None;
        }
        let found = self.by_rule.get(&(address(origin.document), origin.rule));
        found.filter(|found| Arc::ptr_eq(&found.document, origin.document))
    }
}
