//! Faults on purpose: which request waits, fails, or is cut.

use std::{fmt, ops::Range, time::Duration};

use http::StatusCode;
use weft_wire::document::Stamp;

use crate::{
    api::{
        mesh::{FaultExperiment, StopCondition},
        networking::{GrpcStatus, HttpFaultInjection},
        values::{Int, Percent, Share},
    },
    condition::{Conditions, Request},
};

const MILLION: u64 = 1_000_000;

/// What is done to one request: first the delay, then the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    pub delay: Option<Duration>,
    pub end: Option<FaultEnd>,
}

/// How a request ends without going upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultEnd {
    HttpStatus(StatusCode),
    GrpcStatus(GrpcStatus),
    /// The connection or stream is cut.
    Reset,
}

/// A share of the requests, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chance(u64);

impl Chance {
    fn of(share: Share) -> Self {
        Self((share.percent() * 10_000.0).round() as u64)
    }

    /// `random` is a fresh, uniform number.
    fn hits(self, random: u32) -> bool {
        (u64::from(random) * MILLION) >> 32 < self.0
    }
}

/// The `fault` of a VirtualService's rule. A share that is absent is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultInjection {
    delay: Option<(Chance, Duration)>,
    end: Option<(Chance, FaultEnd)>,
}

impl fmt::Display for Chance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 as f64 / 10_000.0)
    }
}

impl fmt::Display for FaultEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HttpStatus(status) => write!(f, "status {}", status.as_u16()),
            Self::GrpcStatus(status) => write!(f, "gRPC status {}", status.code()),
            Self::Reset => f.write_str("a reset"),
        }
    }
}

impl fmt::Display for FaultInjection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let delay = self.delay.map(|(chance, delay)| format!("{chance} wait {delay:?}"));
        let end = self.end.map(|(chance, end)| format!("{chance} get {end}"));
        f.write_str(&delay.into_iter().chain(end).collect::<Vec<_>>().join(", "))
    }
}

impl FaultInjection {
    /// `None` if it never does anything.
    pub fn new(fault: &HttpFaultInjection) -> Option<Self> {
        let delay = fault.delay.as_ref().and_then(|delay| {
            let share = delay
                .percentage
                .map(|percentage| percentage.value)
                .or_else(|| delay.percent.and_then(|percent| Share::try_from(percent.get() as f64).ok()))?;
            Some((Chance::of(share), delay.fixed_delay?.get()))
        });
        let end = fault.abort.as_ref().and_then(|abort| {
            let Percent { value } = abort.percentage?;
            Some((Chance::of(value), end_of(abort.http_status, abort.grpc_status)?))
        });
        let can_hit = |chance: &Chance| chance.0 > 0;
        let delay = delay.filter(|(chance, _)| can_hit(chance));
        let end = end.filter(|(chance, _)| can_hit(chance));
        (delay.is_some() || end.is_some()).then_some(Self { delay, end })
    }

    /// What is done to a request. Delay and end are drawn apart, as in Envoy. `random` is a fresh, uniform number.
    pub fn decide(&self, random: u64) -> Option<Fault> {
        let (for_delay, for_end) = ((random >> 32) as u32, random as u32);
        let delay = self.delay.filter(|(chance, _)| chance.hits(for_delay)).map(|(_, delay)| delay);
        let end = self.end.filter(|(chance, _)| chance.hits(for_end)).map(|(_, end)| end);
        (delay.is_some() || end.is_some()).then_some(Fault { delay, end })
    }
}

fn end_of(http_status: Option<Int<200, 599>>, grpc_status: Option<GrpcStatus>) -> Option<FaultEnd> {
    let status = http_status.and_then(|status| StatusCode::from_u16(u16::try_from(status.get()).ok()?).ok());
    status.map(FaultEnd::HttpStatus).or(grpc_status.map(FaultEnd::GrpcStatus))
}

/// A FaultExperiment, ready to be asked.
#[derive(Debug)]
pub struct Experiment {
    /// Milliseconds since 1970.
    active: Range<u64>,
    conditions: Conditions,
    chance: Chance,
    fault: Fault,
}

impl Experiment {
    /// `created` is when the document was first applied.
    pub fn new(policy: &FaultExperiment, created: Stamp) -> Self {
        let abort = policy.fault.abort.and_then(|abort| end_of(abort.http_status, abort.grpc_status));
        let reset = policy.fault.reset.map(|_| FaultEnd::Reset);
        let start = policy.start.map_or(created.millis, |start| start.unix_ms());
        Self {
            active: start..policy.end.unix_ms(),
            conditions: Conditions::new(&policy.matches),
            chance: Chance::of(policy.percentage.value),
            fault: Fault { delay: policy.fault.delay.map(|delay| delay.fixed_delay.get()), end: abort.or(reset) },
        }
    }

