//! The `membership` actor: who is a member and whether it is alive, from gossip, links and the owners' own words. It
//! decides which links to hold, and has facts and documents pulled when a member gossips that it has newer ones.

pub mod gossip;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use weft_discovery::{
    cells::{Abroad, Known},
    change::{Change, What},
    liveness::Status,
    membership::MemberSet,
    peers::{Peers, Said},
    repair::{Held, Repair},
};
use weft_wire::{
    cell::RelayWord,
    frame::MESH_PORT,
    id::{NodeId, NodeName},
};

use self::gossip::{Gossip, News};
use crate::{
    actors::{documents, facts, refresh::until},
    events::Kind,
    seeds::Seeds,
    supervisor::{Actor, Inbox, Mailbox},
    telemetry::Event,
};

/// How often it is looked for what peers have and this node lacks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A relay that has just started knows too few of its cell; and later it says what has changed so often at most.
const FIRST_WORD: Duration = Duration::from_secs(2);
const WORD_EVERY: Duration = Duration::from_millis(200);

/// What this node knows of another node's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub status: Status,
    pub since: Instant,
}

/// The life of every other member, as seen from here.
pub type Standings = Arc<BTreeMap<NodeId, Standing>>;

pub enum Msg {
    LinkUp(NodeId, NodeName, SocketAddr),
    LinkDown { node: NodeId, on_purpose: bool },
    DialFailed(SocketAddr),
    Missed(NodeId),
}

#[derive(Clone)]
pub struct Handle {
    mailbox: Mailbox<Msg>,
    standings: watch::Receiver<Standings>,
    rumours: watch::Receiver<Arc<MemberSet>>,
}

impl Handle {
    pub fn new(
        mailbox: Mailbox<Msg>,
        standings: watch::Receiver<Standings>,
        rumours: watch::Receiver<Arc<MemberSet>>,
    ) -> Self {
        Self { mailbox, standings, rumours }
    }
    pub fn standings(&self) -> &watch::Receiver<Standings> {
        &self.standings
    }
    /// What gossip said last.
    pub fn rumours(&self) -> Arc<MemberSet> {
        self.rumours.borrow().clone()
    }
    pub fn link_up(&self, node: NodeId, name: NodeName, address: SocketAddr) {
        self.tell(Msg::LinkUp(node, name, address));
    }
    pub fn link_down(&self, node: NodeId, on_purpose: bool) {
        self.tell(Msg::LinkDown { node, on_purpose });
    }
    pub fn dial_failed(&self, address: SocketAddr) {
        self.tell(Msg::DialFailed(address));
    }
    /// A peer had more to push than its queue took, or says that it has something newer.
    pub fn missed(&self, node: NodeId) {
        // If this inbox is full too, gossip tells what is missing.
        let _ = self.mailbox.try_send(Msg::Missed(node));
    }
    /// Evidence must not be lost, and the links actor must not wait for us.
    fn tell(&self, message: Msg) {
        let mailbox = self.mailbox.clone();
        tokio::spawn(async move {
            // Fails only when the node is going down.
            let _ = mailbox.send(message).await;
        });
    }
}

/// What stays the same over the actor's restarts.
#[derive(Clone)]
pub struct Setup {
    pub gossip: gossip::Setup,
    /// From the configuration; dialled for ever.
    pub seeds: Seeds,
    /// Where members were, in this run and earlier ones; dialled until they leave the mesh by their own word.
    pub remembered: Arc<watch::Sender<BTreeSet<SocketAddr>>>,
    pub standings: Arc<watch::Sender<Standings>>,
    pub rumours: Arc<watch::Sender<Arc<MemberSet>>>,
    pub abroad: Arc<watch::Sender<Arc<Abroad>>>,
    pub is_relay: bool,
    pub facts: facts::Handle,
    pub documents: documents::Handle,
}

pub struct MembershipActor {
    setup: Setup,
    peers: Peers,
    repair: Repair,
    /// What gossip said last.
    gossiped: Arc<MemberSet>,
    /// What this node said last as a relay, and when it may say more.
    word: (Option<RelayWord>, Instant),
}

