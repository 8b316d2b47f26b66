//! `fault`: requests that a VirtualService delays or aborts on purpose.

use std::time::Duration;

use http::StatusCode;

use crate::api::values::Share;

/// What may be done to a request instead of forwarding it at once: the delay comes first, then the abort.
#[derive(Debug, Default, PartialEq)]
pub struct Fault {
    pub(crate) delay: Option<(Share, Duration)>,
    pub(crate) abort: Option<(Share, Abort)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    Http(StatusCode),
    /// A gRPC status code.
    Grpc(u16),
}

impl Fault {
    /// How long this request waits. `random` is a fresh, uniform number.
    pub fn delay(&self, random: u64) -> Option<Duration> {
        self.delay.filter(|(share, _)| share.includes(random)).map(|(_, delay)| delay)
    }

    /// How this request ends, if it does. `random` is a fresh, uniform number.
    pub fn abort(&self, random: u64) -> Option<Abort> {
        self.abort.filter(|(share, _)| share.includes(random)).map(|(_, abort)| abort)
    }
}
