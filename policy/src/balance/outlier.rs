//! Outlier detection: an endpoint that fails too often in a row gets nothing for a while. The rules, the arithmetic
//! and the defaults are those of Envoy 1.40 (`outlier_detection_impl.cc`) as Istio configures it.
//!
//! Envoy looks at its endpoints with a timer; here the moments when that timer would have fired are worked out from the
//! clock, so that nothing has to run.

mod failures;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
};

use weft_wire::circuit::CircuitCause as Cause;

pub(super) use self::failures::LEAST_ENDPOINTS;
use super::hearsay::{Heard, MeshVerdict};
use crate::endpoint::{Endpoint, Standing};

/// The longest ejection, unless the shortest is longer.
const MAX_EJECTION_MS: u64 = 300_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutlierSettings {
    /// Of these numbers in a row, 0 looks at none.
    pub(crate) errors: u32,
    pub(crate) gateway_errors: u32,
    pub(crate) local_failures: u32,
    /// Failures to get a response are counted for themselves; otherwise they are 503 and 504.
    pub(crate) splits_local: bool,
    /// The statuses of responses that are errors, sorted; empty is 5xx.
    pub(crate) error_codes: Box<[u16]>,
    /// The share of errors in an interval that is too much.
    pub(crate) failure_percent: Option<u32>,
    /// Time between looks at who may come back.
    pub(crate) interval_ms: u64,
    pub(crate) base_ejection_ms: u64,
    pub(crate) max_ejection_percent: u64,
}

impl OutlierSettings {
    /// So many in a row are too many; 0 is never.
    fn limit(&self, cause: Cause) -> u32 {
        match cause {
            Cause::ConsecutiveErrors => self.errors,
            Cause::ConsecutiveGatewayErrors => self.gateway_errors,
            Cause::ConsecutiveLocalFailures => self.local_failures,
            Cause::FailurePercentage => 0,
        }
    }

    /// The status that a response counts as. Where errors are listed, one that is no 5xx counts as 500, and what is not
    /// listed as 200, as Envoy's router reports it.
    fn counted(&self, status: u16) -> u16 {
        match (self.error_codes.is_empty(), self.error_codes.binary_search(&status)) {
            (true, _) => status,
            (false, Ok(_)) if is_5xx(status) => status,
            (false, Ok(_)) => 500,
            (false, Err(_)) => 200,
        }
    }
}

fn is_5xx(status: u16) -> bool {
    (500..600).contains(&status)
}

/// What came of a try, as far as its endpoint is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Of a response; that of gRPC is what its code means in HTTP.
    Status(u16),
    /// There is a connection.
    Connected,
    /// There is none, or it broke before a response.
    Broke,
    /// No response in time.
    TimedOut,
}

/// What a try changed.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Not too many failures in a row yet, but so many that others want to know.
    Failing(Failures),
    Ejected(Trip),
    /// So many endpoints are ejected that this one has to stay.
    Overflow,
    /// It is the first since the endpoint is back in use.
    Returned,
}

/// Failures in a row, or within an interval where their share counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failures {
    pub cause: Cause,
    pub count: u32,
}

/// So many failures in a row are worth telling others: one alone happens to everybody.
const WORTH_TELLING: u32 = 2;
/// For so many milliseconds after the last of them.
const TOLD_FOR_MS: u64 = 2_000;

/// An endpoint that has just been ejected.
#[derive(Clone, Debug)]
pub struct Trip {
    pub endpoint: Arc<Endpoint>,
    pub failures: Failures,
    /// On the clock that `now_ms` is of.
    pub until_ms: u64,
}

/// What a cluster has seen of one endpoint. Beside the view, as the endpoint's load is.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Monitor {
    errors: AtomicU32,
    gateway_errors: AtomicU32,
    local_failures: AtomicU32,
    /// Ejections, less the looks that found the endpoint in use.
    times: AtomicU32,
    /// When it comes or came back; 0 before the first ejection.
    until_ms: AtomicU64,
    /// It was ejected, and no try has shown yet that it is back.
    is_out: AtomicBool,
    /// The last ejection's place in [`Cause::ALL`], and how many failures in a row it took.
    cause: AtomicU8,
    ejected_for: AtomicU32,
    interval: failures::Failures,
    /// When the last good answer came, give or take [`ANSWERED_EVERY_MS`].
    answered_ms: AtomicU64,
    /// When the last failure was counted.
    failed_ms: AtomicU64,
    heard: Heard,
}

/// How often a good answer is noted: a store takes the cache line from every other core.
const ANSWERED_EVERY_MS: u64 = 50;

impl Monitor {
    pub(crate) fn is_ejected(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms.load(Relaxed)
    }

