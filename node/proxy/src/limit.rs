//! Rate limits: who is refused, and what all are told of what is left. Counting is `weft_policy::limit`'s.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use weft_policy::{
    authenticate::Claims,
    condition::Request,
    limit::{Limits, Verdict},
};

use crate::error::ProxyError;

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
/// Tells a calling proxy that a limit refused, and not the workload.
const X_ENVOY_RATELIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// What a caller is told of the limit that has the least left for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    limit: u64,
    remaining: u64,
    reset_s: u64,
    retry_after_s: u64,
}

impl From<Verdict<'_>> for Quota {
    fn from(verdict: Verdict<'_>) -> Self {
        let Verdict { limit, remaining, reset_s, retry_after_s, .. } = verdict;
        Self { limit, remaining, reset_s, retry_after_s }
    }
}

impl Quota {
    /// Tells the caller, unless somebody further up has less left for it.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        let known = headers.get(REMAINING).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if known.is_some_and(|known| known < self.remaining) {
            return;
        }
        for (name, value) in [(LIMIT, self.limit), (REMAINING, self.remaining), (RESET, self.reset_s)] {
            headers.insert(name, value.into());
        }
    }

    /// Tells a caller that is refused.
    pub(crate) fn refuse(&self, headers: &mut HeaderMap) {
        self.tell(headers);
        headers.insert(header::RETRY_AFTER, self.retry_after_s.into());
        headers.insert(X_ENVOY_RATELIMITED, HeaderValue::from_static("true"));
    }
}

/// Counts a request, with the claims of its verified token. `None`: no limit is about it. `now_ns` is the worker's
/// clock.
///
/// # Errors
/// A limit refuses it.
pub(crate) fn admit(
    limits: &Limits,
    request: &Request<'_>,
    claims: Option<&Claims>,
    now_ns: u64,
) -> Result<Option<Quota>, ProxyError> {
    match limits.check(request, claims, now_ns) {
        Some(verdict) if verdict.is_limited => Err(ProxyError::RateLimited(verdict.into())),
        verdict => Ok(verdict.map(Quota::from)),
    }
}
