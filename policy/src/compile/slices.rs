//! EndpointSlices: places that serve a service that selects no workloads. No node announced them: they are called
//! directly, and show no identity.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use weft_wire::{
    fact::EndpointHealth,
    id::{Locality, NodeName, ServiceName},
};

use super::{
    ResolvedNames,
    localities::Localities,
    outside::{self, KnownLoads, Outside},
};
use crate::{
    api::{
        core::{self, TransportProtocol},
        discovery::{self, EndpointConditions, EndpointHints, EndpointSlice},
    },
    document::Document,
    endpoint::{Endpoint, EndpointKey, Place},
    namespaces::same,
    view::{Service, ServicePort},
};

/// The label that names a slice's service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// One EndpointSlice.
#[derive(Debug)]
pub(crate) struct Slice {
    pub(super) service: ServiceName,
    ports: Vec<SlicePort>,
    places: Vec<SlicePlace>,
}

#[derive(Debug)]
struct SlicePort {
    /// Of the service's port; empty without a number is all of them.
    name: String,
    number: PortNumber,
}

#[derive(Clone, Copy, Debug)]
enum PortNumber {
    Given(u16),
    /// The service's `targetPort`.
    Target,
    /// The service's own.
    Same,
}

#[derive(Debug)]
struct SlicePlace {
    address: SliceAddress,
    /// `Unhealthy` is not ready.
    health: EndpointHealth,
    node: Option<NodeName>,
    zone: String,
    hints: EndpointHints,
}

#[derive(Debug)]
enum SliceAddress {
    Ip(IpAddr),
    /// To be looked up. Documents have it in lower case.
    Name(String),
}

impl Slice {
    /// `None` for a slice of no service.
    pub(super) fn read(document: &Document, slice: &EndpointSlice) -> Option<Self> {
        let namespace = document.key.namespace.clone()?;
        let name = document.labels.get(SERVICE_LABEL)?.parse().ok()?;
        let is_tcp = |port: &&discovery::SlicePort| port.protocol.unwrap_or_default() == TransportProtocol::Tcp;
        let ports = slice.ports.iter().filter(is_tcp).map(|port| SlicePort {
            name: port.name.clone().unwrap_or_default(),
            number: port.port.map_or(PortNumber::Target, |port| {
                // Checked when it was read; nothing can be dialled on port 0.
                PortNumber::Given(u16::try_from(port.get()).unwrap_or_default())
            }),
        });
        let places = slice.endpoints.iter().filter_map(|endpoint| {
            // All of them mean the same endpoint; Kubernetes too takes the first.
            let address = endpoint.addresses.first()?;
            Some(SlicePlace {
                address: address.parse().map_or_else(|_| SliceAddress::Name(address.clone()), SliceAddress::Ip),
                health: health(endpoint.conditions.unwrap_or_default())?,
                node: endpoint.node_name.as_ref().and_then(|name| name.parse().ok()),
                zone: endpoint.zone.clone().unwrap_or_default(),
                hints: endpoint.hints.clone().unwrap_or_default(),
            })
        });
        let (ports, places) = (ports.collect(), places.collect());
        Some(Self { service: ServiceName { namespace, name }, ports, places })
    }

    /// The one place that a service of type `ExternalName` stands for, at the ports that clients name: as behind a CNAME.
    pub(super) fn of_name(service: ServiceName, name: &str) -> Self {
        let place = SlicePlace {
            address: SliceAddress::Name(name.strip_suffix('.').unwrap_or(name).to_owned()),
            health: EndpointHealth::Healthy,
            node: None,
            zone: String::new(),
            hints: EndpointHints::default(),
        };
        Self { service, ports: vec![SlicePort { name: String::new(), number: PortNumber::Same }], places: vec![place] }
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        self.places.iter().filter_map(|place| match &place.address {
            SliceAddress::Name(name) => Some(name),
            SliceAddress::Ip(_) => None,
        })
    }

    /// Which of the places' own ports serves a port of the service.
    fn number(&self, declared: &core::ServicePort) -> Option<u16> {
        let is_open = |own: &SlicePort| own.name.is_empty() && !matches!(own.number, PortNumber::Given(_));
        let own = self.ports.iter().find(|own| own.name == declared.name || is_open(own))?;
        let same = declared.port.number();
        Some(match own.number {
            PortNumber::Given(number) => number,
            PortNumber::Target => declared.target_number().unwrap_or(same),
            PortNumber::Same => same,
        })
    }
}

/// `None` for one that must get nothing. What is not said is good.
fn health(conditions: EndpointConditions) -> Option<EndpointHealth> {
    match conditions {
        EndpointConditions { ready: None | Some(true), .. } => Some(EndpointHealth::Healthy),
        EndpointConditions { serving: Some(true), terminating: Some(true), .. } => Some(EndpointHealth::Draining),
        EndpointConditions { terminating: Some(true), .. } => None,
        _ => Some(EndpointHealth::Unhealthy),
    }
}

