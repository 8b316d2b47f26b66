//! The `membership` actor: who is a member and whether it is alive, from gossip, links and the owners' own words. It
//! decides which links to hold, and has facts and documents pulled when a member gossips that it has newer ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior},
};
use weft_discovery::{
    change::What,
    liveness::{Evidence, Liveness, Status},
    membership::{DEFAULT_INTERVAL, MemberSet, Membership, Settings, Stats, Transport},
    overlay::neighbours,
};
use weft_wire::{
    fact::{FactVersion, NodeState},
    id::{MeshId, NodeId, NodeName},
};

use crate::{
    actors::{documents, facts, links},
    supervisor::{Actor, Inbox, Mailbox},
    telemetry::{Event, Reason, Telemetry},
};

/// Messages of gossip that wait to be sent or handled.
const GOSSIP_QUEUE: usize = 256;
const TICK: Duration = Duration::from_millis(100);
/// How often a difference that persists is asked about again.
const REPAIR_INTERVAL: Duration = Duration::from_secs(2);

/// Gossip wants a generation that grows with each of its starts: the incarnation, which counts starts of the node, and
/// below it so many bits that count starts of gossip within one.
const GENERATION_BITS: u32 = 16;

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
}

/// Where connections put the gossip they receive. The receiving end changes when the actor restarts.
#[derive(Clone, Default)]
pub struct GossipInbox(Arc<ArcSwapOption<mpsc::Sender<(SocketAddr, Bytes)>>>);

impl GossipInbox {
    /// Hands a message over, or drops it: gossip bears loss.
    pub fn deliver(&self, from: SocketAddr, payload: Bytes, telemetry: &Telemetry) {
        let taken = self.0.load().as_ref().is_some_and(|inbox| inbox.try_send((from, payload)).is_ok());
        if !taken {
            telemetry.messages_dropped.get_or_create(&Reason { reason: "gossip_inbox_full" }).inc();
        }
    }
}

#[derive(Clone)]
pub struct Handle {
    mailbox: Mailbox<Msg>,
    standings: watch::Receiver<Standings>,
}

impl Handle {
    pub fn new(mailbox: Mailbox<Msg>, standings: watch::Receiver<Standings>) -> Self {
        Self { mailbox, standings }
    }
    pub fn standings(&self) -> &watch::Receiver<Standings> {
        &self.standings
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
    pub mesh: MeshId,
    pub name: NodeName,
    pub incarnation: u64,
    pub advertise: SocketAddr,
    /// From the configuration and from earlier runs; dialled for ever.
    pub seeds: BTreeSet<SocketAddr>,
    pub gossip: GossipInbox,
    /// Counts this process's starts of gossip, each of which needs a generation of its own.
    pub generation: Arc<AtomicU64>,
    pub standings: Arc<watch::Sender<Standings>>,
    pub gossip_stats: Arc<watch::Sender<Option<Stats>>>,
    pub links: links::Handle,
    pub table: Arc<links::LinkTable>,
    pub facts: facts::Handle,
    pub documents: documents::Handle,
    pub telemetry: Telemetry,
}

pub struct MembershipActor {
    setup: Setup,
    me: NodeId,
    liveness: Liveness,
    /// Names and addresses, as connections and facts proved them.
    peers: BTreeMap<NodeId, (NodeName, SocketAddr)>,
    rumours: MemberSet,
    asked: BTreeMap<NodeId, Instant>,
    overlay_seed: u64,
}

impl MembershipActor {
    pub fn new(setup: Setup) -> Self {
        let me = setup.name.id();
        Self {
            setup,
            me,
            liveness: Liveness::default(),
            peers: BTreeMap::new(),
            rumours: MemberSet::default(),
            asked: BTreeMap::new(),
            overlay_seed: rand::random(),
        }
    }

