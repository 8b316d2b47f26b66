//! Whom to ask for what this node has missed: gossip tells how new every member's state is.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rand::{Rng, seq::IteratorRandom};
use weft_wire::{fact::FactVersion, id::NodeId};

use crate::membership::MemberSet;

/// How often one peer is asked while a difference persists, and how often any is for what others have.
const INTERVAL: Duration = Duration::from_secs(2);
/// How often some peer is asked for all that it has more, whatever gossip says: a member that lies about the versions of
/// others could else hide that something was missed. Half of this to one and a half, by chance.
const ROUTINE: Duration = Duration::from_secs(20);

/// How often some relay of another cell is asked for facts, whose owners' gossip is not heard here. By chance likewise.
const ROUTINE_ABROAD: Duration = Duration::from_secs(6);

/// What this node has: of each node's facts so much ([`crate::facts::FactTable::progress`]), and the digest of the
/// documents.
pub struct Held<'a> {
    pub me: NodeId,
    pub facts: &'a BTreeMap<NodeId, FactVersion>,
    pub documents: [u8; 16],
    /// Linked peers of other cells.
    pub abroad: &'a BTreeSet<NodeId>,
}

/// What to pull from one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    pub facts: bool,
    pub documents: bool,
}

/// Remembers who was asked of late.
#[derive(Debug, Default)]
pub struct Repair {
    asked: BTreeMap<NodeId, Instant>,
    asked_for_others: Option<Instant>,
    /// Peers that had more to push than fitted.
    missed: BTreeSet<NodeId>,
    routine_at: Option<Instant>,
    abroad_at: Option<Instant>,
}

impl Repair {
    /// Everything is being pulled from this peer now.
    pub fn asked(&mut self, peer: NodeId, now: Instant) {
        self.asked.insert(peer, now);
    }

    /// This peer says that it had more to push to this node than it could, or that it has something newer.
    pub fn missed(&mut self, peer: NodeId) {
        self.missed.insert(peer);
    }

    /// Whom to ask now, of the linked peers. What a member has with which there is no link, another may have too.
    pub fn due(
        &mut self,
        members: &MemberSet,
        held: &Held<'_>,
        linked: &BTreeSet<NodeId>,
        now: Instant,
        rng: &mut impl Rng,
    ) -> BTreeMap<NodeId, Missing> {
        let recent = |asked: Instant| now.saturating_duration_since(asked) < INTERVAL;
        self.asked.retain(|_, asked| recent(*asked));
        let free = linked.iter().copied().filter(|peer| !self.asked.contains_key(peer));
        let for_others = free.choose(rng).filter(|_| !self.asked_for_others.is_some_and(recent));
        let mut due: BTreeMap<NodeId, Missing> = BTreeMap::new();
        for (&node, member) in members.members.iter().filter(|&(&node, member)| node != held.me && member.live) {
            let facts = member.facts.is_some_and(|newest| held.facts.get(&node).is_none_or(|have| *have < newest));
            let documents = member.documents.is_some_and(|theirs| theirs != held.documents);
            let peer = if linked.contains(&node) { Some(node) } else { for_others };
            if let Some(peer) = peer.filter(|peer| (facts || documents) && !self.asked.contains_key(peer)) {
                let missing = due.entry(peer).or_default();
                missing.facts |= facts;
                missing.documents |= documents;
                if peer != node {
                    self.asked_for_others = Some(now);
                }
            }
        }
        self.missed.retain(|peer| linked.contains(peer));
        for peer in self.missed.extract_if(.., |peer| !self.asked.contains_key(peer)) {
            due.insert(peer, Missing { facts: true, documents: true });
        }
        if *self.abroad_at.get_or_insert_with(|| routine_after(ROUTINE_ABROAD, now, rng)) <= now {
            let free = held.abroad.iter().copied().filter(|peer| !self.asked.contains_key(peer));
            due.extend(free.choose(rng).map(|peer| (peer, Missing { facts: true, documents: true })));
            self.abroad_at = Some(routine_after(ROUTINE_ABROAD, now, rng));
        }
        if *self.routine_at.get_or_insert_with(|| routine_after(ROUTINE, now, rng)) <= now
            && let Some(peer) = linked.iter().copied().filter(|peer| !self.asked.contains_key(peer)).choose(rng)
        {
            due.insert(peer, Missing { facts: true, documents: true });
            self.routine_at = Some(routine_after(ROUTINE, now, rng));
        }
        self.asked.extend(due.keys().map(|&peer| (peer, now)));
        due
    }
}

