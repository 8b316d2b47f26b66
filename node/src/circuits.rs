//! What is told of circuits: what the proxy finds out about the endpoints that this node's callers use, and what the mesh
//! makes of it. Logged and counted; and the actor that shares it is woken.

use std::sync::Arc;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use tokio::sync::Notify;
use weft_policy::{
    balance::{Cluster, Trip},
    endpoint::{Endpoint, Standing},
};
use weft_proxy::ports::VerdictSink;

use crate::{
    events::{Events, Kind},
    telemetry::Telemetry,
};

/// What a circuit became, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Transition {
    /// `tripped` or `passing`.
    to: &'static str,
    /// Of outlier detection; empty for `passing`.
    cause: &'static str,
}

/// What the mesh makes of an endpoint for this node's callers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verdict {
    /// `preferred`, `demoted` or `excluded`.
    standing: &'static str,
}

/// This node's circuits, as far as they are told.
#[derive(Clone, Default)]
pub struct Circuits {
    transitions: Family<Transition, Counter>,
    verdicts: Family<Verdict, Counter>,
    changed: Arc<Notify>,
    events: Events,
}

impl Circuits {
    pub fn new(telemetry: &Telemetry) -> Self {
        let circuits = Self { events: telemetry.events.clone(), ..Self::default() };
        let help = "Endpoints that outlier detection took out of use, and those that are back";
        telemetry.register(|registry| {
            registry.register("weft_circuit_transitions", help, circuits.transitions.clone());
            let help = "What other nodes' words have made of endpoints for this node's callers";
            registry.register("weft_circuit_verdicts", help, circuits.verdicts.clone());
        });
        circuits
    }

    /// What the mesh makes of an endpoint has changed.
    pub fn heard(&self, cluster: &Cluster, endpoint: &Endpoint, standing: Standing) {
        let (cluster, endpoint, standing) = (&cluster.name, &endpoint.key, standing.as_str());
        self.verdicts.get_or_create(&Verdict { standing }).inc();
        tracing::info!(%cluster, %endpoint, standing, "the mesh has seen an endpoint");
        self.events.say(Kind::Circuit, endpoint, format!("{standing} by what other nodes have seen ({cluster})"));
    }

    /// Until there is something new. What has changed is found where it is: in the clusters of the view.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl VerdictSink for Circuits {
    fn failing(&self, cluster: &Cluster, endpoint: &Endpoint) {
        tracing::debug!(cluster = &*cluster.name, endpoint = %endpoint.key, "endpoint fails");
        self.changed.notify_one();
    }

    fn tripped(&self, cluster: &Cluster, trip: &Trip, for_ms: u64) {
        let (cluster, endpoint, cause) = (&cluster.name, &trip.endpoint.key, trip.failures.cause.as_str());
        self.transitions.get_or_create(&Transition { to: "tripped", cause }).inc();
        tracing::warn!(%cluster, %endpoint, cause, failures = trip.failures.count, for_ms, "endpoint ejected");
        let seconds = for_ms.div_ceil(1_000);
        self.events.say(Kind::Circuit, endpoint, format!("tripped for {seconds}s: {cause} ({cluster})"));
        self.changed.notify_one();
    }

    fn returned(&self, cluster: &Cluster, endpoint: &Endpoint) {
        let (cluster, endpoint) = (&cluster.name, &endpoint.key);
        self.transitions.get_or_create(&Transition { to: "passing", cause: "" }).inc();
        tracing::info!(%cluster, %endpoint, "endpoint back in use");
        self.events.say(Kind::Circuit, endpoint, format!("passing again ({cluster})"));
        self.changed.notify_one();
    }
}
