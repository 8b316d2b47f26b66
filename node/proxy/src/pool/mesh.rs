//! Connections to other nodes: mutual TLS, one set per endpoint and caller, because the caller's certificate is part
//! of the connection.

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use foldhash::HashMap;
use futures_util::FutureExt;
use rustls_pki_types::UnixTime;
use tokio::time::Instant;
use weft_ca::revocation::Revocations;
use weft_policy::{
    connection::ConnectionSettings,
    endpoint::{Endpoint, EndpointKey},
};
use weft_wire::id::{ServiceAccount, SpiffeId};

use super::{
    Lease, Need,
    dial::{self, Http1Sender, MeshDial, Stream},
    expected,
    life::{Life, is_same},
    link::{Link, Links},
    protected::{Protected, Servers},
};
use crate::{
    error::ConnectError,
    http1::client::Turn,
    metrics::Metrics,
    ports::{Caller, Identities, IdentitySnapshot, OriginationTable, WorkloadIdentity},
    tls::{ALPN_HTTP1, ALPN_HTTP2, ALPN_TCP, MeshTls, Peer},
};

pub(super) struct MeshPool {
    tls: Arc<MeshTls>,
    identities: Identities,
    metrics: Metrics,
    turn: Rc<Turn<Stream>>,
    links: RefCell<HashMap<EndpointKey, ByCaller>>,
    servers: Rc<Servers>,
}

/// Few accounts call from one node, so a list will do.
type ByCaller = Vec<OfCaller>;

/// The connections as one account to one endpoint, for clusters that say the same of them.
struct OfCaller {
    account: ServiceAccount,
    settings: Option<Arc<ConnectionSettings>>,
    links: Rc<Links<Hop>>,
}

/// What a connection was made for, to be compared with what is true now.
struct Hop {
    address: SocketAddr,
    /// Who the server proved to be.
    server: Arc<Peer>,
    /// The identities that were last found to contain the server's: the same list needs no second look.
    allowed: RefCell<Arc<[SpiffeId]>>,
    /// When our own certificate ends; by then the hop is made anew, and both sides prove themselves again.
    expires: Instant,
}

impl Hop {
    fn serves(&self, address: SocketAddr, identities: &Arc<[SpiffeId]>) -> bool {
        if self.address != address || Instant::now() >= self.expires {
            return false;
        }
        let mut allowed = self.allowed.borrow_mut();
        if Arc::ptr_eq(&allowed, identities) {
            return true;
        }
        if !identities.contains(&self.server.id) {
            return false;
        }
        *allowed = identities.clone();
        true
    }
}

impl MeshPool {
    pub(super) fn new(tls: Arc<MeshTls>, identities: Identities, metrics: Metrics, turn: Rc<Turn<Stream>>) -> Self {
        let servers = Rc::new(Servers::new(identities.clone()));
        Self { tls, identities, metrics, turn, links: RefCell::default(), servers }
    }

