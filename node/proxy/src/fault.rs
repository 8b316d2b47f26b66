//! Faults on purpose, done to a request before it goes anywhere, or to its response's body.

use std::{
    future::Future as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::{Instant, Sleep, sleep, sleep_until},
};
use weft_policy::{
    condition::Request,
    experiment::Experiment,
    fault::{BodyFault, Fault, FaultEnd},
};

use crate::{
    body::{BodyError, UpstreamBody},
    error::ProxyError,
    metrics::Flag,
    record::ExchangeRecord,
};

/// What experiments have in mind for a request.
#[derive(Default)]
pub(crate) struct Plan {
    fault: Option<Fault>,
    /// Those that want to know how it goes without a fault.
    watching: Vec<Arc<Experiment>>,
}

impl Plan {
    /// The oldest experiment that hits decides; none where there are no experiments.
    pub(crate) fn of<'e>(experiments: impl Iterator<Item = &'e Arc<Experiment>>, request: &Request<'_>) -> Self {
        let mut plan = Self::default();
        for experiment in experiments {
            let now = unix_ms();
            plan.fault = experiment.decide(request, rand::random(), now);
            if plan.fault.is_some() {
                plan.watching.clear();
                return plan;
            }
            if experiment.is_watching(now) {
                plan.watching.push(experiment.clone());
            }
        }
        plan
    }

    /// Does it; but for what is to be done to the response's body, which is returned.
    ///
    /// # Errors
    /// The fault ends the request.
    pub(crate) async fn carry_out(self, record: &mut ExchangeRecord) -> Result<Option<BodyFault>, ProxyError> {
        match self.fault {
            Some(fault) => {
                inject(fault, record).await?;
                if fault.body.is_some_and(|body| body.bytes_per_second.is_some()) {
                    record.flag(Flag::DelayInjected);
                }
                Ok(fault.body)
            }
            None => {
                record.watch(self.watching);
                Ok(None)
            }
        }
    }
}

/// The delay first, then the end.
pub(crate) async fn inject(Fault { delay, end, .. }: Fault, record: &mut ExchangeRecord) -> Result<(), ProxyError> {
    if let Some(delay) = delay {
        record.flag(Flag::DelayInjected);
        sleep(delay).await;
    }
    match end {
        None => Ok(()),
        Some(end @ FaultEnd::BlackHole { until_unix_ms }) => {
            record.flag(Flag::FaultInjected);
            sleep(time_until(until_unix_ms)).await;
            Err(ProxyError::Aborted(end))
        }
        Some(end) => Err(ProxyError::Aborted(end)),
    }
}

/// Does to a connection of bytes what the oldest experiment that hits it has in mind.
///
/// # Errors
/// The fault ends it. In a black hole: see [`swallow`].
pub(crate) async fn inject_connection<'e>(
    mut experiments: impl Iterator<Item = &'e Arc<Experiment>>,
) -> Result<(), ProxyError> {
    let fault = experiments.find_map(|experiment| experiment.decide_connection(rand::random(), unix_ms()));
    let Some(Fault { delay, end, .. }) = fault else { return Ok(()) };
    if let Some(delay) = delay {
        sleep(delay).await;
    }
    end.map_or(Ok(()), |end| Err(ProxyError::Aborted(end)))
}

/// The time that an error has its caller wait for nothing.
pub(crate) fn black_hole(error: &ProxyError) -> Option<Duration> {
    match error {
        ProxyError::Aborted(FaultEnd::BlackHole { until_unix_ms }) => Some(time_until(*until_unix_ms)),
        _ => None,
    }
}

/// Reads for nobody, for so long or until the client gives up.
pub(crate) async fn swallow(mut client: impl AsyncRead + Unpin, limit: Duration) {
    let read = async {
        let mut buffer = [0; 4_096];
        while matches!(client.read(&mut buffer).await, Ok(count) if count > 0) {}
    };
    // Which of the two it was makes no difference.
    let _ = tokio::time::timeout(limit, read).await;
}

fn time_until(unix_ms_then: u64) -> Duration {
    Duration::from_millis(unix_ms_then.saturating_sub(unix_ms()))
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// A slow body comes in so many pieces a second, as far as its rate allows.
const PIECES_PER_SECOND: u32 = 10;

/// What is done to one response's body.
pub(crate) struct Spoiled {
    fault: BodyFault,
    /// What has come and is not passed on yet.
    rest: Bytes,
    /// When the next piece may go.
    next: Option<Pin<Box<Sleep>>>,
    /// It is cut at the next look: what was passed on before may be written until then.
    is_cut: bool,
}

impl Spoiled {
    pub(crate) fn new(fault: BodyFault) -> Self {
        Self { fault, rest: Bytes::new(), next: None, is_cut: false }
    }

    /// Bytes that are not passed on yet.
    pub(crate) fn held(&self) -> u64 {
        self.rest.len() as u64
    }

    pub(crate) fn poll_frame(
        &mut self,
        from: &mut UpstreamBody,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(next) = &mut self.next {
            ready!(next.as_mut().poll(cx));
            self.next = None;
        }
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut *from).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end.map(|failed| failed.map_err(BodyError::from))),
            }
        }
        let mut piece = self.rest.len();
        if let Some(left) = &mut self.fault.cut_after {
            if *left == 0 && self.is_cut {
                return Poll::Ready(Some(Err(BodyError::Cut)));
            }
            if *left == 0 {
                self.is_cut = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            piece = piece.min(usize::try_from(*left).unwrap_or(usize::MAX));
        }
        if let Some(rate) = self.fault.bytes_per_second {
            piece = piece.min((rate.get() / PIECES_PER_SECOND).max(1) as usize);
            let takes = Duration::from_secs_f64(piece as f64 / f64::from(rate.get()));
            self.next = Some(Box::pin(sleep_until(Instant::now() + takes)));
        }
        if let Some(left) = &mut self.fault.cut_after {
            *left -= piece as u64;
        }
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
    }
}
