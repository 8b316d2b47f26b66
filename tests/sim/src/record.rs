//! What simulated nodes say and operators write.

use std::{collections::BTreeMap, net::IpAddr};

use weft_wire::{
    document::DocumentKey,
    fact::{EndpointHealth, EndpointRow, NodeRecord, NodeState, Protocol},
    id::{CellName, Locality, Namespace, ServiceName, WorkloadName},
};

/// Accounts that every simulated node may host.
pub const ACCOUNTS: &str = "default/reviews";

/// The workload that every simulated node hosts.
pub fn workload() -> (Namespace, WorkloadName) {
    ("default".parse().expect("a namespace"), "w".parse().expect("a workload"))
}

/// The service that all nodes of a mesh of one cell host.
pub fn service() -> ServiceName {
    "reviews.default".parse().expect("a service")
}

/// In a mesh of several cells a node hosts one of two services of its cell, of which others want the one with number 0.
pub fn service_of(cell: usize, number: usize) -> ServiceName {
    format!("s{cell}-{number}.default").parse().expect("a service")
}

pub fn cell(number: usize) -> CellName {
    if number == 0 { CellName::default_cell() } else { format!("c{number}").parse().expect("a cell") }
}

/// A record with one endpoint, which differs from revision to revision.
pub fn of(advertise: IpAddr, revision: u64) -> NodeRecord {
    let (_, workload) = workload();
    let endpoint = EndpointRow {
        service: service(),
        workload,
        service_account: "reviews".parse().expect("an account"),
        version: format!("v{revision}"),
        labels: BTreeMap::new(),
        port: 9080,
        target_port: 9080,
        protocol: Protocol::Http,
        health: EndpointHealth::Healthy,
    };
    NodeRecord {
        advertise,
        state: NodeState::Up,
        locality: Locality::default(),
        labels: BTreeMap::new(),
        build: "sim".into(),
        endpoints: vec![endpoint],
    }
}

pub fn document_key(number: usize) -> DocumentKey {
    let namespace = Some("default".parse().expect("a namespace"));
    DocumentKey { group: String::new(), kind: "Service".into(), namespace, name: format!("s{number}") }
}
