//! `discovery.k8s.io`. Rules: Kubernetes' `pkg/apis/discovery/validation`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use schemars::JsonSchema;
use serde::Deserialize;
use weft_wire::id::{is_dns_name, is_label};

use super::{
    core::{ObjectReference, TransportProtocol},
    values::{PortOrZero, is_qualified_name},
};
use crate::{document::Checker, kinds::Resource};

/// Addresses and ports of some endpoints of a service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointSlice {
    pub address_type: AddressType,
    #[serde(default)]
    pub endpoints: Vec<SliceEndpoint>,
    #[serde(default)]
    pub ports: Vec<SlicePort>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum AddressType {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
    /// DNS names.
    #[serde(rename = "FQDN")]
    Fqdn,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SliceEndpoint {
    /// All mean the same endpoint.
    pub addresses: Vec<String>,
    #[serde(default)]
    pub conditions: Option<EndpointConditions>,
    #[serde(default)]
    pub hostname: Option<String>,
    #[serde(default)]
    pub node_name: Option<String>,
    #[serde(default)]
    pub target_ref: Option<ObjectReference>,
    #[serde(default)]
    pub zone: Option<String>,
    #[serde(default)]
    pub hints: Option<EndpointHints>,
    #[serde(default)]
    pub deprecated_topology: BTreeMap<String, String>,
}

/// Absent ones are unknown; an endpoint that may be ready is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EndpointConditions {
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
}

/// For which zones and nodes an endpoint is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EndpointHints {
    pub for_zones: Vec<Hint>,
    pub for_nodes: Vec<Hint>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hint {
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SlicePort {
    pub name: Option<String>,
    pub protocol: Option<TransportProtocol>,
    /// The `targetPort` of the service's port of that name if absent; without a name too, all of the service's ports.
    pub port: Option<PortOrZero>,
    pub app_protocol: Option<String>,
}

impl Resource for EndpointSlice {
    fn check(&self, checker: &mut Checker<'_>) {
        checker.limit("endpoints", self.endpoints.len(), 1000);
        checker.each("endpoints", &self.endpoints, |checker, endpoint| endpoint.check(self.address_type, checker));
        checker.limit("ports", self.ports.len(), 20_000);
        let mut names = BTreeSet::new();
        checker.each("ports", &self.ports, |checker, port| {
            let name = port.name.as_deref().unwrap_or_default();
            if !name.is_empty() && !is_label(name) {
                checker.error_in("name", "must be a DNS label: a-z, 0-9 and '-'");
            }
            if !names.insert(name) {
                checker.error_in("name", format!("the name {name:?} is given twice"));
            }
            port.protocol.unwrap_or_default().check(checker);
            checker.pending("protocol", port.protocol.unwrap_or_default() != TransportProtocol::Tcp);
            if port.port.is_some_and(|port| port.get() == 0) {
                checker.error_in("port", "is the number 0; it must be a whole number from 1 to 65535");
            }
            if port.app_protocol.as_deref().is_some_and(|name| !is_qualified_name(name)) {
                checker.error_in("appProtocol", "must be [DNS name/]letters, digits, '-', '_', '.'");
            }
        });
    }
}

impl SliceEndpoint {
    fn check(&self, kind: AddressType, checker: &mut Checker<'_>) {
        if self.addresses.is_empty() {
            checker.error_in("addresses", "needs at least one address");
        }
        checker.limit("addresses", self.addresses.len(), 100);
        checker.each("addresses", &self.addresses, |checker, text| {
            if let Some(what) = problem_of_address(text, kind) {
                checker.error(format!("{text:?} {what}"));
            }
        });
        if self.hostname.as_deref().is_some_and(|name| !is_label(name)) {
            checker.error_in("hostname", "must be a DNS label: a-z, 0-9 and '-'");
        }
        if self.node_name.as_deref().is_some_and(|name| !is_dns_name(name)) {
            checker.error_in("nodeName", "must be a DNS name");
        }
        checker.given("hints", &self.hints, |checker, hints| {
            for (key, hints) in [("forZones", &hints.for_zones), ("forNodes", &hints.for_nodes)] {
                checker.limit(key, hints.len(), 8);
                let mut names = BTreeSet::new();
                checker.each(key, hints, |checker, hint| {
                    checker.require("name", !hint.name.is_empty());
                    if !names.insert(hint.name.clone()) {
                        checker.error(format!("{} is given twice", hint.name));
                    }
                });
            }
        });
        checker.limit("deprecatedTopology", self.deprecated_topology.len(), 16);
        if !self.deprecated_topology.is_empty() {
            checker.warn_in("deprecatedTopology", "has no effect: use zone and nodeName");
        }
    }
}

/// Nobody else can reach an address that means the reader's own host or link.
fn problem_of_address(text: &str, kind: AddressType) -> Option<&'static str> {
    let address = match (kind, text.parse::<IpAddr>()) {
        (AddressType::Fqdn, _) => return (!is_dns_name(text)).then_some("is not a DNS name"),
        (AddressType::V4, Ok(address @ IpAddr::V4(_))) | (AddressType::V6, Ok(address @ IpAddr::V6(_))) => address,
        (AddressType::V4, _) => return Some("is not an IPv4 address"),
        (AddressType::V6, _) => return Some("is not an IPv6 address"),
    };
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let is_special = address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_link_local;
    is_special.then_some("is not the address of one host that others can reach")
}
