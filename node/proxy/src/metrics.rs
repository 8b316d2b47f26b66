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
mod recorded;
mod refused;
mod series;
mod shape;
mod table;
pub mod text;

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::UNIX_EPOCH,
};

use parking_lot::{Mutex, RwLock};
use tokio::{runtime::RuntimeMetrics, time::Instant};
use tracing::warn;
use weft_policy::{telemetry::Metric, view::MeshView};

pub use self::{
    clear::SentInTheClear,
    histogram::BOUNDS,
    labels::{Edge, Party, Reporter},
    reading::{Counts, SeriesId},
};
use self::{
    clear::Ways,
    histogram::{Exemplars, Histogram},
    refused::RefusedCounters,
    series::Class,
    shape::{Amount, Ends, Remainders, Shaping, with_stack},
    table::{Numbers, Table},
    text::{Exemplar, Kind, Page},
};
pub(crate) use self::{
    labels::{Flag, RequestProtocol},
    recorded::{Counted, Recorded, Values},
    refused::Refused,
    series::{Exchanged, HttpOutcome, Parties, WorkerMetrics},
};
use crate::ports::Views;

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
    /// Where it is told what documents make of series; set once.
    views: OnceLock<Views>,
    remainders: Mutex<Remainders>,
    /// Whether any series ever had labels that documents ask of requests.
    has_recorded: AtomicBool,
    /// Values of labels for which there was no room.
    values_cut: AtomicU64,
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
    ends: Ends,
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
    fn new(edge: Edge, class: Class, ends: Ends) -> Self {
        Self {
            id: SeriesId::next(),
            edge,
            class,
            ends,
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

    fn ends(&self) -> &Ends {
        &self.ends
    }
}

/// The messages of gRPC calls of one label set.
pub(crate) struct MessageSeries {
    ends: Ends,
    pub(crate) requests: AtomicU64,
    pub(crate) responses: AtomicU64,
}

impl MessageSeries {
    fn new(ends: Ends) -> Self {
        Self { ends, requests: AtomicU64::new(0), responses: AtomicU64::new(0) }
    }
}

#[cfg(test)]
impl MessageSeries {
    pub(crate) fn of_nobody() -> Self {
        Self::new(Ends::of(&Parties::new(Reporter::Source)))
    }
}

impl Numbers for MessageSeries {
    fn progress(&self) -> u64 {
        self.requests.load(Ordering::Relaxed) + self.responses.load(Ordering::Relaxed)
    }

    fn is_remembered(&self) -> bool {
        false
    }

    fn ends(&self) -> &Ends {
        &self.ends
    }
}

/// The numbers of one label set of TCP. Received is what came from the caller, sent what went to it, as in Istio.
pub(crate) struct TcpSeries {
    id: SeriesId,
    edge: Edge,
    is_failure: bool,
    ends: Ends,
    pub(crate) opened: AtomicU64,
    pub(crate) closed: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    ways: Ways,
}

impl TcpSeries {
    fn new(edge: Edge, is_failure: bool, ends: Ends) -> Self {
        Self {
            id: SeriesId::next(),
            edge,
            is_failure,
            ends,
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

    fn ends(&self) -> &Ends {
        &self.ends
    }
}

impl Metrics {
    /// Has Telemetry documents shape what is told. Only the first time has an effect.
    pub fn shaped_by(&self, views: Views) {
        let _ = self.0.views.set(views);
    }

    /// The view, if its documents shape metrics; or did, and there are series that differ by nothing else.
    fn shaping_view(&self) -> Option<Arc<MeshView>> {
        let view = self.0.views.get()?.load();
        (view.shapes_metrics() || self.0.has_recorded.load(Ordering::Relaxed)).then_some(view)
    }

    /// Forgets the series that are over: see [`table`].
    pub fn expire(&self, now: Instant) {
        let Inner { http, messages, tcp, remainders, .. } = &*self.0;
        let Some(view) = self.shaping_view() else {
            http.expire(now);
            messages.expire(now);
            tcp.expire(now);
            return remainders.lock().clear();
        };
        // Without a thread nothing expires; the next time it does.
        let _ = with_stack(|| {
            let mut shaping = Shaping::new(view, remainders.lock());
            shaping.keep(&HTTP, &http.expire(now), http);
            shaping.keep(&MESSAGES, &messages.expire(now), messages);
            shaping.keep(&TCP, &tcp.expire(now), tcp);
        });
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

    pub(crate) fn count_cut_values(&self, values: u64) {
        self.0.values_cut.fetch_add(values, Ordering::Relaxed);
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

/// One of Istio's metrics.
struct Family<S> {
    metric: Metric,
    name: &'static str,
    help: &'static str,
    kind: Kind,
    read: fn(&S) -> Amount,
}

const fn counter<S>(metric: Metric, name: &'static str, help: &'static str, read: fn(&S) -> Amount) -> Family<S> {
    Family { metric, name, help, kind: Kind::Counter, read }
}

const fn histogram(
    metric: Metric,
    name: &'static str,
    help: &'static str,
    read: fn(&HttpSeries) -> Amount,
) -> Family<HttpSeries> {
    Family { metric, name, help, kind: Kind::Histogram, read }
}

fn count(value: &AtomicU64) -> Amount {
    Amount::Count(value.load(Ordering::Relaxed))
}

static HTTP: [Family<HttpSeries>; 4] = [
    counter(Metric::RequestCount, "istio_requests", "HTTP requests", |series| count(&series.requests)),
    histogram(
        Metric::RequestDuration,
        "istio_request_duration_milliseconds",
        "Time from a request's head to its response's end",
        // Only durations have traces.
        |series| Amount::Buckets(series.duration_ms.read(Some(&series.exemplars))),
    ),
    histogram(Metric::RequestSize, "istio_request_bytes", "Size of HTTP request bodies", |series| {
        Amount::Buckets(series.request_bytes.read(None))
    }),
    histogram(Metric::ResponseSize, "istio_response_bytes", "Size of HTTP response bodies", |series| {
        Amount::Buckets(series.response_bytes.read(None))
    }),
];
static MESSAGES: [Family<MessageSeries>; 2] = [
    counter(Metric::GrpcRequestMessages, "istio_request_messages", "Messages of gRPC callers", |series| {
        count(&series.requests)
    }),
    counter(Metric::GrpcResponseMessages, "istio_response_messages", "Messages that went to gRPC callers", |series| {
        count(&series.responses)
    }),
];
static TCP: [Family<TcpSeries>; 4] = [
    counter(Metric::TcpOpenedConnections, "istio_tcp_connections_opened", "TCP connections opened", |series| {
        count(&series.opened)
    }),
    counter(Metric::TcpClosedConnections, "istio_tcp_connections_closed", "TCP connections closed", |series| {
        count(&series.closed)
    }),
    counter(
        Metric::TcpReceivedBytes,
        "istio_tcp_received_bytes",
        "Bytes that came from callers of TCP services",
        |series| count(&series.received_bytes),
    ),
    counter(Metric::TcpSentBytes, "istio_tcp_sent_bytes", "Bytes that went to callers of TCP services", |series| {
        count(&series.sent_bytes)
    }),
];

impl Metrics {
    /// Istio's metrics, as documents have it.
    fn write_istios(&self, page: &mut Page, shaping: Option<&Shaping<'_>>) {
        write(page, &self.0.http, &HTTP, shaping);
        write(page, &self.0.messages, &MESSAGES, shaping);
        write(page, &self.0.tcp, &TCP, shaping);
    }

    /// Writes all metrics of the proxy.
    pub fn write(&self, page: &mut Page) {
        match self.shaping_view() {
            None => self.write_istios(page, None),
            Some(view) => {
                let write = || self.write_istios(page, Some(&Shaping::new(view, self.0.remainders.lock())));
                if let Err(error) = with_stack(write) {
                    warn!(%error, "no thread to write Istio's metrics: they are missing once");
                }
            }
        }

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
            (
                "weft_metric_values_cut",
                "Values of labels that Telemetry documents ask of requests, for which there was no room: they count as other",
                &self.0.values_cut,
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

fn write<S: Numbers>(page: &mut Page, table: &Table<S>, families: &[Family<S>], shaping: Option<&Shaping<'_>>) {
    let all = table.tell();
    if let Some(shaping) = shaping {
        for family in families {
            page.family(family.name, family.help, family.kind);
            for (labels, sum) in shaping.sums(family, &all) {
                sum.write(page, family.name, &labels);
            }
        }
        return;
    }
    let all: Vec<(String, Arc<S>)> =
        all.into_iter().map(|(labels, series)| (text::labels(labels.iter()), series)).collect();
    for family in families {
        page.family(family.name, family.help, family.kind);
        for (labels, series) in &all {
            (family.read)(series).write(page, family.name, labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{
        labels::{Labels, Names},
        *,
    };

    const SERIES: usize = 10_000;

    /// Memory of this process that is in RAM, in MiB.
    fn resident_mib() -> f64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix("kB").unwrap().trim().parse::<f64>().unwrap() / 1_024.0
    }

    /// Label sets as a mesh has them: names of usual length, none of them shared.
    fn labels(n: usize, outcome: &HttpOutcome) -> Labels {
        static NAMES: Names = Names::new();
        let labels = labels::http(&Parties::new(Reporter::Source), RequestProtocol::Http, outcome);
        let pairs = labels.iter().map(|(name, value)| match name {
            _ if name.starts_with("source_") || name.starts_with("destination_") => {
                (name, format!("recommendations-{n:05}.shop").into())
            }
            _ => (name, value.to_owned().into()),
        });
        Labels::new(&NAMES, pairs.collect())
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
            let ends = Ends::of(&Parties::new(Reporter::Source));
            // As many as there may be of HTTP, which are the largest, then of bytes, and the rest of messages.
            match (metrics.0.http.len() < table::MAX_SERIES, metrics.0.tcp.len() < table::MAX_SERIES) {
                (true, _) => drop(metrics.0.http.get(labels(n, &outcome), || HttpSeries::new(edge, Class::Fine, ends))),
                (false, true) => drop(metrics.0.tcp.get(labels(n, &outcome), || TcpSeries::new(edge, false, ends))),
                (false, false) => drop(metrics.0.messages.get(labels(n, &outcome), || MessageSeries::new(ends))),
            }
        }
        let took = resident_mib() - before;
        let kept = metrics.0.http.len() + metrics.0.tcp.len() + metrics.0.messages.len();
        println!("{kept} series ({} of HTTP): {took:.1} MiB", metrics.0.http.len());
        assert!(kept == SERIES && took < 30.0, "{kept} series: {took:.1} MiB");
    }
}
