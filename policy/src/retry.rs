//! `retries`: when a request is sent again. Envoy's conditions, with Istio's defaults.

use std::{fmt, time::Duration};

use http::{HeaderMap, Method, StatusCode};

use crate::api::{gateway::HttpRouteRetry, mesh::BackendHedging, networking::HttpRetry};

/// When, how often and after which pause a request is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries after the first.
    pub attempts: u32,
    on: Vec<Condition>,
    /// For `retriable-status-codes`.
    codes: Vec<u16>,
    /// Bounds each try until its response begins; `None` is no limit.
    pub per_try_timeout: Option<Duration>,
    base_pause: Duration,
    /// Whether endpoints that failed this request are left out while there are others; `None` is
    /// [`Self::avoids_tried`]'s default.
    avoid_tried: Option<bool>,
    /// Whether a retry goes farther than where the request has been; see [`crate::balance::Attempt::leaves_level`].
    pub leaves_level: bool,
}

/// What `retryOn` may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    ServerError,
    GatewayError,
    Reset,
    ResetBeforeRequest,
    ConnectFailure,
    RateLimited,
    Conflict,
    RefusedStream,
    StatusCodes,
    /// Names no header that Istio's documents could set, and a protocol that is not spoken: never hold.
    Never,
    Grpc(u16),
}

/// All conditions by name.
const CONDITIONS: [(&str, Condition); 16] = [
    ("5xx", Condition::ServerError),
    ("gateway-error", Condition::GatewayError),
    ("reset", Condition::Reset),
    ("reset-before-request", Condition::ResetBeforeRequest),
    ("connect-failure", Condition::ConnectFailure),
    ("envoy-ratelimited", Condition::RateLimited),
    ("retriable-4xx", Condition::Conflict),
    ("refused-stream", Condition::RefusedStream),
    ("retriable-status-codes", Condition::StatusCodes),
    ("retriable-headers", Condition::Never),
    ("http3-post-connect-failure", Condition::Never),
    ("cancelled", Condition::Grpc(1)),
    ("deadline-exceeded", Condition::Grpc(4)),
    ("resource-exhausted", Condition::Grpc(8)),
    ("internal", Condition::Grpc(13)),
    ("unavailable", Condition::Grpc(14)),
];

/// When a request is sent again beside a try that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedging {
    /// How long a response is waited for before that.
    pub delay: Duration,
    includes_non_idempotent: bool,
}

impl Hedging {
    pub(crate) fn of(hedging: &BackendHedging) -> Self {
        Self { delay: hedging.delay.get(), includes_non_idempotent: hedging.include_non_idempotent }
    }

    /// Whether requests of this method may be done twice (RFC 9110, section 9.2.2, or a document says so).
    pub fn is_for(&self, method: &Method) -> bool {
        self.includes_non_idempotent || method.is_idempotent()
    }
}

/// How a try failed without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection could be made.
    Connect,
    /// The other side said, or cannot but have, that it did not look at the request.
    Refused,
    /// The connection or stream broke.
    Reset,
    /// It took longer than [`RetryPolicy::per_try_timeout`].
    TryTimeout,
    /// A RateLimit refused it.
    RateLimited,
}

/// Upper bound of the first pause. Envoy's default.
const BASE_PAUSE: Duration = Duration::from_millis(25);
/// The longest pause is this many times the first. Envoy's default.
const LONGEST_PAUSES: u32 = 10;
const DEFAULT_ATTEMPTS: u32 = 2;
/// Istio's default: what no service has seen, and what says that trying again may help.
const DEFAULT_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";

impl Default for RetryPolicy {
    fn default() -> Self {
        let mut policy = Self {
            attempts: DEFAULT_ATTEMPTS,
            on: Vec::new(),
            codes: Vec::new(),
            per_try_timeout: None,
            base_pause: BASE_PAUSE,
            avoid_tried: None,
            leaves_level: false,
        };
        // Its own words are known.
        let _ = policy.retry_on(DEFAULT_ON);
        policy
    }
}

impl fmt::Display for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.attempts == 0 {
            return f.write_str("none");
        }
        let mut on: Vec<String> = CONDITIONS
            .iter()
            .filter(|(_, condition)| *condition != Condition::StatusCodes && self.on.contains(condition))
            .map(|(name, _)| (*name).to_owned())
            .collect();
        on.extend(self.codes.iter().map(ToString::to_string));
        write!(f, "{} more on {}", self.attempts, on.join(","))?;
        match self.per_try_timeout {
            Some(limit) => write!(f, ", {limit:?} a try"),
            None => Ok(()),
        }
    }
}

