//! The `links` actor: holds the QUIC connections with peers and dials those that are missing. The table of links is
//! shared, so that sending needs no message and a crash of the actor cuts no connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use parking_lot::Mutex;
use quinn::{Connection, ConnectionError};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};
use weft_discovery::overlay::DialSchedule;
use weft_wire::{
    codec,
    frame::{MAX_FRAME_LEN, Push, Request, Response, UniKind},
    id::{NodeId, NodeName},
};

use crate::{
    actors::membership,
    identity::IdentityReader,
    peer::{
        PeerError, join,
        quic::{Accepted, Quic},
        session::{self, Receivers},
        stream,
        tls::Peer,
    },
    supervisor::{Actor, Inbox, Mailbox},
    telemetry::{Reason, Telemetry},
};

/// Messages that wait for one peer. What does not fit is dropped, and the peer pulls it later.
const QUEUE: usize = 256;
/// Connections kept per peer: both sides may have dialled at once, and a restarted peer is back before its old
/// connection is known to be dead.
const MAX_PER_PEER: usize = 2;
/// Handshakes of accepted connections under way at once, joining hosts included.
const MAX_ADMITTING: usize = 64;
const TICK: Duration = Duration::from_millis(100);

/// One connection with one peer.
#[derive(Clone)]
pub struct Link {
    pub node: NodeId,
    pub name: NodeName,
    pub address: SocketAddr,
    pub connection: Connection,
    queue: mpsc::Sender<(UniKind, Bytes)>,
}

/// The connections with peers; the newest of each peer is the one to send on.
#[derive(Default)]
pub struct LinkTable(Mutex<BTreeMap<NodeId, Vec<Link>>>);

impl LinkTable {
    /// The link to use for a peer.
    pub fn to(&self, node: NodeId) -> Option<Link> {
        self.0.lock().get(&node)?.last().cloned()
    }

    /// A link per peer.
    pub fn all(&self) -> Vec<Link> {
        self.0.lock().values().filter_map(|links| links.last().cloned()).collect()
    }

    fn at(&self, address: SocketAddr) -> Option<Link> {
        self.0.lock().values().flatten().find(|link| link.address == address).cloned()
    }

    /// Adds a link; returns whether it is the peer's first, and one that is too many.
    fn add(&self, link: Link) -> (bool, Option<Link>) {
        let mut table = self.0.lock();
        let links = table.entry(link.node).or_default();
        links.push(link);
        (links.len() == 1, (links.len() > MAX_PER_PEER).then(|| links.remove(0)))
    }

    /// Removes a link; returns whether it was the peer's last.
    fn remove(&self, node: NodeId, connection: usize) -> bool {
        let mut table = self.0.lock();
        let Some(links) = table.get_mut(&node) else { return false };
        links.retain(|link| link.connection.stable_id() != connection);
        let last = links.is_empty();
        if last {
            table.remove(&node);
        }
        last
    }
}

pub enum Msg {
    /// Hold links with these addresses, and no others are dialled.
    Hold(BTreeSet<SocketAddr>),
    /// Gossip has something to say to an address with which there is no link.
    Dial(SocketAddr),
    Accepted(Box<(Connection, Peer)>),
    Dialled(SocketAddr, Result<Box<(Connection, Peer)>, PeerError>),
    Ended(NodeId, SocketAddr, usize, ConnectionError),
}

#[derive(Clone)]
pub struct Handle {
    mailbox: Mailbox<Msg>,
    quic: Quic,
    table: Arc<LinkTable>,
    telemetry: Telemetry,
}

impl Handle {
    pub fn new(mailbox: Mailbox<Msg>, quic: Quic, table: Arc<LinkTable>, telemetry: Telemetry) -> Self {
        Self { mailbox, quic, table, telemetry }
    }

    /// Sends news to every peer but the one it came from. Never waits.
    pub fn push(&self, push: &Push, except: Option<NodeId>) {
        let payload = match codec::encode(push, MAX_FRAME_LEN) {
            Ok(payload) => Bytes::from(payload),
            Err(error) => return tracing::error!(%error, "news is too large to send"),
        };
        for link in self.table.all().iter().filter(|link| Some(link.node) != except) {
            self.queue(link, UniKind::Push, payload.clone());
        }
    }

    /// Sends a message of gossip, or has the address dialled if there is no link: gossip says it again.
    pub fn gossip(&self, to: SocketAddr, payload: Bytes) {
        match self.table.at(to) {
            Some(link) => self.queue(&link, UniKind::Gossip, payload),
            None => {
                self.dropped("no_link");
                // A full inbox is counted there; the next round of gossip asks again.
                let _ = self.mailbox.try_send(Msg::Dial(to));
            }
        }
    }

