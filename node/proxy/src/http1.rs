//! HTTP/1.1, read strictly: what hyper reads of a connection passes [`framing`] first.

pub mod framing;

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use http::{HeaderMap, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::framing::{Framing, Refusal, Side};
use crate::http2::MAX_HEADER_LIST;

/// Headers of a message.
pub(crate) const MAX_HEADERS: usize = 128;
/// What hyper reads in place of a head that is refused: no head has a NUL, and the empty line makes hyper look. So it
/// answers 400 when all earlier requests of the connection have been answered, and closes.
const POISON: &[u8] = b"\0\r\n\r\n";

/// Whether a request's headers make the bytes behind it those of another protocol, if the response grants it. This is
/// how [`Framing`] reads them too.
pub(crate) fn may_switch(headers: &HeaderMap) -> bool {
    headers.get_all(header::UPGRADE).iter().any(|value| framing::is_switch(value.as_bytes()))
}

/// A connection of whose bytes only those can be read that have one meaning.
pub(crate) struct Strict<S> {
    stream: S,
    framing: Framing,
    answers: Answers,
    refused: Option<Rest>,
}

/// Whether the responses of a connection answer a HEAD request just now: they have no body then, whatever they say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers(Arc<AtomicBool>);

impl Answers {
    pub(crate) fn to(&self, method: &http::Method) {
        self.0.store(method == http::Method::HEAD, Ordering::Relaxed);
    }
}

/// What is still read of a refused connection.
enum Rest {
    Poison(&'static [u8]),
    Error(Refusal),
}

impl<S> Strict<S> {
    pub(crate) fn requests(stream: S) -> Self {
        Self::new(stream, Side::Requests, Answers::default())
    }

    pub(crate) fn responses(stream: S, answers: Answers) -> Self {
        Self::new(stream, Side::Responses, answers)
    }

    fn new(stream: S, side: Side, answers: Answers) -> Self {
        Self { stream, framing: Framing::new(side, MAX_HEADER_LIST as usize), answers, refused: None }
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
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let Some(bytes) = buf.filled().get(before..) else { return Poll::Ready(Ok(())) };
        let Err(refused) = this.framing.pass(bytes, this.answers.0.load(Ordering::Relaxed)) else {
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Strict<S> {
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
