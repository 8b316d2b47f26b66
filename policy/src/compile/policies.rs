//! DestinationRules: which of them hold for a service, as clients in a namespace see it, and what they say together.
//! Istio's rules of precedence.

use std::{collections::BTreeSet, sync::Arc};

use http::HeaderName;
use weft_wire::id::{Namespace, SpiffeId};

use super::services::Model;
use crate::{
    api::{
        mesh::{BackendTrafficPolicy, CircuitPolicy},
        networking::{
            ClientTlsMode, ClientTlsSettings, ConnectionPoolSettings, ConsistentHashLb, DestinationRule, Distribute,
            Failover, H2UpgradePolicy, HttpSettings, LoadBalancerSettings, OutlierDetection, PortTrafficPolicy,
            RetryBudget, SimpleLb, Subset, TcpKeepalive, TrafficPolicy, TunnelSettings,
        },
        values::{Count, Labels, Limit, Share, Span, Timeout},
    },
    balance::{
        self, Balancer, CookieKey, DEFAULT_MIN_ENDPOINTS, HashKey, HashPolicy, Limits, LocalityPattern,
        OutlierSettings, Preference, PseudoHeader, Retries, TableKind, Warmup, ZoneAwareness,
    },
    circuit::Sharing,
    connection::{ConnectionSettings, Keepalive, Ping, Tunnel, VersionChoice},
    document::{Document, Spec},
    hosts::HostPattern,
    namespaces::{PerNamespace, Visibility},
    origination::Protection,
    retry::Hedging,
    route::Client,
    view::{Service, ServicePort},
};

/// Documents here hold for the whole mesh where no nearer one does.
const ROOT_NAMESPACE: &str = "istio-system";

/// One DestinationRule.
#[derive(Debug)]
pub(crate) struct Policy {
    document: Arc<Document>,
    namespace: Namespace,
    pub(super) host: HostPattern,
    visible: Visibility,
    /// Some settings of it are zone-aware.
    pub(super) is_zone_aware: bool,
    /// Only clients of its namespace with these labels have it.
    selector: Option<Labels>,
}

impl Policy {
    /// `None` for another kind of document.
    pub(super) fn read(document: &Arc<Document>) -> Option<Self> {
        let Spec::DestinationRule(rule) = &document.spec else { return None };
        let namespace = document.namespace();
        let selector = rule.workload_selector.as_ref().map(|selector| selector.match_labels.clone());
        Some(Self {
            document: document.clone(),
            host: HostPattern::read(&rule.host, &namespace).ok()?,
            is_zone_aware: is_zone_aware(rule),
            visible: match selector {
                Some(_) => Visibility::Only([namespace.clone()].into()),
                None => Visibility::read(&rule.export_to, &namespace),
            },
            namespace,
            selector,
        })
    }

    fn rule(&self) -> Option<&DestinationRule> {
        match &self.document.spec {
            Spec::DestinationRule(rule) => Some(rule),
            _ => None,
        }
    }
}

/// The DestinationRules that hold for a service, as a client sees it.
pub(crate) fn destination_rules(service: &Service, client: Client<'_>) -> Vec<Arc<Document>> {
    let holding = holding(service.id.namespace(), service.ingredients.policies());
    let (others, selected) = by_selector(holding.of(client.namespace));
    let has = |labels: &Labels| client.workload.is_some_and(|workload| workload.has_labels(labels));
    let found = selected.into_iter().find(|(labels, _)| has(labels)).map_or(others, |(_, policies)| policies);
    found.iter().map(|policy| policy.document.clone()).collect()
}

/// Policies by what selects their clients.
type BySelector = Vec<(Labels, Vec<Arc<Policy>>)>;

