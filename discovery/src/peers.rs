//! Who the other nodes are, where, whether they live, and with whom to hold links.
//!
//! A *peer* is a node of which a connection or its own signed fact gave proof. Gossip says of peers whether they live
//! and may name others, of whom a few are dialled to see whether they exist; it makes nobody a peer.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Instant,
};

use weft_wire::{
    cell::{MAX_CELL_NODES, MAX_LINKED, RelayWord},
    fact::NodeState,
    id::{CellName, NodeId, NodeName},
};

use crate::{
    change::{Change, What},
    liveness::{Evidence, Liveness, Status},
    membership::MemberSet,
    overlay::{RELAYS_PER_CELL, Rumoured, first_ranked, neighbours},
};

/// Addresses remembered for ever. A mesh that has had more members finds itself through the others.
const MAX_REMEMBERED: usize = 4096;

#[derive(Debug)]
struct Peer {
    name: NodeName,
    address: SocketAddr,
    /// By its own word it will not be back.
    left: bool,
    /// Where it says that it is; `None` if nothing is known of that.
    cell: Option<CellName>,
    is_relay: bool,
    /// Its facts are here.
    has_spoken: bool,
}

/// What a node said of itself, signed.
#[derive(Clone, Debug)]
pub struct Said {
    pub cell: CellName,
    pub is_relay: bool,
    pub name: NodeName,
    pub incarnation: u64,
    pub address: SocketAddr,
    pub state: NodeState,
}

/// All other nodes, as this one sees them.
#[derive(Debug)]
pub struct Peers {
    me: NodeId,
    home: CellName,
    is_relay: bool,
    /// This process's own random number, for [`neighbours`].
    overlay_seed: u64,
    peers: BTreeMap<NodeId, Peer>,
    liveness: Liveness,
    rumours: Arc<MemberSet>,
    rumoured: Rumoured,
    /// Where peers were that have been alive and have not left.
    remembered: BTreeSet<SocketAddr>,
}

impl Peers {
    /// Begins with the addresses that an earlier life remembered.
    pub fn new(me: NodeId, overlay_seed: u64, remembered: BTreeSet<SocketAddr>) -> Self {
        Self {
            me,
            home: CellName::default_cell(),
            is_relay: false,
            overlay_seed,
            peers: BTreeMap::new(),
            liveness: Liveness::default(),
            rumours: Arc::default(),
            rumoured: Rumoured::default(),
            remembered,
        }
    }

    /// The peers of a node in this cell, perhaps as a relay.
    pub fn in_cell(self, home: CellName, is_relay: bool) -> Self {
        Self { home, is_relay, ..self }
    }

    /// What a peer is called; others only have their id.
    pub fn name(&self, node: NodeId) -> String {
        self.peers.get(&node).map_or_else(|| node.to_string(), |peer| peer.name.to_string())
    }

    /// Every peer that was ever seen alive and is of use in this cell.
    pub fn statuses(&self) -> impl Iterator<Item = (NodeId, Status)> {
        let is_stranger = |node: &NodeId| self.peers.get(node).is_some_and(|peer| self.is_stranger(peer));
        self.liveness.statuses().filter(move |(node, _)| !is_stranger(node))
    }

    /// What gossip said last.
    pub fn rumours(&self) -> &MemberSet {
        &self.rumours
    }

    /// Dialled for ever, so that a mesh comes together again after whatever time; but not those who left it.
    pub fn remembered(&self) -> &BTreeSet<SocketAddr> {
        &self.remembered
    }

    pub fn on_link_up(&mut self, node: NodeId, name: NodeName, address: SocketAddr, now: Instant) -> Vec<Change> {
        let peer = Peer { name, address, left: false, cell: None, is_relay: false, has_spoken: false };
        self.peers.entry(node).or_insert(peer).address = address;
        let mut changes = self.observe(node, Evidence::LinkUp, now);
        changes.extend(self.weigh_rumours(now));
        changes
    }

