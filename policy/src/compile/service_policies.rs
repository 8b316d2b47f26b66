//! Policies for calls to services, CircuitPolicy, BackendTrafficPolicy and BackendTLSPolicy: which of them holds.

use std::sync::Arc;

use foldhash::HashMap;
use weft_wire::id::{Namespace, ServiceName};

use super::attached::is_port;
use crate::{
    api::{gateway::PolicyTargetReference, mesh::ROOT_NAMESPACE},
    document::{Document, Spec},
    view::ServicePort,
};

/// The policies of one kind, by what they are for.
#[derive(Debug, Default)]
pub(super) struct ByService {
    /// The oldest first.
    own: HashMap<ServiceName, Vec<Arc<Document>>>,
    /// Those without targets.
    of_namespaces: HashMap<Namespace, Arc<Document>>,
}

impl ByService {
    /// Younger ones last.
    pub(super) fn insert(&mut self, policy: &Arc<Document>) {
        let namespace = policy.namespace();
        let targets = targets(policy);
        if targets.is_empty() {
            self.of_namespaces.insert(namespace, policy.clone());
            return;
        }
        let services = targets.iter().filter(|target| target.is_service());
        for name in services.filter_map(|target| target.name.parse().ok()) {
            let known = self.own.entry(ServiceName { namespace: namespace.clone(), name }).or_default();
            if !known.last().is_some_and(|known| Arc::ptr_eq(known, policy)) {
                known.push(policy.clone());
            }
        }
    }

    /// Those that may hold for a service, or for a host that is known in a namespace: its own, the oldest first; its
    /// namespace's; the mesh's.
    pub(super) fn of(&self, namespace: &Namespace, service: Option<&ServiceName>) -> Vec<Arc<Document>> {
        let own = service.and_then(|service| self.own.get(service)).into_iter().flatten();
        let root = self.of_namespaces.iter().find(|(namespace, _)| namespace.as_str() == ROOT_NAMESPACE);
        let root = root.filter(|(root, _)| *root != namespace).map(|(_, policy)| policy);
        own.chain(self.of_namespaces.get(namespace)).chain(root).cloned().collect()
    }
}

pub(super) fn targets(policy: &Document) -> &[PolicyTargetReference] {
    match &policy.spec {
        Spec::BackendTlsPolicy(policy) => &policy.target_refs,
        Spec::CircuitPolicy(policy) => &policy.target_refs,
        Spec::BackendTrafficPolicy(policy) => &policy.target_refs,
        _ => &[],
    }
}

/// The one of [`ByService::of`] that holds for a port of the service: one that names the port, else one for the whole
/// service, else a wider one.
pub(super) fn holding<'d>(
    candidates: &'d [Arc<Document>],
    service: Option<&ServiceName>,
    port: &ServicePort,
) -> Option<&'d Arc<Document>> {
    let names = |policy: &Document, has_section: bool| {
        let is_it = |target: &&PolicyTargetReference| {
            target.is_service() && service.is_some_and(|service| *service.name.as_str() == *target.name)
        };
        let mut of_service = targets(policy).iter().filter(is_it);
        of_service.any(|target| target.section_name.is_some() == has_section && is_port(target, port))
    };
    let mut wider = candidates.iter().filter(|policy| targets(policy).is_empty());
    let of_port = candidates.iter().find(|policy| names(policy, true));
    of_port.or_else(|| candidates.iter().find(|policy| names(policy, false))).or_else(|| wider.next())
}
