//! Clusters: for each port and subset of a service, the endpoints that requests may go to.

use std::{collections::HashMap, sync::Arc};

use weft_wire::fact::{EndpointHealth, Protocol};

use super::{nodes::Row, policies::Merged, services::Model};
use crate::{
    api::networking::Subset,
    balance::{Cluster, ClusterName},
    endpoint::Endpoint,
    view::{Clusters, PortClusters, SeenClusters, Service},
};

/// The clusters of a service in the view before, by port and subset: new ones go on with their memory.
#[derive(Default)]
pub(super) struct Known<'k>(HashMap<(u16, &'k str), &'k Arc<Cluster>>);

impl<'k> Known<'k> {
    pub(super) fn of(service: Option<&'k Service>) -> Self {
        let seen = service.into_iter().flat_map(|service| service.clusters.all());
        let ports = seen.flat_map(SeenClusters::all).flat_map(|clusters| &clusters.ports);
        let clusters = ports.flat_map(|port| std::iter::once(&port.all).chain(&port.subsets));
        Self(clusters.map(|cluster| ((cluster.port, &*cluster.subset), cluster)).collect())
    }
}

impl Clusters {
    pub(super) fn new(fqdn: &Arc<str>, model: &Model<'_>, policies: &Merged<'_>, known: &Known<'_>) -> Self {
        let ports = model.ports.iter().zip(&model.members).zip(&model.outside).map(|((port, members), outside)| {
            let announced = members.iter().filter_map(|(row, protocol)| endpoint(row, *protocol, model));
            let is_near = |endpoint: &Arc<Endpoint>| {
                model.only_node.is_none_or(|only| endpoint.place.node.as_ref() == Some(only))
            };
            let endpoints: Vec<Arc<Endpoint>> = announced.chain(outside.iter().cloned()).filter(is_near).collect();
            let cluster = |subset: Option<&Subset>, chosen: Vec<Arc<Endpoint>>| {
                let settings = policies.settings(port.port, subset).of_cluster(model, port);
                let subset = subset.map_or("", |subset| &subset.name);
                let name = ClusterName { fqdn, port: port.port, subset };
                let previous = known.0.get(&(port.port, subset));
                Arc::new(Cluster::new(&name, settings, chosen, previous.map(|known| &***known)))
            };
            let subsets = policies.subsets().into_iter().map(|subset| {
                let chosen = endpoints.iter().filter(|endpoint| endpoint.has_labels(&subset.labels)).cloned().collect();
                cluster(Some(subset), chosen)
            });
            PortClusters { subsets: subsets.collect(), all: cluster(None, endpoints.clone()) }
        });
        Self { ports: ports.collect() }
    }
}

/// The row's endpoint, as it is spoken with through this service.
fn endpoint(row: &Row, protocol: Protocol, model: &Model<'_>) -> Option<Arc<Endpoint>> {
    let endpoint = row.endpoint.as_ref()?;
    let health = match endpoint.health {
        EndpointHealth::Unhealthy if model.publishes_not_ready => EndpointHealth::Healthy,
        health => health,
    };
    if (endpoint.protocol, endpoint.health) == (protocol, health) {
        return Some(endpoint.clone());
    }
    Some(Arc::new(Endpoint { protocol, health, ..Endpoint::clone(endpoint) }))
}
