//! The immutable snapshot that a request reads, loaded once and kept to the request's end.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use foldhash::{HashMap, HashMapExt};
use ipnet::IpNet;
use weft_wire::{
    fact::Protocol,
    id::{Namespace, ServiceAccount, TrustDomain, WorkloadName},
};

use crate::{
    access::Access,
    api::{mesh::OutboundTrafficMode, values::Labels},
    attached::Attached,
    authenticate::KeysAt,
    balance::Cluster,
    compile::{AccessIndex, Ingredients, Parts, TelemetryIndex, names_to_resolve},
    document::Document,
    endpoint::{Endpoint, EndpointAddress, EndpointKey, LocalWorkload, Workload},
    experiment::Experiment,
    external::Externals,
    gateway::{Gateway, Gateways},
    hosts::{self, HostIndex},
    limit::{Limits, RateLimiter},
    namespaces::PerNamespace,
    origination::Origination,
    route::{
        Callee, Client, Destination, Matched, Mirror, Origin, Query, RequestHead, RuleSet, Ruling, TargetHost,
        TcpRouting, passed,
    },
    secrets::Credentials,
    service_id::ServiceId,
    settings::MeshSettings,
    sidecar::{Scope, Sight},
    telemetry::WorkloadSignals,
    unserved::{Passthrough, Unserved, UnservedHosts},
};

/// The port that a client means who names none, where it is not the service's only one.
pub const HTTP_PORT: u16 = 80;

/// All that one node's requests need to know of the mesh.
#[derive(Debug)]
pub struct MeshView {
    /// Counts the views of this process.
    pub epoch: u64,
    pub trust_domain: TrustDomain,
    /// This node's name; empty in a view of nobody.
    pub own_name: Box<str>,
    /// Where other nodes reach this one; `None` until its own record is known.
    pub own_address: Option<IpAddr>,
    /// Sorted by namespace, then name.
    pub(crate) services: Vec<Arc<Service>>,
    /// Their places in `services`, by `name.namespace`.
    pub(crate) by_name: Arc<HashMap<Box<str>, u32>>,
    pub(crate) virtual_hosts: Arc<VirtualHosts>,
    /// What services of type `ExternalName` stand for, by `name.namespace`, in the form that `by_name` and `externals`
    /// have. None of these is an alias.
    pub(crate) aliases: HashMap<Box<str>, Box<str>>,
    /// Hosts that ServiceEntries describe.
    pub(crate) externals: Arc<Externals>,
    pub(crate) unserved: Arc<UnservedHosts>,
    /// Where clients outside of the mesh come in.
    pub(crate) gateways: Arc<Gateways>,
    /// By server name.
    pub(crate) local: HashMap<Box<str>, Arc<LocalWorkload>>,
    /// Of this node's workloads.
    pub(crate) access: Arc<AccessIndex>,
    pub(crate) callers: Arc<Callers>,
    pub(crate) attached: Arc<Attached>,
    pub(crate) telemetry: Arc<TelemetryIndex>,
    /// Certificates and keys by reference: the same place in memory as long as they are the same.
    pub credentials: Arc<Credentials>,
    pub settings: Arc<MeshSettings>,
    /// What the next view is made of where nothing has changed.
    pub(crate) parts: Parts,
}

