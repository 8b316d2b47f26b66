//! ServiceEntry: a service that nobody in the mesh announces. Rules: Istio's `pkg/config/validation/validation.go` and
//! those of its schema.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    WorkloadEntry,
    names::{
        Export, PortProtocol, WorkloadSelector, check_export_to, check_subnets, is_fqdn, is_ip, is_name, read_name,
        unix_path,
    },
};
use crate::{api::values::Port, document::Checker, hosts::HostPattern, kinds::Resource};

/// Hosts and ports of a service, and where its endpoints are.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceEntry {
    pub hosts: Vec<String>,
    /// Addresses, or CIDR ranges, that clients may ask for instead of its hosts.
    #[serde(default)]
    pub addresses: Vec<String>,
    #[serde(default)]
    pub ports: Vec<ServiceEntryPort>,
    /// `MESH_EXTERNAL` if absent.
    #[serde(default)]
    pub location: Option<Location>,
    /// `NONE` if absent.
    #[serde(default)]
    pub resolution: Option<Resolution>,
    #[serde(default)]
    pub endpoints: Option<Vec<WorkloadEntry>>,
    #[serde(default)]
    pub workload_selector: Option<WorkloadSelector>,
    /// The namespaces that see it: `.` for its own, `*` for all, which is the default, `~` for none.
    #[serde(default)]
    pub export_to: Vec<String>,
    #[serde(default)]
    pub subject_alt_names: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceEntryPort {
    pub number: Port,
    #[serde(default)]
    pub protocol: PortProtocol,
    pub name: String,
    /// The endpoints' own port; `number` if absent.
    #[serde(default)]
    pub target_port: Option<Port>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Location {
    MeshExternal,
    MeshInternal,
}

/// How endpoints are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    /// The address that the client dialled.
    #[default]
    None,
    Static,
    Dns,
    /// The first address of each answer.
    DnsRoundRobin,
    /// By the name that the client asks for, where hosts are wildcards.
    DynamicDns,
}

impl Resolution {
    /// Whether endpoints' addresses are names that are looked up.
    pub(crate) fn is_dns(self) -> bool {
        matches!(self, Self::Dns | Self::DnsRoundRobin)
    }
}

impl ServiceEntry {
    pub(crate) fn resolution(&self) -> Resolution {
        self.resolution.unwrap_or_default()
    }

    pub(crate) fn endpoints(&self) -> &[WorkloadEntry] {
        self.endpoints.as_deref().unwrap_or_default()
    }
}

impl Resource for ServiceEntry {
    fn check(&self, checker: &mut Checker<'_>) {
        self.check_hosts(checker);
        self.check_addresses(checker);
        self.check_ports(checker);
        checker.given("workloadSelector", &self.workload_selector, |checker, selector| {
            selector.check(checker);
            if self.resolution() != Resolution::Static {
                checker.warn("has a meaning only with resolution STATIC");
            }
        });
        checker.at_most_one(&[
            ("workloadSelector", self.workload_selector.is_some()),
            ("endpoints", self.endpoints.is_some()),
        ]);
        self.check_endpoints(checker);
        check_export_to(&self.export_to, Export::NamespacesOrNone, checker);
    }
}

