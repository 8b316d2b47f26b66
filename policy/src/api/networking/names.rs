//! Names, hosts and addresses as Istio's kinds write them.

use std::{borrow::Cow, collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use weft_wire::id::{Namespace, is_dns_name, is_label};

use crate::{
    api::values::{Labels, Text},
    document::Checker,
    hosts::{self, HostPattern},
};

/// A DNS label in any case, as Istio lets subsets, ports and namespaces be called.
pub(crate) fn is_name(text: &str) -> bool {
    is_label(&text.to_ascii_lowercase())
}

/// A full DNS name, in any case, that cannot be taken for an address. A dot may end it.
pub(crate) fn is_fqdn(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let last = name.rsplit('.').next().unwrap_or_default();
    is_dns_name(&name) && !last.bytes().all(|b| b.is_ascii_digit())
}

pub(crate) fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// A host that documents speak of by name: [`HostPattern::read`] takes addresses too.
pub(crate) fn read_name(text: &str, namespace: &Namespace) -> Result<HostPattern, String> {
    let is_number = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_digit());
    match text.rsplit_once('.') {
        Some((_, last)) if is_number(last) => {
            Err(format!("{text:?} ends with a number: it must be a host name, no address"))
        }
        _ => HostPattern::read(text, namespace),
    }
}

/// An address or a CIDR range.
pub(crate) fn is_subnet(text: &str) -> bool {
    is_ip(text) || text.parse::<IpNet>().is_ok()
}

pub(crate) fn check_subnets(key: &str, subnets: &[String], checker: &mut Checker<'_>) {
    checker.each(key, subnets, |checker, subnet| {
        if !is_subnet(subnet) {
            checker.error(format!("{subnet:?} is not an address or a CIDR range"));
        }
    });
}

/// The path of a Unix socket's address.
pub(crate) fn unix_path(address: &str) -> Option<&str> {
    address.strip_prefix("unix://")
}

/// What is wrong with the path of a Unix socket; names that start with `@` are abstract.
pub(crate) fn check_unix_path(path: &str, checker: &mut Checker<'_>) {
    if !path.starts_with(['/', '@']) {
        checker.error("a unix address needs an absolute path, or a name that starts with @");
    } else if path.ends_with('/') {
        checker.error("a unix address must not be a directory");
    }
}

/// Namespace and name of the gateway that a document of `namespace` means by `NAME`, `NAMESPACE/NAME`, or the old form
/// `NAME.NAMESPACE`, with a domain or without.
pub(crate) fn gateway_name<'t>(text: &'t str, namespace: &'t str) -> (&'t str, &'t str) {
    if let Some(both) = text.split_once('/') {
        return both;
    }
    let mut labels = text.split('.');
    let name = labels.next().unwrap_or_default();
    (labels.next().unwrap_or(namespace), name)
}

/// Where something listens: an address, or a Unix socket.
pub(crate) fn check_bind(bind: &str, checker: &mut Checker<'_>) {
    checker.field("bind", |checker| match unix_path(bind) {
        Some(path) => check_unix_path(path, checker),
        None if !bind.is_empty() && !is_ip(bind) => {
            checker.error(format!("{bind:?} is neither an IP address nor unix://PATH"));
        }
        None => {}
    });
}

/// Says so where a host is taken as it stands and cannot be a service: that is easily meant otherwise.
pub(crate) fn warn_of_no_service(host: &HostPattern, checker: &mut Checker<'_>) {
    if let HostPattern::Exact(name) = host
        && hosts::service_of(name).is_none()
        && hosts::looks_like_service(name)
    {
        checker.warn(&format!(
            "{name} is taken as it stands and names no service; a service of another namespace is written \
             NAME.NAMESPACE.svc.cluster.local"
        ));
    }
}

