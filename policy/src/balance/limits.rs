//! How much of a cluster may be in use at once, as Envoy's circuit breakers mean it (`resource_manager_impl.h`): a limit
//! that is reached turns new work away, and touches nothing that is under way.
//!
//! Two who ask at the same moment never both get the last place.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

/// Limits of a cluster, as this node's callers use it. [`Limits::NONE`] is none.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Limits {
    /// Of HTTP/1.1 one for each exchange; and connections of bytes.
    pub(crate) connections: u32,
    /// Requests that wait for a connection.
    pub(crate) pending: u32,
    pub(crate) requests: u32,
    pub(crate) retries: Retries,
}

/// Retries under way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Retries {
    Most(u32),
    /// A share of the requests that are under way, in percent, and so many always.
    Budget {
        percent: f64,
        least: u32,
    },
}

impl Limits {
    pub(crate) const NONE: u32 = u32::MAX;
}

impl Default for Limits {
    fn default() -> Self {
        let none = Self::NONE;
        Self { connections: none, pending: none, requests: none, retries: Retries::default() }
    }
}

impl Default for Retries {
    fn default() -> Self {
        Self::Budget { percent: 20.0, least: 3 }
    }
}

/// Most copies of mirrored requests that are under way to a cluster.
const MAX_COPIES: u32 = 256;

/// What a limit is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Connection,
    Request,
    Retry,
    Pending,
    Copy,
}

/// What is in use of one cluster, by all workers.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct InUse {
    connections: AtomicU32,
    pending: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
    copies: AtomicU32,
    /// Who waits for a connection. Touched only while somebody does.
    waiting: Mutex<Vec<Waker>>,
}

impl InUse {
    fn counter(&self, kind: Kind) -> &AtomicU32 {
        match kind {
            Kind::Connection => &self.connections,
            Kind::Request => &self.requests,
            Kind::Retry => &self.retries,
            Kind::Pending => &self.pending,
            Kind::Copy => &self.copies,
        }
    }

    fn hold(self: &Arc<Self>, kind: Kind, limit: u32) -> Option<Held> {
        let below = |used: u32| (used < limit).then_some(used + 1);
        self.counter(kind).fetch_update(Relaxed, Relaxed, below).ok()?;
        Some(Held { in_use: self.clone(), kind })
    }

    pub(super) fn request(self: &Arc<Self>, limits: &Limits) -> Result<Option<Held>, Overflow> {
        self.hold_if_limited(Kind::Request, limits.requests)
    }

    pub(super) fn connection(self: &Arc<Self>, limits: &Limits) -> Result<Option<Held>, Overflow> {
        self.hold_if_limited(Kind::Connection, limits.connections)
    }

    /// `active` counts the requests that are under way.
    pub(super) fn retry(self: &Arc<Self>, limits: &Limits, active: impl FnOnce() -> u32) -> Result<Held, Overflow> {
        let limit = match limits.retries {
            Retries::Most(limit) => limit,
            Retries::Budget { percent, least } => least.max((f64::from(active()) * percent / 100.0) as u32),
        };
        self.hold(Kind::Retry, limit).ok_or(Overflow)
    }

    pub(super) fn copy(self: &Arc<Self>) -> Result<Held, Overflow> {
        self.hold(Kind::Copy, MAX_COPIES).ok_or(Overflow)
    }

    /// Nothing is counted where nothing is limited.
    fn hold_if_limited(self: &Arc<Self>, kind: Kind, limit: u32) -> Result<Option<Held>, Overflow> {
        if limit == Limits::NONE {
            return Ok(None);
        }
        self.hold(kind, limit).map(Some).ok_or(Overflow)
    }

    /// A connection as soon as there is one; `place` is the caller's among those who wait, to be kept until then.
    pub(super) fn poll_connection(
        self: &Arc<Self>,
        limits: &Limits,
        place: &mut Option<Held>,
        cx: &Context<'_>,
    ) -> Poll<Result<Option<Held>, Overflow>> {
        if let Ok(connection) = self.connection(limits) {
            return Poll::Ready(Ok(connection));
        }
        if place.is_none() {
            *place = self.hold(Kind::Pending, limits.pending);
        }
        if place.is_none() {
            return Poll::Ready(Err(Overflow));
        }
        self.wakers().push(cx.waker().clone());
        // One may have been given back just now, and have woken nobody.
        self.connection(limits).map_or(Poll::Pending, |connection| Poll::Ready(Ok(connection)))
    }

    fn wakers(&self) -> std::sync::MutexGuard<'_, Vec<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place within a limit, until it is dropped.
#[derive(Debug)]
#[must_use = "the place is held only while this lives"]
pub struct Held {
    in_use: Arc<InUse>,
    kind: Kind,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.in_use.counter(self.kind).fetch_sub(1, Relaxed);
        if self.kind == Kind::Connection && self.in_use.pending.load(Relaxed) > 0 {
            // All of them: who is woken may have gone away.
            let waiting = std::mem::take(&mut *self.in_use.wakers());
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

/// A limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_turns_away_what_is_above_it_until_a_place_is_given_back() {
        let in_use = Arc::new(InUse::default());
        let limits = Limits { requests: 2, ..Limits::default() };
        let held = [in_use.request(&limits).unwrap(), in_use.request(&limits).unwrap()];
        assert_eq!(in_use.request(&limits).unwrap_err(), Overflow);
        drop(held);
        assert!(in_use.request(&limits).unwrap().is_some());
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let in_use = Arc::new(InUse::default());
        assert!(in_use.request(&Limits::default()).unwrap().is_none());
        assert!(in_use.connection(&Limits::default()).unwrap().is_none());
    }

    #[test]
    fn retries_are_limited_by_number_or_by_a_share_of_the_requests() {
        let in_use = Arc::new(InUse::default());
        let most = Limits { retries: Retries::Most(1), ..Limits::default() };
        let one = in_use.retry(&most, || 1_000).unwrap();
        assert!(in_use.retry(&most, || 1_000).is_err());
        drop(one);
        let hold = |active| {
            let mut held = Vec::new();
            while let Ok(retry) = in_use.retry(&Limits::default(), || active) {
                held.push(retry);
            }
            held.len()
        };
        assert_eq!((hold(0), hold(10), hold(100)), (3, 3, 20), "20 %, and 3 always");
    }

    #[test]
    fn who_finds_no_connection_waits_if_there_is_room_and_is_woken_by_one_that_is_given_back() {
        struct Woken(AtomicU32);
        impl std::task::Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Relaxed);
            }
        }
        let in_use = Arc::new(InUse::default());
        let limits = Limits { connections: 1, pending: 1, ..Limits::default() };
        let woken = Arc::new(Woken(AtomicU32::new(0)));
        let waker = Waker::from(woken.clone());
        let cx = Context::from_waker(&waker);
        let (mut first, mut second) = (None, None);
        let connection = in_use.connection(&limits).unwrap();
        assert!(in_use.poll_connection(&limits, &mut first, &cx).is_pending());
        assert!(matches!(in_use.poll_connection(&limits, &mut second, &cx), Poll::Ready(Err(Overflow))));
        drop(connection);
        assert_eq!(woken.0.load(Relaxed), 1);
        assert!(matches!(in_use.poll_connection(&limits, &mut first, &cx), Poll::Ready(Ok(Some(_)))));
    }
}
