//! What became of documents of the Gateway API: the `status` that their project defines, from a view; and likewise of
//! Istio's documents about gateways.

mod gateway;
mod istio;
mod policy;
mod route;

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_wire::id::Namespace;

use crate::{
    api::{gateway::ParentReference, networking},
    compile::gateway_api::listeners::{Documents, listener_set, serves_controller},
    document::{Document, Spec},
    gateway::Conflict,
    view::MeshView,
};

pub use crate::compile::gateway_api::listeners::CONTROLLER_NAME;

/// The fields of `status` that a kind has beside what all documents have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayStatus {
    /// Of the whole document.
    pub conditions: Vec<Condition>,
    /// Of a route, one for each of its parents; of a VirtualService for each of its gateways.
    pub parents: Vec<ParentStatus>,
    /// Of a policy, one for each of its targets.
    pub ancestors: Vec<ParentStatus>,
    /// Of a Gateway, of Istio too, or of a ListenerSet.
    pub listeners: Vec<ListenerStatus>,
    /// Of a Gateway of the Gateway API: where the nodes are that are to serve it.
    pub addresses: Vec<IpAddr>,
}

/// Kubernetes' `metav1.Condition`, without its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub kind: &'static str,
    pub holds: bool,
    pub reason: &'static str,
    pub message: String,
}

/// What a parent of a route makes of it, or a target of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentStatus {
    pub parent: ParentName,
    pub conditions: Vec<Condition>,
}

/// A parent as the route names it, or a target of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentName {
    pub group: String,
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// What became of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerStatus {
    pub name: String,
    /// Kinds of routes that it takes.
    pub supported_kinds: Vec<&'static str>,
    pub attached_routes: usize,
    pub conditions: Vec<Condition>,
}

impl Condition {
    fn good(kind: &'static str) -> Self {
        Self { kind, holds: true, reason: kind, message: String::new() }
    }

    fn conflicted(conflict: Option<Conflict>) -> Self {
        match conflict {
            None => Self { holds: false, reason: "NoConflicts", ..Self::good("Conflicted") },
            Some(conflict) => Self { reason: conflict.reason(), ..Self::good("Conflicted") },
        }
    }

    fn bad(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, holds: false, reason, message: message.into() }
    }
}

impl ParentName {
    /// Whether it is a gateway that a VirtualService names.
    pub fn is_istio(&self) -> bool {
        self.group == networking::GROUP
    }

    fn of(parent: &ParentReference) -> Self {
        Self {
            group: parent.group.to_string(),
            kind: parent.kind.to_string(),
            namespace: parent.namespace.clone(),
            name: parent.name.to_string(),
            section_name: parent.section_name.as_ref().map(ToString::to_string),
            port: parent.port.map(|port| port.number()),
        }
    }
}

/// Judges documents by the documents and services of a view.
pub struct Judge<'v> {
    documents: Documents<'v>,
    view: &'v MeshView,
}

impl<'v> Judge<'v> {
    pub fn new(view: &'v MeshView) -> Self {
        Self { documents: Documents::new(view.documents()), view }
    }

    /// `None` for a kind whose status has no more than that of all documents.
    pub fn status_of(&self, document: &Document) -> Option<GatewayStatus> {
        let (documents, view) = (&self.documents, self.view);
        match &document.spec {
            Spec::GatewayClass(class) => {
                let conditions = match serves_controller(&class.controller_name) {
                    true => vec![Condition::good("Accepted"), Condition::good("SupportedVersion")],
                    false => vec![Condition::bad(
                        "Accepted",
                        "Pending",
                        format!("{} serves it, not weft", class.controller_name),
                    )],
                };
                Some(GatewayStatus { conditions, ..GatewayStatus::default() })
            }
            Spec::IstioGateway(spec) => istio::of_gateway(document, spec, view),
            Spec::VirtualService(_) => istio::of_virtual_service(document, view),
            Spec::K8sGateway(spec) => Some(gateway::of_gateway(document, spec, documents, view)),
            Spec::BackendTlsPolicy(spec) => Some(policy::of_backend_tls(document, spec, documents, view)),
            spec => match listener_set(spec) {
                Some(set) => Some(gateway::of_listener_set(document, set, documents, view)),
                None => route::of_route(document, documents, view),
            },
        }
    }
}

#[cfg(test)]
mod tests;