    pub fn on_link_down(&mut self, node: NodeId, on_purpose: bool, now: Instant) -> Vec<Change> {
        // Whom this node does not dial again, relays judge: a link that broke says nothing of it for long.
        let on_purpose = on_purpose || self.peers.get(&node).is_some_and(|peer| !self.is_dialled(peer));
        if self.peers.get(&node).is_some_and(|peer| self.is_stranger(peer)) {
            self.let_go(node);
            return Vec::new();
        }
        self.observe(node, if on_purpose { Evidence::LinkClosed } else { Evidence::LinkLost }, now)
    }

    /// A dial of this address failed. It says nothing of a peer with which there is a link all the same.
    pub fn on_dial_failed(
        &mut self,
        address: SocketAddr,
        linked: impl Fn(NodeId) -> bool,
        now: Instant,
    ) -> Vec<Change> {
        self.rumoured.dial_failed(address);
        let there = self.peers.iter().find(|(_, peer)| peer.address == address).map(|(&node, _)| node);
        let is_dialled = |node: &NodeId| self.peers.get(node).is_some_and(|peer| self.is_dialled(peer));
        let silent = there.filter(|&node| !linked(node)).filter(is_dialled);
        silent.map_or_else(Vec::new, |node| self.observe(node, Evidence::DialFailed, now))
    }

    /// Gossip knows these members now.
    pub fn on_rumours(&mut self, rumours: Arc<MemberSet>, now: Instant) -> Vec<Change> {
        self.rumours = rumours;
        self.weigh_rumours(now)
    }

    /// These linked peers are in other cells, and of no concern here.
    pub fn on_met(&mut self, met: &BTreeMap<NodeId, CellName>) {
        for (node, cell) in met {
            if let Some(peer) = self.peers.get_mut(node) {
                (peer.cell, peer.is_relay) = (Some(cell.clone()), false);
                self.remember(*node);
            }
        }
    }

    /// All facts of other nodes are these now.
    pub fn on_facts(&mut self, facts: &[Said], now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut spoken = BTreeSet::new();
        for Said { name, incarnation, address, state, cell, is_relay } in facts {
            let node = name.id();
            spoken.insert(node);
            let (name, cell, left) = (name.clone(), Some(cell.clone()), *state == NodeState::Left);
            let peer = Peer { name, address: *address, left, cell, is_relay: *is_relay, has_spoken: true };
            let before = self.peers.insert(node, peer);
            changes.extend(self.observe(
                node,
                Evidence::Said { incarnation: *incarnation, left: state.is_gone() },
                now,
            ));
            if let Some(moved) = before.filter(|before| before.address != *address) {
                self.forget(moved.address);
            }
            if *state == NodeState::Left {
                self.forget(*address);
            } else if self.liveness.status(node).is_some() {
                self.remember(node);
            }
        }
        // Who left is a peer for as long as its word is kept, lest gossip bring it up again.
        self.peers.retain(|node, peer| {
            peer.has_spoken = spoken.contains(node);
            !peer.left || peer.has_spoken
        });
        let strangers = self.peers.iter().filter(|(_, peer)| self.is_stranger(peer)).map(|(&node, _)| node);
        for node in strangers.filter(|node| !self.liveness.is_linked(*node)).collect::<Vec<_>>() {
            self.let_go(node);
        }
        changes.extend(self.weigh_rumours(now));
        changes
    }

    /// When [`Peers::tick`] has somebody to judge, if nothing else happens.
    pub fn doubt_ends(&self) -> Option<Instant> {
        self.liveness.doubt_ends()
    }

    /// Lets doubts grow old. Call it when one ends, and now and then.
    pub fn tick(&mut self, now: Instant) -> Vec<Change> {
        self.liveness.tick(now)
    }

