//! Connections to upstreams, kept and shared by the exchanges of one worker.
//!
//! Two kinds: to workloads of this node and to places outside ([`app`]), and to other nodes ([`mesh`], mutual
//! TLS). HTTP/2 is one connection for many exchanges ([`link`]); HTTP/1.1 is one each, given back when its response ends.

mod app;
mod dial;
mod life;
mod link;
mod mesh;
mod protected;
mod tunnel;

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
};

use http::{Request, Response};
use rustls_pki_types::UnixTime;
use tokio::net::TcpStream;
use tokio_util::either::Either;
use weft_ca::revocation::Revocations;
use weft_policy::{
    connection::ConnectionSettings,
    endpoint::{Endpoint, EndpointAddress},
    origination::Protection,
};
use weft_wire::id::SpiffeId;

use self::{
    app::{AppPool, Exclusive, Goal},
    dial::{APP_CONNECT_TIMEOUT, Http1Sender, MESH_CONNECT_TIMEOUT, connect_plain},
    link::LinkLease,
    mesh::MeshPool,
    tunnel::Tunnelled,
};
use crate::{
    body::{RequestBody, UpstreamBody},
    error::{ConnectError, PeerError, UpstreamError},
    http1::client::{Tunnel, Turn},
    metrics::{Metrics, Pooled},
    origination::Inside,
    ports::{Caller, Identities, Originations},
    tls::MeshTls,
};

pub(crate) use self::dial::Stream;

/// Bytes to and from an endpoint, or (right) through it.
pub(crate) type Channel = Either<Stream, Tunnelled>;

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
    originations: Originations,
    pooled: Arc<Pooled>,
}

impl Pools {
    pub(crate) fn new(
        tls: Arc<MeshTls>,
        identities: Identities,
        originations: Originations,
        metrics: &Metrics,
    ) -> Self {
        let turn = Rc::<Turn<Stream>>::default();
        let apps = Rc::new(AppPool::new(originations.clone(), turn.clone()));
        let pooled = metrics.add_pools();
        Self { apps, mesh: MeshPool::new(tls, identities, metrics.clone(), turn), originations, pooled }
    }

    /// A connection for one exchange with an endpoint, as `caller`, made and kept as its cluster says. `authority` is the
    /// request's: a place outside proves to be its host where documents name no other. `http2` is for the
    /// workload itself: between nodes HTTP/2 is spoken.
    pub(crate) async fn checkout(
        &self,
        endpoint: &Endpoint,
        http2: bool,
        settings: Option<&Arc<ConnectionSettings>>,
        caller: Option<&Caller>,
        authority: &str,
        need: Need,
    ) -> Result<Lease, ConnectError> {
        match &endpoint.address {
            EndpointAddress::Local(address) => {
                AppPool::checkout(&self.apps, workload(endpoint, *address, settings)?, http2, need).await
            }
            EndpointAddress::Outside(address) => {
                AppPool::checkout(&self.apps, outside(*address, settings, authority)?, http2, need).await
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
        AppPool::checkout(&self.apps, local(address, None), http2, need).await
    }

    /// A connection of bytes to an endpoint, for a caller of its own, who asked for `host`.
    pub(crate) async fn tunnel(
        &self,
        endpoint: &Endpoint,
        settings: Option<&Arc<ConnectionSettings>>,
        caller: Option<&Caller>,
        host: &str,
    ) -> Result<Channel, ConnectError> {
        let tunnel = settings.and_then(|settings| settings.tunnel.as_ref());
        let http2 = endpoint.protocol.is_http2();
        let inside = if tunnel.is_some() && http2 { Inside::Http2 } else { Inside::Bytes };
        let stream = match &endpoint.address {
            EndpointAddress::Local(address) => {
                self.apps.tunnel(workload(endpoint, *address, settings)?, inside).await?
            }
            EndpointAddress::Outside(address) => self.apps.tunnel(outside(*address, settings, host)?, inside).await?,
            EndpointAddress::Remote { address, sni } => {
                let caller = caller.ok_or(ConnectError::NoCaller)?;
                let settings = settings.map(|settings| &**settings);
                Stream::Right(self.mesh.tunnel(endpoint, *address, sni, settings, caller).await?)
            }
        };
        let Some(tunnel) = tunnel else { return Ok(Channel::Left(stream)) };
        let (to, settings) = (endpoint.address.socket().to_string().into(), settings.map(|settings| &**settings));
        Ok(Channel::Right(Box::pin(tunnel::open(stream, &to, tunnel, http2, settings)).await?))
    }

    /// A connection of bytes to a workload of this node.
    pub(crate) async fn tunnel_app(&self, address: SocketAddr) -> Result<TcpStream, ConnectError> {
        connect_plain(address, None, APP_CONNECT_TIMEOUT).await
    }

    /// Ends the connections with nodes whose certificates hold no more, and returns how many these were.
    pub(crate) fn cut_revoked(&self, revocations: &Revocations, now: UnixTime) -> usize {
        self.mesh.cut_revoked(revocations, now)
    }

    /// Closes what has been idle for too long, and says how much is left.
    pub(crate) fn sweep(&self) {
        let originations = self.originations.load();
        let (idle, http2) = self.apps.sweep(&originations);
        let nodes = self.mesh.sweep(&originations);
        for (kept, count) in [(&self.pooled.idle, idle), (&self.pooled.http2, http2), (&self.pooled.nodes, nodes)] {
            kept.store(count, Ordering::Relaxed);
        }
    }
}

fn local(address: SocketAddr, settings: Option<&Arc<ConnectionSettings>>) -> Goal<'_> {
    Goal { address, server: None, settings, connect_timeout: APP_CONNECT_TIMEOUT }
}

/// Whom the server of an endpoint has to be one of.
fn expected<'a>(endpoint: &'a Endpoint, settings: Option<&'a ConnectionSettings>) -> &'a Arc<[SpiffeId]> {
    settings.and_then(|settings| settings.servers.as_ref()).unwrap_or(&endpoint.identities)
}

/// A workload of this node, which is known without proof.
///
/// # Errors
/// It is none of those that documents let the cluster's servers be.
fn workload<'a>(
    endpoint: &Endpoint,
    address: SocketAddr,
    settings: Option<&'a Arc<ConnectionSettings>>,
) -> Result<Goal<'a>, ConnectError> {
    if let Some(expected) = settings.and_then(|settings| settings.servers.as_ref())
        && let Some(shown) = endpoint.identities.first().filter(|shown| !expected.contains(shown))
    {
        let source = PeerError::WrongIdentity { shown: shown.clone(), expected: expected.clone() };
        return Err(ConnectError::Peer { to: address.to_string().into(), source });
    }
    Ok(local(address, settings))
}

