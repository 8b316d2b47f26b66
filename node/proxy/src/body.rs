//! Bodies that are passed on frame by frame, counted, and never collected. Here those of responses.

mod request;
mod upstream;

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use weft_policy::{endpoint::ActiveRequest, fault::BodyFault};

#[cfg(test)]
pub(crate) use self::request::ByHand;
pub(crate) use self::{
    request::{Beginning, CallerBody, Kept, RequestBody, RequestBodyError},
    upstream::UpstreamBody,
};
use crate::{
    error::UpstreamError,
    fault::Spoiled,
    http2::STREAM_WINDOW,
    metrics::{Flag, Refused},
    overdue::Lent,
    pool::Lease,
    record::ExchangeRecord,
    stall::Stall,
};

/// Why a response broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("upstream request timeout")]
    Timeout,
    #[error("fault filter abort")]
    Cut,
    #[error("the upstream announced a body that did not come")]
    Stalled,
    #[error("the workload lets the caller in no more")]
    NotLetIn,
}

/// What goes to the caller. It carries the exchange's record, which is written when the body is dropped: at its end,
/// or earlier if somebody went away.
pub(crate) struct ResponseBody(Kind);

enum Kind {
    /// The head was all; the connection is a tunnel now, and the record is with it.
    Tunnel,
    /// Nothing is said: the connection or the stream is cut before the head goes out.
    Cut { _record: ExchangeRecord },
    /// The proxy's own words.
    Own { text: Option<Bytes>, record: ExchangeRecord },
    Upstream {
        supply: Supply,
        /// Noted as held for the caller, in bytes, since it has given data and was not polled again.
        waiting: u64,
        stall: Stall,
        deadline: Option<Pin<Box<Sleep>>>,
        spoiled: Option<Box<Spoiled>>,
        record: ExchangeRecord,
    },
}

/// What a response comes from, and what it holds there.
pub(crate) struct Upstream {
    from: UpstreamBody,
    /// Gives the connection back to its pool when dropped after the end.
    lease: Lease,
    _active: Option<ActiveRequest>,
}

enum Supply {
    Own(Upstream),
    /// Of a caller who has not read on, and whose time is limited: `None` when it is up.
    Lent(Lent<Upstream>),
}

impl Supply {
    /// `None` if its time was up while nobody read.
    fn with<T>(&mut self, act: impl FnOnce(&mut Upstream) -> T) -> Option<T> {
        match self {
            Self::Own(upstream) => Some(act(upstream)),
            Self::Lent(lent) => lent.borrow_mut().as_mut().map(act),
        }
    }

    fn look<T>(&self, look: impl FnOnce(&UpstreamBody) -> T) -> Option<T> {
        match self {
            Self::Own(upstream) => Some(look(&upstream.from)),
            Self::Lent(lent) => lent.borrow().as_ref().map(|upstream| look(&upstream.from)),
        }
    }

    fn lend(&mut self, record: &ExchangeRecord, until: Instant) {
        if let Self::Own(upstream) = std::mem::replace(self, Self::Lent(Lent::default())) {
            *self = Self::Lent(record.lend(upstream, until));
        }
    }
}

impl ResponseBody {
    pub(crate) fn tunnel() -> Self {
        Self(Kind::Tunnel)
    }

    pub(crate) fn cut(record: ExchangeRecord) -> Self {
        Self(Kind::Cut { _record: record })
    }

    pub(crate) fn own(text: Bytes, record: ExchangeRecord) -> Self {
        Self(Kind::Own { text: Some(text).filter(|text| !text.is_empty()), record })
    }

    pub(crate) fn upstream(
        from: UpstreamBody,
        lease: Lease,
        active: Option<ActiveRequest>,
        deadline: Option<Instant>,
        fault: Option<BodyFault>,
        record: ExchangeRecord,
    ) -> Self {
        let deadline = deadline.map(|deadline| Box::pin(sleep_until(deadline)));
        let stall = Stall::of(&from, record.limits().stall_timeout);
        let spoiled = fault.map(|fault| Box::new(Spoiled::new(fault)));
        let supply = Supply::Own(Upstream { from, lease, _active: active });
        Self(Kind::Upstream { supply, waiting: 0, stall, deadline, spoiled, record })
    }
}

