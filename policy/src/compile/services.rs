//! Services: Service documents and nodes' announcements, put together by name.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weft_wire::{
    fact::Protocol,
    id::{AccountName, NodeName, ServiceName},
};

use super::{
    Ingredients, Inputs,
    clusters::Known,
    entries, gateway_api,
    localities::Localities,
    nodes::Row,
    policies::{self, Merged, Policy},
    service_policies,
    slices::{Asked, Slice},
    visible_rules,
};
use crate::{
    api::{
        core::{self, SessionAffinity, TrafficDistribution, TrafficPolicy, TransportProtocol},
        mesh::{BackendTrafficPolicy, CircuitPolicy},
    },
    balance::{Balancer, HashKey, HashPolicy, NEAREST, OriginalDestination, Preference, TableKind},
    document::{Document, Spec},
    endpoint::{Endpoint, EndpointAddress, LocalWorkload, Place},
    hosts::HostPattern,
    namespaces::{PerNamespace, same},
    origination::Protection,
    route::RuleSet,
    service_id::ServiceId,
    view::{Clusters, SeenClusters, Service, ServicePort, sni},
};

/// A Service document.
#[derive(Debug)]
pub(crate) struct Declared {
    document: Arc<Document>,
    pub(super) name: ServiceName,
    /// The accounts that it lets serve it; `None` is any.
    accounts: Option<Vec<AccountName>>,
    /// The place of one of type `ExternalName`.
    place: Option<Arc<Slice>>,
}

impl Declared {
    /// `None` for another kind of document, or a name that is no service's.
    pub(super) fn read(document: &Arc<Document>) -> Option<Self> {
        let Spec::Service(service) = &document.spec else { return None };
        let name = ServiceName { namespace: document.key.namespace.clone()?, name: document.key.name.parse().ok()? };
        Some(Self {
            place: service.external_name().map(|host| Arc::new(Slice::of_name(name.clone(), host))),
            name,
            // Checked when it was read, so an annotation that cannot be read lets nobody serve.
            accounts: core::Service::accounts(&document.annotations).unwrap_or(Some(Vec::new())),
            document: document.clone(),
        })
    }

    /// The host that one of type `ExternalName` stands for.
    pub(super) fn external_name(&self) -> Option<&str> {
        match &self.document.spec {
            Spec::Service(service) => service.external_name(),
            _ => None,
        }
    }

    /// The place of one of type `ExternalName`.
    pub(super) fn place(&self) -> Option<&Arc<Slice>> {
        self.place.as_ref()
    }

    fn traffic_distribution(&self) -> Option<TrafficDistribution> {
        match &self.document.spec {
            Spec::Service(service) => service.traffic_distribution,
            _ => None,
        }
    }

    fn is_sticky(&self) -> bool {
        matches!(&self.document.spec, Spec::Service(service) if service.session_affinity == Some(SessionAffinity::ClientIp))
    }

    fn stays_on_node(&self) -> bool {
        matches!(&self.document.spec, Spec::Service(service) if service.internal_traffic_policy == Some(TrafficPolicy::Local))
    }

    fn publishes_not_ready(&self) -> bool {
        matches!(&self.document.spec, Spec::Service(service) if service.publish_not_ready_addresses)
    }

    fn ports(&self) -> impl Iterator<Item = &core::ServicePort> {
        let ports = match &self.document.spec {
            Spec::Service(service) => &service.ports[..],
            _ => &[],
        };
        ports.iter().filter(|port| port.transport() == TransportProtocol::Tcp)
    }

    /// Workloads with all of these labels belong to it; none selects none.
    pub(super) fn selector(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        match &self.document.spec {
            Spec::Service(service) => &service.selector,
            _ => &NONE,
        }
    }
}