/// What a client means by a host.
#[derive(Clone, Copy, Debug)]
pub enum Host<'v> {
    Service(&'v Arc<Service>),
    /// A host that is no service; a VirtualService says where its requests go.
    Virtual(&'v Arc<VirtualHost>),
    /// A host that nobody serves, whose requests pass.
    Passthrough(Passthrough<'v>),
}

/// Hosts that VirtualServices name, and that are no service.
#[derive(Debug, Default)]
pub(crate) struct VirtualHosts {
    /// Those that are written like services by `name.namespace`; others by themselves.
    pub(crate) by_name: HashMap<Box<str>, Arc<VirtualHost>>,
    /// Those that are named by their end alone.
    pub(crate) by_end: HostIndex<Arc<VirtualHost>>,
}

/// A host that only VirtualServices know.
#[derive(Debug)]
pub struct VirtualHost {
    pub(crate) rules: PerNamespace<Vec<Arc<RuleSet>>>,
}

/// The workloads that call, by what is known of them.
#[derive(Debug, Default)]
pub(crate) struct Callers {
    /// By `namespace/workload`: each account that announces a workload of this name.
    pub(crate) by_name: HashMap<Box<str>, Vec<Arc<Workload>>>,
    /// `None` for an account that several workloads share.
    pub(crate) by_account: HashMap<ServiceAccount, Option<Arc<Workload>>>,
}

impl MeshView {
    /// A view of a mesh without services.
    pub fn empty(trust_domain: TrustDomain) -> Self {
        Self {
            epoch: 0,
            settings: Arc::new(MeshSettings::new(&trust_domain, None)),
            trust_domain,
            own_name: Box::default(),
            own_address: None,
            services: Vec::new(),
            by_name: Arc::default(),
            virtual_hosts: Arc::default(),
            aliases: HashMap::new(),
            externals: Arc::default(),
            unserved: Arc::default(),
            gateways: Arc::default(),
            local: HashMap::new(),
            access: Arc::default(),
            callers: Arc::default(),
            attached: Arc::default(),
            telemetry: Arc::default(),
            credentials: Arc::default(),
            parts: Parts::default(),
        }
    }

    /// What a client means by `host` (without a port): a service (`reviews`, `reviews.ns`, `reviews.ns.svc` or
    /// `reviews.ns.svc.cluster.local`), a host outside of the mesh that ServiceEntries describe, or another host that a
    /// VirtualService names; or one of these by its `ExternalName`, or by an address that a ServiceEntry gives. In any
    /// case, with one trailing dot allowed, and only what the client's Sidecar shows at the port that it names.
    /// Allocates nothing.
    pub fn host(&self, host: &str, port: Option<u16>, client: Client<'_>) -> Option<Host<'_>> {
        self.find(host, Sight { namespace: client.namespace, scope: self.scope(client), port })
    }

    pub(crate) fn find(&self, host: &str, sight: Sight<'_>) -> Option<Host<'_>> {
        let is_seen =
            |found: &&Arc<VirtualHost>| found.rules.of(sight.namespace).iter().any(|rules| sight.includes_rules(rules));
        let external = |name: &str| self.externals.service(name, sight).map(Host::Service);
        let virtual_host = |name: &str| self.virtual_hosts.by_name.get(name).filter(is_seen).map(Host::Virtual);
        let by_name = |name: &str| match self.service_named(name) {
            Some(service) if sight.includes(service) => Some(Host::Service(service)),
            Some(_) => external(name),
            None => external(name).or_else(|| virtual_host(name)),
        };
        let by_name = |name: &str| {
            by_name(name).or_else(|| {
                let target = self.aliases.get(name)?;
                by_name(target).or_else(|| self.externals.by_end(target, sight).map(Host::Service))
            })
        };
        hosts::with_lookup_name(host, sight.namespace, by_name).flatten().or_else(|| {
            let by_end = |host: &str| {
                let external = self.externals.by_end(host, sight).map(Host::Service);
                external.or_else(|| self.virtual_hosts.by_end.matching(host).find(is_seen).map(Host::Virtual))
            };
            let by_address = || self.externals.by_address(host, sight).map(|(service, _)| Host::Service(service));
            hosts::with_lower_case(host, |host| by_name(host).or_else(by_address).or_else(|| by_end(host))).flatten()
        })
    }

    /// The Sidecar that holds for a client.
    pub(crate) fn scope(&self, client: Client<'_>) -> Option<&Scope> {
        self.parts.scope(client)
    }

    /// What becomes of a client's requests for a host that [`Self::host`] does not find.
    pub fn unserved(&self, client: Client<'_>) -> Unserved<'_> {
        let scope = self.scope(client);
        if let Some(proxy) = scope.and_then(|scope| scope.proxy.as_ref()) {
            // The document names its port.
            return match self.query(HTTP_PORT, client, 0).target(proxy) {
                Some((service, cluster)) => self.unserved.to(service, cluster),
                None => self.unserved.by(Some(OutboundTrafficMode::RegistryOnly)),
            };
        }
        self.unserved.by(scope.and_then(|scope| scope.outbound).or(self.settings.outbound))
    }

    /// The service that a client in `client_namespace` means by `host`; see [`Self::host`].
    pub fn service(&self, host: &str, client_namespace: &Namespace) -> Option<&Arc<Service>> {
        hosts::with_lookup_name(host, client_namespace, |name| self.service_named(name)).flatten()
    }

    /// What a document means by a destination.
    pub(crate) fn destination(&self, host: &TargetHost, sight: Sight<'_>) -> Option<&Arc<Service>> {
        let service = match host {
            TargetHost::Service(name) => self.service_named(name),
            TargetHost::Backend(name) => self.service_named(name).filter(|service| !service.ingredients.is_alias()),
            TargetHost::Other(_) => None,
        };
        // What a rule that the client sees sends its requests to is there, whatever its Sidecar says, as in Istio.
        service.or_else(|| self.externals.destination(host.name(), sight)).or_else(|| match host {
            TargetHost::Service(name) => self.service_by_alias(name, sight),
            TargetHost::Backend(_) | TargetHost::Other(_) => None,
        })
    }

    /// The service that one of type `ExternalName` stands for.
    fn service_by_alias(&self, name: &str, sight: Sight<'_>) -> Option<&Arc<Service>> {
        let target = self.aliases.get(name)?;
        let external = || self.externals.destination(target, sight);
        let by_end = || self.externals.by_end(target, Sight::of_all(sight.namespace));
        self.service_named(target).or_else(external).or_else(by_end)
    }

    /// A service by its `name.namespace`.
    pub(crate) fn service_named(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.get(*self.by_name.get(name)? as usize)
    }

    pub(crate) fn query<'v, 'r>(&'v self, port: u16, client: Client<'r>, random: u64) -> Query<'v, 'r> {
        Query { view: self, port, client, scope: self.scope(client), random, resumes: true }
    }

    /// What becomes of a request for a host that was found in this view, at the port that the client dialled; `None`
    /// where no rule of those that hold matches: 404. `random` is a fresh, uniform number that chooses among weights.
    pub fn route<'v>(
        &'v self,
        host: Host<'v>,
        port: u16,
        head: &RequestHead<'_>,
        client: Client<'_>,
        random: u64,
    ) -> Option<Matched<'v>> {
        self.routed(host, head, self.query(port, client, random))
    }

    /// As [`Self::route`], for a request whose session has ended: it begins anew.
    pub fn route_anew<'v>(
        &'v self,
        host: Host<'v>,
        port: u16,
        head: &RequestHead<'_>,
        client: Client<'_>,
        random: u64,
    ) -> Option<Matched<'v>> {
        self.routed(host, head, Query { resumes: false, ..self.query(port, client, random) })
    }

    fn routed<'v>(&'v self, host: Host<'v>, head: &RequestHead<'_>, query: Query<'v, '_>) -> Option<Matched<'v>> {
        let client = query.client;
        match (query.by_rules(host.rules(client.namespace), head, &mut ()), host) {
            (Ruling::Matched(matched), _) => Some(matched),
            (Ruling::None, Host::Service(service)) => query.by_default(service),
            (Ruling::None, Host::Passthrough(passthrough)) => Some(passed(passthrough)),
            (Ruling::NoMatch, _) | (Ruling::None, Host::Virtual(_)) => None,
        }
    }

    /// Whether the server that a client names in its TLS handshake decides where its connection to a service goes.
    /// `address` is the one that it asks for, if it names no host.
    pub fn reads_server_name<'v>(
        &'v self,
        service: &'v Arc<Service>,
        port: u16,
        client: Client<'_>,
        address: Option<IpAddr>,
    ) -> bool {
        let callee = Callee { address, service: Some(service) };
        self.query(port, client, 0).reads_server_name(service.rules.of(client.namespace), callee)
    }

    /// Where a connection to a service goes that is not read as HTTP. `random` is a fresh, uniform number.
    pub fn route_tcp<'v>(
        &'v self,
        service: &'v Arc<Service>,
        port: u16,
        client: Client<'_>,
        destination: Destination<'_>,
        random: u64,
    ) -> TcpRouting<'v> {
        self.query(port, client, random).tcp(service.rules.of(client.namespace), service, destination)
    }

    /// Where a copy of a request goes, if this one is of the share that is mirrored. `port` is the one that the client
    /// dialled, `random` a fresh, uniform number.
    pub fn mirrored(&self, mirror: &Mirror, port: u16, client: Client<'_>, random: u64) -> Option<&Arc<Cluster>> {
        self.query(port, client, random).mirrored(mirror)
    }

    /// The limits of a rule: each calling node counts what its own callers send.
    pub fn limits_of_rule(&self, origin: Origin<'_>) -> Option<&Limits> {
        self.attached.limits_of_rule(origin)
    }

    /// The limits of a workload of this node, on the port that it listens on: they count whoever calls. The workload
    /// is one of this view's.
    pub fn limits_of_workload(&self, workload: &Arc<Workload>, target_port: u16) -> Option<&Limits> {
        self.attached.limits_of_workload(workload, target_port)
    }

    /// The experiments with requests that a rule matched, or that go to a port of a service.
    pub fn experiments(
        &self,
        origin: Option<Origin<'_>>,
        to: Option<(&ServiceId, u16)>,
    ) -> impl Iterator<Item = &Arc<Experiment>> {
        self.attached.experiments(origin, to)
    }

    /// What a workload of this node tells of its traffic, or who else is of a namespace.
    pub fn signals(&self, workload: Option<&Workload>, namespace: &Namespace) -> &Arc<WorkloadSignals> {
        self.telemetry.of(workload, namespace)
    }

    /// Whether any document says what becomes of metrics.
    pub fn shapes_metrics(&self) -> bool {
        self.telemetry.shapes_metrics
    }

    /// All FaultExperiments, the oldest first.
    pub fn all_experiments(&self) -> impl Iterator<Item = &Experiment> {
        self.parts.experiments()
    }

    /// All RateLimits, the oldest first.
    pub fn rate_limits(&self) -> impl Iterator<Item = &RateLimiter> {
        self.parts.rate_limits()
    }

    /// The documents that it was made of.
    pub(crate) fn documents(&self) -> &[Arc<Document>] {
        self.parts.documents()
    }

    /// A client's address as all nodes would know it: one that means this host is this host's own in the mesh.
    pub fn address_of_client(&self, address: IpAddr) -> IpAddr {
        self.own_address.filter(|_| address.to_canonical().is_loopback()).unwrap_or(address)
    }

    /// All services, sorted by namespace, then name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.iter()
    }

    /// Hosts outside of the mesh, sorted by name and namespace.
    pub fn externals(&self) -> Vec<&Arc<Service>> {
        self.externals.all()
    }

    /// All gateways, those of the Gateway API first, sorted by namespace, then name.
    pub fn gateways(&self) -> impl Iterator<Item = &Arc<Gateway>> {
        self.gateways.all.values()
    }

    /// The clusters whose failures are counted, each once, whoever sees them.
    pub fn watched_clusters(&self) -> Vec<&Arc<Cluster>> {
        let services = self.services.iter().chain(self.externals.all());
        services.flat_map(|service| service.all_clusters()).filter(|cluster| cluster.is_recorded()).collect()
    }

    /// The names outside of the mesh whose addresses are needed.
    pub fn names_to_resolve(&self) -> BTreeSet<String> {
        self.services.iter().chain(self.externals.all()).flat_map(|service| names_to_resolve(service)).collect()
    }

    /// The ways in which places outside of the mesh are spoken TLS with.
    pub fn originations(&self) -> BTreeSet<Arc<Origination>> {
        let services = self.services.iter().chain(self.externals.all());
        let is_hosted = |labels: &Labels| self.local.values().any(|hosted| hosted.workload.has_labels(labels));
        // Of what other nodes' clients are selected for this node may not have the Secrets.
        let clusters_of = |seen: &'_ SeenClusters| {
            let selected = seen.selected.iter().filter(|(labels, _)| is_hosted(labels));
            std::iter::once(&seen.others).chain(selected.map(|(_, clusters)| clusters)).cloned().collect::<Vec<_>>()
        };
        let seen = services.flat_map(|service| service.clusters.all()).flat_map(clusters_of);
        let clusters = seen.flat_map(|clusters| {
            let ports = clusters.ports.iter();
            ports.flat_map(|port| std::iter::once(&port.all).chain(&port.subsets)).cloned().collect::<Vec<_>>()
        });
        let is_outside = |endpoint: &Arc<Endpoint>| matches!(endpoint.address, EndpointAddress::Outside(_));
        let of_cluster = |cluster: Arc<Cluster>| {
            let origination = cluster.connection()?.protection.as_ref()?.origination()?;
            let goes_outside = cluster.original_destination().is_some() || cluster.endpoints.iter().any(is_outside);
            goes_outside.then(|| origination.clone())
        };
        clusters.filter_map(of_cluster).collect()
    }

    /// The workload of this node that a data connection with this server name is for. See [`sni`].
    pub fn local_workload(&self, sni: &str) -> Option<&Arc<LocalWorkload>> {
        self.local.get(sni)
    }

    /// What a workload of this node asks of those who call it, as an endpoint or [`Self::local_workload`] of this view
    /// names it; `None` if no policy is for it.
    pub fn access(&self, workload: &Arc<Workload>) -> Option<&Arc<Access>> {
        self.access.get(workload)
    }

    /// Whether this view lets in whom another one does: nothing has changed that open connections are judged by.
    pub fn lets_in_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.access, &other.access) && Arc::ptr_eq(&self.settings, &other.settings)
    }

    /// The policies that are for a workload of any node that an endpoint of this view names, and what they say
    /// together.
    pub(crate) fn access_of_any(&self, workload: &Arc<Workload>) -> (Vec<Arc<Document>>, Arc<Access>) {
        self.access.of_any(workload, &self.services)
    }

    /// The key sets of token issuers that workloads of this node need, each with the longest time that fetching it may
    /// take.
    pub fn key_sets(&self) -> BTreeMap<KeysAt, Duration> {
        let mut wanted = BTreeMap::new();
        for (at, limit) in self.access.all().flat_map(|access| access.authenticator.key_sets()) {
            let longest: &mut Duration = wanted.entry(at.clone()).or_default();
            *longest = limit.max(*longest);
        }
        wanted
    }

    /// The workload that a caller with a proven `account` says it is (`namespace/workload`), if some node announces
    /// that workload under that account. So a caller cannot invent names, and metrics' labels stay bounded.
    pub fn caller(&self, claimed: &str, account: &ServiceAccount) -> Option<&Arc<Workload>> {
        self.callers.by_name.get(claimed)?.iter().find(|workload| workload.account == *account)
    }

    /// The workload that runs as `account`, if only one name is known for it. For callers that say nothing: raw TCP.
    pub fn only_workload_of(&self, account: &ServiceAccount) -> Option<&Arc<Workload>> {
        self.callers.by_account.get(account)?.as_ref()
    }
}