    pub(super) async fn checkout(
        &self,
        endpoint: &Endpoint,
        address: SocketAddr,
        sni: &Arc<str>,
        settings: Option<&Arc<ConnectionSettings>>,
        caller: &Caller,
        need: Need,
    ) -> Result<Lease, ConnectError> {
        if need == Need::Upgrade {
            // A connection of its own, over HTTP/1.1: it becomes the tunnel, without HTTP/2's flow control inside.
            let dial = async {
                let settings = settings.map(|settings| &**settings);
                let stream = self.connect(endpoint, address, sni, settings, caller, ALPN_HTTP1).await?;
                Ok(Http1Sender::new(Stream::Right(stream), self.turn.clone()))
            };
            return Ok(Lease::Once(Box::pin(dial).await?));
        }
        let links = self.links(&endpoint.key, caller.account(), settings);
        let expected = expected(endpoint, settings.map(|settings| &**settings));
        let usable = |hop: &Hop| hop.serves(address, expected);
        let dial = || {
            let (tls, identities, sni) = (self.tls.clone(), self.identities.clone(), sni.clone());
            let (metrics, servers) = (self.metrics.clone(), self.servers.clone());
            let (account, expected) = (caller.account().clone(), expected.clone());
            let settings = settings.cloned();
            async move {
                let snapshot = identities.load();
                let identity = identity(&snapshot, &account)?;
                let expires = expiry(identity.not_after);
                let (allowed, expected) = (RefCell::new(expected.clone()), expected);
                let to = MeshDial {
                    tls: &tls,
                    snapshot: &snapshot,
                    identity,
                    address,
                    sni: &sni,
                    expected,
                    servers: &servers,
                };
                let (stream, server) = to.connect(ALPN_HTTP2, settings.as_deref(), &metrics).await?;
                let local = stream.tcp().local_addr().ok();
                let sender = dial::http2(&sni, stream, settings.as_deref()).await?;
                Ok(Link::new(sender, Hop { address, server, allowed, expires }, Life::begin(settings).from(local)))
            }
            .boxed_local()
        };
        Ok(Lease::Shared(links.checkout(usable, dial).await?))
    }

    pub(super) async fn tunnel(
        &self,
        endpoint: &Endpoint,
        address: SocketAddr,
        sni: &str,
        settings: Option<&ConnectionSettings>,
        caller: &Caller,
    ) -> Result<Protected, ConnectError> {
        self.connect(endpoint, address, sni, settings, caller, ALPN_TCP).await
    }

    async fn connect(
        &self,
        endpoint: &Endpoint,
        address: SocketAddr,
        sni: &str,
        settings: Option<&ConnectionSettings>,
        caller: &Caller,
        alpn: &'static [u8],
    ) -> Result<Protected, ConnectError> {
        let snapshot = self.identities.load();
        let identity = identity(&snapshot, caller.account())?;
        let expected = expected(endpoint, settings).clone();
        let servers = &self.servers;
        let to = MeshDial { tls: &self.tls, snapshot: &snapshot, identity, address, sni, expected, servers };
        Ok(to.connect(alpn, settings, &self.metrics).await?.0)
    }

    fn links(
        &self,
        endpoint: &EndpointKey,
        account: &ServiceAccount,
        settings: Option<&Arc<ConnectionSettings>>,
    ) -> Rc<Links<Hop>> {
        let mut links = self.links.borrow_mut();
        let is_it = |known: &&OfCaller| known.account == *account && is_same(known.settings.as_ref(), settings);
        if let Some(of_endpoint) = links.get(endpoint)
            && let Some(known) = of_endpoint.iter().find(is_it)
        {
            return known.links.clone();
        }
        let new = Rc::<Links<Hop>>::default();
        let of_caller = OfCaller { account: account.clone(), settings: settings.cloned(), links: new.clone() };
        links.entry(endpoint.clone()).or_default().push(of_caller);
        new
    }

    /// Ends the connections with nodes whose certificates hold no more, and returns how many these were.
    pub(super) fn cut_revoked(&self, revocations: &Revocations, now: UnixTime) -> usize {
        self.servers.cut_revoked(revocations, now)
    }

    /// Returns how many connections are left.
    pub(super) fn sweep(&self, originations: &OriginationTable) -> u64 {
        self.links.borrow_mut().retain(|_, of_endpoint| {
            of_endpoint.retain(|of_caller| !of_caller.links.sweep(originations));
            !of_endpoint.is_empty()
        });
        self.links.borrow().values().flatten().map(|of_caller| of_caller.links.count()).sum()
    }
}

fn identity<'s>(
    snapshot: &'s IdentitySnapshot,
    account: &ServiceAccount,
) -> Result<&'s WorkloadIdentity, ConnectError> {
    let identity = snapshot.workloads.get(account);
    identity.map(|identity| &**identity).ok_or_else(|| ConnectError::NoIdentity(account.clone()))
}

fn expiry(not_after: SystemTime) -> Instant {
    Instant::now() + not_after.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO)
}
