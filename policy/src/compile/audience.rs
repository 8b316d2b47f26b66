//! For whom the rules of a VirtualService are compiled.

use std::collections::BTreeMap;

use weft_wire::id::Namespace;

use crate::api::{
    networking::{HttpMatchRequest, MESH_GATEWAY, gateway_name},
    target::ROOT_NAMESPACE,
};

/// Who sends the requests.
#[derive(Clone, Copy, Debug)]
pub(super) enum Audience<'a> {
    /// Clients inside the mesh.
    Mesh,
    /// Anybody, through a gateway.
    Gateway {
        namespace: &'a str,
        name: &'a str,
        /// Labels that all of its nodes have.
        selector: &'a BTreeMap<String, String>,
    },
}

impl Audience<'_> {
    /// Whether a condition is for it, by the gateways that the condition names in a document of `own`.
    pub(super) fn takes(self, gateways: &[String], own: &Namespace) -> bool {
        let is_it = |gateway: &String| match self {
            Self::Mesh => gateway == MESH_GATEWAY,
            Self::Gateway { namespace, name, .. } => {
                gateway != MESH_GATEWAY && gateway_name(gateway, own.as_str()) == (namespace, name)
            }
        };
        gateways.is_empty() || gateways.iter().any(is_it)
    }

    /// As [`Self::takes`]. To a gateway's requests the client is the gateway itself, as in Istio: of the root
    /// namespace, with the labels of its selector.
    pub(super) fn takes_request(self, one: &HttpMatchRequest, own: &Namespace) -> bool {
        let is_client = match self {
            Self::Mesh => true,
            Self::Gateway { selector, .. } => {
                ["", ROOT_NAMESPACE].contains(&one.source_namespace.as_str())
                    && one.source_labels.iter().all(|(name, value)| selector.get(name) == Some(value))
            }
        };
        self.takes(&one.gateways, own) && (!one.gateways.is_empty() || is_client)
    }

    /// Whether requests tell what is asked of their client.
    pub(super) fn is_known(self) -> bool {
        matches!(self, Self::Mesh)
    }
}