impl RetryPolicy {
    pub(crate) fn never() -> Self {
        Self { attempts: 0, ..Self::default() }
    }

    /// What a document does not say is as in the default.
    pub(crate) fn of(retries: &HttpRetry) -> Self {
        let mut policy = Self {
            attempts: retries.attempts.map_or(0, |attempts| u32::try_from(attempts.get()).unwrap_or(u32::MAX)),
            ..Self::default()
        };
        if !retries.retry_on.is_empty() {
            // Checked when the document was read.
            let _ = policy.retry_on(&retries.retry_on);
        }
        policy.per_try_timeout =
            retries.per_try_timeout.map(|timeout| timeout.get()).filter(|limit| *limit > Duration::ZERO);
        policy.avoid_tried = retries.retry_ignore_previous_hosts;
        policy.leaves_level = retries.retry_remote_localities == Some(true);
        match retries.backoff {
            Some(pause) => policy.with_base_pause(pause.get()),
            None => policy,
        }
    }

    /// Of a rule of the Gateway API, with the limit of each try; `None` if it says nothing of either. What fails
    /// without a response is retried wherever retries are asked for.
    pub(crate) fn of_route(retry: Option<&HttpRouteRetry>, per_try_timeout: Option<Duration>) -> Option<Self> {
        let Some(retry) = retry else {
            return per_try_timeout.is_some().then(|| Self { per_try_timeout, ..Self::default() });
        };
        let mut policy = Self { per_try_timeout, ..Self::default() };
        policy.on.push(Condition::Reset);
        policy.codes.extend(retry.codes.iter().filter_map(|code| u16::try_from(code.get()).ok()));
        if let Some(attempts) = retry.attempts {
            policy.attempts = u32::try_from(attempts.get()).unwrap_or(u32::MAX);
        }
        Some(match retry.backoff.and_then(|pause| pause.limit()) {
            Some(pause) => policy.with_base_pause(pause),
            None => policy,
        })
    }

