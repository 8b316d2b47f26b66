//! How HTTP/2 is spoken, in one place: the limits of every connection, and what is watched on it ([`frames`]).
//!
//! What one connection can make us hold: [`CONNECTION_WINDOW`] of what its peer sends and nobody reads on, and
//! [`MAX_STREAMS`] times [`SEND_BUFFER`], and what is gathered ([`gather`]), of what its peer does not take. The
//! connection's window is that of all its streams together: a stream that is not read on blocks none beside it.

pub mod frames;
mod gather;

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::{client, server};
use hyper_util::rt::TokioTimer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
    time::Instant,
};

use self::frames::{Frames, Sender};
pub(crate) use self::gather::{Flushed, Flusher, Gathered};
use crate::{
    connection::{End, Load},
    stall::Deadline,
    worker::LocalExecutor,
};

/// Concurrent streams that we allow on one connection, and use of one before we open another.
pub(crate) const MAX_STREAMS: u32 = 256;
/// Bytes in flight per stream: enough for a gigabit at 4 ms.
pub(crate) const STREAM_WINDOW: u32 = 512 << 10;
/// Bytes in flight per connection.
pub(crate) const CONNECTION_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;
/// All headers of a message together, in bytes; HTTP/1.1 has the same limit.
pub(crate) const MAX_HEADER_LIST: u32 = 64 << 10;
/// Bytes of a stream that wait for the connection to take them.
const SEND_BUFFER: usize = 64 << 10;
/// Streams that ended as errors, before or after we looked at them, and that h2 still has to forget.
const MAX_RESET_STREAMS: usize = MAX_STREAMS as usize;
/// How often a caller is pinged, and how long it may take to answer, so that dead hosts' connections end.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// A peer whose host has died silently is given up within 8 s. Pings go on while idle, so that no request is the
/// first to find out.
const UPSTREAM_KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3));

/// `extended`: offers extended CONNECT (RFC 8441).
pub(crate) fn server(extended: bool) -> server::conn::http2::Builder<LocalExecutor> {
    let mut builder = server::conn::http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
        // h2 would end the connection after so many streams that we reset: on a link that many requests share, that
        // is an outage for all of them when some callers are impatient, or workloads answer before they have read.
        // Peers that make us do it on purpose are found by their frames, and by streams that end early.
        .max_local_error_reset_streams(None)
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1);
    if extended {
        builder.enable_connect_protocol();
    }
    builder
}

pub(crate) fn client<S>(flusher: Flusher<S>) -> client::conn::http2::Builder<Flusher<S>>
where
    S: AsyncWrite + Unpin + 'static,
{
    let mut builder = client::conn::http2::Builder::new(flusher);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buf_size(SEND_BUFFER)
        .initial_max_send_streams(MAX_STREAMS as usize)
        // As above: an upstream that answers early makes us reset streams.
        .max_local_error_reset_streams(None)
        .keep_alive_interval(UPSTREAM_KEEP_ALIVE.0)
        .keep_alive_timeout(UPSTREAM_KEEP_ALIVE.1)
        .keep_alive_while_idle(true);
    builder
}

/// Frames that carry nothing and ask for work: a burst of them, and how many a second.
const IDLE_BURST: u32 = 1_000;
const IDLE_PER_SECOND: u32 = 100;

/// Why a connection to an upstream ends that h2 would have gone on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a flood of frames that carry nothing")]
pub(crate) struct Flood;

/// A connection whose peer's frames are watched.
pub(crate) struct Watched<S> {
    stream: S,
    frames: Frames,
    /// Where it is noted how much data came, on a caller's connection.
    load: Option<Rc<Load>>,
    /// For the first frame, on a caller's connection; later ones are what pings see to.
    beginning: Option<Deadline>,
    /// Who waits for an upstream's SETTINGS.
    settled: Option<oneshot::Sender<()>>,
    allowance: u32,
    refilled: Instant,
}

impl<S> Watched<S> {
    /// What a caller sends us.
    pub(crate) fn caller(stream: S, load: Rc<Load>, head_timeout: Duration) -> Self {
        Self::new(stream, Sender::Client, Some(load), Some(Deadline::new(head_timeout)))
    }

    /// What an upstream sends us.
    pub(crate) fn upstream(stream: S) -> Self {
        Self::new(stream, Sender::Server, None, None)
    }

    /// As [`Watched::upstream`], and tells when the upstream's SETTINGS have come.
    pub(crate) fn upstream_until_settled(stream: S) -> (Self, oneshot::Receiver<()>) {
        let (settled, wait) = oneshot::channel();
        (Self { settled: Some(settled), ..Self::upstream(stream) }, wait)
    }

    fn new(stream: S, sender: Sender, load: Option<Rc<Load>>, beginning: Option<Deadline>) -> Self {
        let (frames, refilled) = (Frames::new(sender), Instant::now());
        Self { stream, frames, load, beginning, settled: None, allowance: IDLE_BURST, refilled }
    }

    /// A caller's connection is ended by who serves it, at once, since it has the reason then.
    fn end(&self, why: End) -> Poll<io::Result<()>> {
        match &self.load {
            Some(load) => {
                load.end(why);
                Poll::Pending
            }
            None => Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, Flood))),
        }
    }

    /// Takes idle frames from the allowance; false if there is none left.
    fn allows(&mut self, idle: u32, now: Instant) -> bool {
        if idle > self.allowance {
            let since = now.saturating_duration_since(self.refilled);
            let more = u32::try_from(since.as_millis() * u128::from(IDLE_PER_SECOND) / 1_000).unwrap_or(IDLE_BURST);
            self.allowance = self.allowance.saturating_add(more).min(IDLE_BURST);
            self.refilled = now;
        }
        let left = self.allowance.checked_sub(idle);
        self.allowance = left.unwrap_or(0);
        left.is_some()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match (Pin::new(&mut this.stream).poll_read(cx, buf)?, &mut this.beginning) {
            (Poll::Ready(()), _) => {}
            (Poll::Pending, Some(deadline)) => {
                ready!(deadline.poll(cx));
                return this.end(End::SlowStart);
            }
            (Poll::Pending, None) => return Poll::Pending,
        }
        let seen = this.frames.pass(buf.filled().get(before..).unwrap_or_default());
        if this.frames.has_begun() {
            this.beginning = None;
        }
        if this.frames.has_settings()
            && let Some(settled) = this.settled.take()
        {
            // Nobody may wait any more.
            let _ = settled.send(());
        }
        if let Some(load) = &this.load {
            load.came(seen.data);
        }
        if seen.idle > 0 && !this.allows(seen.idle, Instant::now()) {
            return this.end(End::Flood);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn idle_frames_have_an_allowance_that_time_refills() {
        let mut watched = Watched::upstream(tokio::io::empty());
        let now = watched.refilled;
        for _ in 0..IDLE_BURST {
            assert!(watched.allows(1, now));
        }
        assert!(!watched.allows(1, now), "the burst is spent");
        let now = now + Duration::from_secs(1);
        for _ in 0..IDLE_PER_SECOND {
            assert!(watched.allows(1, now));
        }
        assert!(!watched.allows(1, now));
        let now = now + Duration::from_secs(1_000_000);
        assert!(watched.allows(IDLE_BURST, now));
        assert!(!watched.allows(1, now), "never more than the burst");
    }
}
