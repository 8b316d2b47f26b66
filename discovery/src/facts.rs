//! What every node says about itself: one register per owner and kind, in which the highest `(incarnation, seq)` wins.
//!
//! Only the owner can write its registers, so merging needs no arbitration: [`FactTable::merge`] gives the same table
//! in whatever order and however often facts arrive. A later incarnation replaces all that earlier ones said, but for
//! the node's record: every incarnation says one, and until it is here the last one holds, lest a node that started
//! anew is without endpoints because another fact of it came first. An owner that signs two bodies with one version (a
//! copied data directory, or malice) is noticed, and every node keeps the same one of the two.
//!
//! A fact dies with its owner: some time after the owner left or failed, it is dropped, and remembered just well
//! enough not to be taken back from a peer that drops it later.

mod cells;
mod limit;
mod rules;
mod unsaved;

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use weft_wire::{
    circuit::CircuitRecord,
    fact::{FactKind, FactVersion, NodeRecord, SignedFact, SpentTokens},
    id::{CellName, NodeId, NodeName, Role},
};

use self::{cells::Crossing, limit::RateLimit, rules::Claim};
pub use self::{cells::Relay, rules::check_record, unsaved::Unsaved};
use crate::authority::{Authority, Refusal};

/// How long the facts of an owner that is no member any more are kept.
pub const KEEP_GONE: Duration = Duration::from_secs(600);
/// How long an expired fact is remembered not to be taken back. Longer than a node certificate lasts, so that by then
/// nobody can verify it any more.
const REMEMBER_EXPIRED: Duration = Duration::from_secs(48 * 3600);
/// Kinds kept per owner, the lowest-numbered: an owner may otherwise fill everyone's memory with unknown ones.
const MAX_KINDS_PER_OWNER: usize = 16;
/// Encoded length of a fact's small fields, rounded up.
const FACT_OVERHEAD: usize = 128;

/// What became of a fact that was merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Stored: pass it on.
    New(Arc<SignedFact>),
    /// Not newer than what is known: nothing to do.
    Old,
    /// The owner signed two bodies with one version. Pass on the one that holds now, if it is another than before.
    Equivocation(Option<Arc<SignedFact>>),
    /// The owner changes its facts faster than anyone should; a later pull repairs this.
    RateLimited,
    /// Somebody with this node's key claims to be later than this process (a copied data directory, or an
    /// incarnation lost with the disk): start again with a higher incarnation than this.
    OutVersioned(FactVersion),
    /// Of a node of another cell of which nobody here needs to know.
    NotWanted,
    /// Neither stored nor to be passed on; to be counted against the link that it came by.
    Refused(Refusal),
}

#[derive(Debug)]
struct Owner {
    name: NodeName,
    /// The highest seen; facts of lower ones are old.
    incarnation: u64,
    facts: BTreeMap<FactKind, Held>,
    /// Facts that were dropped with their owner. They are not taken back until it is a member, and older ones never.
    expired: BTreeMap<FactKind, FactVersion>,
    absent_since: Option<Instant>,
    limit: RateLimit,
    /// By the certificate that came with its last fact.
    role: Role,
    /// Other cells that are told of it, and since when that is for no reason any more.
    told: BTreeMap<CellName, Option<Instant>>,
}

#[derive(Debug)]
struct Held {
    fact: Arc<SignedFact>,
    claim: Claim,
}

impl Owner {
    fn new(name: NodeName, incarnation: u64) -> Self {
        let (facts, expired) = (BTreeMap::new(), BTreeMap::new());
        let (limit, role, told) = (RateLimit::default(), Role::Member, BTreeMap::new());
        Self { name, incarnation, facts, expired, absent_since: None, limit, role, told }
    }

    /// How a version relates to what is held.
    fn order(&self, kind: FactKind, version: FactVersion) -> Ordering {
        let incarnations = version.incarnation.cmp(&self.incarnation);
        if incarnations.is_ne() && !outlives_incarnation(kind) {
            return incarnations;
        }
        if let Some(held) = self.facts.get(&kind) {
            return version.cmp(&held.fact.version());
        }
        let Some(expired) = self.expired.get(&kind) else { return Ordering::Greater };
        match version.cmp(expired) {
            Ordering::Equal if self.absent_since.is_none() => Ordering::Greater,
            order => order,
        }
    }

