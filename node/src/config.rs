//! What an operator tells one node, in `node.yaml`. Read whole and checked before any socket opens; every error names
//! the file, the line and the field.

mod check;
mod service;
mod spec;
#[cfg(test)]
mod tests;
mod yaml;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use weft_policy::telemetry::Collector;
use weft_wire::{
    frame::MESH_PORT,
    id::{CellName, Locality, NodeName, ServiceAccount, ServiceName, is_dns_name},
};

pub use check::{FieldError, duration, label_key, label_value};
pub use service::{GrpcProbeSpec, HealthCheckSpec, HttpProbeSpec, ServiceConfig, ServiceSpec, TcpProbeSpec};

use check::Checker;
use spec::NodeSpec;
use yaml::Places;

/// The configuration that `weft init` and `weft join` write, in the node's directory.
pub const FILE_NAME: &str = "node.yaml";
/// The configuration of one node, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name, if the file has one. The identity decides; see [`Config::confirm_name`].
    pub name: Option<NodeName>,
    /// Where peers reach the node, and where it binds the mesh port.
    pub advertise: IpAddr,
    pub seeds: Vec<Seed>,
    pub locality: Locality,
    pub labels: BTreeMap<String, String>,
    /// With whom the node gossips.
    pub cell: CellName,
    /// Whether it holds links with relays of other cells.
    pub relay: bool,
    /// Services of other cells that are called from here, besides those of the listeners.
    pub wants: BTreeSet<ServiceName>,
    pub logs: Logs,
    pub access_log: AccessLog,
    pub access_log_to: AccessLogTo,
    /// A loopback address.
    pub admin: SocketAddr,
    /// Where scrapers of other hosts read `/metrics`, and nothing else of the admin API; nowhere if absent.
    pub metrics: Option<SocketAddr>,
    /// Where metrics are sent, and how often; nowhere if absent.
    pub metrics_push: Option<MetricsPush>,
    /// Threads of the data path.
    pub workers: usize,
    pub limits: Limits,
    pub services: Vec<ServiceConfig>,
    pub outbound: Outbound,
    pub listeners: Vec<ListenerConfig>,
    name_at: (PathBuf, u64),
}

/// A collector of OpenTelemetry that is told this node's metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsPush {
    pub collector: Arc<Collector>,
    pub interval: Duration,
}

/// What all callers together may cost the data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of each listening address.
    pub connections: usize,
    /// Bytes held for slow peers, on all workers.
    pub held_bytes: u64,
}

/// The listener that local clients send to by name or as to a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    pub address: SocketAddr,
    /// Whom its clients call as.
    pub account: Option<ServiceAccount>,
}

/// A local address that stands for one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    pub listen: SocketAddr,
    pub service: ServiceName,
    pub port: u16,
    pub protocol: ListenerProtocol,
    /// Whom its clients call as: the listener's own `as`, else that of `outbound`.
    pub account: Option<ServiceAccount>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerProtocol {
    /// That of the service's port.
    Auto,
    Http,
    Tcp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logs {
    pub format: LogFormat,
    pub level: LogLevel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Human,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Where this node logs requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTo {
    Stdout,
    Journald,
    /// An absolute path.
    File(PathBuf),
}

/// How the line that each request leaves is written, where no document says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    Text,
    Json,
    Off,
}

/// A node to gossip with first: `HOST:PORT`, or an address or host alone for port 15008.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    pub host: String,
    pub port: u16,
}

impl FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).filter(|text| text.contains(':'));
        if let Ok(ip) = bare.unwrap_or(text).parse::<IpAddr>() {
            return Ok(Self { host: ip.to_string(), port: MESH_PORT });
        }
        if let Ok(address) = text.parse::<SocketAddr>()
            && address.port() > 0
        {
            return Ok(Self { host: address.ip().to_string(), port: address.port() });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0)),
            None => (text, Some(MESH_PORT)),
        };
        match port {
            Some(port) if is_dns_name(host) => Ok(Self { host: host.to_owned(), port }),
            _ => Err(format!("{text:?} is not a seed; write IP, HOST or HOST:PORT (port {MESH_PORT} if none)")),
        }
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => write!(f, "{}", SocketAddr::new(ip, self.port)),
            Err(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("there is no {0}; run `weft init` or `weft join` first, or name a file with -c")]
    Missing(PathBuf),
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{}", first_of(.0))]
    Invalid(Vec<Complaint>),
}

