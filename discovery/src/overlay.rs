//! Whom to hold links with, and when to dial.
//!
//! Facts and documents are flooded over links. A small mesh links everyone with everyone. In a larger one each node
//! dials its successor on the ring of live ids, which keeps the whole connected, and a few others at random, which
//! keeps the way between any two short and the mesh whole when some are dead but not yet known to be.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::Rng;
use weft_wire::id::NodeId;

/// With this many others or fewer, link with all of them.
pub const FULL_MESH_PEERS: usize = 8;
/// Links that a node dials in a larger mesh. As many are dialled to it on average, for a mean degree of 8.
pub const DIALLED_PEERS: usize = 4;

/// The peers that `me` should hold links with, of these live members (which may include `me`). `seed` is this
/// process's own random number; with another, the random picks are others. When one member comes or goes, at most one
/// random pick and the successor change.
pub fn neighbours(me: NodeId, live: &BTreeSet<NodeId>, seed: u64) -> BTreeSet<NodeId> {
    let others = || live.iter().copied().filter(|&peer| peer != me);
    if others().count() <= FULL_MESH_PEERS {
        return others().collect();
    }
    let successor = others().find(|&peer| peer > me).or_else(|| others().next());
    let mut picks: BTreeSet<_> = successor.into_iter().collect();
    // Rendezvous hashing: every peer has its fixed rank for this node and seed.
    let mut ranked: Vec<_> = others().map(|peer| (rank(seed, peer), peer)).collect();
    // There are more than this, and the successor is one of them or not: these are enough, and the rest need no order.
    let (first, ..) = ranked.select_nth_unstable(DIALLED_PEERS);
    first.sort_unstable();
    for &mut (_, peer) in first {
        if picks.len() == DIALLED_PEERS {
            break;
        }
        picks.insert(peer);
    }
    picks
}

/// Relays of each other cell with which a relay holds links: one may die.
pub const RELAYS_PER_CELL: usize = 2;

/// So many of these peers, by rendezvous hashing.
pub fn first_ranked(peers: impl Iterator<Item = NodeId>, seed: u64, count: usize) -> BTreeSet<NodeId> {
    let mut ranked: Vec<_> = peers.map(|peer| (rank(seed, peer), peer)).collect();
    ranked.sort_unstable();
    ranked.into_iter().take(count).map(|(_, peer)| peer).collect()
}

fn rank(seed: u64, peer: NodeId) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, peer).hash(&mut hasher);
    hasher.finish()
}

/// Wait before the second dial; each further failure doubles it.
const MIN_BACKOFF: Duration = Duration::from_millis(500);
/// Longest wait between two dials of one address.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// A link that ends sooner was as good as refused: some peers learn only after a handshake that they are.
const MIN_LIFE: Duration = Duration::from_secs(1);

/// When to dial which address. Addresses are dialled until they are removed, however often that fails: it is how a
/// partition heals, and how a node finds its mesh after days.
#[derive(Debug, Default)]
pub struct DialSchedule {
    addresses: BTreeMap<SocketAddr, Dialling>,
}

#[derive(Debug)]
struct Dialling {
    state: DialState,
    /// Wait before the dial after the next failure.
    backoff: Duration,
}

#[derive(Debug, PartialEq, Eq)]
enum DialState {
    DueAt(Instant),
    /// Handed out by [`DialSchedule::due`]; its result is awaited.
    Dialling,
    ConnectedAt(Instant),
}

impl DialSchedule {
    /// Dials this address from now on. Has no effect on one that is known.
    pub fn add(&mut self, address: SocketAddr, now: Instant) {
        let dialling = Dialling { state: DialState::DueAt(now), backoff: MIN_BACKOFF };
        self.addresses.entry(address).or_insert(dialling);
    }

    /// Stops dialling all addresses but these.
    pub fn retain(&mut self, mut keep: impl FnMut(SocketAddr) -> bool) {
        self.addresses.retain(|&address, _| keep(address));
    }

