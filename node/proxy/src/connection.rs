//! What a caller's connection costs us, so that one which costs too much can be ended alone.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::metrics::Refused;

/// An exchange whose caller takes it back sooner than this was begun for the work it makes, or so it seems.
const EARLY: Duration = Duration::from_secs(1);
/// Exchanges of a connection, before it is judged by how many of them were taken back early.
const JUDGED_AFTER: u32 = 1_000;
/// Looks in a row that found nothing under way, after which a connection rests: half a second.
const RESTS_AFTER: u32 = 5;
/// What a connection holds at least that is ended for it, in bytes.
pub(crate) const LEAST_OFFENCE: u64 = 1 << 20;

/// One connection of a caller. Of one worker, and shared by all that happens on the connection.
#[derive(Default)]
pub(crate) struct Load {
    /// Bytes of bodies that came and were not read on.
    unread: Cell<u64>,
    /// Bytes of responses that may have come and were not taken.
    untaken: Cell<u64>,
    /// A response was read on since the last look.
    has_moved: Cell<bool>,
    /// Looks in a row that found responses and none read on.
    still_for: Cell<u32>,
    open: Cell<u32>,
    exchanges: Cell<u32>,
    taken_back: Cell<u32>,
    /// Who serves it can let go of what it holds for it, while nothing happens.
    can_rest: Cell<bool>,
    /// `exchanges` at the last look.
    exchanges_seen: Cell<u32>,
    /// Looks in a row that found no exchange, under way or since the last.
    idle_for: Cell<u32>,
    why: Cell<Option<End>>,
    /// Who waits for the end.
    waker: Cell<Option<Waker>>,
}

/// Why we end a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It began HTTP/2 and did not go on.
    SlowStart,
    /// It brought frames that carry nothing.
    Flood,
    /// Most of its exchanges were taken back as soon as they were begun.
    RapidReset,
    /// None of its responses was read on for too long.
    StalledReader,
    /// Memory is short, and this connection has most of it.
    Overload,
    /// The workload's policies let its caller in no more.
    NotLetIn,
    /// Nothing happens on it: it is not ended, but rests (see [`Load::can_rest`]).
    Idle,
}

impl End {
    /// What it is counted as, where hostile or broken peers are counted.
    pub(crate) fn refused(self) -> Option<Refused> {
        match self {
            Self::SlowStart => Some(Refused::HeadTimeout),
            Self::Flood => Some(Refused::Flood),
            Self::RapidReset => Some(Refused::RapidReset),
            Self::StalledReader => Some(Refused::StalledReader),
            Self::Overload => Some(Refused::Overload),
            Self::NotLetIn | Self::Idle => None,
        }
    }
}

impl Load {
    pub(crate) fn began(&self) {
        self.open.set(self.open.get().saturating_add(1));
        self.exchanges.set(self.exchanges.get().saturating_add(1));
    }

    /// An exchange is over: after `lifetime`, and perhaps because the caller took it back.
    pub(crate) fn ended(&self, lifetime: Duration, was_taken_back: bool) {
        self.open.set(self.open.get().saturating_sub(1));
        if self.open.get() == 0 {
            // What is left was of bodies that nobody wanted.
            self.unread.set(0);
        }
        if was_taken_back && lifetime < EARLY {
            self.taken_back.set(self.taken_back.get().saturating_add(1));
        }
        if self.exchanges.get() >= JUDGED_AFTER {
            if self.taken_back.get() > self.exchanges.get() / 2 {
                self.end(End::RapidReset);
            }
            self.exchanges.set(0);
            self.taken_back.set(0);
        }
    }

    /// Bytes of request bodies have come.
    pub(crate) fn came(&self, bytes: u64) {
        self.unread.set(self.unread.get().saturating_add(bytes));
    }

    /// Bytes of request bodies were passed on.
    pub(crate) fn passed(&self, bytes: u64) {
        self.unread.set(self.unread.get().saturating_sub(bytes));
    }

