//! Clusters: for each port and subset of a service, the endpoints that requests may go to.

use std::sync::Arc;

use weft_wire::{fact::Protocol, id::ServiceName};

use super::{nodes::Row, policies::Merged, services::Model};
use crate::{
    balance::Cluster,
    endpoint::Endpoint,
    view::{Clusters, PortClusters},
};

impl Clusters {
    pub(super) fn new(name: &ServiceName, fqdn: &Arc<str>, model: &Model<'_>, policies: &Merged<'_>) -> Self {
        let ports = model.ports.iter().zip(&model.members).map(|(port, members)| {
            let endpoints: Vec<(Arc<Endpoint>, &Row)> =
                members.iter().filter_map(|(row, protocol)| Some((endpoint(row, *protocol)?, *row))).collect();
            let all = endpoints.iter().map(|(endpoint, _)| endpoint.clone()).collect();
            let cluster = |subset: &str, balancer, chosen| {
                Arc::new(Cluster::new(name.clone(), fqdn.clone(), port.port, subset, balancer, chosen))
            };
            let subsets = policies.subsets().into_iter().map(|subset| {
                let chosen = endpoints.iter().filter(|(_, row)| row.workload.has_labels(&subset.labels));
                let chosen = chosen.map(|(endpoint, _)| endpoint.clone()).collect();
                cluster(&subset.name, policies.settings(port.port, Some(subset)).balancer(), chosen)
            });
            PortClusters {
                subsets: subsets.collect(),
                all: cluster("", policies.settings(port.port, None).balancer(), all),
            }
        });
        Self { ports: ports.collect() }
    }
}

/// The row's endpoint, as it is spoken with through this service.
fn endpoint(row: &Row, protocol: Protocol) -> Option<Arc<Endpoint>> {
    let endpoint = row.endpoint.as_ref()?;
    if endpoint.protocol == protocol {
        return Some(endpoint.clone());
    }
    Some(Arc::new(Endpoint { protocol, ..Endpoint::clone(endpoint) }))
}
