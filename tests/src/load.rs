//! What `weft-load` reports: one record per request, so that a scenario can say which ones may fail.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One request and what became of it. Times are microseconds since 1970, the clock that all processes of a host share.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exchange {
    pub start_us: u64,
    pub end_us: u64,
    /// The status, or what went wrong before there was one.
    pub outcome: Result<u16, String>,
    /// Header `x-served-by` of the answer: which origin it came from.
    pub served_by: Option<String>,
    /// Header `x-weft-reason` of the answer: why a proxy answered itself.
    pub reason: Option<String>,
}

impl Exchange {
    pub fn succeeded(&self) -> bool {
        self.outcome == Ok(200)
    }

    /// Whether the request was under way at some moment of a span, give or take `slack_us` at its ends.
    pub fn in_flight_within(&self, from_us: u64, to_us: u64, slack_us: u64) -> bool {
        self.start_us <= to_us + slack_us && self.end_us + slack_us >= from_us
    }
}

/// Everything that one `weft-load` sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub exchanges: Vec<Exchange>,
}

impl Report {
    pub fn failures(&self) -> Vec<&Exchange> {
        self.exchanges.iter().filter(|exchange| !exchange.succeeded()).collect()
    }

    /// How many answers each origin gave.
    pub fn served_by(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for origin in self.exchanges.iter().filter_map(|exchange| exchange.served_by.as_deref()) {
            *counts.entry(origin).or_default() += 1;
        }
        counts
    }

    /// Panics unless there were requests and all succeeded.
    pub fn assert_all_succeeded(&self) {
        assert!(!self.exchanges.is_empty(), "no request was sent");
        let failures = self.failures();
        let first = &failures[..failures.len().min(3)];
        let counts = self.outcomes();
        assert!(failures.is_empty(), "not all succeeded: {counts:?}; the first failures: {first:#?}");
    }

    /// How many requests came to each outcome.
    fn outcomes(&self) -> BTreeMap<&Result<u16, String>, usize> {
        let mut counts = BTreeMap::new();
        self.exchanges.iter().for_each(|exchange| *counts.entry(&exchange.outcome).or_default() += 1);
        counts
    }
}
