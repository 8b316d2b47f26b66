//! The two ends of an actor's queue: many [`Mailbox`]es put in, one [`Inbox`] takes out.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::Cell;

/// How long [`Mailbox::send`] and [`Mailbox::ask`] wait.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long [`Mailbox::ask_outcome`] waits: until an actor that is frozen has long been restarted.
const OUTCOME_DEADLINE: Duration = Duration::from_secs(30);

/// Why a message was not taken or not answered, in words for the person who waits for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MailboxError {
    #[error("actor {actor} is behind: all {capacity} places of its inbox are taken")]
    Full { actor: &'static str, capacity: usize },
    #[error("actor {actor} did not answer within {} s", within.as_secs())]
    NoAnswer { actor: &'static str, within: Duration },
    #[error("actor {actor} failed while it handled the request; it restarts, try again")]
    Failed { actor: &'static str },
    #[error("actor {actor} has stopped")]
    Stopped { actor: &'static str },
}

/// Sends messages to an actor. Stays good across the actor's restarts.
#[derive(Debug)]
pub struct Mailbox<M> {
    tx: mpsc::Sender<M>,
    cell: Arc<Cell>,
}

impl<M> Clone for Mailbox<M> {
    fn clone(&self) -> Self {
        Self { tx: self.tx.clone(), cell: self.cell.clone() }
    }
}

impl<M: Send + 'static> Mailbox<M> {
    pub(super) fn new(tx: mpsc::Sender<M>, cell: Arc<Cell>) -> Self {
        Self { tx, cell }
    }

    /// Sends without waiting: for news that a later round repairs.
    ///
    /// # Errors
    /// [`MailboxError::Full`], which is counted, or [`MailboxError::Stopped`].
    pub fn try_send(&self, message: M) -> Result<(), MailboxError> {
        self.tx.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => self.dropped(),
            mpsc::error::TrySendError::Closed(_) => self.stopped(),
        })
    }

    /// Sends, waiting up to 5 s for a place in the inbox.
    ///
    /// # Errors
    /// [`MailboxError::Full`], which is counted, or [`MailboxError::Stopped`].
    pub async fn send(&self, message: M) -> Result<(), MailboxError> {
        match timeout(DEADLINE, self.tx.send(message)).await {
            Ok(sent) => sent.map_err(|_| self.stopped()),
            Err(_) => Err(self.dropped()),
        }
    }

    /// Sends a question that carries the way back for its answer, and waits up to 5 s for both.
    ///
    /// # Errors
    /// [`MailboxError::NoAnswer`], [`MailboxError::Failed`] or [`MailboxError::Stopped`].
    pub async fn ask<R>(&self, question: impl FnOnce(oneshot::Sender<R>) -> M) -> Result<R, MailboxError> {
        self.ask_within(DEADLINE, question).await
    }

    /// As [`Mailbox::ask`], for a question that changes something: who gave up on it early, as a disk is slow, would
    /// not know what became of it. Waits up to 30 s.
    ///
    /// # Errors
    /// As [`Mailbox::ask`].
    pub async fn ask_outcome<R>(&self, question: impl FnOnce(oneshot::Sender<R>) -> M) -> Result<R, MailboxError> {
        self.ask_within(OUTCOME_DEADLINE, question).await
    }

    async fn ask_within<R>(
        &self,
        within: Duration,
        question: impl FnOnce(oneshot::Sender<R>) -> M,
    ) -> Result<R, MailboxError> {
        let actor = self.cell.name;
        let (reply, answer) = oneshot::channel();
        timeout(within, async {
            self.tx.send(question(reply)).await.map_err(|_| self.stopped())?;
            answer.await.map_err(|_| MailboxError::Failed { actor })
        })
        .await
        .unwrap_or(Err(MailboxError::NoAnswer { actor, within }))
    }

    fn dropped(&self) -> MailboxError {
        self.cell.dropped.fetch_add(1, Relaxed);
        MailboxError::Full { actor: self.cell.name, capacity: self.tx.max_capacity() }
    }

    fn stopped(&self) -> MailboxError {
        MailboxError::Stopped { actor: self.cell.name }
    }
}

/// The queue of an actor, lent to each instance that runs: what one instance did not take, the next one finds.
#[derive(Debug)]
pub struct Inbox<M> {
    rx: mpsc::Receiver<M>,
    cell: Arc<Cell>,
}

impl<M: Send + 'static> Inbox<M> {
    pub(super) fn new(rx: mpsc::Receiver<M>, cell: Arc<Cell>) -> Self {
        Self { rx, cell }
    }

    pub(super) fn cell(&self) -> Arc<Cell> {
        self.cell.clone()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rx.is_empty()
    }

    /// The next message, or `None` when the actor shall stop: it was asked to, nothing new is let in, and the queue is
    /// empty. Cancel-safe: as an arm of `select!` it loses nothing.
    ///
    /// The watchdog takes an actor for idle only while this is being polled (see [`super::Actor`]).
    pub async fn recv(&mut self) -> Option<M> {
        let Self { rx, cell } = self;
        let _waiting = Waiting(cell);
        let mut next = pin!(async {
            loop {
                tokio::select! {
                    biased;
                    () = cell.stop.cancelled(), if !rx.is_closed() => rx.close(),
                    message = rx.recv() => return message,
                }
            }
        });
        poll_fn(|cx| {
            let polled = next.as_mut().poll(cx);
            #[cfg(any(test, feature = "testing"))]
            if cell.faults.strike(cx) {
                return Poll::Pending;
            }
            match &polled {
                Poll::Pending => cell.pulse.waits(),
                Poll::Ready(_) => cell.pulse.takes(),
            }
            polled
        })
        .await
    }
}

/// Lives as long as one `recv`, so that `select!` dropping it is seen.
struct Waiting<'a>(&'a Cell);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.pulse.no_longer_waits();
    }
}
