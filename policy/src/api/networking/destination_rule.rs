//! DestinationRule: a service's subsets, and how its endpoints are treated.

use schemars::JsonSchema;
use serde::Deserialize;
use weft_wire::id::is_label;

use crate::{api::values::Labels, document::Checker, hosts::HostPattern, kinds::Resource};

/// How requests to a host are treated once it is known that they go there.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DestinationRule {
    /// A name without a dot is a service of the document's namespace.
    pub host: String,
    #[serde(default)]
    pub traffic_policy: Option<TrafficPolicy>,
    #[serde(default)]
    pub subsets: Vec<Subset>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TrafficPolicy {
    pub load_balancer: Option<LoadBalancerSettings>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LoadBalancerSettings {
    pub simple: Option<SimpleLb>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SimpleLb {
    /// Leaves it to weft: as `LEAST_REQUEST`.
    Unspecified,
    /// Old name of `LEAST_REQUEST`.
    LeastConn,
    Random,
    /// To the address that the client dialled.
    Passthrough,
    RoundRobin,
    LeastRequest,
}

/// The endpoints of a host that have certain labels.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subset {
    pub name: String,
    #[serde(default)]
    pub labels: Labels,
    #[serde(default)]
    pub traffic_policy: Option<TrafficPolicy>,
}

impl Resource for DestinationRule {
    fn check(&self, checker: &mut Checker<'_>) {
        if let Err(what) = HostPattern::read(&self.host, &checker.namespace()) {
            checker.error_in("host", what);
        }
        let mut names = std::collections::BTreeSet::new();
        checker.each("subsets", &self.subsets, |checker, subset| {
            if !is_label(&subset.name) {
                checker.error_in("name", "must be 1 to 63 of a-z, 0-9 and '-', and neither start nor end with '-'");
            }
            if !names.insert(subset.name.clone()) {
                checker.error(format!("the name {} is given twice", subset.name));
            }
        });
    }
}
