//! The `links` actor: holds the QUIC connections with peers and dials those that are missing. The table of links is
//! shared, so that sending needs no message and a crash of the actor cuts no connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use quinn::{Connection, ConnectionError};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use weft_discovery::{
    links::{Links, QUEUE, Unneeded, messages},
    overlay::DialSchedule,
};
use weft_wire::{
    fact::FactVersion,
    frame::{Push, Request, Response, UniKind},
    id::{NodeId, NodeName},
};

use crate::{
    actors::membership,
    identity::IdentityReader,
    peer::{
        PeerError, join,
        quic::{Accepted, Quic},
        session::{self, Outgoing, Receivers},
        stream,
        tls::{Peer, Standing},
    },
    supervisor::{Actor, Inbox, Mailbox},
    telemetry::{Reason, Telemetry},
};

/// Handshakes of accepted connections under way at once.
const MAX_HANDSHAKES: usize = 64;
/// Joining hosts that are served at once.
const MAX_JOINS: usize = 16;
/// How often it is looked for links to end, and for those of whose end nothing was heard.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
const REVOKED: &str = "a peer says that this node's certificate is revoked: `weft join` it again, with a new token";

/// One connection with one peer.
#[derive(Clone)]
pub struct Link {
    pub node: NodeId,
    pub name: NodeName,
    pub address: SocketAddr,
    pub connection: Connection,
    /// By this node, who is then the one to end it.
    dialled: bool,
    queue: mpsc::Sender<Outgoing>,
    /// News did not fit into the queue since the peer was last told so.
    missed: Arc<AtomicBool>,
}

/// The connections with peers; the newest of each peer is the one to send on.
#[derive(Default)]
pub struct LinkTable(Mutex<Links<Link>>, Mutex<BTreeSet<NodeId>>);

impl LinkTable {
    /// The link to use for a peer.
    pub fn to(&self, node: NodeId) -> Option<Link> {
        self.0.lock().to(node).cloned()
    }

    /// A link per peer.
    pub fn all(&self) -> Vec<Link> {
        self.0.lock().peers().map(|(_, link)| link.clone()).collect()
    }

    /// A link per peer of this node's own cell, or of which it is not known.
    pub fn here(&self) -> Vec<Link> {
        let abroad = self.1.lock().clone();
        self.0.lock().peers().filter(|(node, _)| !abroad.contains(node)).map(|(_, link)| link.clone()).collect()
    }

    /// These peers are in other cells: no gossip goes to them.
    pub fn set_abroad(&self, peers: &BTreeSet<NodeId>) {
        let mut abroad = self.1.lock();
        if *abroad != *peers {
            abroad.clone_from(peers);
        }
    }

    fn has(&self, address: SocketAddr) -> bool {
        self.0.lock().all().any(|(_, link)| link.address == address)
    }

    /// The link by which gossip for this address goes.
    fn toward(&self, address: SocketAddr) -> Option<Link> {
        let abroad = self.1.lock().clone();
        let is_here = |node| !abroad.contains(&node);
        self.0.lock().toward(|link| link.address == address, is_here, &mut rand::rng()).cloned()
    }

    /// The connections that this node dialled to other addresses than these.
    fn unneeded(&self, needed: &BTreeSet<SocketAddr>) -> BTreeMap<usize, Connection> {
        let table = self.0.lock();
        let unneeded = table.all().map(|(_, link)| link).filter(|link| link.dialled && !needed.contains(&link.address));
        unneeded.map(|link| (link.connection.stable_id(), link.connection.clone())).collect()
    }

    /// Adds a link; returns one that is too many.
    fn add(&self, link: Link) -> Option<Link> {
        self.0.lock().add(link.node, link)
    }

    /// Every connection that has ended: by node, address and number.
    fn ended(&self) -> Vec<(NodeId, SocketAddr, usize, ConnectionError)> {
        let table = self.0.lock();
        let ended = table.all().filter_map(|(node, link)| {
            let why = link.connection.close_reason()?;
            Some((node, link.address, link.connection.stable_id(), why))
        });
        ended.collect()
    }

    /// Removes a link; returns whether it was the peer's last.
    fn remove(&self, node: NodeId, connection: usize) -> bool {
        self.0.lock().remove(node, |link| link.connection.stable_id() == connection)
    }
}

pub enum Msg {
    Accepted(Box<(Connection, Peer)>),
    Dialled(SocketAddr, Result<Box<(Connection, Peer)>, PeerError>),
    Ended(NodeId, SocketAddr, usize, ConnectionError),
}

#[derive(Clone)]
pub struct Handle {
    quic: Quic,
    table: Arc<LinkTable>,
    held: Arc<watch::Sender<BTreeSet<SocketAddr>>>,
    telemetry: Telemetry,
}

