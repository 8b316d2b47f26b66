//! BackendTLSPolicies: which ports of services may only be called by TLS of the backend's own.

use std::{collections::BTreeSet, sync::Arc};

use weft_wire::id::ServiceName;

use crate::{
    api::gateway::PolicyTargetReference,
    document::{Document, Spec},
};

/// The services that a policy names.
pub(super) fn services(document: &Document) -> BTreeSet<ServiceName> {
    let namespace = document.namespace();
    let name = |target: &PolicyTargetReference| {
        Some(ServiceName { name: target.name.parse().ok()?, namespace: namespace.clone() })
    };
    targets(document).filter_map(name).collect()
}

/// Whether one of a service's policies is for this port of it.
pub(super) fn is_for(policies: &[Arc<Document>], service: &ServiceName, port: &str) -> bool {
    let mut targets = policies.iter().flat_map(|document| targets(document));
    targets.any(|target| {
        *target.name == *service.name.as_str() && target.section_name.as_ref().is_none_or(|section| **section == *port)
    })
}

fn targets(document: &Document) -> impl Iterator<Item = &PolicyTargetReference> {
    let targets = match &document.spec {
        Spec::BackendTlsPolicy(policy) => &policy.target_refs[..],
        _ => &[],
    };
    targets.iter().filter(|target| target.is_service())
}
