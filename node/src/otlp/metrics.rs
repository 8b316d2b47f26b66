//! The node's metrics for a collector: what a scrape reads, as data points of OpenTelemetry, sent now and then. By the
//! rules of <https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/>; names stay as they are.

use std::{collections::BTreeMap, convert::Infallible, time::SystemTime};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse},
    common::v1::KeyValue,
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};
use prost::Message;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use weft_proxy::metrics::text::Format;
use weft_wire::id::NodeName;

use super::{
    Exporters, Labels,
    client::{Client, Failure},
    scope, text, unix_nanos,
};
use crate::{
    config::MetricsPush,
    supervisor::{Actor, Inbox},
    telemetry::Telemetry,
};

const METHOD: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
const NAME: &str = "metrics";
/// Data points of one message: with a kilobyte of labels each, well below what collectors take.
const BATCH: usize = 1_000;

/// The `metrics-push` actor: it has no messages, and knows nothing that a restart could lose.
pub struct MetricsPushActor {
    pub push: MetricsPush,
    pub exporters: Exporters,
    pub telemetry: Telemetry,
    pub node: NodeName,
    /// Since when counters count.
    pub began: SystemTime,
}

impl Actor for MetricsPushActor {
    type Msg = Infallible;

    async fn run(self, inbox: &mut Inbox<Infallible>) -> anyhow::Result<()> {
        let every = self.push.interval;
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let collector = &self.push.collector;
        let (mut client, mut is_failing) = (None, false);
        loop {
            tokio::select! {
                biased;
                message = inbox.recv() => match message {
                    Some(never) => match never {},
                    None => return Ok(()),
                },
                _ = ticks.tick() => {}
            }
            let Some(way) = self.exporters.0.way.get() else { continue };
            let client = client.get_or_insert_with(|| Client::new(collector.clone(), way.clone()));
            let metrics = read(&self.telemetry.encode(Format::Prometheus)?);
            let sent = tokio::select! {
                biased;
                // Whoever stops the node does not wait for a collector.
                message = inbox.recv() => match message {
                    Some(never) => match never {},
                    None => return Ok(()),
                },
                sent = self.send(client, metrics) => sent,
            };
            match sent {
                Ok(()) if std::mem::take(&mut is_failing) => {
                    tracing::info!(collector = %client, "the collector takes metrics again");
                }
                Err(error) if !std::mem::replace(&mut is_failing, true) => {
                    tracing::warn!(collector = %client, error, "the collector takes no metrics");
                }
                _ => {}
            }
        }
    }
}

impl MetricsPushActor {
    /// Sends all once. What a collector does not take is not sent again: the next time has newer values.
    async fn send(&self, client: &mut Client, metrics: Vec<Read>) -> Result<(), String> {
        let now = SystemTime::now();
        let (counts, labels) = (&self.exporters.0.counts, Labels { signal: NAME });
        let mut failed = Ok(());
        for batch in batches(metrics) {
            let points: u64 = batch.iter().map(|one| one.points.len() as u64).sum();
            match client.send(METHOD, &self.message(batch, now)).await {
                Ok(answer) => {
                    let rejected = rejected(&answer).min(points);
                    counts.sent.get_or_create(&labels).inc_by(points - rejected);
                    counts.dropped.get_or_create(&labels).inc_by(rejected);
                }
                Err(Failure { what, .. }) => {
                    counts.failures.get_or_create(&labels).inc();
                    counts.dropped.get_or_create(&labels).inc_by(points);
                    failed = Err(what);
                }
            }
        }
        failed
    }

    fn message(&self, metrics: Vec<Read>, now: SystemTime) -> Vec<u8> {
        let (began, now) = (unix_nanos(self.began), unix_nanos(now));
        let attributes = vec![
            text("service.name", "weft"),
            text("service.instance.id", self.node.to_string()),
            text("service.version", env!("CARGO_PKG_VERSION")),
        ];
        let metrics = metrics.into_iter().map(|one| one.metric(began, now)).collect();
        let resource_metrics = vec![ResourceMetrics {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_metrics: vec![ScopeMetrics { scope: Some(scope()), metrics, ..ScopeMetrics::default() }],
            ..ResourceMetrics::default()
        }];
        ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
    }
}

