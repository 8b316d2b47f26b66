//! Istio's metrics as Telemetry documents shape them. Series are counted as if there were none; what a document says
//! holds from the next page on, for all that was counted before too. Series whose labels are the same afterwards are one:
//! their numbers are added up, and those of series that have expired stay in it.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, LazyLock},
    thread,
};

use parking_lot::MutexGuard;
use weft_policy::{
    access_log::{EXPRESSION_STACK, ExpressionContext, Known},
    endpoint::Workload,
    telemetry::{Metric, MetricShape, MetricsShape, Tag, UNKNOWN},
    view::MeshView,
};
use weft_wire::id::Namespace;

use super::{
    Family,
    histogram::Buckets,
    labels::{Labels, Reporter},
    series::Parties,
    table::{Numbers, Table},
    text::{self, Page},
};

/// Who is at the two ends of a series.
pub(super) struct Ends {
    reporter: Reporter,
    source: Option<Arc<Workload>>,
    destination: Option<Arc<Workload>>,
    /// Of a caller that is no workload.
    namespace: Option<Namespace>,
}

impl Ends {
    pub(super) fn of(parties: &Parties) -> Self {
        Self {
            reporter: parties.reporter,
            source: parties.source.clone(),
            destination: parties.destination.clone(),
            namespace: parties.namespace.clone(),
        }
    }

    /// The workload that tells the series, and the other one.
    fn own_and_peer(&self) -> (Option<&Workload>, Option<&Workload>) {
        let (source, destination) = (self.source.as_deref(), self.destination.as_deref());
        match self.reporter {
            Reporter::Source => (source, destination),
            Reporter::Destination => (destination, source),
        }
    }
}

/// What one metric of one series, or of several, has counted.
#[derive(Clone)]
pub(super) enum Amount {
    Count(u64),
    Buckets(Buckets),
}

impl Amount {
    fn add(&mut self, other: &Self) {
        match (self, other) {
            (Self::Count(all), Self::Count(more)) => *all += more,
            (Self::Buckets(all), Self::Buckets(more)) => all.add(more),
            // A metric is the one or the other.
            (Self::Count(_), Self::Buckets(_)) | (Self::Buckets(_), Self::Count(_)) => {}
        }
    }

    pub(super) fn write(&self, page: &mut Page, name: &str, labels: &str) {
        match self {
            Self::Count(count) => page.sample(&format!("{name}_total"), labels, count),
            Self::Buckets(buckets) => buckets.write(page, name, labels),
        }
    }
}

/// What expired series had counted, by metric and by labels as they are written: without it the sum that they were part of
/// would become less, which a counter must not.
pub(super) type Remainders = HashMap<(Metric, String), Amount>;

/// Documents at work on series.
pub(super) struct Shaping<'m> {
    view: Arc<MeshView>,
    context: ExpressionContext,
    /// Nobody else writes or expires series meanwhile.
    remainders: MutexGuard<'m, Remainders>,
}

impl<'m> Shaping<'m> {
    pub(super) fn new(view: Arc<MeshView>, remainders: MutexGuard<'m, Remainders>) -> Self {
        Self { view, context: ExpressionContext::default(), remainders }
    }

    /// A metric's sums, by labels as they are written.
    pub(super) fn sums<S: Numbers>(
        &self,
        family: &Family<S>,
        all: &[(Arc<Labels>, Arc<S>)],
    ) -> BTreeMap<String, Amount> {
        let mut sums = BTreeMap::new();
        for (labels, series) in all {
            let Some(labels) = self.labels(family.metric, labels, series.ends()) else { continue };
            add(&mut sums, labels, &(family.read)(series));
        }
        if !self.remainders.is_empty() {
            for (labels, sum) in &mut sums {
                if let Some(remainder) = self.remainders.get(&(family.metric, labels.clone())) {
                    sum.add(remainder);
                }
            }
        }
        sums
    }

