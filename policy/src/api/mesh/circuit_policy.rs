//! CircuitPolicy: how what one node sees of an endpoint counts for all.

use schemars::JsonSchema;
use serde::Deserialize;

use super::targets::check_targets_or_default;
use crate::{
    api::{
        gateway::PolicyTargetReference,
        values::{Int, List, Share, Span},
    },
    document::Checker,
    kinds::Resource,
};

/// How what nodes see of endpoints counts for all of them. When an endpoint trips is the outlierDetection of a
/// DestinationRule. For a service its own policy holds; else the one without targets of its namespace; else that of
/// `istio-system`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CircuitPolicy {
    /// Services of this namespace; all of it if there are none, and all of the mesh in `istio-system`.
    pub target_refs: List<PolicyTargetReference, 0, 16>,
    /// How many nodes must have seen an endpoint fail until no node sends there.
    pub quorum: Quorum,
    /// How long a node's word holds unless it says it again; 10 s if absent.
    pub lease: Option<Span<1_000>>,
    /// While a smaller share of a service's endpoints is in use, in percent, all of them are, whatever nodes say; 50 if
    /// absent. A DestinationRule's `minHealthPercent` comes before it.
    pub panic_threshold: Option<Share>,
    /// How far the word of other nodes counts.
    pub hearsay: Hearsay,
}

/// Both must hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Quorum {
    /// Distinct nodes; 2 if absent.
    pub observers: Option<Int<1, 1_000>>,
    /// Of the nodes that send to the service, in percent; 50 if absent.
    pub share: Option<Share>,
}

/// How far the word of other nodes counts. What a node sees itself counts always, and more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
pub enum Hearsay {
    /// Not at all.
    Ignore,
    /// It makes an endpoint the last choice.
    Demote,
    /// And with a quorum it takes the endpoint out of use.
    #[default]
    Exclude,
}

impl CircuitPolicy {
    pub fn observers(&self) -> i64 {
        self.quorum.observers.map_or(2, Int::get)
    }

    /// In percent.
    pub fn share(&self) -> f64 {
        self.quorum.share.map_or(50.0, Share::percent)
    }

    pub fn lease(&self) -> std::time::Duration {
        self.lease.map_or(std::time::Duration::from_secs(10), Span::get)
    }

    /// In percent.
    pub fn panic_threshold(&self) -> f64 {
        self.panic_threshold.map_or(50.0, Share::percent)
    }
}

/// Longest lease: a word that nobody takes back must lapse.
const MAX_LEASE: std::time::Duration = std::time::Duration::from_secs(3_600);

impl Resource for CircuitPolicy {
    fn check(&self, checker: &mut Checker<'_>) {
        if self.lease() > MAX_LEASE {
            checker.error_in("lease", "must be at most 1h: a verdict that nobody renews must lapse");
        }
        if self.hearsay != Hearsay::Exclude && self.quorum != Quorum::default() {
            checker.warn_in("quorum", "has no effect: only hearsay Exclude asks for one");
        }
        check_targets_or_default(&self.target_refs, checker);
    }
}
