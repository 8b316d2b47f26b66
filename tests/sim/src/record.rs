//! What simulated nodes say and operators write.

use std::{collections::BTreeMap, net::IpAddr};

use weft_wire::{
    document::DocumentKey,
    fact::{EndpointHealth, EndpointRow, NodeRecord, NodeState, Protocol},
    id::{Locality, Namespace, ServiceName, WorkloadName},
};

/// Accounts that every simulated node may host.
pub const ACCOUNTS: &str = "default/reviews";

/// The workload that every simulated node hosts.
pub fn workload() -> (Namespace, WorkloadName) {
    ("default".parse().expect("a namespace"), "w".parse().expect("a workload"))
}

/// A record with one endpoint, which differs from revision to revision.
pub fn of(advertise: IpAddr, revision: u64) -> NodeRecord {
    let (namespace, workload) = workload();
    let endpoint = EndpointRow {
        service: ServiceName { namespace, name: "reviews".parse().expect("a service") },
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
