//! What workloads tell of their traffic: which access logs and traces, as Telemetry documents and the MeshConfig have it
//! together. Rules: Istio's `pilot/pkg/model/telemetry.go`.

mod metrics;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use weft_wire::id::Namespace;

pub use self::metrics::{Metric, MetricShape, MetricsShape, PROMETHEUS, Tag, UNKNOWN};
pub(crate) use self::metrics::{Selected, selected};
use crate::{
    access_log::{Expression, LogFormat},
    api::{
        mesh::{
            AccessLogEncoding, FileAccessLogProvider, MeshConfig, OpenTelemetryProvider, OtelAccessLogProvider,
            Propagator, headers_of,
        },
        telemetry::{self as api, AccessLogging, ModeSelector, ProviderRef, WorkloadMode},
        values::Share,
    },
};

/// The provider that needs no configuration: the log of each node.
pub const NODE_LOG: &str = "envoy";
/// Where a file is the node's own standard output.
const STANDARD_OUTPUT: &str = "/dev/stdout";
const DEFAULT_LOG_NAME: &str = "otel_envoy_accesslog";
/// How long a collector may take where no document says it.
const COLLECTOR_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest path in a span's tags, in characters, as Envoy has it.
const MAX_TAG_LENGTH: usize = 256;

/// What a workload tells, in each of its two parts.
#[derive(Debug, Default)]
pub struct WorkloadSignals {
    pub client: Arc<Signals>,
    pub server: Arc<Signals>,
}

/// What is told of each exchange.
#[derive(Debug, Default)]
pub struct Signals {
    pub logs: Logs,
    pub tracing: Tracing,
    /// What becomes of its metrics; `None` leaves them as they are.
    pub metrics: Option<Arc<MetricsShape>>,
    /// Whether a log, tag or label reads headers or trailers that are not kept unless asked for.
    pub needs_heads: bool,
}

/// Where exchanges are logged.
#[derive(Debug, Default)]
pub enum Logs {
    /// No document says anything: as the node's own configuration has it.
    #[default]
    OfNode,
    To(Vec<LogTo>),
}

/// One log, and what is written there.
#[derive(Clone, Debug)]
pub struct LogTo {
    pub output: Arc<LogOutput>,
    pub filter: Option<Arc<Expression>>,
}

/// A log. Its place in memory tells whether it is the same as another view's.
#[derive(Debug)]
pub struct LogOutput {
    pub place: LogPlace,
    /// `None` is as the node's own configuration has it.
    pub format: Option<LogFormat>,
}

#[derive(Debug, PartialEq)]
pub enum LogPlace {
    /// Where the node itself logs.
    Node,
    File(Box<str>),
    /// Records of OpenTelemetry, whose body has the log's format.
    Otlp {
        collector: Arc<Collector>,
        log_name: Box<str>,
        attributes: Option<LogFormat>,
    },
}

/// A collector of OpenTelemetry, and how it is told things.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Collector {
    /// Where its host is a short name of the mesh.
    pub namespace: Namespace,
    pub host: String,
    pub port: u16,
    /// `None` is gRPC; else the path for HTTP.
    pub http_path: Option<String>,
    pub timeout: Duration,
    /// What it is told besides.
    pub headers: BTreeMap<String, String>,
}

/// How exchanges are traced.
#[derive(Debug)]
pub struct Tracing {
    /// Of the exchanges that come without a decision.
    pub sampling: Share,
    /// Whether spans are kept and sent.
    pub reports: bool,
    /// Whether the context is handed on.
    pub propagates: bool,
    pub has_istio_tags: bool,
    /// Whether ids of requests decide, as Envoy reads them, where no header of traces does.
    pub samples_by_request_id: bool,
    pub tags: Vec<(String, TagSource)>,
    pub collector: Option<Arc<Collector>>,
    /// Longest path in tags, in characters.
    pub max_tag_length: usize,
    /// In which headers traces begin.
    pub propagators: Vec<Propagator>,
}

/// Where a tag's value comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum TagSource {
    Literal(String),
    /// A variable of the node's environment, or else this.
    Environment {
        name: String,
        default: String,
    },
    /// A header of the request, or else this.
    Header {
        name: String,
        default: String,
    },
    /// What an access log would write.
    Format(Arc<LogFormat>),
}

impl Default for Tracing {
    fn default() -> Self {
        Self {
            sampling: Share::of_parts(1, 100),
            reports: true,
            propagates: true,
            has_istio_tags: true,
            samples_by_request_id: false,
            tags: Vec::new(),
            collector: None,
            max_tag_length: MAX_TAG_LENGTH,
            propagators: vec![Propagator::TraceContext],
        }
    }
}

