//! Which endpoints somebody in the mesh complains of, and what follows from it on this node.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_policy::{
    circuit::Seen,
    endpoint::{EndpointKey, Standing},
};

use crate::{actors::Handles, identity::wall_ms};

/// An element of `GET /api/v1/circuits`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Circuit {
    /// `NODE/NAMESPACE/WORKLOAD:PORT`, `outside` for the node of a place outside of the mesh.
    pub endpoint: String,
    /// The hosts that it serves, as far as failures are counted there.
    pub hosts: Vec<String>,
    /// How callers of this node stand to it: `preferred`, `demoted` or `excluded`.
    pub standing: String,
    /// This node first, if it complains, then by name.
    pub seen: Vec<Observation>,
}

/// What one node has seen.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Observation {
    pub node: String,
    pub this_node: bool,
    /// `failing`, `tripped` or `probing`.
    pub state: String,
    /// What outlier detection has counted, such as `consecutive_5xx`.
    pub cause: String,
    /// In a row.
    pub failures: u32,
    /// By that node's clock.
    pub since_unix_millis: u64,
    /// For how long it keeps from the endpoint, as of when it said so.
    pub left_millis: u32,
    /// How long its word holds if it does not renew it; none for this node's own.
    pub lease_left_millis: Option<u64>,
}

impl Handles {
    pub fn circuits(&self) -> Vec<Circuit> {
        let (view, now_ms) = (self.views.load(), self.views.now_ms());
        let seen = self.circuits.lock().seen(wall_ms(), now_ms);
        let mut found: BTreeMap<&EndpointKey, (BTreeSet<&str>, Standing)> = BTreeMap::new();
        for cluster in view.watched_clusters() {
            for endpoint in cluster.endpoints.iter().filter(|endpoint| seen.contains_key(&endpoint.key)) {
                let (hosts, standing) = found.entry(&endpoint.key).or_default();
                hosts.insert(&cluster.fqdn);
                *standing = endpoint.standing_here(now_ms).max(*standing);
            }
        }
        let me = &self.identity.load().name;
        let circuits = seen.iter().map(|(key, seen)| {
            let (hosts, standing) = found.remove(key).unwrap_or_default();
            Circuit {
                endpoint: key.to_string(),
                hosts: hosts.into_iter().map(str::to_owned).collect(),
                standing: standing.as_str().to_owned(),
                seen: seen.iter().map(|seen| Observation::of(seen, seen.observer == *me)).collect(),
            }
        });
        circuits.collect()
    }
}

impl Observation {
    fn of(seen: &Seen, this_node: bool) -> Self {
        let Seen { observer, circuit, lease_left_ms } = seen;
        Self {
            node: observer.to_string(),
            this_node,
            state: circuit.state.as_str().to_owned(),
            cause: circuit.cause.as_str().to_owned(),
            failures: circuit.failures,
            since_unix_millis: circuit.since_ms,
            left_millis: circuit.left_ms,
            lease_left_millis: *lease_left_ms,
        }
    }
}
