//! BackendTrafficPolicy: how a service is called, where no other project's document can say it.

use schemars::JsonSchema;
use serde::Deserialize;

use super::targets::check_targets_or_default;
use crate::{
    api::{
        gateway::PolicyTargetReference,
        values::{List, Timeout},
    },
    document::Checker,
    kinds::Resource,
};

/// How the callers' nodes spread and send requests for services. For a port its own policy holds; else the service's;
/// else the one without targets of the namespace; else that of `istio-system`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BackendTrafficPolicy {
    /// Services of this namespace, or ports of them; all of it if there are none, and all of the mesh in `istio-system`.
    pub target_refs: List<PolicyTargetReference, 0, 16>,
    pub load_balancer: Option<BackendLoadBalancer>,
    /// Off if absent.
    pub hedging: Option<BackendHedging>,
}

/// Sends a request to a second endpoint, and a third, while the first takes long, and takes the first good answer; the
/// other requests are cancelled. As often as the rule's `retries` allow, and within the retry budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendHedging {
    /// How long a response is waited for before there is another request beside.
    pub delay: Timeout,
    /// Also requests that do something else if they are done twice: of methods such as POST, and so all of gRPC.
    #[serde(default)]
    pub include_non_idempotent: bool,
}

/// Which endpoint a request goes to, where a DestinationRule asks for nothing but `LEAST_REQUEST`, which is the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BackendLoadBalancer {
    pub peak_ewma: Option<PeakEwma>,
}

/// Of two endpoints the one that is likely to answer sooner: by how long its answers took, a slow one counting at once
/// and whole, times the requests that are under way there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PeakEwma {
    /// How soon what was seen fades, to 1/e; 10 s if absent.
    pub decay: Option<Timeout>,
}

impl PeakEwma {
    pub fn decay(&self) -> std::time::Duration {
        self.decay.map_or(std::time::Duration::from_secs(10), |decay| decay.get())
    }
}

impl Resource for BackendTrafficPolicy {
    fn check(&self, checker: &mut Checker<'_>) {
        check_targets_or_default(&self.target_refs, checker);
        if self.load_balancer.is_none() && self.hedging.is_none() {
            checker.error("must have loadBalancer or hedging");
        }
        checker.given("loadBalancer", &self.load_balancer, |checker, balancer| {
            checker.require("peakEwma", balancer.peak_ewma.is_some());
        });
    }
}
