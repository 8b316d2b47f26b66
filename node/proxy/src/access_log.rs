//! What has come of each exchange, written where documents or the node's configuration say, by a thread of its own.
//! Workers make lines of the node's own log themselves and hand them over by the batch; of what else is logged they hand
//! over entries, without ever waiting: that thread asks the filters and makes the lines. It also asks the expressions that
//! documents have labels of metrics be, and counts the exchanges that have such. What does not fit, or cannot be written,
//! is counted.

mod batch;
mod outputs;
mod recent;

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use weft_policy::{
    access_log::{EXPRESSION_STACK, Entry, ExpressionContext, LogFormat},
    telemetry::{LogPlace, LogTo, Logs, Signals},
};

pub(crate) use self::batch::WorkerLog;
pub use self::recent::{Line, RecentLines, SideOf};
use self::{
    batch::Batch,
    outputs::{Files, Out},
};
use crate::{
    metrics::{Counted, Metrics, Values, WorkerMetrics},
    ports::{LogRecord, SignalSink},
};

/// Entries that may wait for the writer, and batches of lines among them: these are about 64 KiB each.
const QUEUE: usize = 8_192;
const BATCHES: usize = 64;
/// How long lines are gathered.
const GATHER: Duration = Duration::from_millis(10);
/// How often series are let go of.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// Lines and entries after which everything is flushed, however many more wait.
const FLUSH_AFTER: usize = 1_024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// Istio's default: `[time] "GET /path HTTP/1.1" 200 - …`
    Text,
    /// One JSON object a line, with Istio's keys.
    Json,
}

/// The log of this node, as its configuration has it.
pub struct NodeLog {
    /// `None` where nothing is logged unless documents say so.
    pub format: Option<AccessLogFormat>,
    pub to: NodeLogTo,
    /// This node's name.
    pub node: String,
}

/// Where this node logs.
pub enum NodeLogTo {
    /// Such as standard output.
    Stream(Box<dyn Write + Send>),
    /// Appended to, and opened again when [`AccessLog::reopen`] says so.
    File(PathBuf),
    /// journald's socket, in its own protocol.
    Journal(PathBuf),
}

/// Where exchanges are written. Cheap to clone; the writer ends with the last clone.
#[derive(Clone)]
pub struct AccessLog {
    messages: SyncSender<Message>,
    /// Batches that wait for the writer.
    batches: Arc<AtomicUsize>,
    /// Whether exchanges are logged of which no document says anything.
    is_on: bool,
    form: Arc<NodeForm>,
    /// More than lines is written: journald gets fields besides.
    has_fields: bool,
    recent: RecentLines,
    metrics: Metrics,
}

/// How lines are made where no document says it.
struct NodeForm {
    format: LogFormat,
    /// This node's name.
    node: String,
}

enum Message {
    Entry(Handed),
    Lines(Batch),
    /// Files are to be opened again.
    Reopen,
    /// Answered when all that was handed over before is written.
    Written(oneshot::Sender<()>),
}

/// An entry on its way to the writer.
pub(crate) struct Handed {
    pub(crate) entry: Arc<Entry>,
    pub(crate) signals: Arc<Signals>,
    /// What is to be counted of it, with the labels that documents ask of requests.
    pub(crate) counted: Option<Box<Counted>>,
}

impl AccessLog {
    /// Starts the writer thread. It flushes whenever it has caught up. `sink` takes what goes to collectors; `metrics`
    /// count what is lost.
    ///
    /// # Errors
    /// The node's log cannot be opened, or there is no thread for it.
    pub fn start(log: NodeLog, metrics: Metrics, sink: Arc<dyn SignalSink>) -> io::Result<Self> {
        let NodeLog { format, to, node } = log;
        let (messages, handed) = sync_channel(QUEUE);
        let is_on = format.is_some();
        let format = match format {
            Some(AccessLogFormat::Text) | None => LogFormat::default_text(),
            Some(AccessLogFormat::Json) => LogFormat::default_json(),
        };
        let form = Arc::new(NodeForm { format, node });
        let has_fields = matches!(to, NodeLogTo::Journal(_));
        let own = Out::open(to)?;
        let (batches, recent) = (Arc::<AtomicUsize>::default(), RecentLines::default());
        let log = Self {
            messages,
            batches: batches.clone(),
            form: form.clone(),
            has_fields,
            is_on,
            recent: recent.clone(),
            metrics: metrics.clone(),
        };
        // Contexts of filters stay on one thread: it makes its own.
        let write = move || {
            let mut writer = Writer {
                own,
                form,
                files: Files::default(),
                expressions: ExpressionContext::default(),
                values: Values::default(),
                counts: WorkerMetrics::new(metrics.clone()),
                forgot: Instant::now(),
                metrics,
                sink,
                line: String::new(),
                is_on,
                written: Batch::default(),
                recent,
            };
            writer.run(&handed, &batches);
        };
        thread::Builder::new().name("weft-access-log".into()).stack_size(EXPRESSION_STACK).spawn(write)?;
        Ok(log)
    }

