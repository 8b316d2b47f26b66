//! EndpointSlices: places that serve a service that selects no workloads. No node announced them: they are called
//! directly, and show no identity.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use weft_wire::{
    fact::{EndpointHealth, Protocol},
    id::{Namespace, ServiceName},
};

use crate::{
    address::name_of,
    api::{
        core::TransportProtocol,
        discovery::{EndpointConditions, EndpointSlice},
    },
    document::Document,
    endpoint::{Endpoint, EndpointAddress, EndpointKey, EndpointLoad, Standing},
};

/// The label that names a slice's service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// One EndpointSlice.
#[derive(Debug)]
pub(crate) struct Slice {
    pub(super) service: ServiceName,
    /// By the name of the service's port.
    endpoints: BTreeMap<String, Vec<Arc<Endpoint>>>,
}

/// The live counters of places, which outlast their documents' versions.
pub(super) type Loads = HashMap<SocketAddr, Arc<EndpointLoad>>;

impl Slice {
    /// `None` for a slice of no service.
    pub(super) fn read(document: &Document, slice: &EndpointSlice, known: &Loads) -> Option<Self> {
        let namespace = document.key.namespace.clone()?;
        let name = document.labels.get(SERVICE_LABEL)?.parse().ok()?;
        let mut endpoints: BTreeMap<String, Vec<Arc<Endpoint>>> = BTreeMap::new();
        for port in &slice.ports {
            let number = port.port.and_then(|port| u16::try_from(port.get()).ok()).unwrap_or_default();
            if number == 0 || port.protocol.unwrap_or_default() != TransportProtocol::Tcp {
                continue;
            }
            let places = slice.endpoints.iter().filter_map(|endpoint| {
                let health = health(endpoint.conditions.unwrap_or_default())?;
                // All of them mean the same endpoint; Kubernetes too takes the first. Names are not looked up.
                let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
                let address = SocketAddr::new(address, number);
                Some(Arc::new(place(&namespace, address, health, known.get(&address).cloned().unwrap_or_default())?))
            });
            endpoints.entry(port.name.clone().unwrap_or_default()).or_default().extend(places);
        }
        Some(Self { service: ServiceName { namespace, name }, endpoints })
    }
}

/// `None` for one that must get nothing. What is not said is good.
fn health(conditions: EndpointConditions) -> Option<EndpointHealth> {
    match conditions {
        EndpointConditions { ready: None | Some(true), .. } => Some(EndpointHealth::Healthy),
        EndpointConditions { serving: Some(true), terminating: Some(true), .. } => Some(EndpointHealth::Draining),
        _ => None,
    }
}

fn place(
    namespace: &Namespace,
    address: SocketAddr,
    health: EndpointHealth,
    load: Arc<EndpointLoad>,
) -> Option<Endpoint> {
    Some(Endpoint {
        key: EndpointKey {
            node: None,
            namespace: namespace.clone(),
            workload: name_of(address.ip())?,
            target_port: address.port(),
        },
        workload: None,
        address: EndpointAddress::Outside(address),
        identities: Arc::default(),
        protocol: Protocol::default(),
        health,
        standing: Standing::Preferred,
        place: Arc::default(),
        load,
        weight: 1,
        monitor: None,
    })
}

/// The places of some slices for one port of their service, each once: the oldest slice that has a place holds.
pub(super) fn endpoints(slices: &[Arc<Slice>], port: &str, protocol: Protocol) -> Vec<Arc<Endpoint>> {
    let mut found: BTreeMap<&EndpointKey, Arc<Endpoint>> = BTreeMap::new();
    for endpoint in slices.iter().filter_map(|slice| slice.endpoints.get(port)).flatten() {
        found.entry(&endpoint.key).or_insert_with(|| match endpoint.protocol == protocol {
            true => endpoint.clone(),
            false => Arc::new(Endpoint { protocol, ..Endpoint::clone(endpoint) }),
        });
    }
    found.into_values().collect()
}

/// The counters of all places that slices have.
pub(super) fn loads(slices: &HashMap<ServiceName, Vec<Arc<Slice>>>) -> Loads {
    let endpoints = slices.values().flatten().flat_map(|slice| slice.endpoints.values().flatten());
    endpoints.map(|endpoint| (endpoint.address.socket(), endpoint.load.clone())).collect()
}
