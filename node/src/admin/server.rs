//! Serves the admin API: looks up what is asked for, whether it may be on that listener, and does it.

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
    console, events, live, openapi,
    operations::{Asked, Asker, Operation},
    schemas,
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

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Where a request came in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Listener {
    /// Whoever may open the unix socket owns the node.
    Unix,
    /// Every process of the host.
    Loopback,
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
                    tokio::spawn(serve(stream, Listener::Unix, handles, place));
                }
                entered = tcp.next(|| self.tcp.accept()) => {
                    let ((stream, _), place) = entered?;
                    tokio::spawn(serve(stream, Listener::Loopback, handles, place));
                }
                entered = metrics.next(|| accept(self.metrics.as_deref())) => {
                    let ((stream, _), place) = entered?;
                    tokio::spawn(serve(stream, Listener::Metrics, handles, place));
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
    listener: Listener,
    handles: Handles,
    _place: OwnedSemaphorePermit,
) {
    let service = service_fn(move |request| {
        let handles = handles.clone();
        async move { Ok::<_, Infallible>(answer(request, listener, handles).await) }
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

async fn answer(request: Request<Incoming>, listener: Listener, handles: Handles) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let (method, headers) = (request.method(), request.headers());
    // A page in a browser on this host could reach the loopback address under a name of its own (DNS rebinding).
    if listener == Listener::Loopback && !host_is_local(&request) {
        return refuse(StatusCode::FORBIDDEN, "the admin address answers to its IP or to localhost only");
    }
    let asked = Asked::find(method, &path);
    let needed = asked.as_ref().map_or(Asker::Process, |asked| asked.description.asker);
    let changes = !matches!(*method, Method::GET | Method::HEAD);
    match listener {
        Listener::Unix => {}
        Listener::Loopback if changes && is_cross_origin(headers) => {
            return refuse(StatusCode::FORBIDDEN, "only the console's own pages may ask for that");
        }
        Listener::Loopback if needed == Asker::Owner => {
            return refuse(
                StatusCode::FORBIDDEN,
                "not on the admin address: this is answered on the unix socket in the node's data directory",
            );
        }
        Listener::Loopback if needed == Asker::Console && !handles.sessions.is_signed_in(headers, Instant::now()) => {
            let why = "sign in first: `weft console` on this host prints the address that does so";
            return refuse(StatusCode::UNAUTHORIZED, why);
        }
        Listener::Loopback => {}
        Listener::Metrics if needed == Asker::Scraper => {}
        Listener::Metrics => {
            return refuse(StatusCode::NOT_FOUND, "only /metrics, /healthz and /readyz are served here");
        }
    }
    let answered = match asked {
        Some(asked) => perform(&asked, request, &handles).await,
        #[cfg(feature = "testing")]
        None if listener == Listener::Unix && path.starts_with("/debug/") => fault(&path, &handles).await,
        None => Ok(file(&request)),
    };
    answered.unwrap_or_else(|error| refuse(StatusCode::UNPROCESSABLE_ENTITY, &format!("{error:#}")))
}

fn host_is_local(request: &Request<Incoming>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok()
}

async fn perform(asked: &Asked<'_>, request: Request<Incoming>, handles: &Handles) -> anyhow::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default();
    match asked.description.operation {
        Operation::Healthz => Ok(text(StatusCode::OK, "ok\n".into())),
        Operation::Readyz => {
            let missing = handles.not_ready();
            Ok(match missing.is_empty() {
                true => text(StatusCode::OK, "ready\n".into()),
                false => text(StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n"),
            })
        }
        Operation::Metrics => {
            let accept = parts.headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
            let format = Format::asked_for(&accept.collect::<Vec<_>>().join(","));
            let mut response = text(StatusCode::OK, handles.telemetry.encode(format)?);
            let content_type = header::HeaderValue::from_static(format.content_type());
            response.headers_mut().insert(header::CONTENT_TYPE, content_type);
            Ok(response)
        }
        Operation::OpenApi => json(&openapi::describe()),
        Operation::Status => json(&handles.status()),
        Operation::Members => json(&handles.members()),
        Operation::Services => json(&handles.services()),
        Operation::Workloads => json(&handles.workloads()),
        Operation::Endpoints => {
            if let Some(node) = parameter(query, "node") {
                return json(&handles.endpoints_on(&node));
            }
            let service = parameter(query, "service").context("the parameter `service` or `node` is missing")?;
            json(&handles.endpoints(&service)?)
        }
        Operation::Circuits => json(&handles.circuits()),
        Operation::Certificates => json(&*handles.certificates().await),
        Operation::Traffic => {
            let window = traffic::window(parameter(query, "window").as_deref())?;
            match wants_stream(&parts.headers) {
                false => json(&*handles.traffic(window).await),
                true => Ok(live::traffic(handles.clone(), window)),
            }
        }
        Operation::TrafficHistory => {
            let (since, step) = (parameter(query, "since"), parameter(query, "step"));
            let unix = UNIX_EPOCH.elapsed().unwrap_or_default();
            json(&*handles.traffic_history(traffic::range(since.as_deref(), step.as_deref(), unix)?).await)
        }
        Operation::TapByQuery => {
            let (query, length) = tap::query(parameters(query))?;
            let for_ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
            Ok(live::tap(handles.tap(TapRequest { query, for_ms, signed: None })?))
        }
        Operation::Tap => Ok(live::tap(handles.tap(read(body).await?)?)),
        Operation::Events => {
            let since = events::since(parameter(query, "since").as_deref())?;
            match wants_stream(&parts.headers) {
                false => json(&handles.events(since).await),
                true => Ok(live::events(handles.clone(), since)),
            }
        }
        Operation::Schemas => json(&schemas::list()),
        Operation::Schema => json(&schemas::of(asked.segment("kind"))?),
        Operation::Console => {
            let code = handles.sessions.new_code(Instant::now());
            let url = format!("http://{}/#/sign-in/{code}", handles.admin);
            json(&ConsoleCode { url, valid_seconds: Sessions::code_life().as_secs() })
        }
        Operation::Session => {
            let signed_in = handles.sessions.is_signed_in(&parts.headers, Instant::now());
            json(&SessionState { signed_in, token: None })
        }
        Operation::SignIn => {
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
        Operation::SignOut => {
            handles.sessions.sign_out(&parts.headers);
            json(&SessionState { signed_in: false, token: None })
        }
        Operation::Doctor => json(&handles.examine().await),
        Operation::Documents => json(&handles.documents()),
        Operation::PrepareDocuments => json(&handles.prepare(read(body).await?).await?),
        Operation::CompareDocuments => json(&handles.compare_documents().await),
        Operation::DocumentHistory => json(&handles.history(read(body).await?).await?),
        Operation::EditDocuments => json(&handles.edit(read(body).await?).await?),
        Operation::WriteDocuments => json(&handles.write(read(body).await?).await?),
        Operation::ExplainRoute => json(&handles.explain_route(&read(body).await?)?),
        Operation::ExplainAccess => json(&handles.explain_access(&read(body).await?)?),
        Operation::Why => json(&handles.why(&read(body).await?).await?),
        Operation::Traces => json(&handles.traces(&read(body).await?).await?),
        Operation::Log => json(&handles.log(&read(body).await?).await?),
        Operation::Plaintext => json(&handles.plaintext().await),
        Operation::Tokens => json(&handles.tokens()),
        Operation::CreateToken => json(&handles.issuer.create_token(read(body).await?).await?),
        Operation::RevokeToken => json(&handles.issuer.revoke_token(asked.segment("id")).await?),
        Operation::Register => {
            let spec: ServiceSpec = read(body).await?;
            let registration = handles.health.register(spec).await?;
            Ok(lasting(registration))
        }
        Operation::DrainWorkload => json(
            &handles.drain_workload(asked.segment("namespace").parse()?, asked.segment("workload").parse()?).await?,
        ),
        Operation::Leave => {
            let force = parameter(query, "force").is_some_and(|force| force == "true");
            json(&handles.leave(force)?)
        }
    }
}

/// One of the console's files.
fn file(request: &Request<Incoming>) -> Response<Body> {
    let (method, path) = (request.method(), request.uri().path());
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let file = path.strip_prefix('/').filter(|_| reads).and_then(|name| console::file(name, request.headers()));
    let why = || format!("{method} {path} is not part of the admin API");
    file.unwrap_or_else(|| refuse(StatusCode::NOT_FOUND, &why()))
}

/// What tests have a node do.
#[cfg(feature = "testing")]
async fn fault(path: &str, handles: &Handles) -> anyhow::Result<Response<Body>> {
    match path.split('/').skip(2).collect::<Vec<_>>()[..] {
        ["actors", name, fault] => json(&handles.inject(name, fault)?),
        ["certificates", "renew"] => json(&handles.issuer.renew_all().await?),
        _ => Err(anyhow!("{path} is no fault")),
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