/// What is wrong, and where: `node.yaml:12: services[0].port: …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    pub file: PathBuf,
    /// 0 if it is about no line in particular.
    pub line: u64,
    pub error: FieldError,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:", self.line)?;
        }
        write!(f, " {}", self.error)
    }
}

/// The first of several things that are wrong, and how many more there are: errors are one line.
pub fn first_of<T: fmt::Display>(problems: &[T]) -> String {
    match problems {
        [] => String::new(),
        [only] => only.to_string(),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
    }
}

impl Config {
    /// Reads `file`, or `dir/node.yaml` if none is named. Name, advertise address and seeds that `file` does not have
    /// come from `dir/node.yaml`.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] lists all that is wrong with the file, or the first thing if it cannot be parsed.
    pub fn load(file: Option<&Path>, dir: &Path) -> Result<Self, ConfigError> {
        let of_dir = dir.join(FILE_NAME);
        let path = file.unwrap_or(&of_dir);
        let Some((spec, places)) = read(path)? else { return Err(ConfigError::Missing(path.to_owned())) };
        let mut checker = Checker::default();
        let mut origin = spec.origin(&mut checker);
        if path != of_dir
            && let Some((other, other_places)) = read(&of_dir)?
        {
            let mut checker = Checker::default();
            let other = other.origin(&mut checker);
            let other = checker.finish(Some(other)).map_err(|errors| invalid(&of_dir, &other_places, errors))?;
            origin.name = origin.name.or(other.name);
            origin.advertise = origin.advertise.or(other.advertise);
            if origin.seeds.is_empty() {
                origin.seeds = other.seeds;
            }
        }
        let name_at = (path.to_owned(), places.line("name"));
        let config = spec.checked(origin, name_at, &mut checker);
        checker.finish(config).map_err(|errors| invalid(path, &places, errors))
    }

    /// The text of a first `node.yaml`: what is known, and what could be there as comments.
    pub fn starter(name: &NodeName, advertise: IpAddr, seeds: &[Seed], cell: Option<&CellName>, relay: bool) -> String {
        let seeds = seeds.iter().map(|seed| format!("{:?}", seed.to_string())).collect::<Vec<_>>().join(", ");
        let said = |is_said| if is_said { "" } else { "# " };
        let name_of_cell = cell.map_or("default", CellName::as_str);
        let cell = format!("{}cell: {name_of_cell}\n{}relay: true", said(cell.is_some()), said(relay));
        format!(include_str!("config/starter.yaml"), name = name, advertise = advertise, seeds = seeds, cell = cell)
    }

    /// The services of other cells of which this node needs the endpoints.
    pub fn wants(&self) -> BTreeSet<ServiceName> {
        self.wants.iter().chain(self.listeners.iter().map(|listener| &listener.service)).cloned().collect()
    }

    /// Checks that the file means the node whose identity lies in the directory.
    ///
    /// # Errors
    /// If the file has another name.
    pub fn confirm_name(&self, identity: &NodeName) -> Result<(), ConfigError> {
        match &self.name {
            Some(name) if name != identity => {
                let problem =
                    format!("{name} is not this node; its identity is {identity}'s, so write that or nothing");
                let error = FieldError { field: "name".into(), problem };
                let (file, line) = self.name_at.clone();
                Err(ConfigError::Invalid(vec![Complaint { file, line, error }]))
            }
            _ => Ok(()),
        }
    }

    /// Where the node listens for its own host. See [`local_ip`].
    pub fn local_ip(&self) -> IpAddr {
        local_ip(self.advertise)
    }
}

/// The address for what only the node's own host may reach: the advertised one if that is a loopback address, so that
/// several nodes on one host (127.0.0.2, 127.0.0.3, …) do not collide, else 127.0.0.1.
pub fn local_ip(advertise: IpAddr) -> IpAddr {
    if advertise.is_loopback() { advertise } else { Ipv4Addr::LOCALHOST.into() }
}

/// Parses a file; `None` if there is none.
fn read(path: &Path) -> Result<Option<(NodeSpec, Places)>, ConfigError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
    };
    let parsed = yaml::parse(&text)
        .map_err(|(line, error)| ConfigError::Invalid(vec![Complaint { file: path.to_owned(), line, error }]))?;
    Ok(Some(parsed))
}

fn invalid(file: &Path, places: &Places, errors: Vec<FieldError>) -> ConfigError {
    let complaint = |error: FieldError| Complaint { file: file.to_owned(), line: places.line(&error.field), error };
    ConfigError::Invalid(errors.into_iter().map(complaint).collect())
}
