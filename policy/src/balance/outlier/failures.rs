//! How many of an endpoint's responses were errors, by the interval between two looks.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Fewer requests in an interval say nothing: Envoy's `failure_percentage_request_volume`, which Istio leaves as it is.
const LEAST_REQUESTS: u32 = 50;
/// Nor do fewer endpoints that have had so many: `failure_percentage_minimum_hosts`.
pub(in crate::balance) const LEAST_ENDPOINTS: usize = 5;

/// Counts of the present interval, and of the one before that had any.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// Numbers the intervals.
    present: AtomicU64,
    all: AtomicU32,
    failed: AtomicU32,
    past: AtomicU64,
    past_all: AtomicU32,
    past_failed: AtomicU32,
}

impl Failures {
    /// Counts a response. Whether it is the first since an interval has ended in which too many were errors.
    pub(super) fn count(&self, has_failed: bool, interval: u64, most_percent: u32) -> bool {
        let before = self.present.load(Relaxed);
        let is_first = before < interval && self.present.compare_exchange(before, interval, Relaxed, Relaxed).is_ok();
        if is_first {
            self.past.store(before, Relaxed);
            self.past_all.store(self.all.swap(0, Relaxed), Relaxed);
            self.past_failed.store(self.failed.swap(0, Relaxed), Relaxed);
        }
        self.all.fetch_add(1, Relaxed);
        if has_failed {
            self.failed.fetch_add(1, Relaxed);
        }
        // What was longer ago is not judged any more.
        is_first && before + 1 == interval && self.were_too_many(most_percent)
    }

    /// Errors of the interval before.
    pub(super) fn past_failed(&self) -> u32 {
        self.past_failed.load(Relaxed)
    }

    fn were_too_many(&self, most_percent: u32) -> bool {
        let (all, failed) = (self.past_all.load(Relaxed), self.past_failed.load(Relaxed));
        all >= LEAST_REQUESTS && 100 * u64::from(failed) >= u64::from(most_percent) * u64::from(all)
    }

    /// Whether there were enough responses in an interval for it to count.
    pub(super) fn says_something_of(&self, interval: u64) -> bool {
        let all = match (self.present.load(Relaxed), self.past.load(Relaxed)) {
            (present, _) if present == interval => &self.all,
            (_, past) if past == interval => &self.past_all,
            _ => return false,
        };
        all.load(Relaxed) >= LEAST_REQUESTS
    }

    /// What was before is not judged.
    pub(super) fn forget(&self) {
        self.all.store(0, Relaxed);
        self.failed.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the first response of the next interval shows that too many of these were errors.
    fn too_many(failed: u32, all: u32, most_percent: u32, next: u64) -> bool {
        let failures = Failures::default();
        for number in 0..all {
            assert!(!failures.count(number < failed, 7, most_percent));
        }
        let found = failures.count(false, next, most_percent);
        assert!(!failures.count(false, next, most_percent), "one hears it");
        found
    }

    #[test]
    fn an_interval_is_judged_at_its_end_by_50_requests_or_more() {
        assert!(too_many(25, 50, 50, 8));
        assert!(!too_many(24, 50, 50, 8));
        assert!(!too_many(49, 49, 50, 8), "too few to say anything");
        assert!(!too_many(50, 50, 50, 9), "too long ago");
        assert!(!too_many(50, 50, 50, 7), "not over yet");
    }

    #[test]
    fn an_interval_counts_where_it_had_enough_requests() {
        let failures = Failures::default();
        for _ in 0..50 {
            failures.count(false, 7, 85);
        }
        assert!(failures.says_something_of(7) && !failures.says_something_of(6));
        failures.count(false, 8, 85);
        assert!(failures.says_something_of(7) && !failures.says_something_of(8));
        failures.count(false, 9, 85);
        assert!(!failures.says_something_of(7));
    }
}
