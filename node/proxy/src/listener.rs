//! Accepting connections, and serving HTTP on them until they end or the worker is asked to stop.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::FutureExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{
    body::Incoming,
    server::conn::{self, http1::UpgradeableConnection},
    service::{HttpService, Service},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    admission::Slots,
    body::ResponseBody,
    config::Limits,
    connection::{End, Load},
    http1::{self, Owner, Strict},
    http2::{self, Flushed, Gathered, MAX_HEADER_LIST, Watched},
    metrics::Refused,
    record::{Downstream, with_sources},
    respond::LastOnConnection,
    sniff::HTTP2_PREFACE,
    stall::TooSlow,
    worker::Worker,
};

/// First and longest pause after the system refused us a connection (usually for want of file descriptors).
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// First and longest pause while of HTTP/2's first bytes only one or two have come.
const PREFACE_PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(200));

/// Accepts until the worker stops, and has each connection served by a task of its own, as far as there are slots.
pub(crate) async fn accept<F>(
    listener: TcpListener,
    worker: Rc<Worker>,
    slots: Slots,
    serve: impl Fn(TcpStream, Downstream, Rc<Load>) -> F,
) where
    F: Future<Output = ()> + 'static,
{
    let mut pause = ACCEPT_PAUSE.0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = worker.tasks.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted.and_then(|(stream, remote)| prepare(stream, remote)) {
            Ok((stream, downstream)) => {
                pause = ACCEPT_PAUSE.0;
                let Some(slot) = slots.take(downstream.remote.ip()) else {
                    worker.metrics.shared().count_refused(Refused::Connections);
                    continue;
                };
                worker.tasks.spawn(serve(stream, downstream, worker.connections.open()).map(|()| drop(slot)));
            }
            Err(error) if is_of_one_connection(&error) => debug!(%error, "a connection ended before it was accepted"),
            Err(error) => {
                warn!(%error, ?pause, "cannot accept connections");
                sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE.1);
            }
        }
    }
}

fn prepare(stream: TcpStream, remote: std::net::SocketAddr) -> io::Result<(TcpStream, Downstream)> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    Ok((stream, Downstream { local, remote }))
}

/// Has the system end a connection whose peer takes none of what is written to it.
pub(crate) fn limit_unread(stream: &TcpStream, limit: Duration) {
    if let Err(error) = SockRef::from(stream).set_tcp_user_timeout(Some(limit)) {
        debug!(%error, "no TCP_USER_TIMEOUT");
    }
}

/// Whether an error concerns the one connection, and not our ability to accept any.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, InvalidInput, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | NotConnected | InvalidInput)
}

/// Whether the caller speaks HTTP/2, by its first bytes; `None` if it says nothing. Nothing is handed to hyper
/// before, so that a connection which only waits costs no buffers.
pub(crate) async fn speaks_http2(stream: &TcpStream, limits: &Limits, stop: &CancellationToken) -> Option<bool> {
    let mut give_up = Instant::now() + limits.idle_timeout;
    let mut pause = PREFACE_PAUSE.0;
    let mut start = [0; 3];
    loop {
        let peeked = tokio::select! {
            biased;
            peeked = timeout(give_up - Instant::now(), stream.peek(&mut start)) => peeked.ok()?.ok()?,
            () = stop.cancelled() => return None,
        };
        match peeked {
            0 => return None,
            read if !HTTP2_PREFACE.starts_with(&start[..read]) => return Some(false),
            read if read == start.len() => return Some(true),
            // "P" or "PR": peeking again would return the same at once.
            _ => {
                if pause == PREFACE_PAUSE.0 {
                    give_up = Instant::now() + limits.head_timeout;
                }
                sleep(pause).await;
                pause = (pause * 2).min(PREFACE_PAUSE.1);
            }
        }
        if Instant::now() >= give_up {
            return None;
        }
    }
}

/// Serves HTTP/1.1 on a stream as it comes.
pub(crate) async fn serve_http1<IO, S>(io: IO, service: S, worker: &Worker, load: Rc<Load>, idle_timeout: Duration)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible> + 'static,
    S::Future: Unpin + 'static,
{
    let connection = http1_connection(Strict::requests(io, worker.limits.head_timeout), service, idle_timeout);
    serve(pin!(connection), worker, &load, UpgradeableConnection::graceful_shutdown, http1_refusal, || false).await;
}

/// Serves HTTP/1.1 to an application. While nothing happens on the connection it costs little more than its socket.
pub(crate) async fn serve_http1_application<S>(
    stream: TcpStream,
    service: S,
    worker: &Worker,
    load: Rc<Load>,
    idle_timeout: Duration,
) where
    S: Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible> + 'static,
    S::Future: Unpin + 'static,
{
    let service = Rc::new(service);
    let mut stream = Strict::requests(stream, worker.limits.head_timeout);
    load.can_rest();
    loop {
        let (owner, lent) = Owner::lend(stream);
        let mut connection = Box::pin(http1_connection(lent, service.clone(), idle_timeout));
        let shut = UpgradeableConnection::graceful_shutdown;
        let may_rest = || load.is_idle() && owner.is_quiet();
        if serve(connection.as_mut(), worker, &load, shut, http1_refusal, may_rest).await == Served::Ended {
            return;
        }
        drop(connection);
        let Some(resting) = owner.take() else { return };
        stream = resting;
        let more = tokio::select! {
            biased;
            more = timeout(idle_timeout, stream.has_more()) => more,
            () = worker.tasks.stop.cancelled() => return,
            // What connections are ended for happens on those that do something.
            _ = poll_fn(|cx| load.poll_end(cx)) => return,
        };
        if more != Ok(true) {
            return;
        }
    }
}

