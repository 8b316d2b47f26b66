//! What the proxy is told once, at its start. What changes while it runs comes through [`crate::ports`].

use std::{net::SocketAddr, num::NonZeroUsize, sync::Arc};

use weft_wire::id::ServiceName;

use crate::{access_log::AccessLog, ports::Caller};

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
    /// Where each exchange is written, if anywhere.
    pub access_log: Option<AccessLog>,
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
    /// HTTP/1.1, or HTTP/2 with prior knowledge.
    Http,
    /// Bytes.
    Tcp,
}
