//! When what an actor keeps fresh is asked for again.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// First and longest pause after a failure; it doubles.
pub(super) const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The state of one thing that is kept fresh.
pub(super) struct Refresh {
    /// `None` while it is asked for.
    next: Option<Instant>,
    failures: u32,
}

impl Refresh {
    /// To be asked for now.
    pub(super) fn due(now: Instant) -> Self {
        Self { next: Some(now), failures: 0 }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next.is_some_and(|next| next <= now)
    }

    /// When it is due; `None` while it is asked for.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    pub(super) fn begin(&mut self) {
        self.next = None;
    }

    /// To be asked for again after `every`, or a little sooner.
    pub(super) fn succeeded(&mut self, now: Instant, every: Duration) {
        *self = Self { next: Some(now + every.mul_f64(jitter())), failures: 0 };
    }

    /// Returns whether it is the first failure after a success, and how long the pause is.
    pub(super) fn failed(&mut self, now: Instant) -> (bool, Duration) {
        let pause = (RETRY.0 * 2_u32.pow(self.failures.min(6))).min(RETRY.1).mul_f64(jitter());
        let is_first = self.failures == 0;
        *self = Self { next: Some(now + pause), failures: self.failures.saturating_add(1) };
        (is_first, pause)
    }
}

/// 0.75 to 1, so that the nodes of a mesh do not ask at once.
fn jitter() -> f64 {
    rand::random_range(0.75..=1.0)
}

/// Returns at that time; never without one.
pub(super) async fn until(next: Option<Instant>) {
    match next {
        Some(next) => sleep_until(next).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_a_success_begins_anew() {
        let now = Instant::now();
        let mut refresh = Refresh::due(now);
        assert!(refresh.is_due(now));
        refresh.begin();
        assert!(!refresh.is_due(now + RETRY.1), "it is asked for");
        for (i, seconds) in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0].into_iter().enumerate() {
            let (is_first, pause) = refresh.failed(now);
            assert_eq!(is_first, i == 0);
            assert!((0.75 * seconds..=seconds).contains(&pause.as_secs_f64()), "{i}: {pause:?}");
            assert_eq!(refresh.next(), Some(now + pause));
        }
        refresh.succeeded(now, RETRY.1);
        assert!(!refresh.is_due(now) && refresh.is_due(now + RETRY.1));
        assert!(refresh.failed(now).0);
    }
}
