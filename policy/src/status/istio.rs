//! What became of Istio's Gateways, and of VirtualServices at their gateways.

use std::sync::Arc;

use super::{Condition, GatewayStatus, ListenerStatus, ParentName, ParentStatus};
use crate::{
    api::networking::{GROUP, Gateway},
    compile::{Bound, gateway_api::listeners::Refusal, refusal},
    document::Document,
    gateway::{Listener, ListenerProtocol},
    view::MeshView,
};

pub(super) fn of_gateway(document: &Document, spec: &Gateway, view: &MeshView) -> Option<GatewayStatus> {
    let gateway = view.gateways.all.get(&document.key)?;
    let listeners = gateway.listeners.iter().zip(&spec.servers).map(|(listener, server)| ListenerStatus {
        name: match server.name.as_str() {
            "" => listener.name.clone(),
            name => name.to_owned(),
        },
        supported_kinds: Vec::new(),
        attached_routes: listener.attached.len(),
        conditions: vec![accepted(listener), Condition::conflicted(listener.conflict)],
    });
    Some(GatewayStatus {
        conditions: vec![Condition::bad("Programmed", "NotImplemented", gateway.not_programmed())],
        listeners: listeners.collect(),
        ..GatewayStatus::default()
    })
}

fn accepted(listener: &Listener) -> Condition {
    match (listener.protocol, listener.conflict) {
        (ListenerProtocol::Unsupported, _) => {
            Condition::bad("Accepted", "UnsupportedProtocol", "gateways cannot serve this protocol, or its TLS mode")
        }
        (_, Some(conflict)) => Condition::bad(
            "Accepted",
            conflict.reason(),
            "a server of an older gateway, or an earlier one, has the port",
        ),
        (_, None) => Condition::good("Accepted"),
    }
}

/// What the gateways that it names make of a VirtualService; `None` if it names none.
pub(super) fn of_virtual_service(document: &Document, view: &MeshView) -> Option<GatewayStatus> {
    let bound = view.gateways.ingredients.bound(&document.key)?;
    let parents = bound.gateways.iter().map(|(namespace, name)| ParentStatus {
        parent: ParentName {
            group: GROUP.to_owned(),
            kind: "Gateway".to_owned(),
            namespace: namespace.parse().ok(),
            name: name.clone(),
            section_name: None,
            port: None,
        },
        conditions: vec![taken(bound, namespace, name, view)],
    });
    Some(GatewayStatus { parents: parents.collect(), ..GatewayStatus::default() })
}

fn taken(bound: &Bound, namespace: &str, name: &str, view: &MeshView) -> Condition {
    let bad = |reason, message: String| Condition::bad("Accepted", reason, message);
    let is_it = |gateway: &&Arc<Document>| gateway.key.name == name && gateway.namespace().as_str() == namespace;
    let Some(gateway) = view.gateways.ingredients.istio().iter().find(is_it) else {
        return bad("NoMatchingParent", format!("there is no Gateway {namespace}/{name}"));
    };
    match refusal(gateway, bound) {
        None => Condition::good("Accepted"),
        Some(Refusal::NoMatchingListenerHostname) => {
            bad("NoMatchingListenerHostname", format!("Gateway {namespace}/{name} has none of its hosts"))
        }
        Some(_) if !bound.is_visible => bad(
            "NotAllowedByListeners",
            "exportTo hides it from gateways, which are of the namespace istio-system".to_owned(),
        ),
        Some(_) => {
            bad("NotAllowedByListeners", format!("Gateway {namespace}/{name} takes its hosts from other namespaces"))
        }
    }
}
