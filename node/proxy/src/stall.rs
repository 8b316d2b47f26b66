//! What stands still. A head that was begun must come, and a body whose length is announced; a body without may wait
//! for ever, as the streams of gRPC and server-sent events do.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body::Body;
use tokio::time::{Instant, Sleep, sleep};

/// Watches one body. It costs a timer only once the body has to be waited for.
pub(crate) struct Stall {
    /// How long it may stand still, at least; twice that at most. `None`: for ever.
    limit: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    has_moved: bool,
}

impl Stall {
    pub(crate) fn of(body: &impl Body, limit: Duration) -> Self {
        Self { limit: body.size_hint().exact().map(|_| limit), timer: None, has_moved: false }
    }

    pub(crate) fn moved(&mut self) {
        self.has_moved = true;
    }

    /// Ready when the body, which has just been found to be waited for, has stood still for too long.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = self.limit else { return Poll::Pending };
        loop {
            let timer = self.timer.get_or_insert_with(|| {
                self.has_moved = false;
                Box::pin(sleep(limit))
            });
            ready!(timer.as_mut().poll(cx));
            if !std::mem::take(&mut self.has_moved) {
                return Poll::Ready(());
            }
            timer.as_mut().reset(Instant::now() + limit);
        }
    }
}

/// Limits how long something that was begun may take on a connection that is only seen when it is read.
pub(crate) struct Deadline {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, timer: None }
    }

    /// Not waiting, or for something else.
    pub(crate) fn clear(&mut self) {
        self.timer = None;
    }

    /// An error when it has been waited for too long since the first call after [`Self::clear`].
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.limit)));
        timer.as_mut().poll(cx).map(|()| io::Error::new(io::ErrorKind::TimedOut, TooSlow))
    }
}

/// Why a connection ends whose peer begins a request, or HTTP/2, and does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request's head, or HTTP/2's beginning, that does not come")]
pub(crate) struct TooSlow;

impl TooSlow {
    pub(crate) fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use bytes::Bytes;
    use http_body_util::{Empty, Full, StreamBody};
    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_body_of_known_length_that_does_not_move_is_found() {
        let mut stall = Stall::of(&Full::new(Bytes::from_static(b"abc")), LIMIT);
        poll_fn(|cx| stall.poll(cx)).await;
    }

    #[tokio::test]
    async fn one_that_moves_is_left_alone_until_it_stops() {
        let mut stall = Stall::of(&Empty::<Bytes>::new(), LIMIT);
        let started = Instant::now();
        let mut moves = 0;
        poll_fn(|cx| {
            if moves < 3 {
                moves += 1;
                stall.moved();
            }
            stall.poll(cx)
        })
        .await;
        assert!(started.elapsed() >= 2 * LIMIT);
    }

    #[tokio::test]
    async fn one_of_unknown_length_may_stand_still() {
        let body = StreamBody::new(futures_util::stream::pending::<Result<http_body::Frame<Bytes>, ()>>());
        let mut stall = Stall::of(&body, LIMIT);
        assert!(timeout(3 * LIMIT, poll_fn(|cx| stall.poll(cx))).await.is_err());
    }
}