impl MembershipActor {
    pub fn new(setup: Setup) -> Self {
        let peers = Peers::new(setup.gossip.name.id(), rand::random(), setup.remembered.borrow().clone())
            .in_cell(setup.gossip.cell.clone(), setup.is_relay);
        let word = (None, Instant::now() + FIRST_WORD);
        Self { setup, peers, repair: Repair::default(), gossiped: Arc::default(), word }
    }

    fn report(&self, changes: Vec<Change>) {
        for Change { node, what } in changes {
            self.setup.gossip.telemetry.member_events.get_or_create(&Event { event: what.as_str() }).inc();
            let name = self.peers.name(node);
            // Who leaves says so itself, and whether for good.
            if !matches!(what, What::Changed | What::Left) {
                self.setup.gossip.telemetry.events.say(Kind::Member, &name, what.as_str());
            }
            match what {
                What::Failed => tracing::warn!(member = %name, "member failed"),
                What::Changed => tracing::debug!(member = %name, "member changed"),
                What::Joined | What::Left | What::Recovered | What::Forgotten => {
                    tracing::info!(member = %name, "member {}", what.as_str());
                }
            }
        }
    }

    fn on(&mut self, message: Msg) -> Vec<Change> {
        let now = Instant::now().into_std();
        match message {
            Msg::LinkUp(node, name, address) => {
                // What was missed while there was no link is asked for at once.
                self.repair.asked(node, now);
                self.setup.facts.pull_from(node);
                self.setup.documents.pull_from(node);
                self.peers.on_link_up(node, name, address, now)
            }
            Msg::Missed(node) => {
                self.repair.missed(node);
                Vec::new()
            }
            Msg::LinkDown { node, on_purpose } => self.peers.on_link_down(node, on_purpose, now),
            Msg::DialFailed(address) => {
                let linked = |node| self.setup.gossip.table.to(node).is_some();
                self.peers.on_dial_failed(address, linked, now)
            }
        }
    }

    fn on_facts(&mut self, facts: &facts::Published) -> Vec<Change> {
        let me = &self.setup.gossip.name;
        let others = facts.nodes.iter().filter(|(name, _)| *name != me).map(|(name, node)| Said {
            name: name.clone(),
            incarnation: node.version.incarnation,
            address: SocketAddr::new(node.record.advertise, MESH_PORT),
            state: node.record.state,
            cell: node.record.cell(),
            is_relay: node.record.is_relay(),
        });
        self.peers.on_met(&facts.met);
        self.peers.on_facts(&others.collect::<Vec<_>>(), Instant::now().into_std())
    }

    fn linked(&self) -> BTreeSet<NodeId> {
        self.setup.gossip.table.all().iter().map(|link| link.node).collect()
    }

    /// Looks what relays say of other cells, and says what this node sees if it is one.
    fn look_abroad(&mut self) -> Vec<Change> {
        let known = self.setup.facts.published().borrow().clone();
        let linked = self.linked();
        let me = self.setup.gossip.name.id();
        let abroad = if known.has_abroad {
            let nodes = known.nodes.iter().map(|(name, node)| (name, node.version, &*node.record));
            let looked_at = Known { home: &self.setup.gossip.cell, nodes, words: &known.words, linked: &linked };
            let standings = self.setup.standings.borrow().clone();
            let is_alive = |node: NodeId| {
                let status = standings.get(&node).map(|standing| standing.status);
                node == me || matches!(status, Some(Status::Alive | Status::Suspect))
            };
            Abroad::look(looked_at, is_alive)
        } else {
            Abroad::default()
        };
        self.setup.abroad.send_if_modified(|before| {
            let is_new = **before != abroad;
            if is_new {
                *before = Arc::new(abroad.clone());
            }
            is_new
        });
        let rumours = abroad.with(&self.gossiped);
        let changes = match *rumours == *self.peers.rumours() {
            true => Vec::new(),
            false => {
                self.setup.rumours.send_replace(rumours.clone());
                self.peers.on_rumours(rumours, Instant::now().into_std())
            }
        };
        let now = Instant::now();
        if self.setup.is_relay && self.word.1 <= now {
            let word = self.peers.relay_word(&linked, self.setup.documents.root());
            if self.word.0.as_ref() != Some(&word) && self.setup.facts.say_relay(word.clone()) {
                self.word = (Some(word), now + WORD_EVERY);
            }
        }
        changes
    }