impl Tracing {
    /// Whether exchanges have spans, or hand on the context of others'.
    pub fn is_on(&self) -> bool {
        self.reports || self.propagates
    }
}

impl Collector {
    fn of(service: &str, port: u16) -> Option<Self> {
        let (namespace, host) = match service.split_once('/') {
            Some((namespace, host)) => (namespace.parse().ok()?, host),
            None => (Namespace::default_namespace(), service),
        };
        let host = host.to_owned();
        let headers = BTreeMap::new();
        Some(Self { namespace, host, port, http_path: None, timeout: COLLECTOR_TIMEOUT, headers })
    }
}

/// Where signals may go, and where they go if no Telemetry says it: what the MeshConfig has.
#[derive(Debug, Default)]
pub(crate) struct SignalProviders {
    logs: BTreeMap<String, Arc<LogOutput>>,
    collectors: BTreeMap<String, (Arc<Collector>, usize)>,
    /// `None` where the MeshConfig says nothing of a log; false if it says that there is none.
    has_log: Option<bool>,
    default_logs: Vec<String>,
    default_collector: Option<String>,
    /// Beside [`PROMETHEUS`].
    metrics: BTreeSet<String>,
    default_metrics: Vec<String>,
    sampling: Option<Share>,
    propagators: Vec<Propagator>,
}

impl SignalProviders {
    pub(crate) fn of(config: &MeshConfig) -> Self {
        let mut providers = Self {
            has_log: config.access_log.as_ref().map(|log| log.encoding != AccessLogEncoding::Off),
            default_logs: config.default_providers.access_logging.iter().map(|name| name.to_string()).collect(),
            default_collector: config.default_providers.tracing.first().map(|name| name.to_string()),
            default_metrics: config.default_providers.metrics.iter().map(|name| name.to_string()).collect(),
            sampling: config.tracing.sampling,
            propagators: config.tracing.propagators.to_vec(),
            ..Self::default()
        };
        let of_mesh = config.access_log.as_ref().and_then(|log| {
            let read = |format: &String| serde_json::from_str(format).ok().and_then(|map| LogFormat::json(&map).ok());
            match (log.encoding, &log.format) {
                (AccessLogEncoding::Off, _) => None,
                (AccessLogEncoding::Text, None) => Some(LogFormat::default_text()),
                (AccessLogEncoding::Text, Some(format)) => LogFormat::text(format).ok(),
                (AccessLogEncoding::Json, None) => Some(LogFormat::default_json()),
                (AccessLogEncoding::Json, Some(format)) => read(format),
            }
        });
        let node_log = LogOutput { place: LogPlace::Node, format: of_mesh };
        providers.logs.insert(NODE_LOG.to_owned(), Arc::new(node_log));
        for provider in config.extension_providers.iter() {
            let name = provider.name.clone();
            if let Some(log) = &provider.envoy_file_access_log {
                providers.logs.insert(name, Arc::new(file_log(log)));
            } else if let Some(log) = provider.envoy_otel_als.as_ref().and_then(otel_log) {
                providers.logs.insert(name, Arc::new(log));
            } else if let Some(collector) = provider.opentelemetry.as_ref().and_then(span_collector) {
                providers.collectors.insert(name, collector);
            } else if provider.prometheus.is_some() {
                providers.metrics.insert(name);
            }
        }
        providers
    }

    /// The names that logs go by where no Telemetry gives any.
    fn default_log_names(&self) -> Vec<&str> {
        match (self.default_logs.as_slice(), self.has_log) {
            ([], Some(false)) => Vec::new(),
            ([], _) => vec![NODE_LOG],
            (names, _) => names.iter().map(String::as_str).collect(),
        }
    }

    /// Likewise of metrics.
    fn default_metric_names(&self) -> Vec<&str> {
        match self.default_metrics.as_slice() {
            [] => vec![PROMETHEUS],
            names => names.iter().map(String::as_str).collect(),
        }
    }

    fn is_metrics(&self, name: &str) -> bool {
        name == PROMETHEUS || self.metrics.contains(name)
    }

    /// The providers among these that signals cannot go to, and why.
    pub(crate) fn missing_logs<'n>(&self, names: impl Iterator<Item = &'n str>) -> BTreeSet<String> {
        names.filter(|name| !self.logs.contains_key(*name)).map(str::to_owned).collect()
    }

    pub(crate) fn missing_metrics<'n>(&self, names: impl Iterator<Item = &'n str>) -> BTreeSet<String> {
        names.filter(|name| !self.is_metrics(name)).map(str::to_owned).collect()
    }

    pub(crate) fn missing_collectors<'n>(&self, names: impl Iterator<Item = &'n str>) -> BTreeSet<String> {
        names.filter(|name| !self.collectors.contains_key(*name)).map(str::to_owned).collect()
    }
}

