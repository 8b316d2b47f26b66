//! How long an endpoint takes to answer, as Linkerd's peak EWMA balancer reckons it (`tower::load::peak_ewma`, after
//! Finagle's): a slower answer counts at once and whole, faster ones by an average whose weight fades with time.
//!
//! What is known fades as long as nothing is heard, so that an endpoint which was slow once is tried again.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What an endpoint is taken for of which nothing is known, in microseconds. Linkerd's.
const UNKNOWN_US: f32 = 30_000.0;

/// The estimate in microseconds and when it was made, in one word, so that nobody reads one without the other: an
/// `f32`, and the low half of the callers' clock in milliseconds, which comes round after 49 days. 0 is none yet.
#[derive(Debug, Default)]
pub(crate) struct Latency(AtomicU64);

impl Latency {
    /// The estimate now, in microseconds. `decay_ms` is the time in which it fades to 1/e.
    pub(super) fn estimate(&self, now_ms: u64, decay_ms: u64) -> f64 {
        let word = match self.0.load(Relaxed) {
            0 => {
                // From here on it fades too: else a new endpoint among fast ones would never be tried.
                let unknown = packed(UNKNOWN_US, now_ms);
                self.0.compare_exchange(0, unknown, Relaxed, Relaxed).err().unwrap_or(unknown)
            }
            known => known,
        };
        let (estimate, age_ms) = unpacked(word, now_ms);
        f64::from(estimate) * fading(age_ms, decay_ms)
    }

    /// Takes in how long one answer took. Of several at one moment none is lost but those that change nothing.
    pub(super) fn observe(&self, took_us: f32, now_ms: u64, decay_ms: u64) {
        // An error is an update that was not needed.
        let _ = self.0.fetch_update(Relaxed, Relaxed, |word| {
            if word == 0 {
                return Some(packed(took_us, now_ms));
            }
            let (estimate, age_ms) = unpacked(word, now_ms);
            if took_us >= estimate {
                return Some(packed(took_us, now_ms));
            }
            // The clock has not moved: neither does the average, nor its time, or many answers would stop it.
            (age_ms > 0).then(|| {
                let kept = fading(age_ms, decay_ms) as f32;
                packed(estimate * kept + took_us * (1.0 - kept), now_ms)
            })
        });
    }
}

fn fading(age_ms: u32, decay_ms: u64) -> f64 {
    (-f64::from(age_ms) / decay_ms.max(1) as f64).exp()
}

fn packed(estimate: f32, now_ms: u64) -> u64 {
    // Above 0, so that it is never taken for none.
    u64::from(estimate.max(f32::MIN_POSITIVE).to_bits()) << 32 | (now_ms & u64::from(u32::MAX))
}

fn unpacked(word: u64, now_ms: u64) -> (f32, u32) {
    let age = (now_ms as u32).wrapping_sub(word as u32);
    // Who read the clock before another stored its own is a little in the past, not 49 days in the future.
    (f32::from_bits((word >> 32) as u32), if age > u32::MAX / 2 { 0 } else { age })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECAY: u64 = 10_000;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < b / 1_000.0
    }

    #[test]
    fn a_slower_answer_counts_whole_and_a_faster_one_the_more_the_longer_nothing_was_heard() {
        let latency = Latency::default();
        latency.observe(1_000.0, 0, DECAY);
        latency.observe(50_000.0, 1, DECAY);
        assert!(near(latency.estimate(1, DECAY), 50_000.0), "a peak");
        latency.observe(1_000.0, 1, DECAY);
        assert!(near(latency.estimate(1, DECAY), 50_000.0), "no time has passed");
        latency.observe(1_000.0, 1 + DECAY, DECAY);
        let expected = 50_000.0 / std::f64::consts::E + 1_000.0 * (1.0 - 1.0 / std::f64::consts::E);
        assert!(near(latency.estimate(1 + DECAY, DECAY), expected));
    }

    #[test]
    fn many_answers_within_a_moment_do_not_stop_the_average() {
        let latency = Latency::default();
        latency.observe(50_000.0, 0, DECAY);
        for now_ms in 1..60_000 {
            for _ in 0..3 {
                latency.observe(1_000.0, now_ms, DECAY);
            }
        }
        assert!(latency.estimate(60_000, DECAY) < 1_200.0);
    }

    #[test]
    fn what_is_unknown_counts_as_30_ms_and_fades_like_all_else() {
        let latency = Latency::default();
        assert!(near(latency.estimate(77, DECAY), 30_000.0));
        assert!(near(latency.estimate(77 + DECAY, DECAY), 30_000.0 / std::f64::consts::E));
    }

    #[test]
    fn a_clock_that_comes_round_or_is_a_little_late_harms_nothing() {
        let latency = Latency::default();
        let end = u64::from(u32::MAX);
        latency.observe(1_000.0, end, DECAY);
        assert!(near(latency.estimate(end + 1, DECAY), 1_000.0));
        assert!(near(latency.estimate(end - 5, DECAY), 1_000.0));
    }
}
