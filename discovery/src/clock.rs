//! A hybrid logical clock: stamps that grow with the wall clock and never behind what was seen (Kulkarni et al.,
//! "Logical Physical Clocks", 2014).

use weft_wire::document::Stamp;

/// How far a stamp may be ahead of the local wall clock, in milliseconds. A writer whose clock runs ahead would win
/// every conflict for as long as it is ahead, so such stamps are neither adopted nor issued.
pub const MAX_AHEAD_MS: u64 = 2_000;

/// The stamp is further ahead of the wall clock than [`MAX_AHEAD_MS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "stamp {stamp} is {ahead_ms} ms ahead of this host's clock ({MAX_AHEAD_MS} ms is the limit); check time synchronisation"
)]
pub struct TooFarAhead {
    pub stamp: Stamp,
    pub ahead_ms: u64,
}

/// Issues stamps. `wall_ms` is Unix milliseconds throughout.
#[derive(Clone, Debug, Default)]
pub struct HybridClock {
    last: Stamp,
}

impl HybridClock {
    /// A clock that issues only stamps above `high_water`, which an earlier run stored: a restart with a slow wall
    /// clock must not go back.
    pub fn restored(high_water: Stamp) -> Self {
        Self { last: high_water }
    }

    /// The highest stamp issued or seen; to be stored with what was stamped.
    pub fn high_water(&self) -> Stamp {
        self.last
    }

    /// A stamp above all that were issued or seen.
    ///
    /// # Errors
    /// [`TooFarAhead`] if the wall clock is so far behind the stamps seen that peers with right clocks would refuse
    /// the stamp, or this one's clock is wrong.
    pub fn now(&mut self, wall_ms: u64) -> Result<Stamp, TooFarAhead> {
        let next = if wall_ms > self.last.millis {
            Stamp { millis: wall_ms, counter: 0 }
        } else {
            match self.last.counter.checked_add(1) {
                Some(counter) => Stamp { millis: self.last.millis, counter },
                None => Stamp { millis: self.last.millis.saturating_add(1), counter: 0 },
            }
        };
        check(next, wall_ms)?;
        self.last = next;
        Ok(next)
    }

    /// Takes note of another's stamp, which passed [`check`], so that later ones of ours are above it.
    pub fn observe(&mut self, stamp: Stamp) {
        self.last = self.last.max(stamp);
    }
}

/// Whether a stamp is near enough to the wall clock to be believed.
///
/// # Errors
/// [`TooFarAhead`] if not.
pub fn check(stamp: Stamp, wall_ms: u64) -> Result<(), TooFarAhead> {
    match stamp.millis.saturating_sub(wall_ms) {
        ahead_ms if ahead_ms > MAX_AHEAD_MS => Err(TooFarAhead { stamp, ahead_ms }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stamp(millis: u64, counter: u16) -> Stamp {
        Stamp { millis, counter }
    }

    #[test]
    fn stamps_follow_the_wall_clock_and_count_within_a_millisecond() {
        let mut clock = HybridClock::default();
        assert_eq!(clock.now(100), Ok(stamp(100, 0)));
        assert_eq!(clock.now(100), Ok(stamp(100, 1)));
        assert_eq!(clock.now(90), Ok(stamp(100, 2)));
        assert_eq!(clock.now(101), Ok(stamp(101, 0)));
    }

    #[test]
    fn a_full_counter_moves_on_to_the_next_millisecond() {
        let mut clock = HybridClock::restored(stamp(100, u16::MAX));
        assert_eq!(clock.now(100), Ok(stamp(101, 0)));
    }

    #[test]
    fn a_stamp_from_too_far_ahead_is_not_believed_and_a_nearer_one_is_outdone() {
        assert_eq!(check(stamp(3_001, 0), 1_000), Err(TooFarAhead { stamp: stamp(3_001, 0), ahead_ms: 2_001 }));
        assert_eq!(check(stamp(3_000, 5), 1_000), Ok(()));
        let mut clock = HybridClock::default();
        clock.observe(stamp(3_000, 5));
        assert_eq!(clock.now(1_000), Ok(stamp(3_000, 6)));
    }

    #[test]
    fn a_clock_set_back_is_told_instead_of_issuing_what_peers_refuse() {
        let mut clock = HybridClock::restored(stamp(10_000, 0));
        assert_eq!(clock.now(5_000).unwrap_err().ahead_ms, 5_000);
        assert_eq!(clock.high_water(), stamp(10_000, 0));
        assert_eq!(clock.now(8_000), Ok(stamp(10_000, 1)));
    }

    proptest! {
        #[test]
        fn stamps_only_grow_and_never_run_ahead(steps in prop::collection::vec((0..20_000u64, prop::option::of((0..25_000u64, any::<u16>()))), 1..200)) {
            let mut clock = HybridClock::default();
            let mut highest = Stamp::default();
            for (wall_ms, seen) in steps {
                if let Some((millis, counter)) = seen {
                    let seen = stamp(millis, counter);
                    if check(seen, wall_ms).is_ok() {
                        clock.observe(seen);
                        highest = highest.max(seen);
                    }
                }
                if let Ok(issued) = clock.now(wall_ms) {
                    prop_assert!(issued > highest);
                    prop_assert!(issued.millis <= wall_ms + MAX_AHEAD_MS);
                    highest = issued;
                }
            }
        }
    }
}
