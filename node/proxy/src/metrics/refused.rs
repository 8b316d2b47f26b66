//! What was refused before it was an exchange, or broke one off: hostile or broken peers, and our own limits.

use std::sync::atomic::{AtomicU64, Ordering};

/// Label `reason` of `weft_http_refused_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The head of an HTTP/1.1 request.
    MalformedHead,
    HeadTooLarge,
    HeadTimeout,
    /// A request that is well-formed as such, and means nothing, or more than one thing.
    BadRequest,
    MalformedBody,
    MalformedResponse,
    /// An HTTP/2 connection whose peer broke the protocol, or did what only a flood does.
    Http2,
}

impl Refused {
    const ALL: [Self; 7] = [
        Self::MalformedHead,
        Self::HeadTooLarge,
        Self::HeadTimeout,
        Self::BadRequest,
        Self::MalformedBody,
        Self::MalformedResponse,
        Self::Http2,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::MalformedHead => "malformed_head",
            Self::HeadTooLarge => "head_too_large",
            Self::HeadTimeout => "head_timeout",
            Self::BadRequest => "bad_request",
            Self::MalformedBody => "malformed_body",
            Self::MalformedResponse => "malformed_response",
            Self::Http2 => "http2",
        }
    }
}

/// A counter for each reason.
#[derive(Debug, Default)]
pub(super) struct RefusedCounters([AtomicU64; Refused::ALL.len()]);

impl RefusedCounters {
    pub(super) fn count(&self, reason: Refused) {
        if let Some(counter) = self.0.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All reasons with their counts.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.0.iter().map(|counter| counter.load(Ordering::Relaxed));
        Refused::ALL.into_iter().map(Refused::as_str).zip(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_counts_under_its_own_name() {
        let counters = RefusedCounters::default();
        counters.count(Refused::Http2);
        let counted: Vec<_> = counters.iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("http2", 1)]);
        assert!(Refused::ALL.iter().enumerate().all(|(i, reason)| *reason as usize == i));
    }
}