impl Handle {
    pub fn new(
        quic: Quic,
        table: Arc<LinkTable>,
        held: Arc<watch::Sender<BTreeSet<SocketAddr>>>,
        telemetry: Telemetry,
    ) -> Self {
        Self { quic, table, held, telemetry }
    }

    /// Sends news to every peer but the one it came from. Never waits.
    pub fn push(&self, push: &Push, except: Option<NodeId>) {
        self.push_to(push, |node| Some(node) != except);
    }

    /// Sends news to these peers. Never waits.
    pub fn push_to(&self, push: &Push, is_meant: impl Fn(NodeId) -> bool) {
        let (messages, left_out) = messages(push);
        if left_out > 0 {
            tracing::error!(left_out, "news is too large to send");
        }
        for link in self.table.all().iter().filter(|link| is_meant(link.node)) {
            for message in &messages {
                self.queue(link, UniKind::Push, message.clone());
            }
        }
    }

    /// Sends a message of gossip: by another peer's link, if there is none with this address.
    pub fn gossip(&self, to: SocketAddr, payload: Bytes) {
        match self.table.toward(to) {
            Some(link) => self.queue(&link, UniKind::Gossip, payload),
            None => self.dropped("no_link"),
        }
    }

    fn queue(&self, link: &Link, kind: UniKind, payload: Bytes) {
        if link.queue.try_send(Outgoing::Message(kind, payload)).is_err() {
            if kind == UniKind::Push {
                link.missed.store(true, Ordering::Relaxed);
            }
            self.dropped("queue_full");
        }
    }

    fn dropped(&self, reason: &'static str) {
        self.telemetry.messages_dropped.get_or_create(&Reason { reason }).inc();
    }

    /// Asks a linked peer.
    pub async fn request(&self, node: NodeId, request: &Request) -> Result<Response, PeerError> {
        let link = self.table.to(node).ok_or_else(|| PeerError::Stream(format!("there is no link with {node}")))?;
        stream::request(&link.connection, request).await
    }

    /// Asks a peer, on a connection of its own if there is no link.
    pub async fn request_at(
        &self,
        node: NodeId,
        address: SocketAddr,
        request: &Request,
    ) -> Result<Response, PeerError> {
        if self.table.to(node).is_some() {
            return self.request(node, request).await;
        }
        let (connection, peer) = self.quic.dial(address).await?;
        if peer.identity.id.as_node().map(NodeName::id) != Some(node) {
            let why = format!("it is {}, not the node {node}", peer.identity.id);
            return Err(PeerError::Untrusted { address, why });
        }
        let response = stream::request(&connection, request).await;
        connection.close(0u32.into(), b"done");
        response
    }

    /// The round-trip time of each link.
    pub fn round_trips(&self) -> Vec<(NodeName, Duration)> {
        let links = self.table.all().into_iter();
        links.map(|link| (link.name, link.connection.rtt())).collect()
    }

    /// Of each link, the largest packet that is known to pass, in bytes, and how many larger ones were lost.
    pub fn packet_sizes(&self) -> Vec<(String, u16, u64)> {
        let path = |link: &Link| link.connection.stats().path;
        let links = self.table.all().into_iter();
        links.map(|link| (link.name.to_string(), path(&link).current_mtu, path(&link).lost_plpmtud_probes)).collect()
    }

    /// The peers with which there is a link.
    pub fn peers(&self) -> BTreeSet<NodeId> {
        self.table.0.lock().peers().map(|(node, _)| node).collect()
    }

    /// How many peers there is a link with.
    pub fn count(&self) -> usize {
        self.table.0.lock().peers().count()
    }

    /// Has links with these addresses held, and no others dialled.
    pub fn hold(&self, addresses: BTreeSet<SocketAddr>) {
        self.held.send_replace(addresses);
    }

    /// Asks every linked peer whether its requests follow what this node said up to `version`; returns how many say so.
    /// Whoever has not answered by the deadline does not.
    pub async fn followed_by(&self, version: FactVersion, deadline: Duration) -> usize {
        let asked = self.table.all().into_iter().map(|link| async move {
            let question = Request::AwaitFollowing { version };
            let answer = tokio::time::timeout(deadline, stream::request(&link.connection, &question)).await;
            matches!(answer, Ok(Ok(Response::Following)))
        });
        join_all(asked).await.into_iter().filter(|follows| *follows).count()
    }

    /// Ends all links, to be made anew with another certificate.
    pub fn renew(&self) {
        for (_, link) in self.table.0.lock().all() {
            link.connection.close(0u32.into(), b"coming back with a new certificate");
        }
    }

    /// Waits until the peers have all that was pushed to them, at most so long.
    pub async fn flush(&self, deadline: Duration) {
        let flushed = self.table.all().into_iter().map(|link| async move {
            let (done, flushed) = oneshot::channel();
            if link.queue.send(Outgoing::Flush(done)).await.is_ok() {
                // An error: the link broke, and with it the hope.
                let _ = flushed.await;
            }
        });
        let _ = tokio::time::timeout(deadline, join_all(flushed)).await;
    }
}

