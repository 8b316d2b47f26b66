//! HTTP/1.1 to an upstream: one connection, one exchange after another, without a task of its own.
//!
//! Whoever waits for a response reads the connection itself, so that a request costs one turn of its task to begin and one
//! to read the answer; requests of one turn are sent together ([`turn`]). What is read passes [`super::framing`] first.

mod request;
mod response;
mod turn;

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use memchr::memmem;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::coop::unconstrained,
};
use tokio_util::{io::poll_read_buf, task::AbortOnDropHandle};

pub(crate) use self::turn::Turn;
use self::{
    request::Upload,
    response::{Content, Download},
};
use super::{Strict, framing::Refusal};
use crate::{
    body::{RequestBody, RequestBodyError},
    http2::MAX_HEADER_LIST,
    prefixed::Prefixed,
};

/// Room for each read, in bytes, and what it grows to while reads fill it.
const READ: usize = 8 << 10;
const MAX_READ: usize = 64 << 10;

/// Why an exchange came to nothing, or broke off.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the connection was closed before a response came")]
    Closed,
    #[error("the connection was closed before the response's end")]
    Incomplete,
    #[error("connection error")]
    Io(#[source] Arc<io::Error>),
    /// Of a head: nothing of the response was passed on.
    #[error("{0}")]
    Malformed(#[from] response::Malformed),
    #[error("malformed body: {0}")]
    MalformedBody(Refusal),
    #[error("the request's body broke off: {0}")]
    Request(Arc<RequestBodyError>),
    #[error("the request's body is shorter than was announced")]
    RequestTooShort,
    #[error("the connection became no tunnel: its request was not sent to its end")]
    NoTunnel,
}

impl Error {
    fn io(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }

    /// The peer ended the connection before it answered, as one does that has just been idle for too long.
    pub(crate) fn is_unanswered(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        match self {
            Self::Closed => true,
            Self::Io(error) => matches!(error.kind(), ConnectionReset | BrokenPipe),
            _ => false,
        }
    }
}

/// The bytes of a connection that has become one of another protocol.
pub(crate) type Tunnel<S> = Prefixed<Strict<S>>;

/// Sends requests on one connection.
pub(crate) struct Client<S> {
    connection: Rc<RefCell<Connection<S>>>,
    turn: Rc<Turn<S>>,
}

struct Connection<S> {
    io: Strict<S>,
    /// Read, and not looked at yet.
    input: BytesMut,
    /// So many bytes of it hold no end of a head.
    looked_at: usize,
    room: usize,
    upload: Upload,
    /// A request was begun that is sent at the turn's end.
    awaits_turn: bool,
    download: Download,
    /// The exchange that is under way is the last.
    is_last: bool,
    /// Nothing can be made of the connection any more.
    failed: Option<Error>,
    /// Sends what is left of a request that was answered before its end.
    uploading: Option<AbortOnDropHandle<()>>,
    /// Who waits for more of a response while a request is sent on; it must hear if that fails.
    reader: Option<Waker>,
}

impl<S> Client<S> {
    /// On a fresh connection.
    pub(crate) fn new(io: S, turn: Rc<Turn<S>>) -> Self {
        let connection = Connection {
            io: Strict::responses(io),
            input: BytesMut::new(),
            looked_at: 0,
            room: READ,
            upload: Upload::default(),
            awaits_turn: false,
            download: Download::Over,
            is_last: false,
            failed: None,
            uploading: None,
            reader: None,
        };
        Self { connection: Rc::new(RefCell::new(connection)), turn }
    }

    /// Whether the request of the last exchange was sent to its end, which its response need not have waited for.
    pub(crate) fn is_done(&self) -> bool {
        self.connection.borrow().upload.is_done()
    }

    /// Whether it may serve an exchange after the one whose response has come to its end.
    pub(crate) fn may_go_on(&self) -> bool {
        self.connection.borrow().may_go_on()
    }

    /// The stream and what has been read of it, once a response has switched protocols; `None` if it has not, or before
    /// its request was sent.
    pub(crate) fn into_tunnel(self) -> Option<Tunnel<S>> {
        let Connection { io, input, download, upload, .. } = Rc::try_unwrap(self.connection).ok()?.into_inner();
        let has_switched = matches!(download, Download::Switched) && upload.is_done();
        has_switched.then(|| Prefixed::new(input.into(), io))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Client<S> {
    /// Between two exchanges: whether the peer, too, has left it open, as far as is known.
    pub(crate) fn is_open(&self) -> bool {
        let mut connection = self.connection.borrow_mut();
        connection.may_go_on() && connection.is_silent()
    }

    /// Sends a request, and waits for the head of its response; interim ones are read over. Between two exchanges.
    pub(crate) async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Received<S>>, Error> {
        self.connection.borrow_mut().begin(request);
        let mut has_begun = false;
        let head = poll_fn(|cx| {
            if !std::mem::replace(&mut has_begun, true) {
                self.turn.send(&self.connection, cx);
            }
            let mut connection = self.connection.borrow_mut();
            let polled = connection.poll_head(cx);
            if let Poll::Ready(Err(error)) = &polled {
                connection.failed = Some(error.clone());
            }
            polled
        });
        let response = head.await?;
        if !self.is_done() {
            self.upload_beside();
        }
        // A tunnel's bytes are nobody's body.
        let has_body = response.status() != StatusCode::SWITCHING_PROTOCOLS;
        Ok(response.map(|()| Received(has_body.then(|| self.connection.clone()))))
    }

    /// Sends on what is left of the request, whether or not somebody reads the response meanwhile.
    fn upload_beside(&self) {
        let connection = Rc::downgrade(&self.connection);
        let uploading = poll_fn(move |cx| {
            let Some(connection) = connection.upgrade() else { return Poll::Ready(()) };
            let mut connection = connection.borrow_mut();
            if let Err(error) = ready!(connection.poll_upload(cx)) {
                connection.failed = Some(error);
            }
            if let Some(reader) = connection.reader.take() {
                reader.wake();
            }
            Poll::Ready(())
        });
        let uploading = AbortOnDropHandle::new(tokio::task::spawn_local(uploading));
        self.connection.borrow_mut().uploading = Some(uploading);
    }
}

impl<S> Connection<S> {
    /// What follows a response unasked belongs to none.
    fn may_go_on(&self) -> bool {
        matches!(self.download, Download::Over) && self.input.is_empty() && !self.is_last && self.failed.is_none()
    }

    fn begin(&mut self, request: Request<RequestBody>) {
        self.io.answers(request.method());
        self.upload.begin(request);
        (self.download, self.looked_at) = (Download::Head, 0);
        (self.uploading, self.reader) = (None, None);
    }

    /// Whether a head may have come to its end: it is looked at once it is whole, not again with each byte that comes.
    fn may_hold_head(&mut self) -> bool {
        const END: &[u8] = b"\r\n\r\n";
        let new = self.input.get(self.looked_at.saturating_sub(END.len() - 1)..).unwrap_or_default();
        let may = memmem::find(new, END).is_some() || self.input.len() > MAX_HEADER_LIST as usize;
        self.looked_at = if may { 0 } else { self.input.len() };
        may
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Whether there is nothing to read, not even an end.
    fn is_silent(&mut self) -> bool {
        let mut byte = [0];
        let read = poll_fn(|cx| Pin::new(&mut self.io).poll_read(cx, &mut ReadBuf::new(&mut byte)));
        let is_silent = unconstrained(read).now_or_never().is_none();
        self.is_last |= !is_silent;
        is_silent
    }

    /// Reads what there is; 0 bytes are the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.input.reserve(self.room);
        let room = self.input.capacity() - self.input.len();
        let read = ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input))?;
        self.room = if read == room { (2 * self.room).min(MAX_READ) } else { READ };
        Poll::Ready(Ok(read))
    }

    /// Sends what can be sent; ready when it was all.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.upload.is_done() { Poll::Ready(Ok(())) } else { self.upload.poll(cx, &mut self.io) }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Error>> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Err(error.clone()));
        }
        if !self.awaits_turn
            && let Poll::Ready(Err(error)) = self.poll_upload(cx)
        {
            return Poll::Ready(Err(error));
        }
        loop {
            if self.may_hold_head()
                && let Some(head) = response::head(&mut self.input, self.upload.is_of_head())?
            {
                (self.is_last, self.download) = (head.is_last, head.download);
                self.let_go();
                return Poll::Ready(Ok(head.response));
            }
            if ready!(self.poll_fill(cx)).map_err(Error::io)? == 0 {
                let has_begun = !self.input.is_empty();
                return Poll::Ready(Err(if has_begun { Error::Incomplete } else { Error::Closed }));
            }
        }
    }

    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Some(Err(error.clone())));
        }
        let error = match ready!(self.poll_frame(cx)) {
            Ok(frame) => return Poll::Ready(frame.map(Ok)),
            Err(error) => error,
        };
        // Told at the next look: HTTP/2 forgets what it was given and has not written when a body fails, even the head.
        self.failed = Some(error);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Error>> {
        loop {
            match self.download.next(&mut self.input)? {
                Content::Frame(frame) => {
                    self.let_go();
                    return Poll::Ready(Ok(Some(frame)));
                }
                Content::End => return Poll::Ready(Ok(None)),
                Content::Wanted => {}
            }
            let read = self.poll_fill(cx);
            if read.is_pending() && !self.upload.is_done() {
                self.reader = Some(cx.waker().clone());
            }
            match ready!(read).map_err(refused_or_broken)? {
                0 if matches!(self.download, Download::ToEnd) => self.download = Download::Over,
                0 => return Poll::Ready(Err(Error::Incomplete)),
                _ => {}
            }
        }
    }

    /// Connections wait for their next exchange for long: the room for reading is not kept.
    fn let_go(&mut self) {
        if matches!(self.download, Download::Over) && self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }
}

/// What [`Strict`] says of bytes that may not pass within a body, or what the stream under it says.
fn refused_or_broken(error: io::Error) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Refusal>()) {
        Some(refusal) => Error::MalformedBody(*refusal),
        None => Error::io(error),
    }
}

/// The body of a response; `None` where there is none.
pub(crate) struct Received<S>(Option<Rc<RefCell<Connection<S>>>>);

impl<S: AsyncRead + AsyncWrite + Unpin> Body for Received<S> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &self.0 {
            Some(connection) => connection.borrow_mut().poll_content(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|connection| matches!(connection.borrow().download, Download::Over))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Some(connection) => connection.borrow().download.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

#[cfg(test)]
mod tests;
