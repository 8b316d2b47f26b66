//! What has been sent without the mesh's TLS, and across the network without any, by whom and to where. What goes by mutual
//! TLS, as nearly all does, costs nothing.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{Metrics, labels, series::Way};

/// Of one series: requests, or connections that carry no HTTP.
#[derive(Debug, Default)]
pub(super) struct Ways {
    /// Those that did not go by mutual TLS: in the clear or not.
    pub(super) others: AtomicU64,
    pub(super) in_the_clear: AtomicU64,
    /// When the last one in the clear was, in seconds since 1970.
    last: AtomicU64,
}

impl Ways {
    pub(super) fn has_any_in_the_clear(&self) -> bool {
        self.in_the_clear.load(Ordering::Relaxed) > 0
    }

    pub(super) fn count(&self, way: Way) {
        if way == Way::MutualTls {
            return;
        }
        self.others.fetch_add(1, Ordering::Relaxed);
        if way == Way::InTheClear {
            self.in_the_clear.fetch_add(1, Ordering::Relaxed);
            self.last.store(seconds_since_1970(), Ordering::Relaxed);
        }
    }
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What one workload has sent to one host outside of the mesh, since this node began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentInTheClear {
    /// `NAMESPACE/WORKLOAD`
    pub source: String,
    pub host: String,
    /// Requests, and connections that carry no HTTP.
    pub count: u64,
    /// How long ago the last one was; nothing while a connection is open.
    pub ago: Duration,
}

impl Metrics {
    /// What this node has sent across the network without TLS.
    pub fn in_the_clear(&self) -> Vec<SentInTheClear> {
        let now = seconds_since_1970();
        let mut all = BTreeMap::<(String, String), (u64, u64)>::new();
        let mut add = |labels: &labels::Labels, sent: &Ways, goes_on: bool| {
            let count = sent.in_the_clear.load(Ordering::Relaxed);
            if count > 0 {
                let last = if goes_on { now } else { sent.last.load(Ordering::Relaxed) };
                let total = all.entry(labels::parties(labels)).or_default();
                *total = (total.0 + count, total.1.max(last));
            }
        };
        for (labels, series) in &self.0.http.all() {
            add(labels, &series.ways, false);
        }
        for (labels, series) in &self.0.tcp.all() {
            let open = series.opened.load(Ordering::Relaxed) > series.closed.load(Ordering::Relaxed);
            add(labels, &series.ways, open);
        }
        let sent = all.into_iter().map(|((source, host), (count, last))| SentInTheClear {
            source,
            host,
            count,
            ago: Duration::from_secs(now.saturating_sub(last)),
        });
        sent.collect()
    }
}
