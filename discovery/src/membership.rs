//! Who seems to be a member: chitchat over a transport that is handed in.
//!
//! Any member can gossip anything about any other, so a [`Member`] is a rumour: good enough to know whom to dial and
//! when to ask for newer state, never a reason to believe or remove anything.
//!
//! One message carries the digest of all members, so a mesh can outgrow it. [`Stats::digest_alarm`] says so long
//! before; past the limit, gossip would stop without a word.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use chitchat::{
    Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, NodeState, ProtocolVersion,
};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;
use weft_wire::{
    fact::FactVersion,
    id::{CellName, MeshId, NodeId, NodeName},
};

pub use crate::codec_shim::MAX_MESSAGE_LEN;
use crate::{
    codec_shim::{Counters, ShimTransport},
    keys,
};

/// Links notice most failures sooner, so gossip may be slow: what it costs grows with the mesh.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
/// Half of what one message can carry: time to split the mesh before gossip stops.
pub const DIGEST_ALARM_BYTES: usize = 32 * 1024;
/// Some rounds of gossip, so that one that could be sent ends it.
pub const STALL_LASTS: Duration = Duration::from_secs(10);
/// Silence, in mean heartbeat intervals, after which a node counts as dead: 8 s by default. A throttled host is silent for
/// one or two seconds routinely, which must not count.
const PHI_THRESHOLD: f64 = 8.0;
/// Before there are heartbeats to measure, assume that they come this many rounds apart: 2 s by default.
const INITIAL_ROUNDS: u32 = 2;
/// Heartbeats remembered per member: 8 bytes each.
const SAMPLING_WINDOW: usize = 100;
/// Dead incarnations stay in the digest for half of this: a rolling restart must not multiply it for long.
const GRACE: Duration = Duration::from_secs(600);

/// Carries gossip between nodes; the node implements it over QUIC streams.
pub struct Transport {
    /// Messages to send, by peer address. Its capacity bounds what waits; more is dropped, which gossip bears.
    pub outgoing: mpsc::Sender<(SocketAddr, Bytes)>,
    /// Messages received, with the sender's *advertised* address: answers go there.
    pub incoming: mpsc::Receiver<(SocketAddr, Bytes)>,
}

pub struct Settings {
    pub mesh: MeshId,
    /// Nodes of other cells are not gossiped with.
    pub cell: CellName,
    pub name: NodeName,
    /// Must grow with each start, also within one process after [`Membership::terminated`].
    pub incarnation: u64,
    /// Where peers reach this node.
    pub advertise: SocketAddr,
    /// Time between rounds of gossip.
    pub interval: Duration,
}

/// What gossip says of one node, in its latest incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub incarnation: u64,
    pub address: SocketAddr,
    /// Whether its heartbeats arrive. One's own always do.
    pub live: bool,
    pub name: Option<NodeName>,
    /// How much the node has said of itself ([`crate::facts::FactTable::progress`]).
    pub facts: Option<FactVersion>,
    /// The digest of the node's documents.
    pub documents: Option<[u8; 16]>,
}

/// All members that gossip knows, this node among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberSet {
    pub members: BTreeMap<NodeId, Member>,
    /// Entries in the gossip digest: members, and dead incarnations that are not yet forgotten.
    pub entries: usize,
}

/// Gossip's own health, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Length of the last digest sent.
    pub digest_bytes: usize,
    /// The digest passed [`DIGEST_ALARM_BYTES`]: split the mesh, or wait for restarted nodes to be forgotten.
    pub digest_alarm: bool,
    /// Messages dropped because the transport's queue was full.
    pub queue_full: u64,
    /// Messages that could not be encoded.
    pub unsendable: u64,
    /// Messages received that could not be decoded.
    pub malformed: u64,
}

/// Whether gossip is stuck: its digest has outgrown one message, so that nobody's heartbeats arrive any more. Silence
/// proves no death then.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stall {
    unsendable: u64,
    until: Option<Instant>,
}