    /// The addresses to dial now. Each is handed out once, until its result is told.
    pub fn due(&mut self, now: Instant) -> Vec<SocketAddr> {
        let is_due = |dialling: &Dialling| matches!(dialling.state, DialState::DueAt(at) if at <= now);
        let due = self.addresses.iter_mut().filter(|(_, dialling)| is_due(dialling));
        due.map(|(&address, dialling)| {
            dialling.state = DialState::Dialling;
            address
        })
        .collect()
    }

    /// When [`DialSchedule::due`] has something to dial, if nothing else happens.
    pub fn next_due(&self) -> Option<Instant> {
        let due = |dialling: &Dialling| match dialling.state {
            DialState::DueAt(at) => Some(at),
            DialState::Dialling | DialState::ConnectedAt(_) => None,
        };
        self.addresses.values().filter_map(due).min()
    }

    /// A link to this address is up, whoever dialled.
    pub fn connected(&mut self, address: SocketAddr, now: Instant) {
        if let Some(dialling) = self.addresses.get_mut(&address)
            && !matches!(dialling.state, DialState::ConnectedAt(_))
        {
            dialling.state = DialState::ConnectedAt(now);
        }
    }

    /// The link is gone: dial again at once, unless it ended as soon as it was up.
    pub fn disconnected(&mut self, address: SocketAddr, now: Instant, rng: &mut impl Rng) {
        if let Some(dialling) = self.addresses.get_mut(&address)
            && let DialState::ConnectedAt(since) = dialling.state
        {
            if now.saturating_duration_since(since) < MIN_LIFE {
                return dialling.back_off(now, rng);
            }
            *dialling = Dialling { state: DialState::DueAt(now), backoff: MIN_BACKOFF };
        }
    }

    /// The dial failed: wait longer each time, by a random part so that nodes do not dial in step.
    pub fn failed(&mut self, address: SocketAddr, now: Instant, rng: &mut impl Rng) {
        if let Some(dialling) = self.addresses.get_mut(&address)
            && dialling.state == DialState::Dialling
        {
            dialling.back_off(now, rng);
        }
    }
}

impl Dialling {
    fn back_off(&mut self, now: Instant, rng: &mut impl Rng) {
        let wait = self.backoff.mul_f64(rng.random_range(0.75..=1.0));
        self.state = DialState::DueAt(now + wait);
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
    }
}

/// Peers that gossip alone knows are dialled so many at once, and so often in vain: anybody can invent them.
const MAX_RUMOURED: usize = 16;
const MAX_RUMOURED_DIALS: u32 = 3;

/// Whom to dial of those that gossip calls alive, but of whom neither a link nor their own signed word is known.
#[derive(Debug, Default)]
pub struct Rumoured {
    /// Their addresses, and how often those were dialled in vain.
    peers: BTreeMap<NodeId, (SocketAddr, u32)>,
}

impl Rumoured {
    /// Takes in whom gossip knows now. Of the others nothing is remembered.
    pub fn observe(&mut self, peers: impl IntoIterator<Item = (NodeId, SocketAddr)>) {
        let failures = |node| self.peers.get(&node).map_or(0, |&(_, failures)| failures);
        self.peers = peers.into_iter().map(|(node, address)| (node, (address, failures(node)))).collect();
    }

    /// A dial of this address failed.
    pub fn dial_failed(&mut self, address: SocketAddr) {
        self.peers.values_mut().filter(|(known, _)| *known == address).for_each(|(_, failures)| *failures += 1);
    }

    pub fn to_dial(&self) -> impl Iterator<Item = SocketAddr> {
        let hopeful = self.peers.values().filter(|(_, failures)| *failures < MAX_RUMOURED_DIALS);
        hopeful.map(|&(address, _)| address).take(MAX_RUMOURED)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    use super::*;

    fn ids(count: usize, seed: u64) -> BTreeSet<NodeId> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut ids = BTreeSet::new();
        while ids.len() < count {
            ids.insert(NodeId(rng.random()));
        }
        ids
    }

