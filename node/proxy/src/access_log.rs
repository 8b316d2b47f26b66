//! What has come of each exchange, written where documents or the node's configuration say. Workers hand entries over
//! without ever waiting; filters are asked, and lines made and written, by a thread of its own. It also asks the
//! expressions that documents have labels of metrics be, and counts the exchanges that have such. What does not fit, or
//! cannot be written, is counted.

mod outputs;
mod recent;

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use weft_policy::{
    access_log::{EXPRESSION_STACK, Entry, ExpressionContext, LogFormat},
    telemetry::{LogPlace, LogTo, Logs, Signals},
};

use self::outputs::{Files, Out};
pub use self::recent::{Line, RecentLines, SideOf};
use crate::{
    metrics::{Counted, Metrics, Values, WorkerMetrics},
    ports::{LogRecord, SignalSink},
};

/// Entries that may wait for the writer.
const QUEUE: usize = 8_192;
/// How long lines are gathered.
const GATHER: Duration = Duration::from_millis(10);
/// How often series are let go of.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// Entries after which everything is flushed, however many more wait.
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
    entries: SyncSender<Option<Handed>>,
    /// Files are to be opened again.
    reopen: Arc<AtomicBool>,
    /// Whether exchanges are logged of which no document says anything.
    is_on: bool,
    recent: RecentLines,
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
        let (entries, handed) = sync_channel(QUEUE);
        let reopen = Arc::new(AtomicBool::new(false));
        let default = match format {
            Some(AccessLogFormat::Text) | None => LogFormat::default_text(),
            Some(AccessLogFormat::Json) => LogFormat::default_json(),
        };
        let own = Out::open(to)?;
        let (writer_reopen, is_on) = (reopen.clone(), format.is_some());
        let recent = RecentLines::default();
        let kept = recent.clone();
        // Contexts of filters stay on one thread: it makes its own.
        let write = move || {
            let mut writer = Writer {
                own,
                default,
                node,
                files: Files::default(),
                expressions: ExpressionContext::default(),
                values: Values::default(),
                counts: WorkerMetrics::new(metrics.clone()),
                forgot: Instant::now(),
                metrics,
                sink,
                line: String::new(),
                is_on,
                recent: kept,
            };
            writer.run(&handed, &writer_reopen);
        };
        thread::Builder::new().name("weft-access-log".into()).stack_size(EXPRESSION_STACK).spawn(write)?;
        Ok(Self { entries, reopen, is_on, recent })
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

    /// Hands an entry to the writer, and gets it back if that is too far behind.
    pub(crate) fn write(&self, handed: Handed) -> Result<(), Handed> {
        match self.entries.try_send(Some(handed)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) => back.map_or(Ok(()), Err),
        }
    }

    /// Has all files opened anew: somebody has moved them away.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
        // Wakes the writer; one that is too far behind to be told is awake.
        let _ = self.entries.try_send(None);
    }
}

/// What the writer's thread owns.
struct Writer {
    own: Out,
    /// How the node's log is written where no document says it.
    default: LogFormat,
    node: String,
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
    recent: RecentLines,
}

impl Writer {
    fn run(&mut self, handed: &Receiver<Option<Handed>>, reopen: &AtomicBool) {
        while let Some(first) = self.next(handed) {
            let mut next = Ok(first);
            let mut count = 0;
            while let Ok(one) = next {
                if reopen.swap(false, Ordering::Acquire) {
                    self.flush();
                    self.own.reopen();
                    self.files.close();
                }
                if let Some(Handed { entry, signals, counted }) = one {
                    if let Some(counted) = counted {
                        self.count(&counted, &entry, &signals);
                    }
                    self.write(&entry, &signals);
                }
                count += 1;
                next = if count < FLUSH_AFTER { handed.try_recv() } else { Err(TryRecvError::Empty) };
            }
            self.flush();
            // Nobody waits for a line, and whoever hands one over while this sleeps wakes nobody.
            if count < FLUSH_AFTER {
                thread::sleep(GATHER);
            }
        }
        self.flush();
    }

    /// Waits for an entry; `None` at the end. Series that are used no more are let go of, as each worker does.
    fn next(&mut self, handed: &Receiver<Option<Handed>>) -> Option<Option<Handed>> {
        loop {
            if self.counts.is_empty() {
                return handed.recv().ok();
            }
            if self.forgot.elapsed() >= FORGET_EVERY {
                self.forgot = Instant::now();
                self.counts.forget_parties();
                self.values.forget(self.forgot);
            }
            match handed.recv_timeout(FORGET_EVERY) {
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
    }

    fn lose(&self, lines: u64) {
        self.metrics.count_dropped_log_lines(lines);
    }

    fn write(&mut self, entry: &Entry, signals: &Signals) {
        self.line.clear();
        self.write_to_all(entry, signals);
        if !self.line.is_empty() {
            self.recent.keep(entry, &self.line);
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
                            format.unwrap_or(&self.default).write(entry, &self.node, &mut self.line);
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
                            format.unwrap_or(&self.default).write(entry, &self.node, &mut self.line);
                            let attributes = attributes.as_ref().map(|labels| labels.labels(entry, &self.node));
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
        format.unwrap_or(&self.default).write(entry, &self.node, &mut self.line);
        let lost = self.own.write(&self.line, entry);
        self.lose(lost);
    }
}

#[cfg(test)]
mod tests;
