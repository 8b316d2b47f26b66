//! What goes to the upstream: a caller's body as it comes, counted; copied for mirrors; and kept, as far as it is short,
//! so that it can be sent again.

use std::{
    cell::RefCell,
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use crate::{error::BrokeOff, record::Received, stall::Stall};

/// What goes to the upstream.
pub(crate) enum RequestBody {
    Empty,
    Stream(CallerBody),
    Replay(Replay),
    Copy(BodyCopy),
    /// Of a request of the proxy's own: `None` when it is sent, or empty.
    Whole(Option<Bytes>),
}

impl RequestBody {
    pub(crate) fn whole(body: Bytes) -> Self {
        Self::Whole(Some(body).filter(|body| !body.is_empty()))
    }
}

/// Why a request's body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestBodyError {
    #[error(transparent)]
    Caller(#[from] hyper::Error),
    #[error("it was announced and did not come")]
    Stalled,
    #[error("the request is sent anew")]
    Superseded,
    #[error("the copy could not keep up with the request, or the request broke off")]
    CopyBrokeOff,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Stream(body) => body.poll_frame(cx),
            Self::Replay(replay) => replay.poll_frame(cx),
            Self::Copy(copy) => copy.poll_frame(cx),
            Self::Whole(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(body) => body.is_end_stream(),
            Self::Replay(replay) => replay.is_end_stream(),
            Self::Copy(copy) => copy.is_ended,
            Self::Whole(body) => body.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(body) => body.size_hint(),
            Self::Replay(replay) => replay.size_hint(),
            Self::Copy(copy) => copy.rest.map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
        }
    }
}

/// What a caller sends, counted, and copied for mirrors.
pub(crate) struct CallerBody {
    from: Incoming,
    received: Rc<Received>,
    stall: Stall,
    copies: Vec<mpsc::Sender<CopiedFrame>>,
    /// What was read before it was wanted; see [`Self::poll_ahead`].
    ahead: VecDeque<Frame<Bytes>>,
    ahead_len: usize,
}

/// The beginning of a body, and whether it goes on; `None` if it is longer than it may be.
pub(crate) type Beginning = Option<(Bytes, bool)>;

impl CallerBody {
    /// `limit`: how long it may stand still, if its length is announced.
    pub(crate) fn new(from: Incoming, received: Rc<Received>, limit: Duration) -> Self {
        let stall = Stall::of(&from, limit);
        Self { from, received, stall, copies: Vec::new(), ahead: VecDeque::new(), ahead_len: 0 }
    }

    /// A body that gets the same frames as this one from here on.
    pub(crate) fn copy(&mut self) -> RequestBody {
        let (sender, frames) = mpsc::channel(COPY_FRAMES);
        self.copies.push(sender);
        RequestBody::Copy(BodyCopy { frames, rest: self.size_hint().exact(), is_ended: false })
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && self.from.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.from.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(rest + self.ahead_len as u64),
            None => SizeHint::default(),
        }
    }

    /// Reads the beginning of what is still to come, `max` bytes at most, and keeps it until it is sent on. A longer
    /// body is an error, or is read in part.
    pub(crate) fn poll_ahead(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        partly: bool,
    ) -> Poll<Result<Beginning, BrokeOff>> {
        while self.ahead_len < max + usize::from(!partly) && !self.from.is_end_stream() {
            match ready!(self.poll_from(cx)) {
                None => break,
                Some(Ok(frame)) => {
                    let len = frame.data_ref().map_or(0, Bytes::len);
                    self.ahead_len += len;
                    self.received.keeps(len as u64);
                    self.ahead.push_back(frame);
                }
                Some(Err(_)) => return Poll::Ready(Err(self.received.broke_off.get().unwrap_or(BrokeOff::Gone))),
            }
        }
        if self.ahead_len > max && !partly {
            return Poll::Ready(Ok(None));
        }
        let goes_on = self.ahead_len > max || !self.from.is_end_stream();
        let mut beginning = BytesMut::with_capacity(self.ahead_len.min(max));
        for data in self.ahead.iter().filter_map(Frame::data_ref) {
            let room = max - beginning.len();
            beginning.extend_from_slice(data.get(..room).unwrap_or(data));
        }
        Poll::Ready(Ok(Some((beginning.freeze(), goes_on && partly))))
    }

    fn take_ahead(&mut self) -> Option<Frame<Bytes>> {
        let frame = self.ahead.pop_front()?;
        let len = frame.data_ref().map_or(0, Bytes::len);
        self.ahead_len -= len;
        self.received.forgets(len as u64);
        Some(frame)
    }

    fn poll_from(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let polled = Pin::new(&mut self.from).poll_frame(cx);
        if polled.is_pending() && self.stall.poll(cx).is_ready() {
            self.received.broke_off.set(Some(BrokeOff::Stalled));
            return Poll::Ready(Some(Err(RequestBodyError::Stalled)));
        }
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.stall.moved();
            self.received.data(frame.data_ref().map_or(&[][..], |data| &data[..]));
        }
        if let Poll::Ready(Some(Err(error))) = &polled {
            self.received.broke_off.set(Some(BrokeOff::of(error)));
        }
        polled.map_err(RequestBodyError::from)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let polled = match self.take_ahead() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => self.poll_from(cx),
        };
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            // A copy that lags behind is given up: the request waits for none.
            self.copies.retain(|copy| KeptFrame::of(frame).is_none_or(|frame| copy.try_send(frame.into()).is_ok()));
        }
        if matches!(polled, Poll::Ready(None)) || self.is_end_stream() {
            for copy in self.copies.drain(..) {
                let _ = copy.try_send(CopiedFrame::End);
            }
        }
        polled
    }
}

