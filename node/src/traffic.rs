//! Who calls whom in the mesh, how often and how well: rates of the last seconds, without a database.
//!
//! Each node makes rates of its own counters ([`windows`]). Whoever wants to know asks all nodes and adds up what they
//! say ([`merge`]); latencies are the histograms' buckets, which add up too. What people look at is made of that:
//! [`select`] and [`table`] for `weft stat` and `weft edges`, [`graph`] for `weft graph`. The last half hour is kept in
//! larger steps ([`history`]), for charts and replay.

pub mod graph;
pub mod history;
pub mod merge;
pub mod select;
pub mod table;
pub mod windows;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_proxy::metrics::{BOUNDS, Edge, Reporter};

/// What the labels say where something is not known.
pub const UNKNOWN: &str = "unknown";

/// What went from one workload to another within a window, as told by one node, or by all. A field that this version
/// does not know is left out: the row may come from another node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Row {
    #[serde(flatten)]
    pub call: Call,
    pub reporter: Side,
    #[serde(flatten)]
    pub rates: Rates,
    /// What keeps callers of the asked node from the destination, such as `1/2 tripped`: endpoints of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit: Option<String>,
}

/// Who calls whom; `unknown` where it is not known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Call {
    pub source_namespace: String,
    pub source_workload: String,
    /// Istio's canonical service and revision. A node of an older version tells neither.
    #[serde(default = "unknown")]
    pub source_app: String,
    #[serde(default = "unknown")]
    pub source_version: String,
    pub service_namespace: String,
    /// Without its namespace; a host outside of the mesh whole.
    pub service: String,
    /// Whether it is such a host.
    #[serde(default)]
    pub outside: bool,
    pub destination_namespace: String,
    pub destination_workload: String,
    #[serde(default = "unknown")]
    pub destination_app: String,
    #[serde(default = "unknown")]
    pub destination_version: String,
    /// `http`, `grpc` or `tcp`.
    pub protocol: String,
}

/// Which side has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Source,
    Destination,
}

fn unknown() -> String {
    UNKNOWN.to_owned()
}

impl Call {
    fn of(edge: &Edge) -> (Self, Side) {
        let Edge { source, destination, .. } = edge.clone();
        let call = Self {
            source_namespace: source.namespace,
            source_workload: source.workload,
            source_app: source.app,
            source_version: source.version,
            service_namespace: edge.service_namespace.clone(),
            service: edge.service.clone(),
            outside: edge.is_outside,
            destination_namespace: destination.namespace,
            destination_workload: destination.workload,
            destination_app: destination.app,
            destination_version: destination.version,
            protocol: edge.protocol.to_owned(),
        };
        let side = match edge.reporter {
            Reporter::Source => Side::Source,
            Reporter::Destination => Side::Destination,
        };
        (call, side)
    }
}

/// Numbers of a window. Those per second add up, of whichever nodes and calls.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Rates {
    /// HTTP requests per second.
    pub requests: f64,
    /// Of these: 5xx, gRPC statuses that stand for one, or no response though the caller waited for it.
    pub failures: f64,
    /// And of these: 4xx, and gRPC statuses that stand for one.
    pub client_errors: f64,
    /// Tries per second after the first of their requests.
    pub retries: f64,
    /// Requests per second by duration, in the metrics' buckets ([`BOUNDS`], milliseconds). Empty if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub durations: Vec<f64>,
    /// Connections of bytes: opened per second, and of these those that could not be served.
    pub opened: f64,
    pub refused: f64,
    /// Open now.
    pub open: u64,
    /// Requests and connections per second that went to another node by mutual TLS; what stays on a node, or has TLS of
    /// its own to a place outside of the mesh, is neither this nor in the clear.
    pub mutual_tls: f64,
    /// Requests and connections per second that crossed the network without TLS.
    pub in_the_clear: f64,
    /// Bytes per second from callers: of connections and bodies.
    pub received_bytes: f64,
    /// Bytes per second to callers.
    pub sent_bytes: f64,
}

