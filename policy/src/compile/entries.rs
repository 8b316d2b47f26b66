//! ServiceEntries: hosts that no node announces, and the places and workloads that serve them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use weft_wire::{
    fact::{EndpointHealth, Protocol},
    id::{Locality, Namespace},
};

use super::{
    documents::DocumentIndex,
    nodes::Row,
    outside::{self, KnownLoads, Outside},
    rows::RowIndex,
};
use crate::{
    api::networking::{PortProtocol, Resolution, ServiceEntry, ServiceEntryPort, WorkloadEntry},
    balance::OriginalDestination,
    document::{Document, Spec},
    endpoint::{Endpoint, EndpointKey, Place},
    hosts::HostPattern,
    namespaces::{Visibility, same},
    ranges,
    view::{Service, ServicePort},
};

/// The addresses that names resolve to, as far as they are known.
pub type ResolvedNames = HashMap<Box<str>, Arc<[IpAddr]>>;

/// One ServiceEntry.
#[derive(Debug)]
pub(crate) struct Entry {
    document: Arc<Document>,
    pub(super) namespace: Namespace,
    pub(super) hosts: Vec<HostPattern>,
    pub(super) visible: Visibility,
    /// What clients may ask for instead of its hosts, at one of its ports.
    pub(super) ranges: Vec<IpNet>,
    ports: Vec<u16>,
}

impl Entry {
    /// `None` for another kind of document.
    pub(super) fn read(document: &Arc<Document>) -> Option<Self> {
        let Spec::ServiceEntry(entry) = &document.spec else { return None };
        let namespace = document.namespace();
        Some(Self {
            hosts: entry.hosts.iter().filter_map(|host| HostPattern::read(host, &namespace).ok()).collect(),
            visible: Visibility::read(&entry.export_to, &namespace),
            ranges: entry.addresses.iter().filter_map(|text| ranges::read(text)).collect(),
            ports: served_ports(entry).map(|port| port.number.number()).collect(),
            document: document.clone(),
            namespace,
        })
    }

    pub(crate) fn document(&self) -> &Arc<Document> {
        &self.document
    }

    /// Whether clients of a namespace see it, and it has a port.
    pub(crate) fn is_for(&self, client: &Namespace, port: u16) -> bool {
        self.visible.includes(Some(client)) && self.ports.contains(&port)
    }

    fn spec(&self) -> Option<&ServiceEntry> {
        match &self.document.spec {
            Spec::ServiceEntry(entry) => Some(entry),
            _ => None,
        }
    }

    /// The labels of the workloads that serve it; `None` where it lists its endpoints.
    pub(super) fn selector(&self) -> Option<&BTreeMap<String, String>> {
        self.spec()?.workload_selector.as_ref().map(|selector| &*selector.labels)
    }

    fn is_resolved(&self) -> bool {
        self.spec().is_some_and(|entry| entry.resolution().is_dns())
    }
}

/// A ServiceEntry with the others that it selects.
#[derive(Debug)]
pub(super) struct Selected {
    entry: Arc<Entry>,
    rows: Vec<Arc<Row>>,
    /// WorkloadEntries, the oldest first.
    workloads: Vec<Arc<Document>>,
    /// What its names resolve to, in the order in which it has them.
    addresses: Vec<Arc<[IpAddr]>>,
}

impl Selected {
    pub(super) fn ranges(&self) -> &[IpNet] {
        &self.entry.ranges
    }

    /// `host` is the one of the entry's hosts that is made.
    pub(super) fn new(
        entry: &Arc<Entry>,
        host: &str,
        documents: &DocumentIndex,
        rows: &RowIndex,
        names: &ResolvedNames,
    ) -> Self {
        let of_namespace = documents.workload_entries.get(&entry.namespace).into_iter().flatten();
        let selector = entry.selector();
        let is_selected = |document: &&Arc<Document>| {
            selector.is_some_and(|selector| workload(document).is_some_and(|one| has_labels(one, selector)))
        };
        let found = |name: &str| names.get(name).cloned().unwrap_or_default();
        let workloads: Vec<Arc<Document>> = of_namespace.filter(is_selected).cloned().collect();
        let mut selected = Self {
            rows: match selector {
                None => Vec::new(),
                // As in Istio, and as its document's check warns.
                Some(all) if all.is_empty() => rows.of_namespace(&entry.namespace),
                Some(selector) => rows.selected(&entry.namespace, selector),
            },
            entry: entry.clone(),
            workloads,
            addresses: Vec::new(),
        };
        selected.addresses = selected.names(host).iter().map(|name| found(name)).collect();
        selected
    }

