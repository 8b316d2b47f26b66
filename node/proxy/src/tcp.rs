//! Raw TCP: an endpoint is chosen once, then bytes go both ways until both sides have ended.

use std::{
    cell::Cell,
    future::pending,
    io,
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep},
};
use weft_policy::{
    balance::{Attempt, Cluster, Outcome},
    endpoint::{ActiveRequest, Endpoint},
};

use crate::{
    access::LocalGate,
    error::ProxyError,
    metrics::{Flag, HttpOutcome, Parties, TcpSeries},
    pool::Channel,
    recheck::Guest,
    record::{Ended, Line},
    splice::both_ways,
    upstream::{self, Timed},
    worker::Worker,
};

/// A connection on which no byte has passed for so long is cut. Istio's default.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3_600);
/// Endpoints that are tried before a caller is turned away.
const MAX_TRIES: usize = 3;

/// A connection to an endpoint, with all that must live as long.
pub(crate) struct Dialled {
    pub(crate) stream: Channel,
    pub(crate) active: ActiveRequest,
    /// The caller, if the endpoint is of this node.
    pub(crate) guest: Option<Rc<Guest>>,
    pub(crate) lifetime: Lifetime,
}

/// How long a connection of bytes may last. Where documents say nothing, as in Istio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime {
    /// Without a byte in either direction.
    idle: Option<Duration>,
    whole: Option<Duration>,
}

impl Lifetime {
    /// Of a connection whose other end sees to it.
    pub(crate) const ENDLESS: Self = Self { idle: None, whole: None };

    pub(crate) fn of(cluster: &Cluster) -> Self {
        let settings = cluster.connection();
        let idle = settings.and_then(|settings| settings.idle_timeout).unwrap_or(IDLE_TIMEOUT);
        Self {
            idle: Some(idle).filter(|idle| !idle.is_zero()),
            whole: settings.and_then(|settings| settings.max_duration),
        }
    }

    /// Returns when it is over. `passed` counts the bytes so far: it is looked at now and then, so that they need no
    /// clock; what is idle may last a quarter longer.
    pub(crate) async fn over(self, passed: impl Fn() -> u64) {
        const LOOKS: u32 = 4;
        let idle = async {
            let Some(idle) = self.idle else { return pending().await };
            let (mut known, mut quiet) = (passed(), 0);
            while quiet < LOOKS {
                sleep(idle / LOOKS).await;
                let now = passed();
                quiet = if now == known { quiet + 1 } else { 0 };
                known = now;
            }
        };
        let whole = async {
            match self.whole {
                Some(whole) => sleep(whole).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = idle => {}
            () = whole => {}
        }
    }
}

/// Connects to an endpoint of the cluster, for who asked for `host`; to another one if that fails. A workload of this
/// node may refuse, and that is the end of it.
pub(crate) async fn dial(
    gate: &LocalGate<'_>,
    cluster: &Cluster,
    host: &str,
    mut on_try: impl FnMut(&Endpoint),
) -> Result<Dialled, ProxyError> {
    let LocalGate { worker, caller, .. } = *gate;
    let mut tried: Vec<Arc<Endpoint>> = Vec::new();
    let client = || gate.view.address_of_client(gate.downstream.remote.ip());
    let hash = cluster.hash_policy().and_then(|policy| policy.hash_of_connection(client()));
    loop {
        let endpoint = cluster
            .pick(&Attempt {
                tried: &tried,
                hash,
                random: rand::random(),
                now_ms: worker.now_ms(),
                ..Attempt::default()
            })
            .ok_or_else(|| ProxyError::NoEndpoint(cluster.fqdn.to_string()))?;
        on_try(endpoint);
        gate.admit_connection(endpoint).await?;
        let connection = cluster.hold_connection().map_err(|_| ProxyError::Overflow)?;
        let mut active = endpoint.load.begin();
        active.hold([None, connection]);
        let timed = Timed::begin(worker, cluster, endpoint);
        match worker.pools.tunnel(endpoint, cluster.connection(), caller, host).await {
            Ok(stream) => {
                if let Some(timed) = timed {
                    timed.answered();
                }
                endpoint.load.connect_succeeded();
                upstream::record(worker, cluster, endpoint, Outcome::Connected);
                // A connection is all that is seen of it: it begins a row anew.
                upstream::record(worker, cluster, endpoint, Outcome::Status(200));
                let lifetime = Lifetime::of(cluster);
                return Ok(Dialled { stream, active, guest: gate.guest(endpoint), lifetime });
            }
            Err(error) => {
                if let Some(timed) = timed {
                    timed.forget();
                }
                if !error.blames_endpoint() {
                    return Err(error.into());
                }
                endpoint.load.connect_failed(worker.now_ms());
                upstream::record(worker, cluster, endpoint, Outcome::Broke);
                tried.push(endpoint.clone());
                if tried.len() >= MAX_TRIES.min(cluster.endpoints.len()) {
                    return Err(error.into());
                }
            }
        }
    }
}

/// Copies both ways, each side's end to the other, until both have ended or one fails, or the workload lets its guest
/// in no more.
pub(crate) async fn splice(
    client: impl AsyncRead + AsyncWrite + Unpin,
    upstream: impl AsyncRead + AsyncWrite + Unpin,
    guest: Option<&Guest>,
) {
    let refused = async {
        match guest {
            Some(guest) => guest.refused().await,
            None => pending().await,
        }
    };
    tokio::select! {
        biased;
        // An error is one side's way to hang up; dropping both streams tells the other.
        _ = both_ways(client, upstream) => {}
        () = refused => {}
    }
}

/// The record of one TCP connection: counted as opened at once, as closed when dropped, and its bytes as they go,
/// since connections may last for days.
pub(crate) struct TcpRecord {
    worker: Rc<Worker>,
    series: Arc<TcpSeries>,
    flag: Flag,
    /// Only with an access log, and with whom it is of.
    line: Option<(Box<Line>, Parties)>,
    started: Instant,
    received: Rc<Cell<u64>>,
    sent: Rc<Cell<u64>>,
}

impl TcpRecord {
    /// A connection that has its upstream.
    pub(crate) fn opened(worker: &Rc<Worker>, parties: &Parties, line: Option<Box<Line>>, started: Instant) -> Self {
        Self::new(worker, parties, Flag::None, line, started)
    }

