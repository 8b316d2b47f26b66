//! What the proxy finds out about the endpoints that this node's callers use: logged and counted. Circuits are each
//! node's own.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use weft_policy::{
    balance::{Cluster, Trip},
    endpoint::Endpoint,
};
use weft_proxy::ports::VerdictSink;

use crate::telemetry::Telemetry;

/// What a circuit became, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Transition {
    /// `tripped` or `passing`.
    to: &'static str,
    /// Of outlier detection; empty for `passing`.
    cause: &'static str,
}

/// This node's circuits, as far as they are told.
#[derive(Default)]
pub struct Circuits {
    transitions: Family<Transition, Counter>,
}

impl Circuits {
    pub fn new(telemetry: &Telemetry) -> Self {
        let circuits = Self::default();
        let help = "Endpoints that outlier detection took out of use, and those that are back";
        telemetry
            .register(|registry| registry.register("weft_circuit_transitions", help, circuits.transitions.clone()));
        circuits
    }
}

impl VerdictSink for Circuits {
    fn tripped(&self, cluster: &Cluster, trip: &Trip, for_ms: u64) {
        let (cluster, endpoint, cause) = (&cluster.name, &trip.endpoint.key, trip.cause.as_str());
        self.transitions.get_or_create(&Transition { to: "tripped", cause }).inc();
        tracing::warn!(%cluster, %endpoint, cause, for_ms, "endpoint ejected");
    }

    fn returned(&self, cluster: &Cluster, endpoint: &Endpoint) {
        let (cluster, endpoint) = (&cluster.name, &endpoint.key);
        self.transitions.get_or_create(&Transition { to: "passing", cause: "" }).inc();
        tracing::info!(%cluster, %endpoint, "endpoint back in use");
    }
}
