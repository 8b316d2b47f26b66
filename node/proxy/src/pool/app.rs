//! Connections to the workloads of this node, in the clear, and to places outside of the mesh, with TLS of their own where
//! documents say so.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use foldhash::HashMap;
use futures_util::FutureExt;
use tokio::time::Instant;
use tokio_util::either::Either;
use weft_policy::connection::ConnectionSettings;

use super::{
    Lease, Need,
    dial::{self, Http1Sender, OutsideDial, Stream, connect_plain},
    life::{Life, Tls, is_same},
    link::{Link, Links},
};
use crate::{
    error::ConnectError,
    http1::client::{Tunnel, Turn},
    origination::{Inside, Originator},
    ports::{OriginationTable, Originations},
};

/// Idle connections kept per address and worker.
const MAX_IDLE: usize = 1_024;

pub(super) struct AppPool {
    originations: Originations,
    turn: Rc<Turn<Stream>>,
    /// HTTP/1.1: the most recently used is last, and used first, so that the others may grow old.
    idle: RefCell<HashMap<SocketAddr, Vec<Idle>>>,
    http2: RefCell<HashMap<SocketAddr, Vec<OfCluster>>>,
}

/// The connections to one address for clusters that say the same of them. There are few of these for one address, so a
/// list will do.
struct OfCluster {
    settings: Option<Arc<ConnectionSettings>>,
    server: Option<Box<str>>,
    links: Rc<Links<()>>,
}

struct Idle {
    sender: Http1Sender,
    life: Life,
    since: Instant,
}

/// What a connection is for.
#[derive(Clone, Copy)]
pub(super) struct Goal<'a> {
    pub(super) address: SocketAddr,
    /// The server to speak TLS with: a place outside of the mesh.
    pub(super) server: Option<&'a str>,
    pub(super) settings: Option<&'a Arc<ConnectionSettings>>,
    /// Where documents say nothing.
    pub(super) connect_timeout: Duration,
}

impl Goal<'_> {
    fn is_of(&self, settings: Option<&Arc<ConnectionSettings>>, server: Option<&str>) -> bool {
        is_same(settings, self.settings) && server == self.server
    }
}

impl AppPool {
    pub(super) fn new(originations: Originations, turn: Rc<Turn<Stream>>) -> Self {
        Self { originations, turn, idle: RefCell::default(), http2: RefCell::default() }
    }

    pub(super) async fn checkout(
        this: &Rc<Self>,
        goal: Goal<'_>,
        http2: bool,
        need: Need,
    ) -> Result<Lease, ConnectError> {
        if http2 && need != Need::Upgrade {
            let links = this.links(goal);
            let dial = || {
                let (this, settings, server) = (this.clone(), goal.settings.cloned(), goal.server.map(str::to_owned));
                async move {
                    let goal = Goal { settings: settings.as_ref(), server: server.as_deref(), ..goal };
                    let to = goal.address.to_string();
                    let (about, limit) = (settings.as_deref(), goal.connect_timeout);
                    let dialled = this.dial(goal, Inside::Http2).await?;
                    let local = local(&dialled.0);
                    let (sender, tls) = match dialled {
                        (Either::Left(stream), _) => (dial::http2_settled(&to, stream, about, limit).await?, None),
                        (Either::Right(stream), tls) => (dial::http2_settled(&to, stream, about, limit).await?, tls),
                    };
                    Ok(Link::new(sender, (), Life::begin_with(settings, tls).from(local)))
                }
                .boxed_local()
            };
            return Ok(Lease::Shared(links.checkout(|()| true, dial).await?));
        }
        let pooled = if need == Need::Any { this.take_idle(goal) } else { None };
        let was_used = pooled.is_some();
        let (sender, life) = match pooled {
            Some(Idle { sender, life, .. }) => (sender, life),
            // Boxed, as all dialling is: most requests find a connection, and should not carry room for making one.
            None => Box::pin(this.dial_http1(goal)).await?,
        };
        life.count_request();
        let (pool, address) = (this.clone(), goal.address);
        Ok(Lease::Exclusive(Exclusive { connection: Some((sender, life)), was_used, address, pool, give_back: false }))
    }

    /// A connection of bytes.
    pub(super) async fn tunnel(&self, goal: Goal<'_>, inside: Inside) -> Result<Stream, ConnectError> {
        Ok(self.dial(goal, inside).await?.0)
    }

    async fn dial(&self, goal: Goal<'_>, inside: Inside) -> Result<(Stream, Option<Tls>), ConnectError> {
        let Goal { address, server, settings, connect_timeout } = goal;
        let settings = settings.map(|settings| &**settings);
        let Some(server) = server else {
            return Ok((Either::Left(connect_plain(address, settings, connect_timeout).await?), None));
        };
        let originator = originator(&self.originations, settings)?;
        let to = OutsideDial { address, server, config: originator.config(inside) };
        let stream = to.connect(settings, connect_timeout).await?;
        Ok((Either::Right(stream), Some(Tls { server: server.into(), originator })))
    }

