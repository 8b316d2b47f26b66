//! Requests that go out together.
//!
//! What comes of one look for events is read from all connections before it is written to others. Who is written to then
//! falls asleep and is woken less often, and that costs more than the rest of sending: a system call for each request to
//! a workload that has just fallen asleep wakes it, one to a workload that is awake does not.

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;

/// Connections of one worker whose requests are sent once the tasks have run that can run now.
pub(crate) struct Turn<S>(RefCell<Vec<Waiting<S>>>);

/// A connection, and who waits for its response.
type Waiting<S> = (Weak<RefCell<Connection<S>>>, Waker);

impl<S> Default for Turn<S> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Turn<S> {
    pub(super) fn send(self: &Rc<Self>, connection: &Rc<RefCell<Connection<S>>>, cx: &Context<'_>) {
        connection.borrow_mut().awaits_turn = true;
        let mut waiting = self.0.borrow_mut();
        if waiting.is_empty() {
            let this = self.clone();
            // It is the last of the tasks that can run.
            tokio::task::spawn_local(async move { this.end() });
        }
        waiting.push((Rc::downgrade(connection), cx.waker().clone()));
    }

    fn end(&self) {
        let mut waiting = self.0.take();
        for (connection, waker) in waiting.drain(..) {
            // The exchange may have been given up.
            let Some(connection) = connection.upgrade() else { continue };
            let mut connection = connection.borrow_mut();
            connection.awaits_turn = false;
            // What cannot be sent now is sent by whoever waits.
            if let Poll::Ready(Err(error)) = connection.poll_upload(&mut Context::from_waker(&waker)) {
                connection.failed = Some(error);
                waker.wake();
            }
        }
        // The list is used again.
        self.0.replace(waiting);
    }
}
