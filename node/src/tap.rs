//! Live requests of the whole mesh, for operators: `weft tap`.
//!
//! The node that is asked for a tap gives all nodes a signed leave for it ([`weft_wire::tap`]), again and again: whoever
//! is given it for the first time begins to watch, and answers each time with what has gone by since. So a node that comes
//! later watches too, and one that is not asked any more ([`LEFT_AFTER`]) ends by itself.
//!
//! What a node keeps for a tap is bounded, in requests a second and in bytes; what is over is counted.

pub mod event;
pub mod query;
pub mod redact;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use parking_lot::Mutex;
use tokio::time::Instant;
use weft_policy::access_log::{Entry, RequestLine};
use weft_proxy::tap::{Tap, Tapped, Taps};
use weft_wire::tap::{MAX_TAP_MS, SignedTap};

use self::{
    event::Seen,
    query::{TapQuery, Wanted},
};

/// A tap that nobody has read for so long is over.
pub const LEFT_AFTER: Duration = Duration::from_secs(5);
/// Taps of one node at once.
const MAX_TAPS: usize = 4;
/// Bytes of requests that wait to be read, for each tap.
const MAX_WAITING: usize = 1024 * 1024;
/// What an entry takes besides its headers and bodies, about.
const ENTRY_BYTES: usize = 1_024;
/// A leave may come from a clock that is so much ahead.
const SKEW_MS: u64 = 2_000;

/// The taps that watch on this node.
#[derive(Clone, Default)]
pub struct OwnTaps {
    pub taps: Arc<Taps>,
    running: Arc<Mutex<HashMap<u64, Running>>>,
}

struct Running {
    tap: Arc<Watching>,
    read: Instant,
    ends: Instant,
}

/// One tap, as the data path sees it.
struct Watching {
    wanted: Wanted,
    began: Instant,
    /// The second since `began` in its upper half, and how many requests were taken in it in its lower one.
    taken: AtomicU64,
    missed: AtomicU64,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    seen: VecDeque<(Arc<Tapped>, usize)>,
    bytes: usize,
}

/// What has gone by since the last time.
#[derive(Debug, Default)]
pub struct Passed {
    pub seen: Vec<Arc<Tapped>>,
    /// Requests that were over one of the bounds.
    pub missed: u64,
}

/// What a tap's reader does to it.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Began,
    Goes,
}

impl OwnTaps {
    /// What has gone by since this tap was last read; it begins if it is new. `now_ms` is since 1970.
    ///
    /// # Errors
    /// It is not good now, or its query cannot be read, or there are too many.
    pub fn read(&self, leave: &SignedTap, now: Instant, now_ms: u64) -> anyhow::Result<(Read, Passed)> {
        ensure!(leave.for_ms <= MAX_TAP_MS, "a tap may last 30m");
        ensure!(leave.at_ms <= now_ms + SKEW_MS, "the tap begins in the future: compare the clocks (weft doctor)");
        let left_ms = leave.at_ms.saturating_add(leave.for_ms).saturating_sub(now_ms);
        ensure!(left_ms > 0, "the tap's time is up");
        let mut running = self.running.lock();
        if let Some(known) = running.get_mut(&leave.id) {
            known.read = now;
            return Ok((Read::Goes, known.tap.drain()));
        }
        ensure!(running.len() < MAX_TAPS, "{MAX_TAPS} taps are read already: end one of them");
        let query: TapQuery = serde_json::from_str(&leave.query).context("a tap in another form")?;
        let tap = Arc::new(Watching::new(query.read()?, now));
        let ends = now + Duration::from_millis(left_ms);
        running.insert(leave.id, Running { tap, read: now, ends });
        self.publish(&running);
        Ok((Read::Began, Passed::default()))
    }

    /// Ends what nobody reads, and what has lasted for its time.
    pub fn expire(&self, now: Instant) {
        let mut running = self.running.lock();
        let before = running.len();
        running.retain(|_, one| now < one.ends && now.duration_since(one.read) < LEFT_AFTER);
        if running.len() != before {
            self.publish(&running);
        }
    }

    fn publish(&self, running: &HashMap<u64, Running>) {
        self.taps.set(running.values().map(|one| one.tap.clone() as Arc<dyn Tap>).collect());
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.running.lock().len()
    }
}

impl Watching {
    fn new(wanted: Wanted, began: Instant) -> Self {
        Self { wanted, began, taken: AtomicU64::new(0), missed: AtomicU64::new(0), waiting: Mutex::default() }
    }

    fn drain(&self) -> Passed {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        let seen = waiting.seen.into_iter().map(|(tapped, _)| tapped).collect();
        Passed { seen, missed: self.missed.swap(0, Ordering::Relaxed) }
    }

    /// Whether one more is within the second's bound.
    fn has_room(&self, now: Instant) -> bool {
        let second = now.duration_since(self.began).as_secs();
        let count = |taken: u64| {
            let so_far = if taken >> 32 == second { taken & u64::from(u32::MAX) } else { 0 };
            (so_far < u64::from(self.wanted.max_rps)).then_some((second << 32) + so_far + 1)
        };
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count).is_ok()
    }
}

impl Tap for Watching {
    fn may_want(&self, request: &RequestLine) -> bool {
        self.wanted.may_want(request)
    }