    /// What was written last.
    pub fn recent(&self) -> RecentLines {
        self.recent.clone()
    }

    /// Whether anything is written of exchanges with these signals.
    pub(crate) fn takes(&self, signals: &Signals) -> bool {
        match &signals.logs {
            Logs::OfNode => self.is_on,
            Logs::To(all) => !all.is_empty(),
        }
    }

    /// How the line of an exchange with these signals is made, and on which node, if that line is all that is written of
    /// it, and nothing has to be asked before.
    fn plain<'a>(&'a self, signals: &'a Signals) -> Option<(&'a LogFormat, &'a str)> {
        let NodeForm { format, node } = &*self.form;
        let format = match &signals.logs {
            Logs::OfNode if self.is_on => format,
            Logs::To(all) => match all.as_slice() {
                [LogTo { output, filter: None }] if output.place == LogPlace::Node => {
                    output.format.as_ref().unwrap_or(format)
                }
                _ => return None,
            },
            Logs::OfNode => return None,
        };
        (!self.has_fields).then_some((format, node))
    }

    /// Hands an entry to the writer, and gets it back if that is too far behind.
    fn write(&self, handed: Handed) -> Result<(), Handed> {
        match self.messages.try_send(Message::Entry(handed)) {
            Err(TrySendError::Full(Message::Entry(back)) | TrySendError::Disconnected(Message::Entry(back))) => {
                Err(back)
            }
            _ => Ok(()),
        }
    }

    /// Hands lines to the writer, and counts them if that is too far behind.
    fn write_batch(&self, batch: Batch) {
        let lines = batch.lines.len() as u64;
        let has_room = self.batches.fetch_add(1, Ordering::AcqRel) < BATCHES;
        if !has_room || self.messages.try_send(Message::Lines(batch)).is_err() {
            self.batches.fetch_sub(1, Ordering::AcqRel);
            self.metrics.count_dropped_log_lines(lines);
        }
    }

    /// Has all files opened anew: somebody has moved them away.
    pub async fn reopen(&self) {
        self.tell(Message::Reopen).await;
    }

    /// Waits until all that was handed over is written.
    pub async fn written(&self) {
        let (done, written) = oneshot::channel();
        self.tell(Message::Written(done)).await;
        // An error: there is no writer any more, and nothing to wait for.
        let _ = written.await;
    }

    /// Waits for room, of which there is soon some.
    async fn tell(&self, mut message: Message) {
        while let Err(TrySendError::Full(back)) = self.messages.try_send(message) {
            message = back;
            tokio::time::sleep(GATHER).await;
        }
    }
}

/// What the writer's thread owns.
struct Writer {
    own: Out,
    form: Arc<NodeForm>,
    files: Files,
    expressions: ExpressionContext,
    /// What labels were worth that are asked of requests, and the series that have them.
    values: Values,
    counts: WorkerMetrics,
    /// When it last let go of series.
    forgot: Instant,
    metrics: Metrics,
    sink: Arc<dyn SignalSink>,
    line: String,
    is_on: bool,
    /// The lines that were made here since the last flush.
    written: Batch,
    recent: RecentLines,
}

impl Writer {
    fn run(&mut self, messages: &Receiver<Message>, batches: &AtomicUsize) {
        while let Some(first) = self.next(messages) {
            let mut next = Ok(first);
            let mut count = 0;
            while let Ok(message) = next {
                count += self.take(message, batches);
                next = if count < FLUSH_AFTER { messages.try_recv() } else { Err(TryRecvError::Empty) };
            }
            self.flush();
            // Nobody waits for a line, and whoever hands one over while this sleeps wakes nobody.
            if count < FLUSH_AFTER {
                thread::sleep(GATHER);
            }
        }
        self.flush();
    }