    /// Has what this node missed pulled.
    fn repair(&mut self) {
        let known = self.setup.facts.published().borrow().clone();
        let me = self.setup.gossip.name.id();
        let linked = self.linked();
        let abroad = self.peers.abroad_of(&linked);
        self.setup.gossip.table.set_abroad(&abroad);
        let held = Held { me, facts: &known.progress, documents: self.setup.documents.root(), abroad: &abroad };
        let now = Instant::now().into_std();
        for (peer, missing) in self.repair.due(self.peers.rumours(), &held, &linked, now, &mut rand::rng()) {
            if missing.facts {
                self.setup.facts.pull_from(peer);
            }
            if missing.documents {
                self.setup.documents.pull_from(peer);
            }
        }
    }

    fn publish(&self) {
        self.setup.standings.send_if_modified(|published| {
            let mut modified = false;
            let standings = self.peers.statuses().map(|(node, status)| {
                let unchanged = published.get(&node).filter(|standing| standing.status == status).cloned();
                modified |= unchanged.is_none();
                (node, unchanged.unwrap_or_else(|| Standing { status, since: Instant::now() }))
            });
            let standings: BTreeMap<_, _> = standings.collect();
            modified |= standings.len() != published.len();
            if modified {
                *published = Arc::new(standings);
            }
            modified
        });
        self.setup.remembered.send_if_modified(|published| {
            let modified = published != self.peers.remembered();
            if modified {
                published.clone_from(self.peers.remembered());
            }
            modified
        });
    }
}

impl Actor for MembershipActor {
    type Msg = Msg;

    async fn run(mut self, inbox: &mut Inbox<Msg>) -> anyhow::Result<()> {
        let gossip = Gossip::start(self.setup.gossip.clone());
        let mut rumours = gossip.members();
        let mut nodes = self.setup.facts.published().clone();
        let mut seeds = self.setup.seeds.clone();
        nodes.mark_changed();
        // A restarted actor finds the links that are up.
        for link in self.setup.gossip.table.all() {
            let changes = self.peers.on_link_up(link.node, link.name, link.address, Instant::now().into_std());
            self.report(changes);
        }
        let mut held = BTreeSet::new();
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let doubt_ends = self.peers.doubt_ends().map(Instant::from);
            let changes = tokio::select! {
                biased;
                _ = tick.tick() => {
                    self.repair();
                    self.peers.tick(Instant::now().into_std())
                }
                () = until(doubt_ends) => self.peers.tick(Instant::now().into_std()),
                message = inbox.recv() => match message {
                    Some(message) => self.on(message),
                    None => return Ok(()),
                },
                changed = rumours.changed() => {
                    changed?;
                    self.gossiped = rumours.borrow_and_update().clone();
                    Vec::new()
                }
                changed = nodes.changed() => {
                    changed?;
                    let known = nodes.borrow_and_update().clone();
                    self.on_facts(&known)
                }
                () = seeds.changed() => Vec::new(),
            };
            self.report(changes);
            let changes = self.look_abroad();
            self.report(changes);
            let facts = self.setup.facts.published().borrow().own;
            gossip.tell(News { facts, documents: self.setup.documents.root() });
            let mut wanted = self.peers.wanted(seeds.addresses());
            wanted.remove(&self.setup.gossip.advertise);
            if wanted != held {
                self.setup.gossip.links.hold(wanted.clone());
                held = wanted;
            }
            self.publish();
        }
    }
}