/// Most that may have come of a body which is not read on: what its stream's window lets its sender send.
fn may_wait(body: &UpstreamBody) -> u64 {
    body.size_hint().upper().unwrap_or(u64::MAX).min(STREAM_WINDOW.into())
}

fn has_ended(from: &UpstreamBody, spoiled: Option<&Spoiled>) -> bool {
    from.is_end_stream() && spoiled.is_none_or(|spoiled| spoiled.held() == 0)
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (supply, waiting, stall, deadline, spoiled, record) = match &mut self.get_mut().0 {
            Kind::Tunnel => return Poll::Ready(None),
            Kind::Cut { .. } => return Poll::Ready(Some(Err(BodyError::Cut))),
            Kind::Own { text, record } => {
                let text = text.take();
                record.add_sent(text.as_ref().map_or(0, |text| text.len() as u64));
                return Poll::Ready(text.map(|text| Ok(Frame::data(text))));
            }
            Kind::Upstream { supply, waiting, stall, deadline, spoiled, record } => {
                (supply, waiting, stall, deadline, spoiled, record)
            }
        };
        if let Err(error) = record.judge() {
            record.fail(error.flag(), &error);
            return Poll::Ready(Some(Err(BodyError::NotLetIn)));
        }
        if *waiting > 0 {
            record.load().reader_came(std::mem::take(waiting));
        }
        let polled = supply.with(|Upstream { from, lease, .. }| {
            let polled = match spoiled {
                None => Pin::new(&mut *from).poll_frame(cx).map_err(BodyError::from),
                Some(spoiled) => spoiled.poll_frame(from, cx),
            };
            if matches!(polled, Poll::Ready(None)) {
                lease.finished();
            }
            (polled, may_wait(from))
        });
        let Some((polled, may_wait)) = polled else {
            record.fail(Flag::Timeout, &BodyError::Timeout);
            return Poll::Ready(Some(Err(BodyError::Timeout)));
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                stall.moved();
                *waiting = may_wait;
                record.load().waits_for_reader(*waiting);
                if let Some(deadline) = deadline
                    && may_wait > 0
                    && matches!(supply, Supply::Own(_))
                {
                    supply.lend(record, deadline.deadline());
                }
                match frame.data_ref() {
                    Some(data) => record.sent(data),
                    None => record.trailers(frame.trailers_ref()),
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let flag = if matches!(error, BodyError::Cut) { Flag::FaultInjected } else { Flag::UpstreamReset };
                record.fail(flag, &error);
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                record.complete();
                Poll::Ready(None)
            }
            Poll::Pending => {
                if deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
                    record.fail(Flag::Timeout, &BodyError::Timeout);
                    return Poll::Ready(Some(Err(BodyError::Timeout)));
                }
                if stall.poll(cx).is_ready() {
                    record.count_refused(Refused::StalledBody);
                    record.fail(Flag::IdleTimeout, &BodyError::Stalled);
                    return Poll::Ready(Some(Err(BodyError::Stalled)));
                }
                record.wait(cx);
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Tunnel => true,
            Kind::Cut { .. } => false,
            Kind::Own { text, .. } => text.is_none(),
            Kind::Upstream { supply, spoiled, .. } => {
                supply.look(|from| has_ended(from, spoiled.as_deref())).unwrap_or_default()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Tunnel => SizeHint::with_exact(0),
            Kind::Cut { .. } => SizeHint::default(),
            Kind::Own { text, .. } => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Kind::Upstream { supply, spoiled, .. } => {
                let held = spoiled.as_ref().map_or(0, |spoiled| spoiled.held());
                let rest = supply.look(|from| from.size_hint().exact()).flatten();
                rest.map_or_else(SizeHint::default, |rest| SizeHint::with_exact(rest + held))
            }
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // hyper drops a body of known length without asking for its end again.
        if let Kind::Upstream { supply, waiting, spoiled, record, .. } = &mut self.0 {
            record.load().reader_came(*waiting);
            let has_ended = supply.with(|Upstream { from, lease, .. }| {
                let has_ended = has_ended(from, spoiled.as_deref());
                if has_ended {
                    lease.finished();
                }
                has_ended
            });
            match has_ended {
                Some(true) => record.complete(),
                Some(false) => {}
                None => record.fail(Flag::Timeout, &BodyError::Timeout),
            }
        }
    }
}
