//! The node's one QUIC endpoint: it accepts and dials from the same socket, so a peer's address is the same both ways.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{Arc, OnceLock},
    time::Duration,
};

use quinn::{
    Connection, ConnectionError, Endpoint, EndpointConfig, IdleTimeout, TokioRuntime, TransportConfig,
    TransportErrorCode, VarInt,
    crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig},
};
use rustls::pki_types::{CertificateDer, UnixTime};
use socket2::{Domain, Protocol, Socket, Type};
use weft_ca::trust::TrustError;
use weft_wire::{frame::ALPN_JOIN, id::MeshId};

use super::{
    PeerError,
    tls::{self, Peer, Standing},
};
use crate::identity::IdentityReader;

/// A link on which nothing was heard for so long is lost. QUIC counts from the first packet that stays unanswered, so
/// a dead peer is noticed within this and a ping's wait; with the doubt that membership leaves it, within 3 s. A verdict
/// only demotes, so erring early is cheap.
const IDLE_TIMEOUT: Duration = Duration::from_millis(1_300);
/// Who hears nothing for so long pings: one ping may be lost. The dialler's is heard there and the acknowledgement here,
/// so while both live only the dialler pings.
const DIALLER_PINGS_AFTER: Duration = Duration::from_millis(600);
const DIALLED_PINGS_AFTER: Duration = Duration::from_millis(700);
/// Longest wait for a peer to answer a dial.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// A member may have so many messages, so many questions, and so many bytes of them under way.
const MAX_UNI_STREAMS: u32 = 256;
const MAX_BI_STREAMS: u32 = 32;
const MEMBER_WINDOW: u32 = 8 * 1024 * 1024;
/// Whoever has not shown a certificate may ask one question of this many bytes, and send no messages.
const STRANGER_WINDOW: u32 = 64 * 1024;
/// The kernel's default of 208 KiB drops acknowledgements of a thousand peers (gossip.md 3.1).
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// TLS wants a name in the ClientHello; peers are known by their SPIFFE id, so it says nothing.
const SERVER_NAME: &str = "node.weft";

/// Who is at the other end of a connection that was accepted.
pub enum Accepted {
    Member { connection: Connection, peer: Box<Peer> },
    Joining { connection: Connection },
}

/// A cloneable handle to the endpoint.
#[derive(Clone)]
pub struct Quic {
    endpoint: Endpoint,
    identity: IdentityReader,
}

impl Quic {
    /// Binds the endpoint. Connections wait until [`Quic::accept`] is called.
    pub fn bind(address: SocketAddr, identity: IdentityReader) -> Result<Self, PeerError> {
        let server_crypto = QuicServerConfig::try_from(tls::server_config(identity.clone())?)
            .map_err(|error| PeerError::Tls(error.to_string()))?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(server_crypto));
        server.transport_config(Arc::new(transport(DIALLED_PINGS_AFTER)));
        let socket = udp_socket(address).map_err(|source| PeerError::Bind { address, source })?;
        let endpoint = Endpoint::new(EndpointConfig::default(), Some(server), socket, Arc::new(TokioRuntime))
            .map_err(|source| PeerError::Bind { address, source })?;
        Ok(Self { endpoint, identity })
    }

    /// Where peers reach the endpoint.
    #[cfg(test)]
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Waits for the next peer to knock, without waiting for its handshake. `None` once the endpoint is closed.
    pub async fn accept(&self) -> Option<quinn::Incoming> {
        self.endpoint.accept().await
    }

    /// Completes the handshake with a peer that knocked.
    pub async fn admit(&self, incoming: quinn::Incoming) -> Result<Accepted, PeerError> {
        let address = incoming.remote_address();
        let failed = |why: String| PeerError::Handshake { address, why };
        let connecting = incoming.accept().map_err(|error| failed(error.to_string()))?;
        let connection = tokio::time::timeout(DIAL_TIMEOUT, connecting)
            .await
            .map_err(|_| failed(format!("it took longer than {DIAL_TIMEOUT:?}")))?
            .map_err(|error| failed(error.to_string()))?;
        if alpn(&connection).is_some_and(|alpn| alpn == ALPN_JOIN) {
            return Ok(Accepted::Joining { connection });
        }
        let peer = Box::new(self.peer_of(&connection)?);
        Ok(Accepted::Member { connection, peer })
    }

    /// Connects to a member.
    pub async fn dial(&self, address: SocketAddr) -> Result<(Connection, Peer), PeerError> {
        let refused = Arc::default();
        let config = tls::member_client_config(self.identity.clone(), &refused)?;
        let connection = connect(&self.endpoint, config, &refused, address).await?;
        let peer = self.peer_of(&connection)?;
        Ok((connection, peer))
    }

    /// Stops everything, telling the peers that it is on purpose.
    pub async fn close(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"node stopped");
        // Bounded: a peer that never acknowledges must not hold up the shutdown.
        let _ = tokio::time::timeout(Duration::from_millis(500), self.endpoint.wait_idle()).await;
    }

    fn peer_of(&self, connection: &Connection) -> Result<Peer, PeerError> {
        let address = connection.remote_address();
        let chain = shown_chain(connection).ok_or(PeerError::NoCertificate { address })?;
        let peer = tls::judge(&self.identity.load().trust, &chain, UnixTime::now())
            .map_err(|error| PeerError::Untrusted { address, why: error.to_string() })?;
        if peer.standing == Standing::Member {
            connection.set_max_concurrent_uni_streams(VarInt::from_u32(MAX_UNI_STREAMS));
            connection.set_max_concurrent_bi_streams(VarInt::from_u32(MAX_BI_STREAMS));
            connection.set_receive_window(VarInt::from_u32(MEMBER_WINDOW));
        }
        Ok(peer)
    }
}

