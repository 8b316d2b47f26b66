//! A caller's connection that can be had back from hyper while nothing happens on it: what hyper holds for one, buffers
//! above all, is 12 KiB, and most connections wait most of the time.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Strict;

/// What reads and writes for hyper, and goes back to its [`Owner`] when hyper drops it.
pub(crate) struct Lent<S> {
    /// Only empty while it is being dropped.
    stream: Option<Strict<S>>,
    /// Something was written and not flushed yet.
    is_unflushed: bool,
    loan: Arc<Loan<S>>,
}

/// Who gets the stream back.
pub(crate) struct Owner<S>(Arc<Loan<S>>);

struct Loan<S> {
    returned: Mutex<Option<Strict<S>>>,
    /// Hyper waits for bytes, the last that came ended a request, and all that it wrote is on its way.
    is_quiet: AtomicBool,
}

impl<S> Owner<S> {
    pub(crate) fn lend(stream: Strict<S>) -> (Self, Lent<S>) {
        let loan = Arc::new(Loan { returned: Mutex::new(None), is_quiet: AtomicBool::new(false) });
        (Self(loan.clone()), Lent { stream: Some(stream), is_unflushed: false, loan })
    }

    /// Whether nothing would be lost if hyper's connection were dropped, given that it has no exchange under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.0.is_quiet.load(Relaxed)
    }

    /// The stream, once hyper's connection has been dropped; `None` if it became a tunnel.
    pub(crate) fn take(self) -> Option<Strict<S>> {
        self.0.returned.lock().take()
    }
}

impl<S> Drop for Lent<S> {
    fn drop(&mut self) {
        *self.loan.returned.lock() = self.stream.take();
    }
}

impl<S: Unpin> Lent<S> {
    fn stream(&mut self) -> Pin<&mut Strict<S>> {
        Pin::new(self.stream.as_mut().expect("it is there until it is dropped"))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lent<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = self.stream().poll_read(cx, buf);
        let is_quiet = polled.is_pending() && !self.is_unflushed && self.stream().is_between_messages();
        self.loan.is_quiet.store(is_quiet, Relaxed);
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lent<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.is_unflushed = true;
        self.stream().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.is_unflushed = true;
        self.stream().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.stream().poll_flush(cx);
        self.is_unflushed &= !matches!(flushed, Poll::Ready(Ok(())));
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}
