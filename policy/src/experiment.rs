//! FaultExperiments: faults on purpose that end by themselves, at a time or when they do harm.

use std::{
    num::NonZeroU32,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use weft_wire::document::{DocumentKey, Stamp};

use crate::{
    api::mesh::{ExperimentFault, FaultExperiment, StopCondition},
    condition::{Conditions, Request},
    fault::{BodyFault, Chance, Fault, FaultEnd, end_of},
};

/// A FaultExperiment, ready to be asked.
#[derive(Debug)]
pub struct Experiment {
    /// Its document.
    pub key: DocumentKey,
    /// What it was made from.
    source: FaultExperiment,
    /// Milliseconds since 1970.
    active: Range<u64>,
    conditions: Conditions,
    chance: Chance,
    fault: Fault,
    watch: Arc<Watch>,
}

/// Where an experiment stands on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Scheduled,
    Running,
    Ended,
    /// Its stop condition was met here, at this time in milliseconds since 1970.
    Stopped {
        at_unix_ms: u64,
        seen: Observed,
    },
}

impl Experiment {
    /// `created` is when the document was first applied. One that was stopped stays so until what it says changes:
    /// `before` is what was made of the document's previous version.
    pub fn new(key: DocumentKey, policy: &FaultExperiment, created: Stamp, before: Option<&Self>) -> Self {
        let abort = policy.fault.abort.and_then(|abort| end_of(abort.http_status, abort.grpc_status));
        let reset = policy.fault.reset.map(|_| FaultEnd::Reset);
        let black_hole = policy.fault.black_hole.map(|_| FaultEnd::BlackHole { until_unix_ms: policy.end.unix_ms() });
        let start = policy.start.map_or(created.millis, |start| start.unix_ms());
        let same = before.filter(|before| before.source == *policy && before.active.start == start);
        Self {
            key,
            active: start..policy.end.unix_ms(),
            conditions: Conditions::new(&policy.matches),
            chance: Chance::of(policy.percentage.value),
            fault: Fault {
                delay: policy.fault.delay.map(|delay| delay.fixed_delay.get()),
                end: abort.or(reset).or(black_hole),
                body: body_fault(&policy.fault),
            },
            watch: same.map_or_else(Arc::default, |before| before.watch.clone()),
            source: policy.clone(),
        }
    }

    /// What is done to a request. `random` is a fresh, uniform number; `now_unix_ms` the wall clock.
    pub fn decide(&self, request: &Request<'_>, random: u64, now_unix_ms: u64) -> Option<Fault> {
        let hits = self.is_running(now_unix_ms) && self.chance.hits((random >> 32) as u32);
        (hits && self.conditions.hold(request)).then(|| self.hit())
    }

    /// What is done to a connection that is not read as HTTP: nothing, if the experiment is about some requests only, or
    /// its fault is one of HTTP. Arguments as of [`Self::decide`].
    pub fn decide_connection(&self, random: u64, now_unix_ms: u64) -> Option<Fault> {
        let of_http = matches!(self.fault.end, Some(FaultEnd::HttpStatus(_) | FaultEnd::GrpcStatus(_)));
        let is_meant = self.source.matches.is_empty() && !of_http && self.fault.body.is_none();
        let hits = is_meant && self.is_running(now_unix_ms) && self.chance.hits((random >> 32) as u32);
        hits.then(|| self.hit())
    }

    fn hit(&self) -> Fault {
        self.watch.hits.fetch_add(1, Ordering::Relaxed);
        self.fault
    }

    /// How many requests and connections of this node's callers had its fault.
    pub fn hits(&self) -> u64 {
        self.watch.hits.load(Ordering::Relaxed)
    }

    /// Whether requests without the fault are watched now.
    pub fn is_watching(&self, now_unix_ms: u64) -> bool {
        self.source.stop_when.is_some() && self.is_running(now_unix_ms)
    }

    /// Takes down how a request without the fault went. Returns whether the experiment stops by it: one caller is told.
    pub fn observe(&self, is_failed: bool, took: Duration, now_unix_ms: u64) -> bool {
        let Some(stop) = self.source.stop_when.as_ref().filter(|_| self.is_running(now_unix_ms)) else { return false };
        let is_slow = stop.latency.is_some_and(|latency| took > latency.above.get());
        let seen = self.watch.observe(is_failed, is_slow, stop.window(), now_unix_ms);
        stop.is_met(seen) && self.watch.stop(seen, now_unix_ms)
    }

