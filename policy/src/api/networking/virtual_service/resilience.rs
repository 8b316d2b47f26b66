//! Retries, and faults on purpose.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    api::values::{Int, Percent, Span, Timeout},
    document::Checker,
    retry::RetryPolicy,
};

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpRetry {
    /// Tries after the first; 0, or none given, switches retries off.
    pub attempts: Option<Int<0, { i32::MAX as i64 }>>,
    pub per_try_timeout: Option<Span<0>>,
    /// Conditions joined by commas, such as `5xx,reset`; a number is a status code.
    pub retry_on: String,
    pub retry_remote_localities: Option<bool>,
    pub retry_ignore_previous_hosts: Option<bool>,
    /// Wait before the first retry; 25 ms if absent.
    pub backoff: Option<Timeout>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpFaultInjection {
    pub delay: Option<FaultDelay>,
    pub abort: Option<FaultAbort>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FaultDelay {
    /// Old form of `percentage`.
    pub percent: Option<Int<0, 100>>,
    pub fixed_delay: Option<Timeout>,
    pub exponential_delay: Option<Timeout>,
    /// Share of requests; without it, none.
    pub percentage: Option<Percent>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FaultAbort {
    pub http_status: Option<Int<200, 599>>,
    /// A gRPC status by name, such as `UNAVAILABLE`.
    pub grpc_status: Option<GrpcStatus>,
    pub http2_error: Option<String>,
    /// Share of requests; without it, none.
    pub percentage: Option<Percent>,
}

/// gRPC's status codes, in order of their numbers (<https://grpc.io/docs/guides/status-codes/>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum GrpcStatus {
    Ok,
    Cancelled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}

impl GrpcStatus {
    /// Its number, as `grpc-status` has it.
    pub fn code(self) -> u16 {
        self as u16 // declared in order of their numbers
    }
}

impl HttpRetry {
    pub(crate) fn check(&self, checker: &mut Checker<'_>) {
        if let Err(what) = RetryPolicy::default().retry_on(&self.retry_on) {
            checker.error_in("retryOn", what);
        }
        let detail =
            !self.retry_on.is_empty() || self.per_try_timeout.is_some() || self.retry_remote_localities.is_some();
        if self.attempts.is_none_or(|attempts| attempts.get() == 0) && detail {
            checker
                .error("attempts is 0 or absent, which switches retries off: give it, or leave the other fields out");
        }
    }
}

impl HttpFaultInjection {
    pub(super) fn check(&self, checker: &mut Checker<'_>) {
        if self.delay.is_none() && self.abort.is_none() {
            checker.error("must give delay or abort");
        }
        checker.given("delay", &self.delay, |checker, delay| {
            if delay.exponential_delay.is_some() {
                checker.error_in("exponentialDelay", "is not implemented, here as in Istio: use fixedDelay");
            }
            checker.at_most_one(&[
                ("fixedDelay", delay.fixed_delay.is_some()),
                ("exponentialDelay", delay.exponential_delay.is_some()),
            ]);
            if delay.fixed_delay.is_none() {
                checker.warn("has no effect without fixedDelay");
            }
        });
        checker.given("abort", &self.abort, |checker, abort| {
            if abort.http2_error.is_some() {
                checker.error_in("http2Error", "is not supported, here as in Istio: use httpStatus or grpcStatus");
            }
            checker.at_most_one(&[
                ("httpStatus", abort.http_status.is_some()),
                ("grpcStatus", abort.grpc_status.is_some()),
            ]);
            if abort.http_status.is_none() && abort.grpc_status.is_none() {
                checker.warn("has no effect without httpStatus or grpcStatus");
            }
        });
    }
}