impl<'v> Host<'v> {
    pub(crate) fn rules(self, client_namespace: &Namespace) -> &'v [Arc<RuleSet>] {
        match self {
            Self::Service(service) => service.rules.of(client_namespace),
            Self::Virtual(host) => host.rules.of(client_namespace),
            Self::Passthrough(_) => &[],
        }
    }
}

/// The server name of a data connection to a workload: `p9080.reviews-v1.default.workload.cluster.local`.
///
/// With a trust domain of more than 100 characters it may be longer than DNS allows (253).
pub fn sni(workload: &WorkloadName, namespace: &Namespace, port: u16, trust_domain: &TrustDomain) -> String {
    format!("p{port}.{workload}.{namespace}.workload.{trust_domain}")
}

/// A service as clients see it.
#[derive(Debug)]
pub struct Service {
    pub id: ServiceId,
    /// Such as `reviews.default.svc.cluster.local`.
    pub fqdn: Arc<str>,
    pub ports: Vec<ServicePort>,
    /// Its endpoints, as the DestinationRules divide them that hold for a client.
    pub(crate) clusters: PerNamespace<SeenClusters>,
    /// The VirtualServices and routes that rule it, as a client sees them; the first that has a rule for the client
    /// holds.
    pub(crate) rules: PerNamespace<Vec<Arc<RuleSet>>>,
    /// Those of its routes, which are among them.
    pub(crate) of_routes: Vec<Arc<RuleSet>>,
    /// Its workloads on this node, by server name.
    pub(crate) local: Vec<(Box<str>, Arc<LocalWorkload>)>,
    /// What it was made of.
    pub(crate) ingredients: Ingredients,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub port: u16,
    pub name: String,
    pub protocol: Protocol,
}

