//! Places that documents name and no node announced: they are called directly, and show no identity of the mesh.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use weft_wire::{
    fact::{EndpointHealth, Protocol},
    id::Namespace,
};

use crate::{
    address::name_of,
    endpoint::{Endpoint, EndpointAddress, EndpointKey, EndpointLoad, Place, Standing},
    view::Service,
};

/// What a document says of a place, for one port of one service.
#[derive(Clone, Debug)]
pub(super) struct Outside {
    pub(super) address: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) health: EndpointHealth,
    pub(super) weight: u32,
    pub(super) place: Place,
}

/// The live counters of the places that served a port in the view before: they outlast documents' versions.
pub(super) struct KnownLoads<'k>(HashMap<&'k EndpointKey, &'k Arc<EndpointLoad>>);

impl<'k> KnownLoads<'k> {
    pub(super) fn of(service: Option<&'k Service>, port: u16) -> Self {
        let endpoints = service.and_then(|service| service.cluster(port)).into_iter().flat_map(|all| &all.endpoints);
        Self(endpoints.map(|endpoint| (&endpoint.key, &endpoint.load)).collect())
    }
}

/// What such a place is called; the namespace is its document's.
pub(super) fn key(namespace: &Namespace, address: SocketAddr) -> Option<EndpointKey> {
    let (ip, target_port): (IpAddr, u16) = (address.ip(), address.port());
    Some(EndpointKey { node: None, namespace: namespace.clone(), workload: name_of(ip)?, target_port })
}

impl Outside {
    pub(super) fn endpoint(self, key: EndpointKey, known: &KnownLoads<'_>) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            load: known.0.get(&key).map(|load| Arc::clone(load)).unwrap_or_default(),
            key,
            workload: None,
            address: EndpointAddress::Outside(self.address),
            identities: Arc::default(),
            protocol: self.protocol,
            health: self.health,
            standing: Standing::Preferred,
            weight: self.weight,
            place: Arc::new(self.place),
            monitor: None,
        })
    }
}
