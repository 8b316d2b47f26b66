//! Where connections go that are not read as HTTP: by the server of their TLS handshake, then as such.

use std::{cmp::Reverse, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{ConnectionMatch, Query, RuleSet, Target, TcpRule, Weighted};
use crate::{balance::Cluster, hosts, view::Service};

/// What a connection is to that is not read as HTTP, as its client tells.
#[derive(Clone, Copy, Debug, Default)]
pub struct Destination<'a> {
    /// The address that it asks for, if it names one and no host.
    pub address: Option<IpAddr>,
    /// The server of its TLS handshake, where that was read.
    pub server_name: Option<&'a str>,
}

/// What a connection is to, as far as rules ask for subnets.
#[derive(Clone, Copy, Default)]
pub(crate) struct Callee<'v> {
    pub(crate) address: Option<IpAddr>,
    /// `None` at gateways.
    pub(crate) service: Option<&'v Service>,
}

impl Callee<'_> {
    /// Whether it is in one of these subnets, if there are any: the address that the client asks for, or else one that a
    /// ServiceEntry has for the host.
    fn is_in(self, subnets: &[IpNet]) -> bool {
        subnets.is_empty()
            || match (self.address, self.service) {
                (Some(address), _) => subnets.iter().any(|subnet| subnet.contains(&address)),
                (None, Some(service)) => service.ranges().any(|range| subnets.iter().any(|s| s.contains(range))),
                (None, None) => false,
            }
    }
}

/// Where a connection goes that is not read as HTTP.
#[derive(Debug)]
pub enum TcpRouting<'v> {
    Forward(&'v Arc<Service>, &'v Arc<Cluster>),
    /// There are rules for TLS, and none is for the server that the client names.
    NoRoute,
    /// The rule names a service, port or subset that does not exist. Also: the service has no such port.
    UnknownCluster,
}

impl<'v> Query<'v, '_> {
    /// Whether the server that the client names in its TLS handshake decides where its connection goes.
    pub(crate) fn reads_server_name(&self, rule_sets: &'v [Arc<RuleSet>], callee: Callee<'_>) -> bool {
        let mut matches = self.seen(rule_sets).flat_map(|rules| &rules.tls).flat_map(|rule| &rule.matches);
        matches.any(|one| self.holds(&one.connection, callee))
    }

    /// What the rules for TLS say of a connection whose handshake asks for a server.
    pub(crate) fn by_server_name(
        &self,
        rule_sets: &'v [Arc<RuleSet>],
        callee: Callee<'_>,
        name: &str,
    ) -> Option<&'v Weighted<Target>> {
        // As Envoy chooses among the filter chains that Istio makes of them: by the closest name; of these the first.
        hosts::with_lower_case(name, |name| {
            let rules = self.seen(rule_sets).flat_map(|rules| &rules.tls);
            let matches = rules.flat_map(|rule| rule.matches.iter().map(move |one| (one, &rule.destinations)));
            let ours = matches.filter(|(one, _)| self.holds(&one.connection, callee));
            let named = ours.filter_map(|(one, to)| Some((one.closeness(name)?, to)));
            // `min_by_key` keeps the first of equals, `max_by_key` the last.
            named.min_by_key(|(closeness, _)| Reverse(*closeness)).map(|(_, to)| to)
        })?
    }

    /// What the rules for TCP say of a connection.
    pub(crate) fn by_tcp_rules(
        &self,
        rule_sets: &'v [Arc<RuleSet>],
        callee: Callee<'_>,
    ) -> Option<&'v Weighted<Target>> {
        let holds = |rule: &&TcpRule| rule.matches.is_empty() || rule.matches.iter().any(|one| self.holds(one, callee));
        self.seen(rule_sets).flat_map(|rules| &rules.tcp).find(holds).map(|rule| &rule.destinations)
    }

    fn holds(&self, one: &ConnectionMatch, callee: Callee<'_>) -> bool {
        one.client.matches(&self.client, self.port) && callee.is_in(&one.subnets)
    }

    pub(crate) fn tcp(
        &self,
        rule_sets: &'v [Arc<RuleSet>],
        service: &'v Arc<Service>,
        Destination { address, server_name }: Destination<'_>,
    ) -> TcpRouting<'v> {
        let callee = Callee { address, service: Some(service) };
        let by_tls = server_name.and_then(|name| self.by_server_name(rule_sets, callee, name));
        let found = match by_tls.or_else(|| self.by_tcp_rules(rule_sets, callee)) {
            Some(destinations) => destinations.choose(self.random).and_then(|target| self.target(target)),
            None if self.reads_server_name(rule_sets, callee) => return TcpRouting::NoRoute,
            None => service.cluster_of(self.client, self.port, "").map(|cluster| (service, cluster)),
        };
        found.map_or(TcpRouting::UnknownCluster, |(service, cluster)| TcpRouting::Forward(service, cluster))
    }
}