/// Puts a service together; `known` is the one of the view before.
pub(super) fn service(
    inputs: &Inputs<'_>,
    id: ServiceId,
    fqdn: Arc<str>,
    ingredients: Ingredients,
    known: Option<&Service>,
) -> Service {
    let model = match &id {
        ServiceId::Mesh(name) => Model::new(name, inputs.this_node, &ingredients, known),
        ServiceId::Host { .. } => Model::outside(&ingredients, known),
    };
    let has_same_routes =
        |known: &&Service| same(&known.ingredients.routes, &ingredients.routes) && known.ports == model.ports;
    let of_routes = match (known.filter(has_same_routes), &id) {
        (Some(known), _) => known.of_routes.clone(),
        (None, ServiceId::Mesh(name)) => gateway_api::mesh::rule_sets(name, &model.ports, &ingredients.routes),
        (None, ServiceId::Host { .. }) => Vec::new(),
    };
    let known = Known::of(known);
    let clusters_by = |policies: &[Arc<Policy>]| Arc::new(Clusters::new(&fqdn, &model, &Merged(policies), &known));
    let clusters = policies::holding(id.namespace(), &ingredients.policies).map(|policies| {
        let (others, selected) = policies::by_selector(policies);
        let selected = selected.into_iter().map(|(labels, policies)| (labels, clusters_by(&policies)));
        SeenClusters { selected: selected.collect(), others: clusters_by(&others) }
    });
    let endpoints = clusters.elsewhere().others.ports.iter().flat_map(|port| &port.all.endpoints);
    let local = endpoints.filter_map(|endpoint| {
        let EndpointAddress::Local(address) = endpoint.address else { return None };
        let workload = endpoint.workload.as_ref()?;
        let sni = sni(&workload.name, &workload.namespace, endpoint.key.target_port, inputs.trust_domain);
        let here = LocalWorkload {
            workload: workload.clone(),
            address,
            cluster_name: format!("inbound|{}||", address.port()).into(),
            protocol: endpoint.protocol,
            service: id.mesh().unwrap_or(&workload.service).clone(),
            health: endpoint.health,
        };
        Some((sni.into(), Arc::new(here)))
    });
    let local = local.collect();
    Service {
        ports: model.ports,
        id,
        local,
        clusters,
        rules: rules(&fqdn, &ingredients.rules, &of_routes),
        of_routes,
        fqdn,
        ingredients,
    }
}

/// What rules a service: VirtualServices, the most specific host first and of one host the oldest first, and its
/// routes, which stand together among those for the whole host, by the age of the oldest route that a client sees.
fn rules(fqdn: &str, services: &[Arc<RuleSet>], routes: &[Arc<RuleSet>]) -> PerNamespace<Vec<Arc<RuleSet>>> {
    if routes.is_empty() {
        return visible_rules(services);
    }
    let namespaces = services.iter().chain(routes).flat_map(|rules| rules.visible.names());
    PerNamespace::new(namespaces, |namespace| {
        let seen = |rules: &&Arc<RuleSet>| rules.visible.includes(namespace);
        let mut all: Vec<Arc<RuleSet>> = services.iter().filter(seen).cloned().collect();
        let routes: Vec<Arc<RuleSet>> = routes.iter().filter(seen).cloned().collect();
        if let Some(oldest) = routes.iter().map(|rules| rules.created).min() {
            let is_older = |rules: &&Arc<RuleSet>| {
                let names_it = |host: &HostPattern| matches!(host, HostPattern::Exact(name) if name == fqdn);
                rules.created <= oldest && rules.hosts.iter().any(names_it)
            };
            let at = all.iter().take_while(is_older).count();
            all.splice(at..at, routes);
        }
        all
    })
}

/// A service before its endpoints are made.
#[derive(Debug, Default)]
pub(super) struct Model<'a> {
    /// The accounts that its document lets serve it; `None` is any.
    accounts: Option<&'a [AccountName]>,
    /// Its document says `sessionAffinity: ClientIP`.
    is_sticky: bool,
    traffic_distribution: Option<TrafficDistribution>,
    /// This node, where its document says `internalTrafficPolicy: Local`: endpoints of others are left out.
    pub(super) only_node: Option<&'a NodeName>,
    /// Its document says `publishNotReadyAddresses`: health checks do not count.
    pub(super) publishes_not_ready: bool,
    here: Option<&'a Arc<Place>>,
    pub(super) localities: Option<&'a Localities>,
    /// Its name in the mesh, if it has one.
    name: Option<&'a ServiceName>,
    circuits: &'a [Arc<Document>],
    traffic: &'a [Arc<Document>],
    backend_tls: &'a [Arc<Document>],
    pub(super) ports: Vec<ServicePort>,
    /// For each of `ports`, the rows that serve it, each with the protocol that is spoken there.
    pub(super) members: Vec<Vec<(&'a Row, Protocol)>>,
    /// For each of `ports`, whether its requests say themselves where they go.
    original: Vec<Option<OriginalDestination>>,
    /// For each of `ports`, the places outside that serve it.
    pub(super) outside: Vec<Vec<Arc<Endpoint>>>,
    /// What the certificates of places outside must name, where ServiceEntries say it.
    certificate_names: &'a [String],
}

