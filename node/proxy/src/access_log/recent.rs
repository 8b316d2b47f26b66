//! The latest lines of access logs, in memory, for people who look: as they were handed over, so that to keep them costs
//! nothing in a request's way.

use std::{collections::VecDeque, sync::Arc, time::SystemTime};

use parking_lot::Mutex;
use weft_policy::endpoint::Workload;

use super::batch::{Batch, LineOf};

/// Lines that are told.
pub const KEPT: usize = 512;
/// What is kept of them, in bytes, besides the latest batch.
const MAX_BYTES: usize = 1024 * 1024;
/// The longest beginning of a line that is told, in bytes.
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
    fn of(workload: Option<&Workload>) -> Self {
        workload.map_or_else(Self::default, |known| Self {
            namespace: known.namespace.to_string(),
            workload: known.name.to_string(),
            service: known.service.name.to_string(),
        })
    }
}

impl Line {
    fn of(line: &LineOf, text: &str) -> Self {
        let text = text.trim_end();
        Self {
            at: line.at,
            is_server: line.is_server,
            source: SideOf::of(line.source.as_deref()),
            destination: SideOf::of(line.destination.as_deref()),
            cluster: line.cluster.as_deref().unwrap_or_default().to_owned(),
            text: text[..text.floor_char_boundary(MAX_TEXT)].to_owned(),
        }
    }
}

#[derive(Debug, Default)]
struct Kept {
    batches: VecDeque<Batch>,
    lines: usize,
    bytes: usize,
}

/// The latest lines. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct RecentLines(Arc<Mutex<Kept>>);

impl RecentLines {
    /// Whole batches go, the oldest first.
    pub(super) fn keep(&self, mut batch: Batch) {
        batch.text.shrink_to_fit();
        batch.lines.shrink_to_fit();
        let mut kept = self.0.lock();
        kept.lines += batch.lines.len();
        kept.bytes += batch.text.len();
        kept.batches.push_back(batch);
        while let [oldest, _, ..] = kept.batches.make_contiguous() {
            let (lines, bytes) = (oldest.lines.len(), oldest.text.len());
            if kept.lines - lines < KEPT && kept.bytes <= MAX_BYTES {
                break;
            }
            kept.lines -= lines;
            kept.bytes -= bytes;
            kept.batches.pop_front();
        }
    }

    /// Those of the latest that somebody wants, the oldest first.
    pub fn find(&self, is_wanted: impl Fn(&Line) -> bool) -> Vec<Line> {
        let kept = self.0.lock();
        let lines = kept.batches.iter().flat_map(|batch| {
            let begins = std::iter::once(0).chain(batch.lines.iter().map(|line| line.end));
            begins.zip(&batch.lines).map(|(begin, line)| Line::of(line, &batch.text[begin..line.end]))
        });
        lines.skip(kept.lines.saturating_sub(KEPT)).filter(is_wanted).collect()
    }
}
