//! The links that a node has, and how news goes over them.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{Rng, seq::IteratorRandom};
use weft_wire::{
    codec::{self, WireError},
    frame::{MAX_PUSH_LEN, Push},
    id::NodeId,
};

/// Messages that wait for one peer. What does not fit is dropped, and the peer is told that it missed something as soon
/// as the queue is empty again: it pulls then.
pub const QUEUE: usize = 256;
/// Connections kept per peer: both sides may have dialled at once, and a restarted peer is back before its old
/// connection is known to be dead.
const MAX_PER_PEER: usize = 2;
/// A link is kept for so long after its dialler needed it last: neighbours change, and change back.
const KEEP_UNNEEDED: Duration = Duration::from_secs(30);

/// The links with peers, oldest first; the newest of each peer is the one to send on.
#[derive(Clone, Debug)]
pub struct Links<L>(BTreeMap<NodeId, Vec<L>>);

impl<L> Default for Links<L> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<L> Links<L> {
    /// The link to use for a peer.
    pub fn to(&self, node: NodeId) -> Option<&L> {
        self.0.get(&node)?.last()
    }

    /// A link per peer.
    pub fn peers(&self) -> impl Iterator<Item = (NodeId, &L)> {
        self.0.iter().filter_map(|(&node, links)| Some((node, links.last()?)))
    }

    /// All links, also the older ones.
    pub fn all(&self) -> impl Iterator<Item = (NodeId, &L)> {
        self.0.iter().flat_map(|(&node, links)| links.iter().map(move |link| (node, link)))
    }

    /// The link by which gossip for some member goes, of which `is_to` tells the direct one. Without one, another peer
    /// gets the message in its stead: who talks to whom does not matter to gossip, and dialling whoever it chooses would
    /// in time link everyone with everyone. Peers that `is_here` denies gossip with others.
    pub fn toward(
        &self,
        is_to: impl Fn(&L) -> bool,
        is_here: impl Fn(NodeId) -> bool,
        rng: &mut impl Rng,
    ) -> Option<&L> {
        let direct = self.all().map(|(_, link)| link).find(|link| is_to(link));
        direct.or_else(|| self.peers().filter(|(node, _)| is_here(*node)).map(|(_, link)| link).choose(rng))
    }

    /// Adds a link; returns one that is too many, to be closed.
    pub fn add(&mut self, node: NodeId, link: L) -> Option<L> {
        let links = self.0.entry(node).or_default();
        links.push(link);
        (links.len() > MAX_PER_PEER).then(|| links.remove(0))
    }

    /// Removes the links of a peer that have ended; returns whether there were some and none is left.
    pub fn remove(&mut self, node: NodeId, ended: impl Fn(&L) -> bool) -> bool {
        let Some(links) = self.0.get_mut(&node) else { return false };
        links.retain(|link| !ended(link));
        let last = links.is_empty();
        if last {
            self.0.remove(&node);
        }
        last
    }
}

/// Which links to end: those that this node has dialled and needs no longer. Else every neighbour that it ever had would
/// be flooded for ever.
#[derive(Clone, Debug)]
pub struct Unneeded<K>(BTreeMap<K, Instant>);

impl<K> Default for Unneeded<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Copy> Unneeded<K> {
    /// The links to end, when those are the links that are not needed now.
    pub fn to_end(&mut self, unneeded: impl IntoIterator<Item = K>, now: Instant) -> Vec<K> {
        let since = |link| (link, self.0.get(&link).copied().unwrap_or(now));
        self.0 = unneeded.into_iter().map(since).collect();
        let old = self.0.iter().filter(|&(_, &since)| now.saturating_duration_since(since) >= KEEP_UNNEEDED);
        old.map(|(&link, _)| link).collect()
    }
}

/// The messages that say this, in its order. What is too large to be sent alone is left out and counted: peers would
/// refuse it.
pub fn messages(push: &Push) -> (Vec<Bytes>, usize) {
    match encode(push) {
        Ok(message) => (vec![message.into()], 0),
        Err(_) => match halves(push) {
            Some((first, second)) => {
                let ((mut messages, left_out), (more, too)) = (messages(&first), messages(&second));
                messages.extend(more);
                (messages, left_out + too)
            }
            None => (Vec::new(), 1),
        },
    }
}

fn encode(push: &Push) -> Result<Vec<u8>, WireError> {
    push.check()?;
    codec::encode(push, MAX_PUSH_LEN)
}

