//! Kubernetes' core group, `v1`: the parts that a mesh reads.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Deserialize;
use weft_wire::{
    fact::Protocol,
    id::{AccountName, is_dns_name},
};

use crate::{
    api::values::{Labels, Port},
    document::Checker,
    kinds::Resource,
};

/// Narrows who may serve a service: names of service accounts in its namespace, joined by commas.
pub(crate) const ACCOUNTS_ANNOTATION: &str = "weft.mesh/service-accounts";

/// A namespace has nothing but its header, whose labels others select by.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Namespace {
    spec: Option<NamespaceSpec>,
}

/// What a Kubernetes server writes into each.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct NamespaceSpec {
    finalizers: Vec<String>,
}

impl Resource for Namespace {
    fn check(&self, _: &mut Checker<'_>) {}
}

/// An identity that workloads run as.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServiceAccount {
    automount_service_account_token: Option<bool>,
}

impl Resource for ServiceAccount {
    fn check(&self, checker: &mut Checker<'_>) {
        if self.automount_service_account_token.is_some() {
            checker.warn_in("automountServiceAccountToken", "has no effect: workloads have certificates, not tokens");
        }
    }
}

/// The name, ports and selector of a service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Service {
    pub ports: Vec<ServicePort>,
    /// Workloads with all of these labels belong to the service; empty selects none.
    pub selector: Labels,
    #[serde(rename = "type")]
    pub kind: Option<ServiceType>,
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Option<Vec<String>>,
    pub internal_traffic_policy: Option<TrafficPolicy>,
    pub ip_families: Option<Vec<String>>,
    pub ip_family_policy: Option<String>,
    pub session_affinity: Option<SessionAffinity>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ServiceType {
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum TrafficPolicy {
    Cluster,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum SessionAffinity {
    None,
}

#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePort {
    pub port: Port,
    /// Needed where there are several. Its start names the protocol, such as `http-web`.
    #[serde(default)]
    pub name: String,
    /// The workloads' own port.
    #[serde(default)]
    pub target_port: Option<Port>,
    #[serde(default)]
    pub protocol: Option<TransportProtocol>,
    #[serde(default)]
    pub app_protocol: Option<String>,
    #[serde(default)]
    pub node_port: Option<Port>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum TransportProtocol {
    Tcp,
}

impl ServicePort {
    /// What is spoken there; `None` where neither name nor `appProtocol` says it: each workload's own word holds.
    pub(crate) fn spoken(&self) -> Option<Protocol> {
        self.app_protocol.as_deref().and_then(protocol_named).or_else(|| protocol_of_port_name(&self.name))
    }
}

/// Istio's rule: `PROTOCOL` or `PROTOCOL-SUFFIX`.
fn protocol_of_port_name(name: &str) -> Option<Protocol> {
    if name == "grpc-web" || name.starts_with("grpc-web-") {
        return protocol_named("grpc-web");
    }
    protocol_named(name.split('-').next().unwrap_or_default())
}

/// What a protocol's name means. TLS of the application's own, and protocols that weft does not read, pass as TCP.
pub(crate) fn protocol_named(name: &str) -> Option<Protocol> {
    match name.to_ascii_lowercase().as_str() {
        // gRPC-Web is framed for HTTP/1.1.
        "http" | "kubernetes.io/ws" | "grpc-web" => Some(Protocol::Http),
        "http2" | "kubernetes.io/h2c" => Some(Protocol::Http2),
        "grpc" => Some(Protocol::Grpc),
        "https" | "kubernetes.io/wss" | "tls" | "tcp" | "mongo" | "mysql" | "redis" => Some(Protocol::Tcp),
        _ => None,
    }
}

const MESH_ONLY: &str = "has no effect: the service is reached within the mesh only";
const NO_ADDRESS: &str = "has no effect: clients dial services by name, not by address";

impl Service {
    /// The accounts that may serve it, from its annotation; `None` is any of its namespace.
    pub(crate) fn accounts(
        annotations: &std::collections::BTreeMap<String, String>,
    ) -> Result<Option<Vec<AccountName>>, String> {
        let Some(text) = annotations.get(ACCOUNTS_ANNOTATION) else { return Ok(None) };
        let parse = |name: &str| {
            name.trim().parse::<AccountName>().map_err(|error| format!("annotation {ACCOUNTS_ANNOTATION}: {error}"))
        };
        text.split(',').map(parse).collect::<Result<_, _>>().map(Some)
    }
}

impl Resource for Service {
    fn check(&self, checker: &mut Checker<'_>) {
        if matches!(self.kind, Some(ServiceType::NodePort | ServiceType::LoadBalancer)) {
            checker.warn_in("type", MESH_ONLY);
        }
        for (key, given) in [
            ("clusterIP", self.cluster_ip.is_some()),
            ("clusterIPs", self.cluster_ips.is_some()),
            ("ipFamilies", self.ip_families.is_some()),
            ("ipFamilyPolicy", self.ip_family_policy.is_some()),
        ] {
            if given {
                checker.warn_in(key, NO_ADDRESS);
            }
        }
        if self.ports.is_empty() {
            checker.error_in("ports", "needs at least one port");
        }
        let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
        let several = self.ports.len() > 1;
        checker.each("ports", &self.ports, |checker, port| {
            if !numbers.insert(port.port) {
                checker.error(format!("port {} is given twice", port.port.get()));
            }
            if several && port.name.is_empty() {
                checker.error("needs a name: the service has several ports");
            }
            if !port.name.is_empty() && !names.insert(port.name.clone()) {
                checker.error(format!("the name {} is given twice", port.name));
            }
            if !port.name.is_empty() && !is_dns_name(&port.name) {
                checker.error_in("name", "must be a DNS name: a-z, 0-9 and '-'");
            }
            if port.app_protocol.as_deref().is_some_and(|name| protocol_named(name).is_none()) {
                checker.error_in(
                    "appProtocol",
                    "is not one of http, http2, kubernetes.io/h2c, kubernetes.io/ws, grpc, grpc-web, https, tls, tcp",
                );
            }
            if port.node_port.is_some() {
                checker.warn_in("nodePort", MESH_ONLY);
            }
        });
        if let Err(what) = Self::accounts(&checker.header.annotations) {
            checker.error(what);
        }
    }
}
