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
mod reading;
mod refused;
mod series;
mod table;
pub mod text;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::UNIX_EPOCH,
};

use parking_lot::RwLock;
use tokio::{runtime::RuntimeMetrics, time::Instant};

pub use self::{
    clear::SentInTheClear,
    histogram::BOUNDS,
    labels::{Edge, Party, Reporter},
    reading::{Counts, SeriesId},
};
use self::{
    clear::Ways,
    histogram::{Exemplars, Histogram},
    labels::Labels,
    refused::RefusedCounters,
    series::Class,
    table::{Numbers, Table},
    text::{Exemplar, Kind, Page},
};
pub(crate) use self::{
    labels::{Flag, RequestProtocol},
    refused::Refused,
    series::{Exchanged, HttpOutcome, Parties, WorkerMetrics},
};

/// The proxy's metrics. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Inner>);

#[derive(Default)]
struct Inner {
    http: Table<HttpSeries>,
    messages: Table<MessageSeries>,
    tcp: Table<TcpSeries>,
    /// Mutual TLS handshakes with other nodes that were completed, as their server and as their client.
    handshakes: [AtomicU64; 2],
    /// Those as client that failed.
    handshakes_failed: AtomicU64,
    pooled: RwLock<Vec<Arc<Pooled>>>,
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

/// The connections that one worker keeps for requests to come, as counted at its latest look.
#[derive(Debug, Default)]
pub(crate) struct Pooled {
    /// To workloads and places outside, idle, HTTP/1.1.
    pub(crate) idle: AtomicU64,
    /// To workloads and places outside, HTTP/2.
    pub(crate) http2: AtomicU64,
    /// To other nodes.
    pub(crate) nodes: AtomicU64,
}

/// The numbers of one label set of HTTP.
pub(crate) struct HttpSeries {
    id: SeriesId,
    /// Whose requests these are.
    edge: Edge,
    class: Class,
    requests: AtomicU64,
    /// Tries after the first of their requests.
    retries: AtomicU64,
    duration_ms: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
    exemplars: Exemplars,
    ways: Ways,
}

impl HttpSeries {
    fn new(edge: Edge, class: Class) -> Self {
        Self {
            id: SeriesId::next(),
            edge,
            class,
            requests: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            duration_ms: Histogram::default(),
            request_bytes: Histogram::default(),
            response_bytes: Histogram::default(),
            exemplars: Exemplars::default(),
            ways: Ways::default(),
        }
    }

    fn record(&self, exchanged: &Exchanged) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let ms = exchanged.duration.as_secs_f64() * 1_000.0;
        let bucket = self.duration_ms.observe(ms);
        self.request_bytes.observe(exchanged.request_bytes as f64);
        self.response_bytes.observe(exchanged.response_bytes as f64);
        if exchanged.retries > 0 {
            self.retries.fetch_add(exchanged.retries.into(), Ordering::Relaxed);
        }
        if let Some(trace_id) = exchanged.trace_id {
            let at = UNIX_EPOCH.elapsed().unwrap_or_default().as_secs_f64();
            self.exemplars.put(bucket, Exemplar { trace_id, value: ms, at });
        }
    }
}

impl Numbers for HttpSeries {
    fn progress(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn is_remembered(&self) -> bool {
        self.ways.has_any_in_the_clear()
    }
}

/// The messages of gRPC calls of one label set.
#[derive(Debug, Default)]
pub(crate) struct MessageSeries {
    pub(crate) requests: AtomicU64,
    pub(crate) responses: AtomicU64,
}

impl Numbers for MessageSeries {
    fn progress(&self) -> u64 {
        self.requests.load(Ordering::Relaxed) + self.responses.load(Ordering::Relaxed)
    }

    fn is_remembered(&self) -> bool {
        false
    }
}

/// The numbers of one label set of TCP. Received is what came from the caller, sent what went to it, as in Istio.
pub(crate) struct TcpSeries {
    id: SeriesId,
    edge: Edge,
    is_failure: bool,
    pub(crate) opened: AtomicU64,
    pub(crate) closed: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    ways: Ways,
}

impl TcpSeries {
    fn new(edge: Edge, is_failure: bool) -> Self {
        Self {
            id: SeriesId::next(),
            edge,
            is_failure,
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            ways: Ways::default(),
        }
    }
}

impl Numbers for TcpSeries {
    fn progress(&self) -> u64 {
        let numbers = [&self.opened, &self.closed, &self.received_bytes, &self.sent_bytes];
        numbers.map(|number| number.load(Ordering::Relaxed)).into_iter().fold(0, u64::wrapping_add)
    }