    pub(super) fn are_same(a: &[Self], b: &[Self]) -> bool {
        let is_same = |(a, b): (&Self, &Self)| {
            Arc::ptr_eq(&a.entry, &b.entry)
                && same(&a.rows, &b.rows)
                && same(&a.workloads, &b.workloads)
                && a.addresses == b.addresses
        };
        a.len() == b.len() && a.iter().zip(b).all(is_same)
    }

    /// The names whose addresses it needs, in lower case and without a trailing dot.
    fn names(&self, host: &str) -> Vec<String> {
        if !self.entry.is_resolved() {
            return Vec::new();
        }
        let places = self.places();
        if places.is_empty() {
            return vec![host.to_owned()];
        }
        places.iter().filter_map(|place| name_to_resolve(&place.address)).collect()
    }

    /// Where the entry itself says that it is served, or the WorkloadEntries that it selects.
    fn places(&self) -> Vec<&WorkloadEntry> {
        let listed = self.entry.spec().map(ServiceEntry::endpoints).unwrap_or_default();
        listed.iter().chain(self.workloads.iter().filter_map(|document| workload(document))).collect()
    }

    fn port(&self, number: u16) -> Option<&ServiceEntryPort> {
        self.entry.spec()?.ports.iter().find(|port| port.number.number() == number)
    }

    /// Each place with each of its addresses.
    fn addressed(&self) -> Vec<(Option<&WorkloadEntry>, IpAddr)> {
        let first_only = self.entry.spec().is_some_and(|entry| entry.resolution() == Resolution::DnsRoundRobin);
        let most = if first_only { 1 } else { usize::MAX };
        let mut resolved = self.addresses.iter();
        let places = self.places();
        if places.is_empty() {
            return resolved.flat_map(|found| found.iter().take(most).map(|ip| (None, *ip))).collect();
        }
        let mut all = Vec::new();
        for place in places {
            match place.address.parse::<IpAddr>() {
                Ok(ip) => all.push((Some(place), ip)),
                Err(_) if self.entry.is_resolved() && name_to_resolve(&place.address).is_some() => {
                    all.extend(
                        resolved
                            .next()
                            .into_iter()
                            .flat_map(|found| found.iter())
                            .take(most)
                            .map(|ip| (Some(place), *ip)),
                    );
                }
                Err(_) => {}
            }
        }
        all
    }
}

/// The names that the host of a service needs the addresses of.
pub(super) fn names_to_resolve(service: &Service) -> impl Iterator<Item = String> {
    service.ingredients.entries.iter().flat_map(|selected| selected.names(&service.fqdn))
}

fn name_to_resolve(address: &str) -> Option<String> {
    let is_name = address.parse::<IpAddr>().is_err() && !address.starts_with("unix:") && !address.is_empty();
    is_name.then(|| address.strip_suffix('.').unwrap_or(address).to_ascii_lowercase())
}

fn workload(document: &Document) -> Option<&WorkloadEntry> {
    match &document.spec {
        Spec::WorkloadEntry(entry) => Some(entry),
        _ => None,
    }
}

fn has_labels(workload: &WorkloadEntry, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(name, value)| workload.labels.get(name) == Some(value))
}

/// The ports of a host that several entries describe: of a number the oldest entry's.
pub(super) fn ports(selected: &[Selected]) -> Vec<ServicePort> {
    let mut seen = BTreeSet::new();
    let all = selected.iter().filter_map(|one| one.entry.spec()).flat_map(served_ports);
    let ports = all.filter(|port| seen.insert(port.number.number()));
    ports
        .map(|port| ServicePort {
            port: port.number.number(),
            name: port.name.clone(),
            protocol: spoken(port.protocol),
        })
        .collect()
}

fn served_ports(entry: &ServiceEntry) -> impl Iterator<Item = &ServiceEntryPort> {
    entry.ports.iter().filter(|port| port.protocol != PortProtocol::Udp)
}

