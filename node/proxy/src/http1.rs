//! HTTP/1.1, read strictly: what is read of a connection passes [`framing`] first. hyper serves callers; upstreams are
//! called by [`client`].

pub(crate) mod client;
pub mod framing;
mod lent;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, header};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use self::framing::{Framing, Refusal, Side};
pub(crate) use self::lent::Owner;
use crate::{http2::MAX_HEADER_LIST, stall::Deadline};

/// What is read in place of a head that is refused: no head has a NUL, and the empty line makes hyper look. So it
/// answers 400 when all earlier requests of the connection have been answered, and closes.
const POISON: &[u8] = b"\0\r\n\r\n";

/// Whether a request's headers make the bytes behind it those of another protocol, if the response grants it. This is
/// how [`Framing`] reads them too.
pub(crate) fn may_switch(headers: &HeaderMap) -> bool {
    headers.get_all(header::UPGRADE).iter().any(|value| framing::is_switch(value.as_bytes()))
}

/// How long, and for how many bytes, a connection is read on that we have ended.
const LINGER: Duration = Duration::from_secs(1);
const MAX_LINGER: usize = 1 << 20;

/// A connection of whose bytes only those can be read that have one meaning.
pub(crate) struct Strict<S> {
    stream: S,
    framing: Framing,
    /// The responses of the connection answer a HEAD request just now: they have no body, whatever they say.
    answers_head: bool,
    refused: Option<Rest>,
    /// The peer takes no more bytes, but may have answered before it stopped.
    is_deaf: bool,
    /// For a request's head.
    deadline: Option<Deadline>,
    /// Once nothing is written any more.
    linger: Option<Linger>,
}

struct Linger {
    deadline: Deadline,
    /// Bytes that may come still.
    left: usize,
}

/// What is still read of a refused connection.
enum Rest {
    Poison(&'static [u8]),
    Error(Refusal),
}

impl<S> Strict<S> {
    /// `head_timeout`: how long a head may take, from its first byte on.
    pub(crate) fn requests(stream: S, head_timeout: Duration) -> Self {
        Self::new(stream, Side::Requests, Some(Deadline::new(head_timeout)))
    }

    pub(crate) fn responses(stream: S) -> Self {
        Self::new(stream, Side::Responses, None)
    }

    fn new(stream: S, side: Side, deadline: Option<Deadline>) -> Self {
        let framing = Framing::new(side, MAX_HEADER_LIST as usize);
        Self { stream, framing, answers_head: false, refused: None, is_deaf: false, deadline, linger: None }
    }

    /// What is read from here on answers a request of this method.
    fn answers(&mut self, method: &http::Method) {
        self.answers_head = method == http::Method::HEAD;
    }

    /// Whether all that was read is whole messages.
    fn is_between_messages(&self) -> bool {
        self.refused.is_none() && self.framing.is_between_messages()
    }

    /// A workload may answer and close before it has read a request to its end. Writing on fails then, and hyper would
    /// give up; but the answer may be there to read. If it is not, reading says so.
    fn hears<T>(&mut self, written: Poll<io::Result<T>>, unheard: T) -> Poll<io::Result<T>> {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        match written {
            Poll::Ready(Err(error)) if matches!(error.kind(), BrokenPipe | ConnectionReset) => {
                self.is_deaf = self.framing.side() == Side::Responses;
                Poll::Ready(if self.is_deaf { Ok(unheard) } else { Err(error) })
            }
            written => written,
        }
    }

    fn waits(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.deadline {
            Some(deadline) if self.framing.is_in_head() => deadline.poll(cx).map(Err),
            Some(deadline) => {
                deadline.clear();
                Poll::Pending
            }
            None => Poll::Pending,
        }
    }
}

impl Strict<TcpStream> {
    /// Waits for bytes, which stay unread; false if the peer closes instead.
    pub(crate) async fn has_more(&self) -> bool {
        self.stream.peek(&mut [0]).await.is_ok_and(|read| read > 0)
    }
}

impl Rest {
    fn read(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        match self {
            Self::Poison(rest) => {
                let (now, later) = rest.split_at(rest.len().min(buf.remaining()));
                buf.put_slice(now);
                *rest = later;
                Ok(())
            }
            Self::Error(refusal) => Err(io::Error::new(io::ErrorKind::InvalidData, *refusal)),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(rest) = &mut this.refused {
            return Poll::Ready(rest.read(buf));
        }
        let before = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buf)? {
            Poll::Ready(()) => {}
            Poll::Pending => return this.waits(cx),
        }
        let Some(bytes) = buf.filled().get(before..) else { return Poll::Ready(Ok(())) };
        let Err(refused) = this.framing.pass(bytes, this.answers_head) else {
            return Poll::Ready(Ok(()));
        };
        buf.set_filled(before + refused.at);
        let rest = match refused.in_body {
            true => Rest::Error(refused.why),
            false => Rest::Poison(POISON),
        };
        let rest = this.refused.insert(rest);
        // What passed comes first; an error would make hyper forget it.
        if refused.in_body && refused.at > 0 { Poll::Ready(Ok(())) } else { Poll::Ready(rest.read(buf)) }
    }
}

impl<S: AsyncRead + Unpin> Strict<S> {
    /// Reads on for a while, for nobody. To close with bytes unread is to reset the connection, and the caller's system
    /// then may throw away the answer which says what was wrong (RFC 9112 section 9.6).
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let linger = self.linger.get_or_insert_with(|| Linger { deadline: Deadline::new(LINGER), left: MAX_LINGER });
        let mut bytes = [0; 4_096];
        while linger.left > 0 {
            let mut buf = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    linger.left = linger.left.saturating_sub(buf.filled().len());
                }
                Poll::Ready(_) => break,
                Poll::Pending => {
                    ready!(linger.deadline.poll(cx));
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_deaf {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.hears(written, buf.len())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let (this, all) = (self.get_mut(), || bufs.iter().map(|buf| buf.len()).sum());
        if this.is_deaf {
            return Poll::Ready(Ok(all()));
        }
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.hears(written, all())
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.hears(flushed, ())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        let is_unread = this.refused.is_some() || this.framing.is_in_message();
        if this.framing.side() == Side::Requests && is_unread { this.poll_linger(cx) } else { Poll::Ready(Ok(())) }
    }
}