    fn is_remembered(&self) -> bool {
        self.ways.has_any_in_the_clear()
    }
}

impl Metrics {
    /// Forgets the series that are over: see [`table`].
    pub fn expire(&self, now: Instant) {
        self.0.http.expire(now);
        self.0.messages.expire(now);
        self.0.tcp.expire(now);
    }

    /// Has the tasks of a runtime counted.
    pub fn add_runtime(&self, name: String, runtime: RuntimeMetrics) {
        self.0.runtimes.write().push((name, runtime));
    }

    /// Where one worker says what its pools hold.
    pub(crate) fn add_pools(&self) -> Arc<Pooled> {
        let pooled = Arc::<Pooled>::default();
        self.0.pooled.write().push(pooled.clone());
        pooled
    }

    /// A mutual TLS handshake with another node was completed, by this one as the server or as the client.
    pub(crate) fn count_handshake(&self, as_server: bool) {
        self.0.handshakes[usize::from(!as_server)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_failed_handshake(&self) {
        self.0.handshakes_failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_refused_handshake(&self) {
        self.0.handshakes_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_dropped_log_lines(&self, lines: u64) {
        self.0.access_log_dropped.fetch_add(lines, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn dropped_log_lines(&self) -> u64 {
        self.0.access_log_dropped.load(Ordering::Relaxed)
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
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

type CounterOf<S> = (&'static str, &'static str, fn(&S) -> &AtomicU64);
type HistogramOf = (&'static str, &'static str, fn(&HttpSeries) -> &Histogram);

const REQUESTS: CounterOf<HttpSeries> = ("istio_requests", "HTTP requests", |series| &series.requests);
const HISTOGRAMS: [HistogramOf; 3] = [
    ("istio_request_duration_milliseconds", "Time from a request's head to its response's end", |series| {
        &series.duration_ms
    }),
    ("istio_request_bytes", "Size of HTTP request bodies", |series| &series.request_bytes),
    ("istio_response_bytes", "Size of HTTP response bodies", |series| &series.response_bytes),
];
const MESSAGES: [CounterOf<MessageSeries>; 2] = [
    ("istio_request_messages", "Messages of gRPC callers", |series| &series.requests),
    ("istio_response_messages", "Messages that went to gRPC callers", |series| &series.responses),
];
const TCP: [CounterOf<TcpSeries>; 4] = [
    ("istio_tcp_connections_opened", "TCP connections opened", |series| &series.opened),
    ("istio_tcp_connections_closed", "TCP connections closed", |series| &series.closed),
    ("istio_tcp_received_bytes", "Bytes that came from callers of TCP services", |series| &series.received_bytes),
    ("istio_tcp_sent_bytes", "Bytes that went to callers of TCP services", |series| &series.sent_bytes),
];

impl Metrics {
    /// Writes all metrics of the proxy.
    pub fn write(&self, page: &mut Page) {
        let http = written(self.0.http.tell());
        counters(page, &http, REQUESTS);
        for (name, help, histogram) in HISTOGRAMS {
            page.family(name, help, Kind::Histogram);
            for (labels, series) in &http {
                // Only durations have traces.
                let exemplars = (name == HISTOGRAMS[0].0).then_some(&series.exemplars);
                histogram(series).write(page, name, labels, exemplars);
            }
        }
        let messages = written(self.0.messages.tell());
        MESSAGES.into_iter().for_each(|counter| counters(page, &messages, counter));
        let tcp = written(self.0.tcp.tell());
        TCP.into_iter().for_each(|counter| counters(page, &tcp, counter));

        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        page.family("istio_build", "What runs here", Kind::Gauge);
        let build = [("component", "proxy"), ("tag", env!("CARGO_PKG_VERSION"))];
        page.sample("istio_build", &text::labels(build), 1);

        page.family("weft_series", "Label sets of Istio's metrics that are kept", Kind::Gauge);
        page.sample("weft_series", "", self.0.http.len() + self.0.messages.len() + self.0.tcp.len());

        page.family("weft_tasks", "Tasks that are not at their end", Kind::Gauge);
        for (runtime, metrics) in self.0.runtimes.read().iter() {
            page.sample("weft_tasks", &text::labels([("runtime", runtime.as_str())]), metrics.num_alive_tasks());
        }

        page.family("weft_pool_connections", "Connections that are kept for requests to come", Kind::Gauge);
        let pooled = self.0.pooled.read().clone();
        type Of = fn(&Pooled) -> &AtomicU64;
        let kinds: [(&str, Of); 3] = [("idle", |p| &p.idle), ("http2", |p| &p.http2), ("node", |p| &p.nodes)];
        for (kind, of) in kinds {
            let sum: u64 = pooled.iter().map(|pooled| load(of(pooled))).sum();
            page.sample("weft_pool_connections", &text::labels([("kind", kind)]), sum);
        }

        page.family("weft_tls_handshakes", "Mutual TLS handshakes with other nodes, by outcome", Kind::Counter);
        let [server, client] = &self.0.handshakes;
        for (side, outcome, value) in [
            ("server", "complete", server),
            ("server", "failed", &self.0.handshakes_refused),
            ("client", "complete", client),
            ("client", "failed", &self.0.handshakes_failed),
        ] {
            page.sample(
                "weft_tls_handshakes_total",
                &text::labels([("side", side), ("outcome", outcome)]),
                load(value),
            );
        }

        let help = "Requests, responses and connections refused or broken off for what their sender did";
        page.family("weft_http_refused", help, Kind::Counter);
        for (reason, count) in self.0.refused.iter() {
            page.sample("weft_http_refused_total", &text::labels([("reason", reason)]), count);
        }

        let series_overflow = self.0.http.overflows() + self.0.messages.overflows() + self.0.tcp.overflows();
        let mut counter = |name: &str, help: &str, value: u64| {
            page.family(name, help, Kind::Counter);
            page.sample(&format!("{name}_total"), "", value);
        };
        counter("weft_series_overflow", "Times that a label set of Istio's metrics had no room", series_overflow);
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
            counter(name, help, load(value));
        }
    }
}

/// Series with their labels as they are written.
fn written<S>(all: Vec<(Arc<Labels>, Arc<S>)>) -> Vec<(String, Arc<S>)> {
    let text = |labels: &Labels| text::labels(labels.iter().map(|(name, value)| (*name, &**value)));
    all.into_iter().map(|(labels, series)| (text(&labels), series)).collect()
}

fn counters<S>(page: &mut Page, all: &[(String, Arc<S>)], (name, help, value): CounterOf<S>) {
    page.family(name, help, Kind::Counter);
    let sample = format!("{name}_total");
    for (labels, series) in all {
        page.sample(&sample, labels, value(series).load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SERIES: usize = 10_000;

    /// Memory of this process that is in RAM, in MiB.
    fn resident_mib() -> f64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix("kB").unwrap().trim().parse::<f64>().unwrap() / 1_024.0
    }

    /// Label sets as a mesh has them: names of usual length, none of them shared.
    fn labels(n: usize, outcome: &HttpOutcome) -> Labels {
        let mut labels = labels::http(&Parties::new(Reporter::Source), RequestProtocol::Http, outcome);
        for (name, value) in &mut labels {
            if name.starts_with("source_") || name.starts_with("destination_") {
                *value = format!("recommendations-{n:05}.shop").into();
            }
        }
        labels
    }

    #[test]
    #[ignore = "a measurement of the whole process: run it alone, with --no-capture"]
    fn ten_thousand_series_take_less_than_30_mib() {
        let metrics = Metrics::default();
        let before = resident_mib();
        let name = |what: &str, n: usize| format!("{what}-{n:05}");
        for n in 0..SERIES {
            let party = |of: &str| Party {
                namespace: "shop".into(),
                workload: name(of, n),
                app: of.into(),
                version: "v1".into(),
            };
            let edge = Edge {
                reporter: Reporter::Source,
                source: party("frontend"),
                destination: party("recommendations"),
                service_namespace: "shop".into(),
                service: name("recommendations", n),
                is_outside: false,
                protocol: "http",
            };
            let outcome = HttpOutcome { status: 200, ..HttpOutcome::default() };
            // As many as there may be of HTTP, which are the largest, and the rest of bytes.
            match metrics.0.http.len() < table::MAX_SERIES {
                true => drop(metrics.0.http.get(labels(n, &outcome), || HttpSeries::new(edge, Class::Fine))),
                false => drop(metrics.0.tcp.get(labels(n, &outcome), || TcpSeries::new(edge, false))),
            }
        }
        let took = resident_mib() - before;
        let kept = metrics.0.http.len() + metrics.0.tcp.len();
        println!("{kept} series ({} of HTTP): {took:.1} MiB", metrics.0.http.len());
        assert!(took < 30.0, "{took:.1} MiB");
    }
}
