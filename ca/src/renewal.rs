//! When to ask for the next certificate. Pure: the time and randomness (a number from 0 to 1) come in as arguments.

use std::time::{Duration, Instant};

use rustls_pki_types::UnixTime;

/// Renewal happens at this part of a certificate's life …
const RENEW_AT: f64 = 0.5;
/// … give or take this part of that, so that a mesh started at once does not renew at once.
const SPREAD: f64 = 0.1;
/// Wait after the first failure, doubled by each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// A renewal of which nothing was heard for so long may begin again.
const DEADLINE: Duration = Duration::from_secs(60);
/// A certificate that was just issued is not renewed sooner, even if it comes from an issuer that is about to end or
/// whose clock is ahead.
const SHORTEST: Duration = Duration::from_secs(10);

/// When one certificate is to be renewed.
///
/// Its dates are compared with the clock on the wall; how long to hold back is measured by one that nobody sets, so
/// that a clock which jumps neither stops renewal nor makes it spin.
#[derive(Clone, Debug)]
pub struct Schedule {
    not_before: UnixTime,
    not_after: UnixTime,
    renew_at: UnixTime,
    failures: u32,
    hold_until: Option<Instant>,
}

impl Default for Schedule {
    /// There is no certificate yet: due now.
    fn default() -> Self {
        let epoch = UnixTime::since_unix_epoch(Duration::ZERO);
        Self::of(epoch, epoch, 0.0)
    }
}

impl Schedule {
    /// For a certificate with these dates: due at half of its life, spread by a tenth of that.
    pub fn of(not_before: UnixTime, not_after: UnixTime, jitter: f64) -> Self {
        let renew_at = renew_at(not_before, not_after, jitter);
        Self { not_before, not_after, renew_at, failures: 0, hold_until: None }
    }

    /// The same for a certificate that was issued just now: not due for 10 s, whatever its dates say.
    pub fn issued(self, now: Instant) -> Self {
        Self { hold_until: Some(now + SHORTEST), ..self }
    }

    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// How many renewals failed in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether to renew now. A certificate that has not begun is renewed too: it was made by a clock that was ahead.
    pub fn is_due(&self, wall: UnixTime, now: Instant) -> bool {
        let held = self.hold_until.is_some_and(|until| now < until);
        !held && (wall >= self.renew_at || wall < self.not_before)
    }

    /// The certificate is revoked: due now, and until there is another.
    pub fn revoked(&mut self) {
        (self.renew_at, self.hold_until) = (UnixTime::since_unix_epoch(Duration::ZERO), None);
    }

    /// A renewal has begun: not due again before it fails, or for 60 s.
    pub fn begun(&mut self, now: Instant) {
        self.hold_until = Some(now + DEADLINE);
    }

    /// A renewal has failed: not due again for 1 s, doubled by each further failure, up to 60 s.
    pub fn failed(&mut self, wall: UnixTime, now: Instant, jitter: f64) {
        self.failures = self.failures.saturating_add(1);
        self.hold_until = Some(now + retry_after(self.failures, self.not_after, wall, jitter));
    }
}

fn renew_at(not_before: UnixTime, not_after: UnixTime, jitter: f64) -> UnixTime {
    let life = Duration::from_secs(not_after.as_secs().saturating_sub(not_before.as_secs()));
    let part = RENEW_AT * (1.0 + SPREAD * (2.0 * jitter.clamp(0.0, 1.0) - 1.0));
    UnixTime::since_unix_epoch(Duration::from_secs(not_before.as_secs()) + life.mul_f64(part))
}