fn routine_after(mean: Duration, now: Instant, rng: &mut impl Rng) -> Instant {
    now + mean.mul_f64(rng.random_range(0.5..1.5))
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;
    use crate::membership::Member;

    const HERE: [u8; 16] = [1; 16];
    const ELSEWHERE: [u8; 16] = [2; 16];

    fn node(n: u8) -> NodeId {
        NodeId([n; 8])
    }

    fn version(seq: u64) -> FactVersion {
        FactVersion { incarnation: 1, seq }
    }

    fn member(n: u8, seq: u64, documents: [u8; 16]) -> (NodeId, Member) {
        let address = ([192, 0, 2, n], 15008).into();
        let (facts, documents) = (Some(version(seq)), Some(documents));
        (node(n), Member { incarnation: 1, address, live: true, name: None, facts, documents })
    }

    /// What is asked of a node that has facts of nodes 1 to 3, in version 5.
    fn due(
        repair: &mut Repair,
        members: &[(NodeId, Member)],
        linked: &[u8],
        now: Instant,
    ) -> BTreeMap<NodeId, Missing> {
        let set = MemberSet { members: members.iter().cloned().collect(), entries: 0 };
        let facts = (1..=3).map(|n| (node(n), version(5))).collect();
        let linked = linked.iter().map(|&n| node(n)).collect();
        repair.due(
            &set,
            &Held { me: node(0), facts: &facts, documents: HERE, abroad: &BTreeSet::new() },
            &linked,
            now,
            &mut SmallRng::seed_from_u64(1),
        )
    }

    #[test]
    fn a_linked_member_that_has_more_is_asked_itself_and_not_too_often() {
        let (mut repair, now) = (Repair::default(), Instant::now());
        let members = [member(1, 6, HERE), member(2, 5, ELSEWHERE), member(3, 4, HERE)];
        let expected = BTreeMap::from([
            (node(1), Missing { facts: true, documents: false }),
            (node(2), Missing { facts: false, documents: true }),
        ]);
        assert_eq!(due(&mut repair, &members, &[1, 2, 3], now), expected);
        assert!(due(&mut repair, &members, &[1, 2, 3], now + INTERVAL / 2).is_empty());
        assert_eq!(due(&mut repair, &members, &[1, 2, 3], now + INTERVAL), expected);
    }

    #[test]
    fn what_members_without_a_link_have_is_asked_of_one_peer_at_a_time() {
        let (mut repair, now) = (Repair::default(), Instant::now());
        let members: Vec<_> = (1..=3).map(|n| member(n, 5, HERE)).chain((4..40).map(|n| member(n, 1, HERE))).collect();
        let first = due(&mut repair, &members, &[1, 2, 3], now);
        assert_eq!(first.values().collect::<Vec<_>>(), [&Missing { facts: true, documents: false }]);
        assert!(due(&mut repair, &members, &[1, 2, 3], now + INTERVAL / 2).is_empty(), "others have no other news");
        assert_eq!(due(&mut repair, &members, &[1, 2, 3], now + INTERVAL).len(), 1);
    }

    #[test]
    fn a_peer_that_had_too_much_to_push_is_asked_once_and_not_too_soon_after_another_time() {
        let (mut repair, now) = (Repair::default(), Instant::now());
        let all = Missing { facts: true, documents: true };
        repair.asked(node(1), now);
        [1, 2, 9].into_iter().for_each(|n| repair.missed(node(n)));
        assert_eq!(due(&mut repair, &[], &[1, 2], now), [(node(2), all)].into());
        assert_eq!(due(&mut repair, &[], &[1, 2, 9], now + INTERVAL), [(node(1), all)].into(), "9 had no link");
        assert!(due(&mut repair, &[], &[1, 2, 9], now + 2 * INTERVAL).is_empty());
    }

    #[test]
    fn some_peer_is_asked_for_everything_now_and_then_whatever_gossip_says() {
        let (mut repair, start) = (Repair::default(), Instant::now());
        let members = [member(1, 5, HERE), member(2, 5, HERE)];
        let seconds = (0..200).map(|second| start + Duration::from_secs(second));
        let asked: Vec<_> = seconds.flat_map(|now| due(&mut repair, &members, &[1, 2], now)).collect();
        assert!((6..=20).contains(&asked.len()), "{asked:?}");
        assert!(asked.iter().all(|(_, missing)| missing.facts && missing.documents));
    }

    #[test]
    fn nobody_is_asked_without_links_or_while_all_is_pulled_anyway_or_for_the_dead() {
        let (mut repair, now) = (Repair::default(), Instant::now());
        assert!(due(&mut repair, &[member(1, 6, HERE)], &[], now).is_empty());
        repair.asked(node(1), now);
        assert!(due(&mut repair, &[member(1, 6, HERE)], &[1], now).is_empty());
        let (dead, state) = member(2, 6, HERE);
        assert!(due(&mut repair, &[member(0, 6, ELSEWHERE)], &[2], now).is_empty(), "it knows itself best");
        assert!(due(&mut repair, &[(dead, Member { live: false, ..state })], &[1, 2], now).is_empty());
    }
}
