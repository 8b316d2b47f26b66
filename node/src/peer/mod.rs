//! How nodes talk to each other: QUIC connections on [`weft_wire::frame::MESH_PORT`], authenticated both ways by node
//! certificates, and the one connection a joining host makes before it has one.

pub mod join;
pub mod quic;
pub mod session;
pub mod stream;
pub mod tls;

use std::net::SocketAddr;

/// Why something between two nodes did not happen.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("cannot open a QUIC socket on {address}: {source}")]
    Bind { address: SocketAddr, source: std::io::Error },
    #[error("TLS configuration: {0}")]
    Tls(String),
    #[error("cannot reach {address}: {why}")]
    Unreachable { address: SocketAddr, why: String },
    #[error("{address} came, and its handshake failed: {why}")]
    Handshake { address: SocketAddr, why: String },
    #[error("{address} is busy with other connections; try again")]
    Busy { address: SocketAddr },
    #[error("{address} did not show a node certificate")]
    NoCertificate { address: SocketAddr },
    #[error("{address} is refused: {why}")]
    Untrusted { address: SocketAddr, why: String },
    #[error("the stream broke: {0}")]
    Stream(String),
    #[error("no answer within {0:?}")]
    Deadline(std::time::Duration),
    #[error(transparent)]
    Wire(#[from] weft_wire::codec::WireError),
    #[error("{0}")]
    Refused(String),
}
