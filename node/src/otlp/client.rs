//! One collector, over gRPC or HTTP/1.1. A service of the mesh is called through the node's own proxy, so that it knows
//! who calls; another host directly.

use std::{fmt, net::SocketAddr, sync::Arc};

use anyhow::{Context, bail};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, time::timeout};
use weft_policy::{route::Client as Caller, telemetry::Collector, view::Host};
use weft_proxy::ports::Views;

/// The longest answer that is read.
const MAX_ANSWER: usize = 64 * 1024;
const GRPC_STATUS: &str = "grpc-status";
/// gRPC's codes after which OTLP has a client try again: cancelled, deadline exceeded, resource exhausted, aborted, out
/// of range, unavailable, data loss. <https://opentelemetry.io/docs/specs/otlp/#failures>
const GRPC_RETRYABLE: [&[u8]; 7] = [b"1", b"4", b"8", b"10", b"11", b"14", b"15"];

/// How collectors are reached.
#[derive(Clone)]
pub struct Way {
    pub views: Views,
    /// Where the node's proxy takes the calls of local applications.
    pub outbound: SocketAddr,
}

/// Why something was not taken.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) what: String,
    pub(super) may_repeat: bool,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { what: format!("{error:#}"), may_repeat: true }
    }
}

pub(super) struct Client {
    collector: Arc<Collector>,
    way: Way,
    open: Option<Connection>,
}

enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.collector.host, self.collector.port)
    }
}

impl Client {
    pub(super) fn new(collector: Arc<Collector>, way: Way) -> Self {
        Self { collector, way, open: None }
    }

    /// Sends a message, and gives the answer's.
    pub(super) async fn send(&mut self, method: &str, message: &[u8]) -> Result<Bytes, Failure> {
        let limit = self.collector.timeout;
        let sent = timeout(limit, self.exchange(method, message)).await;
        let sent = sent.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {limit:?}").into()));
        if sent.is_err() {
            self.open = None;
        }
        sent
    }

    async fn exchange(&mut self, method: &str, message: &[u8]) -> Result<Bytes, Failure> {
        let host = self.host();
        let mut connection = match self.open.take() {
            Some(open) if open.is_open() => open,
            _ => self.connect(&host).await?,
        };
        let request = self.request(&host, method, message)?;
        let response = match &mut connection {
            Connection::Http1(sender) => {
                sender.ready().await.context("the connection broke")?;
                sender.send_request(request).await
            }
            Connection::Http2(sender) => sender.send_request(request).await,
        };
        let (head, body) = response.context("the request broke")?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer broke: {error}"))?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let answer = self.judge(head.status, &head.headers, &trailers, body.to_bytes())?;
        self.open = Some(connection);
        Ok(answer)
    }

    /// What a service of the mesh is called, or the host as it is written.
    fn host(&self) -> Place {
        let Collector { namespace, host, port, .. } = &*self.collector;
        let view = self.way.views.load();
        match view.host(host, Some(*port), Caller { namespace, workload: None }) {
            Some(Host::Service(service)) => Place { host: service.fqdn.to_string(), is_of_mesh: true },
            _ => Place { host: host.clone(), is_of_mesh: false },
        }
    }

    async fn connect(&self, place: &Place) -> anyhow::Result<Connection> {
        let port = self.collector.port;
        let stream = match place.is_of_mesh {
            true => TcpStream::connect(self.way.outbound).await,
            false => TcpStream::connect((place.host.as_str(), port)).await,
        };
        let stream = TokioIo::new(stream.with_context(|| format!("cannot connect to {}:{port}", place.host))?);
        Ok(if self.collector.http_path.is_some() {
            let (sender, connection) = http1::handshake(stream).await?;
            tokio::spawn(connection);
            Connection::Http1(sender)
        } else {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
            tokio::spawn(connection);
            Connection::Http2(sender)
        })
    }

    fn request(&self, place: &Place, method: &str, message: &[u8]) -> anyhow::Result<Request<Full<Bytes>>> {
        let authority = format!("{}:{}", place.host, self.collector.port);
        let mut request = match &self.collector.http_path {
            Some(path) => Request::post(path.as_str())
                .header(header::HOST, &authority)
                .header(header::CONTENT_TYPE, "application/x-protobuf")
                .body(Full::new(Bytes::copy_from_slice(message)))?,
            None => {
                let length = u32::try_from(message.len()).context("the message is too long")?;
                let mut body = BytesMut::with_capacity(message.len() + 5);
                body.put_u8(0); // not compressed
                body.put_u32(length);
                body.put_slice(message);
                Request::post(format!("http://{authority}{method}").parse::<Uri>()?)
                    .header(header::CONTENT_TYPE, "application/grpc")
                    .header(header::TE, "trailers")
                    .body(Full::new(body.freeze()))?
            }
        };
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("weft/", env!("CARGO_PKG_VERSION"))));
        // Telling of requests makes none that are told of.
        let unsampled = format!("00-{:032x}-{:016x}-00", rand::random::<u128>() | 1, rand::random::<u64>() | 1);
        headers.insert("traceparent", HeaderValue::from_str(&unsampled)?);
        for (name, value) in &self.collector.headers {
            headers.insert(http::HeaderName::try_from(name.as_str())?, HeaderValue::from_str(value)?);
        }
        Ok(request)
    }

    fn judge(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        trailers: &HeaderMap,
        body: Bytes,
    ) -> Result<Bytes, Failure> {
        if self.collector.http_path.is_some() {
            let may_repeat = matches!(status.as_u16(), 429 | 502..=504);
            return match status.is_success() {
                true => Ok(body),
                false => Err(Failure { what: format!("it answers {status}"), may_repeat }),
            };
        }
        if status != StatusCode::OK {
            return Err(Failure { what: format!("it answers {status}"), may_repeat: status.is_server_error() });
        }
        let code = trailers.get(GRPC_STATUS).or_else(|| headers.get(GRPC_STATUS)).map(HeaderValue::as_bytes);
        match code {
            Some(b"0") => message_of(body).map_err(Failure::from),
            code => {
                let code = code.unwrap_or_default();
                let what = format!("it answers with gRPC status {}", String::from_utf8_lossy(code));
                Err(Failure { what, may_repeat: GRPC_RETRYABLE.contains(&code) })
            }
        }
    }
}

/// Where a collector is.
struct Place {
    host: String,
    is_of_mesh: bool,
}

impl Connection {
    fn is_open(&self) -> bool {
        match self {
            Self::Http1(sender) => !sender.is_closed(),
            Self::Http2(sender) => !sender.is_closed(),
        }
    }
}

/// The one message in the body of a gRPC answer.
fn message_of(body: Bytes) -> anyhow::Result<Bytes> {
    match body.split_at_checked(5) {
        Some(([0, length @ ..], message)) if length == (message.len() as u32).to_be_bytes() => Ok(body.slice(5..)),
        _ => bail!("its answer is not one message"),
    }
}