    /// Every node has its own seed; this stands for it.
    fn own_seed(node: NodeId) -> u64 {
        u64::from_le_bytes(node.0)
    }

    fn reached(live: &BTreeSet<NodeId>) -> usize {
        let mut links: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
        for &node in live {
            for peer in neighbours(node, live, own_seed(node)) {
                links.entry(node).or_default().insert(peer);
                links.entry(peer).or_default().insert(node);
            }
        }
        let mut seen = BTreeSet::new();
        let mut next: Vec<_> = live.first().copied().into_iter().collect();
        while let Some(node) = next.pop() {
            if seen.insert(node) {
                next.extend(links.get(&node).into_iter().flatten());
            }
        }
        seen.len()
    }

    #[test]
    fn a_small_mesh_links_everyone() {
        let live = ids(FULL_MESH_PEERS + 1, 1);
        for &me in &live {
            let picks = neighbours(me, &live, own_seed(me));
            assert_eq!(picks.len(), FULL_MESH_PEERS);
            assert!(!picks.contains(&me));
        }
        assert!(neighbours(NodeId([7; 8]), &BTreeSet::new(), 1).is_empty());
    }

    #[test]
    fn dials_are_spread_and_not_all_at_the_same_few() {
        let live = ids(300, 2);
        let mut dialled: BTreeMap<NodeId, usize> = BTreeMap::new();
        for &me in &live {
            for peer in neighbours(me, &live, own_seed(me)) {
                *dialled.entry(peer).or_default() += 1;
            }
        }
        assert!(dialled.values().all(|&count| count <= 16), "{:?}", dialled.values().max());
    }

    proptest! {
        #[test]
        fn the_overlay_is_connected(count in 1..120usize, seed in any::<u64>()) {
            let live = ids(count, seed);
            prop_assert_eq!(reached(&live), live.len());
        }

        #[test]
        fn a_large_mesh_takes_four_dials_each(count in 10..120usize, seed in any::<u64>()) {
            let live = ids(count, seed);
            for &me in &live {
                let picks = neighbours(me, &live, own_seed(me));
                prop_assert_eq!(picks.len(), DIALLED_PEERS);
                prop_assert!(!picks.contains(&me));
            }
        }

        #[test]
        fn one_departure_moves_at_most_two_links_of_each_node(count in 20..80usize, seed in any::<u64>()) {
            let mut live = ids(count, seed);
            let all = live.clone();
            let gone = *all.iter().nth(count / 2).unwrap();
            live.remove(&gone);
            for &me in &live {
                let before = neighbours(me, &all, own_seed(me));
                let after = neighbours(me, &live, own_seed(me));
                prop_assert!(before.difference(&after).count() <= 2);
                if !before.contains(&gone) {
                    prop_assert_eq!(before, after, "no link to it, nothing to change");
                }
            }
        }
    }

    fn address() -> SocketAddr {
        "192.0.2.1:15008".parse().unwrap()
    }

    #[test]
    fn an_address_is_dialled_for_ever_at_most_ten_seconds_apart() {
        let mut rng = SmallRng::seed_from_u64(3);
        let mut schedule = DialSchedule::default();
        let mut now = Instant::now();
        schedule.add(address(), now);
        let mut waits = Vec::new();
        assert_eq!(schedule.due(now), [address()]);
        for _ in 0..50 {
            assert_eq!((schedule.due(now), schedule.next_due()), (Vec::new(), None), "one dial at a time");
            schedule.failed(address(), now, &mut rng);
            waits.push(wait_until_due(&mut schedule, now));
            now += waits[waits.len() - 1];
        }
        assert!(waits[0] <= MIN_BACKOFF && waits[0] >= MIN_BACKOFF / 2);
        assert!(waits[1] > waits[0]);
        assert!(waits[10..].iter().all(|wait| (MAX_BACKOFF * 3 / 4..=MAX_BACKOFF).contains(wait)), "{waits:?}");
        assert!(waits[10..].windows(2).any(|pair| pair[0] != pair[1]), "jitter");
    }