fn file_log(log: &FileAccessLogProvider) -> LogOutput {
    let place = match log.path.as_str() {
        STANDARD_OUTPUT => LogPlace::Node,
        path => LogPlace::File(path.into()),
    };
    let format = match &log.log_format {
        None => None,
        Some(format) => match (&format.text, &format.labels) {
            (Some(text), _) => LogFormat::text(text).ok(),
            (None, Some(labels)) if labels.is_empty() => Some(LogFormat::default_json()),
            (None, Some(labels)) => LogFormat::json(labels).ok(),
            (None, None) => None,
        },
    };
    LogOutput { place, format: Some(format.unwrap_or_else(LogFormat::default_text)) }
}

fn otel_log(log: &OtelAccessLogProvider) -> Option<LogOutput> {
    let format = log.log_format.as_ref();
    let text = format.and_then(|format| format.text.as_deref()).and_then(|text| LogFormat::text(text).ok());
    let place = LogPlace::Otlp {
        collector: Arc::new(Collector::of(&log.service, log.port?.number())?),
        log_name: if log.log_name.is_empty() { DEFAULT_LOG_NAME.into() } else { log.log_name.as_str().into() },
        attributes: format.and_then(|format| format.labels.as_ref()).and_then(|labels| LogFormat::json(labels).ok()),
    };
    Some(LogOutput { place, format: Some(text.unwrap_or_else(LogFormat::default_text)) })
}

fn span_collector(provider: &OpenTelemetryProvider) -> Option<(Arc<Collector>, usize)> {
    let mut collector = Collector::of(&provider.service, provider.port?.number())?;
    if let Some(http) = &provider.http {
        collector.http_path = Some(http.path.clone());
        collector.timeout = http.timeout.map_or(COLLECTOR_TIMEOUT, |timeout| timeout.get());
        collector.headers = headers_of(&http.headers);
    } else if let Some(grpc) = &provider.grpc {
        collector.timeout = grpc.timeout.map_or(COLLECTOR_TIMEOUT, |timeout| timeout.get());
        collector.headers = headers_of(&grpc.initial_metadata);
    }
    let longest = provider.max_tag_length.and_then(|length| usize::try_from(length.get()).ok());
    Some((Arc::new(collector), longest.unwrap_or(MAX_TAG_LENGTH)))
}

fn is_selected(matches: Option<&ModeSelector>, mode: WorkloadMode) -> bool {
    is_for(matches.map_or(WorkloadMode::ClientAndServer, |matches| matches.mode), mode)
}

fn is_for(asked: WorkloadMode, mode: WorkloadMode) -> bool {
    asked == WorkloadMode::ClientAndServer || asked == mode
}

fn names(providers: &[ProviderRef]) -> Vec<&str> {
    providers.iter().map(|provider| &*provider.name).collect()
}

impl WorkloadSignals {
    /// What Telemetry documents say together: that of the mesh first, then the namespace's, then the workload's own.
    pub(crate) fn merge(levels: &[&api::Telemetry], providers: &SignalProviders) -> Self {
        let of = |mode| Arc::new(Signals::merge(levels, mode, providers));
        Self { client: of(WorkloadMode::Client), server: of(WorkloadMode::Server) }
    }
}

impl Signals {
    fn merge(levels: &[&api::Telemetry], mode: WorkloadMode, providers: &SignalProviders) -> Self {
        let logs = Logs::merge(levels, mode, providers);
        let needs_heads = match &logs {
            Logs::OfNode => false,
            Logs::To(all) => all.iter().any(LogTo::needs_heads),
        };
        let tracing = Tracing::merge(levels, mode, providers);
        let reads_header = |(_, source): &(String, TagSource)| match source {
            TagSource::Header { .. } => true,
            TagSource::Format(format) => format.needs_heads(),
            TagSource::Literal(_) | TagSource::Environment { .. } => false,
        };
        let metrics = MetricsShape::merge(levels, mode, providers);
        let recorded = metrics.iter().flat_map(|shape| shape.recorded());
        let needs_heads = needs_heads
            || tracing.tags.iter().any(reads_header)
            || recorded.into_iter().any(|expression| expression.needs_heads());
        Self { logs, tracing, metrics, needs_heads }
    }

    /// What is to be worked out of each request for its metrics, if anything is.
    pub fn recorded(&self) -> Option<&Arc<MetricsShape>> {
        self.metrics.as_ref().filter(|shape| !shape.recorded().is_empty())
    }
}

