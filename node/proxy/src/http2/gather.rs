//! Frames that go out together. h2 writes and flushes each DATA frame that is not tiny by itself: a system call for each,
//! and a record where there is TLS, though there may be many of them each time the connection is polled. Here they are
//! gathered, until who polls the connection is done.

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use hyper::rt::Executor;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is gathered at most before it is written, in bytes: two records of TLS, and as much as an allocator keeps at hand.
const MOST: usize = 32 << 10;

/// A stream that gathers what is written to it, and is flushed by a [`Flusher`] alone.
pub(crate) struct Gathered<S>(Rc<RefCell<State<S>>>);

struct State<S> {
    stream: S,
    gathered: Vec<u8>,
    /// So many of these bytes were written.
    written: usize,
    /// Something was gathered since the last flush.
    is_due: bool,
    /// The task that waits to flush on. No other may: the stream wakes one.
    waits: Option<Waker>,
    /// Why a flush failed, for whoever writes next.
    failed: Option<io::Error>,
}

impl<S> Gathered<S> {
    pub(crate) fn new(stream: S) -> (Self, Flusher<S>) {
        let state = State { stream, gathered: Vec::new(), written: 0, is_due: false, waits: None, failed: None };
        let state = Rc::new(RefCell::new(state));
        (Self(state.clone()), Flusher(state))
    }
}

impl<S: AsyncWrite + Unpin> State<S> {
    /// Room for more, in bytes.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        if self.gathered.len() >= MOST {
            ready!(self.poll_write_out(cx))?;
        }
        if self.gathered.capacity() == 0 {
            self.gathered.reserve_exact(MOST);
        }
        self.is_due = true;
        Poll::Ready(Ok(MOST - self.gathered.len()))
    }

    /// Writes all that was gathered. The memory for it goes back then: most connections are idle most of the time.
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.gathered.get(self.written..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        (self.gathered, self.written) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let state = &mut *self.0.borrow_mut();
        let room = ready!(state.poll_room(cx))?;
        let mut left = room;
        for buf in bufs {
            let fitting = buf.get(..left).unwrap_or(buf);
            state.gathered.extend_from_slice(fitting);
            left -= fitting.len();
        }
        Poll::Ready(Ok(room - left))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Says that it is done, which [`Flusher`] sees to.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.borrow_mut().failed.take().map_or(Ok(()), Err))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.borrow_mut();
        ready!(state.poll_write_out(cx))?;
        Pin::new(&mut state.stream).poll_shutdown(cx)
    }
}

/// Flushes a [`Gathered`] stream each time that its connection was polled.
pub(crate) struct Flusher<S>(Rc<RefCell<State<S>>>);

impl<S> Clone for Flusher<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: AsyncWrite + Unpin> Flusher<S> {
    pub(crate) fn around<F>(self, connection: F) -> Flushed<F, S> {
        Flushed { connection, flusher: self }
    }

    fn flush(&self, cx: &mut Context<'_>) {
        let state = &mut *self.0.borrow_mut();
        let goes_on = state.waits.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if !std::mem::take(&mut state.is_due) && !goes_on {
            return;
        }
        let flushed = state.poll_flush(cx);
        state.waits = flushed.is_pending().then(|| cx.waker().clone());
        if let Poll::Ready(Err(error)) = flushed {
            state.failed = Some(error);
            cx.waker().wake_by_ref(); // to find out
        }
    }
}

/// Has hyper's client flush after each turn of its tasks; it spawns the one that writes itself.
impl<S: AsyncWrite + Unpin + 'static, F: Future<Output: 'static> + 'static> Executor<F> for Flusher<S> {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(self.clone().around(task));
    }
}

pin_project! {
    /// A connection that is flushed after each poll.
    pub(crate) struct Flushed<F, S> {
        #[pin]
        connection: F,
        flusher: Flusher<S>,
    }
}

impl<F, S> Flushed<F, S> {
    pub(crate) fn connection(self: Pin<&mut Self>) -> Pin<&mut F> {
        self.project().connection
    }
}

impl<F: Future, S: AsyncWrite + Unpin> Future for Flushed<F, S> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let polled = this.connection.poll(cx);
        this.flusher.flush(cx);
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::FutureExt;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        task::yield_now,
    };

    use super::*;

    /// Notes how much each write brings.
    struct Noted(Rc<RefCell<Vec<usize>>>);

    impl AsyncWrite for Noted {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.0.borrow_mut().push(buf.len());
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_is_written_in_one_turn_goes_out_at_once_at_its_end() {
        let noted = Rc::<RefCell<Vec<usize>>>::default();
        let (mut stream, flusher) = Gathered::new(Noted(noted.clone()));
        let connection = flusher.around(async {
            for _ in 0..10 {
                stream.write_all(&[0; 1_000]).await.unwrap();
                stream.flush().await.unwrap();
            }
            assert!(noted.borrow().is_empty());
            yield_now().await;
            assert_eq!(*noted.borrow(), [10_000]);
            stream.write_all(&[0; 10]).await.unwrap();
            stream.shutdown().await.unwrap();
            assert_eq!(*noted.borrow(), [10_000, 10], "nothing is written after the end");
        });
        connection.await;
        assert_eq!(noted.borrow().len(), 2);
    }

    #[tokio::test]
    async fn a_peer_that_takes_little_gets_all_in_order_and_lets_little_wait() {
        let sent: Vec<u8> = (0..5 * MOST).map(|n| (n % 251) as u8).collect();
        let (near, mut far) = duplex(1_000);
        let (mut stream, flusher) = Gathered::new(near);
        let state = flusher.0.clone();
        let mut connection = Box::pin(flusher.around(async {
            stream.write_all(&sent).await.unwrap();
            pending::<()>().await
        }));
        assert!(connection.as_mut().now_or_never().is_none());
        assert_eq!(state.borrow().gathered.len(), MOST);
        let mut got = vec![0; sent.len()];
        tokio::select! {
            () = connection => {}
            read = far.read_exact(&mut got) => assert_eq!(read.unwrap(), sent.len()),
        }
        assert!(got == sent);
        assert_eq!(state.borrow().gathered.capacity(), 0, "an idle connection holds nothing");
    }

    #[tokio::test]
    async fn a_flush_that_waits_is_gone_on_with_by_the_task_that_began_it() {
        let (near, mut far) = duplex(10);
        let (mut stream, flusher) = Gathered::new(near);
        let mut beside = Box::pin(flusher.clone().around(pending::<()>()));
        let connection = tokio::task::LocalSet::new();
        let task = flusher.around(async move {
            stream.write_all(&[7; 100]).await.unwrap();
            pending::<()>().await
        });
        connection.spawn_local(task);
        let mut got = [0; 100];
        connection
            .run_until(async {
                yield_now().await;
                assert!(beside.as_mut().now_or_never().is_none());
                far.read_exact(&mut got).await.unwrap();
            })
            .await;
        assert_eq!(got, [7; 100]);
    }

    #[tokio::test]
    async fn a_flush_that_fails_is_told_to_the_connection() {
        let (near, far) = duplex(10);
        drop(far);
        let (mut stream, flusher) = Gathered::new(near);
        let connection = flusher.around(async {
            stream.write_all(b"lost").await.unwrap();
            let mut is_woken = false;
            std::future::poll_fn(
                |_| if std::mem::replace(&mut is_woken, true) { Poll::Ready(()) } else { Poll::Pending },
            )
            .await;
            stream.flush().await
        });
        assert_eq!(connection.await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
