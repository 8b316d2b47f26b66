//! Clusters: for each service, port and subset, the endpoints that requests may go to.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use weft_wire::{
    fact::{EndpointHealth, NodeState, Protocol},
    frame::MESH_PORT,
    id::{ServiceName, SpiffeId},
};

use super::{
    Inputs,
    rules::{self, Rules},
    services::{Model, Row},
};
use crate::{
    balance::Cluster,
    endpoint::{Endpoint, EndpointAddress, EndpointKey, EndpointLoad},
    view::sni,
};

/// All clusters, by service, port and subset.
#[derive(Debug)]
pub(super) struct Clusters<'a>(HashMap<&'a ServiceName, BTreeMap<u16, BySubset<'a>>>);

type BySubset<'a> = BTreeMap<&'a str, Arc<Cluster>>;

impl<'a> Clusters<'a> {
    pub(super) fn new(
        inputs: &Inputs<'_>,
        models: &'a BTreeMap<ServiceName, Model<'_>>,
        rules: &Rules<'a>,
        known_loads: &HashMap<EndpointKey, Arc<EndpointLoad>>,
    ) -> Self {
        let mut builder = Builder { inputs, known_loads, new_loads: HashMap::new() };
        let mut clusters: HashMap<&'a ServiceName, BTreeMap<u16, BySubset<'a>>> = HashMap::new();
        for (name, model) in models {
            let fqdn: Arc<str> = name.fqdn().into();
            let policy = rules.policy_for(name, &fqdn);
            for (port, members) in model.ports.iter().zip(&model.members) {
                let endpoints: Vec<(Arc<Endpoint>, &Row<'_>)> = members
                    .iter()
                    .filter_map(|(row, protocol)| Some((builder.endpoint(row, *protocol)?, *row)))
                    .collect();
                let cluster = |subset: &str, balancer, chosen: Vec<Arc<Endpoint>>| {
                    Arc::new(Cluster::new(name.clone(), fqdn.clone(), port.port, subset, balancer, chosen))
                };
                let all = endpoints.iter().map(|(endpoint, _)| endpoint.clone()).collect();
                let mut of_port = BTreeMap::from([("", cluster("", policy.balancer, all))]);
                for subset in &policy.subsets {
                    let chosen = endpoints.iter().filter(|(_, row)| row.has_labels(&subset.labels));
                    let chosen = chosen.map(|(endpoint, _)| endpoint.clone()).collect();
                    let balancer = rules::balancer(subset.traffic_policy.as_ref()).unwrap_or(policy.balancer);
                    of_port.insert(subset.name.as_str(), cluster(&subset.name, balancer, chosen));
                }
                clusters.entry(name).or_default().insert(port.port, of_port);
            }
        }
        Self(clusters)
    }

    pub(super) fn get(&self, service: &ServiceName, port: u16, subset: &str) -> Option<&Arc<Cluster>> {
        self.0.get(service)?.get(&port)?.get(subset)
    }
}

struct Builder<'b> {
    inputs: &'b Inputs<'b>,
    known_loads: &'b HashMap<EndpointKey, Arc<EndpointLoad>>,
    /// A workload in several services has one load.
    new_loads: HashMap<EndpointKey, Arc<EndpointLoad>>,
}

impl Builder<'_> {
    /// `None` for a workload of this node whose address is not known.
    fn endpoint(&mut self, row: &Row<'_>, protocol: Protocol) -> Option<Arc<Endpoint>> {
        let (node, workload, target_port) = (row.node, &row.workload, row.row.target_port);
        let address = if node.name == *self.inputs.this_node {
            let ip = self.inputs.local.get(&(workload.namespace.clone(), workload.name.clone()))?;
            EndpointAddress::Local(SocketAddr::new(*ip, target_port))
        } else {
            EndpointAddress::Remote {
                address: SocketAddr::new(node.record.advertise, MESH_PORT),
                sni: sni(&workload.name, &workload.namespace, target_port, self.inputs.trust_domain).into(),
            }
        };
        let key = EndpointKey {
            node: node.name.clone(),
            namespace: workload.namespace.clone(),
            workload: workload.name.clone(),
            target_port,
        };
        let load = match self.known_loads.get(&key) {
            Some(load) => load.clone(),
            None => self.new_loads.entry(key.clone()).or_default().clone(),
        };
        let health = match node.record.state {
            NodeState::Up => row.row.health,
            NodeState::Draining | NodeState::Left | NodeState::Stopped => EndpointHealth::Draining,
        };
        let id = SpiffeId::workload(self.inputs.trust_domain.clone(), workload.account.clone());
        Some(Arc::new(Endpoint {
            key,
            workload: workload.clone(),
            address,
            identities: [id].into(),
            protocol,
            health,
            standing: node.standing,
            load,
        }))
    }
}