impl Stall {
    /// With how many messages could not be encoded so far: it is stuck from each that could not on, for
    /// [`STALL_LASTS`].
    pub fn look(&mut self, unsendable: u64, now: Instant) -> bool {
        if std::mem::replace(&mut self.unsendable, unsendable) < unsendable {
            self.until = Some(now + STALL_LASTS);
        }
        self.until.is_some_and(|until| now < until)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    #[error("gossip could not start: {0}")]
    Start(String),
    #[error("gossip ended: {0}")]
    Terminated(String),
}

/// A running membership. Dropping it ends it, without goodbye: what announces a leave is a fact.
pub struct Membership {
    handle: ChitchatHandle,
    members: watch::Receiver<Arc<MemberSet>>,
    counters: Arc<Counters>,
    _publisher: AbortOnDropHandle<()>,
}

impl Membership {
    /// Starts to gossip, after a random part of the interval: nodes that tick in step take twice as long to converge.
    ///
    /// # Errors
    /// [`MembershipError::Start`] if the loopback codec cannot be set up.
    pub async fn start(settings: Settings, transport: Transport) -> Result<Self, MembershipError> {
        tokio::time::sleep(settings.interval.mul_f64(rand::random::<f64>())).await;
        let own_keys = vec![(keys::NAME.to_owned(), settings.name.to_string())];
        let counters = Arc::new(Counters::default());
        let shim = ShimTransport::new(transport, counters.clone());
        let interval = settings.interval;
        let handle = chitchat::spawn_chitchat(config(settings), own_keys, &shim)
            .await
            .map_err(|error| MembershipError::Start(format!("{error:#}")))?;
        let (publish, members) = watch::channel(Arc::default());
        let publisher = AbortOnDropHandle::new(tokio::spawn(publish_members(handle.chitchat(), interval, publish)));
        Ok(Self { handle, members, counters, _publisher: publisher })
    }

    /// The members, whenever they change.
    pub fn watch(&self) -> watch::Receiver<Arc<MemberSet>> {
        self.members.clone()
    }

    /// Tells all members how much this node has said of itself ([`crate::facts::FactTable::progress`]).
    ///
    /// # Panics
    /// Here and in [`Membership::announce_documents`], chitchat panics over state that another member has spoilt
    /// (versions of this node's own keys at the end of their range): catch it, and start anew.
    pub async fn announce_facts(&self, version: FactVersion) {
        self.set(keys::FACTS, keys::encode_facts(version)).await;
    }

    /// Tells all members which documents this node holds.
    pub async fn announce_documents(&self, root: [u8; 16]) {
        self.set(keys::DOCUMENTS, keys::encode_root(root)).await;
    }

    async fn set(&self, key: &'static str, value: String) {
        self.handle.chitchat().lock().await.self_node_state().set(key, value);
    }

    /// Gossips with this peer now: for a link that has just come up.
    pub fn greet(&self, peer: SocketAddr) {
        // It fails only when gossip has ended, which `terminated` tells.
        let _ = self.handle.gossip(peer);
    }

    pub fn stats(&self) -> Stats {
        let digest_bytes = self.counters.digest_bytes.load(Relaxed) as usize;
        Stats {
            digest_bytes,
            digest_alarm: digest_bytes >= DIGEST_ALARM_BYTES,
            queue_full: self.counters.queue_full.load(Relaxed),
            unsendable: self.counters.unsendable.load(Relaxed),
            malformed: self.counters.malformed.load(Relaxed),
        }
    }

    /// Resolves when gossip has ended, by a closed transport or a panic inside chitchat. The last member set stays in
    /// the watch; start anew with a higher incarnation.
    pub fn terminated(&self) -> impl Future<Output = MembershipError> + Send + use<> {
        let watcher = self.handle.termination_watcher();
        async move {
            MembershipError::Terminated(
                watcher.await.map_or_else(|error| format!("{error:#}"), |()| "shut down".into()),
            )
        }
    }
}

fn config(settings: Settings) -> ChitchatConfig {
    ChitchatConfig {
        chitchat_id: ChitchatId::new(settings.name.id().to_string(), settings.incarnation, settings.advertise),
        cluster_id: cluster_id(settings.mesh, &settings.cell),
        gossip_interval: settings.interval,
        listen_addr: settings.advertise,
        // The caller greets whoever is linked.
        seed_nodes: Vec::new(),
        failure_detector_config: FailureDetectorConfig {
            phi_threshold: PHI_THRESHOLD,
            sampling_window_size: SAMPLING_WINDOW,
            initial_interval: settings.interval * INITIAL_ROUNDS,
            dead_node_grace_period: GRACE,
            ..FailureDetectorConfig::default()
        },
        marked_for_deletion_grace_period: GRACE,
        catchup_callback: None,
        extra_liveness_predicate: None,
        // A mesh that mixes versions must stay at the older; V1 from the first release on needs no such step.
        protocol_version: ProtocolVersion::V1,
    }
}

/// chitchat does not listen to those of another. Builds that know no cells are in the default one.
fn cluster_id(mesh: MeshId, cell: &CellName) -> String {
    match *cell == CellName::default_cell() {
        true => mesh.to_string(),
        false => format!("{mesh}/{cell}"),
    }
}

/// Publishes the members after each round that changed any. chitchat's watcher tells of live ones only, so a tick
/// looks for those that died unseen and those forgotten.
async fn publish_members(
    chitchat: Arc<tokio::sync::Mutex<Chitchat>>,
    interval: Duration,
    publish: watch::Sender<Arc<MemberSet>>,
) {
    let mut live_changes = chitchat.lock().await.live_nodes_watcher();
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            changed = live_changes.changed() => if changed.is_err() { break },
        }
        let set = member_set(&*chitchat.lock().await);
        publish.send_if_modified(|published| {
            let modified = **published != set;
            if modified {
                *published = Arc::new(set);
            }
            modified
        });
    }
}