pub struct LinksActor {
    quic: Quic,
    table: Arc<LinkTable>,
    identity: IdentityReader,
    membership: membership::Handle,
    receivers: Receivers,
    myself: Mailbox<Msg>,
    schedule: DialSchedule,
    /// Why each address was refused that was last time.
    refused: BTreeMap<SocketAddr, String>,
    held: watch::Receiver<BTreeSet<SocketAddr>>,
    /// By the connection's number.
    unneeded: Unneeded<usize>,
}

impl LinksActor {
    pub fn new(
        quic: Quic,
        table: Arc<LinkTable>,
        identity: IdentityReader,
        membership: membership::Handle,
        receivers: Receivers,
        held: watch::Receiver<BTreeSet<SocketAddr>>,
        myself: Mailbox<Msg>,
    ) -> Self {
        let (schedule, refused, unneeded) = (DialSchedule::default(), BTreeMap::new(), Unneeded::default());
        Self { quic, table, identity, membership, receivers, myself, schedule, refused, held, unneeded }
    }

    fn hold(&mut self) {
        let addresses = self.held.borrow_and_update().clone();
        self.schedule.retain(|address| addresses.contains(&address));
        self.refused.retain(|address, _| addresses.contains(address));
        addresses.into_iter().for_each(|address| self.want(address));
    }

    fn on(&mut self, message: Msg) {
        let now = Instant::now().into_std();
        match message {
            Msg::Accepted(accepted) => self.up(*accepted, false),
            Msg::Dialled(address, Ok(dialled)) => {
                // A peer ends the connection of whom it believes no more only when it is there.
                self.refused.retain(|refused, why| *refused != address || why == REVOKED);
                self.schedule.connected(address, now);
                self.up(*dialled, true);
            }
            Msg::Dialled(address, Err(error)) => {
                self.schedule.failed(address, now, &mut rand::rng());
                match &error {
                    PeerError::Untrusted { .. } | PeerError::NoCertificate { .. } => self.refuse(address, &error),
                    _ => tracing::debug!(%error, "dial failed"),
                }
                // A peer that is busy is alive.
                if !matches!(error, PeerError::Busy { .. }) {
                    self.membership.dial_failed(address);
                }
            }
            Msg::Ended(node, address, connection, why) => self.ended(node, address, connection, &why),
        }
    }

    /// Says it once, until the reason is another.
    fn refuse(&mut self, address: SocketAddr, error: &PeerError) {
        self.receivers.telemetry.peers_refused.get_or_create(&Reason { reason: "untrusted" }).inc();
        // How many seconds ago a certificate ended is no other reason.
        let why: String = error.to_string().chars().filter(|c| !c.is_ascii_digit()).collect();
        if self.refused.get(&address) != Some(&why) {
            tracing::warn!(%error, "a peer is refused");
            self.refused.insert(address, why);
        }
    }

    /// Says it once, until a peer lets this node in again.
    fn refused_by(&mut self, address: SocketAddr) {
        if self.refused.insert(address, REVOKED.into()).as_deref() != Some(REVOKED) {
            tracing::error!(%address, "{REVOKED}");
        }
    }

    fn ended(&mut self, node: NodeId, address: SocketAddr, connection: usize, why: &ConnectionError) {
        if session::is_of_revocation(why) {
            self.refused_by(address);
        }
        if self.table.remove(node, connection) {
            tracing::debug!(%node, %address, %why, "link ended");
            self.schedule.disconnected(address, Instant::now().into_std(), &mut rand::rng());
            let on_purpose = matches!(why, ConnectionError::ApplicationClosed(_) | ConnectionError::LocallyClosed);
            self.membership.link_down(node, on_purpose);
        }
    }

    /// Links whose end was not heard of, because this actor was down or its inbox full.
    fn sweep(&mut self) {
        for (node, address, connection, why) in self.table.ended() {
            self.ended(node, address, connection, &why);
        }
    }

    fn want(&mut self, address: SocketAddr) {
        let now = Instant::now().into_std();
        self.schedule.add(address, now);
        if self.table.has(address) {
            self.schedule.connected(address, now);
        }
    }

