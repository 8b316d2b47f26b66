//! Which facts cross to which cells. Within a cell everybody has all facts. To another cell go, whole and as they were
//! signed, those of a node that it has a reason to know: a relay, a node that may write documents or sign certificates,
//! one that hosts a service that somebody there wants, and one that calls such a service (what it sees of the endpoints
//! counts there too). Of all else the other cell has the index that relays tell, [`CellSummary`].
//!
//! Both sides look: the sender, so that nothing is sent in vain, and the receiver, so that nobody can fill a cell with
//! what nobody there needs. What once was a reason is one for [`KEEP_GONE`] longer: the word that it is none any more
//! has to get there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use weft_wire::{
    cell::{CellSummary, IndexedPort, MAX_CELL_WANTS, MAX_INDEX, MAX_INDEX_PORTS, RelayWord},
    fact::{FactKind, MAX_FACT_BODY_LEN, NodeRecord, NodeState, SignedFact},
    id::{CellName, NodeId, NodeName, Role, ServiceName},
};

use super::{FactTable, Held, KEEP_GONE, Owner, rules::Claim};

/// Peers of other cells of which nothing but their cell is kept.
const MAX_MET: usize = 1_024;

/// Lengths in a [`CellSummary`], rounded up: of what is there once, of a port, and of a service but for its name.
const FIXED_LEN: usize = 64;
const PORT_LEN: usize = 12;
const SERVICE_LEN: usize = 16;

fn len(service: &ServiceName) -> usize {
    SERVICE_LEN + service.name.as_str().len() + service.namespace.as_str().len()
}

/// What is known of cells.
#[derive(Debug)]
pub(super) struct Crossing {
    pub(super) home: CellName,
    /// The services of other cells that nodes of this one want.
    wanted_here: BTreeSet<ServiceName>,
    /// What each other cell wants of which a relay is known.
    wanted: BTreeMap<CellName, BTreeSet<ServiceName>>,
    /// Where peers are whose facts are of no use here.
    met: BTreeMap<NodeId, CellName>,
    /// Of whom cells are to be told that had no reason to know them before.
    introductions: BTreeSet<(CellName, NodeId)>,
}

impl Default for Crossing {
    fn default() -> Self {
        Self {
            home: CellName::default_cell(),
            wanted_here: BTreeSet::new(),
            wanted: BTreeMap::new(),
            met: BTreeMap::new(),
            introductions: BTreeSet::new(),
        }
    }
}

/// A relay, of whichever cell, with what it says.
pub struct Relay<'a> {
    pub name: &'a NodeName,
    pub cell: CellName,
    pub summary: Option<&'a Arc<CellSummary>>,
    pub word: Option<&'a Arc<RelayWord>>,
}

impl Owner {
    pub(super) fn record(&self) -> Option<&Arc<NodeRecord>> {
        match self.facts.get(&FactKind::NODE)? {
            Held { claim: Claim::Node(record), .. } => Some(record),
            _ => None,
        }
    }

    fn is_relay(&self) -> bool {
        self.record().is_some_and(|record| record.is_relay())
    }

    fn summary(&self) -> Option<&Arc<CellSummary>> {
        match &self.facts.get(&FactKind::CELL)?.claim {
            Claim::Cell(summary) => Some(summary),
            _ => None,
        }
    }

    fn word(&self) -> Option<&Arc<RelayWord>> {
        match &self.facts.get(&FactKind::RELAY)?.claim {
            Claim::Relay(word) => Some(word),
            _ => None,
        }
    }

    /// Whether every cell has a reason to know it.
    fn is_public(&self) -> bool {
        self.role >= Role::Admin || self.is_relay()
    }

    /// Whether this cell has a reason to know it, when those are the services that are wanted there.
    fn concerns(&self, cell: &CellName, wanted: &BTreeSet<ServiceName>) -> bool {
        let Some(record) = self.record() else { return self.is_public() };
        record.cell() != *cell && (self.is_public() || hosts(record, wanted) || self.calls(wanted))
    }