    fn body_limit(&self) -> usize {
        self.wanted.body
    }

    fn take(&self, tapped: &Arc<Tapped>) {
        let Tapped { entry, request_body, response_body, .. } = &**tapped;
        if !entry.request.as_ref().is_some_and(|request| self.may_want(request))
            || !self.wanted.wants(entry, &Seen::call_of(tapped))
        {
            return;
        }
        let bytes = ENTRY_BYTES + head_bytes(entry) + request_body.len() + response_body.len();
        // Once the second has no room, the lock is not asked for.
        if self.has_room(Instant::now()) {
            let mut waiting = self.waiting.lock();
            if waiting.bytes + bytes <= MAX_WAITING {
                waiting.bytes += bytes;
                waiting.seen.push_back((tapped.clone(), bytes));
                return;
            }
        }
        self.missed.fetch_add(1, Ordering::Relaxed);
    }
}

fn head_bytes(entry: &Entry) -> usize {
    let of = |headers: &http::HeaderMap| -> usize {
        headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64).sum()
    };
    let request = entry.request.as_ref().and_then(RequestLine::headers);
    let heads = [request, entry.response.as_deref(), entry.trailers.as_deref()];
    heads.into_iter().flatten().map(of).sum::<usize>() + entry.request.as_ref().map_or(0, |line| line.path().len())
}

#[cfg(test)]
mod tests {
    use super::{event::tests::tapped, *};

    fn leave(id: u64, query: &str) -> SignedTap {
        SignedTap {
            id,
            reader: "host-1".parse().unwrap(),
            author: "spiffe://cluster.local/operator/admin".parse().unwrap(),
            at_ms: 1_000_000,
            for_ms: 60_000,
            query: query.into(),
            chain: Vec::new(),
            signature: Vec::new(),
        }
    }

    /// What the data path does with a request.
    fn pass(own: &OwnTaps, status: u16) {
        for one in own.running.lock().values() {
            one.tap.take(&Arc::new(tapped(status)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_tap_begins_when_it_is_first_read_and_ends_when_it_is_not_any_more() {
        let own = OwnTaps::default();
        let read = |own: &OwnTaps| own.read(&leave(1, "{\"status\":\"5xx\"}"), Instant::now(), 1_000_500);
        assert_eq!(read(&own).unwrap().0, Read::Began);
        pass(&own, 200);
        pass(&own, 503);
        let (goes, passed) = read(&own).unwrap();
        assert_eq!((goes, passed.seen.len(), passed.missed), (Read::Goes, 1, 0));
        assert!(read(&own).unwrap().1.seen.is_empty(), "told once");

        tokio::time::advance(LEFT_AFTER / 2).await;
        own.expire(Instant::now());
        assert_eq!(own.count(), 1);
        tokio::time::advance(LEFT_AFTER).await;
        own.expire(Instant::now());
        assert_eq!(own.count(), 0, "its reader has gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_tap_ends_with_its_time_however_often_it_is_read() {
        let own = OwnTaps::default();
        for second in 0..60 {
            own.read(&leave(1, "{}"), Instant::now(), 1_000_000 + second * 1_000).unwrap();
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        own.expire(Instant::now());
        assert_eq!(own.count(), 0);
        assert!(own.read(&leave(1, "{}"), Instant::now(), 1_060_000).unwrap_err().to_string().contains("time is up"));
        assert!(own.read(&leave(1, "{}"), Instant::now(), 990_000).unwrap_err().to_string().contains("future"));
        let long = SignedTap { for_ms: MAX_TAP_MS + 1, ..leave(2, "{}") };
        assert!(own.read(&long, Instant::now(), 1_000_000).is_err());
        for id in 10..10 + MAX_TAPS as u64 {
            own.read(&leave(id, "{}"), Instant::now(), 1_000_000).unwrap();
        }
        assert!(own.read(&leave(20, "{}"), Instant::now(), 1_000_000).is_err(), "one more than there may be");
        assert!(own.read(&leave(21, "{\"shell\":1}"), Instant::now(), 1_000_000).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_a_bound_is_counted() {
        let own = OwnTaps::default();
        let read = |query: &str| own.read(&leave(1, query), Instant::now(), 1_000_000).unwrap().1;
        let query = "{\"max_rps\":3}";
        read(query);
        (0..10).for_each(|_| pass(&own, 200));
        let passed = read(query);
        assert_eq!((passed.seen.len(), passed.missed), (3, 7));
        tokio::time::advance(Duration::from_secs(1)).await;
        (0..4).for_each(|_| pass(&own, 200));
        assert_eq!(read(query).seen.len(), 3, "another second");

        let large = leave(2, "{\"max_rps\":1000}");
        own.read(&large, Instant::now(), 1_000_000).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        let big = Arc::new(Tapped { response_body: vec![b'x'; MAX_WAITING / 4].into(), ..tapped(200) });
        let tap = own.running.lock()[&2].tap.clone();
        (0..9).for_each(|_| tap.take(&big));
        let (_, passed) = own.read(&large, Instant::now(), 1_000_000).unwrap();
        assert_eq!((passed.seen.len(), passed.missed), (3, 6));
    }
}