    /// How a fact relates to what is held; `None` for one version with two bodies.
    fn compare(&self, fact: &SignedFact) -> Option<Ordering> {
        let order = self.order(fact.kind, fact.version());
        let held = self.facts.get(&fact.kind).filter(|_| order.is_eq());
        if held.is_some_and(|held| held.fact.body != fact.body) { None } else { Some(order) }
    }

    /// Stores a fact that holds against what is there. False if its kind is one too many.
    fn store(&mut self, fact: Arc<SignedFact>, claim: Claim) -> bool {
        if fact.incarnation > self.incarnation {
            self.incarnation = fact.incarnation;
            self.facts.retain(|&kind, _| outlives_incarnation(kind));
            self.expired.retain(|&kind, _| outlives_incarnation(kind));
        }
        // News of an owner that seemed gone: that it is a member again may be heard a little later.
        self.absent_since = None;
        let kind = fact.kind;
        self.expired.remove(&kind);
        self.facts.insert(kind, Held { fact, claim });
        if self.facts.len() > MAX_KINDS_PER_OWNER {
            self.facts.pop_last();
        }
        self.facts.contains_key(&kind)
    }

    /// Drops all but the count of spent tokens, and remembers the versions; returns whether there was anything.
    fn let_go(&mut self) -> bool {
        let gone: Vec<_> = self.facts.extract_if(.., |&kind, _| kind != FactKind::SPENT_TOKENS).collect();
        let any = !gone.is_empty();
        self.expired.extend(gone.into_iter().map(|(kind, held)| (kind, held.fact.version())));
        while self.expired.len() > MAX_KINDS_PER_OWNER {
            self.expired.pop_last();
        }
        any
    }

    fn versions(&self) -> impl Iterator<Item = (FactKind, FactVersion)> {
        let held = self.facts.iter().map(|(&kind, held)| (kind, held.fact.version()));
        let unwelcome = self.expired.iter().filter(|_| self.absent_since.is_some());
        held.chain(unwelcome.map(|(&kind, &version)| (kind, version)))
    }
}

/// Whether what an earlier incarnation said in this register holds until a later one says something in it.
fn outlives_incarnation(kind: FactKind) -> bool {
    kind == FactKind::NODE
}

/// All facts that this node knows, its own among them.
#[derive(Debug)]
pub struct FactTable {
    me: NodeId,
    /// Of this node's own latest fact.
    seq: u64,
    owners: BTreeMap<NodeId, Owner>,
    crossing: Crossing,
}

impl FactTable {
    /// A table for the node `me` in this incarnation, with the facts of others that were on disk. Those were verified
    /// before they were stored, and must serve a cold start long after their certificates ended: only their form is
    /// checked again.
    pub fn new(me: NodeName, incarnation: u64, restored: impl IntoIterator<Item = SignedFact>) -> Self {
        let id = me.id();
        let owners = BTreeMap::from([(id, Owner::new(me, incarnation))]);
        let mut table = Self { me: id, seq: 0, owners, crossing: Crossing::default() };
        for fact in restored {
            let Ok(claim) = rules::decode(&fact) else { continue };
            let owner = table.owner_of(&fact);
            if let Some(owner) = owner
                && owner.name.id() != id
                && owner.compare(&fact) == Some(Ordering::Greater)
            {
                owner.store(Arc::new(fact), claim);
            }
        }
        table
    }

    /// Goes on numbering this node's facts above `seq`, where an earlier table of the same incarnation left off.
    pub fn resume_after(&mut self, seq: u64) {
        self.seq = self.seq.max(seq);
    }

