//! Whether this node has more to do than it can, so that callers had better go elsewhere: its own word, which it gives
//! before it has to refuse anything, and takes back late, lest load swings to and fro between nodes.

use std::time::{Duration, Instant};

/// From this share of what the proxy may hold on, in percent.
const TOO_MUCH: u64 = 90;
/// Until it was below this for [`CALM`].
const ENOUGH: u64 = 70;
const CALM: Duration = Duration::from_secs(5);

/// What is known of the load, from one look to the next.
#[derive(Debug, Default)]
pub struct Overload {
    /// When there was too much last.
    since: Option<Instant>,
}

impl Overload {
    /// As after a look that found the node overloaded, or not.
    pub fn resume(is_overloaded: bool, now: Instant) -> Self {
        Self { since: is_overloaded.then_some(now) }
    }

    /// Notes how near the proxy is to what it may hold, in percent. Returns whether it is too near.
    pub fn look(&mut self, percent: u64, now: Instant) -> bool {
        let holds = if self.since.is_some() { percent >= ENOUGH } else { percent >= TOO_MUCH };
        if holds {
            self.since = Some(now);
        }
        self.since.take_if(|since| now.saturating_duration_since(*since) >= CALM);
        self.since.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_at_once_and_ends_when_there_has_been_little_for_a_while() {
        let (begun, mut overload) = (Instant::now(), Overload::default());
        let mut look = |at_ms, percent| overload.look(percent, begun + Duration::from_millis(at_ms));
        assert!(!look(0, 89));
        assert!(look(100, 90));
        assert!(look(10_000, 70), "as long as it is not much less");
        assert!(look(10_100, 69));
        assert!(look(14_900, 0), "not at once");
        assert!(!look(15_000, 0));
        assert!(!look(15_100, 89));
        assert!(look(15_200, 300));
    }

    #[test]
    fn short_lulls_do_not_end_it() {
        let (begun, mut overload) = (Instant::now(), Overload::resume(true, Instant::now()));
        let is_overloaded =
            |second| overload.look(if second % 4 == 0 { 80 } else { 10 }, begun + Duration::from_secs(second));
        assert!((0..100).all(is_overloaded));
    }
}
