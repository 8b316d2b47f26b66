//! Circuits: what the callers of a node have seen of endpoints. A fact of kind [`FactKind::CIRCUITS`], and state, not
//! events: each says all that its owner thinks just now, so one that is late or comes twice harms nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use crate::{
    fact::{FactBody, FactKind},
    id::{Namespace, NodeName, WorkloadName},
};

/// Most circuits of one node, and most services that it names.
pub const MAX_CIRCUITS: usize = 200;
pub const MAX_WATCHED: usize = 400;

/// Names an endpoint across nodes and views.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointKey {
    /// `None` for an address that no node announced.
    pub node: Option<NodeName>,
    pub namespace: Namespace,
    /// Of an address that no node announced, the address itself, such as `10-0-0-5`.
    pub workload: WorkloadName,
    /// The port that the workload itself listens on.
    pub target_port: u16,
}

/// The name that consistent hashing knows it by: the same on all nodes.
impl fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, namespace, workload, target_port } = self;
        let node = node.as_ref().map_or("outside", NodeName::as_str);
        write!(f, "{node}/{namespace}/{workload}:{target_port}")
    }
}

/// What one node's callers have seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CircuitRecord {
    /// Host names of the services that they call, as far as outlier detection looks at these: who else could have a
    /// word about their endpoints.
    pub watched: BTreeSet<String>,
    /// Those that do not pass.
    pub circuits: BTreeMap<EndpointKey, Circuit>,
}

/// One endpoint, as one node's callers see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Circuit {
    pub state: CircuitState,
    pub cause: CircuitCause,
    /// In a row, or within an interval, that made it so.
    pub failures: u32,
    /// Since when, in Unix milliseconds by its owner's clock: for people.
    pub since_ms: u64,
    /// For how long its owner keeps from the endpoint, in milliseconds from when this was said.
    pub left_ms: u32,
    /// For how long this holds if its owner does not say it again, in milliseconds from its receipt.
    pub lease_ms: u32,
}

/// A circuit that passes is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CircuitState {
    /// Some failures in a row, not enough to keep from the endpoint.
    Failing,
    /// Nothing is sent there.
    Tripped,
    /// It is tried for all.
    Probing,
}

impl CircuitState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failing => "failing",
            Self::Tripped => "tripped",
            Self::Probing => "probing",
        }
    }
}

/// What outlier detection has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CircuitCause {
    ConsecutiveErrors,
    ConsecutiveGatewayErrors,
    ConsecutiveLocalFailures,
    FailurePercentage,
}

impl CircuitCause {
    pub const ALL: [Self; 4] = [
        Self::ConsecutiveErrors,
        Self::ConsecutiveGatewayErrors,
        Self::ConsecutiveLocalFailures,
        Self::FailurePercentage,
    ];

    /// As Envoy's log of ejections names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveErrors => "consecutive_5xx",
            Self::ConsecutiveGatewayErrors => "consecutive_gateway_failure",
            Self::ConsecutiveLocalFailures => "consecutive_local_origin_failure",
            Self::FailurePercentage => "failure_percentage",
        }
    }
}

impl FactBody for CircuitRecord {
    const KIND: FactKind = FactKind::CIRCUITS;
}