    async fn dial_http1(&self, goal: Goal<'_>) -> Result<(Http1Sender, Life), ConnectError> {
        let (stream, tls) = self.dial(goal, Inside::Http1).await?;
        let local = local(&stream);
        Ok((Http1Sender::new(stream, self.turn.clone()), Life::begin_with(goal.settings.cloned(), tls).from(local)))
    }

    fn links(&self, goal: Goal<'_>) -> Rc<Links<()>> {
        let mut links = self.http2.borrow_mut();
        let of_address = links.entry(goal.address).or_default();
        match of_address.iter().find(|known| goal.is_of(known.settings.as_ref(), known.server.as_deref())) {
            Some(known) => known.links.clone(),
            None => {
                let (settings, server) = (goal.settings.cloned(), goal.server.map(Into::into));
                let links = Rc::<Links<()>>::default();
                of_address.push(OfCluster { settings, server, links: links.clone() });
                links
            }
        }
    }

    fn take_idle(&self, goal: Goal<'_>) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        let idle = idle.get_mut(&goal.address)?;
        // One that still sends its last request is left for later. Those that are over go with the next sweep: to look
        // for them here would cost each request a look at all.
        let may_serve = |idle: &Idle| {
            idle.sender.is_done() && goal.is_of(idle.life.settings(), idle.life.server()) && idle.is_open()
        };
        let ready = idle.iter().rposition(may_serve)?;
        Some(idle.remove(ready))
    }

    fn give_back(&self, address: SocketAddr, sender: Http1Sender, life: Life) {
        let mut idle = self.idle.borrow_mut();
        let idle = idle.entry(address).or_default();
        if idle.len() < MAX_IDLE {
            idle.push(Idle { sender, life, since: Instant::now() });
        }
    }

    /// Returns what is left: idle connections of HTTP/1.1, and those of HTTP/2.
    pub(super) fn sweep(&self, originations: &OriginationTable) -> (u64, u64) {
        self.idle.borrow_mut().retain(|_, idle| {
            idle.retain(|idle| idle.is_open() && idle.life.is_current(originations));
            !idle.is_empty()
        });
        self.http2.borrow_mut().retain(|_, of_address| {
            of_address.retain(|known| !known.links.sweep(originations));
            !of_address.is_empty()
        });
        let idle = self.idle.borrow().values().map(|idle| idle.len() as u64).sum();
        (idle, self.http2.borrow().values().flatten().map(|known| known.links.count()).sum())
    }
}

impl Idle {
    fn is_open(&self) -> bool {
        !self.life.is_over(self.since) && self.sender.is_open()
    }
}

/// This end of a connection.
fn local(stream: &Stream) -> Option<SocketAddr> {
    match stream {
        Either::Left(stream) => stream.local_addr().ok(),
        Either::Right(stream) => stream.tcp().local_addr().ok(),
    }
}

/// What TLS needs, if it is there.
fn originator(
    originations: &Originations,
    settings: Option<&ConnectionSettings>,
) -> Result<Arc<Originator>, ConnectError> {
    let origination = settings.and_then(|settings| settings.protection.as_ref()?.origination());
    match origination.and_then(|origination| originations.load().get(origination).cloned()) {
        Some(Ok(originator)) => Ok(originator),
        Some(Err(why)) => Err(ConnectError::Unprotected(why)),
        None => Err(ConnectError::Unprotected("what it needs has just changed".into())),
    }
}

/// An HTTP/1.1 connection in use. It goes back to its pool if its exchange came to its end, and is closed otherwise.
pub(crate) struct Exclusive {
    /// Taken on drop.
    connection: Option<(Http1Sender, Life)>,
    was_used: bool,
    address: SocketAddr,
    pool: Rc<AppPool>,
    give_back: bool,
}

impl Exclusive {
    pub(super) fn sender(&mut self) -> &mut Http1Sender {
        let connection = self.connection.as_mut().expect("only drop takes the connection");
        &mut connection.0
    }

    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.connection.as_ref().and_then(|(_, life)| life.local())
    }

    pub(super) fn was_used(&self) -> bool {
        self.was_used
    }

    pub(super) fn finished(&mut self) {
        self.give_back = true;
    }

    pub(super) fn into_tunnel(mut self) -> Option<Tunnel<Stream>> {
        let (sender, _) = self.connection.take()?;
        sender.into_tunnel()
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        let Some((sender, life)) = self.connection.take() else { return };
        if self.give_back && sender.may_go_on() && life.may_serve() {
            self.pool.give_back(self.address, sender, life);
        }
    }
}