    /// Why the endpoint is ejected, and until when.
    pub fn ejection(&self, now_ms: u64) -> Option<(Failures, u64)> {
        let cause = Cause::ALL.get(usize::from(self.cause.load(Relaxed))).copied()?;
        let failures = Failures { cause, count: self.ejected_for.load(Relaxed) };
        self.is_ejected(now_ms).then(|| (failures, self.until_ms.load(Relaxed)))
    }

    /// Failures in a row that others want to know of.
    pub(crate) fn failures(&self, settings: &OutlierSettings, now_ms: u64) -> Option<Failures> {
        if now_ms.saturating_sub(self.failed_ms.load(Relaxed)) >= TOLD_FOR_MS {
            return None;
        }
        let is_worth = |failures: &Failures| settings.limit(failures.cause) > 0 && failures.count >= WORTH_TELLING;
        self.in_a_row().find(is_worth)
    }

    /// Whether it gets nothing: it is ejected, or the mesh says so.
    pub(crate) fn is_out(&self, now_ms: u64) -> bool {
        self.is_ejected(now_ms) || self.heard.verdict(now_ms).standing == Standing::Excluded
    }

    /// Whether the mesh has it be the last choice.
    pub(crate) fn is_demoted(&self, now_ms: u64) -> bool {
        self.heard.verdict(now_ms).standing == Standing::Demoted
    }

    /// What holds of what the mesh says.
    pub fn heard(&self, now_ms: u64) -> MeshVerdict {
        self.heard.verdict(now_ms)
    }

    pub(super) fn hear(&self, verdict: MeshVerdict) {
        self.heard.set(verdict);
    }

    /// When the last good answer came, a twentieth of a second earlier at most; 0 if none has come.
    pub fn answered_ms(&self) -> u64 {
        self.answered_ms.load(Relaxed)
    }

    /// Whether it is back in use, and the caller is the first to know.
    pub(super) fn has_returned(&self, now_ms: u64) -> bool {
        self.is_out.load(Relaxed) && !self.is_ejected(now_ms) && self.is_out.swap(false, Relaxed)
    }

    /// Counts; returns failures in a row that are too many, or worth telling. Reads first: most requests succeed, and a
    /// store would take the cache line from every other core.
    pub(super) fn note(&self, settings: &OutlierSettings, outcome: Outcome, now_ms: u64) -> Option<Noted> {
        // What was under way when the endpoint was ejected has no say.
        if self.is_ejected(now_ms) {
            return None;
        }
        let status = match (outcome, settings.splits_local) {
            (Outcome::Status(status), _) => settings.counted(status),
            (Outcome::Connected, true) => {
                clear(&self.local_failures);
                return None;
            }
            (Outcome::Connected, false) => return None,
            (Outcome::Broke | Outcome::TimedOut, true) => {
                let local = self.count(Cause::ConsecutiveLocalFailures, settings, now_ms);
                return self.noted(local, settings, now_ms);
            }
            (Outcome::Broke, false) => 503,
            (Outcome::TimedOut, false) => 504,
        };
        let had_too_many = settings
            .failure_percent
            .is_some_and(|most| self.interval.count(is_5xx(status), now_ms / settings.interval_ms.max(1), most));
        let noted = self.note_status(settings, status, now_ms);
        let is_too_many = matches!(noted, Some(Noted::TooMany(_)));
        match had_too_many && !is_too_many {
            true => {
                Some(Noted::TooMany(Failures { cause: Cause::FailurePercentage, count: self.interval.past_failed() }))
            }
            false => noted,
        }
    }

    /// Whether the endpoint's share of failures in the interval before says something.
    pub(super) fn is_comparable(&self, settings: &OutlierSettings, now_ms: u64) -> bool {
        let interval = now_ms / settings.interval_ms.max(1);
        self.interval.says_something_of(interval.saturating_sub(1)) && !self.is_ejected(now_ms)
    }

    fn note_status(&self, settings: &OutlierSettings, status: u16, now_ms: u64) -> Option<Noted> {
        if !is_5xx(status) {
            if now_ms.saturating_sub(self.answered_ms.load(Relaxed)) >= ANSWERED_EVERY_MS {
                self.answered_ms.store(now_ms, Relaxed);
            }
            clear(&self.errors);
            clear(&self.gateway_errors);
            return None;
        }
        let gateway = match status {
            502..=504 => self.count(Cause::ConsecutiveGatewayErrors, settings, now_ms),
            _ => {
                clear(&self.gateway_errors);
                None
            }
        };
        let all = self.count(Cause::ConsecutiveErrors, settings, now_ms);
        let (gateway, all) = (self.noted(gateway, settings, now_ms), self.noted(all, settings, now_ms));
        let is_reached = |noted: &Noted| matches!(noted, Noted::TooMany(_));
        gateway.filter(is_reached).or(all).or(gateway)
    }

