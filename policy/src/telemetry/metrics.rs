//! What becomes of Istio's metrics where Telemetry documents say so: which there are, and with which labels. Rules:
//! `mergeMetrics` in Istio's `pilot/pkg/model/telemetry.go`.

use std::{collections::BTreeMap, sync::Arc};

use super::{SignalProviders, is_for};
use crate::{
    access_log::{Expression, ExpressionError},
    api::telemetry::{
        self as api, IstioMetric, MetricSelector, MetricsOverrides, TagOperation, TagOverride, WorkloadMode,
    },
};

/// The provider that needs no configuration: the page of each node, and what is pushed of it.
pub const PROMETHEUS: &str = "prometheus";
/// What a label is worth where its expression has no value.
pub const UNKNOWN: &str = "unknown";

/// One of Istio's standard metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Metric {
    RequestCount,
    RequestDuration,
    RequestSize,
    ResponseSize,
    TcpOpenedConnections,
    TcpClosedConnections,
    TcpSentBytes,
    TcpReceivedBytes,
    GrpcRequestMessages,
    GrpcResponseMessages,
}

impl Metric {
    pub const ALL: [Self; 10] = [
        Self::RequestCount,
        Self::RequestDuration,
        Self::RequestSize,
        Self::ResponseSize,
        Self::TcpOpenedConnections,
        Self::TcpClosedConnections,
        Self::TcpSentBytes,
        Self::TcpReceivedBytes,
        Self::GrpcRequestMessages,
        Self::GrpcResponseMessages,
    ];

    /// By the name that Istio's proxies know it by, which is that of Prometheus without `istio_`.
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "requests_total" => Self::RequestCount,
            "request_duration_milliseconds" => Self::RequestDuration,
            "request_bytes" => Self::RequestSize,
            "response_bytes" => Self::ResponseSize,
            "tcp_connections_opened_total" => Self::TcpOpenedConnections,
            "tcp_connections_closed_total" => Self::TcpClosedConnections,
            "tcp_sent_bytes_total" => Self::TcpSentBytes,
            "tcp_received_bytes_total" => Self::TcpReceivedBytes,
            "request_messages_total" => Self::GrpcRequestMessages,
            "response_messages_total" => Self::GrpcResponseMessages,
            _ => return None,
        })
    }

    /// `None` for all.
    fn of(metric: IstioMetric) -> Option<Self> {
        Some(match metric {
            IstioMetric::AllMetrics => return None,
            IstioMetric::RequestCount => Self::RequestCount,
            IstioMetric::RequestDuration => Self::RequestDuration,
            IstioMetric::RequestSize => Self::RequestSize,
            IstioMetric::ResponseSize => Self::ResponseSize,
            IstioMetric::TcpOpenedConnections => Self::TcpOpenedConnections,
            IstioMetric::TcpClosedConnections => Self::TcpClosedConnections,
            IstioMetric::TcpSentBytes => Self::TcpSentBytes,
            IstioMetric::TcpReceivedBytes => Self::TcpReceivedBytes,
            IstioMetric::GrpcRequestMessages => Self::GrpcRequestMessages,
            IstioMetric::GrpcResponseMessages => Self::GrpcResponseMessages,
        })
    }

    /// Whether it is of connections of bytes, and not of requests.
    pub fn is_of_connections(self) -> bool {
        matches!(
            self,
            Self::TcpOpenedConnections | Self::TcpClosedConnections | Self::TcpSentBytes | Self::TcpReceivedBytes
        )
    }
}

/// What a selector is for.
pub(crate) enum Selected<'s> {
    All,
    One(Metric),
    /// A name that is of none of Istio's metrics.
    Custom(&'s str),
}

pub(crate) fn selected(selector: Option<&MetricSelector>) -> Selected<'_> {
    let Some(selector) = selector else { return Selected::All };
    match (&selector.custom_metric, selector.metric) {
        (Some(name), _) => Metric::named(name).map_or(Selected::Custom(name), Selected::One),
        (None, metric) => metric.and_then(Metric::of).map_or(Selected::All, Selected::One),
    }
}

/// What becomes of the metrics of a workload, in one of its two parts.
#[derive(Debug, PartialEq)]
pub struct MetricsShape {
    /// In the order of [`Metric::ALL`].
    metrics: [MetricShape; Metric::ALL.len()],
    /// What is to be worked out of each request, each once.
    recorded: Vec<Arc<Expression>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum MetricShape {
    #[default]
    AsIs,
    /// Nobody is told.
    Off,
    /// These labels, in the order of their names, are not as they were.
    Tags(Vec<(Box<str>, Tag)>),
}

/// What becomes of a label.
#[derive(Clone, Debug, PartialEq)]
pub enum Tag {
    Removed,
    Text(Box<str>),
    /// Asked when metrics are written: it speaks of nothing but the other end.
    OfPeer(Arc<Expression>),
    /// Asked when a request ends. Of connections of bytes it has no value.
    OfRequest(Arc<Expression>),
}

impl MetricsShape {
    pub fn of(&self, metric: Metric) -> &MetricShape {
        &self.metrics[metric as usize]
    }

