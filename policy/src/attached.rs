//! weft's own policies, found by what they attach to. A request whose host, rule and workload no policy attaches to
//! pays for a look at an empty table.

use std::{collections::HashMap, sync::Arc};

use crate::{document::Document, endpoint::Workload, limit::Limits, route::Origin};

/// The policies of one view.
#[derive(Debug, Default)]
pub(crate) struct Attached {
    /// By the address of the document and the rule's place in it.
    pub(crate) by_rule: HashMap<(usize, usize), OfRule>,
    /// Of this node's workloads: by the address of the workload, and the port that it listens on.
    pub(crate) by_workload: HashMap<(usize, u16), OfWorkload>,
}

/// What holds for requests that a rule matches, at their caller.
#[derive(Debug)]
pub(crate) struct OfRule {
    /// Keeps the address in use.
    pub(crate) document: Arc<Document>,
    pub(crate) limits: Limits,
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
        if self.by_rule.is_empty() {
            return None;
        }
        self.by_rule
            .get(&(address(origin.document), origin.rule))
            .filter(|found| Arc::ptr_eq(&found.document, origin.document))
            .map(|found| &found.limits)
    }

    pub(crate) fn limits_of_workload(&self, workload: &Arc<Workload>, target_port: u16) -> Option<&Limits> {
        if self.by_workload.is_empty() {
            return None;
        }
        let found = self.by_workload.get(&(address(workload), target_port));
        found.filter(|found| Arc::ptr_eq(&found.workload, workload)).map(|found| &found.limits)
    }
}
