//! What became of a BackendTLSPolicy, by the services that it is for.

use weft_wire::id::ServiceName;

use super::{Condition, GatewayStatus, ParentName, ParentStatus};
use crate::{
    api::gateway::{BackendTlsPolicy, LocalObjectReference, PolicyTargetReference},
    compile::gateway_api::listeners::Documents,
    document::{Document, Spec},
    secrets::{Reference, check_bundle},
    view::{MeshView, Service},
};

pub(super) fn of_backend_tls(
    document: &Document,
    policy: &BackendTlsPolicy,
    documents: &Documents<'_>,
    view: &MeshView,
) -> GatewayStatus {
    let references = &policy.validation.ca_certificate_refs;
    let wrong: Vec<(&'static str, String)> =
        references.iter().filter_map(|reference| wrong_reference(document, reference, documents)).collect();
    let has_authorities = references.is_empty() || wrong.len() < references.len();
    let resolved = match wrong.into_iter().next() {
        Some((reason, message)) => Condition::bad("ResolvedRefs", reason, message),
        None => Condition::good("ResolvedRefs"),
    };
    let of_target = |target: &PolicyTargetReference| {
        let mut accepted = accepted(document, target, view);
        if accepted.holds && !has_authorities {
            accepted = Condition::bad("Accepted", "NoValidCACertificate", resolved.message.clone());
        }
        let parent = ParentName {
            group: target.group.to_string(),
            kind: target.kind.to_string(),
            namespace: Some(document.namespace()),
            name: target.name.to_string(),
            section_name: target.section_name.as_ref().map(ToString::to_string),
            port: None,
        };
        ParentStatus { parent, conditions: vec![accepted, resolved.clone()] }
    };
    let in_mesh = policy.target_refs.iter().find(|target| has_workloads(document, target, view));
    let no_effect = in_mesh.map(|target| {
        let message =
            format!("workloads of {} in the mesh are called by its mutual TLS, not by their own", target.name);
        Condition::bad("Programmed", "NotImplemented", message)
    });
    GatewayStatus {
        conditions: no_effect.into_iter().collect(),
        ancestors: policy.target_refs.iter().map(of_target).collect(),
        ..GatewayStatus::default()
    }
}

fn wrong_reference(
    document: &Document,
    reference: &LocalObjectReference,
    documents: &Documents<'_>,
) -> Option<(&'static str, String)> {
    if !reference.is_config_map() {
        let message =
            format!("{} {} is no ConfigMap, which alone may hold authorities", reference.kind, reference.name);
        return Some(("InvalidKind", message));
    }
    let name = Reference::new(&document.namespace(), &reference.name);
    let found = documents.document("", "ConfigMap", &name.namespace, &name.name);
    let map = found.and_then(|found| match &found.spec {
        Spec::ConfigMap(map) => Some(&**map),
        _ => None,
    });
    check_bundle(&name, map).err().map(|why| ("InvalidCACertificateRef", why))
}

fn accepted(document: &Document, target: &PolicyTargetReference, view: &MeshView) -> Condition {
    let bad = |reason, message: String| Condition::bad("Accepted", reason, message);
    if !target.is_service() {
        return bad("TargetNotFound", format!("{} {} is no Service", target.kind, target.name));
    }
    if !view.parts.is_target(&document.key, target, &view.services) {
        return bad(
            "TargetNotFound",
            match &target.section_name {
                Some(section) => format!("there is no Service {} with a port {section}", target.name),
                None => format!("there is no Service {}", target.name),
            },
        );
    }
    match view.parts.conflicting(&document.key, target) {
        Some(older) => {
            bad("Conflicted", format!("BackendTLSPolicy {} has the same target, and is older", older.key.name))
        }
        None => Condition::good("Accepted"),
    }
}

fn has_workloads(document: &Document, target: &PolicyTargetReference, view: &MeshView) -> bool {
    let service = || {
        let name = ServiceName { namespace: document.namespace(), name: target.name.parse().ok()? };
        view.service_named(&name.to_string())
    };
    let is_called = |service: &Service| {
        let endpoints = service.clusters.elsewhere().others.ports.iter().flat_map(|port| &port.all.endpoints);
        endpoints.into_iter().any(|endpoint| endpoint.workload.is_some())
    };
    target.is_service() && service().is_some_and(|service| is_called(service))
}
