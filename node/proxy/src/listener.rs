//! Accepting connections, and serving HTTP on them until they end or the worker is asked to stop.

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{
    body::Incoming,
    server::conn,
    service::{HttpService, Service},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    body::ResponseBody,
    http1::{self, MAX_HEADERS, Strict},
    http2::{CONNECTION_WINDOW, MAX_HEADER_LIST, MAX_STREAMS, STREAM_WINDOW},
    metrics::Refused,
    record::{Downstream, with_sources},
    respond::LastOnConnection,
    worker::{LocalExecutor, Worker},
};

/// First and longest pause after the system refused us a connection (usually for want of file descriptors).
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// How long a local caller may take for a request's head. hyper's timer also runs between requests, so this is the
/// idle time of kept-alive connections too.
pub(crate) const LOCAL_HEAD_TIMEOUT: Duration = Duration::from_secs(300);
/// How often an HTTP/2 caller is pinged, and how long it may take to answer, so that dead hosts' connections end.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// What every HTTP/2 connection begins with; no HTTP/1 method is like it.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Accepts until the worker stops, and has each connection served by a task of its own.
pub(crate) async fn accept<F>(listener: TcpListener, worker: Rc<Worker>, serve: impl Fn(TcpStream, Downstream) -> F)
where
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
                worker.tasks.spawn(serve(stream, downstream));
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

/// Whether an error concerns the one connection, and not our ability to accept any.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, InvalidInput, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | NotConnected | InvalidInput)
}

/// Whether the caller speaks HTTP/2, by its first bytes; `None` if it says nothing. Nothing is handed to hyper
/// before, so that a connection which only waits costs no buffers.
pub(crate) async fn speaks_http2(stream: &TcpStream, stop: &CancellationToken) -> Option<bool> {
    let give_up = Instant::now() + LOCAL_HEAD_TIMEOUT;
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
            _ => sleep(Duration::from_millis(1)).await,
        }
        if Instant::now() >= give_up {
            return None;
        }
    }
}

pub(crate) async fn serve_http1<IO, S>(io: IO, service: S, worker: &Worker, head_timeout: Duration)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible> + 'static,
    S::Future: Unpin + 'static,
{
    let connection = conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEADER_LIST as usize)
        .serve_connection(TokioIo::new(Strict::requests(io)), ClosesWhenDue(service))
        .with_upgrades();
    serve(pin!(connection), worker, conn::http1::UpgradeableConnection::graceful_shutdown, http1_refusal).await;
}

pub(crate) async fn serve_http2<IO, S>(io: IO, service: S, worker: &Worker)
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    S: HttpService<Incoming, ResBody = ResponseBody, Error = Infallible>,
    S::Future: 'static,
{
    let connection = conn::http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST)
        // Both guard against hostile peers, which local applications and authenticated nodes are not; on a link that
        // many requests share, a limit on resets is an outage for all of them when some callers are impatient.
        .max_local_error_reset_streams(None)
        .max_pending_accept_reset_streams(MAX_STREAMS as usize)
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .serve_connection(TokioIo::new(io), service);
    serve(pin!(connection), worker, conn::http2::Connection::graceful_shutdown, http2_refusal).await;
}

/// Serves until the connection ends; when asked to stop, finishes what is under way: HTTP/1.1 ends keep-alive,
/// HTTP/2 says GOAWAY.
async fn serve<C>(
    mut connection: Pin<&mut C>,
    worker: &Worker,
    shut: impl FnOnce(Pin<&mut C>),
    refusal: impl FnOnce(&hyper::Error) -> Option<Refused>,
) where
    C: Future<Output = hyper::Result<()>>,
{
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = worker.tasks.stop.cancelled() => {
            shut(connection.as_mut());
            connection.await
        }
    };
    if let Err(error) = ended {
        if let Some(reason) = refusal(&error) {
            worker.metrics.shared().count_refused(reason);
        }
        debug!(error = with_sources(&error), "a connection ended badly");
    }
}

/// What the end of an HTTP/1.1 connection says of its peer, if no exchange has told it.
fn http1_refusal(error: &hyper::Error) -> Option<Refused> {
    match error {
        error if error.is_parse_too_large() => Some(Refused::HeadTooLarge),
        error if error.is_parse() => Some(Refused::MalformedHead),
        error if error.is_timeout() => Some(Refused::HeadTimeout),
        _ => None,
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