    /// The addresses to hold links with: neighbours among the living of the own cell; of its others all who may be back,
    /// wherever they were; of other cells a few relays, if this is one or knows nobody of its own cell; and these seeds.
    pub fn wanted(&self, seeds: impl IntoIterator<Item = SocketAddr>) -> BTreeSet<SocketAddr> {
        let alive = |node: NodeId| self.liveness.status(node) == Some(Status::Alive);
        let here = self.peers.iter().filter(|(_, peer)| !peer.left && self.is_here(peer));
        let (living, others): (Vec<_>, Vec<_>) = here.partition(|&(&node, _)| alive(node));
        let near = neighbours(self.me, &living.iter().map(|&(&node, _)| node).collect(), self.overlay_seed);
        let is_alone = living.is_empty();
        let (near, far): (Vec<_>, Vec<_>) = living.into_iter().partition(|(node, _)| near.contains(node));
        let mut wanted: BTreeSet<_> = self.remembered.iter().copied().chain(seeds).collect();
        for (_, peer) in far {
            wanted.remove(&peer.address);
        }
        let mut relays: BTreeMap<&CellName, BTreeSet<NodeId>> = BTreeMap::new();
        let abroad = || self.peers.iter().filter(|(_, peer)| !peer.left && !self.is_here(peer));
        for (&node, peer) in abroad().filter(|(_, peer)| peer.is_relay) {
            let Some(cell) = &peer.cell else { continue };
            relays.entry(cell).or_default().extend(alive(node).then_some(node));
        }
        for (&node, peer) in abroad() {
            let of_cell = peer.cell.as_ref().and_then(|cell| relays.get(cell));
            let is_wanted = match (self.is_relay, peer.is_relay) {
                (true, true) => !alive(node) || of_cell.is_some_and(|living| self.picks_of(living).contains(&node)),
                // Who has no relay is reached by whom there is.
                (true, false) if of_cell.is_none() => continue,
                (true, false) => false,
                (false, _) if is_alone => continue,
                (false, _) => false,
            };
            if is_wanted {
                wanted.insert(peer.address);
            } else {
                wanted.remove(&peer.address);
            }
        }
        wanted.extend(near.into_iter().chain(others).map(|(_, peer)| peer.address));
        wanted.extend(self.rumoured.to_dial());
        wanted
    }

    /// What this node says as a relay, with these documents and links.
    pub fn relay_word(&self, linked: &BTreeSet<NodeId>, documents: [u8; 16]) -> RelayWord {
        let is_here = |node: &NodeId| self.peers.get(node).is_some_and(|peer| self.is_here(peer));
        let is_relay_abroad =
            |node: &&NodeId| self.peers.get(node).is_some_and(|peer| peer.is_relay && !self.is_here(peer));
        let here = || self.statuses().filter(|(node, status)| is_here(node) && *status != Status::Left);
        let holds = |node: &NodeId| self.rumours.members.get(node).and_then(|member| member.documents);
        let alive = here().filter(|(_, status)| matches!(status, Status::Alive | Status::Suspect));
        RelayWord {
            linked: linked.iter().filter(is_relay_abroad).take(MAX_LINKED).copied().collect(),
            alive: alive.map(|(node, _)| node).chain([self.me]).take(MAX_CELL_NODES).collect(),
            documents,
            agreed: here().all(|(node, _)| holds(&node) == Some(documents)),
        }
    }

    /// Which of these are known to be in other cells.
    pub fn abroad_of(&self, nodes: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let is_abroad = |node: &NodeId| self.peers.get(node).is_some_and(|peer| !self.is_here(peer));
        nodes.iter().copied().filter(is_abroad).collect()
    }

    fn is_here(&self, peer: &Peer) -> bool {
        peer.cell.as_ref().is_none_or(|cell| *cell == self.home)
    }

    /// Whether this node dials it until it is back.
    fn is_dialled(&self, peer: &Peer) -> bool {
        self.is_here(peer) || (self.is_relay && peer.is_relay)
    }

    /// Whether it is in another cell, and nothing that it says is kept here.
    fn is_stranger(&self, peer: &Peer) -> bool {
        !self.is_here(peer) && !peer.is_relay && !peer.has_spoken
    }

    /// It is no concern of this cell's, and has not failed.
    fn let_go(&mut self, node: NodeId) {
        self.liveness.forget(node);
        if let Some(peer) = self.peers.remove(&node) {
            self.forget(peer.address);
        }
    }

    fn picks_of(&self, living: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        first_ranked(living.iter().copied(), self.overlay_seed, RELAYS_PER_CELL)
    }