    /// What is to be worked out of each request.
    pub fn recorded(&self) -> &[Arc<Expression>] {
        &self.recorded
    }

    /// What documents say together; `None` where they leave all as it is.
    pub(super) fn merge(
        levels: &[&api::Telemetry],
        mode: WorkloadMode,
        providers: &SignalProviders,
    ) -> Option<Arc<Self>> {
        let entries: Vec<&api::Metrics> = levels.iter().flat_map(|level| &level.metrics).collect();
        let defaults = providers.default_metric_names();
        // The last that names providers decides which there are.
        let named = entries.iter().map(|entry| super::names(&entry.providers)).rfind(|names| !names.is_empty());
        let in_scope = named.unwrap_or_else(|| defaults.clone());
        let Some(provider) = in_scope.into_iter().filter(|name| providers.is_metrics(name)).min() else {
            return Some(Arc::new(Self { metrics: [const { MetricShape::Off }; _], recorded: Vec::new() }));
        };
        let mut merged = Merged::default();
        let mut inherited = defaults;
        for entry in entries {
            if !entry.providers.is_empty() {
                inherited = super::names(&entry.providers);
            }
            if inherited.contains(&provider) {
                entry.overrides.iter().for_each(|one| merged.add(one, mode));
            }
        }
        let shape = merged.finish();
        (shape.metrics.iter().any(|metric| *metric != MetricShape::AsIs)).then(|| Arc::new(shape))
    }
}

/// Overrides so far.
#[derive(Default)]
struct Merged<'o> {
    /// All are off, until one is mentioned again.
    is_off: bool,
    metrics: BTreeMap<Metric, (bool, BTreeMap<&'o str, &'o TagOverride>)>,
}

impl<'o> Merged<'o> {
    fn add(&mut self, one: &'o MetricsOverrides, mode: WorkloadMode) {
        let matched = one.matches.as_ref().map_or(WorkloadMode::ClientAndServer, |matches| matches.mode);
        if !is_for(matched, mode) {
            return;
        }
        let selected = selected(one.matches.as_ref());
        if matches!(selected, Selected::All) && one.disabled == Some(true) {
            self.is_off = true;
            return;
        }
        // As Istio has it: whatever comes after that is for what is there, so all are.
        self.is_off = false;
        let metrics: &[Metric] = match &selected {
            Selected::All => &Metric::ALL,
            Selected::One(metric) => std::slice::from_ref(metric),
            Selected::Custom(_) => &[],
        };
        for metric in metrics {
            let (is_off, tags) = self.metrics.entry(*metric).or_default();
            *is_off = one.disabled.unwrap_or(*is_off);
            tags.extend(one.tag_overrides.iter().map(|(name, tag)| (name.as_str(), tag)));
        }
    }

    fn finish(self) -> MetricsShape {
        let mut known: BTreeMap<&str, Tag> = BTreeMap::new();
        let mut recorded = Vec::new();
        let metrics = Metric::ALL.map(|metric| match self.metrics.get(&metric) {
            _ if self.is_off => MetricShape::Off,
            Some((true, _)) => MetricShape::Off,
            Some((false, tags)) if !tags.is_empty() => {
                let tags = tags.iter().map(|(name, over)| {
                    let tag = match over.operation {
                        TagOperation::Remove => Tag::Removed,
                        TagOperation::Upsert => known.entry(&over.value).or_insert_with(|| tag(&over.value)).clone(),
                    };
                    if let (Tag::OfRequest(expression), false) = (&tag, metric.is_of_connections())
                        && !recorded.contains(expression)
                    {
                        recorded.push(expression.clone());
                    }
                    (label_name(name), tag)
                });
                MetricShape::Tags(tags.collect())
            }
            _ => MetricShape::AsIs,
        });
        MetricsShape { metrics, recorded }
    }
}

/// As Envoy writes names that Prometheus does not take.
fn label_name(name: &str) -> Box<str> {
    let digit = name.starts_with(|first: char| first.is_ascii_digit()).then_some('_');
    digit.into_iter().chain(name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })).collect()
}

fn tag(value: &str) -> Tag {
    let unknown = || Tag::Text(UNKNOWN.into());
    match Expression::read(value) {
        // Malformed ones were not accepted either.
        Err(ExpressionError::Unknown(_) | ExpressionError::Malformed(_)) => unknown(),
        Ok(expression) => match expression.constant() {
            Some(value) => value.map_or_else(unknown, |text| Tag::Text(text.into())),
            None if expression.is_of_exchanges() => Tag::OfRequest(Arc::new(expression)),
            None => Tag::OfPeer(Arc::new(expression)),
        },
    }
}