impl Drop for CallerBody {
    fn drop(&mut self) {
        self.received.forgets(self.ahead_len as u64);
    }
}

/// Frames that a copy of a body may lag behind.
const COPY_FRAMES: usize = 64;

enum CopiedFrame {
    Frame(KeptFrame),
    End,
}

impl From<KeptFrame> for CopiedFrame {
    fn from(frame: KeptFrame) -> Self {
        Self::Frame(frame)
    }
}

/// The body of a mirrored request.
pub(crate) struct BodyCopy {
    frames: mpsc::Receiver<CopiedFrame>,
    /// Bytes that are still to come, if that is known.
    rest: Option<u64>,
    is_ended: bool,
}

impl BodyCopy {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        if self.is_ended {
            return Poll::Ready(None);
        }
        match ready!(self.frames.poll_recv(cx)) {
            Some(CopiedFrame::Frame(KeptFrame::Data(data))) => {
                self.rest = self.rest.map(|rest| rest.saturating_sub(data.len() as u64));
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(CopiedFrame::Frame(KeptFrame::Trailers(trailers))) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Some(CopiedFrame::End) => {
                self.is_ended = true;
                Poll::Ready(None)
            }
            None => Poll::Ready(Some(Err(RequestBodyError::CopyBrokeOff))),
        }
    }
}

/// Sends the pieces of a body by hand.
#[cfg(test)]
pub(crate) struct ByHand(mpsc::Sender<CopiedFrame>);

#[cfg(test)]
impl ByHand {
    /// With the body, of which `length` is known.
    pub(crate) fn body(length: Option<u64>) -> (Self, RequestBody) {
        let (sender, frames) = mpsc::channel(COPY_FRAMES);
        (Self(sender), RequestBody::Copy(BodyCopy { frames, rest: length, is_ended: false }))
    }

    pub(crate) fn data(&self, data: &[u8]) {
        assert!(self.0.try_send(KeptFrame::Data(Bytes::copy_from_slice(data)).into()).is_ok());
    }

    pub(crate) fn trailers(&self, trailers: HeaderMap) {
        assert!(self.0.try_send(KeptFrame::Trailers(trailers).into()).is_ok());
    }

    pub(crate) fn end(self) {
        assert!(self.0.try_send(CopiedFrame::End).is_ok());
    }
}

/// Most of a request's body that is kept for sending it again, in bytes. A longer one is sent once.
const MAX_KEPT: usize = 64 * 1024;

/// A caller's body that is kept as it goes, so that it can be sent again.
pub(crate) struct Kept {
    source: Rc<RefCell<Source>>,
    /// It is read beside others, rather than in their place.
    is_beside: bool,
}

struct Source {
    body: CallerBody,
    kept: Vec<KeptFrame>,
    kept_len: usize,
    /// More came than is kept.
    overflowed: bool,
    /// Its end has come.
    ended: bool,
    /// Which [`Replay`] reads on; older ones end with an error, so that their connections do.
    turn: u32,
}

enum KeptFrame {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl KeptFrame {
    fn of(frame: &Frame<Bytes>) -> Option<Self> {
        let data = frame.data_ref().cloned().map(Self::Data);
        data.or_else(|| frame.trailers_ref().cloned().map(Self::Trailers))
    }

