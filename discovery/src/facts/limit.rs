//! How often an owner may change its facts: a token bucket.

use std::time::Instant;

/// Changes per second that an owner may keep up.
const SUSTAINED_PER_SECOND: f64 = 20.0;
/// Changes that it may make at once after a quiet time: two seconds' worth.
const BURST: f64 = 2.0 * SUSTAINED_PER_SECOND;

#[derive(Debug, Default)]
pub(super) struct RateLimit {
    /// Changes used of the burst, and when that was counted.
    used: Option<(f64, Instant)>,
}

impl RateLimit {
    /// Counts one change, unless it is one too many.
    pub(super) fn allow(&mut self, now: Instant) -> bool {
        let used = self.used.map_or(0.0, |(used, at)| {
            let refilled = now.saturating_duration_since(at).as_secs_f64() * SUSTAINED_PER_SECOND;
            (used - refilled).max(0.0)
        });
        let allowed = used + 1.0 <= BURST;
        self.used = Some((if allowed { used + 1.0 } else { used }, now));
        allowed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_and_then_twenty_a_second() {
        let mut limit = RateLimit::default();
        let start = Instant::now();
        let allowed = |limit: &mut RateLimit, at: Instant| (0..1_000).filter(|_| limit.allow(at)).count();
        assert_eq!(allowed(&mut limit, start), 40);
        assert_eq!(allowed(&mut limit, start + Duration::from_secs(1)), 20);
        assert_eq!(allowed(&mut limit, start + Duration::from_secs(3600)), 40);
    }
}