    /// Keeps what series have counted that are gone, as long as others have their labels.
    pub(super) fn keep<S: Numbers>(
        &mut self,
        families: &[Family<S>],
        gone: &[(Arc<Labels>, Arc<S>)],
        table: &Table<S>,
    ) {
        let metrics = || families.iter().map(|family| family.metric);
        if gone.is_empty() && !self.remainders.keys().any(|(of, _)| metrics().any(|metric| metric == *of)) {
            return;
        }
        let rest = table.all();
        for family in families {
            let of = |all: &[(Arc<Labels>, Arc<S>)]| -> BTreeMap<String, Amount> {
                let mut sums = BTreeMap::new();
                for (labels, series) in all {
                    if let Some(labels) = self.labels(family.metric, labels, series.ends()) {
                        add(&mut sums, labels, &(family.read)(series));
                    }
                }
                sums
            };
            let (gone, rest) = (of(gone), of(&rest));
            for (labels, sum) in gone {
                let key = (family.metric, labels);
                match self.remainders.get_mut(&key) {
                    Some(known) => known.add(&sum),
                    None => drop(self.remainders.insert(key, sum)),
                }
            }
            self.remainders.retain(|(metric, labels), _| *metric != family.metric || rest.contains_key(labels));
        }
    }

    /// A series' labels as they are written; `None` if nobody is told of it.
    fn labels(&self, metric: Metric, labels: &Labels, ends: &Ends) -> Option<String> {
        let mut all: Vec<(&str, Cow<'_, str>)> =
            labels.iter().map(|(name, value)| (name, Cow::Borrowed(value))).collect();
        let shape = self.shape(ends);
        match shape.map_or(&MetricShape::AsIs, |shape| shape.of(metric)) {
            MetricShape::Off => return None,
            MetricShape::AsIs => {}
            MetricShape::Tags(tags) => {
                for (name, tag) in tags {
                    let at = all.iter().position(|(known, _)| *known == &**name);
                    match (self.value(tag, labels, ends), at) {
                        (None, Some(at)) => drop(all.remove(at)),
                        (None, None) => {}
                        (Some(value), Some(at)) => all[at].1 = value,
                        (Some(value), None) => all.push((name, value)),
                    }
                }
            }
        }
        Some(text::labels(all.iter().map(|(name, value)| (*name, &**value))))
    }

    /// What a label is worth; `None` takes it away.
    fn value<'v>(&self, tag: &'v Tag, labels: &'v Labels, ends: &Ends) -> Option<Cow<'v, str>> {
        Some(match tag {
            Tag::Removed => return None,
            Tag::Text(text) => Cow::Borrowed(text),
            Tag::OfPeer(expression) => {
                let (_, peer) = ends.own_and_peer();
                let known = Known { entry: None, peer, is_server: ends.reporter == Reporter::Destination };
                expression.text(&known, &self.context).map_or(Cow::Borrowed(UNKNOWN), Cow::Owned)
            }
            // What was counted before somebody asked has none.
            Tag::OfRequest(expression) => {
                let recorded = labels.recorded.as_ref();
                Cow::Borrowed(recorded.and_then(|recorded| recorded.value(expression.as_text())).unwrap_or(UNKNOWN))
            }
        })
    }

    fn shape(&self, ends: &Ends) -> Option<&MetricsShape> {
        static DEFAULT: LazyLock<Namespace> = LazyLock::new(Namespace::default_namespace);
        let (own, _) = ends.own_and_peer();
        let namespace = own.map(|own| &own.namespace).or(ends.namespace.as_ref()).unwrap_or(&DEFAULT);
        let signals = self.view.signals(own, namespace);
        let of_part = match ends.reporter {
            Reporter::Source => &signals.client,
            Reporter::Destination => &signals.server,
        };
        of_part.metrics.as_deref()
    }
}

fn add(sums: &mut BTreeMap<String, Amount>, labels: String, amount: &Amount) {
    match sums.get_mut(&labels) {
        Some(sum) => sum.add(amount),
        None => drop(sums.insert(labels, amount.clone())),
    }
}

/// Does something on a thread that has the stack for expressions.
///
/// # Errors
/// There is no thread to be had.
pub(super) fn with_stack(work: impl FnOnce() + Send) -> io::Result<()> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("weft-metrics".into()).stack_size(EXPRESSION_STACK);
        thread.spawn_scoped(scope, work).map(drop)
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc, time::Duration};

    use tokio::time::Instant;
    use weft_policy::{
        compile::{Inputs, compile},
        document::{parse_stored, parse_yaml},
    };
    use weft_wire::document::Stamp;

    use super::*;
    use crate::{
        metrics::{Exchanged, HttpOutcome, Metrics, RequestProtocol, WorkerMetrics, text::Format},
        ports,
    };

    fn view(overrides: &str) -> MeshView {
        let text = format!(
            "{{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {{name: mesh, namespace: istio-system}}, \
             spec: {{metrics: [{{overrides: [{overrides}]}}]}}}}"
        );
        let parsed = parse_yaml(&text, &Namespace::default_namespace()).unwrap().documents;
        let stored = |document: &weft_policy::document::ParsedDocument| {
            Arc::new(parse_stored(&document.key, &document.json, Stamp::default()).unwrap())
        };
        let inputs = Inputs {
            trust_domain: &"cluster.local".parse().unwrap(),
            this_node: &"n0".parse().unwrap(),
            nodes: &[],
            documents: &parsed.iter().map(stored).collect::<Vec<_>>(),
            local: &BTreeMap::new(),
            secrets: &Arc::default(),
            names: &Default::default(),
        };
        compile(&inputs, None)
    }

    fn metrics(overrides: &str) -> Metrics {
        let metrics = Metrics::default();
        metrics.shaped_by(ports::views(view(overrides)).1);
        metrics
    }

    /// One request with each of these answers, which nobody waits to count more of.
    fn record(metrics: &Metrics, statuses: &[u16]) {
        let worker = WorkerMetrics::new(metrics.clone());
        for status in statuses {
            let outcome = HttpOutcome { status: *status, ..HttpOutcome::default() };
            let exchanged = Exchanged {
                duration: Duration::from_millis(3),
                request_bytes: 7,
                response_bytes: 0,
                retries: 0,
                trace_id: Some((*status).into()),
            };
            let parties = Parties::new(Reporter::Source);
            worker.record_http(&parties, RequestProtocol::Http, outcome, &exchanged);
        }
    }

    /// The samples of a name: labels, and value with what follows it.
    fn samples(metrics: &Metrics, name: &str) -> Vec<(String, String)> {
        let mut page = Page::new(Format::OpenMetrics);
        metrics.write(&mut page);
        let page = page.finish();
        let lines = page.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once("} "));
        lines.map(|(labels, value)| (labels.to_owned(), value.to_owned())).collect()
    }

    fn sum(metrics: &Metrics, name: &str) -> f64 {
        samples(metrics, name).iter().map(|(_, value)| value.parse::<f64>().unwrap()).sum()
    }

    const CODE_REMOVED: &str = "{tagOverrides: {response_code: {operation: REMOVE}}}";

    #[test]
    fn series_whose_labels_are_the_same_afterwards_are_one() {
        let of_count = "{match: {metric: REQUEST_COUNT}, tagOverrides: {response_code: {operation: REMOVE}, mesh: {value: \
                        \"'a' + 'b'\"}, source_app: {value: \"'x'\"}}}, {match: {metric: REQUEST_SIZE}, disabled: true}";
        let metrics = metrics(of_count);
        record(&metrics, &[200, 200, 503]);
        let all = samples(&metrics, "istio_requests_total");
        let [(labels, count)] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!(count, "3");
        assert!(!labels.contains("response_code") && labels.contains("source_app=\"x\""), "{labels}");
        assert!(labels.ends_with(",mesh=\"ab\""), "a new label goes last: {labels}");
        assert_eq!(samples(&metrics, "istio_request_bytes_sum"), []);
        assert_eq!(samples(&metrics, "istio_response_bytes_count").len(), 2, "the others are as they were");
    }

    #[test]
    fn histograms_are_added_up_and_keep_the_latest_exemplar() {
        let metrics = metrics(CODE_REMOVED);
        record(&metrics, &[200, 503, 404]);
        let buckets = samples(&metrics, "istio_request_duration_milliseconds_bucket");
        assert_eq!(buckets.len(), 20);
        let (_, at_5ms) = buckets.iter().find(|(labels, _)| labels.ends_with("le=\"5.0\"")).unwrap();
        assert!(at_5ms.starts_with(&format!("3 # {{trace_id=\"{:032x}\"}} 3 ", 404)), "{at_5ms}");
        assert_eq!(sum(&metrics, "istio_request_bytes_sum"), 21.0);
    }

    #[test]
    fn what_expired_series_have_counted_stays_as_long_as_others_have_their_labels() {
        const IDLE: Duration = Duration::from_secs(16 * 60);
        let (metrics, began) = (metrics(CODE_REMOVED), Instant::now());
        record(&metrics, &[200, 503]);
        sum(&metrics, "istio_requests_total");
        metrics.expire(began);
        record(&metrics, &[200]);
        sum(&metrics, "istio_requests_total");
        metrics.expire(began + IDLE);
        assert_eq!(metrics.0.http.len(), 1, "nobody has had another 503");
        assert_eq!(sum(&metrics, "istio_requests_total"), 3.0, "a counter does not become less");
        assert_eq!(sum(&metrics, "istio_request_duration_milliseconds_count"), 3.0);
        record(&metrics, &[200]);
        assert_eq!(sum(&metrics, "istio_requests_total"), 4.0);
        metrics.expire(began + IDLE);
        // When the last of them is gone, nothing is told, and what comes begins at 0.
        metrics.expire(began + 2 * IDLE);
        assert_eq!((metrics.0.http.len(), sum(&metrics, "istio_requests_total")), (0, 0.0));
        assert!(metrics.0.remainders.lock().is_empty());
        record(&metrics, &[503]);
        assert_eq!(sum(&metrics, "istio_requests_total"), 1.0);
    }

    #[test]
    fn a_document_holds_for_what_was_counted_before_it() {
        let (mut publisher, views) = ports::views(view("{}"));
        let metrics = Metrics::default();
        metrics.shaped_by(views);
        record(&metrics, &[200, 503]);
        assert_eq!(samples(&metrics, "istio_requests_total").len(), 2);
        publisher.publish(view(CODE_REMOVED));
        assert_eq!(samples(&metrics, "istio_requests_total").len(), 1);
        publisher.publish(view("{disabled: true}"));
        assert_eq!(samples(&metrics, "istio_requests_total"), []);
        publisher.publish(view("{}"));
        assert_eq!(sum(&metrics, "istio_requests_total"), 2.0);
    }

    #[test]
    fn no_removal_loses_a_request() {
        let statuses = [200, 201, 200, 404, 503, 503, 503];
        for removed in 0..8 {
            let names = ["response_code", "reporter", "response_flags"];
            let names = names.iter().enumerate().filter(|(bit, _)| removed >> bit & 1 == 1);
            let tags: Vec<String> = names.map(|(_, name)| format!("{name}: {{operation: REMOVE}}")).collect();
            let metrics = metrics(&format!("{{tagOverrides: {{{}}}}}", tags.join(", ")));
            record(&metrics, &statuses);
            assert_eq!(sum(&metrics, "istio_requests_total"), statuses.len() as f64);
            assert_eq!(sum(&metrics, "istio_request_bytes_sum"), 7.0 * statuses.len() as f64);
            let series = samples(&metrics, "istio_requests_total").len();
            assert_eq!(series, if removed & 1 == 1 { 1 } else { 4 }, "{tags:?}");
        }
    }
}