    /// Failures in a row with this one; `None` where nobody asks for them.
    fn count(&self, cause: Cause, settings: &OutlierSettings, now_ms: u64) -> Option<Failures> {
        let counter = self.counter(cause).filter(|_| settings.limit(cause) > 0)?;
        self.failed_ms.store(now_ms, Relaxed);
        Some(Failures { cause, count: counter.fetch_add(1, Relaxed).saturating_add(1) })
    }

    fn noted(&self, failures: Option<Failures>, settings: &OutlierSettings, now_ms: u64) -> Option<Noted> {
        let failures = failures?;
        let limit = self.heard.verdict(now_ms).limit(settings.limit(failures.cause));
        match failures.count {
            count if count >= limit => Some(Noted::TooMany(failures)),
            WORTH_TELLING => Some(Noted::WorthTelling(failures)),
            _ => None,
        }
    }

    /// Failures in a row that are too many now that others have failures too.
    pub(super) fn reconsider(&self, settings: &OutlierSettings, now_ms: u64) -> Option<Failures> {
        let verdict = self.heard.verdict(now_ms);
        if verdict.patience == 0 || self.is_ejected(now_ms) {
            return None;
        }
        self.in_a_row().find(|failures| {
            let limit = settings.limit(failures.cause);
            limit > 0 && failures.count >= verdict.limit(limit)
        })
    }

    fn in_a_row(&self) -> impl Iterator<Item = Failures> {
        let count = |cause| Some(Failures { cause, count: self.counter(cause)?.load(Relaxed) });
        Cause::ALL.into_iter().filter_map(count)
    }

    /// Of failures in a row; an interval is judged once.
    fn counter(&self, cause: Cause) -> Option<&AtomicU32> {
        match cause {
            Cause::ConsecutiveErrors => Some(&self.errors),
            Cause::ConsecutiveGatewayErrors => Some(&self.gateway_errors),
            Cause::ConsecutiveLocalFailures => Some(&self.local_failures),
            Cause::FailurePercentage => None,
        }
    }

    /// Only by who judges; see [`super::Cluster::record`].
    pub(super) fn eject(&self, settings: &OutlierSettings, failures: Failures, now_ms: u64) -> u64 {
        let (interval, base) = (settings.interval_ms.max(1), settings.base_ejection_ms);
        let longest = MAX_EJECTION_MS.max(base);
        let mut times = u64::from(self.times.load(Relaxed));
        let came_back = self.until_ms.load(Relaxed);
        if came_back > 0 {
            times = times.saturating_sub(1 + now_ms.saturating_sub(came_back) / interval);
        }
        if times.saturating_mul(base) < longest + base {
            times += 1;
        }
        let until = now_ms.saturating_add(times.saturating_mul(base).min(longest));
        let until = until.checked_next_multiple_of(interval).unwrap_or(until);
        self.times.store(u32::try_from(times).unwrap_or(u32::MAX), Relaxed);
        let place = Cause::ALL.iter().position(|known| *known == failures.cause).unwrap_or_default();
        self.cause.store(place as u8, Relaxed);
        self.ejected_for.store(failures.count, Relaxed);
        for counter in [&self.errors, &self.gateway_errors, &self.local_failures] {
            counter.store(0, Relaxed);
        }
        self.interval.forget();
        self.until_ms.store(until, Relaxed);
        self.is_out.store(true, Relaxed);
        until
    }

    /// The endpoint had to stay: it is looked at again after as many failures more.
    pub(super) fn forgive(&self, cause: Cause) {
        if let Some(counter) = self.counter(cause) {
            counter.store(0, Relaxed);
        }
    }
}

/// Failures in a row that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    WorthTelling(Failures),
    TooMany(Failures),
}

