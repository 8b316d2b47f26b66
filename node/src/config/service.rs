//! A hosted service: as written in `node.yaml` or given to `weft run` ([`ServiceSpec`]), and as checked
//! ([`ServiceConfig`]).

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use http::{
    HeaderMap, HeaderName, HeaderValue, header,
    uri::{Authority, PathAndQuery},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_wire::{
    fact::Protocol,
    id::{AccountName, Namespace, ServiceAccount, ServiceLabel, ServiceName, WorkloadName},
};

use super::{
    FieldError,
    check::{Checker, label_value},
};
use crate::health::{HealthCheck, HttpProbe, Probe, Statuses};

/// Headers that say how a request is sent.
const OF_CONNECTION: [HeaderName; 4] =
    [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE];

/// A workload that this node hosts for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceConfig {
    pub service: ServiceName,
    /// In the service's namespace.
    pub service_account: AccountName,
    pub workload: WorkloadName,
    /// Istio's `version` label, or empty.
    pub version: String,
    pub labels: BTreeMap<String, String>,
    /// Where the workload listens, with `target_port`.
    pub address: IpAddr,
    /// The service's port, which clients name.
    pub port: u16,
    pub target_port: u16,
    pub protocol: Protocol,
    /// Without one the workload counts as healthy.
    pub health_check: Option<HealthCheck>,
}

impl ServiceConfig {
    /// Whom the workload runs as.
    pub fn account(&self) -> ServiceAccount {
        ServiceAccount { namespace: self.service.namespace.clone(), name: self.service_account.clone() }
    }
}

/// A service before it is checked.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceSpec {
    pub name: String,
    #[serde(default)]
    pub namespace: Option<String>,
    #[serde(default)]
    pub service_account: Option<String>,
    #[serde(default)]
    pub workload: Option<String>,
    #[serde(default)]
    pub version: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub address: Option<String>,
    pub port: u64,
    #[serde(default)]
    pub target_port: Option<u64>,
    #[serde(default)]
    pub protocol: Option<String>,
    #[serde(default)]
    pub health_check: Option<HealthCheckSpec>,
}

/// A health check before it is checked: exactly one of `http`, `grpc`, `tcp` and `command`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct HealthCheckSpec {
    pub http: Option<HttpProbeSpec>,
    pub grpc: Option<GrpcProbeSpec>,
    pub tcp: Option<TcpProbeSpec>,
    pub command: Option<Vec<String>>,
    pub interval: Option<String>,
    pub timeout: Option<String>,
    pub unhealthy_after: Option<u64>,
    pub healthy_after: Option<u64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpProbeSpec {
    /// `/` if absent.
    pub path: Option<String>,
    /// The target port if absent.
    pub port: Option<u64>,
    /// Of the Host header; the address and port if absent.
    pub host: Option<String>,
    pub headers: BTreeMap<String, String>,
    /// Such as `200-299,404`; `200-399` if absent.
    pub statuses: Option<StatusesSpec>,
}