/// What is read of a port's bytes: TLS is carried as it comes.
fn spoken(protocol: PortProtocol) -> Protocol {
    match protocol {
        PortProtocol::Http2 => Protocol::Http2,
        PortProtocol::Grpc => Protocol::Grpc,
        PortProtocol::Detected => Protocol::Auto,
        PortProtocol::Http | PortProtocol::HttpProxy | PortProtocol::GrpcWeb => Protocol::Http,
        _ => Protocol::Tcp,
    }
}

/// Whether requests for a port of the host say themselves where they go: as the oldest entry says that has the port.
pub(super) fn original_destination(selected: &[Selected], port: &ServicePort) -> Option<OriginalDestination> {
    let (entry, declared) = selected.iter().find_map(|one| Some((one.entry.spec()?, one.port(port.port)?)))?;
    let number = match entry.resolution() {
        Resolution::None => declared.number,
        Resolution::DynamicDns => declared.target_port.unwrap_or(declared.number),
        Resolution::Static | Resolution::Dns | Resolution::DnsRoundRobin => return None,
    };
    Some(OriginalDestination { port: Some(number.number()), protocol: port.protocol })
}

/// What the host's certificate must name: as the oldest entry says that says it.
pub(super) fn certificate_names(selected: &[Selected]) -> &[String] {
    let mut said = selected.iter().filter_map(|one| one.entry.spec()).map(|entry| &entry.subject_alt_names[..]);
    said.find(|names| !names.is_empty()).unwrap_or_default()
}

/// The mesh's own workloads that serve a port of the host.
pub(super) fn members<'a>(selected: &'a [Selected], port: &ServicePort) -> Vec<(&'a Row, Protocol)> {
    let of_entry = selected.iter().filter_map(|one| Some((one, one.port(port.port)?)));
    let rows = of_entry.flat_map(|(one, declared)| {
        let target = declared.target_port.unwrap_or(declared.number).number();
        one.rows.iter().filter(move |row| row.announced.target_port == target)
    });
    let mut seen = BTreeSet::new();
    rows.filter(|row| seen.insert((&row.workload.node, &row.announced.workload)))
        .map(|row| (&**row, port.protocol))
        .collect()
}

/// The places outside of the mesh that serve a port of the host, each once: the oldest entry that has it holds. `known`
/// is the host in the view before.
pub(super) fn places(selected: &[Selected], port: &ServicePort, known: Option<&Service>) -> Vec<Arc<Endpoint>> {
    let loads = KnownLoads::of(known, port.port);
    let mut found: BTreeMap<EndpointKey, Arc<Endpoint>> = BTreeMap::new();
    for (one, declared) in selected.iter().filter_map(|one| Some((one, one.port(port.port)?))) {
        for (place, ip) in one.addressed() {
            let own = place.and_then(|place| place.ports.get(&declared.name));
            let number = own.copied().or(declared.target_port).unwrap_or(declared.number).number();
            let address = SocketAddr::new(ip, number);
            let Some(key) = outside::key(&one.entry.namespace, address) else { continue };
            found.entry(key).or_insert_with_key(|key| {
                let outside = Outside {
                    address,
                    protocol: port.protocol,
                    health: EndpointHealth::Healthy,
                    weight: place.map_or(1, weight_of),
                    place: place.map(place_of).unwrap_or_default(),
                };
                outside.endpoint(key.clone(), &loads)
            });
        }
    }
    found.into_values().collect()
}

/// Without a weight, or with 0, an endpoint counts as one, as in Istio.
fn weight_of(workload: &WorkloadEntry) -> u32 {
    workload.weight.map_or(1, |weight| u32::try_from(weight.get()).unwrap_or(u32::MAX).max(1))
}

/// What Istio labels endpoints with by their network.
const NETWORK_LABEL: &str = "topology.istio.io/network";

fn place_of(workload: &WorkloadEntry) -> Place {
    let mut parts = workload.locality.split('/').map(str::to_owned);
    let mut part = || parts.next().unwrap_or_default();
    let mut labels = workload.labels.0.clone();
    if !workload.network.is_empty() {
        labels.insert(NETWORK_LABEL.to_owned(), workload.network.clone());
    }
    Place { node: None, locality: Locality { region: part(), zone: part(), subzone: part() }, labels }
}
