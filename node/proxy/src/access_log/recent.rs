//! The latest lines of access logs, in memory, for people who look. Only the writing thread adds to them, into buffers
//! that it uses again: a line costs a copy, and a lock that is free but while somebody reads.

use std::{sync::Arc, time::SystemTime};

use parking_lot::Mutex;
use weft_policy::{access_log::Entry, endpoint::Workload};

/// Lines that are kept.
pub const KEPT: usize = 512;
/// The longest beginning of a line that is kept, in bytes; with [`KEPT`] lines 1 MiB at most.
const MAX_TEXT: usize = 2_048;

/// A line that was written.
#[derive(Clone, Debug)]
pub struct Line {
    /// When the exchange began.
    pub at: SystemTime,
    /// Whether the called workload's side tells it.
    pub is_server: bool,
    pub source: SideOf,
    pub destination: SideOf,
    /// The cluster that was called, such as `outbound|9080||reviews.default.svc.cluster.local`, if no workload was.
    pub cluster: String,
    /// Without its end of line.
    pub text: String,
}

/// A workload; empty if it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SideOf {
    pub namespace: String,
    pub workload: String,
    pub service: String,
}

impl SideOf {
    fn set(&mut self, workload: Option<&Workload>) {
        let Self { namespace, workload: name, service } = self;
        for text in [&mut *namespace, &mut *name, &mut *service] {
            text.clear();
        }
        if let Some(known) = workload {
            namespace.push_str(known.namespace.as_str());
            name.push_str(known.name.as_str());
            service.push_str(known.service.name.as_str());
        }
    }
}

#[derive(Debug, Default)]
struct Ring {
    lines: Vec<Line>,
    /// The oldest, once all places are taken.
    next: usize,
}

/// The latest lines. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct RecentLines(Arc<Mutex<Ring>>);

impl RecentLines {
    pub(super) fn keep(&self, entry: &Entry, text: &str) {
        let text = text.trim_end();
        let mut ring = self.0.lock();
        let Ring { lines, next } = &mut *ring;
        if lines.len() < KEPT {
            let (source, destination) = (SideOf::default(), SideOf::default());
            let (cluster, text) = (String::new(), String::new());
            lines.push(Line { at: entry.start, is_server: false, source, destination, cluster, text });
        }
        let line = &mut lines[*next];
        *next = (*next + 1) % KEPT;
        (line.at, line.is_server) = (entry.start, entry.is_server);
        line.source.set(entry.source.as_deref());
        line.destination.set(entry.destination.as_deref());
        line.cluster.clear();
        if entry.destination.is_none() {
            line.cluster.push_str(entry.upstream.cluster.as_deref().unwrap_or_default());
        }
        line.text.clear();
        line.text.push_str(&text[..text.floor_char_boundary(MAX_TEXT)]);
    }

    /// Those that somebody wants, the oldest first.
    pub fn find(&self, is_wanted: impl Fn(&Line) -> bool) -> Vec<Line> {
        let ring = self.0.lock();
        let (young, old) = ring.lines.split_at(if ring.lines.len() < KEPT { 0 } else { ring.next });
        old.iter().chain(young).filter(|line| is_wanted(line)).cloned().collect()
    }
}
