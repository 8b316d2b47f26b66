//! TCPRoute, TLSRoute and UDPRoute: where connections and packets go.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{BackendRef, GatewayDefaultScope, Hostname, ParentReferences, SectionName, references::check_parents};
use crate::{api::values::List, document::Checker, kinds::Resource};

/// Most rules of a route; from v1 on it is one.
const MAX_RULES_BEFORE_V1: usize = 16;

/// Where the connections of some listeners go.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpRoute {
    #[serde(default)]
    pub parent_refs: ParentReferences,
    #[serde(default)]
    pub use_default_gateways: Option<GatewayDefaultScope>,
    pub rules: List<ConnectionRule, 1, MAX_RULES_BEFORE_V1>,
}

/// Where TLS connections go, by the server name that the client asks for.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsRoute {
    #[serde(default)]
    pub parent_refs: ParentReferences,
    #[serde(default)]
    pub use_default_gateways: Option<GatewayDefaultScope>,
    /// Server names (SNI). Before v1alpha3 they may be absent, which means all.
    #[serde(default)]
    pub hostnames: List<Hostname, 0, 1024>,
    pub rules: List<ConnectionRule, 1, MAX_RULES_BEFORE_V1>,
}

/// Where the packets of some listeners go.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UdpRoute {
    #[serde(default)]
    pub parent_refs: ParentReferences,
    #[serde(default)]
    pub use_default_gateways: Option<GatewayDefaultScope>,
    pub rules: List<ConnectionRule, 1, MAX_RULES_BEFORE_V1>,
}

/// Backends by weight.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConnectionRule {
    #[serde(default)]
    pub name: Option<SectionName>,
    pub backend_refs: List<BackendRef, 1, 16>,
}

impl Resource for TcpRoute {
    fn check(&self, checker: &mut Checker<'_>) {
        check_parents(&self.parent_refs, checker);
        check_rules(&self.rules, checker);
        checker.pending("useDefaultGateways", self.use_default_gateways == Some(GatewayDefaultScope::All));
    }
}

impl Resource for UdpRoute {
    fn check(&self, checker: &mut Checker<'_>) {
        check_parents(&self.parent_refs, checker);
        check_rules(&self.rules, checker);
        checker.pending("rules", true);
    }
}

impl Resource for TlsRoute {
    fn check(&self, checker: &mut Checker<'_>) {
        check_parents(&self.parent_refs, checker);
        if checker.version() != "v1alpha2" && self.hostnames.is_empty() {
            checker.error_in("hostnames", "needs at least one name");
        }
        check_hostnames(&self.hostnames, checker);
        check_rules(&self.rules, checker);
        checker.pending("useDefaultGateways", self.use_default_gateways == Some(GatewayDefaultScope::All));
    }
}

/// An IPv4 address has the form of a DNS name, and is none.
pub(super) fn check_hostnames(hostnames: &[Hostname], checker: &mut Checker<'_>) {
    checker.each("hostnames", hostnames, |checker, hostname| {
        if hostname.parse::<std::net::IpAddr>().is_ok() {
            checker.error(format!("{hostname} is an address; it must be a DNS name"));
        }
    });
}

fn check_rules(rules: &[ConnectionRule], checker: &mut Checker<'_>) {
    if checker.version() == "v1" && rules.len() > 1 {
        checker.error_in("rules", format!("has {} items; 1 is the most", rules.len()));
    }
    checker.unique("rules", rules, |rule| rule.name.as_ref());
    checker.each("rules", rules, |checker, rule| {
        checker.each("backendRefs", &rule.backend_refs, |checker, backend| backend.object().check(checker));
    });
}