/// The endpoints of one service, as clients in a namespace see them.
#[derive(Debug)]
pub(crate) struct SeenClusters {
    /// As those with certain labels do, by DestinationRules that select them: the first whose labels a client has.
    pub(crate) selected: Box<[(Labels, Arc<Clusters>)]>,
    pub(crate) others: Arc<Clusters>,
}

impl SeenClusters {
    fn of(&self, client: Option<&Workload>) -> &Clusters {
        let selects = |(labels, _): &&(Labels, Arc<Clusters>)| client.is_some_and(|client| client.has_labels(labels));
        self.selected.iter().find(selects).map_or(&self.others, |(_, clusters)| clusters)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Clusters>> + Clone {
        std::iter::once(&self.others).chain(self.selected.iter().map(|(_, clusters)| clusters))
    }
}

/// The endpoints of one service.
#[derive(Debug)]
pub(crate) struct Clusters {
    /// One for each of the service's ports, in that order.
    pub(crate) ports: Vec<PortClusters>,
}

#[derive(Debug)]
pub(crate) struct PortClusters {
    pub(crate) all: Arc<Cluster>,
    pub(crate) subsets: Vec<Arc<Cluster>>,
}

impl Service {
    /// The addresses that ServiceEntries have for it, which clients may ask for instead of its host.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = &IpNet> {
        self.ingredients.ranges()
    }

