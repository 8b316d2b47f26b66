//! Faults on purpose: which request waits, fails, or is cut.

use std::{fmt, num::NonZeroU32, time::Duration};

use http::StatusCode;

use crate::api::{
    networking::{GrpcStatus, HttpFaultInjection},
    values::{Int, Percent, Share},
};

const MILLION: u64 = 1_000_000;

/// What is done to one request: first the delay, then the end; or else something to the response's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    pub delay: Option<Duration>,
    pub end: Option<FaultEnd>,
    pub body: Option<BodyFault>,
}

/// What is done to a response's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyFault {
    /// A longer one is cut after so many bytes.
    pub cut_after: Option<u64>,
    pub bytes_per_second: Option<NonZeroU32>,
}

/// How a request ends without going upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultEnd {
    HttpStatus(StatusCode),
    GrpcStatus(GrpcStatus),
    /// The connection or stream is cut.
    Reset,
    /// There is no answer: what comes is swallowed until then, in milliseconds since 1970.
    BlackHole {
        until_unix_ms: u64,
    },
}

/// A share of the requests, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn of(share: Share) -> Self {
        Self((share.percent() * 10_000.0).round() as u64)
    }

    /// `random` is a fresh, uniform number.
    pub(crate) fn hits(self, random: u32) -> bool {
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
            Self::BlackHole { .. } => f.write_str("no answer"),
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
        (delay.is_some() || end.is_some()).then_some(Fault { delay, end, body: None })
    }
}

pub(crate) fn end_of(http_status: Option<Int<200, 599>>, grpc_status: Option<GrpcStatus>) -> Option<FaultEnd> {
    let status = http_status.and_then(|status| StatusCode::from_u16(u16::try_from(status.get()).ok()?).ok());
    status.map(FaultEnd::HttpStatus).or(grpc_status.map(FaultEnd::GrpcStatus))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
        let delay = Some(Fault { delay: Some(Duration::from_secs(7)), ..Fault::default() });
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
            body: None,
        };
        assert_eq!(both.unwrap().decide(NEVER), Some(expected));
    }

    #[test]
    fn an_abort_may_be_a_grpc_status() {
        let abort = injection(r#"{"abort": {"grpcStatus": "UNAVAILABLE", "percentage": {"value": 100}}}"#).unwrap();
        let end = Some(FaultEnd::GrpcStatus(GrpcStatus::Unavailable));
        assert_eq!(abort.decide(0), Some(Fault { end, ..Fault::default() }));
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