    /// The next fact of this node itself, to be signed and given to [`FactTable::publish`].
    pub fn draft(&mut self, kind: FactKind, body: Vec<u8>) -> SignedFact {
        self.seq += 1;
        let me = &self.owners[&self.me]; // there from `new` on, and `expire` spares it
        SignedFact {
            owner: me.name.clone(),
            incarnation: me.incarnation,
            seq: self.seq,
            kind,
            body,
            chain: Vec::new(),
            signature: Vec::new(),
        }
    }

    /// Stores a draft that was signed; pass it on to everyone.
    ///
    /// # Errors
    /// [`Refusal`] if the body is one that every peer would refuse.
    pub fn publish(&mut self, signed: SignedFact) -> Result<Arc<SignedFact>, Refusal> {
        let claim = rules::decode(&signed)?;
        let fact = Arc::new(signed);
        if let Some(me) = self.owners.get_mut(&self.me) {
            me.store(fact.clone(), claim);
        }
        self.stored(self.me, fact.kind);
        Ok(fact)
    }

    /// Takes in a fact from wherever. `wall_ms` is Unix milliseconds, against which certificates are checked.
    pub fn merge(&mut self, fact: SignedFact, authority: &impl Authority, now: Instant, wall_ms: u64) -> Effect {
        self.try_merge(fact, None, authority, now, wall_ms).unwrap_or_else(Effect::Refused)
    }

    /// Takes in a fact that came from this peer: from another cell only what is needed here.
    pub fn merge_from(
        &mut self,
        peer: NodeId,
        fact: SignedFact,
        authority: &impl Authority,
        now: Instant,
        wall_ms: u64,
    ) -> Effect {
        self.try_merge(fact, Some(peer), authority, now, wall_ms).unwrap_or_else(Effect::Refused)
    }

    fn try_merge(
        &mut self,
        fact: SignedFact,
        from: Option<NodeId>,
        authority: &impl Authority,
        now: Instant,
        wall_ms: u64,
    ) -> Result<Effect, Refusal> {
        let order = match self.owners.get(&fact.owner.id()) {
            Some(owner) if owner.name != fact.owner => {
                return Err(Refusal::Malformed(format!("{} has the short id of {}", fact.owner, owner.name)));
            }
            // Of an earlier life of this very process's node.
            Some(owner) if fact.owner.id() == self.me && fact.incarnation < owner.incarnation => Some(Ordering::Less),
            Some(owner) => owner.compare(&fact),
            None => Some(Ordering::Greater),
        };
        // Most copies of a flooded fact end here, before anything costs time.
        if matches!(order, Some(Ordering::Less | Ordering::Equal)) {
            return Ok(Effect::Old);
        }
        let (claim, role) = rules::verify(&fact, authority, wall_ms)?;
        if fact.owner.id() == self.me {
            return Ok(Effect::OutVersioned(fact.version()));
        }
        if from.is_some_and(|peer| !self.admits(&fact, &claim, role, peer)) {
            return Ok(Effect::NotWanted);
        }
        let Some(owner) = self.owner_of(&fact) else { return Ok(Effect::Old) };
        // After verification: nobody else can use up an owner's allowance.
        if !owner.limit.allow(now) {
            return Ok(Effect::RateLimited);
        }
        let holds = order.is_some() || owner.facts.get(&fact.kind).is_some_and(|held| fact.body < held.fact.body);
        owner.role = role;
        let (kind, fact) = (fact.kind, Arc::new(fact));
        let stored = (holds && owner.store(fact.clone(), claim)).then_some(fact);
        let id = owner.name.id();
        self.stored(id, kind);
        Ok(match (order, stored) {
            (None, stored) => Effect::Equivocation(stored),
            (Some(_), Some(fact)) => Effect::New(fact),
            (Some(_), None) => Effect::Old,
        })
    }

    /// The owner's entry, made if it is new; `None` if another node has its short id.
    fn owner_of(&mut self, fact: &SignedFact) -> Option<&mut Owner> {
        let owner =
            self.owners.entry(fact.owner.id()).or_insert_with(|| Owner::new(fact.owner.clone(), fact.incarnation));
        (owner.name == fact.owner).then_some(owner)
    }

