//! FaultExperiment: faults that end by themselves.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    RequestCondition, Targets, Timestamp,
    targets::{ROUTES, SERVICE, check_targets},
};
use crate::{
    api::{
        networking::GrpcStatus,
        values::{Int, List, Percent, Share, Timeout},
    },
    document::Checker,
    kinds::Resource,
};

/// Makes a share of the requests for some services or routes fail or wait, until an end, or until it does harm.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultExperiment {
    /// Services and routes of this namespace.
    pub target_refs: Targets,
    /// It holds for requests that match any of these; for all if there is none.
    #[serde(default, rename = "match")]
    pub matches: List<RequestCondition, 0, 16>,
    pub fault: ExperimentFault,
    /// Share of the requests.
    pub percentage: Percent,
    /// When the document is applied, if absent.
    #[serde(default)]
    pub start: Option<Timestamp>,
    pub end: Timestamp,
    /// What ends it early: each calling node by what it sees itself, for its own callers.
    #[serde(default)]
    pub stop_when: Option<StopCondition>,
}

/// A delay; and then an abort, a reset, no answer at all, or a response whose body is cut, slow, or both.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ExperimentFault {
    pub delay: Option<ExperimentDelay>,
    pub abort: Option<ExperimentAbort>,
    /// Cuts the connection or the stream without an answer.
    pub reset: Option<ExperimentReset>,
    /// Takes the request or connection, and never answers, until the experiment's end or until the caller gives up.
    pub black_hole: Option<ExperimentBlackHole>,
    pub truncate: Option<ExperimentTruncate>,
    pub slow: Option<ExperimentSlow>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExperimentDelay {
    pub fixed_delay: Timeout,
}

/// One of `httpStatus` and `grpcStatus`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ExperimentAbort {
    pub http_status: Option<Int<200, 599>>,
    /// A gRPC status by name, such as `UNAVAILABLE`.
    pub grpc_status: Option<GrpcStatus>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExperimentReset {}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExperimentBlackHole {}

/// Cuts the connection or the stream within a response's body. A shorter body is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExperimentTruncate {
    pub after_bytes: Int<0, { i64::MAX }>,
}

/// Passes a response's body on at this rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExperimentSlow {
    pub bytes_per_second: Int<1, 1_000_000_000>,
}

/// Ends the experiment when one of its conditions holds for the targets' requests that got no fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StopCondition {
    /// At least this share of the requests failed (5xx, or a gRPC status that says so).
    pub error_percentage: Option<Percent>,
    pub latency: Option<LatencyCondition>,
    /// Over how long it is measured; 10 s if absent.
    pub window: Option<Timeout>,
    /// Fewer requests in the window say nothing; 20 if absent.
    pub min_requests: Option<Int<1, 1_000_000>>,
}

/// The percentile of the requests' durations is above a limit.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LatencyCondition {
    /// Such as 99.
    pub percentile: Share,
    pub above: Timeout,
}

impl StopCondition {
    pub fn window(&self) -> std::time::Duration {
        self.window.map_or(std::time::Duration::from_secs(10), Timeout::get)
    }

    pub fn min_requests(&self) -> u64 {
        self.min_requests.map_or(20, |count| count.get().unsigned_abs())
    }
}

impl Resource for FaultExperiment {
    fn check(&self, checker: &mut Checker<'_>) {
        let mut allowed = vec![SERVICE];
        allowed.extend(ROUTES);
        check_targets(&self.target_refs, &allowed, checker);
        checker.each("match", &self.matches, |checker, one| one.check(checker));
        checker.field("fault", |checker| self.fault.check(checker));
        if self.percentage.value.percent() == 0.0 {
            checker.error_in("percentage", "must be above 0: nothing would happen");
        }
        if self.start.is_some_and(|start| start >= self.end) {
            checker.error_in("end", "must be after start");
        }
        checker.given("stopWhen", &self.stop_when, |checker, stop| stop.check(checker));
    }
}

impl ExperimentFault {
    fn check(&self, checker: &mut Checker<'_>) {
        if *self == Self::default() {
            checker.error("must give delay, abort, reset, blackHole, truncate or slow");
        }
        let ends = [
            ("abort", self.abort.is_some()),
            ("reset", self.reset.is_some()),
            ("blackHole", self.black_hole.is_some()),
        ];
        checker.at_most_one(&ends);
        for body in [("truncate", self.truncate.is_some()), ("slow", self.slow.is_some())] {
            for end in ends {
                checker.at_most_one(&[end, body]);
            }
        }
        checker.given("abort", &self.abort, |checker, abort| {
            checker.exactly_one(&[
                ("httpStatus", abort.http_status.is_some()),
                ("grpcStatus", abort.grpc_status.is_some()),
            ]);
        });
    }
}

/// Longest window of a stop condition.
const MAX_WINDOW: std::time::Duration = std::time::Duration::from_secs(600);

impl StopCondition {
    fn check(&self, checker: &mut Checker<'_>) {
        if self.error_percentage.is_none() && self.latency.is_none() {
            checker.error("must give errorPercentage or latency");
        }
        if self.error_percentage.is_some_and(|share| share.value.percent() == 0.0) {
            checker.error_in("errorPercentage", "must be above 0: the experiment would end at once");
        }
        checker.given("latency", &self.latency, |checker, latency| {
            if !(latency.percentile.percent() > 0.0 && latency.percentile.percent() < 100.0) {
                checker.error_in("percentile", "must be above 0 and below 100");
            }
        });
        if self.window() > MAX_WINDOW {
            checker.error_in("window", "must be at most 10m");
        }
    }
}