    /// A response has given data and was not asked for more yet: so much of it may wait here.
    pub(crate) fn waits_for_reader(&self, bytes: u64) {
        self.untaken.set(self.untaken.get().saturating_add(bytes));
    }

    pub(crate) fn reader_came(&self, bytes: u64) {
        self.has_moved.set(true);
        self.untaken.set(self.untaken.get().saturating_sub(bytes));
    }

    /// Takes a look. Returns in how many looks, this one included, responses waited and none was read on.
    fn still_for(&self) -> u32 {
        let is_still = self.untaken.get() > 0 && !self.has_moved.take();
        self.still_for.set(if is_still { self.still_for.get().saturating_add(1) } else { 0 });
        self.still_for.get()
    }

    /// From now on [`End::Idle`] says when nothing has happened for a while.
    pub(crate) fn can_rest(&self) {
        self.can_rest.set(true);
    }

    /// Whether nothing is under way, nor has begun since the last look.
    pub(crate) fn is_idle(&self) -> bool {
        self.open.get() == 0 && self.exchanges.get() == self.exchanges_seen.get()
    }

    /// Takes a look. Returns in how many looks, this one included, nothing happened.
    fn idle_for(&self) -> u32 {
        let idle_for = if self.is_idle() { self.idle_for.get().saturating_add(1) } else { 0 };
        self.exchanges_seen.set(self.exchanges.get());
        self.idle_for.set(idle_for);
        idle_for
    }

    /// Bytes that it may make us hold now.
    pub(crate) fn held(&self) -> u64 {
        self.unread.get().saturating_add(self.untaken.get())
    }

    pub(crate) fn end(&self, why: End) {
        self.why.set(Some(why));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// It ends well, if it lets us.
    pub(crate) fn forgive(&self) {
        self.why.set(None);
    }

    /// Ready when it is to be ended.
    pub(crate) fn poll_end(&self, cx: &mut Context<'_>) -> Poll<End> {
        if let Some(why) = self.why.get() {
            return Poll::Ready(why);
        }
        let waker = self.waker.take().filter(|waker| waker.will_wake(cx.waker()));
        self.waker.set(Some(waker.unwrap_or_else(|| cx.waker().clone())));
        Poll::Pending
    }
}

/// The callers' connections of one worker.
#[derive(Default)]
pub(crate) struct Connections(RefCell<Vec<Weak<Load>>>);

impl Connections {
    pub(crate) fn open(&self) -> Rc<Load> {
        let load = Rc::new(Load::default());
        let mut all = self.0.borrow_mut();
        // Where the list would grow, those that are gone go first.
        if all.len() == all.capacity() {
            all.retain(|known| known.strong_count() > 0);
        }
        all.push(Rc::downgrade(&load));
        load
    }

    /// Takes a look at all of them.
    pub(crate) fn look(&self, max_still: u32) -> Look {
        let mut all = self.0.borrow_mut();
        all.retain(|known| known.strong_count() > 0);
        let mut look = Look::default();
        for load in all.iter().filter_map(Weak::upgrade) {
            look.held = look.held.saturating_add(load.held());
            let is_still = load.still_for() >= max_still;
            let idle_for = load.idle_for();
            if load.why.get().is_some() {
                continue;
            }
            if idle_for == RESTS_AFTER && load.can_rest.get() {
                load.end(End::Idle);
            }
            if is_still {
                look.stalled.push(load);
            } else if look.largest.as_ref().is_none_or(|largest| largest.held() < load.held()) {
                look.largest = Some(load);
            }
        }
        look
    }
}

/// What a look at all connections has found. Those that are being ended already are only counted.
#[derive(Default)]
pub(crate) struct Look {
    /// Bytes that all of them hold.
    pub(crate) held: u64,
    pub(crate) largest: Option<Rc<Load>>,
    pub(crate) stalled: Vec<Rc<Load>>,
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt;

