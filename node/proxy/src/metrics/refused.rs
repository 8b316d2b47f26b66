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
    /// A body that was announced and did not come.
    StalledBody,
    /// A connection none of whose responses was read on.
    StalledReader,
    MalformedResponse,
    /// An HTTP/2 connection whose peer broke the protocol.
    Http2,
    /// An HTTP/2 connection that brought frames and no requests.
    Flood,
    /// A connection most of whose requests were taken back as soon as they were made.
    RapidReset,
    /// A connection beyond those that a listener takes, or that one other host may have, or a handshake beyond those
    /// that it may have.
    Connections,
    /// A connection that held most when memory was short.
    Overload,
}

impl Refused {
    const ALL: [Self; 13] = [
        Self::MalformedHead,
        Self::HeadTooLarge,
        Self::HeadTimeout,
        Self::BadRequest,
        Self::MalformedBody,
        Self::StalledBody,
        Self::StalledReader,
        Self::MalformedResponse,
        Self::Http2,
        Self::Flood,
        Self::RapidReset,
        Self::Connections,
        Self::Overload,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::MalformedHead => "malformed_head",
            Self::HeadTooLarge => "head_too_large",
            Self::HeadTimeout => "head_timeout",
            Self::BadRequest => "bad_request",
            Self::MalformedBody => "malformed_body",
            Self::StalledBody => "stalled_body",
            Self::StalledReader => "stalled_reader",
            Self::MalformedResponse => "malformed_response",
            Self::Http2 => "http2",
            Self::Flood => "http2_flood",
            Self::RapidReset => "rapid_reset",
            Self::Connections => "connections",
            Self::Overload => "overload",
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
