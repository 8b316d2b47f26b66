//! Kubernetes' core group, `v1`: the parts that a mesh reads.

mod config_map;
pub(crate) mod credential;
mod secret;
mod secret_head;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{self, IntoDeserializer, Visitor},
};
use weft_wire::{
    fact::Protocol,
    id::{AccountName, is_dns_name, is_label},
};

use crate::{
    api::values::{Int, Labels, Port, PortOrZero, is_qualified_name},
    document::Checker,
    kinds::Resource,
};

pub(crate) use self::secret_head::CONTENT;
pub use self::{
    config_map::ConfigMap,
    secret::{Base64, Secret, SecretBase64, SecretText},
    secret_head::{ContentHead, CredentialHead, SecretHead},
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
    image_pull_secrets: Vec<LocalObjectReference>,
    secrets: Vec<ObjectReference>,
}

/// Names an object of the document's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LocalObjectReference {
    pub name: String,
}

/// Names an object of Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ObjectReference {
    pub api_version: String,
    pub field_path: String,
    pub kind: String,
    pub name: String,
    pub namespace: String,
    pub resource_version: String,
    pub uid: String,
}

impl Resource for ServiceAccount {
    fn check(&self, checker: &mut Checker<'_>) {
        for (key, given) in [
            ("automountServiceAccountToken", self.automount_service_account_token.is_some()),
            ("imagePullSecrets", !self.image_pull_secrets.is_empty()),
            ("secrets", !self.secrets.is_empty()),
        ] {
            if given {
                checker.warn_in(key, "has no effect: workloads have certificates, not tokens or images");
            }
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
    pub cluster_ips: Vec<String>,
    pub internal_traffic_policy: Option<TrafficPolicy>,
    pub ip_families: Vec<IpFamily>,
    pub ip_family_policy: Option<IpFamilyPolicy>,
    /// `ClientIP`: one client's connections go to one workload.
    pub session_affinity: Option<SessionAffinity>,
    pub session_affinity_config: Option<SessionAffinityConfig>,
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<String>,
    /// The host that an `ExternalName` stands for.
    pub external_name: String,
    pub external_traffic_policy: Option<TrafficPolicy>,
    pub health_check_node_port: Option<PortOrZero>,
    pub publish_not_ready_addresses: bool,
    pub allocate_load_balancer_node_ports: Option<bool>,
    pub load_balancer_class: Option<String>,
    #[serde(rename = "loadBalancerIP")]
    pub load_balancer_ip: String,
    pub load_balancer_source_ranges: Vec<String>,
    /// Which workloads are preferred.
    pub traffic_distribution: Option<TrafficDistribution>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum ServiceType {
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum TrafficPolicy {
    Cluster,
    /// Only to workloads of the client's own host.
    Local,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
pub enum IpFamily {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum IpFamilyPolicy {
    SingleStack,
    PreferDualStack,
    RequireDualStack,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum SessionAffinity {
    None,
    #[serde(rename = "ClientIP")]
    ClientIp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SessionAffinityConfig {
    #[serde(rename = "clientIP")]
    pub client_ip: Option<ClientIpConfig>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClientIpConfig {
    /// 10,800 if absent.
    pub timeout_seconds: Option<Int<1, 86_400>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum TrafficDistribution {
    /// As `PreferSameZone`.
    PreferClose,
    PreferSameZone,
    PreferSameNode,
}

#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePort {
    pub port: Port,
    /// Needed where there are several. Its start names the protocol, such as `http-web`.
    #[serde(default)]
    pub name: String,
    /// The workloads' own port, or its name.
    #[serde(default)]
    pub target_port: Option<TargetPort>,
    #[serde(default)]
    pub protocol: Option<TransportProtocol>,
    #[serde(default)]
    pub app_protocol: Option<String>,
    #[serde(default)]
    pub node_port: Option<PortOrZero>,
}

/// A port of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    Number(Port),
    Name(String),
}

impl<'de> Deserialize<'de> for TargetPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrName;
        impl Visitor<'_> for NumberOrName {
            type Value = TargetPort;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number from 1 to 65535, or the name of a port: 1 to 15 of a-z, 0-9 and '-'")
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<TargetPort, E> {
                let port = Port::deserialize(number.into_deserializer());
                port.map(TargetPort::Number).map_err(|_: E| E::invalid_value(de::Unexpected::Signed(number), &self))
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<TargetPort, E> {
                if is_port_name(name) {
                    Ok(TargetPort::Name(name.to_owned()))
                } else {
                    Err(E::invalid_value(de::Unexpected::Str(name), &self))
                }
            }
        }
        deserializer.deserialize_any(NumberOrName)
    }
}

impl JsonSchema for TargetPort {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "TargetPort".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": 65535 },
            { "type": "string", "minLength": 1, "maxLength": 15 },
        ] })
    }
}

/// The name of a workload's port (RFC 6335): a letter at least, and no two hyphens in a row.
fn is_port_name(name: &str) -> bool {
    name.len() <= 15 && is_label(name) && !name.contains("--") && name.bytes().any(|b| b.is_ascii_lowercase())
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum TransportProtocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
    /// Refused. It is often an application's protocol, whose place is `appProtocol`, and the rest can be analysed.
    #[serde(other)]
    #[schemars(skip)]
    Other,
}

impl TransportProtocol {
    /// Checks the field `protocol`.
    pub(crate) fn check(self, checker: &mut Checker<'_>) {
        if self == Self::Other {
            checker.error_in("protocol", "must be TCP, UDP or SCTP; an application's protocol goes into appProtocol");
        }
    }
}

impl ServicePort {
    pub(crate) fn transport(&self) -> TransportProtocol {
        self.protocol.unwrap_or_default()
    }

    /// What is spoken there; `None` where neither `appProtocol` nor the name says it: each workload's own word holds.
    pub(crate) fn spoken(&self) -> Option<Protocol> {
        match self.app_protocol.as_deref() {
            Some(name) => protocol_named(name),
            None => protocol_of_port_name(&self.name),
        }
    }

    /// The workloads' own port, where it is given by number.
    pub(crate) fn target_number(&self) -> Option<u16> {
        match self.target_port {
            Some(TargetPort::Number(port)) => Some(port.number()),
            Some(TargetPort::Name(_)) | None => None,
        }
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

/// The `clusterIP` of a service that clients reach workload by workload.
const HEADLESS: &str = "None";

const MESH_ONLY: &str = "has no effect: the service is reached within the mesh only";
const NO_ADDRESS: &str = "has no effect: clients dial services by name, not by address";

impl Service {
    /// The accounts that may serve it, from its annotation; `None` is any of its namespace.
    pub(crate) fn accounts(annotations: &BTreeMap<String, String>) -> Result<Option<Vec<AccountName>>, String> {
        let Some(text) = annotations.get(ACCOUNTS_ANNOTATION) else { return Ok(None) };
        let parse = |name: &str| {
            name.trim().parse::<AccountName>().map_err(|error| format!("annotation {ACCOUNTS_ANNOTATION}: {error}"))
        };
        text.split(',').map(parse).collect::<Result<_, _>>().map(Some)
    }
}

impl Resource for Service {
    fn check(&self, checker: &mut Checker<'_>) {
        self.check_ports(checker);
        self.check_addresses(checker);
        self.check_external(checker);
        self.check_affinity(checker);
        if let Err(what) = Self::accounts(&checker.header.annotations) {
            checker.error(what);
        }
    }
}

impl Service {
    /// The host that it stands for, if it has that type.
    pub(crate) fn external_name(&self) -> Option<&str> {
        (self.kind() == ServiceType::ExternalName).then_some(self.external_name.as_str())
    }

    fn kind(&self) -> ServiceType {
        self.kind.unwrap_or_default()
    }

    /// Whether clients are meant to dial the workloads themselves.
    fn is_headless(&self) -> bool {
        self.cluster_ip.as_deref() == Some(HEADLESS) || self.cluster_ips.iter().any(|ip| ip == HEADLESS)
    }

    fn check_ports(&self, checker: &mut Checker<'_>) {
        if self.ports.is_empty() && !self.is_headless() && self.kind() != ServiceType::ExternalName {
            checker.error_in("ports", "needs at least one port");
        }
        let (mut numbers, mut names, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let several = self.ports.len() > 1;
        checker.each("ports", &self.ports, |checker, port| {
            if !numbers.insert((port.port, port.transport())) {
                checker.error(format!("port {} is given twice", port.port.get()));
            }
            if several && port.name.is_empty() {
                checker.error("needs a name: the service has several ports");
            }
            if !port.name.is_empty() && !names.insert(port.name.clone()) {
                checker.error(format!("the name {} is given twice", port.name));
            }
            if !port.name.is_empty() && !is_label(&port.name) {
                checker.error_in("name", "must be a DNS label: a-z, 0-9 and '-'");
            }
            checker.given("appProtocol", &port.app_protocol, |checker, name| {
                if !is_qualified_name(name) {
                    checker.error(format!("{name:?} must be [DNS name/]letters, digits, '-', '_', '.'"));
                } else if protocol_named(name).is_none() {
                    checker.warn(&format!("{name} is not known: each workload says what it speaks"));
                }
            });
            let node_port = port.node_port.map_or(0, PortOrZero::get);
            if node_port != 0 {
                match self.kind() {
                    ServiceType::NodePort | ServiceType::LoadBalancer => checker.warn_in("nodePort", MESH_ONLY),
                    _ => checker.error_in("nodePort", "is only for the types NodePort and LoadBalancer"),
                }
                if !node_ports.insert((node_port, port.transport())) {
                    checker.error_in("nodePort", format!("{node_port} is given twice"));
                }
            }
            port.transport().check(checker);
            if let Some(TargetPort::Name(name)) = &port.target_port {
                let what = "is not looked up: hosts announce which port of a workload serves which port of a service";
                checker.warn_in("targetPort", &format!("{name} {what}"));
            }
            checker.pending("protocol", port.transport() != TransportProtocol::Tcp);
        });
    }

    fn check_addresses(&self, checker: &mut Checker<'_>) {
        let (kind, cluster_ip) = (self.kind(), self.cluster_ip.as_deref().unwrap_or_default());
        if kind == ServiceType::ExternalName && (!cluster_ip.is_empty() || !self.cluster_ips.is_empty()) {
            checker.error_in("clusterIP", "must not be given with type ExternalName");
        }
        if self.is_headless() && matches!(kind, ServiceType::NodePort | ServiceType::LoadBalancer) {
            checker.error_in("clusterIP", "must not be None with the types NodePort and LoadBalancer");
        }
        let is_cluster_ip = |ip: &str| ip == HEADLESS || ip.parse::<IpAddr>().is_ok();
        if !cluster_ip.is_empty() && !is_cluster_ip(cluster_ip) {
            checker.error_in("clusterIP", format!("{cluster_ip:?} must be an IP address, None or empty"));
        }
        checker.limit("clusterIPs", self.cluster_ips.len(), 2);
        checker.each("clusterIPs", &self.cluster_ips, |checker, ip| {
            if !is_cluster_ip(ip) {
                checker.error(format!("{ip:?} must be an IP address or None"));
            }
        });
        if self.cluster_ips.len() > 1 && self.is_headless() {
            checker.error_in("clusterIPs", "must have None alone");
        }
        if let (Some(ip), Some(first)) = (&self.cluster_ip, self.cluster_ips.first())
            && ip != first
        {
            checker.error_in("clusterIPs", "must start with clusterIP");
        }
        checker.limit("ipFamilies", self.ip_families.len(), 2);
        if self.ip_families.len() == 2 && self.ip_families[0] == self.ip_families[1] {
            checker.error_in("ipFamilies", "has a family twice");
        }
        for (key, given) in [
            ("clusterIP", !cluster_ip.is_empty()),
            ("clusterIPs", !self.cluster_ips.is_empty()),
            ("ipFamilies", !self.ip_families.is_empty()),
            ("ipFamilyPolicy", self.ip_family_policy.is_some()),
        ] {
            if given {
                checker.warn_in(key, NO_ADDRESS);
            }
        }
    }

    /// What lets clients in from outside.
    fn check_external(&self, checker: &mut Checker<'_>) {
        let kind = self.kind();
        let balanced = kind == ServiceType::LoadBalancer;
        if matches!(kind, ServiceType::NodePort | ServiceType::LoadBalancer) {
            checker.warn_in("type", MESH_ONLY);
        }
        if kind == ServiceType::ExternalName {
            let name = self.external_name.strip_suffix('.').unwrap_or(&self.external_name);
            checker.require("externalName", !name.is_empty());
            if !name.is_empty() && !is_dns_name(name) {
                checker.error_in("externalName", format!("{name:?} is not a DNS name"));
            }
            if self.ports.is_empty() {
                let what = "are none: only a host that a Service or a ServiceEntry describes is reached by this name";
                checker.warn_in("ports", what);
            }
            if !self.selector.is_empty() {
                checker.warn_in("selector", "has no effect with type ExternalName");
            }
        } else if !self.external_name.is_empty() {
            checker.warn_in("externalName", "has no effect without type ExternalName");
        }
        checker.each("externalIPs", &self.external_ips, |checker, ip| {
            let special = |ip: IpAddr| ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
            if ip.parse::<IpAddr>().map_or(true, special) {
                checker.error(format!("{ip:?} is not the IP address of a host"));
            }
        });
        checker.each("loadBalancerSourceRanges", &self.load_balancer_source_ranges, |checker, range| {
            if range.trim().parse::<IpNet>().is_err() {
                checker.error(format!("{range:?} is not a CIDR range"));
            }
        });
        let health_check_port = self.health_check_node_port.is_some_and(|port| port.get() != 0);
        let is_local = self.external_traffic_policy == Some(TrafficPolicy::Local);
        if health_check_port && !(balanced && is_local) {
            let what = "is only for type LoadBalancer with externalTrafficPolicy: Local";
            checker.error_in("healthCheckNodePort", what);
        }
        let is_external = balanced || kind == ServiceType::NodePort || !self.external_ips.is_empty();
        if self.external_traffic_policy.is_some() && !is_external {
            checker.error_in("externalTrafficPolicy", "is only for services that are reached from outside");
        }
        for (key, given) in [
            ("loadBalancerClass", self.load_balancer_class.is_some()),
            ("loadBalancerSourceRanges", !self.load_balancer_source_ranges.is_empty()),
            ("allocateLoadBalancerNodePorts", self.allocate_load_balancer_node_ports.is_some()),
        ] {
            match (given, balanced) {
                (true, true) => checker.warn_in(key, MESH_ONLY),
                (true, false) => checker.error_in(key, "is only for type LoadBalancer"),
                (false, _) => {}
            }
        }
        if self.load_balancer_class.as_deref().is_some_and(|class| !is_qualified_name(class)) {
            checker.error_in("loadBalancerClass", "must be [DNS name/]letters, digits, '-', '_', '.'");
        }
        for (key, given) in [
            ("loadBalancerIP", !self.load_balancer_ip.is_empty()),
            ("externalIPs", !self.external_ips.is_empty()),
            ("externalTrafficPolicy", self.external_traffic_policy.is_some()),
            ("healthCheckNodePort", health_check_port),
        ] {
            if given {
                checker.warn_in(key, MESH_ONLY);
            }
        }
    }

    fn check_affinity(&self, checker: &mut Checker<'_>) {
        let is_sticky = self.session_affinity == Some(SessionAffinity::ClientIp);
        let config = self.session_affinity_config.and_then(|config| config.client_ip);
        if config.is_some() && !is_sticky {
            checker.error_in("sessionAffinityConfig", "is only for sessionAffinity: ClientIP");
        }
    }
}

/// The keys of a Secret or ConfigMap.
fn check_keys<'k>(field: &str, keys: impl Iterator<Item = &'k String>, checker: &mut Checker<'_>) {
    let is_key = |key: &str| {
        (1..=253).contains(&key.len())
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && key != "."
            && !key.starts_with("..")
    };
    checker.field(field, |checker| {
        for key in keys.filter(|key| !is_key(key)) {
            checker.error_in(key, "must be 1 to 253 letters, digits, '-', '_' and '.', and not start with '..'");
        }
    });
}