    /// A connection that could not be served.
    pub(crate) fn refused(
        worker: &Rc<Worker>,
        parties: &Parties,
        error: &ProxyError,
        mut line: Option<Box<Line>>,
        started: Instant,
    ) {
        if let Some(line) = &mut line {
            line.detail(error);
        }
        Self::new(worker, parties, error.flag(), line, started);
    }

    fn new(worker: &Rc<Worker>, parties: &Parties, flag: Flag, line: Option<Box<Line>>, started: Instant) -> Self {
        let series = worker.metrics.tcp(parties, flag);
        series.opened.fetch_add(1, Ordering::Relaxed);
        let line = line.map(|line| (line, parties.clone()));
        Self { worker: worker.clone(), series, flag, line, started, received: Rc::default(), sent: Rc::default() }
    }

    /// Carries bytes until the connection ends.
    pub(crate) async fn splice(
        self,
        client: impl AsyncRead + AsyncWrite + Unpin,
        upstream: impl AsyncRead + AsyncWrite + Unpin,
        guest: Option<&Guest>,
        lifetime: Lifetime,
    ) {
        let client = Counted::new(
            client,
            |bytes| {
                self.series.received_bytes.fetch_add(bytes, Ordering::Relaxed);
                self.received.set(self.received.get() + bytes);
            },
            |bytes| {
                self.series.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
                self.sent.set(self.sent.get() + bytes);
            },
        );
        let over = async {
            match lifetime {
                Lifetime::ENDLESS => pending().await,
                lifetime => lifetime.over(|| self.received.get() + self.sent.get()).await,
            }
        };
        tokio::select! {
            biased;
            () = splice(client, upstream, guest) => {}
            () = over => {}
        }
    }
}

impl Drop for TcpRecord {
    fn drop(&mut self) {
        self.series.closed.fetch_add(1, Ordering::Relaxed);
        if let Some((line, parties)) = self.line.take() {
            let outcome = HttpOutcome { flag: self.flag, ..HttpOutcome::default() };
            let (received, sent) = (self.received.get(), self.sent.get());
            let (started, ended) = (self.started, Instant::now());
            line.end(&self.worker, &parties, Ended { started, ended, outcome, received, sent, counted: None });
        }
    }
}

/// A stream whose bytes are counted as they are read and written.
pub(crate) struct Counted<S, R, W> {
    stream: S,
    on_read: R,
    on_write: W,
}

impl<S, R: FnMut(u64), W: FnMut(u64)> Counted<S, R, W> {
    pub(crate) fn new(stream: S, on_read: R, on_write: W) -> Self {
        Self { stream, on_read, on_write }
    }
}

// Nothing in it is pinned.
impl<S: Unpin, R, W> Unpin for Counted<S, R, W> {}

impl<S: AsyncRead + Unpin, R: FnMut(u64), W> AsyncRead for Counted<S, R, W> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        (this.on_read)((buf.filled().len() - before) as u64);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin, R, W: FnMut(u64)> AsyncWrite for Counted<S, R, W> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?;
        (this.on_write)(written as u64);
        Poll::Ready(Ok(written))
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

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_over_when_it_was_idle_for_its_time_or_has_lasted_for_it() {
        let idle = |idle: u64| Lifetime { idle: Some(Duration::from_secs(idle)), whole: None };
        let (begun, passed) = (Instant::now(), Cell::new(0));
        idle(8).over(|| passed.get()).await;
        assert_eq!(begun.elapsed().as_secs(), 8);

        let begun = Instant::now();
        let busy = async {
            for _ in 0..10 {
                sleep(Duration::from_secs(5)).await;
                passed.set(passed.get() + 1);
            }
            pending::<()>().await;
        };
        tokio::select! {
            () = busy => {}
            () = idle(8).over(|| passed.get()) => {}
        }
        assert!((58..=60).contains(&begun.elapsed().as_secs()), "8 to 10 s after the last byte: {:?}", begun.elapsed());

        let begun = Instant::now();
        Lifetime { whole: Some(Duration::from_secs(3)), ..idle(8) }.over(|| 0).await;
        assert_eq!(begun.elapsed().as_secs(), 3);
    }
}