    /// Where peers are.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.peers.values().filter(|peer| !peer.left).map(|peer| peer.address)
    }

    fn observe(&mut self, node: NodeId, evidence: Evidence, now: Instant) -> Vec<Change> {
        let change = self.liveness.observe(node, evidence, now);
        self.remember_living(change.as_slice());
        change.into_iter().collect()
    }

    fn weigh_rumours(&mut self, now: Instant) -> Vec<Change> {
        let mut rumours = (*self.rumours).clone();
        let others = rumours.members.extract_if(.., |node, _| !self.peers.contains_key(node));
        let live = others.filter(|&(node, ref rumour)| node != self.me && rumour.live);
        self.rumoured.observe(live.map(|(node, rumour)| (node, rumour.address)));
        let changes = self.liveness.observe_members(&rumours, self.me, now);
        self.remember_living(&changes);
        changes
    }

    fn remember_living(&mut self, changes: &[Change]) {
        for change in changes.iter().filter(|change| matches!(change.what, What::Joined | What::Recovered)) {
            self.remember(change.node);
        }
    }

    /// Of other cells relays alone.
    fn remember(&mut self, node: NodeId) {
        let Some(peer) = self.peers.get(&node) else { return };
        if !peer.is_relay && !self.is_here(peer) {
            self.remembered.remove(&peer.address);
        } else if self.remembered.len() < MAX_REMEMBERED {
            self.remembered.insert(peer.address);
        }
    }

    /// Unless a peer is there that has not left.
    fn forget(&mut self, address: SocketAddr) {
        if !self.addresses().any(|known| known == address) {
            self.remembered.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{liveness::FORGET_AFTER, membership::Member};

    fn node(n: u8) -> NodeName {
        format!("n{n}").parse().unwrap()
    }

    fn address(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 15008))
    }

    fn said(n: u8, incarnation: u64, state: NodeState) -> Said {
        let (name, address, cell) = (node(n), address(n), CellName::default_cell());
        Said { name, incarnation, address, state, cell, is_relay: false }
    }

    fn rumours(of: impl IntoIterator<Item = u8>) -> Arc<MemberSet> {
        let member = |n| {
            let (name, address) = (Some(node(n)), address(n));
            (node(n).id(), Member { incarnation: 1, address, live: true, name, facts: None, documents: None })
        };
        Arc::new(MemberSet { members: of.into_iter().map(member).collect(), entries: 0 })
    }

    fn peers() -> Peers {
        Peers::new(node(0).id(), 1, BTreeSet::new())
    }

    /// A peer with which there was a link, until now.
    fn met(peers: &mut Peers, n: u8, now: Instant) {
        peers.on_facts(&[said(n, 1, NodeState::Up)], now);
        peers.on_link_up(node(n).id(), node(n), address(n), now);
        assert!(peers.wanted([]).contains(&address(n)));
    }

    #[test]
    fn a_node_that_left_is_dialled_no_more_and_not_remembered() {
        let (mut peers, now) = (peers(), Instant::now());
        met(&mut peers, 1, now);
        assert_eq!(*peers.remembered(), [address(1)].into());
        let changes = peers.on_facts(&[said(1, 1, NodeState::Left)], now);
        assert_eq!(changes, [Change { node: node(1).id(), what: What::Left }]);
        // Its connection ends, gossip still hears it, and its fact expires.
        peers.on_link_down(node(1).id(), true, now);
        peers.on_rumours(rumours([1]), now);
        assert_eq!((peers.wanted([]), peers.remembered().len()), (BTreeSet::new(), 0));
        peers.on_rumours(rumours([]), now);
        peers.tick(now + FORGET_AFTER);
        peers.on_facts(&[], now + FORGET_AFTER);
        assert_eq!((peers.wanted([]), peers.remembered().len()), (BTreeSet::new(), 0));
        assert_eq!(peers.addresses().count(), 0);
    }

    #[test]
    fn a_stopped_node_is_gone_at_once_dialled_all_the_same_and_back_when_it_says_so() {
        let (mut peers, now) = (peers(), Instant::now());
        met(&mut peers, 1, now);
        peers.on_facts(&[said(1, 1, NodeState::Stopped)], now);
        peers.on_link_down(node(1).id(), true, now);
        assert_eq!(peers.statuses().collect::<Vec<_>>(), [(node(1).id(), Status::Left)]);
        assert_eq!(peers.wanted([]), [address(1)].into());
        peers.on_link_up(node(1).id(), node(1), address(1), now);
        let changes = peers.on_facts(&[said(1, 2, NodeState::Up)], now);
        assert_eq!(changes, [Change { node: node(1).id(), what: What::Joined }]);
    }

    #[test]
    fn a_failed_peer_is_dialled_for_ever_also_after_a_restart() {
        let (mut peers, now) = (peers(), Instant::now());
        met(&mut peers, 1, now);
        peers.on_link_down(node(1).id(), false, now);
        peers.tick(now + Duration::from_secs(1));
        let much_later = now + 100 * FORGET_AFTER;
        assert_eq!(peers.tick(much_later), [Change { node: node(1).id(), what: What::Forgotten }]);
        peers.on_facts(&[], much_later);
        assert_eq!(peers.wanted([]), [address(1)].into());
        let restarted = Peers::new(node(0).id(), 1, peers.remembered().clone());
        assert_eq!(restarted.wanted([address(9)]), [address(1), address(9)].into());
    }

    #[test]
    fn a_node_of_another_cell_of_which_nothing_is_kept_is_no_member_and_has_not_failed() {
        let (mut peers, now) = (peers(), Instant::now());
        let elsewhere = |n| Said { cell: "b".parse().unwrap(), ..said(n, 1, NodeState::Up) };
        for linked in [true, false] {
            met(&mut peers, 1, now);
            peers.on_facts(&[elsewhere(1)], now);
            assert_eq!(peers.statuses().collect::<Vec<_>>(), [(node(1).id(), Status::Alive)], "its facts are of use");
            if !linked {
                peers.on_link_down(node(1).id(), false, now);
            }
            assert_eq!(peers.on_facts(&[], now), []);
            assert_eq!((peers.statuses().count(), peers.remembered().len()), (0, 0));
            assert_eq!(peers.on_link_down(node(1).id(), false, now), []);
            assert_eq!(peers.tick(now + FORGET_AFTER), []);
            assert_eq!((peers.addresses().count(), peers.wanted([])), (0, BTreeSet::new()));
        }
    }

    #[test]
    fn of_a_peer_that_moved_only_the_new_address_is_remembered() {
        let (mut peers, now) = (peers(), Instant::now());
        met(&mut peers, 1, now);
        peers.on_facts(&[Said { address: address(7), ..said(1, 2, NodeState::Up) }], now);
        assert_eq!(*peers.remembered(), [address(7)].into());
    }

    #[test]
    fn the_address_of_one_that_left_stays_remembered_while_another_is_there() {
        let (mut peers, now) = (peers(), Instant::now());
        met(&mut peers, 1, now);
        let heir = Said { address: address(1), ..said(2, 1, NodeState::Up) };
        peers.on_facts(&[said(1, 1, NodeState::Left), heir], now);
        peers.on_link_up(node(2).id(), node(2), address(1), now);
        assert_eq!(*peers.remembered(), [address(1)].into());
    }

    #[test]
    fn gossip_alone_makes_no_member_and_has_few_dialled() {
        let (mut peers, now) = (peers(), Instant::now());
        met(&mut peers, 1, now);
        // Nor has it any say over the incarnation of one that has spoken.
        assert_eq!(peers.on_rumours(rumours(0..100), now), []);
        assert_eq!(peers.statuses().count(), 1);
        let dialled = peers.wanted([]);
        assert_eq!(dialled.len(), 1 + 16);
        // One of them is real.
        let real = (2..100).find(|&n| dialled.contains(&address(n))).expect("some are dialled");
        let changes = peers.on_link_up(node(real).id(), node(real), address(real), now);
        assert_eq!(changes[0], Change { node: node(real).id(), what: What::Joined });
        for address in dialled {
            (0..3).for_each(|_| drop(peers.on_dial_failed(address, |_| true, now)));
        }
        assert_eq!(peers.wanted([]).len(), 2 + 16, "others get their turn");
    }

    #[test]
    fn of_a_large_mesh_few_are_held_though_all_are_remembered() {
        let (mut peers, now) = (peers(), Instant::now());
        let all: Vec<_> = (1..=30).map(|n| said(n, 1, NodeState::Up)).collect();
        peers.on_facts(&all, now);
        peers.on_rumours(rumours(1..=30), now);
        assert_eq!(peers.remembered().len(), 30);
        assert_eq!(peers.wanted([address(9)]).len(), crate::overlay::DIALLED_PEERS);
    }
}