/// Of policies for one host those without a selector, and those of each selector, the oldest first. Different selectors
/// are never merged, as in Istio; of several that select a client the one that comes first holds.
pub(super) fn by_selector(policies: &[Arc<Policy>]) -> (Vec<Arc<Policy>>, BySelector) {
    let (mut others, mut selected) = (Vec::new(), BySelector::new());
    for policy in policies {
        match &policy.selector {
            None => others.push(policy.clone()),
            Some(selector) => match selected.iter_mut().find(|(known, _)| known == selector) {
                Some((_, known)) => known.push(policy.clone()),
                None => selected.push((selector.clone(), vec![policy.clone()])),
            },
        }
    }
    (others, selected)
}

/// Of all whose host matches, the most specific host first and of these the oldest, the ones that hold together.
/// `service` is the service's namespace.
pub(super) fn holding(service: &Namespace, candidates: &[Arc<Policy>]) -> PerNamespace<Vec<Arc<Policy>>> {
    let own = std::iter::once(service).filter(|_| !candidates.is_empty());
    let owners = candidates.iter().map(|policy| &policy.namespace);
    let readers = candidates.iter().flat_map(|policy| policy.visible.names());
    PerNamespace::new(own.chain(owners).chain(readers), |client| choose(service, candidates, client))
}

/// The client's own namespace first, then the service's, then the root. `None` is a client in a namespace that no
/// document names.
fn choose(service: &Namespace, candidates: &[Arc<Policy>], client: Option<&Namespace>) -> Vec<Arc<Policy>> {
    let in_root = client.is_some_and(|client| client.as_str() == ROOT_NAMESPACE);
    let of = |namespace: &str, holds: &dyn Fn(&Policy) -> bool| {
        let mut found = candidates.iter().filter(|policy| policy.namespace.as_str() == namespace && holds(policy));
        let first = found.next()?;
        let others = found.filter(|policy| policy.host == first.host);
        Some(std::iter::once(first).chain(others).cloned().collect())
    };
    // What the root exports is for everybody: nearer rules come first even for its own clients.
    let is_private = |policy: &Policy| match &policy.visible {
        Visibility::All => false,
        Visibility::Only(names) => names.len() == 1 && names.contains(&policy.namespace),
    };
    let own = client.and_then(|client| of(client.as_str(), &|policy| !in_root || is_private(policy)));
    let is_seen = |policy: &Policy| policy.visible.includes(client);
    own.or_else(|| of(service.as_str(), &is_seen)).or_else(|| of(ROOT_NAMESPACE, &is_seen)).unwrap_or_default()
}

/// What DestinationRules that hold together say.
pub(super) struct Merged<'a>(pub(super) &'a [Arc<Policy>]);

impl<'a> Merged<'a> {
    /// The oldest of the policies for the whole host.
    fn top(&self) -> Option<&'a TrafficPolicy> {
        self.0.iter().find_map(|policy| policy.rule()?.traffic_policy.as_ref())
    }

    /// All subsets, the oldest of a name.
    pub(super) fn subsets(&self) -> Vec<&'a Subset> {
        let mut subsets: Vec<&'a Subset> = Vec::new();
        for subset in self.0.iter().filter_map(|policy| policy.rule()).flat_map(|rule| &rule.subsets) {
            if !subsets.iter().any(|known| known.name == subset.name) {
                subsets.push(subset);
            }
        }
        subsets
    }

    /// What holds for one port of the whole service, or of a subset.
    pub(super) fn settings(&self, port: u16, subset: Option<&'a Subset>) -> Settings<'a> {
        let of_subset = subset.and_then(|subset| subset.traffic_policy.as_ref());
        let settings = [self.top(), of_subset]
            .into_iter()
            .flatten()
            .fold(Settings::default(), |settings, policy| settings.with(policy, port));
        // As in Istio: a subset does not inherit it.
        let of_tunnel = if subset.is_some() { of_subset } else { self.top() };
        // Those with a selector stand by themselves. Without one a Secret is named for gateways alone, as in Istio.
        let selecting = self.0.first().filter(|policy| policy.selector.is_some());
        Settings {
            tunnel: of_tunnel.and_then(|policy| policy.tunnel.as_ref()),
            credentials: selecting.map(|policy| &policy.namespace),
            ..settings
        }
    }
}