    /// Whether any endpoint of it is known.
    pub fn has_endpoints(&self) -> bool {
        self.clusters.elsewhere().others.ports.iter().any(|port| !port.all.endpoints.is_empty())
    }

    /// The port that a client dialled: that of the authority or of the listener. `None` means the only port.
    pub fn port(&self, dialled: Option<u16>) -> Option<&ServicePort> {
        match (dialled, self.ports.as_slice()) {
            (Some(port), ports) => ports.iter().find(|known| known.port == port),
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }

    /// What holds an endpoint of a port back from this node's callers, and for how many milliseconds more. Each cluster
    /// of the service judges for itself; the longest is told.
    pub fn held_back(&self, port: u16, key: &EndpointKey, now_ms: u64) -> Option<(&'static str, u64)> {
        let endpoints =
            self.all_clusters().filter(|cluster| cluster.port == port).flat_map(|cluster| &cluster.endpoints);
        let held = endpoints.filter(|endpoint| endpoint.key == *key).filter_map(|endpoint| endpoint.held_back(now_ms));
        held.max_by_key(|(_, left_ms)| *left_ms)
    }

    /// All clusters, each once, whoever sees them.
    pub(crate) fn all_clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> + Clone {
        let ports = self.clusters.all().flat_map(SeenClusters::all).flat_map(|clusters| &clusters.ports);
        ports.flat_map(|port| std::iter::once(&port.all).chain(&port.subsets))
    }

    /// The endpoints of one port, all subsets together, as clients in most namespaces see them.
    pub fn cluster(&self, port: u16) -> Option<&Arc<Cluster>> {
        self.clusters.elsewhere().others.ports.get(self.place_of(port)?).map(|clusters| &clusters.all)
    }

    /// The endpoints of one port and subset, as a client sees them. No subset is all.
    pub(crate) fn cluster_of(&self, client: Client<'_>, port: u16, subset: &str) -> Option<&Arc<Cluster>> {
        let seen = self.clusters.of(client.namespace).of(client.workload);
        let clusters = seen.ports.get(self.place_of(port)?)?;
        match subset {
            "" => Some(&clusters.all),
            subset => clusters.subsets.iter().find(|cluster| cluster.subset == subset),
        }
    }

    fn place_of(&self, port: u16) -> Option<usize> {
        self.ports.iter().position(|known| known.port == port)
    }
}
