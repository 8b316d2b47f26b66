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
        Self { name: name.to_string(), ..made }
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

    /// This cluster with the one place that a request asks for. It shares the limits with all others that are made of it,
    /// and has the place's memory of `previous`, which was made for the same place before.
    pub fn at(&self, address: SocketAddr, previous: Option<&Self>) -> Option<Self> {
        let protocol = self.settings.original?.protocol;
        let known = previous.and_then(|previous| previous.endpoints.first());
        let endpoint = Endpoint {
            key: EndpointKey {
                node: None,
                namespace: Namespace::default_namespace(),
                workload: name_of(address.ip())?,
                target_port: address.port(),
            },
            workload: None,
            address: EndpointAddress::Outside(address),
            identities: Arc::default(),
            protocol,
            health: EndpointHealth::Healthy,
            standing: Standing::Preferred,
            weight: 1,
            place: Arc::default(),
            load: known.map(|known| known.load.clone()).unwrap_or_default(),
            monitor: None,
        };
        // Of one there is nothing to choose.
        let settings = Settings {
            balancer: Balancer::default(),
            preference: Preference::None,
            warmup: None,
            original: None,
            hedging: None,
            ..self.settings.clone()
        };
        let name = ClusterName { fqdn: &self.fqdn, port: self.port, subset: &self.subset };
        let made = Self::new(&name, settings, vec![Arc::new(endpoint)], previous);
        Some(Self { name: self.name.clone(), state: self.state.clone(), ..made })
    }
}