/// What DestinationRules say of the endpoints of one port, block by block.
#[derive(Debug, Default)]
pub(super) struct Settings<'a> {
    load_balancer: Option<&'a LoadBalancerSettings>,
    connection_pool: Option<&'a ConnectionPoolSettings>,
    outlier_detection: Option<&'a OutlierDetection>,
    retry_budget: Option<RetryBudget>,
    tls: Option<&'a ClientTlsSettings>,
    tunnel: Option<&'a TunnelSettings>,
    /// Where `tls` names Secrets, if it may.
    credentials: Option<&'a Namespace>,
}

impl<'a> Settings<'a> {
    /// A nearer policy replaces the blocks that it has. What it says of the port replaces all of them: the blocks that
    /// are missing there are the defaults.
    fn with(self, policy: &'a TrafficPolicy, port: u16) -> Self {
        let of_port = |settings: &&PortTrafficPolicy| settings.port.is_some_and(|of| of.number.number() == port);
        match policy.port_level_settings.iter().find(of_port) {
            Some(settings) => Self {
                load_balancer: settings.load_balancer.as_ref(),
                connection_pool: settings.connection_pool.as_ref(),
                outlier_detection: settings.outlier_detection.as_ref(),
                retry_budget: None,
                tls: settings.tls.as_ref(),
                ..self
            },
            None => Self {
                load_balancer: policy.load_balancer.as_ref().or(self.load_balancer),
                connection_pool: policy.connection_pool.as_ref().or(self.connection_pool),
                outlier_detection: policy.outlier_detection.as_ref().or(self.outlier_detection),
                retry_budget: policy.retry_budget.or(self.retry_budget),
                tls: policy.tls.as_ref().or(self.tls),
                ..self
            },
        }
    }

    pub(super) fn of_cluster(&self, model: &Model<'_>, port: &ServicePort) -> balance::Settings {
        let traffic = model.traffic(port);
        let balancer = match (self.balancer().unwrap_or_else(|| model.affinity()), traffic.and_then(peak_ewma)) {
            (Balancer::LeastRequest, Some(peak_ewma)) => peak_ewma,
            (balancer, _) => balancer,
        };
        balance::Settings {
            balancer,
            preference: self.preference(model),
            outlier: self.outlier_detection.map(outlier),
            panic_percent: self.panic_percent(model.circuit(port)),
            sharing: model.circuit(port).map(Sharing::of).unwrap_or_default(),
            limits: self.limits(),
            warmup: self.load_balancer.and_then(warmup),
            hedging: traffic.and_then(|policy| policy.hedging.as_ref()).map(Hedging::of),
            original: model.original(port),
            is_one_host: false,
            connection: Some(self.connection(model, port))
                .filter(|said| *said != ConnectionSettings::default())
                .map(Arc::new),
        }
    }