    async fn start_gossip(&self) -> anyhow::Result<Membership> {
        let (outgoing, mut to_send) = mpsc::channel::<(SocketAddr, Bytes)>(GOSSIP_QUEUE);
        let (deliver, incoming) = mpsc::channel(GOSSIP_QUEUE);
        self.setup.gossip.0.store(Some(Arc::new(deliver)));
        let links = self.setup.links.clone();
        tokio::spawn(async move {
            while let Some((to, payload)) = to_send.recv().await {
                links.gossip(to, payload);
            }
        });
        let starts = self.setup.generation.fetch_add(1, Ordering::Relaxed).min((1 << GENERATION_BITS) - 1);
        let settings = Settings {
            mesh: self.setup.mesh,
            name: self.setup.name.clone(),
            incarnation: (self.setup.incarnation << GENERATION_BITS) + starts,
            advertise: self.setup.advertise,
            seeds: self.setup.seeds.iter().copied().collect(),
            interval: DEFAULT_INTERVAL,
        };
        Ok(Membership::start(settings, Transport { outgoing, incoming }).await?)
    }

    fn hear(&mut self, node: NodeId, evidence: Evidence) {
        if let Some(change) = self.liveness.observe(node, evidence, Instant::now().into_std()) {
            self.report(change.node, change.what);
        }
    }

    fn report(&self, node: NodeId, what: What) {
        self.setup.telemetry.member_events.get_or_create(&Event { event: what.as_str() }).inc();
        let name = self.peers.get(&node).map_or_else(|| node.to_string(), |(name, _)| name.to_string());
        match what {
            What::Failed => tracing::warn!(member = %name, "member failed"),
            What::Changed => tracing::debug!(member = %name, "member changed"),
            What::Joined | What::Left | What::Recovered | What::Forgotten => {
                tracing::info!(member = %name, "member {}", what.as_str());
            }
        }
    }

    fn on(&mut self, message: Msg, membership: &Membership) {
        match message {
            Msg::LinkUp(node, name, address) => {
                self.peers.insert(node, (name, address));
                self.hear(node, Evidence::LinkUp);
                membership.greet(address);
                // What was missed while there was no link is asked for at once.
                self.asked.remove(&node);
                self.setup.facts.pull_from(node);
                self.setup.documents.pull_from(node);
            }
            Msg::LinkDown { node, on_purpose } => {
                self.hear(node, if on_purpose { Evidence::LinkClosed } else { Evidence::LinkLost });
            }
            Msg::DialFailed(address) => {
                let node = self.peers.iter().find(|(_, (_, known))| *known == address).map(|(&node, _)| node);
                if let Some(node) = node.filter(|&node| self.setup.table.to(node).is_none()) {
                    self.hear(node, Evidence::DialFailed);
                }
            }
        }
    }

    /// Compares what members gossip with what this node has, and asks those that have more.
    fn repair(&mut self) {
        let now = Instant::now();
        let known = self.setup.facts.published().borrow().clone();
        let root = self.setup.documents.root();
        let me = self.me;
        for (&node, rumour) in self.rumours.members.iter().filter(|&(&node, rumour)| node != me && rumour.live) {
            let behind =
                rumour.facts.is_some_and(|version| known.versions.get(&node).is_none_or(|have| *have < version));
            let differs = rumour.documents.is_some_and(|theirs| theirs != root);
            let due = self.asked.get(&node).is_none_or(|asked| now - *asked >= REPAIR_INTERVAL);
            if !(behind || differs) || !due {
                continue;
            }
            self.asked.insert(node, now);
            if behind {
                self.setup.facts.pull_from(node);
            }
            if differs {
                self.setup.documents.pull_from(node);
            }
        }
    }

    fn on_rumours(&mut self, rumours: &MemberSet) {
        let mut rumours = rumours.clone();
        // Back from gossip's generations to incarnations, see `start_gossip`.
        rumours.members.values_mut().for_each(|rumour| rumour.incarnation >>= GENERATION_BITS);
        for change in self.liveness.observe_members(&rumours, self.me, Instant::now().into_std()) {
            self.report(change.node, change.what);
        }
        let me = self.me;
        for (&node, rumour) in rumours.members.iter().filter(|&(&node, rumour)| node != me && rumour.live) {
            if let Some(name) = &rumour.name {
                self.peers.entry(node).or_insert_with(|| (name.clone(), rumour.address));
            }
        }
        self.rumours = rumours;
    }

