//! Compiles documents and node records into a view.
//!
//! `services` merges Service documents with what nodes announce, `clusters` makes the places where requests can go,
//! and `rules` chooses the documents that hold for each service.

mod clusters;
pub mod gateway_api;
mod lower;
mod rules;
mod services;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use weft_wire::{
    fact::NodeRecord,
    id::{Namespace, NodeName, ServiceAccount, TrustDomain, WorkloadName},
};

use self::{clusters::Clusters, rules::Rules, services::Row};
use crate::{
    document::Document,
    endpoint::{EndpointAddress, EndpointKey, EndpointLoad, LocalWorkload, Standing, Workload},
    route::PortRoutes,
    view::{MeshView, Service, sni},
};

/// All that a view is made of. The result depends on what is in it, never on its order.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    pub trust_domain: &'a TrustDomain,
    pub this_node: &'a NodeName,
    /// Every member's record, this node's own with them.
    pub nodes: &'a [NodeInput],
    pub documents: &'a [Arc<Document>],
    /// Where the workloads that this node hosts listen. One that is missing here is not offered to local clients.
    pub local: &'a BTreeMap<(Namespace, WorkloadName), IpAddr>,
}

/// One node's record, already verified against its certificate and grant.
#[derive(Clone, Debug)]
pub struct NodeInput {
    pub name: NodeName,
    pub record: Arc<NodeRecord>,
    pub standing: Standing,
}

/// Compiles a view; its epoch is the previous one's plus 1, and endpoints keep their live counters.
pub fn compile(inputs: &Inputs<'_>, previous: Option<&MeshView>) -> MeshView {
    let rows = services::rows(inputs);
    let rules = Rules::new(inputs.documents);
    let models = services::merge(inputs.documents, &rows);
    let no_loads = HashMap::new();
    let clusters = Clusters::new(inputs, &models, &rules, previous.map_or(&no_loads, |previous| &previous.loads));

    let services: Vec<Arc<Service>> = models
        .iter()
        .map(|(name, model)| {
            let fqdn: Arc<str> = name.fqdn().into();
            let routes = model
                .ports
                .iter()
                .filter_map(|port| {
                    let default = clusters.get(name, port.port, "")?.clone();
                    Some(PortRoutes { default, rules: rules.compile_for(&fqdn, port.port, &models, &clusters) })
                })
                .collect();
            Arc::new(Service { name: name.clone(), fqdn, ports: model.ports.clone(), routes })
        })
        .collect();

    MeshView {
        epoch: previous.map_or(0, |previous| previous.epoch) + 1,
        trust_domain: inputs.trust_domain.clone(),
        by_host: services.iter().map(|service| (service.name.to_string().into(), service.clone())).collect(),
        local: local_workloads(inputs, &services),
        callers: callers(&rows),
        by_account: by_account(&rows),
        loads: loads(&services),
        services,
    }
}

/// The workloads of this node, by server name.
fn local_workloads(inputs: &Inputs<'_>, services: &[Arc<Service>]) -> HashMap<Box<str>, Arc<LocalWorkload>> {
    let mut local: HashMap<Box<str>, Arc<LocalWorkload>> = HashMap::new();
    for service in services {
        for endpoint in service.routes.iter().flat_map(|routes| &routes.default.endpoints) {
            let EndpointAddress::Local(address) = endpoint.address else { continue };
            let workload = &endpoint.workload;
            let name = sni(&workload.name, &workload.namespace, endpoint.key.target_port, inputs.trust_domain);
            let here = LocalWorkload {
                workload: workload.clone(),
                address,
                protocol: endpoint.protocol,
                service: service.name.clone(),
                health: endpoint.health,
            };
            // Where several services have the workload, the one that it was announced for names it.
            if workload.service == service.name || !local.contains_key(name.as_str()) {
                local.insert(name.into(), Arc::new(here));
            }
        }
    }
    local
}

/// Workloads by what they may call themselves: one for each account.
fn callers(rows: &[Row<'_>]) -> HashMap<Box<str>, Vec<Arc<Workload>>> {
    let mut callers: HashMap<Box<str>, Vec<Arc<Workload>>> = HashMap::new();
    for Row { workload, .. } in rows {
        let known = callers.entry(format!("{}/{}", workload.namespace, workload.name).into()).or_default();
        if !known.iter().any(|other| other.account == workload.account) {
            known.push(workload.clone());
        }
    }
    callers
}

fn by_account(rows: &[Row<'_>]) -> HashMap<ServiceAccount, Option<Arc<Workload>>> {
    let mut by_account: HashMap<ServiceAccount, Option<Arc<Workload>>> = HashMap::new();
    for Row { workload, .. } in rows {
        by_account
            .entry(workload.account.clone())
            .and_modify(|known| {
                if known.as_ref().is_some_and(|known| known.name != workload.name) {
                    *known = None;
                }
            })
            .or_insert_with(|| Some(workload.clone()));
    }
    by_account
}

fn loads(services: &[Arc<Service>]) -> HashMap<EndpointKey, Arc<EndpointLoad>> {
    let endpoints = services.iter().flat_map(|service| &service.routes).flat_map(|routes| &routes.default.endpoints);
    endpoints.map(|endpoint| (endpoint.key.clone(), endpoint.load.clone())).collect()
}

#[cfg(test)]
mod tests;