/// Two messages that say together what one is too large to say; `None` if it says one thing only.
fn halves(push: &Push) -> Option<(Push, Push)> {
    fn split<T: Clone>(items: &[T]) -> Option<(Vec<T>, Vec<T>)> {
        let (first, second) = items.split_at(items.len() / 2);
        (!first.is_empty()).then(|| (first.to_vec(), second.to_vec()))
    }
    match push {
        Push::Facts(facts) => split(facts).map(|(a, b)| (Push::Facts(a), Push::Facts(b))),
        Push::Documents(documents) => split(documents).map(|(a, b)| (Push::Documents(a), Push::Documents(b))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{SeedableRng, rngs::SmallRng};
    use weft_wire::fact::{FactKind, SignedFact};

    use super::*;

    fn fact(seq: u64, len: usize) -> SignedFact {
        SignedFact {
            owner: "a".parse().unwrap(),
            incarnation: 1,
            seq,
            kind: FactKind::NODE,
            body: vec![0; len],
            chain: vec![],
            signature: vec![],
        }
    }

    #[test]
    fn news_that_is_too_large_for_one_message_is_split_without_loss() {
        for (facts, len) in [(20, 60_000), (2_000, 1)] {
            let (messages, left_out) = messages(&Push::Facts((0..facts).map(|seq| fact(seq, len)).collect()));
            assert!(messages.len() > 1);
            let sent = messages.iter().flat_map(|message| match codec::decode(message, MAX_PUSH_LEN) {
                Ok(Push::Facts(facts)) => facts.into_iter().map(|fact| fact.seq).collect::<Vec<_>>(),
                other => panic!("facts stay facts: {other:?}"),
            });
            assert_eq!((sent.collect::<Vec<_>>(), left_out), ((0..facts).collect(), 0));
        }
        let too_large = Push::Facts(vec![fact(1, 1), fact(2, MAX_PUSH_LEN), fact(3, 1)]);
        let (messages, left_out) = messages(&too_large);
        assert_eq!((messages.len(), left_out), (2, 1));
    }

    #[test]
    fn gossip_goes_to_its_address_or_else_by_any_peer() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut links = Links::default();
        assert_eq!(links.toward(|&link: &u32| link == 1, |_| true, &mut rng), None);
        for n in 1..=3 {
            links.add(NodeId([n; 8]), u32::from(n));
        }
        assert_eq!(links.toward(|&link| link == 2, |_| true, &mut rng), Some(&2));
        let mut others = |is_here: fn(NodeId) -> bool| {
            let toward = |_| links.toward(|&link| link == 9, is_here, &mut rng).copied();
            (0..50).filter_map(toward).collect::<BTreeSet<_>>()
        };
        assert_eq!(others(|_| true), BTreeSet::from([1, 2, 3]));
        assert_eq!(others(|node| node != NodeId([2; 8])), BTreeSet::from([1, 3]), "2 is in another cell");
    }

    #[test]
    fn a_link_ends_when_it_was_not_needed_for_some_time() {
        let (mut unneeded, now) = (Unneeded::default(), Instant::now());
        assert!(unneeded.to_end([1, 2], now).is_empty());
        assert!(unneeded.to_end([2], now + KEEP_UNNEEDED / 2).is_empty(), "1 is needed again");
        assert_eq!(unneeded.to_end([1, 2], now + KEEP_UNNEEDED), [2]);
        assert_eq!(unneeded.to_end([1], now + KEEP_UNNEEDED * 2), [1]);
    }

    #[test]
    fn the_newest_link_to_a_peer_counts_and_the_third_ends_the_first() {
        let (mut links, a, b) = (Links::default(), NodeId([1; 8]), NodeId([2; 8]));
        assert_eq!((links.add(a, 1), links.add(a, 2), links.add(b, 3)), (None, None, None));
        assert_eq!(links.peers().collect::<Vec<_>>(), [(a, &2), (b, &3)]);
        assert_eq!(links.add(a, 4), Some(1));
        assert!(!links.remove(a, |&link| link == 4), "the older one is left");
        assert_eq!(links.to(a), Some(&2));
        assert!(links.remove(a, |&link| link == 2));
        assert!(!links.remove(a, |_| true), "it had none");
        assert_eq!(links.all().collect::<Vec<_>>(), [(b, &3)]);
    }
}