impl<'a> Model<'a> {
    /// `known` is that of the view before.
    fn new(
        name: &'a ServiceName,
        this_node: &'a NodeName,
        ingredients: &'a Ingredients,
        known: Option<&Service>,
    ) -> Self {
        let declared = ingredients.declared.as_deref();
        let (own, selected) = (rows(ingredients.own()), rows(&ingredients.selected));
        let accounts = declared.and_then(|declared| declared.accounts.as_deref());
        let mut model = Self {
            accounts,
            is_sticky: declared.is_some_and(Declared::is_sticky),
            traffic_distribution: declared.and_then(Declared::traffic_distribution),
            only_node: declared.is_some_and(Declared::stays_on_node).then_some(this_node),
            publishes_not_ready: declared.is_some_and(Declared::publishes_not_ready),
            here: ingredients.here.as_ref(),
            localities: ingredients.localities.as_deref(),
            name: Some(name),
            circuits: &ingredients.circuits,
            traffic: &ingredients.traffic,
            backend_tls: &ingredients.backend_tls,
            ..Self::default()
        };
        let mut served: BTreeSet<*const Row> = BTreeSet::new();
        for port in declared.into_iter().flat_map(Declared::ports) {
            let members = model.members_of(port, &own, &selected);
            served.extend(members.iter().map(|row| std::ptr::from_ref(*row)));
            let declared = port.spoken();
            let protocol = declared.or_else(|| members.first().map(|row| row.announced.protocol));
            model.add(port.port.number(), &port.name, protocol.unwrap_or_default(), declared, members);
        }
        // A place that shows no account serves no service that names its accounts.
        let slices = Some(&ingredients.slices).filter(|_| accounts.is_none());
        let outside = |((declared, port), members): ((&core::ServicePort, &ServicePort), &Vec<_>)| match slices {
            Some(slices) => {
                let asked = Asked {
                    publishes_not_ready: model.publishes_not_ready,
                    here: model.here.map(|here| &**here),
                    localities: ingredients.localities.as_deref(),
                    beside_others: !members.is_empty(),
                };
                slices.endpoints(declared, port, &asked, known)
            }
            None => Vec::new(),
        };
        let ports = declared.into_iter().flat_map(Declared::ports).zip(&model.ports);
        model.outside = ports.zip(&model.members).map(outside).collect();
        // Ports that only announcements know.
        let mut rest: BTreeMap<u16, Vec<&'a Row>> = BTreeMap::new();
        for row in &own {
            // Never a declared port again: a second row of a workload could take it from all others.
            let declared = model.ports.iter().any(|port| port.port == row.announced.port);
            if declared || served.contains(&std::ptr::from_ref(*row)) || !model.admits(row) {
                continue;
            }
            rest.entry(row.announced.port).or_default().push(*row);
        }
        for (port, members) in rest {
            let protocol = members.first().map(|row| row.announced.protocol).unwrap_or_default();
            model.add(port, protocol.as_str(), protocol, None, members);
        }
        model
    }

    /// Of a host that ServiceEntries describe; `known` is that of the view before.
    fn outside(ingredients: &'a Ingredients, known: Option<&Service>) -> Self {
        let entries = &ingredients.entries;
        let ports = entries::ports(entries);
        Self {
            here: ingredients.here.as_ref(),
            localities: ingredients.localities.as_deref(),
            circuits: &ingredients.circuits,
            traffic: &ingredients.traffic,
            members: ports.iter().map(|port| entries::members(entries, port)).collect(),
            original: ports.iter().map(|port| entries::original_destination(entries, port)).collect(),
            outside: ports.iter().map(|port| entries::places(entries, port, known)).collect(),
            certificate_names: entries::certificate_names(entries),
            ports,
            ..Self::default()
        }
    }

    fn add(&mut self, port: u16, name: &str, protocol: Protocol, declared: Option<Protocol>, members: Vec<&'a Row>) {
        self.ports.push(ServicePort { port, name: name.to_owned(), protocol });
        self.outside.push(Vec::new());
        self.members.push(members.into_iter().map(|row| (row, declared.unwrap_or(row.announced.protocol))).collect());
    }

