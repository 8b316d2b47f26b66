//! What the `facts` actor publishes for all to read.

use std::{collections::BTreeMap, sync::Arc};

use rustls::pki_types::UnixTime;
use weft_ca::trust::PeerIdentity;
use weft_wire::{
    cell::{CellSummary, RelayWord},
    circuit::CircuitRecord,
    fact::{FactKind, FactVersion, NodeRecord, SignedFact},
    id::{CellName, NodeId, NodeName},
};

use super::FactsActor;
use crate::peer::tls;

/// What all facts together say. Published whole, so that readers see one moment.
#[derive(Debug, Default)]
pub struct Published {
    /// The same place in memory as before if none has said anything new.
    pub nodes: Arc<BTreeMap<NodeName, Node>>,
    /// How much of each node's facts is here ([`weft_discovery::facts::FactTable::progress`]).
    pub progress: BTreeMap<NodeId, FactVersion>,
    /// How much this node has said of itself.
    pub own: FactVersion,
    /// Uses of each join token, over all CA nodes.
    pub spent: BTreeMap<[u8; 8], u32>,
    /// Whether any node of another cell is among them.
    pub has_abroad: bool,
    /// Peers of other cells of which nothing but that is kept here.
    pub met: BTreeMap<NodeId, CellName>,
    /// What relays say, of whichever cell.
    pub words: BTreeMap<NodeId, Arc<RelayWord>>,
    /// What relays tell of their cells, those of this one too.
    pub summaries: BTreeMap<NodeId, (CellName, Arc<CellSummary>)>,
    /// All of them as they were signed: what the actor begins with after a crash.
    pub(super) signed: Vec<Arc<SignedFact>>,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub record: Arc<NodeRecord>,
    pub version: FactVersion,
    /// What the node's certificate says; `None` if it no longer leads to our roots.
    pub certificate: Option<Arc<PeerIdentity>>,
}

impl FactsActor {
    pub(super) fn publish_view(&self) {
        let before = self.setup.published.borrow().clone();
        let (mut published, mut nodes) = (Published::default(), BTreeMap::new());
        for (name, version, record) in self.table.nodes() {
            let unchanged = before.nodes.get(name).filter(|node| node.version == version).cloned();
            let node = unchanged.unwrap_or_else(|| Node {
                record: record.clone(),
                version,
                certificate: self.certificate(name).map(Arc::new),
            });
            nodes.insert(name.clone(), node);
        }
        let is_same =
            |(known, node): (&Node, &Node)| known.version == node.version && Arc::ptr_eq(&known.record, &node.record);
        let are_same = before.nodes.len() == nodes.len() && before.nodes.values().zip(nodes.values()).all(is_same);
        published.nodes = if are_same { before.nodes.clone() } else { Arc::new(nodes) };
        published.has_abroad = published.nodes.values().any(|node| node.record.cell() != *self.table.home());
        published.met = self.table.met().clone();
        for relay in self.table.relays() {
            published.words.extend(relay.word.map(|word| (relay.name.id(), word.clone())));
            let summary = relay.summary.map(|summary| (relay.name.id(), (relay.cell.clone(), summary.clone())));
            published.summaries.extend(summary);
        }
        self.publish_elsewhere(&before, &published);
        published.progress = self.table.progress();
        published.signed = self.table.snapshot();
        published.own = published.progress.get(&self.authority.0.load().name.id()).copied().unwrap_or_default();
        for (_, spent) in self.table.spent_tokens() {
            spent.uses.iter().for_each(|(token, uses)| *published.spent.entry(*token).or_default() += uses);
        }
        self.setup.published.send_replace(Arc::new(published));
        self.publish_heard();
    }

    fn publish_heard(&self) {
        let said = |(name, version, record): (&NodeName, FactVersion, &Arc<CircuitRecord>)| {
            (name.clone(), (version, record.clone()))
        };
        let heard: BTreeMap<_, _> = self.table.circuits().map(said).collect();
        self.setup.heard.send_if_modified(|known| {
            let versions =
                |heard: &BTreeMap<_, (FactVersion, _)>| heard.values().map(|(version, _)| *version).collect::<Vec<_>>();
            let has_changed = !known.keys().eq(heard.keys()) || versions(known) != versions(&heard);
            if has_changed {
                *known = Arc::new(heard);
            }
            has_changed
        });
    }

    /// What the certificate says that came with a node's fact, also one that has run out since.
    fn certificate(&self, name: &NodeName) -> Option<PeerIdentity> {
        let fact = self.table.get(name, FactKind::NODE)?;
        tls::judge(&self.setup.identity.load().trust, &fact.chain, UnixTime::now()).ok().map(|peer| peer.identity)
    }
}