/// The host of a `NAMESPACE/HOST`: `*`, or a name with a dot whose first label may be `*`.
pub(crate) fn check_host_part(host: &str, checker: &mut Checker<'_>) {
    if host == "*" {
        return;
    }
    if !host.contains('.') {
        checker.error(format!("{host:?} is not a full host name: write it with its domain, or * for all"));
    } else if host.strip_prefix('*').is_some_and(|end| !end.starts_with('.')) {
        checker.error(format!("{host:?} has a * that stands for a part of a label: it must stand for whole labels"));
    } else if !is_fqdn(host.strip_prefix("*.").unwrap_or(host)) && !is_ip(host) {
        checker.error(format!("{host:?} is not a host: a DNS name, with *. at most as its start"));
    }
}

/// The namespace of a `NAMESPACE/HOST`: a name, or one of the signs.
pub(crate) fn check_namespace_part(namespace: &str, signs: &[&str], checker: &mut Checker<'_>) {
    if !signs.contains(&namespace) && !is_name(namespace) {
        checker.error(format!("{namespace:?} is not a namespace, nor one of {}", signs.join(", ")));
    }
}

/// Whom a document may be seen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Export {
    /// A namespace, `.` for its own, `*` for all.
    Namespaces,
    /// Besides these `~`, for nobody.
    NamespacesOrNone,
}

/// Each namespace once; `*` and `~` alone.
pub(crate) fn check_export_to(export_to: &[String], export: Export, checker: &mut Checker<'_>) {
    let mut seen = BTreeSet::new();
    let (alone, own) = (export_to.len() == 1, checker.namespace());
    checker.each("exportTo", export_to, |checker, text| {
        match text.as_str() {
            "~" if export == Export::Namespaces => checker.error("~ (nobody) is only for a ServiceEntry"),
            "*" | "~" if !alone => checker.error(format!("{text} must stand alone")),
            "*" | "." | "~" => {}
            name if !is_name(name) => {
                checker.error(format!("{name:?} must be a namespace, '.' for its own, or '*' for all"));
            }
            _ => {}
        }
        let namespace = if text == "." { own.as_str() } else { text };
        if !seen.insert(namespace.to_owned()) {
            checker.error(format!("{namespace} is given twice"));
        }
    });
}

/// Selects the workloads of a namespace that have all of the labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WorkloadSelector {
    pub labels: Labels,
}

impl WorkloadSelector {
    pub(crate) fn check(&self, checker: &mut Checker<'_>) {
        checker.limit("labels", self.labels.len(), 256);
        if self.labels.is_empty() {
            checker.warn("has no labels: it selects all workloads of the namespace");
        }
    }
}

/// What is spoken on a port, by Istio's names, in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Text")]
pub enum PortProtocol {
    /// Not said: it is found by looking.
    #[default]
    Detected,
    Tcp,
    Udp,
    Http,
    Http2,
    HttpProxy,
    Grpc,
    GrpcWeb,
    Https,
    Tls,
    Mongo,
    Redis,
    Mysql,
    Hbone,
}

const PROTOCOLS: [(&str, PortProtocol); 13] = [
    ("HTTP", PortProtocol::Http),
    ("HTTP2", PortProtocol::Http2),
    ("HTTPS", PortProtocol::Https),
    ("GRPC", PortProtocol::Grpc),
    ("GRPC-WEB", PortProtocol::GrpcWeb),
    ("TCP", PortProtocol::Tcp),
    ("TLS", PortProtocol::Tls),
    ("UDP", PortProtocol::Udp),
    ("MONGO", PortProtocol::Mongo),
    ("MYSQL", PortProtocol::Mysql),
    ("REDIS", PortProtocol::Redis),
    ("HTTP_PROXY", PortProtocol::HttpProxy),
    ("HBONE", PortProtocol::Hbone),
];

impl PortProtocol {
    /// Whether requests can be read.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::HttpProxy | Self::Grpc | Self::GrpcWeb)
    }

    /// Whether a server name comes first.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }
}

impl TryFrom<Text> for PortProtocol {
    type Error = String;

    fn try_from(Text(text): Text) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::Detected);
        }
        let known = PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(&text));
        known.map(|(_, protocol)| *protocol).ok_or_else(|| {
            let names: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
            format!("is {text:?}; it must be one of {}", names.join(", "))
        })
    }
}

impl JsonSchema for PortProtocol {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "PortProtocol".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
        json_schema!({ "type": "string", "enum": names })
    }
}
