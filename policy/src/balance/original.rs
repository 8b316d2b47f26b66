//! Clusters without places of their own, as Envoy's original destination and dynamic forward proxy: each request, or
//! connection, says where it goes.

use std::{net::SocketAddr, sync::Arc};

use weft_wire::{
    fact::{EndpointHealth, Protocol},
    id::Namespace,
};

use super::{Balancer, Cluster, ClusterName, Preference, Settings};
use crate::{
    address::{self, name_of},
    endpoint::{Endpoint, EndpointAddress, EndpointKey, Standing},
};

/// Where the requests of a cluster go that has no places: to the address that each asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginalDestination {
    /// `None` is the one that the client dialled.
    pub port: Option<u16>,
    pub(crate) protocol: Protocol,
}

impl Cluster {
    /// For requests to hosts that nobody serves.
    pub(crate) fn passthrough(name: &Arc<str>) -> Self {
        let original = Some(OriginalDestination { port: None, protocol: Protocol::Auto });
        let settings = Settings { original, ..Settings::default() };
        let made = Self::new(&ClusterName { fqdn: name, port: 0, subset: "" }, settings, Vec::new(), None);
        Self { name: name.to_string().into(), ..made }
    }

    /// `None` where endpoints are known beforehand, as mostly.
    pub fn original_destination(&self) -> Option<OriginalDestination> {
        self.settings.original
    }

    /// The host that a client means who asked for `host`: the cluster's own, unless that is a wildcard or stands for
    /// all hosts, or the client gave an address.
    pub fn destination_host<'h>(&'h self, host: &'h str) -> &'h str {
        let is_one = self.settings.original.is_some_and(|original| original.port.is_some());
        if is_one && !self.fqdn.starts_with('*') && address::of_host(host).is_none() { &self.fqdn } else { host }
    }

    /// This cluster with the places that a request asks for: the addresses of one host. It shares the limits with all
    /// others that are made of it, and has the places' memory of `previous`, which was made for the same host before.
    pub fn at(&self, addresses: &[SocketAddr], previous: Option<&Self>) -> Option<Self> {
        let protocol = self.settings.original?.protocol;
        let known = |key: &EndpointKey| {
            let mut endpoints = previous.into_iter().flat_map(|previous| &previous.endpoints);
            endpoints.find(|known| known.key == *key).map(|known| known.load.clone())
        };
        let endpoint = |address: &SocketAddr| {
            let key = EndpointKey {
                node: None,
                namespace: Namespace::default_namespace(),
                workload: name_of(address.ip())?,
                target_port: address.port(),
            };
            Some(Arc::new(Endpoint {
                load: known(&key).unwrap_or_default(),
                key,
                workload: None,
                address: EndpointAddress::Outside(*address),
                identities: Arc::default(),
                protocol,
                health: EndpointHealth::Healthy,
                standing: Standing::Preferred,
                weight: 1,
                place: Arc::default(),
                monitor: None,
            }))
        };
        // Any address of a host will do.
        let settings = Settings {
            balancer: Balancer::default(),
            preference: Preference::None,
            warmup: None,
            original: None,
            hedging: None,
            is_one_host: true,
            ..self.settings.clone()
        };
        let name = ClusterName { fqdn: &self.fqdn, port: self.port, subset: &self.subset };
        let made = Self::new(&name, settings, addresses.iter().filter_map(endpoint).collect(), previous);
        Some(Self { name: self.name.clone(), state: self.state.clone(), ..made })
    }

    /// Whether its endpoints are addresses of one host: where one cannot be reached, the next is tried at once.
    pub fn is_one_host(&self) -> bool {
        self.settings.is_one_host
    }
}
