//! All series' numbers at one moment, for whoever makes rates of them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{BOUNDS, Edge, HttpSeries, Metrics, TcpSeries, series::Class};

/// The numbers of one series, since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub requests: u64,
    /// Requests that failed: 5xx, gRPC statuses that stand for one, or no response though the caller waited for it. Of
    /// connections, those that could not be served.
    pub failures: u64,
    /// Requests that were refused for what they asked: 4xx, and gRPC statuses that stand for one.
    pub client_errors: u64,
    /// Tries after the first.
    pub retries: u64,
    /// By duration: see [`BOUNDS`], in milliseconds.
    pub durations: [u64; BOUNDS.len()],
    pub opened: u64,
    pub closed: u64,
    /// Requests and connections that went to another node by mutual TLS.
    pub mutual_tls: u64,
    /// Those that crossed the network without TLS.
    pub in_the_clear: u64,
    /// From callers: of connections, and request bodies.
    pub received_bytes: u64,
    /// To callers.
    pub sent_bytes: u64,
}

/// Tells a series from all others of the process, also from those that are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeriesId(u64);

impl SeriesId {
    pub(super) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// For tests of whoever reads series.
    pub fn of(id: u64) -> Self {
        Self(id)
    }
}

impl Metrics {
    /// Shows all series as they are now.
    pub fn read(&self, mut see: impl FnMut(SeriesId, &Edge, &Counts)) {
        for (_, series) in self.0.http.all() {
            see(series.id, &series.edge, &series.counts());
        }
        for (_, series) in self.0.tcp.all() {
            see(series.id, &series.edge, &series.counts());
        }
    }
}

impl HttpSeries {
    fn counts(&self) -> Counts {
        let requests = self.requests.load(Ordering::Relaxed);
        Counts {
            requests,
            failures: if self.class == Class::Failure { requests } else { 0 },
            client_errors: if self.class == Class::Refused { requests } else { 0 },
            mutual_tls: requests.saturating_sub(self.ways.others.load(Ordering::Relaxed)),
            in_the_clear: self.ways.in_the_clear.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            durations: self.duration_ms.counts(),
            received_bytes: self.request_bytes.sum() as u64,
            sent_bytes: self.response_bytes.sum() as u64,
            ..Counts::default()
        }
    }
}

impl TcpSeries {
    fn counts(&self) -> Counts {
        let opened = self.opened.load(Ordering::Relaxed);
        Counts {
            failures: if self.is_failure { opened } else { 0 },
            opened,
            mutual_tls: opened.saturating_sub(self.ways.others.load(Ordering::Relaxed)),
            in_the_clear: self.ways.in_the_clear.load(Ordering::Relaxed),
            closed: self.closed.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            ..Counts::default()
        }
    }
}
