//! What the proxy is told once, at its start. What changes while it runs comes through [`crate::ports`].

use std::{net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use weft_wire::id::ServiceName;

use crate::{
    access_log::AccessLog,
    elsewhere::Elsewhere,
    ports::{Caller, SignalSink},
    tap::Taps,
};

/// The proxy's sockets and threads.
pub struct ProxyConfig {
    /// Threads of the data path. Each has its own listening sockets; the kernel spreads connections over them.
    pub workers: NonZeroUsize,
    /// Where other nodes connect, with mutual TLS: 15008.
    pub inbound: SocketAddr,
    /// Where applications of this host call from, in the clear, naming the service by Host or as an HTTP proxy:
    /// 15001. A loopback address, since whoever reaches it speaks as a workload of this node.
    pub outbound: SocketAddr,
    /// Further local addresses, each for one service.
    pub listeners: Vec<ListenerConfig>,
    /// Where exchanges are written.
    pub access_log: AccessLog,
    /// Whom spans are given to.
    pub signals: Arc<dyn SignalSink>,
    /// Who watches requests as they go by.
    pub taps: Arc<Taps>,
    /// What other cells have.
    pub elsewhere: Arc<Elsewhere>,
    pub limits: Limits,
}

/// What all callers together may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of each listening address, the port for other nodes included.
    pub connections: usize,
    /// Bytes held for peers that send or read slowly, before requests are refused.
    pub held_bytes: u64,
    /// How long a local caller's connection may be idle between two requests of HTTP/1.1.
    pub idle_timeout: Duration,
    /// How long a caller may take for a request's head once it has begun, or to begin HTTP/2.
    pub head_timeout: Duration,
    /// How long a body may stand still that was announced with its length, and a response that nobody takes.
    pub stall_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            held_bytes: 1 << 30,
            idle_timeout: Duration::from_secs(300),
            head_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(300),
        }
    }
}

/// A local address that leads to one service, whatever host the caller names.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    pub listen: SocketAddr,
    pub service: ServiceName,
    /// The service's port; may be left out if it has only one.
    pub port: Option<u16>,
    pub protocol: ListenerProtocol,
    /// As whom calls through this listener are made; otherwise the node's default caller.
    pub source: Option<Arc<Caller>>,
}

/// How a listener reads what it accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerProtocol {
    /// As the service's port is declared; else by what comes first.
    Auto,
    /// HTTP/1.1, or HTTP/2 with prior knowledge.
    Http,
    /// Bytes.
    Tcp,
}
