//! RateLimit: how many requests pass.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    RequestCondition, Targets,
    targets::{ROUTES, SERVICE, check_targets},
};
use crate::{
    api::{
        gateway::{HeaderName, SectionName},
        values::{Int, List, NonEmpty},
    },
    document::Checker,
    kinds::Resource,
};

/// How many requests for some services or routes pass; the others are answered with 429.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    /// Services and routes of this namespace.
    pub target_refs: Targets,
    #[serde(default)]
    pub scope: RateLimitScope,
    /// A request must pass all of them.
    pub limits: List<Limit, 1, 32>,
    /// For the scope Mesh: what a node does that cannot reach others. `Share` if absent.
    #[serde(default)]
    pub on_partition: Option<OnPartition>,
}

/// Who counts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum RateLimitScope {
    /// Each node by itself: for a service each node that hosts it, for a route each node that calls.
    #[default]
    Local,
    /// All nodes of the mesh together.
    Mesh,
}

/// What a node does that cannot reach others, whose counts it then does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum OnPartition {
    /// Keeps to its part of the limit: one of as many as there are nodes, those that it cannot reach with them.
    #[default]
    Share,
    /// Refuses what the limit counts.
    Deny,
    /// Lets all through.
    Allow,
}

/// So many requests per unit of time, for each value of the keys.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limit {
    /// Shows in logs and metrics.
    #[serde(default)]
    pub name: Option<SectionName>,
    /// It counts requests that match any of these; all if there is none.
    #[serde(default, rename = "match")]
    pub matches: List<RequestCondition, 0, 16>,
    /// Each combination of their values has a count of its own. Requests without a value share one.
    #[serde(default)]
    pub keys: List<LimitKey, 0, 4>,
    pub requests: Int<1, 1_000_000_000>,
    pub unit: TimeUnit,
    /// How many may come at once after a pause; `requests` if absent.
    #[serde(default)]
    pub burst: Option<Int<1, 1_000_000_000>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum TimeUnit {
    Second,
    Minute,
    Hour,
    Day,
}

impl TimeUnit {
    pub fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }
}

/// Something that requests are told apart by: one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LimitKey {
    /// The calling workload.
    pub caller: Option<CallerKey>,
    /// The value of a header.
    pub header: Option<HeaderName>,
    /// A claim of the token that a RequestAuthentication accepted, such as `sub`; nested ones as `a.b`.
    pub claim: Option<NonEmpty>,
    /// The first so many segments of the path: with 1, `/a` and `/a/b` count together.
    pub path_segments: Option<Int<1, 8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum CallerKey {
    /// By namespace and service account.
    Identity,
    /// All of a namespace together.
    Namespace,
}

impl Resource for RateLimit {
    fn check(&self, checker: &mut Checker<'_>) {
        let mut allowed = vec![SERVICE];
        allowed.extend(ROUTES);
        check_targets(&self.target_refs, &allowed, checker);
        checker.unique("limits", &self.limits, |limit| limit.name.as_ref());
        checker.each("limits", &self.limits, |checker, limit| {
            checker.each("match", &limit.matches, |checker, one| one.check(checker));
            checker.each("keys", &limit.keys, |checker, key| {
                checker.exactly_one(&[
                    ("caller", key.caller.is_some()),
                    ("header", key.header.is_some()),
                    ("claim", key.claim.is_some()),
                    ("pathSegments", key.path_segments.is_some()),
                ]);
                // Only the node that hosts the workload has verified a token.
                let is_of_rule = self.target_refs.iter().any(|target| &*target.kind != SERVICE.1);
                checker.pending("claim", key.claim.is_some() && is_of_rule);
            });
        });
        if self.scope == RateLimitScope::Local && self.on_partition.is_some() {
            checker.error_in("onPartition", "is for the scope Mesh: each node counts by itself here");
        }
        checker.pending("scope", self.scope == RateLimitScope::Mesh);
    }
}