/// A joining host's connection to a seed, and the chain (root last) that the seed showed.
pub async fn dial_seed(
    seed: SocketAddr,
    mesh: MeshId,
) -> Result<(Endpoint, Connection, Vec<CertificateDer<'static>>), PeerError> {
    let any: SocketAddr = if seed.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let endpoint = Endpoint::client(any).map_err(|source| PeerError::Bind { address: any, source })?;
    let refused = Arc::default();
    let config = tls::join_client_config(mesh, &refused)?;
    let connection = connect(&endpoint, config, &refused, seed).await?;
    let chain = shown_chain(&connection).ok_or(PeerError::NoCertificate { address: seed })?;
    Ok((endpoint, connection, chain))
}

async fn connect(
    endpoint: &Endpoint,
    config: rustls::ClientConfig,
    refused: &OnceLock<TrustError>,
    address: SocketAddr,
) -> Result<Connection, PeerError> {
    let unreachable = |why: String| match refused.get() {
        Some(refusal) => PeerError::Untrusted { address, why: refusal.to_string() },
        None => PeerError::Unreachable { address, why },
    };
    let config = client_config(config)?;
    let connecting =
        endpoint.connect_with(config, address, SERVER_NAME).map_err(|error| unreachable(error.to_string()))?;
    tokio::time::timeout(DIAL_TIMEOUT, connecting)
        .await
        .map_err(|_| unreachable(format!("no answer within {DIAL_TIMEOUT:?}")))?
        .map_err(|error| match error {
            ConnectionError::ConnectionClosed(close) if close.error_code == TransportErrorCode::CONNECTION_REFUSED => {
                PeerError::Busy { address }
            }
            error => unreachable(error.to_string()),
        })
}

fn client_config(tls: rustls::ClientConfig) -> Result<quinn::ClientConfig, PeerError> {
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| PeerError::Tls(error.to_string()))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport(DIALLER_PINGS_AFTER)));
    Ok(config)
}

/// As strangers have it; [`Quic::peer_of`] opens it for members.
fn transport(pings_after: Duration) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(pings_after))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT.as_millis() as u32))))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .receive_window(VarInt::from_u32(STRANGER_WINDOW))
        .datagram_receive_buffer_size(None);
    transport
}

fn udp_socket(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // Larger buffers are a wish: the kernel's own limit may be lower.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn alpn(connection: &Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol.clone()
}

fn shown_chain(connection: &Connection) -> Option<Vec<CertificateDer<'static>>> {
    connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok().map(|chain| *chain)
}
