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
    fact::NodeState,
    id::{NodeId, NodeName},
};

use crate::{
    change::{Change, What},
    liveness::{Evidence, Liveness, Status},
    membership::MemberSet,
    overlay::{Rumoured, neighbours},
};

/// Addresses remembered for ever. A mesh that has had more members finds itself through the others.
const MAX_REMEMBERED: usize = 4096;

#[derive(Debug)]
struct Peer {
    name: NodeName,
    address: SocketAddr,
    /// By its own word it will not be back.
    left: bool,
}

/// What a node said of itself, signed.
#[derive(Clone, Debug)]
pub struct Said {
    pub name: NodeName,
    pub incarnation: u64,
    pub address: SocketAddr,
    pub state: NodeState,
}

/// All other nodes, as this one sees them.
#[derive(Debug)]
pub struct Peers {
    me: NodeId,
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
            overlay_seed,
            peers: BTreeMap::new(),
            liveness: Liveness::default(),
            rumours: Arc::default(),
            rumoured: Rumoured::default(),
            remembered,
        }
    }

    /// What a peer is called; others only have their id.
    pub fn name(&self, node: NodeId) -> String {
        self.peers.get(&node).map_or_else(|| node.to_string(), |peer| peer.name.to_string())
    }

    /// Every peer that was ever seen alive.
    pub fn statuses(&self) -> impl Iterator<Item = (NodeId, Status)> {
        self.liveness.statuses()
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
        self.peers.entry(node).or_insert(Peer { name, address, left: false }).address = address;
        let mut changes = self.observe(node, Evidence::LinkUp, now);
        changes.extend(self.weigh_rumours(now));
        changes
    }

    pub fn on_link_down(&mut self, node: NodeId, on_purpose: bool, now: Instant) -> Vec<Change> {
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
        let silent = there.filter(|&node| !linked(node));
        silent.map_or_else(Vec::new, |node| self.observe(node, Evidence::DialFailed, now))
    }

    /// Gossip knows these members now.
    pub fn on_rumours(&mut self, rumours: Arc<MemberSet>, now: Instant) -> Vec<Change> {
        self.rumours = rumours;
        self.weigh_rumours(now)
    }

    /// All facts of other nodes are these now.
    pub fn on_facts(&mut self, facts: &[Said], now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut spoken = BTreeSet::new();
        for Said { name, incarnation, address, state } in facts {
            let node = name.id();
            spoken.insert(node);
            let peer = Peer { name: name.clone(), address: *address, left: *state == NodeState::Left };
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
                self.remember(*address);
            }
        }
        // Who left is a peer for as long as its word is kept, lest gossip bring it up again.
        self.peers.retain(|node, peer| !peer.left || spoken.contains(node));
        changes.extend(self.weigh_rumours(now));
        changes
    }

    /// Lets doubts grow old. Call it a few times a second.
    pub fn tick(&mut self, now: Instant) -> Vec<Change> {
        self.liveness.tick(now)
    }

    /// The addresses to hold links with: neighbours among the living; of the others all who may be back, wherever they
    /// were; and these seeds.
    pub fn wanted(&self, seeds: impl IntoIterator<Item = SocketAddr>) -> BTreeSet<SocketAddr> {
        let alive = |node: NodeId| self.liveness.status(node) == Some(Status::Alive);
        let (living, others): (Vec<_>, Vec<_>) =
            self.peers.iter().filter(|(_, peer)| !peer.left).partition(|&(&node, _)| alive(node));
        let near = neighbours(self.me, &living.iter().map(|&(&node, _)| node).collect(), self.overlay_seed);
        let (near, far): (Vec<_>, Vec<_>) = living.into_iter().partition(|(node, _)| near.contains(node));
        let mut wanted: BTreeSet<_> = self.remembered.iter().copied().chain(seeds).collect();
        for (_, peer) in far {
            wanted.remove(&peer.address);
        }
        wanted.extend(near.into_iter().chain(others).map(|(_, peer)| peer.address));
        wanted.extend(self.rumoured.to_dial());
        wanted
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
            if let Some(peer) = self.peers.get(&change.node) {
                self.remember(peer.address);
            }
        }
    }

    fn remember(&mut self, address: SocketAddr) {
        if self.remembered.len() < MAX_REMEMBERED {
            self.remembered.insert(address);
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
        Said { name: node(n), incarnation, address: address(n), state }
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