    /// 0 is not set, as in Istio, but for `idleTimeout` of `tcp`, where it is never. That one is also for HTTP where
    /// `http` says nothing.
    fn connection(&self, model: &Model<'_>, port: &ServicePort) -> ConnectionSettings {
        let pool = self.connection_pool;
        let (tcp, http) = (pool.and_then(|pool| pool.tcp.as_ref()), pool.and_then(|pool| pool.http.as_ref()));
        let idle_timeout = tcp.and_then(|tcp| tcp.idle_timeout).map(Span::get);
        ConnectionSettings {
            connect_timeout: tcp.and_then(|tcp| tcp.connect_timeout).map(Span::get),
            keepalive: tcp.and_then(|tcp| tcp.tcp_keepalive).map(keepalive),
            max_duration: tcp.and_then(|tcp| tcp.max_connection_duration).map(Span::get),
            idle_timeout,
            http_idle_timeout: http.and_then(|http| http.idle_timeout).map(Span::get).or(idle_timeout),
            max_requests: http.and_then(|http| limit(http.max_requests_per_connection)),
            max_streams: http.and_then(|http| limit(http.max_concurrent_streams)),
            ping: http
                .and_then(|http| http.http2_keep_alive)
                .map(|ping| Ping { interval: ping.interval.get(), timeout: ping.timeout.get() }),
            // Who owns the service says how it is called; no rule of a client may have it called in the clear.
            protection: model
                .protection(port)
                .or_else(|| Protection::read(self.tls?, model.certificate_names(), self.credentials)),
            servers: self.tls.and_then(servers),
            tunnel: self.tunnel.and_then(tunnel),
            version: http.map_or(VersionChoice::Declared, version),
        }
    }

    fn limits(&self) -> Limits {
        let (tcp, http) = self.connection_pool.map_or((None, None), |pool| (pool.tcp.as_ref(), pool.http.as_ref()));
        let budget = self.retry_budget.map(|budget| Retries::Budget {
            percent: budget.percent.map_or(20.0, Share::percent),
            least: budget.min_retry_concurrency.map_or(3, count),
        });
        let most = http.and_then(|http| limit(http.max_retries)).map(Retries::Most);
        Limits {
            connections: tcp.and_then(|tcp| limit(tcp.max_connections)).unwrap_or(Limits::NONE),
            pending: http.and_then(|http| limit(http.http1_max_pending_requests)).unwrap_or(Limits::NONE),
            requests: http.and_then(|http| limit(http.http2_max_requests)).unwrap_or(Limits::NONE),
            retries: budget.or(most).unwrap_or_default(),
        }
    }

    /// What outlierDetection says itself, else the CircuitPolicy; 0, Istio's default, without either.
    fn panic_percent(&self, circuit: Option<&CircuitPolicy>) -> f64 {
        let own = self.outlier_detection.and_then(|detection| detection.min_health_percent);
        match own {
            Some(percent) => percent.get() as f64,
            None => circuit.map_or(0.0, CircuitPolicy::panic_threshold),
        }
    }

    /// Shares hold always; nearness only where outlier detection says when it fails, as in Istio.
    fn preference(&self, model: &Model<'_>) -> Preference {
        let Some(place) = model.here() else { return Preference::None };
        let detects = self.outlier_detection.is_some();
        if let Some(setting) = self.load_balancer.and_then(LoadBalancerSettings::zone_awareness) {
            let clients = model.localities.map(|localities| localities.zones_of(&place.locality.region));
            let min = setting.min_cluster_size.and_then(|size| usize::try_from(size.get()).ok());
            return Preference::Nearest {
                place: place.clone(),
                labels: labels(&setting.failover_priority),
                failover: failover(&setting.failover),
                zones: Some(ZoneAwareness {
                    clients: clients.unwrap_or_default(),
                    min_endpoints: min.unwrap_or(DEFAULT_MIN_ENDPOINTS),
                }),
            };
        }
        let setting = self.load_balancer.and_then(|settings| settings.locality_lb_setting.as_ref());
        let Some(setting) = setting else {
            return match model.distribution() {
                Preference::None if detects => {
                    Preference::Nearest { place: place.clone(), labels: None, failover: Vec::new(), zones: None }
                }
                distribution => distribution,
            };
        };
        if setting.enabled == Some(false) {
            return Preference::None;
        }
        if !setting.distribute.is_empty() {
            let from_here = |share: &&Distribute| LocalityPattern::read(&share.from).covers(&place.locality);
            let Some(share) = setting.distribute.iter().find(from_here) else { return Preference::None };
            let shares = share.to.iter();
            let shares = shares.map(|(to, weight)| (LocalityPattern::read(to), weight.get().unsigned_abs()));
            return Preference::Shares(shares.collect());
        }
        if !detects {
            return Preference::None;
        }
        Preference::Nearest {
            place: place.clone(),
            labels: labels(&setting.failover_priority),
            failover: failover(&setting.failover),
            zones: None,
        }
    }

