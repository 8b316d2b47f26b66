//! Making connections: TCP, TLS and the HTTP handshakes, each within a deadline.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;
use weft_wire::id::SpiffeId;

use crate::{
    body::RequestBody,
    error::ConnectError,
    http1::{Answers, Strict},
    http2::{MAX_HEADER_LIST, Watched},
    ports::{IdentitySnapshot, WorkloadIdentity},
    tls::{self, MeshTls},
};

/// A workload of this host answers at once or not at all.
pub(super) const APP_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// TCP, and TLS where there is some, to another host. Istio's default connect timeout.
pub(super) const MESH_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes in the clear, to a workload of this node or to a place outside (left), or, encrypted, to another node's (right).
pub(crate) type Stream = Either<TcpStream, TlsStream<TcpStream>>;

pub(crate) async fn connect_app(address: SocketAddr) -> Result<TcpStream, ConnectError> {
    connect_plain(address, APP_CONNECT_TIMEOUT).await
}

pub(super) async fn connect_plain(address: SocketAddr, limit: Duration) -> Result<TcpStream, ConnectError> {
    within(limit, &address.to_string().into(), tcp(address)).await
}

/// One TLS connection to another node.
pub(super) struct MeshDial<'a> {
    pub(super) tls: &'a MeshTls,
    pub(super) snapshot: &'a IdentitySnapshot,
    pub(super) identity: &'a WorkloadIdentity,
    pub(super) address: SocketAddr,
    pub(super) sni: &'a str,
    pub(super) expected: Arc<[SpiffeId]>,
}

impl MeshDial<'_> {
    /// Connects, and makes sure that the server is one of those expected and speaks `alpn`.
    pub(super) async fn connect(self, alpn: &'static [u8]) -> Result<TlsStream<TcpStream>, ConnectError> {
        let to: Arc<str> = format!("{} at {}", self.sni, self.address).into();
        let tls_error = |source: io::Error| ConnectError::Tls { to: to.clone(), source: Arc::new(source) };
        let name = ServerName::try_from(self.sni.to_owned()).map_err(|error| tls_error(io::Error::other(error)))?;
        let config = self
            .tls
            .client(self.snapshot, self.identity, self.expected, alpn)
            .map_err(|error| tls_error(io::Error::other(error)))?;
        within(MESH_CONNECT_TIMEOUT, &to, async {
            let tcp = tcp(self.address).await?;
            let connected = TlsConnector::from(config).connect(name, tcp).await;
            let stream = connected.map_err(|error| ConnectError::of_handshake(to.clone(), error))?;
            match stream.get_ref().1.alpn_protocol() {
                Some(chosen) if chosen == alpn => Ok(stream),
                _ => Err(ConnectError::Alpn { to: to.clone(), expected: alpn_name(alpn) }),
            }
        })
        .await
    }
}

fn alpn_name(alpn: &[u8]) -> &'static str {
    match alpn {
        tls::ALPN_HTTP2 => "h2",
        tls::ALPN_HTTP1 => "http/1.1",
        _ => "weft-tcp/1",
    }
}

async fn tcp(address: SocketAddr) -> Result<TcpStream, ConnectError> {
    let failed = |source| ConnectError::Tcp { to: address.to_string().into(), source: Arc::new(source) };
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

async fn within<T>(
    limit: Duration,
    to: &Arc<str>,
    connect: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    tokio::time::timeout(limit, connect)
        .await
        .unwrap_or_else(|_| Err(ConnectError::Timeout { to: to.clone(), after: limit }))
}

/// Begins HTTP/1.1 on a fresh connection; its task ends with the sender, or lives on as a tunnel.
pub(super) async fn http1<IO>(to: &str, io: IO) -> Result<Http1Sender, ConnectError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answers = Answers::default();
    let (sender, connection) = http1::Builder::new()
        .max_header_size(MAX_HEADER_LIST as usize)
        .handshake(TokioIo::new(Strict::responses(io, answers.clone())))
        .await
        .map_err(|source| ConnectError::Http { to: to.into(), source: Arc::new(source) })?;
    tokio::task::spawn_local(connection.with_upgrades());
    Ok(Http1Sender { sender, answers })
}

/// Sends requests on one HTTP/1.1 connection, one after another.
pub(crate) struct Http1Sender {
    sender: http1::SendRequest<RequestBody>,
    answers: Answers,
}

impl Http1Sender {
    pub(super) async fn try_send_request(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        self.answers.to(request.method());
        self.sender.try_send_request(request).await
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }
}

/// Begins HTTP/2 on a fresh connection; its task ends with the last sender and stream.
pub(super) async fn http2<IO>(to: &str, io: IO) -> Result<http2::SendRequest<RequestBody>, ConnectError>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (sender, connection) = crate::http2::client()
        .handshake(TokioIo::new(Watched::upstream(io)))
        .await
        .map_err(|source| ConnectError::Http { to: to.into(), source: Arc::new(source) })?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}