fn clear(counter: &AtomicU32) {
    if counter.load(Relaxed) != 0 {
        counter.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIVE: Failures = Failures { cause: Cause::ConsecutiveErrors, count: 5 };

    fn settings() -> OutlierSettings {
        OutlierSettings {
            errors: 5,
            gateway_errors: 0,
            local_failures: 0,
            splits_local: false,
            error_codes: Box::default(),
            failure_percent: None,
            interval_ms: 10_000,
            base_ejection_ms: 30_000,
            max_ejection_percent: 100,
        }
    }

    fn first_cause(settings: &OutlierSettings, outcomes: &[Outcome]) -> Option<(usize, Cause)> {
        let monitor = Monitor::default();
        let mut noted = outcomes.iter().map(|outcome| match monitor.note(settings, *outcome, 0)? {
            Noted::TooMany(failures) => Some(failures.cause),
            Noted::WorthTelling(_) => None,
        });
        noted.find_map(|cause| cause).map(|cause| (outcomes.len() - noted.count(), cause))
    }

    use Outcome::{Broke, Connected, Status, TimedOut};

    #[test]
    fn so_many_5xx_in_a_row_are_too_many_and_any_other_status_begins_anew() {
        assert_eq!(first_cause(&settings(), &[Status(500); 5]), Some((5, Cause::ConsecutiveErrors)));
        let broken_row = [Status(500), Status(503), Status(599), Status(502), Status(404), Status(500), Status(500)];
        assert_eq!(first_cause(&settings(), &broken_row), None);
        assert_eq!(first_cause(&OutlierSettings { errors: 0, ..settings() }, &[Status(500); 50]), None);
    }

    #[test]
    fn gateway_errors_are_502_503_and_504_and_any_other_5xx_begins_anew() {
        let settings = OutlierSettings { errors: 0, gateway_errors: 3, ..settings() };
        let row = [Status(502), Status(503), Status(504)];
        assert_eq!(first_cause(&settings, &row), Some((3, Cause::ConsecutiveGatewayErrors)));
        assert_eq!(first_cause(&settings, &[Status(502), Status(503), Status(500), Status(503)]), None);
    }

    #[test]
    fn where_errors_are_listed_these_alone_are_and_one_that_is_no_5xx_counts_as_500() {
        let listed = OutlierSettings { error_codes: [429, 503].into(), errors: 2, ..settings() };
        assert_eq!(first_cause(&listed, &[Status(429), Status(503)]), Some((2, Cause::ConsecutiveErrors)));
        assert_eq!(first_cause(&listed, &[Status(500); 9]), None);
        assert_eq!(first_cause(&listed, &[Status(429), Status(500), Status(429)]), None, "begins anew");
        assert_eq!(first_cause(&listed, &[Broke, Broke]), Some((2, Cause::ConsecutiveErrors)), "is no response");
        let gateway = OutlierSettings { errors: 0, gateway_errors: 2, ..listed };
        assert_eq!(first_cause(&gateway, &[Status(429), Status(429)]), None, "500 is none of a gateway");
        assert_eq!(first_cause(&gateway, &[Status(503), Status(503)]), Some((2, Cause::ConsecutiveGatewayErrors)));
    }

    #[test]
    fn a_failure_to_get_a_response_counts_as_503_or_504_unless_split() {
        let gateway = OutlierSettings { gateway_errors: 2, ..settings() };
        assert_eq!(first_cause(&gateway, &[Broke, Connected, TimedOut]), Some((3, Cause::ConsecutiveGatewayErrors)));
        let split = OutlierSettings { splits_local: true, local_failures: 2, errors: 1, ..settings() };
        assert_eq!(first_cause(&split, &[Broke, TimedOut]), Some((2, Cause::ConsecutiveLocalFailures)));
        assert_eq!(first_cause(&split, &[Broke, Connected, Broke]), None);
        assert_eq!(first_cause(&split, &[Broke, Status(500)]), Some((2, Cause::ConsecutiveErrors)));
    }

    #[test]
    fn an_ejection_ends_with_the_first_look_after_its_time_and_each_is_longer() {
        let monitor = Monitor::default();
        let eject = |now| monitor.eject(&settings(), FIVE, now);
        assert_eq!(eject(1_000), 40_000);
        assert!(monitor.is_ejected(39_999) && !monitor.is_ejected(40_000));
        assert_eq!(monitor.ejection(2_000), Some((FIVE, 40_000)));
        // It came back at a look, which took one off.
        assert_eq!(eject(40_001), 80_000, "one time again");
        let monitor = Monitor::default();
        monitor.times.store(3, Relaxed);
        monitor.until_ms.store(40_000, Relaxed);
        assert_eq!(monitor.eject(&settings(), FIVE, 41_000), 140_000, "3 - 1 + 1 times 30 s");
    }

    #[test]
    fn no_ejection_is_longer_than_300_s_unless_the_base_is() {
        let eject = |base_ejection_ms, times| {
            let monitor = Monitor::default();
            monitor.times.store(times, Relaxed);
            monitor.eject(&OutlierSettings { base_ejection_ms, ..settings() }, FIVE, 0)
        };
        assert_eq!(eject(30_000, 50), 300_000);
        assert_eq!(eject(400_000, 3), 400_000);
    }

    #[test]
    fn what_comes_in_during_an_ejection_does_not_count() {
        let monitor = Monitor::default();
        let until = monitor.eject(&settings(), FIVE, 0);
        for _ in 0..10 {
            assert_eq!(monitor.note(&settings(), Status(500), 5), None);
        }
        assert_eq!(monitor.note(&settings(), Status(500), until), None, "begins anew");
    }
}