    /// `None` where no document says it.
    fn balancer(&self) -> Option<Balancer> {
        let settings = self.load_balancer?;
        if let Some(policy) = settings.consistent_hash.as_ref().and_then(hash_policy) {
            return Some(Balancer::Hash(Arc::new(policy)));
        }
        match settings.simple? {
            SimpleLb::RoundRobin => Some(Balancer::RoundRobin),
            SimpleLb::Random => Some(Balancer::Random),
            SimpleLb::LeastConn | SimpleLb::LeastRequest | SimpleLb::Passthrough => Some(Balancer::LeastRequest),
            SimpleLb::Unspecified => None,
        }
    }
}

/// The labels of a `failoverPriority`, each with its value if it has one.
fn labels(priority: &[String]) -> Option<Vec<(String, Option<String>)>> {
    let labels = priority.iter().map(|label| match label.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (label.clone(), None),
    });
    (!priority.is_empty()).then(|| labels.collect())
}

fn failover(failover: &[Failover]) -> Vec<(String, String)> {
    failover.iter().map(|failover| (failover.from.clone(), failover.to.clone())).collect()
}

/// Whether some settings of a rule are zone-aware.
fn is_zone_aware(rule: &DestinationRule) -> bool {
    let of_subsets = rule.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref());
    let of_ports = |policy: &'_ TrafficPolicy| {
        let ports = policy.port_level_settings.iter().map(|settings| &settings.load_balancer);
        std::iter::once(&policy.load_balancer)
            .chain(ports)
            .flatten()
            .any(|settings| settings.zone_awareness().is_some())
    };
    rule.traffic_policy.iter().chain(of_subsets).any(of_ports)
}

fn peak_ewma(policy: &BackendTrafficPolicy) -> Option<Balancer> {
    let decay = policy.load_balancer?.peak_ewma?.decay();
    Some(Balancer::PeakEwma { decay_ms: u64::try_from(decay.as_millis()).unwrap_or(u64::MAX) })
}

/// `None` where no key is named, as in Istio: then it is not consistent hashing.
fn hash_policy(hash: &ConsistentHashLb) -> Option<HashPolicy> {
    let key = if let Some(name) = &hash.http_header_name {
        match PseudoHeader::named(name) {
            Some(name) => HashKey::Pseudo(name),
            // A name that no header can have is in no request, and no key.
            None => HashKey::Header(HeaderName::from_bytes(name.as_bytes()).ok()?),
        }
    } else if let Some(cookie) = &hash.http_cookie {
        let attributes = cookie.attributes.iter();
        let attributes = attributes.map(|attribute| (attribute.name.as_str(), attribute.value.as_str()));
        HashKey::Cookie(CookieKey::new(&cookie.name, &cookie.path, cookie.ttl.map(|ttl| ttl.get()), attributes))
    } else if let Some(name) = &hash.http_query_parameter_name {
        HashKey::Query(name.clone())
    } else if hash.use_source_ip == Some(true) {
        HashKey::SourceIp
    } else {
        return None;
    };
    let min_size = hash.ring_hash.map_or(hash.minimum_ring_size, |ring| ring.minimum_ring_size);
    let min_size = min_size.map(|size| size.get().unsigned_abs()).filter(|size| *size > 0);
    let maglev = hash.maglev.and_then(|maglev| u32::try_from(maglev.table_size?.get()).ok());
    let table = match (maglev, min_size) {
        (Some(size), _) => TableKind::Maglev { size },
        (None, Some(min_size)) => TableKind::Ring { min_size },
        (None, None) => TableKind::DEFAULT,
    };
    Some(HashPolicy { key, table })
}

