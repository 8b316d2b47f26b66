//! One host of the mesh: what it is over all lives of its process, and its clocks.

use std::{collections::BTreeMap, time::Duration};

use weft_wire::id::NodeId;

use crate::{
    ledger::Taken,
    process::{Disk, Identity, Process},
};

/// Messages that wait for a process: as many as the mailboxes of its actors take, and no more.
pub const INBOX: usize = 128;

pub struct Node {
    pub identity: Identity,
    pub disk: Disk,
    /// A copy of the disk from earlier on.
    pub old_disk: Disk,
    pub process: Option<Process>,
    /// Counts starts: events of earlier processes are void.
    pub life: u32,
    /// What the process has taken in.
    pub taken: Taken,
    /// Owners of whom the process holds a record, and when they were members to it last.
    pub known: BTreeMap<NodeId, Duration>,
    pub clock: Clock,
    pub disk_full: u32,
    /// How long a message takes to be handled.
    pub service: Duration,
    pub busy_until: Duration,
    pub inbox: usize,
    pub fate: Fate,
    /// Since when it is not running.
    pub down_since: Option<Duration>,
    /// Things that did not go well, of all lives.
    pub counts: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Lives,
    /// Down, and will be back.
    Down,
    Dead,
    Left,
}

impl Node {
    pub fn new(identity: Identity, clock: Clock) -> Self {
        Self {
            identity,
            disk: Disk::default(),
            old_disk: Disk::default(),
            process: None,
            life: 0,
            taken: Taken::default(),
            known: BTreeMap::new(),
            clock,
            disk_full: 0,
            service: Duration::ZERO,
            busy_until: Duration::ZERO,
            inbox: 0,
            fate: Fate::Down,
            down_since: Some(Duration::ZERO),
            counts: BTreeMap::new(),
        }
    }

    /// The process ends; what it had only in memory is gone.
    pub fn end(&mut self, now: Duration) {
        if let Some(process) = self.process.take() {
            for (what, times) in process.counts {
                *self.counts.entry(what).or_default() += times;
            }
        }
        self.life += 1;
        self.taken = Taken::default();
        self.known.clear();
        self.inbox = 0;
        self.busy_until = now;
        self.down_since = Some(now);
    }
}

/// A wall clock that is not quite right. Time spans are measured by another, which is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    pub offset_ms: i64,
    pub drift_ppm: i64,
}

impl Clock {
    /// Unix milliseconds.
    pub fn wall_ms(&self, true_ms: u64, since_start: Duration) -> u64 {
        let drift = since_start.as_millis() as i64 * self.drift_ppm / 1_000_000;
        true_ms.saturating_add_signed(self.offset_ms + drift)
    }
}
