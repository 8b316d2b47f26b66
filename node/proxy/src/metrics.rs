//! Istio's standard metrics, with its names and labels, so that Kiali and Grafana dashboards work unchanged.
//! See <https://istio.io/latest/docs/reference/config/metrics/>.
//!
//! Label values come from the view and from small fixed sets, never from what a request says, so that no caller can
//! make the series grow without bound.
//!
//! A series' numbers are atomics shared by all workers; finding the series is what costs, so each worker keeps the
//! ones it uses in a map of its own, keyed by pointers. The request path takes no lock and allocates nothing.

mod clear;
mod histogram;
mod labels;
mod refused;
mod series;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use tokio::runtime::RuntimeMetrics;

pub use self::clear::SentInTheClear;
use self::{clear::InTheClear, histogram::Histogram, labels::Labels, refused::RefusedCounters};
pub(crate) use self::{
    labels::{Flag, RequestProtocol},
    refused::Refused,
    series::{HttpOutcome, Parties, Reporter, WorkerMetrics},
};

/// The proxy's metrics. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Inner>);

#[derive(Default)]
struct Inner {
    http: RwLock<HashMap<Labels, Arc<HttpSeries>>>,
    tcp: RwLock<HashMap<Labels, Arc<TcpSeries>>>,
    /// Connections to the inbound port that ended before a mutual TLS handshake was complete.
    handshakes_refused: AtomicU64,
    /// Access log lines that were dropped because the writer could not keep up.
    access_log_dropped: AtomicU64,
    refused: RefusedCounters,
    access: AccessCounts,
    /// Endpoints that outlier detection should have taken out of use, but for `maxEjectionPercent`.
    ejections_overflow: AtomicU64,
    /// Copies of requests that were not sent, because too many were under way.
    mirrors_overflow: AtomicU64,
    /// Tries after the first of their requests, but for those that were sent beside one under way.
    retries: AtomicU64,
    /// Tries that were not made, for want of room among the cluster's retries.
    retries_overflow: AtomicU64,
    /// Tries that were sent beside one under way.
    hedges: AtomicU64,
    runtimes: RwLock<Vec<(String, RuntimeMetrics)>>,
}

/// What workloads' policies found. Who is let in is not counted here: that is a request like others.
#[derive(Default)]
struct AccessCounts {
    denied_by_policy: AtomicU64,
    tokens_refused: AtomicU64,
    audited: AtomicU64,
    dry_run_allowed: AtomicU64,
    dry_run_denied: AtomicU64,
    connections_cut: AtomicU64,
    provider_failures: AtomicU64,
}

/// The numbers of one label set of HTTP.
#[derive(Debug, Default)]
pub(crate) struct HttpSeries {
    requests: AtomicU64,
    duration_ms: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
    in_the_clear: InTheClear,
}

impl HttpSeries {
    fn record(&self, duration: Duration, request_bytes: u64, response_bytes: u64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.duration_ms.observe(duration.as_secs_f64() * 1_000.0);
        self.request_bytes.observe(request_bytes as f64);
        self.response_bytes.observe(response_bytes as f64);
    }
}

/// The numbers of one label set of TCP. Received is what came from the caller, sent what went to it, as in Istio.
#[derive(Debug, Default)]
pub(crate) struct TcpSeries {
    pub(crate) opened: AtomicU64,
    pub(crate) closed: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    in_the_clear: InTheClear,
}

impl Metrics {
    /// Adds all metrics of the proxy to what `registry` gives out.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    /// Has the tasks of a runtime counted.
    pub fn add_runtime(&self, name: String, runtime: RuntimeMetrics) {
        self.0.runtimes.write().push((name, runtime));
    }