/// 0 is not set, as in Istio.
fn limit(limit: Option<Limit>) -> Option<u32> {
    limit.and_then(|limit| u32::try_from(limit.get()).ok()).filter(|limit| *limit > 0)
}

/// Names that are none of the mesh's certificates' are none of a workload's.
fn servers(tls: &ClientTlsSettings) -> Option<Arc<[SpiffeId]>> {
    let names = Some(&tls.subject_alt_names).filter(|names| !names.is_empty())?;
    let is_of_mesh = tls.mode == Some(ClientTlsMode::IstioMutual);
    is_of_mesh.then(|| names.iter().filter_map(|name| name.parse().ok()).collect())
}

fn keepalive(keepalive: TcpKeepalive) -> Keepalive {
    Keepalive {
        probes: keepalive.probes.map(count).filter(|probes| *probes > 0),
        time: keepalive.time.map(Span::get),
        interval: keepalive.interval.map(Span::get),
    }
}

fn version(http: &HttpSettings) -> VersionChoice {
    match http.h2_upgrade_policy {
        _ if http.use_client_protocol => VersionChoice::Client,
        Some(H2UpgradePolicy::Upgrade) => VersionChoice::Http2,
        Some(H2UpgradePolicy::Default | H2UpgradePolicy::DoNotUpgrade) | None => VersionChoice::Declared,
    }
}

fn tunnel(tunnel: &TunnelSettings) -> Option<Tunnel> {
    let (host, port) = (&tunnel.target_host, tunnel.target_port.number());
    let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    // A host name or an address, checked when it was read, so it is one.
    Some(Tunnel { target: target.parse().ok()?, by_post: tunnel.protocol == "POST" })
}

/// With Istio's defaults.
fn warmup(settings: &LoadBalancerSettings) -> Option<Warmup> {
    let (duration, least, aggression) = match (&settings.warmup, settings.warmup_duration_secs) {
        (Some(warmup), _) => (warmup.duration, warmup.minimum_percent, warmup.aggression),
        (None, duration) => (duration?, None, None),
    };
    Some(Warmup {
        duration_ms: u64::try_from(duration.get().as_millis()).unwrap_or(u64::MAX),
        least: least.map_or(10.0, Share::percent) / 100.0,
        aggression: aggression.unwrap_or(1.0),
    })
}

fn count(count: Count) -> u32 {
    u32::try_from(count.get()).unwrap_or(u32::MAX)
}

/// With Istio's defaults.
fn outlier(detection: &OutlierDetection) -> OutlierSettings {
    let ms = |span: Option<Timeout>, default: u64| {
        span.map_or(default, |span| u64::try_from(span.get().as_millis()).unwrap_or(u64::MAX))
    };
    let old = detection.consecutive_errors.and_then(|errors| u32::try_from(errors.get()).ok());
    let codes = detection.outlier_detection_http_error_codes.iter();
    let codes: BTreeSet<u16> = codes.filter_map(|code| u16::try_from(code.get()).ok()).collect();
    OutlierSettings {
        error_codes: codes.into_iter().collect(),
        // 0 is off, as with the others.
        failure_percent: detection
            .failure_percentage_threshold
            .and_then(|percent| u32::try_from(percent.get()).ok())
            .filter(|percent| *percent > 0),
        errors: detection.consecutive_5xx_errors.map_or(5, count),
        gateway_errors: detection.consecutive_gateway_errors.map(count).or(old).unwrap_or(0),
        local_failures: detection.consecutive_local_origin_failures.map_or(5, count),
        splits_local: detection.split_external_local_origin_errors,
        interval_ms: ms(detection.interval, 10_000),
        base_ejection_ms: ms(detection.base_ejection_time, 30_000),
        max_ejection_percent: detection.max_ejection_percent.map_or(10, |percent| percent.get().unsigned_abs()),
    }
}