    /// Versions of all that is held: what to send when asking a peer for more.
    pub fn have(&self) -> Vec<(NodeId, FactKind, FactVersion)> {
        let of_owner = |(&id, owner): (&NodeId, &Owner)| -> Vec<_> {
            owner.versions().map(|(kind, version)| (id, kind, version)).collect()
        };
        self.owners.iter().flat_map(of_owner).collect()
    }

    /// How much of each owner's facts is here, to be compared with what others have: its incarnation, and the sum of its
    /// facts' numbers. Each of those only grows, and nobody has more of an owner than that owner itself. So who has as
    /// much has the same, while by the newest of them all one would not see that another was missed.
    pub fn progress(&self) -> BTreeMap<NodeId, FactVersion> {
        let mut progress: BTreeMap<NodeId, FactVersion> = BTreeMap::new();
        for (id, _, version) in self.have() {
            let sum = progress.entry(id).or_default();
            // A record of an earlier incarnation is none of the later one's facts.
            *sum = match version.incarnation.cmp(&sum.incarnation) {
                Ordering::Less => *sum,
                Ordering::Equal => FactVersion { seq: sum.seq.saturating_add(version.seq), ..*sum },
                Ordering::Greater => version,
            };
        }
        progress
    }

    /// The facts that a peer with these versions lacks, about `max_bytes` of them and at least one. `first`, a random
    /// id, is where to begin: a peer that cannot use the facts of some would else never be sent the others.
    pub fn missing_for(
        &self,
        have: &[(NodeId, FactKind, FactVersion)],
        first: NodeId,
        max_bytes: usize,
    ) -> Vec<Arc<SignedFact>> {
        self.missing(have, first, max_bytes, |_, _| true)
    }

    /// As [`FactTable::missing_for`], to this peer: to one of another cell what is needed there, and of what it has
    /// already all that is newer.
    pub fn missing_for_peer(
        &self,
        peer: NodeId,
        have: &[(NodeId, FactKind, FactVersion)],
        first: NodeId,
        max_bytes: usize,
    ) -> Vec<Arc<SignedFact>> {
        self.missing(have, first, max_bytes, |fact, has_older| has_older || self.passes(fact, peer))
    }

    /// Whether a peer with these versions, which is asking, is to be asked in turn. Gossip alone need not tell of what
    /// it has more: another member can spoil what is said of it.
    pub fn is_behind(&self, peer: NodeId, have: &[(NodeId, FactKind, FactVersion)]) -> bool {
        let is_here = self.cell_of(peer).is_none_or(|cell| cell == self.crossing.home);
        have.iter().filter(|(id, kind, _)| *id != self.me && (is_here || *kind != FactKind::WANTS)).any(
            |&(id, kind, version)| match self.owners.get(&id) {
                Some(owner) => owner.order(kind, version).is_gt(),
                // Of nodes of another cell not all are of use here.
                None => is_here,
            },
        )
    }

    fn missing(
        &self,
        have: &[(NodeId, FactKind, FactVersion)],
        first: NodeId,
        max_bytes: usize,
        passes: impl Fn(&SignedFact, bool) -> bool,
    ) -> Vec<Arc<SignedFact>> {
        let mut incarnations: BTreeMap<NodeId, u64> = BTreeMap::new();
        let mut versions = BTreeMap::new();
        for &(id, kind, version) in have {
            let incarnation = incarnations.entry(id).or_default();
            *incarnation = version.incarnation.max(*incarnation);
            versions.insert((id, kind), version);
        }
        let lacks = |id: NodeId, fact: &SignedFact| {
            let holds = incarnations.get(&id).is_none_or(|&incarnation| incarnation <= fact.incarnation);
            (holds || outlives_incarnation(fact.kind))
                && versions.get(&(id, fact.kind)).is_none_or(|&version| version < fact.version())
        };
        let mut left = max_bytes;
        self.owners
            .range(first..)
            .chain(self.owners.range(..first))
            .flat_map(|(&id, owner)| owner.facts.values().map(move |held| (id, &held.fact)))
            .filter(|(id, fact)| lacks(*id, fact) && passes(fact, versions.contains_key(&(*id, fact.kind))))
            .map_while(|(_, fact)| {
                let fits = left > 0;
                left = left.saturating_sub(encoded_len(fact));
                fits.then(|| fact.clone())
            })
            .collect()
    }

