//! Whether an actor still gets on with its work, as seen by a thread of its own.
//!
//! An actor is *idle* when its last poll ended with it waiting in `Inbox::recv`; anything else is *busy*. It makes a
//! *turn* when it takes a message or becomes idle. An actor that stays busy for the freeze limit without a turn is
//! frozen. Two cases: it awaits something that does not come, then its future can be dropped; or one poll does not
//! return, then it holds a thread that nothing can take from it, and the process has to end.

use std::{
    pin::Pin,
    sync::{
        Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::sync::Notify;

use super::Inner;

/// What an actor's task notes as it goes, and the watchdog reads.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Messages taken, and times that the actor became idle.
    turns: AtomicU64,
    /// Polls begun.
    polls: AtomicU64,
    /// A poll is running.
    inside: AtomicBool,
    /// The actor waits in `recv`. Only meaningful between polls.
    waiting: AtomicBool,
    /// The value of `turns` for which the watchdog last found the actor frozen.
    condemned: AtomicU64,
    frozen: Notify,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self {
            turns: AtomicU64::new(0),
            polls: AtomicU64::new(0),
            inside: AtomicBool::new(false),
            waiting: AtomicBool::new(true),
            condemned: AtomicU64::new(u64::MAX),
            frozen: Notify::new(),
        }
    }

    /// `recv` was polled and has nothing.
    pub(super) fn waits(&self) {
        self.waiting.store(true, SeqCst);
    }

    /// `recv` was dropped, so the actor does something else now.
    pub(super) fn no_longer_waits(&self) {
        self.waiting.store(false, SeqCst);
    }

    /// `recv` hands out a message.
    pub(super) fn takes(&self) {
        self.turns.fetch_add(1, SeqCst);
    }

    /// No instance of the actor runs: there is nothing to watch.
    pub(super) fn rest(&self) {
        self.waiting.store(true, SeqCst);
        self.takes();
    }

    /// Resolves when the watchdog has found the actor frozen, and it still is.
    pub(super) async fn frozen(&self) {
        loop {
            self.frozen.notified().await;
            // The actor may have moved between the watchdog's look and this one.
            if self.condemned.load(SeqCst) == self.turns.load(SeqCst) && !self.idle() {
                return;
            }
        }
    }

    fn idle(&self) -> bool {
        self.waiting.load(SeqCst) && !self.inside.load(SeqCst)
    }

    fn enter(&self) {
        self.polls.fetch_add(1, SeqCst);
        self.inside.store(true, SeqCst);
        // Each poll has to show anew that the actor waits in `recv`.
        self.waiting.store(false, SeqCst);
    }

    fn leave(&self) {
        if self.waiting.load(SeqCst) {
            self.turns.fetch_add(1, SeqCst);
        }
        self.inside.store(false, SeqCst);
    }

    fn condemn(&self) {
        self.condemned.store(self.turns.load(SeqCst), SeqCst);
        self.frozen.notify_one();
    }
}

/// A future whose polls are noted in a [`Pulse`]. The future must not panic.
pub(super) struct Watched<'a, F> {
    pub(super) pulse: &'a Pulse,
    pub(super) future: Pin<Box<F>>,
}

impl<F: Future> Future for Watched<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.pulse.enter();
        let polled = self.future.as_mut().poll(cx);
        self.pulse.leave();
        polled
    }
}

/// Looks per freeze limit. Looks are counted, not timed: a process that was itself stopped for a minute (suspended
/// host, debugger) comes back to actors that missed one look, not to frozen ones.
const LOOKS: u32 = 10;

/// What the watchdog remembers of one actor.
#[derive(Default)]
struct Watch {
    turns: u64,
    polls: u64,
    /// Looks in a row that found the actor busy in the same turn.
    same_turn: u32,
    /// Looks in a row that found it inside the same poll.
    same_poll: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Finding {
    Fine,
    Frozen,
    /// The future was to be dropped a whole limit ago, and still is not.
    NotDropped,
    ThreadBlocked,
}

impl Watch {
    fn look(&mut self, pulse: &Pulse) -> Finding {
        let (turns, polls) = (pulse.turns.load(SeqCst), pulse.polls.load(SeqCst));
        let inside = pulse.inside.load(SeqCst);
        let same_turn = !pulse.idle() && turns == self.turns;
        self.same_poll = if same_turn && inside && polls == self.polls { self.same_poll + 1 } else { 0 };
        self.same_turn = if same_turn { self.same_turn + 1 } else { 0 };
        (self.turns, self.polls) = (turns, polls);
        if self.same_poll >= LOOKS {
            Finding::ThreadBlocked
        } else if self.same_turn >= 2 * LOOKS {
            Finding::NotDropped
        } else if self.same_turn == LOOKS {
            Finding::Frozen
        } else {
            Finding::Fine
        }
    }
}

/// Watches the actors from a thread, because a task could not run if they held all workers of the runtime. Ends with
/// the supervisor.
pub(super) fn watch(inner: &Weak<Inner>, freeze_limit: Duration) {
    let mut watches: Vec<Watch> = Vec::new();
    loop {
        std::thread::sleep(freeze_limit / LOOKS);
        let Some(inner) = inner.upgrade() else { return };
        let cells: Vec<_> = inner.actors.lock().iter().map(|actor| actor.cell.clone()).collect();
        watches.resize_with(cells.len(), Watch::default);
        for (cell, watch) in cells.iter().zip(&mut watches) {
            match watch.look(&cell.pulse) {
                Finding::Fine => {}
                Finding::Frozen => cell.pulse.condemn(),
                Finding::NotDropped => inner.give_up(cell, "is frozen and the runtime does not get to drop it", true),
                Finding::ThreadBlocked => {
                    inner.give_up(cell, &format!("has blocked its thread for {freeze_limit:?}"), true);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(pulse: &Pulse, count: u32) -> Vec<Finding> {
        let mut watch = Watch { turns: u64::MAX, ..Watch::default() };
        (0..=count).map(|_| watch.look(pulse)).collect()
    }

    #[test]
    fn an_idle_actor_is_fine_for_ever() {
        let pulse = Pulse::new();
        assert!(looks(&pulse, 100).iter().all(|finding| *finding == Finding::Fine));
        pulse.enter();
        pulse.waits();
        pulse.leave();
        assert!(looks(&pulse, 100).iter().all(|finding| *finding == Finding::Fine));
    }

    #[test]
    fn a_busy_actor_is_frozen_once_and_then_not_dropped() {
        let pulse = Pulse::new();
        pulse.enter();
        pulse.leave();
        let findings = looks(&pulse, 2 * LOOKS);
        assert_eq!(findings.iter().filter(|finding| **finding == Finding::Frozen).count(), 1);
        assert_eq!(findings[LOOKS as usize], Finding::Frozen);
        assert_eq!(findings[2 * LOOKS as usize], Finding::NotDropped);
    }

    #[test]
    fn a_poll_that_does_not_return_blocks_its_thread_even_after_recv_was_polled() {
        let pulse = Pulse::new();
        pulse.enter();
        pulse.waits();
        assert_eq!(looks(&pulse, LOOKS).pop(), Some(Finding::ThreadBlocked));
    }

    #[test]
    fn messages_taken_one_after_another_are_turns() {
        let (pulse, mut watch) = (Pulse::new(), Watch::default());
        pulse.enter();
        for _ in 0..100 {
            pulse.takes();
            assert_eq!(watch.look(&pulse), Finding::Fine);
        }
    }
}
