//! Bodies that are passed on frame by frame, counted, and never collected.

use std::{
    cell::Cell,
    future::Future as _,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};
use weft_policy::endpoint::ActiveRequest;

use crate::{metrics::Flag, pool::Lease, record::ExchangeRecord};

/// What goes to the upstream.
pub(crate) enum RequestBody {
    Empty,
    Stream { from: Incoming, bytes: Rc<Cell<u64>> },
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self::Stream { from, bytes } = self.get_mut() else { return Poll::Ready(None) };
        let polled = Pin::new(from).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            bytes.set(bytes.get() + frame.data_ref().map_or(0, |data| data.len() as u64));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream { from, .. } => from.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream { from, .. } => from.size_hint(),
        }
    }
}

/// Why a response broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error(transparent)]
    Upstream(#[from] hyper::Error),
    #[error("upstream request timeout")]
    Timeout,
}

/// What goes to the caller. It carries the exchange's record, which is written when the body is dropped: at its end,
/// or earlier if somebody went away.
pub(crate) struct ResponseBody(Kind);

enum Kind {
    /// The head was all; the connection is a tunnel now, and the record is with it.
    Tunnel,
    /// The proxy's own words.
    Own { text: Option<Bytes>, record: ExchangeRecord },
    Upstream {
        from: Incoming,
        /// Gives the connection back to its pool when dropped after the end.
        lease: Lease,
        deadline: Option<Pin<Box<Sleep>>>,
        record: ExchangeRecord,
        _active: Option<ActiveRequest>,
    },
}

impl ResponseBody {
    pub(crate) fn tunnel() -> Self {
        Self(Kind::Tunnel)
    }

    pub(crate) fn own(text: Bytes, record: ExchangeRecord) -> Self {
        Self(Kind::Own { text: Some(text).filter(|text| !text.is_empty()), record })
    }

    pub(crate) fn upstream(
        from: Incoming,
        lease: Lease,
        active: Option<ActiveRequest>,
        deadline: Option<Instant>,
        record: ExchangeRecord,
    ) -> Self {
        let deadline = deadline.map(|deadline| Box::pin(sleep_until(deadline)));
        Self(Kind::Upstream { from, lease, deadline, record, _active: active })
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (from, lease, deadline, record) = match &mut self.get_mut().0 {
            Kind::Tunnel => return Poll::Ready(None),
            Kind::Own { text, record } => {
                let text = text.take();
                record.add_sent(text.as_ref().map_or(0, |text| text.len() as u64));
                return Poll::Ready(text.map(|text| Ok(Frame::data(text))));
            }
            Kind::Upstream { from, lease, deadline, record, .. } => (from, lease, deadline, record),
        };
        match Pin::new(from).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                match frame.data_ref() {
                    Some(data) => record.add_sent(data.len() as u64),
                    None => record.trailers(frame.trailers_ref()),
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                record.fail(Flag::UpstreamReset, &error);
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                record.complete();
                lease.finished();
                Poll::Ready(None)
            }
            Poll::Pending => {
                if deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
                    record.fail(Flag::Timeout, &BodyError::Timeout);
                    return Poll::Ready(Some(Err(BodyError::Timeout)));
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Tunnel => true,
            Kind::Own { text, .. } => text.is_none(),
            Kind::Upstream { from, .. } => from.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Tunnel => SizeHint::with_exact(0),
            Kind::Own { text, .. } => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Kind::Upstream { from, .. } => from.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // hyper drops a body of known length without asking for its end again.
        if let Kind::Upstream { from, lease, record, .. } = &mut self.0
            && from.is_end_stream()
        {
            record.complete();
            lease.finished();
        }
    }
}
