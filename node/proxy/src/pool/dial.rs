//! Making connections: TCP, TLS and the HTTP handshakes, each within a deadline.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use http_body::Body;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_util::either::Either;
use weft_policy::connection::{ConnectionSettings, Keepalive};
use weft_wire::id::SpiffeId;

use super::protected::{Protected, Servers};
use crate::{
    error::ConnectError,
    http1,
    http2::{Flusher, Gathered, Watched},
    metrics::Metrics,
    ports::{IdentitySnapshot, WorkloadIdentity},
    tls::{self, MeshTls, Peer, Role},
};

/// A workload of this host answers at once or not at all.
pub(super) const APP_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// TCP, and TLS where there is some, to another host. Istio's default connect timeout.
pub(super) const MESH_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes in the clear, to a workload of this node or to a place outside, or (right) encrypted.
pub(crate) type Stream = Either<TcpStream, Protected>;

/// Sends requests on one HTTP/1.1 connection, one after another.
pub(crate) type Http1Sender = http1::client::Client<Stream>;

/// `default` is the time that it may take where documents say nothing.
pub(super) async fn connect_plain(
    address: SocketAddr,
    settings: Option<&ConnectionSettings>,
    default: Duration,
) -> Result<TcpStream, ConnectError> {
    let limit = connect_timeout(settings).unwrap_or(default);
    within(limit, &address.to_string().into(), tcp(address, settings)).await
}

fn connect_timeout(settings: Option<&ConnectionSettings>) -> Option<Duration> {
    settings.and_then(|settings| settings.connect_timeout)
}

/// One TLS connection to another node.
pub(super) struct MeshDial<'a> {
    pub(super) tls: &'a MeshTls,
    pub(super) snapshot: &'a IdentitySnapshot,
    pub(super) identity: &'a WorkloadIdentity,
    pub(super) address: SocketAddr,
    pub(super) sni: &'a str,
    pub(super) expected: Arc<[SpiffeId]>,
    pub(super) servers: &'a Servers,
}

impl MeshDial<'_> {
    /// Connects, and makes sure that the server is one of those expected and speaks `alpn`. Returns who it is too.
    pub(super) async fn connect(
        self,
        alpn: &'static [u8],
        settings: Option<&ConnectionSettings>,
        metrics: &Metrics,
    ) -> Result<(Protected, Arc<Peer>), ConnectError> {
        let to: Arc<str> = format!("{} at {}", self.sni, self.address).into();
        let tls_error = |source: io::Error| ConnectError::Tls { to: to.clone(), source: Arc::new(source) };
        let name = ServerName::try_from(self.sni.to_owned()).map_err(|error| tls_error(io::Error::other(error)))?;
        let config = self
            .tls
            .client(self.snapshot, self.identity, self.expected, alpn)
            .map_err(|error| tls_error(io::Error::other(error)))?;
        within(connect_timeout(settings).unwrap_or(MESH_CONNECT_TIMEOUT), &to, async {
            let tcp = tcp(self.address, settings).await?;
            let connected = TlsConnector::from(config).connect(name, tcp).await;
            match &connected {
                Ok(_) => metrics.count_handshake(false),
                Err(_) => metrics.count_failed_handshake(),
            }
            let stream = connected.map_err(|error| ConnectError::of_handshake(to.clone(), error))?;
            let server = self.tls.peer(self.snapshot, stream.get_ref().1.peer_certificates(), Role::Server);
            let server = server.map_err(|source| ConnectError::Peer { to: to.clone(), source })?;
            let stream = self.servers.protect(stream, server.clone());
            match stream.alpn() {
                Some(chosen) if chosen == alpn => Ok((stream, server)),
                _ => Err(ConnectError::Alpn { to: to.clone(), expected: alpn_name(alpn) }),
            }
        })
        .await
    }
}

/// One TLS connection to a place outside of the mesh.
pub(super) struct OutsideDial<'a> {
    pub(super) address: SocketAddr,
    /// A host name or an address: the certificate must hold it, unless documents name others.
    pub(super) server: &'a str,
    pub(super) config: Arc<ClientConfig>,
}