    /// Drops the facts of owners that have not been members for [`KEEP_GONE`], or of which nobody in this cell has needed
    /// to know for as long, and returns those owners. Call it now and then, with who is a member: neither left nor failed.
    ///
    /// What a CA node says of spent tokens is kept: a token must not become good again because its issuer is gone.
    pub fn expire(&mut self, now: Instant, is_member: impl Fn(NodeId) -> bool) -> Vec<NodeName> {
        let (mut dropped, mut strangers) = (Vec::new(), Vec::new());
        let (me, crossing) = (self.me, &self.crossing);
        self.owners.retain(|&id, owner| {
            if id == me || (is_member(id) && owner.is_of_use(crossing)) {
                // Back after a partition: its facts are welcome again, and the next pull brings them.
                owner.absent_since = None;
                return true;
            }
            let absent = now.saturating_duration_since(*owner.absent_since.get_or_insert(now));
            if absent < KEEP_GONE {
                return true;
            }
            let cell = owner.record().map(|record| record.cell());
            if owner.let_go() {
                dropped.push(owner.name.clone());
                strangers.extend(cell.filter(|cell| *cell != crossing.home).map(|cell| (id, cell)));
            }
            absent < REMEMBER_EXPIRED || !owner.facts.is_empty()
        });
        strangers.into_iter().for_each(|(node, cell)| self.meet(node, cell));
        self.review_crossing(now, !dropped.is_empty());
        dropped
    }

    /// Drops the facts of a node that is believed no more, and by which numbers it spoke: who has its name next begins
    /// anew. Returns whether there were any facts.
    pub fn forget(&mut self, node: &NodeName) -> bool {
        let Some(owner) = self.owners.get_mut(&node.id()).filter(|_| node.id() != self.me) else { return false };
        let any = owner.let_go();
        (owner.incarnation, owner.expired) = (0, BTreeMap::new());
        self.recount();
        any
    }

    /// One fact, as it was signed.
    pub fn get(&self, node: &NodeName, kind: FactKind) -> Option<&Arc<SignedFact>> {
        Some(&self.owners.get(&node.id())?.facts.get(&kind)?.fact)
    }

    /// Every node that said what it hosts, by id, this one among them.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeName, FactVersion, &Arc<NodeRecord>)> {
        self.owners.values().filter_map(|owner| match owner.facts.get(&FactKind::NODE)? {
            Held { fact, claim: Claim::Node(record) } => Some((&owner.name, fact.version(), record)),
            _ => None,
        })
    }

    /// What each CA node said of spent tokens, this one among them.
    pub fn spent_tokens(&self) -> impl Iterator<Item = (&NodeName, &Arc<SpentTokens>)> {
        self.owners.values().filter_map(|owner| match owner.facts.get(&FactKind::SPENT_TOKENS)? {
            Held { claim: Claim::SpentTokens(spent), .. } => Some((&owner.name, spent)),
            _ => None,
        })
    }

    /// What each node said of endpoints, this one among them.
    pub fn circuits(&self) -> impl Iterator<Item = (&NodeName, FactVersion, &Arc<CircuitRecord>)> {
        self.owners.values().filter_map(|owner| match owner.facts.get(&FactKind::CIRCUITS)? {
            Held { fact, claim: Claim::Circuits(record) } => Some((&owner.name, fact.version(), record)),
            _ => None,
        })
    }

    /// All facts, for the disk.
    pub fn snapshot(&self) -> Vec<Arc<SignedFact>> {
        self.owners.values().flat_map(|owner| owner.facts.values()).map(|held| held.fact.clone()).collect()
    }
}

fn encoded_len(fact: &SignedFact) -> usize {
    FACT_OVERHEAD + fact.body.len() + fact.signature.len() + fact.chain.iter().map(Vec::len).sum::<usize>()
}

#[cfg(test)]
mod tests;