    /// How endpoints are chosen where no DestinationRule says it.
    pub(super) fn affinity(&self) -> Balancer {
        match self.is_sticky {
            true => Balancer::Hash(Arc::new(HashPolicy { key: HashKey::SourceIp, table: TableKind::DEFAULT })),
            false => Balancer::default(),
        }
    }

    /// Which endpoints are preferred where no DestinationRule says it, with or without outlierDetection: as in Istio,
    /// which reads `PreferClose` down to the subzone.
    pub(super) fn distribution(&self) -> Preference {
        let (Some(place), Some(distribution)) = (self.here, self.traffic_distribution) else {
            return Preference::None;
        };
        let labels = match distribution {
            TrafficDistribution::PreferClose | TrafficDistribution::PreferSameZone => NEAREST.get(..3),
            TrafficDistribution::PreferSameNode => NEAREST.get(..),
        };
        let labels = labels.unwrap_or_default().iter().map(|label| ((*label).to_owned(), None)).collect();
        Preference::Nearest { place: place.clone(), labels: Some(labels), failover: Vec::new(), zones: None }
    }

    /// Whether the requests of a port say themselves where they go.
    pub(super) fn original(&self, port: &ServicePort) -> Option<OriginalDestination> {
        let place = self.ports.iter().position(|known| known.port == port.port)?;
        self.original.get(place).copied().flatten()
    }

    pub(super) fn certificate_names(&self) -> &'a [String] {
        self.certificate_names
    }

    /// The CircuitPolicy that holds for a port.
    pub(super) fn circuit(&self, port: &ServicePort) -> Option<&'a CircuitPolicy> {
        match &service_policies::holding(self.circuits, self.name, port)?.spec {
            Spec::CircuitPolicy(policy) => Some(policy),
            _ => None,
        }
    }

    /// The BackendTrafficPolicy that holds for a port.
    pub(super) fn traffic(&self, port: &ServicePort) -> Option<&'a BackendTrafficPolicy> {
        match &service_policies::holding(self.traffic, self.name, port)?.spec {
            Spec::BackendTrafficPolicy(policy) => Some(policy),
            _ => None,
        }
    }

    /// How places outside are called by the BackendTLSPolicy that holds for a port, if one does.
    pub(super) fn protection(&self, port: &ServicePort) -> Option<Protection> {
        let document = service_policies::holding(self.backend_tls, self.name, port)?;
        match &document.spec {
            Spec::BackendTlsPolicy(policy) => Some(Protection::of_backend(policy, &document.namespace())),
            _ => None,
        }
    }

    pub(super) fn here(&self) -> Option<&'a Arc<Place>> {
        self.here
    }

    /// Whether the service's document lets this account serve it.
    fn admits(&self, row: &Row) -> bool {
        self.accounts.as_ref().is_none_or(|accounts| accounts.contains(&row.announced.service_account))
    }

    /// The rows that serve a declared port: for each workload the best of those announced under the service's name
    /// for this port, then those on the target port, then, where no target port is declared, those for this port.
    /// So a node's word on its own workload beats the document's general one, and no document opens a port that the
    /// hosting node did not announce.
    fn members_of(&self, port: &core::ServicePort, own: &[&'a Row], selected: &[&'a Row]) -> Vec<&'a Row> {
        // A name is resolved by nodes' announcements: they say which port of a workload serves the service's port.
        let (number, target_port) = (port.port.number(), port.target_number());
        let mut best: BTreeMap<_, (u8, &'a Row)> = BTreeMap::new();
        let own = own.iter().map(|row| (*row, true));
        for (row, is_own) in own.chain(selected.iter().map(|row| (*row, false))) {
            let rank = if is_own && row.announced.port == number {
                0
            } else if row.announced.target_port == target_port.unwrap_or(number) {
                1
            } else if target_port.is_none() && row.announced.port == number {
                2
            } else {
                continue;
            };
            if !self.admits(row) {
                continue;
            }
            let kept = best.entry((&row.workload.node, &row.announced.workload)).or_insert((rank, row));
            if rank < kept.0 {
                *kept = (rank, row);
            }
        }
        best.into_values().map(|(_, row)| row).collect()
    }
}

fn rows(rows: &[Arc<Row>]) -> Vec<&Row> {
    rows.iter().map(|row| &**row).collect()
}