impl OutsideDial<'_> {
    pub(super) async fn connect(
        self,
        settings: Option<&ConnectionSettings>,
        default: Duration,
    ) -> Result<Protected, ConnectError> {
        let to: Arc<str> = format!("{} at {}", self.server, self.address).into();
        let name = ServerName::try_from(self.server.to_owned());
        let name =
            name.map_err(|_| ConnectError::Unprotected(format!("{} cannot be a server's name", self.server).into()))?;
        within(connect_timeout(settings).unwrap_or(default), &to, async {
            let tcp = tcp(self.address, settings).await?;
            // A server that chooses no protocol speaks what its port says.
            let connected = TlsConnector::from(self.config).connect(name, tcp).await;
            connected.map(Protected::outside).map_err(|error| ConnectError::of_handshake(to.clone(), error))
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

async fn tcp(address: SocketAddr, settings: Option<&ConnectionSettings>) -> Result<TcpStream, ConnectError> {
    let failed = |source| ConnectError::Tcp { to: address.to_string().into(), source: Arc::new(source) };
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    if let Some(keepalive) = settings.and_then(|settings| settings.keepalive) {
        SockRef::from(&stream).set_tcp_keepalive(&system_keepalive(keepalive)).map_err(failed)?;
    }
    Ok(stream)
}

/// Within what Linux takes: whole seconds, at most 32,767, and 127 probes.
fn system_keepalive(keepalive: Keepalive) -> TcpKeepalive {
    const LONGEST: Duration = Duration::from_secs(32_767);
    const MOST_PROBES: u32 = 127;
    let in_range = |time: Duration| time.clamp(Duration::from_secs(1), LONGEST);
    let mut system = TcpKeepalive::new();
    if let Some(time) = keepalive.time {
        system = system.with_time(in_range(time));
    }
    if let Some(interval) = keepalive.interval {
        system = system.with_interval(in_range(interval));
    }
    if let Some(probes) = keepalive.probes {
        system = system.with_retries(probes.min(MOST_PROBES));
    }
    system
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

/// Begins HTTP/2 on a fresh connection; its task ends with the last sender and stream.
pub(super) async fn http2<IO, B>(
    to: &str,
    io: IO,
    settings: Option<&ConnectionSettings>,
) -> Result<http2::SendRequest<B>, ConnectError>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin + 'static,
{
    let (io, flusher) = Gathered::new(io);
    begin_http2(to, Watched::upstream(io), flusher, settings).await
}

/// As [`http2`], with a server that is not weft: waits for its SETTINGS, for it refuses streams beyond the number there,
/// and nginx ends a connection that brought a hundred of them. `default` is the time that it may take where documents
/// say nothing.
pub(super) async fn http2_settled<IO, B>(
    to: &str,
    io: IO,
    settings: Option<&ConnectionSettings>,
    default: Duration,
) -> Result<http2::SendRequest<B>, ConnectError>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin + 'static,
{
    let to: Arc<str> = to.into();
    within(connect_timeout(settings).unwrap_or(default), &to, async {
        let (io, flusher) = Gathered::new(io);
        let (io, settled) = Watched::upstream_until_settled(io);
        let sender = begin_http2(&to, io, flusher, settings).await?;
        // If it closes instead, the first request will tell why.
        let _ = settled.await;
        Ok(sender)
    })
    .await
}

async fn begin_http2<IO, B>(
    to: &str,
    io: Watched<Gathered<IO>>,
    flusher: Flusher<IO>,
    settings: Option<&ConnectionSettings>,
) -> Result<http2::SendRequest<B>, ConnectError>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin + 'static,
{
    let mut builder = crate::http2::client(flusher);
    if let Some(ping) = settings.and_then(|settings| settings.ping) {
        builder.keep_alive_interval(ping.interval).keep_alive_timeout(ping.timeout);
    }
    let (sender, connection) = builder
        .handshake(TokioIo::new(io))
        .await
        .map_err(|source| ConnectError::Http { to: to.into(), source: Arc::new(source) })?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn keep_alive_is_as_documents_say_within_what_the_system_takes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connect = async |keepalive| {
            let settings = ConnectionSettings { keepalive: Some(keepalive), ..ConnectionSettings::default() };
            tcp(address, Some(&settings)).await.unwrap()
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let given = connect(Keepalive { probes: Some(3), time: seconds(100), interval: seconds(7) }).await;
        let given = SockRef::from(&given);
        assert!(given.keepalive().unwrap());
        assert_eq!(given.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!((given.tcp_keepalive_time().ok(), given.tcp_keepalive_interval().ok()), (seconds(100), seconds(7)));

        let too_much =
            Keepalive { probes: Some(1_000), time: seconds(1_000_000), interval: Some(Duration::from_millis(1)) };
        let clamped = connect(too_much).await;
        let clamped = SockRef::from(&clamped);
        assert_eq!(clamped.tcp_keepalive_retries().unwrap(), 127);
        assert_eq!(clamped.tcp_keepalive_time().ok(), seconds(32_767));
        assert_eq!(clamped.tcp_keepalive_interval().ok(), seconds(1));

        assert!(connect(Keepalive::default()).await.nodelay().unwrap());
        let plain = tcp(address, None).await.unwrap();
        assert!(!SockRef::from(&plain).keepalive().unwrap());
    }
}
