//! Gateways: the ports that nodes open for clients outside of the mesh, with the rules that hold there.
//!
//! [`bound`]: VirtualServices as gateways read them; [`servers`]: Istio's Gateways; [`merge`]: those that are served on
//! the same nodes; [`listeners`]: the Gateway API's.

mod bound;
mod listeners;
mod merge;
mod servers;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use weft_wire::{document::DocumentKey, id::NodeName};

pub(crate) use self::{bound::Bound, servers::refusal};
use super::{documents::DocumentIndex, gateway_api::route::Route, nodes::NodeRows};
use crate::{
    document::Document,
    endpoint::Place,
    gateway::{GatewayHost, Gateways},
    hosts::HostPattern,
    namespaces::same,
};

/// What gateways are made of. All are told apart by their places in memory.
#[derive(Debug, Default)]
pub(crate) struct GatewayIngredients {
    /// Istio's, the oldest first.
    gateways: Vec<Arc<Document>>,
    bound: Vec<Arc<Bound>>,
    /// Of the Gateway API: Gateways and what they ask for.
    documents: Vec<Arc<Document>>,
    routes: Vec<Arc<Route>>,
    /// With the nodes' labels.
    places: Vec<Arc<Place>>,
    /// The hosts of the Gateway API's listeners, with the routes that they are made of.
    hosts: HashMap<HostKey, (Vec<Arc<Route>>, Arc<GatewayHost>)>,
}

impl GatewayIngredients {
    /// Istio's Gateways.
    pub(crate) fn istio(&self) -> &[Arc<Document>] {
        &self.gateways
    }

    /// A VirtualService as gateways read it, if it names any.
    pub(crate) fn bound(&self, key: &DocumentKey) -> Option<&Bound> {
        self.bound.iter().find(|bound| bound.document.key == *key).map(|bound| &**bound)
    }
}

/// Whose listener, its name, and the host.
type HostKey = (DocumentKey, String, HostPattern);

/// Compiles all gateways; the known ones if nothing of them has changed.
pub(super) fn compile(
    index: &DocumentIndex,
    nodes: &BTreeMap<NodeName, Arc<NodeRows>>,
    known: Option<&Arc<Gateways>>,
) -> Arc<Gateways> {
    if index.gateways.is_empty() && index.bound.is_empty() && !index.has_gateways {
        return known.filter(|known| known.all.is_empty()).cloned().unwrap_or_default();
    }
    let places: Vec<Arc<Place>> = nodes.values().map(|node| node.place.clone()).collect();
    let is_same = |known: &&Arc<Gateways>| {
        let known = &known.ingredients;
        same(&known.gateways, &index.gateways)
            && same(&known.bound, &index.bound)
            && same(&known.documents, &index.gateway_documents)
            && same(&known.routes, &index.routes_of_gateways)
            && same(&known.places, &places)
    };
    if let Some(known) = known.filter(is_same) {
        return known.clone();
    }
    let mut all = merge::compile(&index.gateways, &index.bound, &places);
    let no_hosts = HashMap::new();
    let known_hosts = known.map_or(&no_hosts, |known| &known.ingredients.hosts);
    let (of_gateway_api, hosts) =
        listeners::compile(&index.gateway_documents, &index.routes_of_gateways, &places, known_hosts);
    all.extend(of_gateway_api);
    Arc::new(Gateways {
        all: all.into_iter().map(|gateway| (gateway.key.clone(), Arc::new(gateway))).collect(),
        ingredients: GatewayIngredients {
            gateways: index.gateways.clone(),
            bound: index.bound.clone(),
            documents: index.gateway_documents.clone(),
            routes: index.routes_of_gateways.clone(),
            places,
            hosts,
        },
    })
}

/// The nodes whose labels fulfil a condition, sorted.
fn nodes_with(places: &[Arc<Place>], is_meant: impl Fn(&BTreeMap<String, String>) -> bool) -> Vec<NodeName> {
    let mut names: Vec<NodeName> =
        places.iter().filter(|place| is_meant(&place.labels)).filter_map(|place| place.node.clone()).collect();
    names.sort_unstable();
    names
}