/// How long to wait after `failures` renewals failed in a row: 1 s, doubling to 60 s, of which a random half to whole;
/// and never more than half of what is left of the certificate, so that tries become denser as its end comes near.
fn retry_after(failures: u32, not_after: UnixTime, now: UnixTime, jitter: f64) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(LONGEST_RETRY);
    let wait = doubled.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0));
    match not_after.as_secs().saturating_sub(now.as_secs()) {
        // Nothing is left to save by haste: a node whose certificate has ended must not hammer its peers.
        0 => wait,
        left => wait.min((Duration::from_secs(left) / 2).max(FIRST_RETRY / 2)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secs(secs: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(secs))
    }

    #[test]
    fn what_is_revoked_is_due_at_once_and_again_after_each_failure() {
        let now = Instant::now();
        let mut schedule = Schedule::of(secs(1000), secs(5000), 0.5).issued(now);
        assert!(!schedule.is_due(secs(1001), now));
        schedule.revoked();
        assert!(schedule.is_due(secs(1001), now));
        schedule.begun(now);
        assert!(!schedule.is_due(secs(1001), now));
        schedule.failed(secs(1001), now, 1.0);
        assert!(!schedule.is_due(secs(1001), now));
        assert!(schedule.is_due(secs(1003), now + Duration::from_secs(2)));
    }

    #[test]
    fn renewal_is_at_half_life_within_a_tenth() {
        assert_eq!(renew_at(secs(1000), secs(5000), 0.0), secs(2800));
        assert_eq!(renew_at(secs(1000), secs(5000), 0.5), secs(3000));
        assert_eq!(renew_at(secs(1000), secs(5000), 1.0), secs(3200));
    }

    #[test]
    fn a_certificate_is_due_from_half_its_life_on_and_before_its_beginning() {
        let schedule = Schedule::of(secs(1000), secs(5000), 0.5);
        let now = Instant::now();
        for (wall, due) in [(999, true), (1000, false), (2999, false), (3000, true), (9000, true)] {
            assert_eq!(schedule.is_due(secs(wall), now), due, "{wall}");
        }
        assert!(Schedule::default().is_due(secs(1000), now));
    }

    #[test]
    fn what_was_just_issued_is_not_due_for_ten_seconds() {
        let now = Instant::now();
        // All but ended; and made by a clock that is an hour ahead.
        for schedule in [Schedule::of(secs(1000), secs(5000), 0.5), Schedule::of(secs(8600), secs(9000), 0.5)] {
            let schedule = schedule.issued(now);
            assert!(!schedule.is_due(secs(4999), now + SHORTEST - Duration::from_millis(1)));
            assert!(schedule.is_due(secs(4999), now + SHORTEST));
        }
    }

    #[test]
    fn a_renewal_that_is_never_heard_of_again_begins_anew_after_a_minute() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.begun(now);
        assert!(!schedule.is_due(secs(1000), now + DEADLINE - Duration::from_millis(1)));
        assert!(schedule.is_due(secs(1000), now + DEADLINE));
    }

    #[test]
    fn a_failed_renewal_waits_also_while_the_wall_clock_jumps() {
        let now = Instant::now();
        let mut schedule = Schedule::of(secs(1000), secs(5000), 0.5);
        schedule.failed(secs(4000), now, 1.0);
        assert_eq!(schedule.failures(), 1);
        for wall in [0, 3000, 4000, 1_000_000] {
            assert!(!schedule.is_due(secs(wall), now + FIRST_RETRY - Duration::from_millis(1)), "{wall}");
            assert!(schedule.is_due(secs(wall), now + FIRST_RETRY), "{wall}");
        }
    }

    #[test]
    fn retries_back_off_to_a_minute() {
        let waits: Vec<u64> =
            (1..=8).map(|failures| retry_after(failures, secs(1_000_000), secs(0), 1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(retry_after(3, secs(1_000_000), secs(0), 0.0), Duration::from_secs(2));
        assert_eq!(retry_after(u32::MAX, secs(1_000_000), secs(0), 1.0), LONGEST_RETRY);
    }

    #[test]
    fn retries_become_denser_towards_the_end_and_calm_after_it() {
        assert_eq!(retry_after(10, secs(1000), secs(980), 1.0), Duration::from_secs(10));
        assert_eq!(retry_after(10, secs(1000), secs(999), 1.0), Duration::from_millis(500));
        assert_eq!(retry_after(10, secs(1000), secs(1000), 1.0), LONGEST_RETRY);
        assert_eq!(retry_after(10, secs(1000), secs(9000), 1.0), LONGEST_RETRY);
    }

    proptest! {
        #[test]
        fn renewal_is_always_within_the_life(begin in 0_u64..1 << 40, life in 0_u64..1 << 40, jitter in any::<f64>()) {
            let (begin, end) = (secs(begin), secs(begin + life));
            let at = renew_at(begin, end, if jitter.is_nan() { 0.0 } else { jitter });
            prop_assert!(begin <= at && at <= end);
        }

        #[test]
        fn a_retry_is_never_past_the_end_while_there_is_time(
            failures in any::<u32>(),
            left in 2_u64..1 << 40,
            jitter in 0.0..1.0,
        ) {
            let wait = retry_after(failures, secs(left), secs(0), jitter);
            prop_assert!(wait >= FIRST_RETRY / 2 && wait <= LONGEST_RETRY && wait < Duration::from_secs(left));
        }
    }
}