fn member_set(chitchat: &Chitchat) -> MemberSet {
    let live = chitchat.live_nodes().map(|id| (id, true));
    let dead = chitchat.dead_nodes().map(|id| (id, false));
    let mut set = MemberSet::default();
    for (id, live) in live.chain(dead) {
        set.entries += 1;
        // Not an id of weft's: from a member that breaks the rules.
        let Ok(node) = id.node_id.parse::<NodeId>() else { continue };
        // A restarted node has an entry for each incarnation until the old ones are forgotten.
        if set.members.get(&node).is_none_or(|known| known.incarnation < id.generation_id) {
            set.members.insert(node, member(node, id, live, chitchat.node_state(id)));
        }
    }
    set
}

fn member(node: NodeId, id: &ChitchatId, live: bool, state: Option<&NodeState>) -> Member {
    let get = |key| state.and_then(|state| state.get(key));
    Member {
        incarnation: id.generation_id,
        address: id.gossip_advertise_addr,
        live,
        name: get(keys::NAME).and_then(|value| keys::decode_name(value, node)),
        facts: get(keys::FACTS).and_then(keys::decode_facts),
        documents: get(keys::DOCUMENTS).and_then(keys::decode_root),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VICTIM: &str = "192.0.2.1:15008";
    const SPOILER: &str = "192.0.2.9:15008";

    type Inbox = mpsc::Sender<(SocketAddr, Bytes)>;

    /// Gossip in the name of `victim`, and what it sends.
    async fn start(incarnation: u64) -> (Membership, Inbox, mpsc::Receiver<(SocketAddr, Bytes)>) {
        let (deliver, incoming) = mpsc::channel(64);
        let (outgoing, sent) = mpsc::channel(64);
        let settings = Settings {
            mesh: MeshId([7; 32]),
            cell: CellName::default_cell(),
            name: "victim".parse().unwrap(),
            incarnation,
            advertise: VICTIM.parse().unwrap(),
            interval: Duration::from_millis(20),
        };
        (Membership::start(settings, Transport { outgoing, incoming }).await.unwrap(), deliver, sent)
    }

    fn carry(mut sent: mpsc::Receiver<(SocketAddr, Bytes)>, from: &str, to: Inbox) {
        let from = from.parse().unwrap();
        tokio::spawn(async move {
            while let Some((_, bytes)) = sent.recv().await {
                let _ = to.try_send((from, bytes));
            }
        });
    }

    #[test]
    fn gossip_is_stuck_from_each_message_that_cannot_be_sent_until_some_rounds_could_be() {
        let (mut stall, start) = (Stall::default(), Instant::now());
        let mut look = |unsendable, after: u64| stall.look(unsendable, start + Duration::from_secs(after));
        assert_eq!([look(0, 0), look(1, 1), look(1, 10), look(1, 11), look(1, 12)], [false, true, true, false, false]);
        assert_eq!([look(2, 20), look(5, 29), look(5, 38), look(5, 39)], [true, true, true, false]);
    }

    #[tokio::test]
    async fn a_member_that_spoils_anothers_state_ends_one_life_of_its_gossip_and_not_the_next() {
        let (victim, to_victim, from_victim) = start(1).await;
        let (spoiler, to_spoiler, from_spoiler) = start(1).await;
        spoiler.handle.chitchat().lock().await.self_node_state().set_max_version(u64::MAX);
        carry(from_victim, VICTIM, to_spoiler.clone());
        carry(from_spoiler, SPOILER, to_victim);
        let spoilt = async {
            while victim.handle.chitchat().lock().await.self_node_state().max_version() != u64::MAX {
                victim.greet(SPOILER.parse().unwrap());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), spoilt).await.expect("the forged state arrives");
        let version = FactVersion { incarnation: 1, seq: 1 };
        let told = tokio::spawn(async move { victim.announce_facts(version).await }).await;
        assert!(told.unwrap_err().is_panic());

        let (victim, ..) = start(2).await;
        victim.announce_facts(version).await;
        let mut members = victim.watch();
        let told = members.wait_for(|set| set.members.values().any(|member| member.facts == Some(version)));
        tokio::time::timeout(Duration::from_secs(30), told).await.expect("in time").expect("it runs");
    }
}