    /// What is done to a request. `random` is a fresh, uniform number; `now_unix_ms` the wall clock.
    pub fn decide(&self, request: &Request<'_>, random: u64, now_unix_ms: u64) -> Option<Fault> {
        let hits = self.active.contains(&now_unix_ms) && self.chance.hits((random >> 32) as u32);
        (hits && self.conditions.hold(request)).then_some(self.fault)
    }

    /// Whether its end is past.
    pub fn is_over(&self, now_unix_ms: u64) -> bool {
        now_unix_ms >= self.active.end
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::condition::tests::with_request;

    const ALWAYS: u64 = 0;
    const NEVER: u64 = u64::MAX;

    fn injection(fault: &str) -> Option<FaultInjection> {
        FaultInjection::new(&serde_json::from_str(fault).unwrap())
    }

    #[test]
    fn a_share_that_is_absent_never_fires() {
        assert_eq!(injection(r#"{"abort": {"httpStatus": 500}}"#), None);
        assert_eq!(injection(r#"{"delay": {"fixedDelay": "1s"}}"#), None);
        assert_eq!(injection(r#"{"abort": {"httpStatus": 500, "percentage": {}}}"#), None);
    }

    #[test]
    fn a_delays_share_falls_back_to_the_old_percent() {
        let delay = Some(Fault { delay: Some(Duration::from_secs(7)), end: None });
        let old = injection(r#"{"delay": {"fixedDelay": "7s", "percent": 100}}"#).unwrap();
        assert_eq!((old.decide(ALWAYS), old.decide(NEVER)), (delay, delay));
        let both = injection(r#"{"delay": {"fixedDelay": "7s", "percent": 100, "percentage": {"value": 0.0001}}}"#);
        assert_eq!((both.unwrap().decide(ALWAYS), both.unwrap().decide(NEVER)), (delay, None), "percentage wins");
    }

    #[test]
    fn delay_comes_with_the_abort_that_follows_it() {
        let both = injection(
            r#"{"delay": {"fixedDelay": "1s", "percentage": {"value": 100}},
                "abort": {"httpStatus": 555, "percentage": {"value": 100}}}"#,
        );
        let expected = Fault {
            delay: Some(Duration::from_secs(1)),
            end: Some(FaultEnd::HttpStatus(StatusCode::from_u16(555).unwrap())),
        };
        assert_eq!(both.unwrap().decide(NEVER), Some(expected));
    }

    #[test]
    fn an_abort_may_be_a_grpc_status() {
        let abort = injection(r#"{"abort": {"grpcStatus": "UNAVAILABLE", "percentage": {"value": 100}}}"#).unwrap();
        let end = Some(FaultEnd::GrpcStatus(GrpcStatus::Unavailable));
        assert_eq!(abort.decide(0), Some(Fault { delay: None, end }));
    }

    fn experiment(fields: &str) -> Experiment {
        let text = format!(
            r#"{{"targetRefs": [{{"group": "", "kind": "Service", "name": "a"}}], "end": "1970-01-01T00:01:00Z", {fields}}}"#
        );
        let policy: FaultExperiment = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        Experiment::new(&policy, Stamp { millis: 10_000, counter: 0 })
    }

    fn decide(experiment: &Experiment, path: &str, random: u64, now: u64) -> Option<Fault> {
        with_request(path, None, None, |request| experiment.decide(request, random, now))
    }

    #[test]
    fn an_experiment_runs_from_its_start_to_its_end() {
        let fault = r#""fault": {"reset": {}}, "percentage": {"value": 100}"#;
        let (applied, planned) =
            (experiment(fault), experiment(&format!(r#"{fault}, "start": "1970-01-01T00:00:30Z""#)));
        let reset = Some(Fault { delay: None, end: Some(FaultEnd::Reset) });
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
        };
        assert_eq!(decide(&experiment, "/ratings/1", ALWAYS, 20_000), Some(fault));
        assert_eq!(decide(&experiment, "/ratings/1", NEVER, 20_000), None);
        assert_eq!(decide(&experiment, "/reviews/1", ALWAYS, 20_000), None);
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

    proptest! {
        #[test]
        fn a_share_of_all_draws_hits(percent in 0.01_f64..100.0) {
            let chance = Chance::of(Share::try_from(percent).unwrap());
            let draws = 100_000_u64;
            let hits = (0..draws).filter(|i| chance.hits(((i << 32) / draws) as u32)).count() as f64;
            prop_assert!((hits / draws as f64 * 100.0 - percent).abs() < 0.01, "{hits} of {draws} for {percent} %");
        }

        #[test]
        fn all_and_nothing_are_exact(random: u32) {
            prop_assert!(Chance::of(Share::try_from(100.0).unwrap()).hits(random));
            prop_assert!(!Chance::of(Share::default()).hits(random));
        }
    }
}
