//! A model of what chitchat delivers. The real one has randomness of its own, so no run with it repeats; what nodes do
//! with rumours needs only what it brings: each member's address, name and versions, as new as others heard of, by
//! anti-entropy with a few peers in each round. As in chitchat, any member can spoil what is said of another.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{Rng, seq::IteratorRandom};
use weft_discovery::membership::{Member, MemberSet};
use weft_wire::id::NodeId;

/// Peers that are asked in a round, as in chitchat.
const FANOUT: usize = 3;
/// 8 mean intervals of silence, as `weft_discovery::membership` has it.
const DEAD_AFTER: Duration = Duration::from_secs(8);
/// The grace that it has: half of it long nodes that are silent are still told of, and all of it long remembered, so that
/// those who stop telling a little later bring nobody back.
const TELL_FOR: Duration = Duration::from_secs(300);
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// What is said of one node. The later incarnation counts, then the later heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rumour {
    pub member: Member,
    pub heartbeat: u64,
}

impl Rumour {
    fn age(&self) -> (u64, u64) {
        (self.member.incarnation, self.heartbeat)
    }
}

/// All that one node says in an exchange.
pub type Rumours = Arc<Vec<(NodeId, Arc<Rumour>)>>;

struct Heard {
    rumour: Arc<Rumour>,
    at: Instant,
}

/// One node's gossip.
pub struct Gossip {
    me: NodeId,
    heard: BTreeMap<NodeId, Heard>,
}

impl Gossip {
    pub fn new(me: NodeId) -> Self {
        Self { me, heard: BTreeMap::new() }
    }

    /// Says of this node itself what is so now, and that it lives.
    pub fn beat(&mut self, member: Member, now: Instant) {
        let before = self.heard.get(&self.me).map_or(0, |heard| heard.rumour.heartbeat);
        let rumour = Arc::new(Rumour { member, heartbeat: before.saturating_add(1) });
        self.heard.insert(self.me, Heard { rumour, at: now });
        self.heard.retain(|_, heard| now.saturating_duration_since(heard.at) < FORGET_AFTER);
    }

    pub fn tell(&self) -> Rumours {
        let last_beat = self.heard.get(&self.me).map(|own| own.at);
        let is_old = |heard: &Heard| last_beat.is_some_and(|now| now.saturating_duration_since(heard.at) >= TELL_FOR);
        let told = self.heard.iter().filter(|(_, heard)| !is_old(heard));
        Arc::new(told.map(|(&node, heard)| (node, heard.rumour.clone())).collect())
    }

    /// Takes in what another says; of this node itself it knows best.
    pub fn merge(&mut self, rumours: &Rumours, now: Instant) {
        for (node, rumour) in rumours.iter().filter(|(node, _)| *node != self.me) {
            let newer = self.heard.get(node).is_none_or(|heard| heard.rumour.age() < rumour.age());
            if newer {
                self.heard.insert(*node, Heard { rumour: rumour.clone(), at: now });
            }
        }
    }

    pub fn members(&self, now: Instant) -> MemberSet {
        let member = |(&node, heard): (&NodeId, &Heard)| {
            let live = node == self.me || now.saturating_duration_since(heard.at) < DEAD_AFTER;
            (node, Member { live, ..heard.rumour.member.clone() })
        };
        MemberSet { members: self.heard.iter().map(member).collect(), entries: self.heard.len() }
    }

    /// With whom to gossip in this round: a few of the living, and now and then one that seems dead.
    pub fn partners(set: &MemberSet, me: NodeId, rng: &mut impl Rng) -> BTreeSet<SocketAddr> {
        let others = || set.members.iter().filter(|&(&node, _)| node != me).map(|(_, member)| member);
        let living = others().filter(|member| member.live).map(|member| member.address);
        let mut partners: BTreeSet<_> = living.choose_multiple(rng, FANOUT).into_iter().collect();
        let (live, dead) = (others().filter(|m| m.live).count(), others().filter(|m| !m.live).count());
        if dead > 0 && rng.random_ratio(dead as u32, (dead + live + 1) as u32) {
            partners.extend(others().filter(|member| !member.live).map(|member| member.address).choose(rng));
        }
        partners
    }
}