    fn data(&self) -> Option<&Bytes> {
        match self {
            Self::Data(data) => Some(data),
            Self::Trailers(_) => None,
        }
    }
}

impl Kept {
    pub(crate) fn new(body: CallerBody) -> Self {
        let source = Source { body, kept: Vec::new(), kept_len: 0, overflowed: false, ended: false, turn: 0 };
        Self { source: Rc::new(RefCell::new(source)), is_beside: false }
    }

    pub(crate) fn is_whole(&self) -> bool {
        !self.source.borrow().overflowed
    }

    /// Whether there is more to come, all of which may be kept.
    pub(crate) fn is_coming(&self) -> bool {
        let source = self.source.borrow();
        !(source.overflowed || source.ended || source.body.is_end_stream())
    }

    /// The same body, for another try; `None` if it cannot be read again. To be read `beside` those under way it must have
    /// come whole: who waits for more of it is one.
    pub(crate) fn again(&self, beside: bool) -> Option<Self> {
        let may = self.is_whole() && !(beside && self.is_coming());
        may.then(|| Self { source: self.source.clone(), is_beside: beside })
    }

    /// As [`CallerBody::poll_ahead`], from the start.
    pub(crate) fn poll_ahead(
        &self,
        cx: &mut Context<'_>,
        max: usize,
        partly: bool,
    ) -> Poll<Result<Beginning, BrokeOff>> {
        let source = &mut *self.source.borrow_mut();
        let kept: Vec<&Bytes> = source.kept.iter().filter_map(KeptFrame::data).collect();
        if kept.is_empty() {
            return source.body.poll_ahead(cx, max, partly);
        }
        // It was sent before: what is kept comes first.
        let mut whole = BytesMut::from(&*kept.into_iter().fold(Vec::new(), |all, data| [&all[..], data].concat()));
        if whole.len() > max {
            whole.truncate(max);
            return Poll::Ready(Ok(partly.then(|| (whole.freeze(), true))));
        }
        let rest = ready!(source.body.poll_ahead(cx, max - whole.len(), partly))?;
        Poll::Ready(Ok(rest.map(|(rest, goes_on)| {
            whole.extend_from_slice(&rest);
            (whole.freeze(), goes_on)
        })))
    }

    /// The body from its start.
    pub(crate) fn replay(&self) -> RequestBody {
        let turn = {
            let mut source = self.source.borrow_mut();
            source.turn += u32::from(!self.is_beside);
            source.turn
        };
        RequestBody::Replay(Replay { source: self.source.clone(), turn, next: 0, kept_bytes_sent: 0 })
    }
}

/// One reading of a [`Kept`] body.
pub(crate) struct Replay {
    source: Rc<RefCell<Source>>,
    turn: u32,
    next: usize,
    kept_bytes_sent: usize,
}

impl Replay {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let source = &mut *self.source.borrow_mut();
        if self.turn != source.turn {
            return Poll::Ready(Some(Err(RequestBodyError::Superseded)));
        }
        if let Some(frame) = source.kept.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(match frame {
                KeptFrame::Data(data) => {
                    self.kept_bytes_sent += data.len();
                    Frame::data(data.clone())
                }
                KeptFrame::Trailers(trailers) => Frame::trailers(trailers.clone()),
            })));
        }
        let polled = source.body.poll_frame(cx);
        source.ended |= matches!(polled, Poll::Ready(None));
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            source.keep(frame);
            self.next = source.kept.len();
            self.kept_bytes_sent = source.kept_len;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let source = self.source.borrow();
        self.turn == source.turn && self.next >= source.kept.len() && source.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let source = self.source.borrow();
        let waiting = source.kept_len.saturating_sub(self.kept_bytes_sent) as u64;
        match source.body.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(waiting + rest),
            None => SizeHint::default(),
        }
    }
}

impl Source {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let len = frame.data_ref().map_or(0, Bytes::len);
        if self.overflowed || self.kept_len + len > MAX_KEPT {
            self.overflowed = true;
            self.forget();
        } else {
            self.kept.extend(KeptFrame::of(frame));
            self.kept_len += len;
            self.body.received.keeps(len as u64);
        }
    }

    fn forget(&mut self) {
        self.kept = Vec::new();
        self.body.received.forgets(std::mem::take(&mut self.kept_len) as u64);
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.forget();
    }
}
