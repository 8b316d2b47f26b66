//! Lines as workers make them: gathered on their thread, and handed to the writer many at a time.

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::Notify;
use weft_policy::{access_log::Entry, endpoint::Workload, telemetry::Signals};

use super::{AccessLog, Handed};

/// A worker hands its lines over once they are so many bytes, or so many, or so old.
const FULL_BYTES: usize = 60 * 1024;
const FULL_LINES: usize = 512;
const GATHER: Duration = Duration::from_millis(50);

/// Lines that were made, each with its end, and what they are of.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) text: String,
    pub(super) lines: Vec<LineOf>,
}

/// What a line is of, and where in its batch it ends.
#[derive(Debug)]
pub(super) struct LineOf {
    pub(super) at: SystemTime,
    pub(super) is_server: bool,
    pub(super) source: Option<Arc<Workload>>,
    pub(super) destination: Option<Arc<Workload>>,
    /// If no workload was called.
    pub(super) cluster: Option<Arc<str>>,
    pub(super) end: usize,
}

impl Batch {
    /// Adds the line that `write` adds to the text.
    pub(super) fn add(&mut self, entry: &Entry, write: impl FnOnce(&mut String)) {
        write(&mut self.text);
        self.text.push('\n');
        self.lines.push(LineOf {
            at: entry.start,
            is_server: entry.is_server,
            source: entry.source.clone(),
            destination: entry.destination.clone(),
            cluster: entry.upstream.cluster.as_ref().filter(|_| entry.destination.is_none()).cloned(),
            end: self.text.len(),
        });
    }

    pub(super) fn is_full(&self) -> bool {
        self.text.len() >= FULL_BYTES || self.lines.len() >= FULL_LINES
    }
}

/// The access log as one worker has it. What it has gathered is handed over at its end too.
pub(crate) struct WorkerLog {
    shared: AccessLog,
    batch: RefCell<Batch>,
    has_begun: Notify,
}

impl WorkerLog {
    pub(crate) fn new(shared: AccessLog) -> Self {
        Self { shared, batch: RefCell::default(), has_begun: Notify::new() }
    }

    /// Whether anything is written of exchanges with these signals.
    pub(crate) fn takes(&self, signals: &Signals) -> bool {
        self.shared.takes(signals)
    }

    /// Writes a line here, where nothing has to be asked for it: nothing of the exchange is moved to another thread, nor
    /// freed there. Returns whether it did.
    pub(crate) fn write_here(&self, entry: &Entry, signals: &Signals) -> bool {
        let Some((format, node)) = self.shared.plain(signals) else { return false };
        let mut batch = self.batch.borrow_mut();
        if batch.lines.is_empty() {
            self.has_begun.notify_one();
        }
        batch.add(entry, |text| format.write(entry, node, text));
        if batch.is_full() {
            drop(batch);
            self.hand_over();
        }
        true
    }

    /// Hands an entry to the writer, and gets it back if that is too far behind.
    pub(crate) fn write(&self, handed: Handed) -> Result<(), Handed> {
        // Lines stay in order.
        self.hand_over();
        self.shared.write(handed)
    }

    /// Hands over what is gathered when it is old enough, for ever.
    pub(crate) async fn keep_going(&self) {
        loop {
            self.has_begun.notified().await;
            tokio::time::sleep(GATHER).await;
            self.hand_over();
        }
    }

    #[cfg(test)]
    pub(super) fn gathered(&self) -> usize {
        self.batch.borrow().lines.len()
    }

    fn hand_over(&self) {
        let batch = self.batch.take();
        if !batch.lines.is_empty() {
            self.shared.write_batch(batch);
        }
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        self.hand_over();
    }
}