    fn up(&mut self, (connection, peer): (Connection, Peer), dialled: bool) {
        let address = connection.remote_address();
        let Some(name) = peer.identity.id.as_node().cloned() else { return };
        let node = name.id();
        if name == self.identity.load().name {
            connection.close(0u32.into(), b"this is you");
            return;
        }
        let standing = peer.standing;
        let reading = session::read(connection.clone(), peer, address, self.receivers.clone());
        if standing != Standing::Member {
            // It may renew its certificate, and is no member until then.
            tokio::spawn(reading);
            return;
        }
        let (queue, queued) = mpsc::channel(QUEUE);
        let missed = Arc::new(AtomicBool::new(false));
        tokio::spawn(session::write(connection.clone(), queued, missed.clone()));
        let (myself, stable_id) = (self.myself.clone(), connection.stable_id());
        tokio::spawn(async move {
            let why = reading.await;
            // If this fails, the next sweep finds the link.
            let _ = myself.send(Msg::Ended(node, address, stable_id, why)).await;
        });
        let surplus = self.table.add(Link { node, name: name.clone(), address, connection, dialled, queue, missed });
        if let Some(surplus) = surplus {
            surplus.connection.close(0u32.into(), b"superseded");
        }
        self.schedule.connected(address, Instant::now().into_std());
        tracing::debug!(%name, %address, "link up");
        // Also for a second link: the peer may have restarted before its first was known to be dead.
        self.membership.link_up(node, name, address);
    }

    /// Ends links that this node dialled and does not need any more; the peer dials if it does.
    fn end_unneeded(&mut self) {
        let unneeded = self.table.unneeded(&self.held.borrow());
        for number in self.unneeded.to_end(unneeded.keys().copied(), Instant::now().into_std()) {
            unneeded[&number].close(0u32.into(), b"not needed any more");
        }
    }

    fn dial_due(&mut self) {
        for address in self.schedule.due(Instant::now().into_std()) {
            let (quic, myself) = (self.quic.clone(), self.myself.clone());
            tokio::spawn(async move {
                let dialled = quic.dial(address).await.map(Box::new);
                let _ = myself.send(Msg::Dialled(address, dialled)).await;
            });
        }
    }
}

impl Actor for LinksActor {
    type Msg = Msg;

    async fn run(mut self, inbox: &mut Inbox<Msg>) -> anyhow::Result<()> {
        // Links that outlived a crash need no new tasks: theirs go on.
        self.hold();
        let strangers = Strangers {
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
            joins: Arc::new(Semaphore::new(MAX_JOINS)),
        };
        let mut sweep_at = Instant::now();
        loop {
            self.dial_due();
            let due = self.schedule.next_due().map_or(sweep_at, |due| sweep_at.min(due.into()));
            tokio::select! {
                biased;
                () = sleep_until(due) => {
                    if sweep_at <= Instant::now() {
                        self.sweep();
                        self.end_unneeded();
                        sweep_at = Instant::now() + SWEEP_EVERY;
                    }
                }
                message = inbox.recv() => match message {
                    Some(message) => self.on(message),
                    None => return Ok(()),
                },
                changed = self.held.changed() => {
                    changed?;
                    self.hold();
                }
                incoming = self.quic.accept() => {
                    let incoming = incoming.context("the QUIC endpoint is closed")?;
                    strangers.receive(incoming, &self.quic, &self.myself, &self.receivers);
                }
            }
        }
    }
}

/// Bounds what those who have shown nothing yet may take.
struct Strangers {
    handshakes: Arc<Semaphore>,
    joins: Arc<Semaphore>,
}

impl Strangers {
    fn receive(&self, incoming: quinn::Incoming, quic: &Quic, myself: &Mailbox<Msg>, to: &Receivers) {
        // Under load only those get a place that answer at the address they come from (RFC 9000, 8.1.2).
        if self.handshakes.available_permits() < MAX_HANDSHAKES / 2 && incoming.may_retry() {
            // Fails only for those who may not retry.
            let _ = incoming.retry();
            return;
        }
        let Ok(permit) = self.handshakes.clone().try_acquire_owned() else {
            // A flood of strangers must not keep members waiting: they come again.
            return incoming.refuse();
        };
        let (quic, myself, to, joins) = (quic.clone(), myself.clone(), to.clone(), self.joins.clone());
        tokio::spawn(async move {
            let from = incoming.remote_address();
            let admitted = quic.admit(incoming).await;
            drop(permit);
            match admitted {
                Ok(Accepted::Member { connection, peer }) => {
                    // If this fails, the connection is dropped and the peer dials again.
                    let _ = myself.send(Msg::Accepted(Box::new((connection, *peer)))).await;
                }
                Ok(Accepted::Joining { connection }) => {
                    let Ok(_permit) = joins.try_acquire_owned() else {
                        return connection.close(0u32.into(), b"too many hosts are joining; try again");
                    };
                    let answered = join::serve(connection, |question| to.issuer.answer_join(question, from)).await;
                    if let Err(error) = answered {
                        tracing::debug!(%from, %error, "join connection ended early");
                    }
                }
                Err(error) => {
                    to.telemetry.peers_refused.get_or_create(&Reason { reason: "handshake" }).inc();
                    tracing::debug!(%from, %error, "a connection was refused");
                }
            }
        });
    }
}
