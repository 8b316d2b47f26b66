//! `node.yaml` as written, and how it becomes a [`Config`].

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZero,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use weft_policy::telemetry::Collector;
use weft_wire::{
    cell::{MAX_WANTS, OWN_LABELS},
    fact::MAX_LABELS,
    frame::MESH_PORT,
    id::{CellName, Locality, Namespace, NodeName, ServiceAccount, ServiceName},
};

use super::{
    AccessLog, AccessLogTo, Config, Limits, ListenerConfig, ListenerProtocol, LogFormat, LogLevel, Logs, MetricsPush,
    Outbound, Seed, ServiceConfig, ServiceSpec, check::Checker, local_ip,
};

/// Ports that weft keeps for itself on every host, so that a listener there cannot collide with another part.
const RESERVED_PORTS: [u16; 7] = [ADMIN_PORT, OUTBOUND_PORT, 15006, MESH_PORT, 15020, 15021, 15053];
const ADMIN_PORT: u16 = 15000;
const OUTBOUND_PORT: u16 = 15001;
/// Labels of a node's record that are weft's own.
const CELL_LABELS: usize = 2;
/// Longest name of a region, zone or subzone.
const MAX_LOCALITY_LEN: usize = 63;

/// `node.yaml` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct NodeSpec {
    name: Option<String>,
    advertise: Option<String>,
    seeds: Vec<String>,
    locality: LocalitySpec,
    labels: BTreeMap<String, String>,
    cell: Option<String>,
    relay: bool,
    wants: Vec<String>,
    logs: LogsSpec,
    access_log: Option<String>,
    access_log_to: Option<String>,
    admin: Option<String>,
    metrics: Option<String>,
    metrics_push: Option<MetricsPushSpec>,
    workers: Option<u64>,
    limits: LimitsSpec,
    services: Vec<ServiceSpec>,
    outbound: OutboundSpec,
    listeners: Vec<ListenerSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LocalitySpec {
    region: String,
    zone: String,
    subzone: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LogsSpec {
    format: Option<String>,
    level: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct LimitsSpec {
    connections: Option<u64>,
    held_mib: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MetricsPushSpec {
    endpoint: String,
    protocol: Option<String>,
    path: Option<String>,
    interval: Option<String>,
    timeout: Option<String>,
    headers: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct OutboundSpec {
    address: Option<String>,
    r#as: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenerSpec {
    listen: String,
    service: String,
    port: u64,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    r#as: Option<String>,
}

/// Who the node is and where it finds others: what `weft init` and `weft join` know.
#[derive(Debug, Default)]
pub(super) struct Origin {
    pub(super) name: Option<NodeName>,
    pub(super) advertise: Option<IpAddr>,
    pub(super) seeds: Vec<Seed>,
}

impl NodeSpec {
    pub(super) fn origin(&self, checker: &mut Checker) -> Origin {
        Origin {
            name: self.name.as_ref().and_then(|name| checker.parse("name", name)),
            advertise: self.advertise.as_ref().and_then(|advertise| checker.address("advertise", advertise)),
            seeds: each(checker, "seeds", &self.seeds, |checker, seed| checker.parse("", seed)),
        }
    }

    /// `None` only if a problem was noted.
    pub(super) fn checked(&self, origin: Origin, name_at: (PathBuf, u64), checker: &mut Checker) -> Option<Config> {
        let local = local_ip(origin.advertise.unwrap_or(Ipv4Addr::LOCALHOST.into()));
        let locality = self.locality.checked(checker);
        checker.labels("labels", &self.labels);
        if let Some(key) = self.labels.keys().find(|key| key.starts_with(OWN_LABELS)) {
            checker.problem::<()>(
                "labels",
                format_args!(
                    "{key:?}: labels that begin with {OWN_LABELS} are weft's own; say `cell` and `relay` instead"
                ),
            );
        }
        if self.labels.len() > MAX_LABELS - CELL_LABELS {
            checker.problem::<()>(
                "labels",
                format_args!("{} labels are more than {}", self.labels.len(), MAX_LABELS - CELL_LABELS),
            );
        }
        let cell = match &self.cell {
            None => Some(CellName::default_cell()),
            Some(name) => checker.parse("cell", name),
        };
        let wants: Vec<ServiceName> = each(checker, "wants", &self.wants, |checker, name| checker.parse("", name));
        if wants.len() + self.listeners.len() > MAX_WANTS {
            let all = wants.len() + self.listeners.len();
            checker.problem::<()>(
                "wants",
                format_args!("{all} services, with those of the listeners, are more than {MAX_WANTS}"),
            );
        }
        let logs = checker.within("logs", |checker| self.logs.checked(checker));
        let access_log = checker.choice(
            "accessLog",
            self.access_log.as_deref().unwrap_or("text"),
            [("text", AccessLog::Text), ("json", AccessLog::Json), ("off", AccessLog::Off)],
        );
        let access_log_to = match self.access_log_to.as_deref().unwrap_or("stdout") {
            "stdout" => Some(AccessLogTo::Stdout),
            "journald" => Some(AccessLogTo::Journald),
            path if path.starts_with('/') && !path.ends_with('/') => Some(AccessLogTo::File(path.into())),
            other => checker.problem(
                "accessLogTo",
                format_args!("{other:?} is neither stdout nor journald nor the absolute path of a file"),
            ),
        };
        let admin = self.admin(local, checker);
        let metrics = match &self.metrics {
            None => Some(None),
            Some(text) => checker.socket("metrics", text).map(Some),
        };
        let metrics_push = match &self.metrics_push {
            None => Some(None),
            Some(push) => checker.within("metricsPush", |checker| push.checked(checker)).map(Some),
        };
        let workers = match self.workers {
            None => Some(std::thread::available_parallelism().map_or(1, NonZero::get)),
            Some(workers) => checker.count("workers", workers).map(|workers| workers as usize),
        };
        let limits = checker.within("limits", |checker| self.limits.checked(checker));
        let services = each(checker, "services", &self.services, |checker, spec| spec.checked(local, checker));
        let outbound = checker.within("outbound", |checker| self.outbound.checked(local, checker));
        let account = outbound.as_ref().and_then(|outbound| outbound.account.clone());
        let listeners = each(checker, "listeners", &self.listeners, |checker, spec| spec.checked(&account, checker));
        // With a problem noted, the lists have holes, and their indices are not those of the file.
        if checker.errors.is_empty() {
            let own = [
                ("admin", admin),
                ("metrics", metrics.flatten()),
                ("outbound.address", outbound.as_ref().map(|outbound| outbound.address)),
            ];
            refuse_duplicates(&services, own, &listeners, checker);
        }
        if origin.advertise.is_none() && self.advertise.is_none() {
            checker.problem::<()>("advertise", "is missing; write the address at which other nodes reach this one");
        }
        Some(Config {
            name: origin.name,
            advertise: origin.advertise?,
            seeds: origin.seeds,
            locality,
            labels: self.labels.clone(),
            cell: cell?,
            relay: self.relay,
            wants: wants.into_iter().collect(),
            logs: logs?,
            access_log: access_log?,
            access_log_to: access_log_to?,
            admin: admin?,
            metrics: metrics?,
            metrics_push: metrics_push?,
            workers: workers?,
            limits: limits?,
            services,
            outbound: outbound?,
            listeners,
            name_at,
        })
    }

    fn admin(&self, local: IpAddr, checker: &mut Checker) -> Option<SocketAddr> {
        let Some(text) = &self.admin else { return Some(SocketAddr::new(local, ADMIN_PORT)) };
        let address = checker.socket("admin", text)?;
        if address.ip().is_loopback() {
            return Some(address);
        }
        checker.problem("admin", format_args!("{address} is not a loopback address; who reaches it rules the node"))
    }
}

impl MetricsPushSpec {
    fn checked(&self, checker: &mut Checker) -> Option<MetricsPush> {
        let place = self.endpoint.rsplit_once(':').and_then(|(host, port)| {
            let host = host.trim_matches(['[', ']']);
            let port = port.parse::<u16>().ok().filter(|port| *port > 0)?;
            let is_host = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
            is_host.then(|| (host.to_owned(), port))
        });
        let Some((host, port)) = place else {
            let text = &self.endpoint;
            return checker
                .problem("endpoint", format_args!("{text:?} is not HOST:PORT; write one such as otel.default:4317"));
        };
        let protocol = self.protocol.as_deref().unwrap_or("grpc");
        let is_http = checker.choice("protocol", protocol, [("grpc", false), ("http", true)])?;
        let path = self.path.as_deref().unwrap_or("/v1/metrics");
        if !path.starts_with('/') || path.parse::<http::uri::PathAndQuery>().is_err() {
            return checker.problem("path", format_args!("{path:?} is not a path; write one such as /v1/metrics"));
        }
        if !is_http && self.path.is_some() {
            return checker.problem("path", "is only for protocol http");
        }
        for (name, value) in &self.headers {
            if name.parse::<http::HeaderName>().is_err() || http::HeaderValue::from_str(value).is_err() {
                return checker
                    .problem("headers", format_args!("{name:?} is no header, or its value is not visible ASCII"));
            }
        }
        let interval = checker.duration("interval", self.interval.as_deref(), Duration::from_secs(15))?;
        if interval < Duration::from_secs(1) {
            return checker.problem("interval", "is below 1s");
        }
        let timeout = checker.duration("timeout", self.timeout.as_deref(), Duration::from_secs(10))?;
        let headers = self.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
        let http_path = is_http.then(|| path.to_owned());
        let namespace = Namespace::default_namespace();
        let collector = Collector { namespace, host, port, http_path, timeout, headers };
        Some(MetricsPush { collector: Arc::new(collector), interval })
    }
}

/// Checks the elements of a list, each under its index.
fn each<S, T>(
    checker: &mut Checker,
    field: &str,
    specs: &[S],
    check: impl Fn(&mut Checker, &S) -> Option<T>,
) -> Vec<T> {
    let checked = specs
        .iter()
        .enumerate()
        .map(|(i, spec)| checker.within(&format!("{field}[{i}]"), |checker| check(checker, spec)));
    checked.collect::<Vec<_>>().into_iter().flatten().collect()
}

impl LimitsSpec {
    fn checked(&self, checker: &mut Checker) -> Option<Limits> {
        let connections = checker.between("connections", self.connections.unwrap_or(16_384), 16..=1_000_000);
        let held_mib = checker.between("heldMib", self.held_mib.unwrap_or(1_024), 16..=1_048_576);
        Some(Limits { connections: usize::try_from(connections?).ok()?, held_bytes: held_mib? << 20 })
    }
}

impl LocalitySpec {
    fn checked(&self, checker: &mut Checker) -> Locality {
        for (field, text) in [("region", &self.region), ("zone", &self.zone), ("subzone", &self.subzone)] {
            if text.len() > MAX_LOCALITY_LEN || text.contains(|c: char| c == '/' || c.is_control()) {
                checker.problem::<()>(
                    &format!("locality.{field}"),
                    format_args!("{text:?} must be {MAX_LOCALITY_LEN} bytes at most, without '/'"),
                );
            }
        }
        Locality { region: self.region.clone(), zone: self.zone.clone(), subzone: self.subzone.clone() }
    }
}

impl LogsSpec {
    fn checked(&self, checker: &mut Checker) -> Option<Logs> {
        use LogLevel::{Debug, Error, Info, Trace, Warn};
        let format = self.format.as_deref().unwrap_or("human");
        let format = checker.choice("format", format, [("human", LogFormat::Human), ("json", LogFormat::Json)]);
        let level = self.level.as_deref().unwrap_or("info");
        let levels = [Error, Warn, Info, Debug, Trace].map(|level| (level.as_str(), level));
        let level = checker.choice("level", level, levels);
        Some(Logs { format: format?, level: level? })
    }
}

impl OutboundSpec {
    fn checked(&self, local: IpAddr, checker: &mut Checker) -> Option<Outbound> {
        let address = match &self.address {
            None => Some(SocketAddr::new(local, OUTBOUND_PORT)),
            Some(address) => checker.socket("address", address),
        };
        let account = account(self.r#as.as_deref(), checker);
        Some(Outbound { address: address?, account: account? })
    }
}

impl ListenerSpec {
    fn checked(&self, default: &Option<ServiceAccount>, checker: &mut Checker) -> Option<ListenerConfig> {
        let listen = checker.socket("listen", &self.listen);
        if let Some(port) = listen.map(|listen| listen.port())
            && RESERVED_PORTS.contains(&port)
        {
            checker.problem::<()>("listen", format_args!("port {port} is one of weft's own; choose another"));
        }
        let service = checker.parse("service", &self.service);
        let port = checker.port("port", self.port);
        let protocol = checker.choice(
            "protocol",
            self.protocol.as_deref().unwrap_or("auto"),
            [("auto", ListenerProtocol::Auto), ("http", ListenerProtocol::Http), ("tcp", ListenerProtocol::Tcp)],
        );
        let account = account(self.r#as.as_deref(), checker)?.or_else(|| default.clone());
        Some(ListenerConfig { listen: listen?, service: service?, port: port?, protocol: protocol?, account })
    }
}

/// `Some(None)` if none is given.
fn account(text: Option<&str>, checker: &mut Checker) -> Option<Option<ServiceAccount>> {
    match text {
        None => Some(None),
        Some(text) => checker.parse("as", text).map(Some),
    }
}

/// Refuses what is fine by itself but not beside another.
fn refuse_duplicates(
    services: &[ServiceConfig],
    own: [(&str, Option<SocketAddr>); 3],
    listeners: &[ListenerConfig],
    checker: &mut Checker,
) {
    let mut workloads = BTreeMap::new();
    for (i, service) in services.iter().enumerate() {
        let workload = (&service.service.namespace, &service.workload);
        if let Some(first) = workloads.insert(workload, i) {
            let problem = format!("{} is services[{first}] already; give each its own `workload`", service.workload);
            checker.problem::<()>(&format!("services[{i}].workload"), problem);
        }
    }
    let mut taken: Vec<(String, SocketAddr)> = Vec::new();
    let own = own.into_iter().filter_map(|(field, address)| Some((field.to_owned(), address?)));
    let listeners =
        listeners.iter().enumerate().map(|(i, listener)| (format!("listeners[{i}].listen"), listener.listen));
    for (field, address) in own.chain(listeners) {
        match taken.iter().find(|(_, other)| collide(*other, address)) {
            Some((other, _)) => _ = checker.problem::<()>(&field, format_args!("{address} is taken by {other}")),
            None => taken.push((field, address)),
        }
    }
}

/// Whether the system would refuse to listen on both.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}
