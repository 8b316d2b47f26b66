//! When a failed actor is started again, and when enough is enough. Pure: `now` and the randomness are handed in.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How often and how fast an actor is restarted.
#[derive(Clone, Debug)]
pub struct RestartLimits {
    /// Delay before the first restart; doubles with each failure that follows.
    pub first_delay: Duration,
    /// Longest delay.
    pub max_delay: Duration,
    /// So many restarts within [`RestartLimits::window`] are tried; the failure after them is the last.
    pub budget: usize,
    pub window: Duration,
}

impl Default for RestartLimits {
    fn default() -> Self {
        Self {
            first_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(30),
            budget: 5,
            window: Duration::from_secs(60),
        }
    }
}

/// What to do about an actor that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    RestartAfter(Duration),
    GiveUp,
}

/// The restart history of one actor.
#[derive(Debug)]
pub struct RestartPolicy {
    limits: RestartLimits,
    /// The failures of the last window that were answered by a restart, oldest first; `budget` at most.
    recent: VecDeque<Instant>,
    /// Failures since the actor last ran for a whole window.
    in_a_row: u32,
}

impl RestartPolicy {
    pub fn new(limits: RestartLimits) -> Self {
        Self { limits, recent: VecDeque::new(), in_a_row: 0 }
    }

    /// Decides about a failure at `now` of an actor that had run for `ran_for`. `jitter`, in `[0, 1)`, spreads the
    /// delay over its upper half, so that what failed together does not come back together.
    pub fn next(&mut self, ran_for: Duration, now: Instant, jitter: f64) -> Next {
        self.recent.retain(|&failure| now.duration_since(failure) < self.limits.window);
        if self.recent.len() >= self.limits.budget {
            return Next::GiveUp;
        }
        self.recent.push_back(now);
        if ran_for >= self.limits.window {
            self.in_a_row = 0;
        }
        // Beyond 2^31 the factor no longer matters: the longest delay holds.
        let factor = 1u32 << self.in_a_row.min(31);
        self.in_a_row += 1;
        let full = self.limits.first_delay.saturating_mul(factor).min(self.limits.max_delay);
        Next::RestartAfter(full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn delays(policy: &mut RestartPolicy, start: Instant, apart: Duration, count: u32) -> Vec<Next> {
        (0..count).map(|i| policy.next(Duration::ZERO, start + apart * i, 1.0)).collect()
    }

    #[test]
    fn the_delay_doubles_and_the_sixth_failure_within_the_window_is_the_last() {
        let mut policy = RestartPolicy::new(RestartLimits::default());
        let next = delays(&mut policy, Instant::now(), Duration::from_secs(1), 6);
        let millis = [100, 200, 400, 800, 1600].map(|ms| Next::RestartAfter(Duration::from_millis(ms)));
        assert_eq!(next[..5], millis);
        assert_eq!(next[5], Next::GiveUp);
    }

    #[test]
    fn failures_further_apart_than_the_budget_never_end_and_wait_30_s_at_most() {
        let mut policy = RestartPolicy::new(RestartLimits::default());
        let next = delays(&mut policy, Instant::now(), Duration::from_secs(13), 100);
        assert_eq!(next[99], Next::RestartAfter(Duration::from_secs(30)));
    }

    #[test]
    fn an_actor_that_ran_for_a_window_starts_over_with_the_shortest_delay() {
        let (mut policy, start) = (RestartPolicy::new(RestartLimits::default()), Instant::now());
        delays(&mut policy, start, Duration::from_secs(1), 4);
        let next = policy.next(Duration::from_secs(60), start + Duration::from_secs(70), 1.0);
        assert_eq!(next, Next::RestartAfter(Duration::from_millis(100)));
    }

    proptest! {
        #[test]
        fn no_window_holds_more_restarts_than_the_budget_and_no_delay_leaves_its_bounds(
            failures in prop::collection::vec((0u64..40_000, 0u64..90_000, 0.0f64..1.0), 1..200),
        ) {
            let limits = RestartLimits::default();
            let mut policy = RestartPolicy::new(limits.clone());
            let (mut now, mut restarts) = (Instant::now(), Vec::new());
            for (gap_ms, ran_ms, jitter) in failures {
                now += Duration::from_millis(gap_ms);
                if let Next::RestartAfter(delay) = policy.next(Duration::from_millis(ran_ms), now, jitter) {
                    prop_assert!(delay >= limits.first_delay / 2 && delay <= limits.max_delay);
                    restarts.push(now);
                }
                let within = restarts.iter().filter(|&&at| now.duration_since(at) < limits.window).count();
                prop_assert!(within <= limits.budget);
            }
        }
    }
}
