//! Connections to upstreams, kept and shared by the exchanges of one worker.
//!
//! Two kinds: to workloads of this node and to places outside ([`app`], plain), and to other nodes ([`mesh`], mutual
//! TLS). HTTP/2 is one connection for many exchanges ([`link`]); HTTP/1.1 is one each, given back when its response ends.

mod app;
mod dial;
mod life;
mod link;
mod mesh;

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, client::conn::TrySendError};
use tokio::net::TcpStream;
use weft_policy::{
    connection::ConnectionSettings,
    endpoint::{Endpoint, EndpointAddress},
};

pub(crate) use self::dial::Stream;
use self::{
    app::{AppPool, Exclusive},
    dial::{APP_CONNECT_TIMEOUT, Http1Sender, MESH_CONNECT_TIMEOUT, connect_plain},
    link::LinkLease,
    mesh::MeshPool,
};
use crate::{
    body::RequestBody,
    error::ConnectError,
    ports::{Caller, Identities},
    tls::MeshTls,
};

/// How often idle connections are looked through: so much later than it should a connection may be closed.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What a request needs of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Any,
    /// A connection that no exchange has used: the last one turned out to be stale.
    Fresh,
    /// HTTP/1.1 to itself, since the connection may become a tunnel.
    Upgrade,
}

pub(crate) struct Pools {
    apps: Rc<AppPool>,
    mesh: MeshPool,
}

impl Pools {
    pub(crate) fn new(tls: Arc<MeshTls>, identities: Identities) -> Self {
        Self { apps: Rc::new(AppPool::default()), mesh: MeshPool::new(tls, identities) }
    }

    /// A connection for one exchange with an endpoint, as `caller`, made and kept as its cluster says.
    pub(crate) async fn checkout(
        &self,
        endpoint: &Endpoint,
        settings: Option<&Arc<ConnectionSettings>>,
        caller: Option<&Caller>,
        need: Need,
    ) -> Result<Lease, ConnectError> {
        match &endpoint.address {
            EndpointAddress::Local(address) => {
                let http2 = endpoint.protocol.is_http2();
                AppPool::checkout(&self.apps, *address, http2, settings, need, APP_CONNECT_TIMEOUT).await
            }
            EndpointAddress::Outside(address) => {
                let http2 = endpoint.protocol.is_http2();
                AppPool::checkout(&self.apps, *address, http2, settings, need, MESH_CONNECT_TIMEOUT).await
            }
            EndpointAddress::Remote { address, sni } => {
                let caller = caller.ok_or(ConnectError::NoCaller)?;
                self.mesh.checkout(endpoint, *address, sni, settings, caller, need).await
            }
        }
    }

    /// A connection for one exchange with a workload of this node.
    pub(crate) async fn checkout_app(
        &self,
        address: SocketAddr,
        http2: bool,
        need: Need,
    ) -> Result<Lease, ConnectError> {
        AppPool::checkout(&self.apps, address, http2, None, need, APP_CONNECT_TIMEOUT).await
    }

    /// A connection of bytes to an endpoint, for a caller of its own.
    pub(crate) async fn tunnel(
        &self,
        endpoint: &Endpoint,
        settings: Option<&Arc<ConnectionSettings>>,
        caller: Option<&Caller>,
    ) -> Result<Stream, ConnectError> {
        let settings = settings.map(|settings| &**settings);
        match &endpoint.address {
            EndpointAddress::Local(address) => {
                Ok(Stream::Left(connect_plain(*address, settings, APP_CONNECT_TIMEOUT).await?))
            }
            EndpointAddress::Outside(address) => {
                Ok(Stream::Left(connect_plain(*address, settings, MESH_CONNECT_TIMEOUT).await?))
            }
            EndpointAddress::Remote { address, sni } => {
                let caller = caller.ok_or(ConnectError::NoCaller)?;
                Ok(Stream::Right(self.mesh.tunnel(endpoint, *address, sni, settings, caller).await?))
            }
        }
    }

    /// A connection of bytes to a workload of this node.
    pub(crate) async fn tunnel_app(&self, address: SocketAddr) -> Result<TcpStream, ConnectError> {
        connect_plain(address, None, APP_CONNECT_TIMEOUT).await
    }

    /// Closes what has been idle for too long, for ever.
    pub(crate) async fn sweep(&self) {
        let mut tick = tokio::time::interval(SWEEP_EVERY);
        loop {
            tick.tick().await;
            self.apps.sweep();
            self.mesh.sweep();
        }
    }
}

/// A connection in use by one exchange.
pub(crate) enum Lease {
    Exclusive(Exclusive),
    Shared(LinkLease),
    /// To another node, for an upgrade: ends with its exchange.
    Once(Http1Sender),
}

impl Lease {
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self, Self::Shared(_))
    }

    /// Whether an earlier exchange has used the connection, so that its peer may just be closing it. HTTP/2 says
    /// GOAWAY first, and tells which requests it has not seen.
    pub(crate) fn may_be_stale(&self) -> bool {
        matches!(self, Self::Exclusive(exclusive) if exclusive.was_used())
    }

    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match self {
            Self::Exclusive(exclusive) => exclusive.sender().try_send_request(request).await,
            Self::Shared(lease) => lease.sender().try_send_request(request).await,
            Self::Once(sender) => sender.try_send_request(request).await,
        }
    }

    /// The response has been read to its end: the connection may serve the next exchange.
    pub(crate) fn finished(&mut self) {
        if let Self::Exclusive(exclusive) = self {
            exclusive.finished();
        }
    }
}