fn http1_connection<IO, S>(
    io: IO,
    service: S,
    idle_timeout: Duration,
) -> UpgradeableConnection<TokioIo<IO>, ClosesWhenDue<S>>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible> + 'static,
    S::Future: Unpin + 'static,
{
    conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle_timeout)
        .max_header_size(MAX_HEADER_LIST as usize)
        .serve_connection(TokioIo::new(io), ClosesWhenDue(service))
        .with_upgrades()
}

pub(crate) async fn serve_http2<IO, S>(io: IO, service: S, worker: &Worker, load: Rc<Load>, extended: bool)
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    S: HttpService<Incoming, ResBody = ResponseBody, Error = Infallible>,
    S::Future: 'static,
{
    let (io, flusher) = Gathered::new(io);
    let io = Watched::caller(io, load.clone(), worker.limits.head_timeout);
    let connection = flusher.around(http2::server(extended).serve_connection(TokioIo::new(io), service));
    let shut = |flushed: Pin<&mut Flushed<_, _>>| conn::http2::Connection::graceful_shutdown(flushed.connection());
    serve(pin!(connection), worker, &load, shut, http2_refusal, || false).await;
}

/// Why a connection is served no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Served {
    Ended,
    Resting,
}

/// Serves until the connection ends; when asked to stop, finishes what is under way: HTTP/1.1 ends keep-alive,
/// HTTP/2 says GOAWAY. One that is idle rests, if it may.
async fn serve<C>(
    mut connection: Pin<&mut C>,
    worker: &Worker,
    load: &Load,
    shut: impl FnOnce(Pin<&mut C>),
    refusal: impl FnOnce(&hyper::Error) -> Option<Refused>,
    may_rest: impl Fn() -> bool,
) -> Served
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut is_ending = false;
    let mut shut = Some(shut);
    let ended = loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => break ended,
            () = worker.tasks.stop.cancelled(), if !is_ending => is_ending = true,
            why = poll_fn(|cx| load.poll_end(cx)) => {
                if why == End::Idle {
                    load.forgive();
                    if may_rest() && !is_ending {
                        return Served::Resting;
                    }
                    continue;
                }
                if let Some(refused) = why.refused() {
                    worker.metrics.shared().count_refused(refused);
                }
                debug!(?why, "a connection is ended");
                // What is under way is finished, but for a peer that goes on even then.
                if why != End::RapidReset || is_ending {
                    return Served::Ended;
                }
                load.forgive();
                is_ending = true;
            }
        }
        if let Some(shut) = shut.take() {
            shut(connection.as_mut());
        }
    };
    if let Err(error) = ended {
        let refused = if was_unread(&error) { Some(Refused::StalledReader) } else { refusal(&error) };
        if let Some(reason) = refused {
            worker.metrics.shared().count_refused(reason);
        }
        debug!(error = with_sources(&error), "a connection ended badly");
    }
    Served::Ended
}

/// Whether the system has ended the connection for what [`limit_unread`] says, which may be before we look.
fn was_unread(error: &hyper::Error) -> bool {
    io_error(error).is_some_and(|error| error.kind() == io::ErrorKind::TimedOut && !TooSlow::is(error))
}

/// What was wrong with the stream under a connection of HTTP/1.1 or HTTP/2, if that is what ended it.
fn io_error(error: &hyper::Error) -> Option<&io::Error> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref().or_else(|| source.downcast_ref::<h2::Error>()?.get_io())
}

/// What the end of an HTTP/1.1 connection says of its peer, if no exchange has told it.
fn http1_refusal(error: &hyper::Error) -> Option<Refused> {
    match error {
        error if error.is_parse_too_large() => Some(Refused::HeadTooLarge),
        error if error.is_parse() => Some(Refused::MalformedHead),
        // hyper's own timer is for connections that are idle, which is no offence.
        error => io_error(error).is_some_and(TooSlow::is).then_some(Refused::HeadTimeout),
    }
}

/// The same for HTTP/2, where streams have errors of their own.
fn http2_refusal(error: &hyper::Error) -> Option<Refused> {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    source.filter(|error| error.is_library()).map(|_| Refused::Http2)
}

/// Has HTTP/1.1 connections closed after a request that leaves it open what the bytes behind it are: one that was
/// refused for how it was written, or one to switch protocols that was not granted.
struct ClosesWhenDue<S>(S);

impl<S> Service<Request<Incoming>> for ClosesWhenDue<S>
where
    S: Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Closing<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let is_connect = request.method() == Method::CONNECT;
        let wants_tunnel = is_connect || http1::may_switch(request.headers());
        Closing { answer: self.0.call(request), is_connect, wants_tunnel }
    }
}

struct Closing<F> {
    answer: F,
    is_connect: bool,
    wants_tunnel: bool,
}

impl<F> Future for Closing<F>
where
    F: Future<Output = Result<Response<ResponseBody>, Infallible>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(mut response) = ready!(Pin::new(&mut self.answer).poll(cx));
        let is_tunnel =
            response.status() == StatusCode::SWITCHING_PROTOCOLS || (self.is_connect && response.status().is_success());
        let is_last = self.wants_tunnel || response.extensions().get::<LastOnConnection>().is_some();
        if is_last && !is_tunnel {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(Ok(response))
    }
}