    /// Where it stands on this node.
    pub fn phase(&self, now_unix_ms: u64) -> Phase {
        match self.watch.stopped() {
            Some((at_unix_ms, seen)) => Phase::Stopped { at_unix_ms, seen },
            None if now_unix_ms < self.active.start => Phase::Scheduled,
            None if self.is_over(now_unix_ms) => Phase::Ended,
            None => Phase::Running,
        }
    }

    /// Whether its end is past.
    pub fn is_over(&self, now_unix_ms: u64) -> bool {
        now_unix_ms >= self.active.end
    }

    fn is_running(&self, now_unix_ms: u64) -> bool {
        self.active.contains(&now_unix_ms) && self.watch.stopped().is_none()
    }
}

fn body_fault(fault: &ExperimentFault) -> Option<BodyFault> {
    let cut_after = fault.truncate.map(|truncate| truncate.after_bytes.get().unsigned_abs());
    let rate = fault.slow.and_then(|slow| u32::try_from(slow.bytes_per_second.get()).ok());
    let bytes_per_second = rate.and_then(NonZeroU32::new);
    (cut_after.is_some() || bytes_per_second.is_some()).then_some(BodyFault { cut_after, bytes_per_second })
}

/// What was seen in a stop condition's window of requests that got no fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    pub requests: u64,
    pub failed: u64,
    /// Took longer than [`mesh::LatencyCondition::above`](crate::api::mesh::LatencyCondition).
    pub slow: u64,
}

impl StopCondition {
    /// Whether the experiment must end.
    pub fn is_met(&self, seen: Observed) -> bool {
        if seen.requests == 0 || seen.requests < self.min_requests() {
            return false;
        }
        let percent_of = |part: u64| part as f64 * 100.0 / seen.requests as f64;
        let fails = self.error_percentage.is_some_and(|most| percent_of(seen.failed) >= most.value.percent());
        let is_slow = self.latency.is_some_and(|latency| percent_of(seen.slow) > 100.0 - latency.percentile.percent());
        fails || is_slow
    }
}

/// Parts into which a window is divided: it moves on by one of them at a time.
const PARTS: usize = 10;

/// What one node sees of the requests of an experiment. It outlasts the view. Counting takes no lock: when two
/// requests begin a part of the window at once, one of them may be lost.
#[derive(Debug, Default)]
struct Watch {
    /// Requests and connections that had the fault.
    hits: AtomicU64,
    parts: [WindowPart; PARTS],
    /// Milliseconds since 1970; 0 while it goes on.
    stopped_unix_ms: AtomicU64,
    seen: Counters,
}

#[derive(Debug, Default)]
struct WindowPart {
    /// Counts such parts of the time since 1970.
    number: AtomicU64,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    failed: AtomicU64,
    slow: AtomicU64,
}

impl Counters {
    fn set(&self, seen: Observed) {
        self.requests.store(seen.requests, Ordering::Relaxed);
        self.failed.store(seen.failed, Ordering::Relaxed);
        self.slow.store(seen.slow, Ordering::Relaxed);
    }

    fn get(&self) -> Observed {
        Observed {
            requests: self.requests.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            slow: self.slow.load(Ordering::Relaxed),
        }
    }
}

impl Watch {
    /// Counts a request, and returns what was seen in the window.
    fn observe(&self, is_failed: bool, is_slow: bool, window: Duration, now_unix_ms: u64) -> Observed {
        let part_ms = (window.as_millis() as u64 / PARTS as u64).max(1);
        let number = now_unix_ms / part_ms;
        let part = &self.parts[(number % PARTS as u64) as usize];
        if part.number.swap(number, Ordering::Relaxed) != number {
            part.counters.set(Observed::default());
        }
        part.counters.requests.fetch_add(1, Ordering::Relaxed);
        part.counters.failed.fetch_add(is_failed.into(), Ordering::Relaxed);
        part.counters.slow.fetch_add(is_slow.into(), Ordering::Relaxed);
        let is_within = |part: &&WindowPart| {
            let age = number.checked_sub(part.number.load(Ordering::Relaxed));
            age.is_some_and(|age| age < PARTS as u64)
        };
        self.parts.iter().filter(is_within).map(|part| part.counters.get()).fold(Observed::default(), |sum, part| {
            Observed {
                requests: sum.requests + part.requests,
                failed: sum.failed + part.failed,
                slow: sum.slow + part.slow,
            }
        })
    }

