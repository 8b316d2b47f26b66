//! What the parents of a route make of it.

use weft_wire::id::ServiceName;

use super::{Condition, GatewayStatus, ParentName, ParentStatus};
use crate::{
    api::gateway::{Backend, ParentReference},
    compile::gateway_api::{
        attach::service_parents,
        listeners::{Documents, Refusal},
        route::{ParentKind, backends, is_granted, parents, service_of},
    },
    document::{Document, Spec},
    view::MeshView,
};

/// `None` for a document that is no route.
pub(super) fn of_route(document: &Document, documents: &Documents<'_>, view: &MeshView) -> Option<GatewayStatus> {
    let (parents, backends) = (parents(&document.spec)?, backends(&document.spec)?);
    let of_parent = |parent: &ParentReference| {
        let accepted = match &document.spec {
            Spec::UdpRoute(_) => Condition::bad("Accepted", "UnsupportedValue", "between nodes there are streams only"),
            _ => accepted(document, parent, documents, view),
        };
        let kind = if parent.is_service() { ParentKind::Service } else { ParentKind::Gateway };
        let resolved = resolved_refs(document, &backends, kind, documents, view);
        ParentStatus { parent: ParentName::of(parent), conditions: vec![accepted, resolved] }
    };
    let parents = parents.iter().filter(|parent| !is_of_another(document, parent, documents));
    Some(GatewayStatus { parents: parents.map(of_parent).collect(), ..GatewayStatus::default() })
}

/// A parent of which another controller says what became of the route: a Gateway that is there and not served here.
fn is_of_another(document: &Document, parent: &ParentReference, documents: &Documents<'_>) -> bool {
    let namespace = parent.namespace.clone().unwrap_or_else(|| document.namespace());
    &*parent.kind == "Gateway"
        && documents.document(&parent.group, "Gateway", &namespace, &parent.name).is_some()
        && documents.gateway(document, parent).is_none()
}

fn accepted(document: &Document, parent: &ParentReference, documents: &Documents<'_>, view: &MeshView) -> Condition {
    let bad = |reason, message: String| Condition::bad("Accepted", reason, message);
    if parent.is_service() {
        return match missing_service(document, parent, view) {
            None => Condition::good("Accepted"),
            Some(missing) => bad("NoMatchingParent", missing),
        };
    }
    let Some((gateway, spec)) = documents.gateway(document, parent) else {
        return bad(
            "NoMatchingParent",
            format!("there is no {} {}, or it takes no listeners", parent.kind, parent.name),
        );
    };
    match documents.attach(document, parent, &documents.listeners(gateway, spec)) {
        Ok(_) => Condition::good("Accepted"),
        Err(Refusal::NoMatchingParent) => {
            bad("NoMatchingParent", format!("{} {} has no such listener", parent.kind, parent.name))
        }
        Err(Refusal::NotAllowedByListeners) => {
            bad("NotAllowedByListeners", "no listener allows routes of this kind from this namespace".to_owned())
        }
        Err(Refusal::NoMatchingListenerHostname) => {
            bad("NoMatchingListenerHostname", "no listener's hostname is one of the route's".to_owned())
        }
    }
}

/// What is missing of a service that is a parent.
fn missing_service(document: &Document, parent: &ParentReference, view: &MeshView) -> Option<String> {
    let namespace = document.namespace();
    let parents = std::slice::from_ref(parent);
    let Some(found) = service_parents(&namespace, parents).next() else {
        return Some(format!("{} is no service's name", parent.name));
    };
    let Some(service) = service(view, &found.service) else {
        return Some(format!("the mesh has no service {}", found.service));
    };
    let has_port = found.is_whole() || service.ports.iter().any(|port| found.holds_for(port.port, &port.name));
    (!has_port).then(|| format!("service {} has no such port", found.service))
}

fn service<'v>(view: &'v MeshView, name: &ServiceName) -> Option<&'v crate::view::Service> {
    view.service_named(&name.to_string()).map(|service| &**service)
}

/// By the first backend that is wrong.
fn resolved_refs(
    document: &Document,
    backends: &[Backend<'_>],
    parent: ParentKind,
    documents: &Documents<'_>,
    view: &MeshView,
) -> Condition {
    let namespace = document.namespace();
    let wrong = backends.iter().find_map(|backend| {
        let Some(name) = service_of(*backend, &namespace) else {
            return Some(("InvalidKind", format!("{} {} is no service", backend.kind, backend.name)));
        };
        if parent == ParentKind::Gateway && !is_granted(document, &namespace, *backend, documents.grants()) {
            return Some(("RefNotPermitted", format!("no ReferenceGrant in {} lets it name {name}", name.namespace)));
        }
        if view.parts.is_external_name(&name) {
            return Some(("InvalidKind", format!("{name} is of type ExternalName, which routes may not name")));
        }
        let Some(service) = service(view, &name) else {
            return Some(("BackendNotFound", format!("the mesh has no service {name}")));
        };
        let port = backend.port.map(|port| port.number());
        let has_port = service.ports.iter().any(|known| Some(known.port) == port);
        (!has_port).then(|| ("BackendNotFound", format!("service {name} has no such port")))
    });
    match wrong {
        Some((reason, message)) => Condition::bad("ResolvedRefs", reason, message),
        None => Condition::good("ResolvedRefs"),
    }
}