impl LogTo {
    fn needs_heads(&self) -> bool {
        let attributes = match &self.output.place {
            LogPlace::Otlp { attributes, .. } => attributes.as_ref(),
            LogPlace::Node | LogPlace::File(_) => None,
        };
        let formats = self.output.format.iter().chain(attributes);
        formats.into_iter().any(LogFormat::needs_heads)
            || self.filter.as_ref().is_some_and(|filter| filter.needs_heads())
    }
}

impl Logs {
    fn merge(levels: &[&api::Telemetry], mode: WorkloadMode, providers: &SignalProviders) -> Self {
        let told: Vec<&[AccessLogging]> = levels.iter().map(|level| &*level.access_logging).collect();
        let defaults = providers.default_log_names();
        let output = |name: &str| providers.logs.get(name).cloned();
        if told.iter().all(|level| level.is_empty()) {
            if providers.has_log.is_none() && providers.default_logs.is_empty() {
                return Self::OfNode;
            }
            let all = defaults.into_iter().filter_map(output);
            return Self::To(all.map(|output| LogTo { output, filter: None }).collect());
        }
        // The last level that names providers for this mode decides which there are.
        let mut in_scope = defaults.clone();
        for level in &told {
            let entries = level.iter().filter(|entry| is_selected(entry.matches.as_ref(), mode));
            let named: Vec<&str> = entries.flat_map(|entry| names(&entry.providers)).collect();
            if !named.is_empty() {
                in_scope = named;
            }
        }
        let mut active: BTreeMap<&str, Option<&str>> = BTreeMap::new();
        let mut inherited = defaults;
        for entry in told.into_iter().flatten() {
            if !entry.providers.is_empty() {
                inherited = names(&entry.providers);
            }
            if !is_selected(entry.matches.as_ref(), mode) {
                continue;
            }
            for name in inherited.iter().filter(|name| in_scope.contains(name)) {
                match entry.disabled {
                    Some(true) => active.remove(name),
                    _ => active.insert(name, entry.filter.as_ref().map(|filter| filter.expression.as_str())),
                };
            }
        }
        let all = active.into_iter().filter_map(|(name, expression)| {
            let filter = match expression {
                None => None,
                // What cannot be read was not accepted either.
                Some(expression) => Some(Arc::new(Expression::read(expression).ok()?)),
            };
            Some(LogTo { output: output(name)?, filter })
        });
        Self::To(all.collect())
    }
}

impl Tracing {
    fn merge(levels: &[&api::Telemetry], mode: WorkloadMode, providers: &SignalProviders) -> Self {
        let mut tracing = Self::default();
        if let Some(sampling) = providers.sampling {
            tracing.sampling = sampling;
        }
        if !providers.propagators.is_empty() {
            tracing.propagators = providers.propagators.clone();
        }
        let mut collector = providers.default_collector.as_deref();
        for entry in levels.iter().flat_map(|level| &level.tracing) {
            if !is_selected(entry.matches.as_ref(), mode) {
                continue;
            }
            if let Some(provider) = entry.providers.first() {
                collector = Some(&provider.name);
            }
            if let Some(percent) = entry.random_sampling_percentage {
                tracing.sampling = Share::of_number(percent);
            }
            if let Some(disabled) = entry.disable_span_reporting {
                tracing.reports = !disabled;
            }
            if let Some(disabled) = entry.disable_context_propagation {
                tracing.propagates = !disabled;
            }
            if let Some(enabled) = entry.enable_istio_tags {
                tracing.has_istio_tags = enabled;
            }
            if let Some(by_id) = entry.use_request_id_for_trace_sampling {
                tracing.samples_by_request_id = by_id;
            }
            if !entry.custom_tags.is_empty() {
                let tags = entry.custom_tags.iter();
                tracing.tags = tags.filter_map(|(name, tag)| Some((name.clone(), TagSource::of(tag)?))).collect();
            }
        }
        if let Some((collector, longest)) = collector.and_then(|name| providers.collectors.get(name)) {
            tracing.collector = Some(collector.clone());
            tracing.max_tag_length = *longest;
        }
        tracing
    }
}

impl TagSource {
    fn of(tag: &api::CustomTag) -> Option<Self> {
        let named = |value: &api::NamedValue| (value.name.to_string(), value.default_value.clone());
        if let Some(literal) = &tag.literal {
            return Some(Self::Literal(literal.value.to_string()));
        }
        if let Some((name, default)) = tag.environment.as_ref().map(named) {
            return Some(Self::Environment { name, default });
        }
        if let Some(format) = &tag.formatter {
            // What cannot be read was not accepted either.
            return Some(Self::Format(Arc::new(LogFormat::text(&format.value).ok()?)));
        }
        let (name, default) = tag.header.as_ref().map(named)?;
        Some(Self::Header { name: name.to_ascii_lowercase(), default })
    }
}