    /// Returns how many lines and entries it was.
    fn take(&mut self, message: Message, batches: &AtomicUsize) -> usize {
        match message {
            Message::Lines(batch) => {
                batches.fetch_sub(1, Ordering::AcqRel);
                let lines = batch.lines.len();
                let lost = self.own.write_lines(&batch.text, lines as u64);
                self.lose(lost);
                self.keep();
                self.recent.keep(batch);
                lines
            }
            Message::Entry(Handed { entry, signals, counted }) => {
                if let Some(counted) = counted {
                    self.count(&counted, &entry, &signals);
                }
                self.write(&entry, &signals);
                1
            }
            Message::Reopen => {
                self.flush();
                self.own.reopen();
                self.files.close();
                0
            }
            Message::Written(done) => {
                self.flush();
                // Who asked may have stopped waiting.
                let _ = done.send(());
                0
            }
        }
    }

    /// Waits for a message; `None` at the end. Series that are used no more are let go of, as each worker does.
    fn next(&mut self, messages: &Receiver<Message>) -> Option<Message> {
        loop {
            if self.counts.is_empty() {
                return messages.recv().ok();
            }
            if self.forgot.elapsed() >= FORGET_EVERY {
                self.forgot = Instant::now();
                self.counts.forget_parties();
                self.values.forget(self.forgot);
            }
            match messages.recv_timeout(FORGET_EVERY) {
                Ok(first) => return Some(first),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    fn count(&mut self, counted: &Counted, entry: &Entry, signals: &Signals) {
        let Some(shape) = signals.recorded() else { return };
        let (recorded, cut) = self.values.of(shape, entry, &self.expressions, Instant::now());
        if cut > 0 {
            self.metrics.count_cut_values(cut);
        }
        self.counts.count(counted, recorded);
    }

    fn flush(&mut self) {
        let lost = self.own.flush() + self.files.flush();
        self.lose(lost);
        self.keep();
    }

    fn keep(&mut self) {
        if !self.written.lines.is_empty() {
            self.recent.keep(std::mem::take(&mut self.written));
        }
    }

    fn lose(&self, lines: u64) {
        self.metrics.count_dropped_log_lines(lines);
    }

    fn write(&mut self, entry: &Entry, signals: &Signals) {
        self.line.clear();
        self.write_to_all(entry, signals);
        if !self.line.is_empty() {
            self.written.add(entry, |text| text.push_str(&self.line));
            if self.written.is_full() {
                self.keep();
            }
        }
    }

    fn write_to_all(&mut self, entry: &Entry, signals: &Signals) {
        match &signals.logs {
            Logs::OfNode if self.is_on => self.write_own(None, entry),
            Logs::OfNode => {}
            Logs::To(all) => {
                for LogTo { output, filter } in all {
                    if filter.as_ref().is_some_and(|filter| !filter.holds(entry, &self.expressions)) {
                        continue;
                    }
                    let format = output.format.as_ref();
                    match &output.place {
                        LogPlace::Node => self.write_own(format, entry),
                        LogPlace::File(path) => {
                            self.line.clear();
                            format.unwrap_or(&self.form.format).write(entry, &self.form.node, &mut self.line);
                            let lost = self.files.write(path, &self.line);
                            self.lose(lost);
                        }
                        LogPlace::Otlp { collector, log_name, attributes } => {
                            // What is told to a collector is not told of to it: that would never end.
                            let asked = entry.request.as_ref().and_then(|request| request.authority());
                            let host = asked.map(|asked| asked.rsplit_once(':').map_or(asked, |(host, _)| host));
                            if !entry.is_server && host == Some(collector.host.as_str()) {
                                continue;
                            }
                            self.line.clear();
                            format.unwrap_or(&self.form.format).write(entry, &self.form.node, &mut self.line);
                            let attributes = attributes.as_ref().map(|labels| labels.labels(entry, &self.form.node));
                            let record = LogRecord {
                                time: entry.start,
                                body: self.line.clone(),
                                attributes: attributes.unwrap_or_default(),
                                log_name: log_name.clone(),
                                workload: entry.own_workload().cloned(),
                                trace: entry.trace,
                            };
                            if !self.sink.log(collector, record) {
                                self.lose(1);
                            }
                        }
                    }
                }
            }
        }
    }

    fn write_own(&mut self, format: Option<&LogFormat>, entry: &Entry) {
        self.line.clear();
        format.unwrap_or(&self.form.format).write(entry, &self.form.node, &mut self.line);
        let lost = self.own.write(&self.line, entry);
        self.lose(lost);
    }
}

#[cfg(test)]
mod tests;