    use super::*;

    fn run(load: &Load, exchanges: u32, taken_back: u32, lifetime: Duration) {
        for i in 0..exchanges {
            load.began();
            load.ended(lifetime, i < taken_back);
        }
    }

    #[test]
    fn a_connection_ends_that_takes_back_most_of_what_it_begins() {
        for (taken_back, lifetime, ends) in [
            (JUDGED_AFTER, Duration::ZERO, true),
            (JUDGED_AFTER / 2 + 1, Duration::ZERO, true),
            (JUDGED_AFTER / 2, Duration::ZERO, false),
            (JUDGED_AFTER, EARLY, false),
        ] {
            let load = Load::default();
            run(&load, JUDGED_AFTER, taken_back, lifetime);
            assert_eq!(
                poll_fn(|cx| load.poll_end(cx)).now_or_never(),
                ends.then_some(End::RapidReset),
                "{taken_back} in {lifetime:?}"
            );
        }
        // Each thousand is judged by itself: what was long ago excuses nothing.
        let load = Load::default();
        run(&load, 20 * JUDGED_AFTER, 0, Duration::ZERO);
        run(&load, JUDGED_AFTER, JUDGED_AFTER, Duration::ZERO);
        assert_eq!(poll_fn(|cx| load.poll_end(cx)).now_or_never(), Some(End::RapidReset));
    }

    #[test]
    fn a_connection_rests_when_nothing_has_happened_for_half_a_second() {
        let connections = Connections::default();
        let load = connections.open();
        let rests = |looks: u32| {
            (0..looks).for_each(|_| _ = connections.look(9));
            let rests = poll_fn(|cx| load.poll_end(cx)).now_or_never();
            load.forgive();
            rests == Some(End::Idle)
        };
        assert!(!rests(100), "who serves it cannot let go");
        load.can_rest();
        run(&load, 1, 0, Duration::ZERO);
        assert!(!rests(RESTS_AFTER));
        assert!(rests(1));
        assert!(!rests(100), "said once, until something happens again");
        load.began();
        assert!(!rests(100), "under way");
        load.ended(Duration::ZERO, false);
        assert!(load.is_idle());
        assert!(rests(RESTS_AFTER));
        load.began();
        assert!(!load.is_idle());
    }

    #[test]
    fn the_largest_is_the_one_that_holds_most() {
        let connections = Connections::default();
        let (reader, sender, _idle) = (connections.open(), connections.open(), connections.open());
        assert_eq!(connections.look(9).held, 0, "nobody holds anything");
        sender.began();
        sender.came(1_000);
        assert!(Rc::ptr_eq(&connections.look(9).largest.unwrap(), &sender));
        reader.waits_for_reader(5_000);
        assert!(Rc::ptr_eq(&connections.look(9).largest.unwrap(), &reader));
        reader.end(End::Overload);
        assert!(Rc::ptr_eq(&connections.look(9).largest.unwrap(), &sender), "one that ends already is not ended again");
        sender.passed(400);
        assert_eq!(sender.held(), 600);
        assert_eq!(connections.look(9).held, 5_600);
        reader.reader_came(5_000);
        assert_eq!(reader.held(), 0);
        sender.ended(Duration::ZERO, false);
        assert_eq!(sender.held(), 0, "nothing is open");
    }

    #[test]
    fn a_reader_is_stalled_when_nothing_is_read_for_so_many_looks() {
        let connections = Connections::default();
        let load = connections.open();
        let stalled = || connections.look(3).stalled.len();
        assert_eq!([stalled(), stalled(), stalled(), stalled()], [0; 4], "nothing waits");
        load.waits_for_reader(10);
        assert_eq!([stalled(), stalled()], [0; 2]);
        load.reader_came(10);
        load.waits_for_reader(10);
        assert_eq!([stalled(), stalled(), stalled(), stalled()], [0, 0, 0, 1]);
    }
}
