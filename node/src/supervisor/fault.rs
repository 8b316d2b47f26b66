//! Failures on demand, for tests.

use std::task::Context;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

/// What an actor is made to do at its next turn; a message that it takes in that turn is lost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Panic,
    /// Takes no more messages and does not wait for any, until the watchdog ends it.
    Freeze,
}

/// The fault that waits for one actor.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pending: Mutex<Option<Fault>>,
    waker: AtomicWaker,
}

impl Faults {
    pub(super) fn inject(&self, fault: Fault) {
        *self.pending.lock() = Some(fault);
        self.waker.wake();
    }

    /// The instance that was struck is gone.
    pub(super) fn clear_freeze(&self) {
        self.pending.lock().take_if(|fault| *fault == Fault::Freeze);
    }

    /// Panics, or says whether the actor is to be frozen.
    pub(super) fn strike(&self, cx: &Context<'_>) -> bool {
        self.waker.register(cx.waker());
        let mut pending = self.pending.lock();
        match *pending {
            None => false,
            Some(Fault::Freeze) => true,
            Some(Fault::Panic) => {
                *pending = None;
                drop(pending);
                panic!("a test made this actor panic");
            }
        }
    }
}