impl Rates {
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failures += other.failures;
        self.client_errors += other.client_errors;
        self.mutual_tls += other.mutual_tls;
        self.in_the_clear += other.in_the_clear;
        self.retries += other.retries;
        self.opened += other.opened;
        self.refused += other.refused;
        self.open += other.open;
        self.received_bytes += other.received_bytes;
        self.sent_bytes += other.sent_bytes;
        self.durations.resize(self.durations.len().max(other.durations.len()).min(BOUNDS.len()), 0.0);
        self.durations.iter_mut().zip(&other.durations).for_each(|(sum, rate)| *sum += rate);
    }

    /// The share that did not fail, 0 to 1, of requests and connections; `None` if there were none.
    pub fn success(&self) -> Option<f64> {
        let all = self.requests + self.opened;
        (all > 0.0).then(|| (1.0 - (self.failures + self.refused) / all).clamp(0.0, 1.0))
    }

    /// The duration in milliseconds within which this share of requests ended, 0 to 1: as Prometheus'
    /// `histogram_quantile` finds it, evenly spread within a bucket. `None` without requests.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let all: f64 = self.durations.iter().sum();
        if all <= 0.0 {
            return None;
        }
        let wanted = share * all;
        let (mut below, mut lower) = (0.0, 0.0);
        for (count, bound) in self.durations.iter().zip(BOUNDS) {
            if bound.is_infinite() {
                break;
            }
            if *count > 0.0 && below + count >= wanted {
                return Some(lower + (bound - lower) * ((wanted - below) / count).clamp(0.0, 1.0));
            }
            below += count;
            lower = bound;
        }
        Some(lower)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// `SOURCE>SERVICE@DESTINATION` in the namespace `default`.
    pub(crate) fn call(text: &str) -> Call {
        // As Istio has it: what comes before a version.
        let of = |workload: &str| match workload.rsplit_once("-v") {
            Some((app, version)) => (app.to_owned(), format!("v{version}")),
            None => (workload.to_owned(), if workload == UNKNOWN { UNKNOWN.to_owned() } else { "latest".to_owned() }),
        };
        let (source, rest) = text.split_once('>').unwrap();
        let (service, destination) = rest.split_once('@').unwrap_or((rest, UNKNOWN));
        let namespace = |name: &str| if name == UNKNOWN { UNKNOWN.to_owned() } else { "default".to_owned() };
        Call {
            source_namespace: namespace(source),
            source_workload: source.to_owned(),
            source_app: of(source).0,
            source_version: of(source).1,
            service_namespace: namespace(service),
            service: service.to_owned(),
            outside: false,
            destination_namespace: namespace(destination),
            destination_workload: destination.to_owned(),
            destination_app: of(destination).0,
            destination_version: of(destination).1,
            protocol: "http".to_owned(),
        }
    }

    pub(crate) fn row(text: &str, reporter: Side, requests: f64) -> Row {
        let rates = Rates { requests, ..Rates::default() };
        Row { call: call(text), reporter, rates, circuit: None }
    }

    #[test]
    fn quantiles_are_those_of_prometheus() {
        let mut durations = vec![0.0; BOUNDS.len()];
        assert_eq!(Rates { durations: durations.clone(), ..Rates::default() }.quantile(0.5), None);
        durations[2] = 50.0; // 1 to 5 ms
        durations[3] = 50.0; // 5 to 10 ms
        let rates = Rates { durations: durations.clone(), ..Rates::default() };
        let quantiles = [0.0, 0.25, 0.5, 0.75, 1.0].map(|share| rates.quantile(share).unwrap());
        assert_eq!(quantiles, [1.0, 3.0, 5.0, 7.5, 10.0]);
        durations[19] = 100.0; // longer than all bounds
        assert_eq!(Rates { durations, ..Rates::default() }.quantile(0.99), Some(3_600_000.0));
    }

    #[test]
    fn sums_of_windows_are_windows_of_sums() {
        let one = Rates { requests: 2.0, failures: 1.0, durations: vec![1.0, 1.0], ..Rates::default() };
        let other = Rates { requests: 6.0, durations: vec![0.0, 0.0, 6.0], open: 2, ..Rates::default() };
        let mut sum = one.clone();
        sum.add(&other);
        assert_eq!((sum.requests, sum.failures, sum.open), (8.0, 1.0, 2));
        assert_eq!(sum.durations, [1.0, 1.0, 6.0]);
        assert_eq!(sum.success(), Some(0.875));
        assert_eq!(Rates::default().success(), None);
    }
}
