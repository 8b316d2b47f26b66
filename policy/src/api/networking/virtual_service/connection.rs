//! Rules for TLS that passes through, and for TCP.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    VirtualService, check_gateway_name,
    route::{RouteDestination, check_weights},
};
use crate::{
    api::{
        networking::names::{check_subnets, is_ip, is_subnet},
        values::{Int, Labels, Port},
    },
    document::Checker,
    hosts::HostPattern,
};

/// One rule for TLS that passes through, by server name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TlsRoute {
    #[serde(rename = "match")]
    pub matches: Vec<TlsMatchAttributes>,
    pub route: Vec<RouteDestination>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TlsMatchAttributes {
    pub sni_hosts: Vec<String>,
    pub destination_subnets: Vec<String>,
    pub port: Option<Port>,
    pub source_labels: Labels,
    pub gateways: Vec<String>,
    pub source_namespace: String,
}

/// One rule for TCP.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TcpRoute {
    #[serde(rename = "match")]
    pub matches: Vec<L4MatchAttributes>,
    pub route: Vec<RouteDestination>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct L4MatchAttributes {
    pub destination_subnets: Vec<String>,
    pub port: Option<Port>,
    pub source_subnet: String,
    pub source_labels: Labels,
    pub gateways: Vec<String>,
    pub source_namespace: String,
}

impl TlsRoute {
    pub(super) fn check(&self, service: &VirtualService, checker: &mut Checker<'_>) {
        if self.matches.is_empty() {
            checker.error_in("match", "a rule for TLS needs at least one match");
        }
        let namespace = checker.namespace();
        let hosts: Vec<_> = service.hosts.iter().filter_map(|host| HostPattern::read(host, &namespace).ok()).collect();
        checker.each("match", &self.matches, |checker, one| {
            if one.sni_hosts.is_empty() {
                checker.error_in("sniHosts", "needs at least one name");
            }
            checker.each("sniHosts", &one.sni_hosts, |checker, name| match HostPattern::read(name, &namespace) {
                _ if is_ip(name) => checker.warn("is an address: clients send none as a server name"),
                Err(what) => checker.error(what),
                Ok(name) if !hosts.iter().any(|host| host.covers(&name)) => {
                    checker.error(format!("{name} is not one of the document's hosts"));
                }
                Ok(_) => {}
            });
            check_subnets("destinationSubnets", &one.destination_subnets, checker);
            checker.each("gateways", &one.gateways, |checker, gateway| check_gateway_name(gateway, checker));
        });
        check_connection_routes(&self.route, checker);
    }
}

impl TcpRoute {
    pub(super) fn check(&self, checker: &mut Checker<'_>) {
        checker.each("match", &self.matches, |checker, one| {
            check_subnets("destinationSubnets", &one.destination_subnets, checker);
            if !one.source_subnet.is_empty() {
                match is_subnet(&one.source_subnet) {
                    true => checker.warn_in("sourceSubnet", "has no effect, as in Istio: tell clients by sourceLabels"),
                    false => checker.error_in("sourceSubnet", "is not an address or a CIDR range"),
                }
            }
            checker.each("gateways", &one.gateways, |checker, gateway| check_gateway_name(gateway, checker));
        });
        check_connection_routes(&self.route, checker);
    }
}

fn check_connection_routes(routes: &[RouteDestination], checker: &mut Checker<'_>) {
    if routes.is_empty() {
        checker.error_in("route", "needs at least one destination");
    }
    checker.each("route", routes, |checker, share| {
        checker.field("destination", |checker| share.destination.check(checker));
    });
    check_weights(routes.iter().map(|share| share.weight.map(Int::get)), checker);
}