    pub(crate) fn count_refused_handshake(&self) {
        self.0.handshakes_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_dropped_log_line(&self) {
        self.0.access_log_dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_refused(&self, reason: Refused) {
        self.0.refused.count(reason);
    }

    pub(crate) fn count_ejection_overflow(&self) {
        self.0.ejections_overflow.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_retry(&self) {
        self.0.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_retry_overflow(&self) {
        self.0.retries_overflow.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_hedge(&self) {
        self.0.hedges.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_mirror_overflow(&self) {
        self.0.mirrors_overflow.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_denied_by_policy(&self) {
        self.0.access.denied_by_policy.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_refused_token(&self) {
        self.0.access.tokens_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_cut_connection(&self) {
        self.0.access.connections_cut.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_provider_failure(&self) {
        self.0.access.provider_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_audited(&self) {
        self.0.access.audited.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_dry_run(&self, allowed: bool) {
        let counts = &self.0.access;
        let count = if allowed { &counts.dry_run_allowed } else { &counts.dry_run_denied };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn http(&self, labels: Labels) -> Arc<HttpSeries> {
        self.0.http.write().entry(labels).or_default().clone()
    }

    fn tcp(&self, labels: Labels) -> Arc<TcpSeries> {
        self.0.tcp.write().entry(labels).or_default().clone()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

type CounterOf<S> = (&'static str, &'static str, fn(&S) -> &AtomicU64);
type HistogramOf<S> = (&'static str, &'static str, fn(&S) -> &Histogram);

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        const REQUESTS: CounterOf<HttpSeries> = ("istio_requests", "HTTP requests", |series| &series.requests);
        const HISTOGRAMS: [HistogramOf<HttpSeries>; 3] = [
            ("istio_request_duration_milliseconds", "Time from a request's head to its response's end", |series| {
                &series.duration_ms
            }),
            ("istio_request_bytes", "Size of HTTP request bodies", |series| &series.request_bytes),
            ("istio_response_bytes", "Size of HTTP response bodies", |series| &series.response_bytes),
        ];
        const TCP: [CounterOf<TcpSeries>; 4] = [
            ("istio_tcp_connections_opened", "TCP connections opened", |series| &series.opened),
            ("istio_tcp_connections_closed", "TCP connections closed", |series| &series.closed),
            ("istio_tcp_received_bytes", "Bytes that came from callers of TCP services", |series| {
                &series.received_bytes
            }),
            ("istio_tcp_sent_bytes", "Bytes that went to callers of TCP services", |series| &series.sent_bytes),
        ];

        let http = self.0.http.read();
        encode_counters(&mut encoder, &http, REQUESTS)?;
        for (name, help, histogram) in HISTOGRAMS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            for (labels, series) in http.iter() {
                histogram(series).encode(metric.encode_family(labels)?)?;
            }
        }
        drop(http);
        let tcp = self.0.tcp.read();
        for counter in TCP {
            encode_counters(&mut encoder, &tcp, counter)?;
        }
        drop(tcp);

        let mut build = encoder.encode_descriptor("istio_build", "What runs here", None, MetricType::Gauge)?;
        let build_labels = [("component", "proxy"), ("tag", env!("CARGO_PKG_VERSION"))];
        ConstGauge::new(1_i64).encode(build.encode_family(&build_labels)?)?;

        let help = "Tasks that are not at their end";
        let mut tasks = encoder.encode_descriptor("weft_tasks", help, None, MetricType::Gauge)?;
        for (runtime, metrics) in self.0.runtimes.read().iter() {
            let count = ConstGauge::new(i64::try_from(metrics.num_alive_tasks()).unwrap_or(i64::MAX));
            count.encode(tasks.encode_family(&[("runtime", runtime.as_str())])?)?;
        }

        let help = "Requests, responses and connections refused or broken off for what their sender did";
        let mut refused = encoder.encode_descriptor("weft_http_refused", help, None, MetricType::Counter)?;
        for (reason, count) in self.0.refused.iter() {
            ConstCounter::new(count).encode(refused.encode_family(&[("reason", reason)])?)?;
        }

        for (name, help, value) in [
            (
                "weft_outlier_ejections_overflow",
                "Endpoints that stayed in use because too many others were taken out",
                &self.0.ejections_overflow,
            ),
            (
                "weft_mirrors_overflow",
                "Copies of requests that were not sent because too many were under way",
                &self.0.mirrors_overflow,
            ),
            ("weft_retries", "Tries that were made because one before them failed", &self.0.retries),
            (
                "weft_retries_overflow",
                "Tries that were not made because too many were under way to the cluster",
                &self.0.retries_overflow,
            ),
            ("weft_hedges", "Requests that were sent to a second endpoint while the first took long", &self.0.hedges),
            (
                "weft_inbound_handshakes_refused",
                "Connections to the data port without a valid mutual TLS handshake",
                &self.0.handshakes_refused,
            ),
            (
                "weft_access_log_dropped",
                "Access log lines dropped because the writer was behind",
                &self.0.access_log_dropped,
            ),
            (
                "weft_access_denied",
                "Requests and connections denied by AuthorizationPolicies",
                &self.0.access.denied_by_policy,
            ),
            (
                "weft_access_tokens_refused",
                "Requests refused for their tokens by RequestAuthentications",
                &self.0.access.tokens_refused,
            ),
            (
                "weft_access_audited",
                "Requests and connections that matched an AuthorizationPolicy of action AUDIT",
                &self.0.access.audited,
            ),
            (
                "weft_access_dry_run_allowed",
                "Requests and connections that AuthorizationPolicies in dry run would allow",
                &self.0.access.dry_run_allowed,
            ),
            (
                "weft_access_dry_run_denied",
                "Requests and connections that AuthorizationPolicies in dry run would deny",
                &self.0.access.dry_run_denied,
            ),
            (
                "weft_access_provider_failures",
                "Requests and connections for which an external authorizer gave no answer",
                &self.0.access.provider_failures,
            ),
            (
                "weft_access_connections_cut",
                "Connections and requests ended because the workload's policies changed and let their callers in no more",
                &self.0.access.connections_cut,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value.load(Ordering::Relaxed)).encode(metric)?;
        }
        Ok(())
    }
}

fn encode_counters<S>(
    encoder: &mut DescriptorEncoder<'_>,
    all: &HashMap<Labels, Arc<S>>,
    (name, help, value): CounterOf<S>,
) -> fmt::Result {
    let mut metric: MetricEncoder<'_> = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, series) in all {
        let value = value(series).load(Ordering::Relaxed);
        metric.encode_family(labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
    }
    Ok(())
}