impl ServiceEntry {
    fn check_hosts(&self, checker: &mut Checker<'_>) {
        if self.hosts.is_empty() {
            checker.error_in("hosts", "needs at least one host");
        }
        checker.limit("hosts", self.hosts.len(), 256);
        let (namespace, resolution) = (checker.namespace(), self.resolution());
        let needs_names = resolution.is_dns() && self.endpoints().is_empty();
        checker.each("hosts", &self.hosts, |checker, text| match read_name(text, &namespace) {
            Err(what) => checker.error(what),
            Ok(host) if host.is_everything() && resolution != Resolution::DynamicDns => {
                checker.error("* must not be a host of a ServiceEntry");
            }
            Ok(HostPattern::Exact(_)) if resolution == Resolution::DynamicDns => {
                checker.error("must be a wildcard, such as *.example.com, with resolution DYNAMIC_DNS");
            }
            Ok(_) if needs_names && !is_fqdn(text) => {
                checker.error("must be a full host name where resolution is by DNS and there are no endpoints");
            }
            Ok(HostPattern::Wildcard(end)) if !end.is_empty() && !end.starts_with('.') => {
                checker.warn("has a * that stands for a part of a label: most clients do not know such names");
            }
            Ok(_) => {}
        });
        if resolution == Resolution::DynamicDns && self.location == Some(Location::MeshInternal) {
            checker.error_in("location", "must be MESH_EXTERNAL with resolution DYNAMIC_DNS");
        }
        let is_told_apart = |port: &ServiceEntryPort| port.protocol.is_http() || port.protocol.is_tls();
        if self.hosts.len() > 1 && resolution != Resolution::None && !self.ports.iter().all(is_told_apart) {
            checker.error_in(
                "hosts",
                "has several hosts, but a port whose protocol does not tell them apart: use HTTP or TLS, or one host",
            );
        }
    }

    fn check_addresses(&self, checker: &mut Checker<'_>) {
        checker.limit("addresses", self.addresses.len(), 256);
        check_subnets("addresses", &self.addresses, checker);
        let has_range = self.addresses.iter().any(|address| address.contains('/'));
        if has_range && !matches!(self.resolution(), Resolution::None | Resolution::Static) {
            checker.error_in("addresses", "may have CIDR ranges only with resolution NONE or STATIC");
        }
    }

    fn check_ports(&self, checker: &mut Checker<'_>) {
        checker.limit("ports", self.ports.len(), 256);
        let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
        checker.each("ports", &self.ports, |checker, port| {
            if !is_name(&port.name) {
                checker.error_in("name", "must be 1 to 63 letters, digits and '-', and neither start nor end with '-'");
            }
            if !names.insert(port.name.clone()) {
                checker.error_in("name", format!("the name {} is given twice", port.name));
            }
            if !numbers.insert(port.number) {
                checker.error_in("number", format!("port {} is given twice", port.number.get()));
            }
            checker.pending("protocol", port.protocol == PortProtocol::Udp);
            if port.target_port.is_some() && self.resolution() == Resolution::None {
                checker.warn_in("targetPort", "has no effect with resolution NONE");
            }
        });
    }

    fn check_endpoints(&self, checker: &mut Checker<'_>) {
        let (endpoints, resolution) = (self.endpoints(), self.resolution());
        checker.limit("endpoints", endpoints.len(), 4096);
        match resolution {
            Resolution::None if self.endpoints.is_some() => {
                checker.error_in("endpoints", "must not be given with resolution NONE");
            }
            Resolution::DnsRoundRobin if endpoints.len() > 1 => {
                checker.error_in("endpoints", "may have only one endpoint with resolution DNS_ROUND_ROBIN");
            }
            Resolution::DynamicDns if !endpoints.is_empty() => {
                checker.warn_in("endpoints", "has no effect with resolution DYNAMIC_DNS");
            }
            _ => {}
        }
        checker.each("endpoints", endpoints, |checker, endpoint| {
            if endpoint.address.is_empty() {
                checker.require("address", !endpoint.network.is_empty() && !resolution.is_dns());
            }
            endpoint.check_fields(checker);
            let is_unix = unix_path(&endpoint.address).is_some();
            if resolution.is_dns() && is_unix {
                checker.error_in("address", "must be an IP address or a full host name where resolution is by DNS");
            }
            let is_name = !endpoint.address.is_empty() && !is_unix && !is_ip(&endpoint.address);
            if resolution == Resolution::Static && is_name {
                checker.error_in("address", "must be an IP address or unix://PATH with resolution STATIC");
            }
            if is_unix && self.ports.len() != 1 {
                checker.error("has a unix address: the ServiceEntry must have exactly one port");
            }
            checker.field("ports", |checker| {
                let unknown = |name: &&String| !self.ports.iter().any(|port| port.name == **name);
                for name in endpoint.ports.keys().filter(unknown) {
                    checker.error_in(name, "is not a port of the ServiceEntry");
                }
            });
        });
    }
}
