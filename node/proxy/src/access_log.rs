//! What has come of each exchange, written where documents or the node's configuration say. Workers hand entries over
//! without ever waiting; filters are asked, and lines made and written, by a thread of its own. What does not fit, or
//! cannot be written, is counted.

mod outputs;
mod recent;

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    thread,
    time::Duration,
};

use weft_policy::{
    access_log::{Entry, FILTER_STACK, FilterContext, LogFormat},
    telemetry::{LogPlace, LogTo, Logs, Signals},
};

use self::outputs::{Files, Out};
pub use self::recent::{Line, RecentLines, SideOf};
use crate::{
    metrics::Metrics,
    ports::{LogRecord, SignalSink},
};

/// Entries that may wait for the writer.
const QUEUE: usize = 8_192;
/// How long lines are gathered.
const GATHER: Duration = Duration::from_millis(10);
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
struct Handed {
    entry: Arc<Entry>,
    signals: Arc<Signals>,
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
                filters: FilterContext::default(),
                metrics,
                sink,
                line: String::new(),
                is_on,
                recent: kept,
            };
            writer.run(&handed, &writer_reopen);
        };
        thread::Builder::new().name("weft-access-log".into()).stack_size(FILTER_STACK).spawn(write)?;
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

    /// Hands an entry to the writer; false if it is too far behind.
    pub(crate) fn write(&self, entry: Arc<Entry>, signals: Arc<Signals>) -> bool {
        self.entries.try_send(Some(Handed { entry, signals })).is_ok()
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
    filters: FilterContext,
    metrics: Metrics,
    sink: Arc<dyn SignalSink>,
    line: String,
    is_on: bool,
    recent: RecentLines,
}

impl Writer {
    fn run(&mut self, handed: &Receiver<Option<Handed>>, reopen: &AtomicBool) {
        while let Ok(first) = handed.recv() {
            let mut next = Ok(first);
            let mut count = 0;
            while let Ok(one) = next {
                if reopen.swap(false, Ordering::Acquire) {
                    self.flush();
                    self.own.reopen();
                    self.files.close();
                }
                if let Some(Handed { entry, signals }) = one {
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
                    if filter.as_ref().is_some_and(|filter| !filter.takes(entry, &self.filters)) {
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
