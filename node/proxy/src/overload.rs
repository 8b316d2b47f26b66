//! Shedding load before memory runs out.
//!
//! What a connection may make us hold is counted as bodies pass ([`Load::held`](crate::connection::Load::held)), in
//! cells of its worker. Ten times a second each worker adds them up for all to see. Where the sum is more than the
//! budget, new requests are answered 503, and each worker ends its largest connection, until it is less. On the same
//! occasion connections end whose callers read nothing of what they asked for, and requests of theirs whose time is up.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::warn;

use crate::{
    admission::Slots,
    connection::{End, LEAST_OFFENCE, Look},
    worker::Worker,
};

const EVERY: Duration = Duration::from_millis(100);

/// What all workers hold, in bytes: one sum for each.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    held: Arc<[AtomicU64]>,
    limit: u64,
}

impl Budget {
    pub(crate) fn new(workers: usize, limit: u64) -> Self {
        Self { held: (0..workers).map(|_| AtomicU64::new(0)).collect(), limit }
    }

    /// Notes what a worker holds. True if all together hold more than they may.
    fn is_spent(&self, worker: usize, held: u64) -> bool {
        if let Some(of_worker) = self.held.get(worker) {
            of_worker.store(held, Ordering::Relaxed);
        }
        self.held() > self.limit
    }

    fn held(&self) -> u64 {
        let all = self.held.iter().map(|held| held.load(Ordering::Relaxed));
        all.fold(0_u64, u64::saturating_add)
    }
}

/// How near the proxy is to what it may hold: more than 100 % of it is refused.
#[derive(Clone, Debug)]
pub struct Pressure {
    pub(crate) budget: Budget,
    /// For other nodes.
    pub(crate) slots: Slots,
}

impl Pressure {
    /// The greater of the bytes held for slow peers and the connections of other nodes, in percent of what they may be.
    pub fn percent(&self) -> u64 {
        let held = self.budget.held().saturating_mul(100) / self.budget.limit.max(1);
        held.max(self.slots.taken_percent())
    }
}

/// Watches the budget for one worker, for ever.
pub(crate) async fn watch(worker: Rc<Worker>, budget: Budget, number: usize) {
    let max_still = worker.limits.stall_timeout.as_millis().div_ceil(EVERY.as_millis());
    let max_still = u32::try_from(max_still).unwrap_or(u32::MAX);
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        worker.overdue.collect(Instant::now());
        let Look { held, largest, stalled } = worker.connections.look(max_still);
        for load in stalled {
            load.end(End::StalledReader);
        }
        let is_spent = budget.is_spent(number, held);
        if is_spent != worker.is_overloaded.replace(is_spent) && is_spent {
            warn!(held, limit = budget.limit, "requests are refused until less is held for slow peers");
        }
        if let Some(largest) = largest.filter(|load| is_spent && load.held() >= LEAST_OFFENCE) {
            largest.end(End::Overload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_for_all_workers_together() {
        let budget = Budget::new(2, 100);
        assert!(!budget.is_spent(0, 60));
        assert!(budget.clone().is_spent(1, 41));
        assert!(budget.is_spent(0, 60), "whoever asks");
        assert!(!budget.is_spent(0, 59));
    }

    #[test]
    fn pressure_is_the_worse_of_bytes_and_connections() {
        let pressure = Pressure { budget: Budget::new(2, 200), slots: Slots::new(4) };
        assert_eq!(pressure.percent(), 0);
        pressure.budget.is_spent(1, 90);
        assert_eq!(pressure.percent(), 45);
        let _taken = [(); 3].map(|()| pressure.slots.take([127, 0, 0, 1].into()).unwrap());
        assert_eq!(pressure.percent(), 75);
        pressure.budget.is_spent(0, 200);
        assert_eq!(pressure.percent(), 145);
    }
}