/// # Errors
/// It may not be called.
fn outside<'a>(
    address: SocketAddr,
    settings: Option<&'a Arc<ConnectionSettings>>,
    authority: &'a str,
) -> Result<Goal<'a>, ConnectError> {
    let server = match settings.and_then(|settings| settings.protection.as_ref()) {
        None => None,
        Some(Protection::Refused(why)) => return Err(ConnectError::Unprotected(why.clone())),
        Some(Protection::Tls(origination)) => {
            Some(origination.server_name.as_deref().unwrap_or_else(|| host_of(authority)))
        }
    };
    Ok(Goal { address, server, settings, connect_timeout: MESH_CONNECT_TIMEOUT })
}

/// An authority's host, an IPv6 address without its brackets.
fn host_of(authority: &str) -> &str {
    if let Some((address, _)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    let host = authority.split_once(':').map_or(authority, |(host, _)| host);
    host.strip_suffix('.').unwrap_or(host)
}

/// A request that brought no response.
pub(crate) struct Unanswered {
    pub(crate) error: UpstreamError,
    /// The request, if nothing of it was sent.
    pub(crate) unsent: Option<Box<Request<RequestBody>>>,
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

    /// This end of the connection, where it is kept.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Exclusive(exclusive) => exclusive.local(),
            Self::Shared(lease) => lease.local(),
            Self::Once(_) => None,
        }
    }

    /// Whether an earlier exchange has used the connection, so that its peer may just be closing it. HTTP/2 says
    /// GOAWAY first, and tells which requests it has not seen.
    pub(crate) fn may_be_stale(&self) -> bool {
        matches!(self, Self::Exclusive(exclusive) if exclusive.was_used())
    }

    pub(crate) async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<UpstreamBody>, Unanswered> {
        let sender = match self {
            Self::Shared(lease) => {
                let sent = lease.sender().try_send_request(request).await;
                return sent.map(|response| response.map(UpstreamBody::Http2)).map_err(|mut error| {
                    let unsent = error.take_message().map(Box::new);
                    Unanswered { unsent, error: error.into_error().into() }
                });
            }
            Self::Exclusive(exclusive) => exclusive.sender(),
            Self::Once(sender) => sender,
        };
        let sent = sender.send(request).await;
        sent.map(|response| response.map(UpstreamBody::Http1))
            .map_err(|error| Unanswered { unsent: None, error: error.into() })
    }

    /// The connection's bytes, once its response has switched protocols; `None` if it has not.
    pub(crate) fn into_tunnel(self) -> Option<Tunnel<Stream>> {
        match self {
            Self::Exclusive(exclusive) => exclusive.into_tunnel(),
            Self::Once(sender) => sender.into_tunnel(),
            Self::Shared(_) => None,
        }
    }

    /// The response has been read to its end: the connection may serve the next exchange.
    pub(crate) fn finished(&mut self) {
        if let Self::Exclusive(exclusive) = self {
            exclusive.finished();
        }
    }
}