    /// Reads conditions and status codes, joined by commas.
    ///
    /// # Errors
    /// The first that is neither.
    pub(crate) fn retry_on(&mut self, text: &str) -> Result<(), String> {
        (self.on, self.codes) = (Vec::new(), Vec::new());
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let is_known = |code: &u16| StatusCode::from_u16(*code).is_ok_and(|code| code.canonical_reason().is_some());
            let code = word.parse().ok().filter(is_known);
            match (code, CONDITIONS.iter().find(|(name, _)| *name == word)) {
                (Some(code), _) => {
                    self.codes.push(code);
                    self.on.push(Condition::StatusCodes);
                }
                (None, Some((_, condition))) => self.on.push(*condition),
                (None, None) => {
                    let names: Vec<&str> = CONDITIONS.iter().map(|(name, _)| *name).collect();
                    return Err(format!("{word:?} is neither a status code nor one of {}", names.join(", ")));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn with_base_pause(self, base_pause: Duration) -> Self {
        Self { base_pause, ..self }
    }

    /// Whether a request may be sent again that a service has seen, so that its body has to be kept.
    pub fn may_repeat(&self, is_grpc: bool) -> bool {
        let repeats = |condition: &Condition| match condition {
            Condition::ConnectFailure | Condition::RefusedStream | Condition::ResetBeforeRequest | Condition::Never => {
                false
            }
            Condition::StatusCodes => !self.codes.is_empty(),
            Condition::Grpc(_) => is_grpc,
            _ => true,
        };
        self.attempts > 0 && self.on.iter().any(repeats)
    }

    /// Whether a response is worth another try.
    pub fn is_on_response(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let code = status.as_u16();
        if headers.contains_key("x-envoy-ratelimited") {
            return self.on.contains(&Condition::RateLimited);
        }
        let grpc_status = || headers.get("grpc-status")?.to_str().ok()?.parse::<u16>().ok();
        self.on.iter().any(|condition| match condition {
            Condition::ServerError => status.is_server_error(),
            Condition::GatewayError => matches!(code, 502..=504),
            Condition::Conflict => code == 409,
            Condition::StatusCodes => self.codes.contains(&code),
            Condition::Grpc(wanted) => grpc_status() == Some(*wanted),
            _ => false,
        })
    }

    /// Whether endpoints that failed this request are left out while there are others: unless a document says
    /// otherwise, where no key ties the request to one, as in Istio.
    pub fn avoids_tried(&self, has_key: bool) -> bool {
        self.leaves_level || self.avoid_tried.unwrap_or(!has_key)
    }

    /// Whether a try without a response is worth another one.
    pub fn is_on_failure(&self, failure: Failure) -> bool {
        if failure == Failure::RateLimited {
            return self.on.contains(&Condition::RateLimited);
        }
        self.on.iter().any(|condition| match condition {
            Condition::Reset | Condition::ServerError | Condition::GatewayError => true,
            Condition::ResetBeforeRequest | Condition::RefusedStream => failure == Failure::Refused,
            Condition::ConnectFailure => failure == Failure::Connect,
            _ => false,
        })
    }

    /// The pause before a retry; `retry` counts from 1. `random` is a fresh, uniform number: pauses are spread
    /// evenly below a bound that doubles with each.
    pub fn pause(&self, retry: u32, random: u64) -> Duration {
        let doubled = self.base_pause.saturating_mul(1 << (retry.saturating_sub(1)).min(16));
        let bound = doubled.min(self.base_pause.saturating_mul(LONGEST_PAUSES));
        bound.mul_f64(random as f64 / u64::MAX as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(text: &str) -> RetryPolicy {
        let mut policy = RetryPolicy::default();
        policy.retry_on(text).unwrap();
        policy
    }

    fn retries(policy: &RetryPolicy, status: u16, headers: &[(&'static str, &str)]) -> bool {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        policy.is_on_response(StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn by_default_what_no_service_has_seen_is_tried_twice_again_and_a_503_is_not() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.attempts, 2);
        assert!(policy.is_on_failure(Failure::Connect) && policy.is_on_failure(Failure::Refused));
        assert!(!policy.is_on_failure(Failure::Reset) && !policy.is_on_failure(Failure::TryTimeout));
        assert!(!retries(&policy, 503, &[]));
        assert!(retries(&policy, 200, &[("grpc-status", "14")]) && retries(&policy, 200, &[("grpc-status", "1")]));
        assert!(!retries(&policy, 200, &[("grpc-status", "13")]));
    }

    #[test]
    fn each_condition_holds_for_what_envoy_says() {
        for (condition, status, expected) in [
            ("5xx", 500, true),
            ("5xx", 599, true),
            ("5xx", 404, false),
            ("gateway-error", 502, true),
            ("gateway-error", 500, false),
            ("retriable-4xx", 409, true),
            ("retriable-4xx", 404, false),
            ("retriable-status-codes", 503, false),
            ("503", 503, true),
            ("503,retriable-status-codes", 502, false),
            (" 404 , 5xx", 404, true),
            ("reset", 503, false),
            ("retriable-headers", 503, false),
        ] {
            assert_eq!(retries(&on(condition), status, &[]), expected, "{condition} and {status}");
        }
        for (condition, failures) in [
            ("5xx", &[Failure::Connect, Failure::Refused, Failure::Reset, Failure::TryTimeout][..]),
            ("gateway-error", &[Failure::Connect, Failure::Refused, Failure::Reset, Failure::TryTimeout]),
            ("reset", &[Failure::Connect, Failure::Refused, Failure::Reset, Failure::TryTimeout]),
            ("connect-failure", &[Failure::Connect]),
            ("refused-stream", &[Failure::Refused]),
            ("reset-before-request", &[Failure::Refused]),
            ("retriable-4xx", &[]),
        ] {
            for failure in [Failure::Connect, Failure::Refused, Failure::Reset, Failure::TryTimeout] {
                let expected = failures.contains(&failure);
                assert_eq!(on(condition).is_on_failure(failure), expected, "{condition} and {failure:?}");
            }
        }
    }

    #[test]
    fn what_a_limit_refused_is_retried_only_if_that_is_asked_for() {
        let limited = [("x-envoy-ratelimited", "true")];
        assert!(!retries(&on("5xx"), 503, &limited));
        assert!(retries(&on("envoy-ratelimited"), 429, &limited));
    }

    #[test]
    fn an_unknown_condition_is_refused() {
        for text in ["5xxx", "99", "1000", "5xx,never"] {
            assert!(RetryPolicy::default().retry_on(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pauses_double_up_to_ten_times_the_first() {
        let policy = RetryPolicy::default().with_base_pause(Duration::from_millis(20));
        let longest: Vec<u128> = (1..=6).map(|retry| policy.pause(retry, u64::MAX).as_millis()).collect();
        assert_eq!(longest, [20, 40, 80, 160, 200, 200]);
        assert_eq!(policy.pause(3, 0), Duration::ZERO);
        assert!(policy.pause(u32::MAX, u64::MAX).as_millis() == 200);
    }
}