    /// True for the one caller that stops it.
    fn stop(&self, seen: Observed, now_unix_ms: u64) -> bool {
        let now = now_unix_ms.max(1);
        let stops = self.stopped_unix_ms.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if stops {
            self.seen.set(seen);
        }
        stops
    }

    fn stopped(&self) -> Option<(u64, Observed)> {
        let at = self.stopped_unix_ms.load(Ordering::Acquire);
        (at > 0).then(|| (at, self.seen.get()))
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::condition::tests::with_request;

    const ALWAYS: u64 = 0;
    const NEVER: u64 = u64::MAX;

    fn key() -> DocumentKey {
        DocumentKey {
            group: "weft.mesh".into(),
            kind: "FaultExperiment".into(),
            namespace: Some(weft_wire::id::Namespace::default_namespace()),
            name: "a".into(),
        }
    }

    fn experiment(fields: &str) -> Experiment {
        experiment_after(fields, None)
    }

    fn experiment_after(fields: &str, before: Option<&Experiment>) -> Experiment {
        let text = format!(
            r#"{{"targetRefs": [{{"group": "", "kind": "Service", "name": "a"}}], "end": "1970-01-01T00:01:00Z", {fields}}}"#
        );
        let policy: FaultExperiment = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        Experiment::new(key(), &policy, Stamp { millis: 10_000, counter: 0 }, before)
    }

    fn decide(experiment: &Experiment, path: &str, random: u64, now: u64) -> Option<Fault> {
        with_request(path, None, None, |request| experiment.decide(request, random, now))
    }

    #[test]
    fn an_experiment_runs_from_its_start_to_its_end() {
        let fault = r#""fault": {"reset": {}}, "percentage": {"value": 100}"#;
        let (applied, planned) =
            (experiment(fault), experiment(&format!(r#"{fault}, "start": "1970-01-01T00:00:30Z""#)));
        let reset = Some(Fault { end: Some(FaultEnd::Reset), ..Fault::default() });
        for (now, from_applied, from_planned) in [
            (9_999, None, None),
            (10_000, reset, None),
            (29_999, reset, None),
            (30_000, reset, reset),
            (59_999, reset, reset),
            (60_000, None, None),
        ] {
            assert_eq!(decide(&applied, "/", ALWAYS, now), from_applied, "{now}");
            assert_eq!(decide(&planned, "/", ALWAYS, now), from_planned, "{now}");
            assert_eq!(applied.is_over(now), now >= 60_000);
        }
    }

    #[test]
    fn an_experiment_hits_a_share_of_the_requests_that_it_is_about() {
        let experiment = experiment(
            r#""fault": {"delay": {"fixedDelay": "1s"}, "abort": {"httpStatus": 500}}, "percentage": {"value": 50},
               "match": [{"path": {"prefix": "/ratings"}}]"#,
        );
        let fault = Fault {
            delay: Some(Duration::from_secs(1)),
            end: Some(FaultEnd::HttpStatus(StatusCode::from_u16(500).unwrap())),
            body: None,
        };
        assert_eq!(decide(&experiment, "/ratings/1", ALWAYS, 20_000), Some(fault));
        assert_eq!(decide(&experiment, "/ratings/1", NEVER, 20_000), None);
        assert_eq!(decide(&experiment, "/reviews/1", ALWAYS, 20_000), None);
        assert_eq!(experiment.hits(), 1);
    }

    #[test]
    fn bodies_are_cut_or_slowed_and_a_black_hole_ends_with_its_experiment() {
        let all = r#""percentage": {"value": 100}"#;
        let fault = |fault: &str| decide(&experiment(&format!(r#""fault": {fault}, {all}"#)), "/", ALWAYS, 20_000);
        let body = BodyFault { cut_after: Some(0), bytes_per_second: NonZeroU32::new(10) };
        let both = r#"{"truncate": {"afterBytes": 0}, "slow": {"bytesPerSecond": 10}}"#;
        assert_eq!(fault(both), Some(Fault { body: Some(body), ..Fault::default() }));
        let end = Some(FaultEnd::BlackHole { until_unix_ms: 60_000 });
        assert_eq!(fault(r#"{"blackHole": {}}"#), Some(Fault { end, ..Fault::default() }));
    }

    #[test]
    fn connections_of_bytes_get_only_what_is_not_of_http_and_not_of_some_requests() {
        for (fields, is_meant) in [
            (r#""fault": {"delay": {"fixedDelay": "1s"}}"#, true),
            (r#""fault": {"reset": {}}"#, true),
            (r#""fault": {"blackHole": {}}"#, true),
            (r#""fault": {"abort": {"httpStatus": 500}}"#, false),
            (r#""fault": {"truncate": {"afterBytes": 1}}"#, false),
            (r#""fault": {"reset": {}}, "match": [{"path": {"prefix": "/"}}]"#, false),
        ] {
            let experiment = experiment(&format!(r#"{fields}, "percentage": {{"value": 50}}"#));
            assert_eq!(experiment.decide_connection(ALWAYS, 20_000).is_some(), is_meant, "{fields}");
            assert_eq!(experiment.decide_connection(NEVER, 20_000), None);
            assert_eq!(experiment.decide_connection(ALWAYS, 60_000), None);
        }
    }

    #[test]
    fn an_experiment_stops_on_errors_or_latency_of_enough_requests() {
        let condition = |text: &str| serde_json::from_str::<StopCondition>(text).unwrap();
        let errors = condition(r#"{"errorPercentage": {"value": 5}}"#);
        let latency = condition(r#"{"latency": {"percentile": 99, "above": "1s"}, "minRequests": 1}"#);
        for (stop, requests, failed, slow, expected) in [
            (errors, 100, 5, 0, true),
            (errors, 100, 4, 100, false),
            (errors, 19, 19, 0, false),
            (errors, 0, 0, 0, false),
            (latency, 1_000, 1_000, 10, false),
            (latency, 1_000, 0, 11, true),
            (latency, 1, 0, 1, true),
            (latency, 0, 0, 0, false),
        ] {
            assert_eq!(stop.is_met(Observed { requests, failed, slow }), expected, "{requests} {failed} {slow}");
        }
    }

    const STOPS: &str = r#""fault": {"reset": {}}, "percentage": {"value": 100},
        "stopWhen": {"errorPercentage": {"value": 50}, "window": "1s", "minRequests": 4}"#;

    #[test]
    fn an_experiment_stops_on_this_node_when_its_condition_is_met_and_one_caller_is_told() {
        let experiment = experiment(STOPS);
        let observe = |failed, now| experiment.observe(failed, Duration::ZERO, now);
        assert!(experiment.is_watching(20_000) && !experiment.is_watching(60_000));
        assert!(
            ![(true, 20_000), (true, 20_000), (true, 20_050)].into_iter().any(|(failed, now)| observe(failed, now))
        );
        assert!(decide(&experiment, "/", ALWAYS, 20_100).is_some(), "three requests say nothing");
        assert!(observe(false, 20_200));
        assert!(!observe(true, 20_200), "told once");
        assert_eq!(decide(&experiment, "/", ALWAYS, 20_300), None);
        let seen = Observed { requests: 4, failed: 3, slow: 0 };
        assert_eq!(experiment.phase(20_300), Phase::Stopped { at_unix_ms: 20_200, seen });
    }

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let experiment = experiment(STOPS);
        for now in [20_000, 20_000, 20_000] {
            assert!(!experiment.observe(true, Duration::ZERO, now));
        }
        assert!(!experiment.observe(true, Duration::ZERO, 21_000));
        assert_eq!(experiment.phase(21_000), Phase::Running);
    }

    #[test]
    fn a_stopped_experiment_stays_stopped_until_it_says_something_else() {
        let first = experiment(STOPS);
        (0..4).for_each(|_| {
            first.observe(true, Duration::ZERO, 20_000);
        });
        let again = experiment_after(STOPS, Some(&first));
        assert!(matches!(again.phase(20_000), Phase::Stopped { .. }));
        let changed = experiment_after(&STOPS.replace("50", "90"), Some(&again));
        decide(&changed, "/", ALWAYS, 20_000);
        assert_eq!((changed.hits(), again.hits()), (1, 0), "each version counts for itself");
        assert_eq!(
            [changed.phase(9_000), changed.phase(20_000), changed.phase(60_000)],
            [Phase::Scheduled, Phase::Running, Phase::Ended]
        );
    }
}