/// All that a service's slices say, with what is known beside them.
#[derive(Debug, Default)]
pub(super) struct Slices {
    /// The oldest first.
    all: Vec<Arc<Slice>>,
    /// What their names resolve to.
    addresses: BTreeMap<String, Arc<[IpAddr]>>,
}

impl Slices {
    pub(super) fn new(all: Vec<Arc<Slice>>, names: &ResolvedNames) -> Self {
        let found = |name: &String| (name.clone(), names.get(name.as_str()).cloned().unwrap_or_default());
        let addresses = all.iter().flat_map(|slice| slice.names()).map(found).collect();
        Self { addresses, all }
    }

    pub(super) fn are_same(&self, other: &Self) -> bool {
        same(&self.all, &other.all) && self.addresses == other.addresses
    }

    /// The names whose addresses are needed.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.addresses.keys()
    }

    /// The places for a port, each once: the oldest slice that has a place holds. `known` is the service in the view
    /// before.
    pub(super) fn endpoints(
        &self,
        declared: &core::ServicePort,
        port: &ServicePort,
        asked: &Asked<'_>,
        known: Option<&Service>,
    ) -> Vec<Arc<Endpoint>> {
        let mut found: BTreeMap<EndpointKey, (&SlicePlace, Outside)> = BTreeMap::new();
        for slice in &self.all {
            let Some(number) = slice.number(declared) else { continue };
            for place in &slice.places {
                let health = match place.health {
                    EndpointHealth::Unhealthy if asked.publishes_not_ready => EndpointHealth::Healthy,
                    EndpointHealth::Unhealthy => continue,
                    health => health,
                };
                for ip in self.addresses(place) {
                    let address = SocketAddr::new(*ip, number);
                    let Some(key) = outside::key(&slice.service.namespace, address) else { continue };
                    let outside = || Outside {
                        address,
                        protocol: port.protocol,
                        health,
                        weight: 1,
                        place: asked.place_of(place),
                    };
                    found.entry(key).or_insert_with(|| (place, outside()));
                }
            }
        }
        let hint = asked.hint(found.values().filter(|(_, outside)| serves(outside)).map(|(place, _)| *place));
        found.retain(|_, (place, outside)| !serves(outside) || hint.is_none_or(|hint| hint.is_for(place, asked.here)));
        let loads = KnownLoads::of(known, port.port);
        found.into_iter().map(|(key, (_, outside))| outside.endpoint(key, &loads)).collect()
    }

    fn addresses<'s>(&'s self, place: &'s SlicePlace) -> &'s [IpAddr] {
        match &place.address {
            SliceAddress::Ip(ip) => std::slice::from_ref(ip),
            SliceAddress::Name(name) => self.addresses.get(name).map(|found| &**found).unwrap_or_default(),
        }
    }
}

fn serves(place: &Outside) -> bool {
    place.health == EndpointHealth::Healthy
}

/// What of a service's places is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) publishes_not_ready: bool,
    /// The client's place.
    pub(super) here: Option<&'a Place>,
    /// Slices say a place's zone alone.
    pub(super) localities: Option<&'a Localities>,
    /// Others serve the port too, for whom there are no hints.
    pub(super) beside_others: bool,
}

/// Which of the hints count.
#[derive(Clone, Copy, Debug)]
enum Hint {
    Node,
    Zone,
}

impl Asked<'_> {
    fn place_of(&self, place: &SlicePlace) -> Place {
        let region = self.localities.and_then(|localities| localities.region_of(&place.zone)).unwrap_or_default();
        let locality = Locality { region: region.to_owned(), zone: place.zone.clone(), subzone: String::new() };
        Place { node: place.node.clone(), locality, labels: BTreeMap::new() }
    }

    /// kube-proxy's rule (`pkg/proxy/topology.go`): hints count where all that serve have one, and one is for the
    /// client; those for nodes come before those for zones.
    fn hint<'p>(&self, places: impl Iterator<Item = &'p SlicePlace> + Clone) -> Option<Hint> {
        let counts = |hint: &Hint| {
            places.clone().all(|place| hint.is_given(place))
                && places.clone().any(|place| hint.is_for(place, self.here))
        };
        [Hint::Node, Hint::Zone].into_iter().find(counts).filter(|_| !self.beside_others)
    }
}

impl Hint {
    fn is_given(self, place: &SlicePlace) -> bool {
        match self {
            Self::Node => !place.hints.for_nodes.is_empty(),
            Self::Zone => !place.hints.for_zones.is_empty(),
        }
    }

    fn is_for(self, place: &SlicePlace, here: Option<&Place>) -> bool {
        let Some(here) = here else { return false };
        let (hints, own) = match self {
            Self::Node => (&place.hints.for_nodes, here.node.as_ref().map_or("", NodeName::as_str)),
            Self::Zone => (&place.hints.for_zones, here.locality.zone.as_str()),
        };
        hints.iter().any(|hint| hint.name == own)
    }
}