/// One status is a number in YAML.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum StatusesSpec {
    One(u64),
    Text(String),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GrpcProbeSpec {
    /// The server as a whole if absent.
    pub service: Option<String>,
    /// The target port if absent.
    pub port: Option<u64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TcpProbeSpec {
    /// The target port if absent.
    pub port: Option<u64>,
}

impl ServiceSpec {
    /// Checks a service and fills in what it leaves out.
    ///
    /// # Errors
    /// Everything that is wrong with it, with fields named as in `node.yaml`.
    pub fn check(&self, default_address: IpAddr) -> Result<ServiceConfig, Vec<FieldError>> {
        let mut checker = Checker::default();
        let service = self.checked(default_address, &mut checker);
        checker.finish(service)
    }

    /// `None` only if a problem was noted.
    pub(super) fn checked(&self, default_address: IpAddr, checker: &mut Checker) -> Option<ServiceConfig> {
        let name = checker.parse::<ServiceLabel>("name", &self.name);
        let namespace = checker.parse::<Namespace>("namespace", self.namespace.as_deref().unwrap_or("default"));
        let service_account = self.service_account.as_deref().unwrap_or("default");
        let service_account = checker.parse::<AccountName>("serviceAccount", service_account);
        let version = self.version.clone().unwrap_or_default();
        checker.require("version", label_value(&version));
        let workload = self.workload.clone().unwrap_or_else(|| default_workload(&self.name, &version));
        // A bad name has been noted already; the workload's name that it leads to would only repeat it.
        let workload = (name.is_some() || self.workload.is_some())
            .then(|| checker.parse::<WorkloadName>("workload", &workload))
            .flatten();
        checker.labels("labels", &self.labels);
        let address = match &self.address {
            None => Some(default_address),
            Some(address) => checker.address("address", address),
        };
        let port = checker.port("port", self.port);
        let target_port = self.target_port.map_or(port, |target| checker.port("targetPort", target));
        let protocol = checker.choice(
            "protocol",
            self.protocol.as_deref().unwrap_or("auto"),
            [Protocol::Auto, Protocol::Http, Protocol::Http2, Protocol::Grpc, Protocol::Tcp].map(|p| (p.as_str(), p)),
        );
        let health_check = match &self.health_check {
            None => None,
            Some(spec) => Some(checker.within("healthCheck", |checker| spec.checked(target_port, checker))?),
        };
        Some(ServiceConfig {
            service: ServiceName { namespace: namespace?, name: name? },
            service_account: service_account?,
            workload: workload?,
            version,
            labels: self.labels.clone(),
            address: address?,
            port: port?,
            target_port: target_port?,
            protocol: protocol?,
            health_check,
        })
    }
}

/// `reviews-v1` for version `v1` of `reviews`. Versions may hold characters that workload names may not.
fn default_workload(service: &str, version: &str) -> String {
    if version.is_empty() {
        return service.to_owned();
    }
    format!("{service}-{}", version.to_lowercase().replace(['.', '_'], "-"))
}

impl HealthCheckSpec {
    fn checked(&self, target_port: Option<u16>, checker: &mut Checker) -> Option<HealthCheck> {
        let probe = match (&self.http, &self.grpc, &self.tcp, &self.command) {
            (Some(http), None, None, None) => checker.within("http", |checker| http.checked(target_port, checker)),
            (None, Some(grpc), None, None) => checker.within("grpc", |checker| {
                let port = grpc.port.map_or(target_port, |port| checker.port("port", port));
                Some(Probe::Grpc { service: grpc.service.clone().unwrap_or_default(), port: port? })
            }),
            (None, None, Some(tcp), None) => checker.within("tcp", |checker| {
                Some(Probe::Tcp { port: tcp.port.map_or(target_port, |port| checker.port("port", port))? })
            }),
            (None, None, None, Some(command)) if command.first().is_some_and(|program| !program.is_empty()) => {
                Some(Probe::Command(command.clone()))
            }
            (None, None, None, Some(_)) => checker.problem("command", "names no program; write [PROGRAM, ARGUMENT, …]"),
            _ => checker.problem("", "needs exactly one of http, grpc, tcp and command"),
        };
        let interval = checker.duration("interval", self.interval.as_deref(), Duration::from_secs(2));
        let timeout = checker.duration("timeout", self.timeout.as_deref(), Duration::from_secs(1));
        let unhealthy_after = checker.count("unhealthyAfter", self.unhealthy_after.unwrap_or(3));
        let healthy_after = checker.count("healthyAfter", self.healthy_after.unwrap_or(1));
        Some(HealthCheck {
            probe: probe?,
            interval: interval?,
            timeout: timeout?,
            unhealthy_after: unhealthy_after?,
            healthy_after: healthy_after?,
        })
    }
}

impl HttpProbeSpec {
    fn checked(&self, target_port: Option<u16>, checker: &mut Checker) -> Option<Probe> {
        let path = self.path.as_deref().unwrap_or("/");
        let is_path = path.starts_with('/') && path.parse::<PathAndQuery>().is_ok();
        let no_path = || format!("{path:?} is not a path; write one such as /health");
        checker.require("path", is_path.then_some(()).ok_or_else(no_path));
        let port = self.port.map_or(target_port, |port| checker.port("port", port));
        let host = match &self.host {
            None => Some(None),
            Some(host) if !host.contains('@') && host.parse::<Authority>().is_ok() => Some(host.parse().ok()),
            Some(host) => checker.problem("host", format_args!("{host:?} is not HOST or HOST:PORT")),
        };
        let mut headers = HeaderMap::new();
        checker.within("headers", |checker| {
            for (name, value) in &self.headers {
                let result = match (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
                    (Ok(header::HOST), _) => Err("has a field of its own, http.host".to_owned()),
                    (Ok(name), _) if OF_CONNECTION.contains(&name) => Err("is not for you to set".to_owned()),
                    (Ok(name), Ok(value)) => {
                        headers.insert(name, value);
                        Ok(())
                    }
                    _ => Err("not a name and a value of a header".to_owned()),
                };
                checker.require(name, result);
            }
        });
        let statuses = match &self.statuses {
            None => Ok(Statuses::default()),
            Some(StatusesSpec::One(status)) => Statuses::read(&status.to_string()),
            Some(StatusesSpec::Text(text)) => Statuses::read(text),
        };
        let statuses = match statuses {
            Ok(statuses) => Some(statuses),
            Err(what) => checker.problem("statuses", what),
        };
        let (port, host, statuses) = (port?, host?, statuses?);
        Some(Probe::Http(Box::new(HttpProbe { path: path.to_owned(), port, host, headers, statuses })))
    }
}
