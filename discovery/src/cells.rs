//! What a node makes of the cells that it does not gossip with, from what relays say.
//!
//! A relay tells which relays of other cells it is linked with, which nodes of its own cell live, and whether all of these
//! hold the same documents ([`RelayWord`]). The word of another cell's relay counts while it is *in reach*: while
//! this node, or a relay of its own cell that is alive, is linked with it. So a relay that is cut off or dead has no say,
//! and no clock is needed.
//!
//! * A node of another cell lives while a relay of its cell that is in reach says so. One that lies by silence demotes
//!   nobody alone, while another of its cell is in reach; and demoted is not removed.
//! * Another cell has acknowledged a deletion when one of its relays in reach says that all nodes of the cell hold the
//!   documents of which this node has the digest: as a member of the own cell does by gossip. A deletion leaves memory
//!   when all members of the own cell and all other cells of which a relay is known have. Until a relay is forgotten, ten
//!   minutes after the last of its cell was out of reach, nothing is let go of; and what is let go of is in the archive.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use weft_wire::{
    cell::RelayWord,
    fact::{FactVersion, NodeRecord},
    frame::MESH_PORT,
    id::{CellName, NodeId, NodeName},
};

use crate::membership::{Member, MemberSet};

/// What to look at.
pub struct Known<'a, N> {
    pub home: &'a CellName,
    /// Every node that has said something, of all cells.
    pub nodes: N,
    /// What relays say.
    pub words: &'a BTreeMap<NodeId, Arc<RelayWord>>,
    /// Peers with which there is a link.
    pub linked: &'a BTreeSet<NodeId>,
}

/// Other cells, and their nodes as far as they are known here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Abroad {
    /// As if gossip told of them.
    pub members: BTreeMap<NodeId, Member>,
    pub cells: BTreeMap<CellName, Cell>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Relays of it that are in reach.
    pub in_reach: BTreeSet<NodeId>,
    /// Digests of documents that all of its nodes hold, as one of these says.
    pub agreed: BTreeSet<[u8; 16]>,
}

impl Abroad {
    /// `is_alive` tells it of relays of this cell; this node itself is to be among them, if it is one.
    pub fn look<'a, N>(known: Known<'_, N>, is_alive: impl Fn(NodeId) -> bool) -> Self
    where
        N: Iterator<Item = (&'a NodeName, FactVersion, &'a NodeRecord)>,
    {
        let Known { home, nodes, words, linked } = known;
        let nodes: Vec<_> = nodes.map(|(name, version, record)| (name, version, record, record.cell())).collect();
        if nodes.iter().all(|(.., cell)| cell == home) {
            return Self::default();
        }
        let mut reached = linked.clone();
        for (name, _, record, cell) in &nodes {
            let id = name.id();
            if cell == home && record.is_relay() && is_alive(id) {
                reached.extend(words.get(&id).into_iter().flat_map(|word| word.linked.iter().copied()));
            }
        }
        let mut cells: BTreeMap<CellName, Cell> = BTreeMap::new();
        for (name, _, record, cell) in nodes.iter().filter(|(.., cell)| cell != home) {
            if !record.is_relay() || record.state.is_gone() {
                continue;
            }
            let known = cells.entry(cell.clone()).or_default();
            let id = name.id();
            if reached.contains(&id) {
                known.in_reach.insert(id);
                let word = words.get(&id).filter(|word| word.agreed);
                known.agreed.extend(word.map(|word| word.documents));
            }
        }
        let nobody = BTreeSet::new();
        let member = |(name, version, record, cell): &(&NodeName, FactVersion, &NodeRecord, CellName)| {
            let id = name.id();
            let in_reach = cells.get(cell).map_or(&nobody, |cell| &cell.in_reach);
            let mut said = in_reach.iter().filter_map(|relay| words.get(relay));
            let live = reached.contains(&id) || said.any(|word| word.alive.contains(&id));
            let documents = words.get(&id).filter(|_| in_reach.contains(&id)).map(|word| word.documents);
            let address = SocketAddr::new(record.advertise, MESH_PORT);
            let (incarnation, name) = (version.incarnation, Some((*name).clone()));
            (id, Member { incarnation, address, live, name, facts: None, documents })
        };
        let members = nodes.iter().filter(|(.., cell)| cell != home).map(member).collect();
        Self { members, cells }
    }

    /// Gossip of the own cell, and beside it the others' nodes.
    pub fn with(&self, gossip: &Arc<MemberSet>) -> Arc<MemberSet> {
        if self.members.is_empty() {
            return gossip.clone();
        }
        let mut set = (**gossip).clone();
        set.members.extend(self.members.iter().map(|(&node, member)| (node, member.clone())));
        Arc::new(set)
    }

    /// Who has to acknowledge a deletion, of these members that have not left: nodes of the own cell for themselves,
    /// other cells each as one.
    pub fn witnesses(&self, members: impl Iterator<Item = NodeId>) -> BTreeSet<NodeId> {
        let own = members.filter(|node| !self.members.contains_key(node));
        own.chain(self.cells.keys().map(CellName::id)).collect()
    }

    /// Which of them hold the documents of this digest.
    pub fn holders(&self, gossip: &MemberSet, digest: [u8; 16]) -> Vec<NodeId> {
        let own = gossip
            .members
            .iter()
            .filter(|&(node, member)| member.documents == Some(digest) && !self.members.contains_key(node));
        let cells = self.cells.iter().filter(|(_, cell)| cell.agreed.contains(&digest));
        own.map(|(&node, _)| node).chain(cells.map(|(name, _)| name.id())).collect()
    }
}

