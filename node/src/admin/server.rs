//! Serves the admin API. One `Api` answers on every listener; a listener knows only whether it may write.

use std::{
    convert::Infallible,
    future::pending,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use anyhow::{Context, anyhow};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use weft_proxy::metrics::text::Format;

use super::{
    api::{MAX_REQUEST_LEN, Refusal},
    console, events, live, schemas,
    sessions::{ConsoleCode, SessionState, Sessions, SignIn, is_cross_origin},
    tap::{self, TapRequest},
    traffic,
};
use crate::{
    actors::{Handles, health::Registration},
    config::ServiceSpec,
    supervisor::{Actor, Inbox},
    tap::redact::decoded,
    telemetry::LogLimit,
};

/// Connections of one listener that are served at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 128;
/// A client that has not sent its request head by then is cut.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept: mostly for want of file descriptors, which come back as connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where taps are asked for.
const TAP: &str = "/api/v1/tap";

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What clients of a listener may do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// The unix socket: whoever may open it owns the node.
    ReadWrite,
    /// The loopback address: every process of the host.
    Read,
    /// Likewise, of somebody who is signed in to the console.
    Console,
    /// The address of `metrics`: whoever reaches it.
    Metrics,
}

/// The `api` actor: accepts connections. It has no messages; a crash loses no listener, as they are shared.
pub struct ApiActor {
    pub unix: Arc<UnixListener>,
    pub tcp: Arc<TcpListener>,
    pub metrics: Option<Arc<TcpListener>>,
    pub handles: Handles,
}

impl Actor for ApiActor {
    type Msg = Infallible;

    async fn run(self, inbox: &mut Inbox<Infallible>) -> anyhow::Result<()> {
        let (mut unix, mut tcp) = (Door::new("unix socket"), Door::new("admin address"));
        let mut metrics = Door::new("metrics address");
        loop {
            let handles = self.handles.clone();
            tokio::select! {
                biased;
                message = inbox.recv() => match message {
                    Some(never) => match never {},
                    None => return Ok(()),
                },
                entered = unix.next(|| self.unix.accept()) => {
                    let ((stream, _), place) = entered?;
                    tokio::spawn(serve(stream, Access::ReadWrite, handles, place));
                }
                entered = tcp.next(|| self.tcp.accept()) => {
                    let ((stream, _), place) = entered?;
                    tokio::spawn(serve(stream, Access::Read, handles, place));
                }
                entered = metrics.next(|| accept(self.metrics.as_deref())) => {
                    let ((stream, _), place) = entered?;
                    tokio::spawn(serve(stream, Access::Metrics, handles, place));
                }
            }
        }
    }
}

/// Never comes to an end where there is no listener.
async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => pending().await,
    }
}

/// Lets so many connections of one listener in at once. Each listener has its own: whoever fills one leaves the
/// other open.
struct Door {
    listener: &'static str,
    places: Arc<Semaphore>,
    errors: LogLimit,
}

impl Door {
    fn new(listener: &'static str) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(MAX_CONNECTIONS)), errors: LogLimit::default() }
    }

