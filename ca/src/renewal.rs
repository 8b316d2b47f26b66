//! When to ask for the next certificate. Pure: randomness comes in as a number from 0 to 1.

use std::time::Duration;

use rustls_pki_types::UnixTime;

/// Renewal happens at this part of a certificate's life …
const RENEW_AT: f64 = 0.5;
/// … give or take this part of that, so that a mesh started at once does not renew at once.
const SPREAD: f64 = 0.1;
/// Wait after the first failure, doubled by each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// Where a certificate is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Nothing to do yet.
    Fresh,
    /// Still good, and time to renew.
    Due,
    /// No longer good.
    Expired,
}

/// When to renew a certificate: at half its life, spread by a tenth of that. `jitter` is random, from 0 to 1, drawn
/// once per certificate.
pub fn renew_at(not_before: UnixTime, not_after: UnixTime, jitter: f64) -> UnixTime {
    let life = Duration::from_secs(not_after.as_secs().saturating_sub(not_before.as_secs()));
    let part = RENEW_AT * (1.0 + SPREAD * (2.0 * jitter.clamp(0.0, 1.0) - 1.0));
    UnixTime::since_unix_epoch(Duration::from_secs(not_before.as_secs()) + life.mul_f64(part))
}

/// Where a certificate is that is to be renewed at `renew_at`.
pub fn status(renew_at: UnixTime, not_after: UnixTime, now: UnixTime) -> Status {
    if now > not_after {
        Status::Expired
    } else if now >= renew_at {
        Status::Due
    } else {
        Status::Fresh
    }
}

/// How long to wait after `failures` renewals failed in a row: 1 s, doubling to 60 s, of which a random half to whole;
/// and never more than half of what is left of the certificate, so that tries become denser as its end comes near.
pub fn retry_after(failures: u32, not_after: UnixTime, now: UnixTime, jitter: f64) -> Duration {
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
    fn renewal_is_at_half_life_within_a_tenth() {
        assert_eq!(renew_at(secs(1000), secs(5000), 0.0), secs(2800));
        assert_eq!(renew_at(secs(1000), secs(5000), 0.5), secs(3000));
        assert_eq!(renew_at(secs(1000), secs(5000), 1.0), secs(3200));
    }

    #[test]
    fn a_certificate_is_fresh_then_due_then_expired() {
        let (due, end) = (secs(3000), secs(5000));
        for (now, expected) in
            [(2999, Status::Fresh), (3000, Status::Due), (5000, Status::Due), (5001, Status::Expired)]
        {
            assert_eq!(status(due, end, secs(now)), expected, "{now}");
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