    /// Whether somebody in this node's own cell has a reason to know it.
    pub(super) fn is_of_use(&self, crossing: &Crossing) -> bool {
        let is_here = self.record().is_none_or(|record| record.cell() == crossing.home);
        is_here || self.concerns(&crossing.home, &crossing.wanted_here)
    }

    fn calls(&self, wanted: &BTreeSet<ServiceName>) -> bool {
        let Some(Held { claim: Claim::Circuits(circuits), .. }) = self.facts.get(&FactKind::CIRCUITS) else {
            return false;
        };
        !circuits.watched.is_empty() && wanted.iter().any(|service| circuits.watched.contains(&service.fqdn()))
    }
}

fn hosts(record: &NodeRecord, wanted: &BTreeSet<ServiceName>) -> bool {
    record.endpoints.iter().any(|endpoint| wanted.contains(&endpoint.service))
}

impl FactTable {
    /// The table of a node in this cell, and with this role of its own.
    pub fn in_cell(mut self, home: CellName, role: Role) -> Self {
        self.crossing.home = home;
        if let Some(me) = self.owners.get_mut(&self.me) {
            me.role = role;
        }
        self.recount();
        self
    }

    /// Notes the roles of the owners of restored facts, as their certificates tell.
    pub fn with_roles(mut self, role: impl Fn(&SignedFact) -> Option<Role>) -> Self {
        for owner in self.owners.values_mut() {
            let known = owner.facts.values().next_back().and_then(|held| role(&held.fact));
            owner.role = known.unwrap_or(owner.role);
        }
        self.recount();
        self
    }

    pub fn home(&self) -> &CellName {
        &self.crossing.home
    }

    /// In which cell a node is; `None` if it has not said.
    pub fn cell_of(&self, node: NodeId) -> Option<CellName> {
        if node == self.me {
            return Some(self.crossing.home.clone());
        }
        let record = self.owners.get(&node).and_then(Owner::record);
        record.map(|record| record.cell()).or_else(|| self.crossing.met.get(&node).cloned())
    }

    /// Peers of other cells whose facts are of no use here.
    pub fn met(&self) -> &BTreeMap<NodeId, CellName> {
        &self.crossing.met
    }