    /// Waits for a place, then for a connection. Cancel-safe if `accept` is.
    async fn next<S, F: Future<Output = io::Result<S>>>(
        &mut self,
        accept: impl Fn() -> F,
    ) -> anyhow::Result<(S, OwnedSemaphorePermit)> {
        let place = self.places.clone().acquire_owned().await?;
        loop {
            match accept().await {
                Ok(stream) => return Ok((stream, place)),
                Err(error) => {
                    if let Some(left_out) = self.errors.allow(Instant::now()) {
                        tracing::warn!(%error, listener = self.listener, left_out, "cannot accept a connection");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    access: Access,
    handles: Handles,
    _place: OwnedSemaphorePermit,
) {
    let service = service_fn(move |request| {
        let handles = handles.clone();
        async move { Ok::<_, Infallible>(answer(request, access, handles).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection ended early");
    }
}

async fn answer(request: Request<Incoming>, mut access: Access, handles: Handles) -> Response<Body> {
    let (headers, path) = (request.headers(), request.uri().path());
    let reading = matches!(*request.method(), Method::GET | Method::HEAD);
    // A page in a browser on this host could reach the loopback address under a name of its own (DNS rebinding).
    if access == Access::Read && !host_is_local(&request) {
        return refuse(StatusCode::FORBIDDEN, "the admin address answers to its IP or to localhost only");
    }
    if access == Access::Read && !reading {
        if is_cross_origin(headers) {
            return refuse(StatusCode::FORBIDDEN, "only the console's own pages may ask for that");
        }
        if handles.sessions.is_signed_in(headers, Instant::now()) {
            access = Access::Console;
        }
    }
    match access {
        Access::Read if !reading && !is_open(path) && is_for_console(path) => {
            let why = "sign in first: `weft console` on this host prints the address that does so";
            return refuse(StatusCode::UNAUTHORIZED, why);
        }
        Access::Read | Access::Console if !reading && !is_open(path) && !is_for_console(path) => {
            return refuse(
                StatusCode::FORBIDDEN,
                "the admin address is read-only; changes go through the unix socket in the node's data directory",
            );
        }
        Access::Metrics if !reading || !matches!(path, "/metrics" | "/healthz" | "/readyz") => {
            return refuse(StatusCode::NOT_FOUND, "only /metrics, /healthz and /readyz are served here");
        }
        _ => {}
    }
    // By GET too they show what others ask for.
    if access == Access::Read && request.uri().path() == TAP {
        return refuse(
            StatusCode::FORBIDDEN,
            "taps are for operators: sign in (`weft console`) and POST, or ask on the unix socket in the node's data directory",
        );
    }
    match route(request, &handles).await {
        Ok(response) => response,
        Err(error) => refuse(StatusCode::UNPROCESSABLE_ENTITY, &format!("{error:#}")),
    }
}

/// What every process of the host may ask although it is no GET: to sign in, and what follows from documents that it may
/// read.
fn is_open(path: &str) -> bool {
    matches!(path, "/api/v1/session" | "/api/v1/explain/route" | "/api/v1/explain/access")
}

/// What whoever is signed in to the console may ask and do: what the console has a page for, and no more.
fn is_for_console(path: &str) -> bool {
    let Some(path) = path.strip_prefix("/api/v1/") else { return false };
    matches!(path, "session/end" | "why" | "traces" | "plaintext" | "doctor" | "tap" | "log")
        || path.split('/').next() == Some("documents")
}

fn host_is_local(request: &Request<Incoming>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok()
}

async fn route(request: Request<Incoming>, handles: &Handles) -> anyhow::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().trim_start_matches('/').to_owned();
    let segments: Vec<&str> = path.split('/').collect();
    let query = parts.uri.query().unwrap_or_default();
    match (parts.method.clone(), segments.as_slice()) {
        (Method::GET | Method::HEAD, ["healthz"]) => Ok(text(StatusCode::OK, "ok\n".into())),
        (Method::GET | Method::HEAD, ["readyz"]) => {
            let missing = handles.not_ready();
            Ok(match missing.is_empty() {
                true => text(StatusCode::OK, "ready\n".into()),
                false => text(StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n"),
            })
        }
        (Method::GET | Method::HEAD, ["metrics"]) => {
            let accept = parts.headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
            let format = Format::asked_for(&accept.collect::<Vec<_>>().join(","));
            let mut response = text(StatusCode::OK, handles.telemetry.encode(format)?);
            let content_type = header::HeaderValue::from_static(format.content_type());
            response.headers_mut().insert(header::CONTENT_TYPE, content_type);
            Ok(response)
        }
        (Method::GET, ["api", "v1", "status"]) => json(&handles.status()),
        (Method::GET, ["api", "v1", "members"]) => json(&handles.members()),
        (Method::GET, ["api", "v1", "services"]) => json(&handles.services()),
        (Method::GET, ["api", "v1", "workloads"]) => json(&handles.workloads()),
        (Method::GET, ["api", "v1", "endpoints"]) => {
            if let Some(node) = parameter(query, "node") {
                return json(&handles.endpoints_on(&node));
            }
            let service = parameter(query, "service").context("the parameter `service` or `node` is missing")?;
            json(&handles.endpoints(&service)?)
        }
        (Method::GET, ["api", "v1", "circuits"]) => json(&handles.circuits()),
        (Method::GET, ["api", "v1", "certificates"]) => json(&*handles.certificates().await),
        (Method::GET, ["api", "v1", "traffic"]) => {
            let window = traffic::window(parameter(query, "window").as_deref())?;
            match wants_stream(&parts.headers) {
                false => json(&*handles.traffic(window).await),
                true => Ok(live::traffic(handles.clone(), window)),
            }
        }
        (Method::GET, ["api", "v1", "traffic", "history"]) => {
            let (since, step) = (parameter(query, "since"), parameter(query, "step"));
            let unix = UNIX_EPOCH.elapsed().unwrap_or_default();
            json(&*handles.traffic_history(traffic::range(since.as_deref(), step.as_deref(), unix)?).await)
        }
        (Method::GET, ["api", "v1", "tap"]) => {
            let (query, length) = tap::query(parameters(query))?;
            let for_ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
            Ok(live::tap(handles.tap(TapRequest { query, for_ms, signed: None })?))
        }
        (Method::POST, ["api", "v1", "tap"]) => Ok(live::tap(handles.tap(read(body).await?)?)),
        (Method::GET, ["api", "v1", "events"]) => {
            let since = events::since(parameter(query, "since").as_deref())?;
            match wants_stream(&parts.headers) {
                false => json(&handles.events(since).await),
                true => Ok(live::events(handles.clone(), since)),
            }
        }
        (Method::GET, ["api", "v1", "schemas"]) => json(&schemas::list()),
        (Method::GET, ["api", "v1", "schemas", kind]) => json(&schemas::of(kind)?),
        (Method::POST, ["api", "v1", "console"]) => {
            let code = handles.sessions.new_code(Instant::now());
            let url = format!("http://{}/#/sign-in/{code}", handles.admin);
            json(&ConsoleCode { url, valid_seconds: Sessions::code_life().as_secs() })
        }
        (Method::GET, ["api", "v1", "session"]) => {
            let signed_in = handles.sessions.is_signed_in(&parts.headers, Instant::now());
            json(&SessionState { signed_in, token: None })
        }
        (Method::POST, ["api", "v1", "session"]) => {
            let SignIn { code } = read(body).await?;
            let Some(session) = handles.sessions.sign_in(&code, Instant::now()) else {
                let why = "this code is wrong, was used, or is too old: `weft console` prints a new one";
                return Ok(refuse(StatusCode::UNAUTHORIZED, why));
            };
            let cookie = session.set_cookie().parse()?;
            let mut response = json(&SessionState { signed_in: true, token: Some(session.token) })?;
            response.headers_mut().insert(header::SET_COOKIE, cookie);
            Ok(response)
        }
        (Method::POST, ["api", "v1", "session", "end"]) => {
            handles.sessions.sign_out(&parts.headers);
            json(&SessionState { signed_in: false, token: None })
        }
        // It has other nodes dial this one.
        (Method::POST, ["api", "v1", "doctor"]) => json(&handles.examine().await),
        (Method::GET, ["api", "v1", "documents"]) => json(&handles.documents()),
        (Method::POST, ["api", "v1", "documents", "prepare"]) => {
            json(&handles.documents.prepare(read(body).await?).await?)
        }
        (Method::POST, ["api", "v1", "documents", "compare"]) => json(&handles.compare_documents().await),
        (Method::POST, ["api", "v1", "documents", "history"]) => json(&handles.history(read(body).await?).await?),
        (Method::POST, ["api", "v1", "documents", "text"]) => json(&handles.edit(read(body).await?).await?),
        (Method::POST, ["api", "v1", "documents"]) => json(&handles.write(read(body).await?).await?),
        (Method::POST, ["api", "v1", "explain", "route"]) => json(&handles.explain_route(&read(body).await?)?),
        (Method::POST, ["api", "v1", "explain", "access"]) => json(&handles.explain_access(&read(body).await?)?),
        // Not for each process of the host: it tells what others have asked for.
        (Method::POST, ["api", "v1", "why"]) => json(&handles.why(&read(body).await?).await?),
        // Likewise.
        (Method::POST, ["api", "v1", "traces"]) => json(&handles.traces(&read(body).await?).await?),
        // Likewise, of access logs.
        (Method::POST, ["api", "v1", "log"]) => json(&handles.log(&read(body).await?).await?),
        // Nor this, of workloads that the asking process may have nothing to do with.
        (Method::POST, ["api", "v1", "plaintext"]) => json(&handles.plaintext().await),
        (Method::GET, ["api", "v1", "tokens"]) => json(&handles.tokens()),
        (Method::POST, ["api", "v1", "tokens"]) => json(&handles.issuer.create_token(read(body).await?).await?),
        (Method::POST, ["api", "v1", "tokens", id, "revoke"]) => json(&handles.issuer.revoke_token(id).await?),
        (Method::POST, ["api", "v1", "workloads"]) => {
            let spec: ServiceSpec = read(body).await?;
            let registration = handles.health.register(spec).await?;
            Ok(lasting(registration))
        }
        (Method::POST, ["api", "v1", "workloads", namespace, name, "drain"]) => {
            json(&handles.drain_workload(namespace.parse()?, name.parse()?).await?)
        }
        (Method::POST, ["api", "v1", "leave"]) => {
            let force = parameter(query, "force").is_some_and(|force| force == "true");
            json(&handles.leave(force)?)
        }
        #[cfg(feature = "testing")]
        (Method::POST, ["debug", "actors", name, fault]) => json(&handles.inject(name, fault)?),
        #[cfg(feature = "testing")]
        (Method::POST, ["debug", "certificates", "renew"]) => json(&handles.issuer.renew_all().await?),
        (method, segments) => {
            let file = match (method, segments) {
                (Method::GET | Method::HEAD, [name]) => console::file(name, &parts.headers),
                _ => None,
            };
            let why = || format!("{} /{path} is not part of the admin API", parts.method);
            Ok(file.unwrap_or_else(|| refuse(StatusCode::NOT_FOUND, &why())))
        }
    }
}

/// Registrations last as long as their client reads this answer: one JSON line per change of health, until the
/// client goes away, which drops the body and with it the registration.
fn lasting(registration: Registration) -> Response<Body> {
    let lines = futures_util::stream::unfold(registration, |mut registration| async move {
        let health = registration.next_health().await?;
        let line = format!("{}\n", serde_json::json!({ "workload": registration.workload(), "health": health }));
        Some((Ok(Frame::data(Bytes::from(line))), registration))
    });
    Response::new(BodyExt::boxed_unsync(StreamBody::new(lines.boxed())))
}

/// Whether an event stream is asked for, as browsers' `EventSource` does.
fn wants_stream(headers: &HeaderMap) -> bool {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accept.flat_map(|accept| accept.split(',')).any(|media| media.trim().starts_with("text/event-stream"))
}

fn parameter(query: &str, name: &str) -> Option<String> {
    // Values are names of services and flags: nothing that percent-encoding could change.
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, v)| v.to_owned())
}

/// All parameters, decoded.
fn parameters(query: &str) -> impl Iterator<Item = (String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(&value.replace('+', " ")))
    })
}

async fn read<T: DeserializeOwned>(body: Incoming) -> anyhow::Result<T> {
    let bytes =
        Limited::new(body, MAX_REQUEST_LEN).collect().await.map_err(|error| anyhow!("reading the request: {error}"))?;
    serde_json::from_slice(&bytes.to_bytes()).context("the request's JSON")
}

fn json(value: &impl Serialize) -> anyhow::Result<Response<Body>> {
    let mut response = full(StatusCode::OK, serde_json::to_string(value)?);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    Ok(response)
}

fn refuse(status: StatusCode, why: &str) -> Response<Body> {
    let mut response =
        json(&Refusal { error: why.to_owned() }).unwrap_or_else(|_| full(status, String::from("refused")));
    *response.status_mut() = status;
    response
}

fn text(status: StatusCode, body: String) -> Response<Body> {
    let mut response = full(status, body);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn full(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed_unsync());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::ready};

    use tokio::time::timeout;

    use super::*;

    const MOMENT: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_full_listener_waits_without_holding_up_whoever_waits_beside_it() {
        let mut door = Door::new("test");
        let mut inside = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            inside.push(door.next(|| ready(Ok(()))).await.unwrap());
        }
        assert!(timeout(MOMENT, door.next(|| ready(Ok(())))).await.is_err());
        inside.pop();
        let ((), _place) = door.next(|| ready(Ok(()))).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_accept_is_tried_again_after_a_pause() {
        let mut door = Door::new("test");
        let tries = Cell::new(0);
        let start = tokio::time::Instant::now();
        let accept = || {
            tries.set(tries.get() + 1);
            ready(if tries.get() > 3 { Ok(()) } else { Err(io::Error::other("too many open files")) })
        };
        let ((), _place) = door.next(accept).await.unwrap();
        assert_eq!((tries.get(), start.elapsed()), (4, 3 * ACCEPT_PAUSE));
    }
}