#[cfg(test)]
mod tests {
    use weft_wire::{fact::NodeState, id::Locality};

    use super::*;

    fn cell(name: &str) -> CellName {
        name.parse().unwrap()
    }

    fn id(name: &str) -> NodeId {
        name.parse::<NodeName>().unwrap().id()
    }

    /// `NAME@CELL`, with `*` if it is a relay.
    fn node(text: &str) -> (NodeName, NodeRecord) {
        let (name, cell_name) = text.split_once('@').unwrap();
        let record = NodeRecord {
            advertise: [192, 0, 2, 1].into(),
            state: NodeState::Up,
            locality: Locality::default(),
            labels: BTreeMap::new(),
            build: String::new(),
            endpoints: Vec::new(),
        };
        (name.trim_end_matches('*').parse().unwrap(), record.in_cell(&cell(cell_name), name.ends_with('*')))
    }

    fn look(nodes: &[&str], words: &[(&str, RelayWord)], linked: &[&str], dead: &[&str]) -> Abroad {
        let nodes: Vec<_> = nodes.iter().map(|text| node(text)).collect();
        let version = FactVersion { incarnation: 1, seq: 1 };
        let words = words.iter().map(|(name, word)| (id(name), Arc::new(word.clone()))).collect();
        let linked = linked.iter().map(|name| id(name)).collect();
        let nodes = nodes.iter().map(|(name, record)| (name, version, record));
        let known = Known { home: &cell("a"), nodes, words: &words, linked: &linked };
        Abroad::look(known, |node| !dead.iter().any(|name| id(name) == node))
    }

    fn word(linked: &[&str], alive: &[&str]) -> RelayWord {
        let ids = |names: &[&str]| names.iter().map(|name| id(name)).collect();
        RelayWord { linked: ids(linked), alive: ids(alive), ..RelayWord::default() }
    }

    const MESH: &[&str] = &["me@a", "ra*@a", "rb1*@b", "rb2*@b", "b1@b"];

    fn lives(abroad: &Abroad, name: &str) -> bool {
        abroad.members[&id(name)].live
    }

    #[test]
    fn a_mesh_of_one_cell_has_nothing_abroad() {
        assert_eq!(look(&["me@a", "ra*@a"], &[], &[], &[]), Abroad::default());
    }

    #[test]
    fn a_node_lives_while_a_relay_in_reach_says_so() {
        let both = word(&["rb1", "rb2"], &[]);
        let abroad = |first: &[&str], second: &[&str], ra: &RelayWord| {
            let words = [("ra", ra.clone()), ("rb1", word(&["ra"], first)), ("rb2", word(&["ra"], second))];
            look(MESH, &words, &[], &[])
        };
        assert!(lives(&abroad(&["b1"], &["b1"], &both), "b1"));
        assert!(lives(&abroad(&[], &["b1"], &both), "b1"), "one lies");
        assert!(!lives(&abroad(&[], &[], &both), "b1"));
        let one = word(&["rb2"], &[]);
        assert!(!lives(&abroad(&["b1", "rb1"], &[], &one), "b1"), "the other is out of reach");
        assert!(!lives(&abroad(&["b1", "rb1"], &[], &one), "rb1"));
        assert!(lives(&abroad(&[], &[], &one), "rb2"));
    }

    #[test]
    fn without_a_relay_in_reach_a_cell_is_lost() {
        let words = [("ra", word(&["rb1"], &[])), ("rb1", word(&["ra"], &["b1"]))];
        assert!(lives(&look(MESH, &words, &[], &[]), "b1"));
        let lost = look(MESH, &words, &[], &["ra"]);
        assert!(!lives(&lost, "b1") && !lives(&lost, "rb1"));
        assert!(lives(&look(MESH, &words, &["rb1"], &["ra"]), "b1"), "an own link is as good");
    }

    #[test]
    fn a_cell_acknowledges_as_one_by_the_word_of_a_relay_in_reach() {
        let holds = |linked: &[&str], agreed| RelayWord { documents: [7; 16], agreed, ..word(linked, &[]) };
        let agree = |in_reach: &[&str], agreed| {
            let words = [("ra", word(in_reach, &[])), ("rb1", holds(&[], agreed)), ("rb2", holds(&[], false))];
            let abroad = look(MESH, &words, &[], &[]);
            assert_eq!(
                abroad.witnesses([id("ra"), id("rb1"), id("b1")].into_iter()),
                [id("ra"), cell("b").id()].into()
            );
            abroad.holders(&MemberSet::default(), [7; 16])
        };
        assert_eq!(agree(&["rb1"], true), [cell("b").id()]);
        assert_eq!(agree(&["rb1"], false), []);
        assert_eq!(agree(&["rb2"], true), [], "who says so is out of reach");
    }
}
