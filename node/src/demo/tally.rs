//! What the load has seen, and how it is told: pure, time is handed in.

use std::{
    collections::VecDeque,
    fmt::{self, Display},
    time::Duration,
};

use tokio::time::Instant;

use super::bookinfo::Version;

/// The live line tells of this much of the past, so that an edited route shows within seconds.
const WINDOW: Duration = Duration::from_secs(10);

/// How often each version of reviews was seen, and how often nothing was.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) v1: u64,
    pub(super) v2: u64,
    pub(super) v3: u64,
    pub(super) failed: u64,
    pub(super) last_error: Option<String>,
}

impl Counts {
    pub(super) fn add(&mut self, seen: anyhow::Result<Version>) {
        match seen {
            Ok(Version::V1) => self.v1 += 1,
            Ok(Version::V2) => self.v2 += 1,
            Ok(Version::V3) => self.v3 += 1,
            Err(error) => {
                self.failed += 1;
                self.last_error = Some(format!("{error:#}"));
            }
        }
    }

    pub(super) fn served(&self) -> u64 {
        self.v1 + self.v2 + self.v3
    }

    pub(super) fn total(&self) -> u64 {
        self.served() + self.failed
    }
}

/// `part` of `whole` in percent; none of nothing is 0.
pub(super) fn percent(part: u64, whole: u64) -> f64 {
    // Counts of a demo are far below 2^52.
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

/// All pages since the start, by visitor, and those of the last 10 s.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) anonymous: Counts,
    pub(super) jason: Counts,
    recent: VecDeque<(Instant, Option<Version>)>,
    first: Option<Instant>,
}

impl Tally {
    /// A page that came, or failed to, at `now`.
    pub(super) fn record(&mut self, now: Instant, is_jason: bool, page: anyhow::Result<Version>) {
        self.first.get_or_insert(now);
        self.recent.push_back((now, page.as_ref().ok().copied()));
        self.forget(now);
        if is_jason { &mut self.jason } else { &mut self.anonymous }.add(page);
    }

    fn forget(&mut self, now: Instant) {
        while self.recent.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > WINDOW) {
            self.recent.pop_front();
        }
    }

    /// The last 10 s, or less if the load is younger.
    pub(super) fn recent(&mut self, now: Instant) -> Recent {
        self.forget(now);
        let age = self.first.map_or(WINDOW, |first| now.saturating_duration_since(first));
        let seen = |version| self.recent.iter().filter(|(_, seen)| *seen == version).count() as u64;
        let (failed, v1, v2, v3) =
            (seen(None), seen(Some(Version::V1)), seen(Some(Version::V2)), seen(Some(Version::V3)));
        let seconds = age.clamp(Duration::from_secs(1), WINDOW).as_secs_f64();
        Recent { per_second: self.recent.len() as f64 / seconds, failed, v1, v2, v3 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Recent {
    per_second: f64,
    failed: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

/// `members 5/5 · 19.8 req/s · success 100.0 % · reviews v1 81 % v2 12 % v3 7 %`
pub(super) struct LiveLine {
    /// None if the node could not be asked.
    pub(super) members: Option<usize>,
    pub(super) expected: usize,
    pub(super) recent: Recent,
}

impl Display for LiveLine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Recent { per_second, failed, v1, v2, v3 } = self.recent;
        let served = v1 + v2 + v3;
        match self.members {
            Some(members) => write!(out, "members {members}/{}", self.expected)?,
            None => write!(out, "members ?/{}", self.expected)?,
        }
        write!(out, " · {per_second:.1} req/s · success {:.1} % · reviews", percent(served, served + failed))?;
        for (name, count) in [("v1", v1), ("v2", v2), ("v3", v3)] {
            write!(out, " {name} {:.0} %", percent(count, served))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn the_line_tells_members_rate_success_and_shares() {
        let recent = Recent { per_second: 19.84, failed: 0, v1: 81, v2: 12, v3: 7 };
        let line = LiveLine { members: Some(5), expected: 5, recent };
        assert_eq!(line.to_string(), "members 5/5 · 19.8 req/s · success 100.0 % · reviews v1 81 % v2 12 % v3 7 %");
    }

    #[test]
    fn the_line_has_no_shares_of_nothing() {
        let recent = Tally::default().recent(Instant::now());
        let line = LiveLine { members: None, expected: 5, recent };
        assert_eq!(line.to_string(), "members ?/5 · 0.0 req/s · success 0.0 % · reviews v1 0 % v2 0 % v3 0 %");
    }

    #[test]
    fn rate_success_and_shares_are_those_of_the_last_ten_seconds() {
        let start = Instant::now();
        let mut tally = Tally::default();
        for count in 0..400_u64 {
            let at = start + Duration::from_millis(count * 50);
            let page = match count {
                0..200 => Err(anyhow!("starting")),
                _ if count % 4 == 0 => Ok(Version::V3),
                _ => Ok(Version::V1),
            };
            tally.record(at, false, page);
        }
        let recent = tally.recent(start + Duration::from_millis(19_999));
        assert_eq!(recent, Recent { per_second: 20.0, failed: 0, v1: 150, v2: 0, v3: 50 });
        assert_eq!((tally.anonymous.total(), tally.anonymous.failed), (400, 200));
        assert!(tally.recent.len() <= 201, "the window grows without bound");
    }

    #[test]
    fn a_young_load_has_the_rate_of_its_own_age() {
        let start = Instant::now();
        let mut tally = Tally::default();
        for count in 0..40 {
            tally.record(start + Duration::from_millis(count * 50), false, Ok(Version::V1));
        }
        assert_eq!(tally.recent(start + Duration::from_secs(2)).per_second, 20.0);
    }

    #[test]
    fn jasons_pages_are_counted_apart() {
        let mut tally = Tally::default();
        tally.record(Instant::now(), true, Ok(Version::V2));
        tally.record(Instant::now(), false, Err(anyhow!("inner").context("outer")));
        assert_eq!((tally.jason.v2, tally.jason.total()), (1, 1));
        assert_eq!(tally.anonymous.last_error.as_deref(), Some("outer: inner"));
    }
}