fn rejected(answer: &[u8]) -> u64 {
    let answer = ExportMetricsServiceResponse::decode(answer).unwrap_or_default();
    answer.partial_success.map_or(0, |partial| partial.rejected_data_points.unsigned_abs())
}

/// A metric as a scrape reads it.
#[derive(Clone, Debug, PartialEq)]
struct Read {
    name: String,
    help: String,
    kind: Kind,
    points: Vec<Point>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Point {
    labels: Vec<(String, String)>,
    /// Of a histogram, the sum.
    value: f64,
    /// Upper bounds, and how many values were within each or below.
    buckets: Vec<(f64, u64)>,
}

/// Reads a page in Prometheus' text format, as this node writes it.
fn read(page: &str) -> Vec<Read> {
    let mut all: Vec<Read> = Vec::new();
    let mut help = "";
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let kind = match kind {
                "counter" => Kind::Counter,
                "histogram" => Kind::Histogram,
                _ => Kind::Gauge,
            };
            all.push(Read { name: name.to_owned(), help: help.to_owned(), kind, points: Vec::new() });
        } else if let (Some(family), Some((name, mut labels, value))) = (all.last_mut(), sample(line)) {
            if family.kind != Kind::Histogram {
                family.points.push(Point { labels, value, buckets: Vec::new() });
                continue;
            }
            let bound = labels.iter().position(|(label, _)| label == "le").map(|at| labels.remove(at).1);
            if family.points.last().is_none_or(|point| point.labels != labels) {
                family.points.push(Point { labels, ..Point::default() });
            }
            let Some(point) = family.points.last_mut() else { continue };
            match (bound, name.strip_prefix(family.name.as_str())) {
                (Some(bound), Some("_bucket")) => {
                    let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap_or(f64::NAN) };
                    point.buckets.push((bound, value as u64));
                }
                (None, Some("_sum")) => point.value = value,
                // The last bucket has it too.
                _ => {}
            }
        }
    }
    all.retain(|family| !family.points.is_empty());
    all
}

type Sample<'l> = (&'l str, Vec<(String, String)>, f64);

fn sample(line: &str) -> Option<Sample<'_>> {
    let (name, rest) = line.split_at(line.find(['{', ' '])?);
    let mut labels = Vec::new();
    let mut rest = match rest.strip_prefix('{') {
        None => rest,
        Some(mut rest) => {
            while !rest.starts_with('}') {
                let (label, quoted) = rest.split_once("=\"")?;
                let (value, after) = unquote(quoted)?;
                labels.push((label.to_owned(), value));
                rest = after.strip_prefix(',').unwrap_or(after);
            }
            &rest[1..]
        }
    };
    rest = rest.trim();
    Some((name, labels, rest.split(' ').next()?.parse().ok()?))
}

/// The text until the quote that ends it, and what follows.
fn unquote(text: &str) -> Option<(String, &str)> {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            char => value.push(char),
        }
    }
    None
}

/// In parts of [`BATCH`] points at most.
fn batches(metrics: Vec<Read>) -> Vec<Vec<Read>> {
    let mut batches = vec![Vec::new()];
    let mut room = BATCH;
    for Read { name, help, kind, points } in metrics {
        let mut points = points.into_iter().peekable();
        while points.peek().is_some() {
            if room == 0 {
                batches.push(Vec::new());
                room = BATCH;
            }
            let part: Vec<Point> = points.by_ref().take(room).collect();
            room -= part.len();
            if let Some(batch) = batches.last_mut() {
                batch.push(Read { name: name.clone(), help: help.clone(), kind, points: part });
            }
        }
    }
    batches.retain(|batch| !batch.is_empty());
    batches
}