    fn queue(&self, link: &Link, kind: UniKind, payload: Bytes) {
        if link.queue.try_send((kind, payload)).is_err() {
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

    /// Has the links with these addresses held.
    pub async fn hold(&self, addresses: BTreeSet<SocketAddr>) {
        // Fails only when the node is going down.
        let _ = self.mailbox.send(Msg::Hold(addresses)).await;
    }

    /// Waits until all that was queued for the peers has been handed to QUIC, at most so long.
    pub async fn flush(&self, deadline: Duration) {
        let flushed = async {
            for link in self.table.all() {
                // Full capacity means an empty queue.
                if link.queue.reserve_many(QUEUE).await.is_err() {
                    continue;
                }
            }
        };
        let _ = tokio::time::timeout(deadline, flushed).await;
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
    held: BTreeSet<SocketAddr>,
}

impl LinksActor {
    pub fn new(
        quic: Quic,
        table: Arc<LinkTable>,
        identity: IdentityReader,
        membership: membership::Handle,
        receivers: Receivers,
        myself: Mailbox<Msg>,
    ) -> Self {
        let schedule = DialSchedule::default();
        Self { quic, table, identity, membership, receivers, myself, schedule, held: BTreeSet::new() }
    }

    fn on(&mut self, message: Msg) {
        let now = Instant::now().into_std();
        match message {
            Msg::Hold(addresses) => {
                self.schedule.retain(|address| addresses.contains(&address));
                addresses.iter().for_each(|&address| self.want(address));
                self.held = addresses;
            }
            Msg::Dial(address) => self.want(address),
            Msg::Accepted(accepted) => self.up(*accepted),
            Msg::Dialled(address, Ok(dialled)) => {
                self.schedule.connected(address);
                self.up(*dialled);
            }
            Msg::Dialled(address, Err(error)) => {
                self.schedule.failed(address, now, &mut rand::rng());
                match &error {
                    PeerError::Untrusted { .. } | PeerError::NoCertificate { .. } => {
                        tracing::warn!(%error, "a peer is refused");
                    }
                    _ => tracing::debug!(%error, "dial failed"),
                }
                self.membership.dial_failed(address);
                if !self.held.contains(&address) {
                    // Only gossip wanted it, and will ask again.
                    self.schedule.retain(|known| known != address);
                }
            }
            Msg::Ended(node, address, connection, why) => {
                if self.table.remove(node, connection) {
                    tracing::debug!(%node, %address, %why, "link ended");
                    self.schedule.disconnected(address, now);
                    let on_purpose =
                        matches!(why, ConnectionError::ApplicationClosed(_) | ConnectionError::LocallyClosed);
                    self.membership.link_down(node, on_purpose);
                }
            }
        }
    }

    fn want(&mut self, address: SocketAddr) {
        self.schedule.add(address, Instant::now().into_std());
        if self.table.at(address).is_some() {
            self.schedule.connected(address);
        }
    }

    fn up(&mut self, (connection, peer): (Connection, Peer)) {
        let address = connection.remote_address();
        let Some(name) = peer.identity.id.as_node().cloned() else { return };
        let node = name.id();
        if name == self.identity.load().name {
            connection.close(0u32.into(), b"this is you");
            return;
        }
        let (queue, queued) = mpsc::channel(QUEUE);
        tokio::spawn(session::write(connection.clone(), queued));
        let reading = session::read(connection.clone(), peer, address, self.receivers.clone());
        let (myself, stable_id) = (self.myself.clone(), connection.stable_id());
        tokio::spawn(async move {
            let why = reading.await;
            // Fails only when the node is going down.
            let _ = myself.send(Msg::Ended(node, address, stable_id, why)).await;
        });
        let (first, surplus) = self.table.add(Link { node, name: name.clone(), address, connection, queue });
        if let Some(surplus) = surplus {
            surplus.connection.close(0u32.into(), b"superseded");
        }
        self.schedule.connected(address);
        if first {
            tracing::debug!(%name, %address, "link up");
            self.membership.link_up(node, name, address);
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
        let admitting = Arc::new(tokio::sync::Semaphore::new(MAX_ADMITTING));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = tick.tick() => self.dial_due(),
                message = inbox.recv() => match message {
                    Some(message) => self.on(message),
                    None => return Ok(()),
                },
                incoming = self.quic.accept() => {
                    let incoming = incoming.context("the QUIC endpoint is closed")?;
                    match admitting.clone().try_acquire_owned() {
                        Ok(permit) => {
                            let (quic, myself, to) = (self.quic.clone(), self.myself.clone(), self.receivers.clone());
                            tokio::spawn(async move {
                                admit(incoming, quic, myself, to).await;
                                drop(permit);
                            });
                        }
                        // A flood of strangers must not keep members waiting: they come again.
                        Err(_) => incoming.refuse(),
                    }
                }
            }
        }
    }
}

async fn admit(incoming: quinn::Incoming, quic: Quic, myself: Mailbox<Msg>, to: Receivers) {
    let from = incoming.remote_address();
    match quic.admit(incoming).await {
        Ok(Accepted::Member { connection, peer }) => {
            let _ = myself.send(Msg::Accepted(Box::new((connection, *peer)))).await;
        }
        Ok(Accepted::Joining { connection }) => {
            let answered = join::serve(connection, |question| to.issuer.answer_join(question, from)).await;
            if let Err(error) = answered {
                tracing::debug!(%from, %error, "join connection ended early");
            }
        }
        Err(error) => {
            to.telemetry.peers_refused.get_or_create(&Reason { reason: "handshake" }).inc();
            tracing::info!(%from, %error, "a connection was refused");
        }
    }
}
