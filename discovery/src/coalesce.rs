//! Changes of a node's record that follow each other closely go out as one.

use std::time::{Duration, Instant};

/// Changes within this time of the last record go out together, when it is over.
pub const INTERVAL: Duration = Duration::from_millis(50);

/// When to say the record again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Coalesce {
    last_said: Option<Instant>,
    stale: bool,
}

impl Coalesce {
    /// The record has changed.
    pub fn changed(&mut self) {
        self.stale = true;
    }

    /// It is said now.
    pub fn said(&mut self, now: Instant) {
        *self = Self { last_said: Some(now), stale: false };
    }

    /// When to say it, if it has changed since it was last said.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        self.stale.then(|| self.last_said.map_or(now, |said| said + INTERVAL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_change_goes_out_at_once_and_those_that_follow_together() {
        let (mut coalesce, now) = (Coalesce::default(), Instant::now());
        assert_eq!(coalesce.due(now), None);
        coalesce.changed();
        assert_eq!(coalesce.due(now), Some(now));
        coalesce.said(now);
        coalesce.changed();
        coalesce.changed();
        assert_eq!(coalesce.due(now + INTERVAL / 2), Some(now + INTERVAL));
        coalesce.said(now + INTERVAL);
        assert_eq!(coalesce.due(now + INTERVAL), None);
    }
}
