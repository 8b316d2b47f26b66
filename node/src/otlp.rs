//! OpenTelemetry's protocol: what goes to collectors. Each collector has a queue and a task for each signal, made when
//! something is to be sent there and gone when nothing is for a while. What a full queue has no room for, or what a
//! collector does not take in time, is dropped and counted; nobody waits.

mod client;
mod logs;
mod metrics;
mod spans;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use tokio::{
    runtime::Handle,
    sync::mpsc::{self, error::TrySendError},
    time::{Instant, sleep, timeout, timeout_at},
};
use weft_policy::telemetry::Collector;
use weft_proxy::ports::{LogRecord, Span};

use self::client::{Client, Failure};
pub use self::{client::Way, metrics::MetricsPushActor};
use crate::telemetry::Telemetry;

/// Items that may wait for a collector.
const QUEUE: usize = 4_096;
/// Items that are sent at once, and how long the first may wait for the others.
const BATCH: usize = 512;
const BATCH_WAIT: Duration = Duration::from_secs(1);
/// How often a batch is tried, and the pauses between.
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A task without anything to send for so long ends.
const IDLE: Duration = Duration::from_secs(120);

/// One kind of thing that is sent.
pub(crate) trait Signal: Send + Sync + Sized + 'static {
    /// The method of gRPC.
    const METHOD: &'static str;
    const NAME: &'static str;

    /// The request's message.
    fn encode(batch: &[Self]) -> Vec<u8>;

    /// How many of a batch an answer says were not taken.
    fn rejected(answer: &[u8]) -> u64;
}

/// What became of signals.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    signal: &'static str,
}

#[derive(Clone, Default)]
struct Counts {
    sent: Family<Labels, Counter>,
    dropped: Family<Labels, Counter>,
    failures: Family<Labels, Counter>,
}

/// Whom everything that goes to collectors is given to. Cheap to clone.
#[derive(Clone)]
pub struct Exporters(Arc<Inner>);

struct Inner {
    runtime: Handle,
    /// How collectors are reached; set once the proxy has its addresses.
    way: OnceLock<Way>,
    counts: Counts,
    logs: Queues<LogRecord>,
    spans: Queues<Span>,
}

/// The queues of one signal, by collector.
struct Queues<S>(Mutex<BTreeMap<Arc<Collector>, mpsc::Sender<S>>>);

impl<S> Default for Queues<S> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl Exporters {
    /// On the present runtime.
    pub fn new(telemetry: &Telemetry) -> Self {
        let counts = Counts::default();
        telemetry.register(|registry| {
            let (sent, dropped, failures) = (counts.sent.clone(), counts.dropped.clone(), counts.failures.clone());
            registry.register("weft_otlp_sent", "Spans, log records and data points that collectors have taken", sent);
            registry.register(
                "weft_otlp_dropped",
                "Spans, log records and data points that were lost on their way",
                dropped,
            );
            registry.register("weft_otlp_failures", "Tries to send to a collector that failed", failures);
        });
        let (runtime, way) = (Handle::current(), OnceLock::new());
        Self(Arc::new(Inner { runtime, way, counts, logs: Queues::default(), spans: Queues::default() }))
    }

    /// Says how collectors are reached. Only the first time has an effect.
    pub fn set_way(&self, way: Way) {
        let _ = self.0.way.set(way);
    }

    /// Never waits; false if it was dropped, which is counted.
    pub fn log(&self, to: &Arc<Collector>, record: LogRecord) -> bool {
        self.send(|inner| &inner.logs, to, record)
    }

    /// Likewise.
    pub fn span(&self, to: &Arc<Collector>, span: Span) -> bool {
        self.send(|inner| &inner.spans, to, span)
    }

    fn send<S: Signal>(&self, queues: fn(&Inner) -> &Queues<S>, to: &Arc<Collector>, item: S) -> bool {
        let counts = &self.0.counts;
        let mut all = queues(&self.0).0.lock();
        let mut item = item;
        loop {
            if let Some(queue) = all.get(to) {
                match queue.try_send(item) {
                    Ok(()) => return true,
                    Err(TrySendError::Full(_)) => {
                        counts.dropped.get_or_create(&Labels { signal: S::NAME }).inc();
                        return false;
                    }
                    // Its task has just ended.
                    Err(TrySendError::Closed(back)) => {
                        all.remove(to);
                        item = back;
                    }
                }
            }
            let (queue, items) = mpsc::channel(QUEUE);
            all.insert(to.clone(), queue);
            let Some(way) = self.0.way.get().cloned() else { return false };
            let sender = Sender { client: Client::new(to.clone(), way), counts: counts.clone(), is_failing: false };
            self.0.runtime.spawn(sender.run(items));
        }
    }
}

/// What one task owns.
struct Sender {
    client: Client,
    counts: Counts,
    /// Whether the last try failed: one line in the log for each time that it begins.
    is_failing: bool,
}

impl Sender {
    async fn run<S: Signal>(mut self, mut items: mpsc::Receiver<S>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            match timeout(IDLE, items.recv()).await {
                Ok(Some(first)) => batch.push(first),
                Ok(None) => return,
                Err(_) => {
                    // Who has just found the queue gets it closed, and makes another; what is in it is sent.
                    items.close();
                    continue;
                }
            }
            let until = Instant::now() + BATCH_WAIT;
            while batch.len() < BATCH {
                match timeout_at(until, items.recv()).await {
                    Ok(Some(next)) => batch.push(next),
                    Ok(None) | Err(_) => break,
                }
            }
            self.send(&batch).await;
            batch.clear();
        }
    }

    async fn send<S: Signal>(&mut self, batch: &[S]) {
        let labels = Labels { signal: S::NAME };
        let message = S::encode(batch);
        let mut pause = FIRST_PAUSE;
        for tried in 1..=TRIES {
            let (what, may_repeat) = match self.client.send(S::METHOD, &message).await {
                Ok(answer) => {
                    let rejected = S::rejected(&answer).min(batch.len() as u64);
                    self.counts.sent.get_or_create(&labels).inc_by(batch.len() as u64 - rejected);
                    self.counts.dropped.get_or_create(&labels).inc_by(rejected);
                    if std::mem::take(&mut self.is_failing) {
                        tracing::info!(collector = %self.client, signal = S::NAME, "the collector takes signals again");
                    }
                    return;
                }
                Err(Failure { what, may_repeat }) => (what, may_repeat),
            };
            self.counts.failures.get_or_create(&labels).inc();
            if !std::mem::replace(&mut self.is_failing, true) {
                tracing::warn!(collector = %self.client, signal = S::NAME, error = what, "the collector takes nothing");
            }
            if !may_repeat || tried == TRIES {
                break;
            }
            // Between half and all of it, so that nodes do not come all at once.
            sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.counts.dropped.get_or_create(&labels).inc_by(batch.len() as u64);
    }
}

/// An attribute that is a text.
fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// Who says it.
fn scope() -> InstrumentationScope {
    let (name, version) = ("weft".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    InstrumentationScope { name, version, ..InstrumentationScope::default() }
}

fn unix_nanos(time: std::time::SystemTime) -> u64 {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