    /// All relays that are known, this node among them if it is one.
    pub fn relays(&self) -> impl Iterator<Item = Relay<'_>> {
        self.owners.values().filter_map(|owner| {
            let record = owner.record().filter(|record| record.is_relay())?;
            Some(Relay { name: &owner.name, cell: record.cell(), summary: owner.summary(), word: owner.word() })
        })
    }

    /// Whether a fact is to be sent to this peer: one of which nothing is known yet, or of this cell, gets all; and
    /// everybody is told where this node is.
    pub fn passes(&self, fact: &SignedFact, peer: NodeId) -> bool {
        match self.cell_of(peer) {
            _ if fact.kind == FactKind::NODE && fact.owner.id() == self.me => true,
            None => true,
            Some(cell) if cell == self.crossing.home => true,
            Some(cell) => fact.kind != FactKind::WANTS && self.crosses(fact.owner.id(), &cell),
        }
    }

    fn crosses(&self, owner: NodeId, cell: &CellName) -> bool {
        let Some(owner) = self.owners.get(&owner) else { return false };
        owner.told.contains_key(cell)
            || (!self.crossing.wanted.contains_key(cell) && owner.concerns(cell, &BTreeSet::new()))
    }

    /// Whether what a peer sends is of use in this cell. What peers of this cell have, is.
    pub(super) fn admits(&mut self, fact: &SignedFact, claim: &Claim, role: Role, peer: NodeId) -> bool {
        let id = fact.owner.id();
        let owner = self.owners.get(&id);
        let record = match claim {
            Claim::Node(record) => Some(record),
            _ => owner.and_then(Owner::record),
        };
        let home = &self.crossing.home;
        let cell = record.map(|record| record.cell());
        let is_here = cell.as_ref() == Some(home);
        if is_here || owner.is_some_and(|owner| !owner.facts.is_empty() && fact.kind != FactKind::WANTS) {
            self.crossing.met.remove(&id);
            return true;
        }
        match self.cell_of(peer) {
            Some(known) if known == *home => return true,
            // Nothing says that either is elsewhere.
            None if cell.is_none() => return true,
            _ => {}
        }
        let wanted = &self.crossing.wanted_here;
        let is_of_use = role >= Role::Admin
            || record.is_some_and(|record| record.is_relay() || hosts(record, wanted))
            || matches!(claim, Claim::Circuits(record) if wanted.iter().any(|one| record.watched.contains(&one.fqdn())));
        let is_of_use = is_of_use && fact.kind != FactKind::WANTS;
        if is_of_use {
            self.crossing.met.remove(&id);
        }
        if let Some(cell) = cell.filter(|_| !is_of_use && id == peer) {
            self.meet(peer, cell);
        }
        is_of_use
    }

    /// Notes where a node is of which nothing else is kept.
    pub(super) fn meet(&mut self, node: NodeId, cell: CellName) {
        if self.crossing.met.len() < MAX_MET {
            self.crossing.met.insert(node, cell);
        }
    }

    /// Sees to what follows from a fact that was stored.
    pub(super) fn stored(&mut self, id: NodeId, kind: FactKind) {
        let Some(owner) = self.owners.get(&id) else { return };
        let is_of_cells = match kind {
            FactKind::WANTS | FactKind::CELL => true,
            FactKind::NODE => {
                owner.is_relay()
                    || owner.facts.contains_key(&FactKind::WANTS)
                    || owner.facts.contains_key(&FactKind::CELL)
            }
            _ => false,
        };
        if is_of_cells {
            self.recount();
        } else {
            self.reconsider(id);
        }
    }

    /// Finds anew what is wanted where, and whom other cells have a reason to know.
    pub(super) fn recount(&mut self) {
        let home = &self.crossing.home;
        let mut wanted: BTreeMap<CellName, BTreeSet<ServiceName>> = BTreeMap::new();
        let mut wanted_here = BTreeSet::new();
        for (id, owner) in &self.owners {
            let cell = match owner.record() {
                _ if *id == self.me => home.clone(),
                Some(record) => record.cell(),
                None => continue,
            };
            if cell == *home {
                let wants = owner.facts.get(&FactKind::WANTS).map(|held| &held.claim);
                if let Some(Claim::Wants(wants)) = wants {
                    wanted_here
                        .extend(wants.services.iter().take(MAX_CELL_WANTS.saturating_sub(wanted_here.len())).cloned());
                }
            } else if owner.is_relay() {
                let services = wanted.entry(cell).or_default();
                if let Some(summary) = owner.summary() {
                    services.extend(summary.wants.iter().cloned());
                }
            }
        }
        (self.crossing.wanted, self.crossing.wanted_here) = (wanted, wanted_here);
        self.owners.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| self.reconsider(id));
    }

    fn reconsider(&mut self, id: NodeId) {
        let Some(owner) = self.owners.get_mut(&id) else { return };
        for (cell, wanted) in &self.crossing.wanted {
            if owner.concerns(cell, wanted) && owner.told.insert(cell.clone(), None).is_none() {
                self.crossing.introductions.insert((cell.clone(), id));
            }
        }
    }

    /// Lets go of reasons that are none any more.
    pub(super) fn review_crossing(&mut self, now: Instant, have_left: bool) {
        if have_left {
            self.recount();
        }
        for owner in self.owners.values_mut().filter(|owner| !owner.told.is_empty()) {
            let mut told = std::mem::take(&mut owner.told);
            told.retain(|cell, since| {
                if self.crossing.wanted.get(cell).is_some_and(|wanted| owner.concerns(cell, wanted)) {
                    *since = None;
                    return true;
                }
                now.saturating_duration_since(*since.get_or_insert(now)) < KEEP_GONE
            });
            owner.told = told;
        }
    }

    /// The facts of nodes of which these cells are now to be told. Returns them once.
    pub fn take_introductions(&mut self) -> BTreeMap<CellName, Vec<Arc<SignedFact>>> {
        let mut all: BTreeMap<CellName, Vec<_>> = BTreeMap::new();
        for (cell, id) in std::mem::take(&mut self.crossing.introductions) {
            let facts = self.owners.get(&id).into_iter().flat_map(|owner| owner.facts.values());
            let facts = facts.map(|held| held.fact.clone()).filter(|fact| fact.kind != FactKind::WANTS);
            all.entry(cell).or_default().extend(facts);
        }
        all
    }

    /// This cell, as its relays tell others of it, as far as it fits into one fact.
    pub fn summary(&self) -> CellSummary {
        let mut summary = CellSummary::default();
        let mut room = MAX_FACT_BODY_LEN - FIXED_LEN;
        for service in &self.crossing.wanted_here {
            if room < MAX_FACT_BODY_LEN / 2 {
                break;
            }
            room -= len(service);
            summary.wants.insert(service.clone());
        }
        let records = self.owners.values().filter_map(Owner::record);
        for record in records.filter(|record| record.cell() == self.crossing.home && record.state != NodeState::Left) {
            summary.nodes += 1;
            for endpoint in &record.endpoints {
                if !summary.services.contains_key(&endpoint.service) {
                    if summary.services.len() == MAX_INDEX || room < len(&endpoint.service) {
                        continue;
                    }
                    room -= len(&endpoint.service);
                }
                let ports = summary.services.entry(endpoint.service.clone()).or_default();
                if let Some(known) = ports.iter_mut().find(|known| known.port == endpoint.port) {
                    known.endpoints += 1;
                } else if ports.len() < MAX_INDEX_PORTS && room >= PORT_LEN {
                    room -= PORT_LEN;
                    ports.push(IndexedPort { port: endpoint.port, protocol: endpoint.protocol, endpoints: 1 });
                }
            }
        }
        summary
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use weft_wire::{
        cell::Wants,
        fact::{FactBody, FactVersion},
    };

    use super::{
        super::{
            Effect,
            tests::{record, row},
        },
        *,
    };
    use crate::authority::fake::{FakeAuthority, chain, sign};

    fn cell(name: &str) -> CellName {
        name.parse().unwrap()
    }

    fn id(name: &str) -> NodeId {
        name.parse::<NodeName>().unwrap().id()
    }

    fn fact(owner: &str, seq: u64, body: &impl FactBody) -> SignedFact {
        let chain = chain(&format!("spiffe://cluster.local/node/{owner}"), "member", "*/*");
        let (body, kind) = (body.encode().unwrap(), kind_of(body));
        let owner = owner.parse().unwrap();
        let mut fact = SignedFact { owner, incarnation: 1, seq, kind, body, chain, signature: vec![] };
        fact.signature = sign(&fact.chain, &fact.signed_bytes());
        fact
    }

    fn kind_of<B: FactBody>(_: &B) -> FactKind {
        B::KIND
    }

    /// A node of a cell that hosts this service.
    fn hosting(service: &str, cell_name: &str) -> NodeRecord {
        let mut row = row("w", "default", "reviews");
        row.service = service.parse().unwrap();
        record(vec![row]).in_cell(&cell(cell_name), false)
    }

    fn relay(cell_name: &str) -> NodeRecord {
        record(vec![]).in_cell(&cell(cell_name), true)
    }

    /// Of the cell `a`, where `reviews` is wanted; it knows the relay of the cell `b`, where `ratings` is.
    fn table() -> FactTable {
        let mut table = FactTable::new("me".parse().unwrap(), 1, []).in_cell(cell("a"), Role::Member);
        let wanted = |service: &str| BTreeSet::from([service.parse().unwrap()]);
        let of_b = CellSummary { nodes: 2, services: BTreeMap::new(), wants: wanted("ratings.default") };
        let colleague = record(vec![]).in_cell(&cell("a"), false);
        for fact in [
            fact("colleague", 1, &colleague),
            fact("colleague", 2, &Wants { services: wanted("reviews.default") }),
            fact("rb", 1, &relay("b")),
            fact("rb", 2, &of_b),
        ] {
            let from = fact.owner.id();
            assert!(matches!(merge(&mut table, from, fact), Effect::New(_)));
        }
        table
    }

    fn merge(table: &mut FactTable, from: NodeId, fact: SignedFact) -> Effect {
        table.merge_from(from, fact, &FakeAuthority, Instant::now(), 0)
    }

    #[test]
    fn from_another_cell_only_what_is_wanted_is_taken_in() {
        let mut table = table();
        assert!(matches!(merge(&mut table, id("rb"), fact("b1", 1, &hosting("reviews.default", "b"))), Effect::New(_)));
        assert_eq!(merge(&mut table, id("rb"), fact("b2", 1, &hosting("other.default", "b"))), Effect::NotWanted);
        assert_eq!(table.cell_of(id("b2")), None, "it may not be linked");
        assert_eq!(merge(&mut table, id("b2"), fact("b2", 1, &hosting("other.default", "b"))), Effect::NotWanted);
        assert_eq!(table.cell_of(id("b2")), Some(cell("b")));
        let wants = Wants { services: BTreeSet::from(["other.default".parse().unwrap()]) };
        assert_eq!(merge(&mut table, id("rb"), fact("b2", 2, &wants)), Effect::NotWanted);
        let moved = hosting("other.default", "a");
        assert!(matches!(merge(&mut table, id("b2"), fact("b2", 3, &moved)), Effect::New(_)), "it is here now");
        assert_eq!(table.met().len(), 0);
    }

    #[test]
    fn to_another_cell_goes_what_is_wanted_there_and_where_this_node_is() {
        let mut table = table();
        for (owner, service) in [("a1", "ratings.default"), ("a2", "other.default")] {
            let fact = fact(owner, 1, &hosting(service, "a"));
            assert!(matches!(merge(&mut table, id(owner), fact.clone()), Effect::New(_)));
            assert_eq!(table.passes(&fact, id("rb")), owner == "a1");
            assert!(table.passes(&fact, id("colleague")));
            assert!(table.passes(&fact, id("unheard-of")), "it may be of this cell");
        }
        assert!(table.passes(&fact("me", 1, &hosting("other.default", "a")), id("rb")));
        let introduced = table.take_introductions();
        assert!(introduced[&cell("b")].iter().any(|fact| fact.owner.as_str() == "a1"));
        assert_eq!(table.take_introductions(), BTreeMap::new());
        let wants = table.get(&"colleague".parse().unwrap(), FactKind::WANTS).unwrap().clone();
        assert!(!table.passes(&wants, id("rb")));
        let owners =
            |missing: Vec<Arc<SignedFact>>| missing.iter().map(|fact| fact.owner.to_string()).collect::<BTreeSet<_>>();
        let missing = table.missing_for_peer(id("rb"), &[], NodeId([0; 8]), usize::MAX);
        assert!(owners(missing).is_disjoint(&BTreeSet::from(["a2".into(), "colleague".into()])));
        let have = [(id("a2"), FactKind::NODE, FactVersion::default())];
        let missing = table.missing_for_peer(id("rb"), &have, NodeId([0; 8]), usize::MAX);
        assert!(owners(missing).contains("a2"), "what a cell has already is kept up to date there");
    }

    #[test]
    fn who_asks_from_another_cell_is_not_asked_for_strangers_in_turn() {
        let table = table();
        let version = FactVersion { incarnation: 1, seq: 9 };
        let asks = |owner: &str, kind| table.is_behind(id("rb"), &[(id(owner), kind, version)]);
        assert!(!asks("b9", FactKind::NODE) && !asks("rb", FactKind::WANTS));
        assert!(asks("rb", FactKind::NODE));
    }
}