    fn on_facts(&mut self, facts: &facts::Published) {
        let me = self.setup.name.clone();
        for (name, node) in facts.nodes.iter().filter(|(name, _)| **name != me) {
            let left = node.record.state == NodeState::Left;
            let address = SocketAddr::new(node.record.advertise, weft_wire::frame::MESH_PORT);
            let peer = self.peers.entry(name.id()).or_insert_with(|| (name.clone(), address));
            peer.1 = address;
            self.hear(name.id(), Evidence::Said { incarnation: node.version.incarnation, left });
        }
    }

    /// Whom to hold links with: neighbours among the living, whoever is not known to be alive or gone, and seeds.
    fn wanted(&self) -> BTreeSet<SocketAddr> {
        let status = |node: NodeId| self.liveness.status(node);
        let live: BTreeSet<NodeId> = self.peers.keys().copied().filter(|&n| status(n) == Some(Status::Alive)).collect();
        let near = neighbours(self.me, &live, self.overlay_seed);
        let mut wanted: BTreeSet<SocketAddr> = self
            .peers
            .iter()
            .filter(|&(node, _)| near.contains(node) || !matches!(status(*node), Some(Status::Alive | Status::Left)))
            .map(|(_, &(_, address))| address)
            .collect();
        let known: BTreeSet<SocketAddr> = self.peers.values().map(|&(_, address)| address).collect();
        wanted.extend(self.setup.seeds.difference(&known));
        wanted.remove(&self.setup.advertise);
        wanted
    }

    fn publish(&self) {
        self.setup.standings.send_if_modified(|published| {
            let mut modified = false;
            let standings = self.liveness.statuses().map(|(node, status)| {
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
    }
}

impl Actor for MembershipActor {
    type Msg = Msg;

    async fn run(mut self, inbox: &mut Inbox<Msg>) -> anyhow::Result<()> {
        let membership = self.start_gossip().await?;
        let terminated = membership.terminated();
        tokio::pin!(terminated);
        let mut rumours = membership.watch();
        let mut nodes = self.setup.facts.published().clone();
        nodes.mark_changed();
        // A restarted actor finds the links that are up.
        for link in self.setup.table.all() {
            self.peers.insert(link.node, (link.name.clone(), link.address));
            self.hear(link.node, Evidence::LinkUp);
        }
        let (mut told_facts, mut told_root) = (FactVersion::default(), [0; 16]);
        let mut held = BTreeSet::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                ended = &mut terminated => return Err(ended.into()),
                _ = tick.tick() => {
                    for change in self.liveness.tick(Instant::now().into_std()) {
                        self.report(change.node, change.what);
                    }
                    self.setup.gossip_stats.send_replace(Some(membership.stats()));
                    self.repair();
                }
                message = inbox.recv() => match message {
                    Some(message) => self.on(message, &membership),
                    None => return Ok(()),
                },
                changed = rumours.changed() => {
                    changed?;
                    let set = rumours.borrow_and_update().clone();
                    self.on_rumours(&set);
                }
                changed = nodes.changed() => {
                    changed?;
                    let known = nodes.borrow_and_update().clone();
                    self.on_facts(&known);
                }
            }
            let (facts, root) = (self.setup.facts.published().borrow().own, self.setup.documents.root());
            if facts != told_facts {
                membership.announce_facts(facts).await;
                told_facts = facts;
            }
            if root != told_root {
                membership.announce_documents(root).await;
                told_root = root;
            }
            let wanted = self.wanted();
            if wanted != held {
                self.setup.links.hold(wanted.clone());
                held = wanted;
            }
            self.publish();
        }
    }
}