impl Read {
    fn metric(self, began: u64, now: u64) -> Metric {
        let Self { name, help, kind, points } = self;
        let aggregation_temporality = AggregationTemporality::Cumulative.into();
        let number = |point: Point| NumberDataPoint {
            attributes: attributes(point.labels),
            start_time_unix_nano: if kind == Kind::Gauge { 0 } else { began },
            time_unix_nano: now,
            value: Some(number_data_point::Value::AsDouble(point.value)),
            ..NumberDataPoint::default()
        };
        let data = match kind {
            Kind::Gauge => Data::Gauge(Gauge { data_points: points.into_iter().map(number).collect() }),
            Kind::Counter => {
                let data_points = points.into_iter().map(number).collect();
                Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic: true })
            }
            Kind::Histogram => {
                let data_points = points.into_iter().map(|point| point.histogram(began, now)).collect();
                Data::Histogram(Histogram { data_points, aggregation_temporality })
            }
        };
        Metric { name, description: help, data: Some(data), ..Metric::default() }
    }
}

impl Point {
    fn histogram(self, began: u64, now: u64) -> HistogramDataPoint {
        let mut before = 0;
        let bucket_counts =
            self.buckets.iter().map(|(_, so_far)| so_far.saturating_sub(std::mem::replace(&mut before, *so_far)));
        let bucket_counts: Vec<u64> = bucket_counts.collect();
        HistogramDataPoint {
            attributes: attributes(self.labels),
            start_time_unix_nano: began,
            time_unix_nano: now,
            count: bucket_counts.iter().sum(),
            sum: Some(self.value),
            explicit_bounds: self.buckets.iter().map(|(bound, _)| *bound).filter(|bound| bound.is_finite()).collect(),
            bucket_counts,
            ..HistogramDataPoint::default()
        }
    }
}

fn attributes(labels: Vec<(String, String)>) -> Vec<KeyValue> {
    let labels: BTreeMap<_, _> = labels.into_iter().collect();
    labels.iter().map(|(name, value)| text(name, value.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP a_total An a.\n# TYPE a_total counter\na_total{x=\"q\\\"\\\\\\n\",y=\"é,} =\"} 3\na_total 1\n\
        # HELP b A b.\n# TYPE b histogram\nb_bucket{x=\"1\",le=\"0.5\"} 1\nb_bucket{x=\"1\",le=\"10.0\"} 3\n\
        b_bucket{x=\"1\",le=\"+Inf\"} 4\nb_sum{x=\"1\"} 15.5\nb_count{x=\"1\"} 4\nb_bucket{x=\"2\",le=\"+Inf\"} 1\n\
        # HELP d A d.\n# TYPE d gauge\nd -2\n# HELP none Nothing.\n# TYPE none gauge\nnonsense\n";

    #[test]
    fn a_page_is_read_as_it_was_meant() {
        let all = read(PAGE);
        assert_eq!(all.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["a_total", "b", "d"]);
        let labels = vec![("x".to_owned(), "q\"\\\n".to_owned()), ("y".to_owned(), "é,} =".to_owned())];
        assert_eq!(all[0].points[0], Point { labels, value: 3.0, buckets: Vec::new() });
        assert_eq!((all[0].points.len(), all[0].help.as_str(), all[2].points[0].value), (2, "An a.", -2.0));
        assert_eq!(all[1].points.len(), 2);
        let histogram = all[1].points[0].clone().histogram(1, 2);
        assert_eq!((histogram.bucket_counts, histogram.explicit_bounds), (vec![1, 2, 1], vec![0.5, 10.0]));
        assert_eq!((histogram.count, histogram.sum, histogram.start_time_unix_nano), (4, Some(15.5), 1));
        let Some(Data::Sum(sum)) = all[0].clone().metric(1, 2).data else { panic!("a counter is a sum") };
        assert!(sum.is_monotonic && sum.data_points[0].start_time_unix_nano == 1);
    }

    #[test]
    fn what_is_much_goes_in_parts() {
        let point = |value| Point { value: f64::from(value), ..Point::default() };
        let all =
            Read { name: "a".into(), help: "A".into(), kind: Kind::Gauge, points: (0..2_500).map(point).collect() };
        let few = Read { points: (0..3).map(point).collect(), ..all.clone() };
        let batches = batches(vec![few, all]);
        let sizes: Vec<usize> = batches.iter().map(|batch| batch.iter().map(|one| one.points.len()).sum()).collect();
        assert_eq!(sizes, [1_000, 1_000, 503]);
        assert_eq!(batches[1][0].points[0].value, 997.0);
    }
}