    #[test]
    fn a_lost_link_is_dialled_at_once_and_backs_off_anew() {
        let mut rng = SmallRng::seed_from_u64(3);
        let mut schedule = DialSchedule::default();
        let now = Instant::now();
        schedule.add(address(), now);
        for round in 0..5 {
            let later = now + MAX_BACKOFF * round;
            schedule.due(later);
            schedule.failed(address(), later, &mut rng);
        }
        schedule.connected(address(), now);
        schedule.failed(address(), now, &mut rng);
        let lost = now + MIN_LIFE;
        assert_eq!(schedule.due(lost), [], "a second dial that failed does not undo the link");
        schedule.disconnected(address(), lost, &mut rng);
        assert_eq!(schedule.due(lost), [address()]);
        schedule.failed(address(), lost, &mut rng);
        assert!(wait_until_due(&mut schedule, lost) <= MIN_BACKOFF);
    }

    #[test]
    fn a_peer_that_ends_each_link_at_once_is_dialled_ever_less_often() {
        let mut rng = SmallRng::seed_from_u64(3);
        let mut schedule = DialSchedule::default();
        let mut now = Instant::now();
        schedule.add(address(), now);
        schedule.due(now);
        let mut waits = Vec::new();
        for _ in 0..8 {
            schedule.connected(address(), now);
            now += MIN_LIFE / 2;
            schedule.disconnected(address(), now, &mut rng);
            waits.push(wait_until_due(&mut schedule, now));
            now += waits[waits.len() - 1];
        }
        assert!(waits[0] >= MIN_BACKOFF / 2 && waits[7] >= MAX_BACKOFF / 2, "{waits:?}");
    }

    /// Hands out the next dial.
    fn wait_until_due(schedule: &mut DialSchedule, now: Instant) -> Duration {
        let at = schedule.next_due().expect("dialled at some time");
        assert_eq!(schedule.due(at - Duration::from_nanos(1)), [], "not sooner");
        assert_eq!(schedule.due(at), [address()]);
        at.saturating_duration_since(now)
    }

    #[test]
    fn of_invented_peers_few_are_dialled_and_not_for_ever() {
        let peer = |n: u8| (NodeId([n; 8]), SocketAddr::from(([192, 0, 2, n], 15008)));
        let mut rumoured = Rumoured::default();
        rumoured.observe((0..40).map(peer));
        let first: Vec<_> = rumoured.to_dial().collect();
        assert_eq!(first.len(), MAX_RUMOURED);
        for address in first.iter().flat_map(|&address| [address; MAX_RUMOURED_DIALS as usize]) {
            rumoured.dial_failed(address);
        }
        // Gossip says so again, which makes them no better.
        rumoured.observe((0..40).map(peer));
        assert!(rumoured.to_dial().all(|address| !first.contains(&address)));
        assert_eq!(rumoured.to_dial().count(), MAX_RUMOURED, "others get their turn");
        rumoured.observe([]);
        rumoured.observe([peer(0)]);
        assert_eq!(rumoured.to_dial().collect::<Vec<_>>(), [peer(0).1], "forgotten, and new again");
    }

    #[test]
    fn an_address_no_longer_wanted_is_dialled_no_more() {
        let mut schedule = DialSchedule::default();
        let now = Instant::now();
        schedule.add(address(), now);
        schedule.retain(|_| false);
        assert_eq!(schedule.due(now), []);
        schedule.connected(address(), now);
        schedule.disconnected(address(), now + MIN_LIFE, &mut SmallRng::seed_from_u64(3));
        assert_eq!(schedule.due(now + MAX_BACKOFF), []);
    }
}
