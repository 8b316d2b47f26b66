//! The `facts` actor: what every node says about itself. It signs and spreads this node's own facts, takes in those
//! of others (each verified before it is stored or passed on), and answers peers that missed some.

mod cells;
mod published;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use rustls::pki_types::UnixTime;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, MissedTickBehavior},
};
use weft_ca::{token::TokenId, trust::TrustError};
use weft_discovery::{
    authority::Refusal,
    coalesce::Coalesce,
    facts::{Effect, FactTable, Unsaved},
    liveness::Status,
    pull::{MAX_ANSWER, Pull},
};
use weft_proxy::elsewhere::Elsewhere;
use weft_wire::{
    cell::RelayWord,
    circuit::CircuitRecord,
    fact::{
        EndpointHealth, EndpointRow, FactBody, FactKind, FactVersion, NodeRecord, NodeState, SignedFact, SpentTokens,
    },
    frame::{MAX_PUSH_ITEMS, Request, Response},
    id::{NodeId, NodeName, ServiceAccount, ServiceName},
};

use self::cells::Cells;
pub use self::published::{Node, Published};
use crate::{
    actors::{
        circuits,
        health::{Hosted, HostedSet},
        links,
        membership::Standings,
    },
    identity::{IdentityReader, MeshAuthority, der_chain, wall_ms},
    peer::{PeerError, tls},
    store::{DiskReport, Loaded, Store, StoreError},
    supervisor::{Actor, Inbox, Mailbox},
    telemetry::{Reason, Telemetry},
};

/// How often new facts are written to disk and old ones looked for.
const HOUSEKEEPING: Duration = Duration::from_millis(500);
/// A refusal is logged again after this time if it persists, and so many different ones are within it.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(60);
const MAX_REFUSALS: usize = 64;
/// Verified facts after which others get their turn on the thread.
const YIELD_EVERY: usize = 32;

pub enum Msg {
    /// Answers whether any was new.
    Merge(Vec<SignedFact>, NodeId, oneshot::Sender<bool>),
    PullFrom(NodeId),
    Have(oneshot::Sender<Vec<(NodeId, FactKind, FactVersion)>>),
    MissingFor(NodeId, Vec<(NodeId, FactKind, FactVersion)>, oneshot::Sender<(Vec<SignedFact>, bool)>),
    Spend {
        token: [u8; 8],
        allowed: u32,
        reply: oneshot::Sender<anyhow::Result<()>>,
    },
    ForgetUses(Vec<TokenId>),
    SayCircuits(CircuitRecord),
    SayRelay(RelayWord),
    /// A service, as `name.namespace`, that is called here, and of which other cells alone have endpoints.
    Call(String),
    Say(NodeState, oneshot::Sender<FactVersion>),
}

#[derive(Clone)]
pub struct Handle {
    mailbox: Mailbox<Msg>,
    published: watch::Receiver<Arc<Published>>,
}

impl Handle {
    pub fn new(mailbox: Mailbox<Msg>, published: watch::Receiver<Arc<Published>>) -> Self {
        Self { mailbox, published }
    }
    pub fn published(&self) -> &watch::Receiver<Arc<Published>> {
        &self.published
    }

    /// Takes in facts from a peer, and returns when that is done: a peer that is read no further meanwhile cannot keep
    /// the actor from the others. What an actor that is stuck does not take is pulled later.
    pub async fn merge(&self, facts: Vec<SignedFact>, from: NodeId) {
        let _ = self.mailbox.ask(|reply| Msg::Merge(facts, from, reply)).await;
    }

    /// Asks a peer for what it has and this node has not.
    pub fn pull_from(&self, node: NodeId) {
        // Asked again as long as the difference lasts.
        let _ = self.mailbox.try_send(Msg::PullFrom(node));
    }

    /// What a peer lacks that has these versions, and whether it has something newer.
    pub async fn missing_for(
        &self,
        peer: NodeId,
        have: Vec<(NodeId, FactKind, FactVersion)>,
    ) -> anyhow::Result<(Vec<SignedFact>, bool)> {
        Ok(self.mailbox.ask(|reply| Msg::MissingFor(peer, have, reply)).await?)
    }

    /// Tells the mesh what this node sees as a relay. Returns whether the actor has taken it.
    pub fn say_relay(&self, word: RelayWord) -> bool {
        self.mailbox.try_send(Msg::SayRelay(word)).is_ok()
    }

    /// Counts one use of a join token, on disk before it returns.
    ///
    /// # Errors
    /// If the token has been used `allowed` times, at all CA nodes together.
    pub async fn spend(&self, token: [u8; 8], allowed: u32) -> anyhow::Result<()> {
        self.mailbox.ask(|reply| Msg::Spend { token, allowed, reply }).await?
    }

    /// Has this node count the uses of these tokens no longer.
    pub async fn forget_uses(&self, tokens: Vec<TokenId>) -> anyhow::Result<()> {
        Ok(self.mailbox.send(Msg::ForgetUses(tokens)).await?)
    }

    /// Tells the mesh what this node's callers have seen of endpoints. When the actor is behind it is dropped, and counted:
    /// it is said again before its leases end.
    pub fn say_circuits(&self, record: CircuitRecord) {
        let _ = self.mailbox.try_send(Msg::SayCircuits(record));
    }

    /// Tells the mesh whether this node is up, draining, or has left. Returns the version of what it said.
    pub async fn say(&self, state: NodeState) -> anyhow::Result<FactVersion> {
        Ok(self.mailbox.ask(|reply| Msg::Say(state, reply)).await?)
    }
}

/// What stays the same over the actor's restarts.
#[derive(Clone)]
pub struct Setup {
    /// All of this node's record but its state and endpoints.
    pub about: NodeRecord,
    /// The services of other cells of which this node's callers need the endpoints, by its configuration.
    pub wants: BTreeSet<ServiceName>,
    /// What the data path hears of services of other cells.
    pub elsewhere: Arc<Elsewhere>,
    pub incarnation: u64,
    /// Of this node's newest fact: what was said before a crash must not be said again with the same number.
    pub seq: Arc<AtomicU64>,
    pub state: Arc<watch::Sender<NodeState>>,
    pub identity: IdentityReader,
    /// Changes with the node's certificate, which facts carry, and with what is revoked.
    pub identity_changes: watch::Receiver<u64>,
    pub hosted: watch::Receiver<HostedSet>,
    /// Whether callers had better go elsewhere.
    pub overloaded: watch::Receiver<bool>,
    /// Accounts that have a certificate here.
    pub certified: watch::Receiver<BTreeSet<ServiceAccount>>,
    pub standings: watch::Receiver<Standings>,
    pub published: Arc<watch::Sender<Arc<Published>>>,
    pub heard: Arc<watch::Sender<circuits::Heard>>,
    pub store: Store,
    pub links: links::Handle,
    pub myself: Mailbox<Msg>,
    pub telemetry: Telemetry,
}

pub struct FactsActor {
    setup: Setup,
    authority: MeshAuthority,
    table: FactTable,
    spent: SpentTokens,
    unsaved: Unsaved,
    disk: DiskReport,
    /// Whose facts were refused of late, why, and when that was last logged.
    refused: BTreeMap<(NodeName, &'static str), Instant>,
    coalesce: Coalesce,
    cells: Cells,
}

impl FactsActor {
    /// Begins with what is on disk.
    pub fn new(setup: Setup) -> anyhow::Result<Self> {
        let stored = setup.store.load_facts().unwrap_or_else(|error| {
            tracing::error!(%error, "facts on disk could not be read; peers have them");
            Loaded { rows: Vec::new(), skipped: 0 }
        });
        if stored.skipped > 0 {
            tracing::warn!(skipped = stored.skipped, "facts on disk could not be read; peers have them");
        }
        let me = setup.identity.load().name.clone();
        let spent = stored
            .rows
            .iter()
            .find(|fact| fact.owner == me && fact.kind == FactKind::SPENT_TOKENS)
            .map(|fact| SpentTokens::decode(&fact.body))
            .transpose()
            .context("this node's count of used join tokens")?
            .unwrap_or_default();
        // The disk lags behind a little; what was published before a crash does not, and must still get there.
        let published = setup.published.borrow().signed.clone();
        let restored = published.iter().map(|fact| (**fact).clone()).chain(stored.rows);
        let cells = Cells::new(setup.wants.clone());
        let identity = setup.identity.load_full();
        let role = |fact: &SignedFact| {
            let judged = tls::judge(&identity.trust, &fact.chain, UnixTime::now()).ok()?;
            judged.identity.grant.map(|grant| grant.role)
        };
        let mut table = FactTable::new(me, setup.incarnation, restored)
            .with_roles(role)
            .in_cell(setup.about.cell(), identity.grant.role);
        table.resume_after(setup.seq.load(Ordering::Relaxed));
        let mut unsaved = Unsaved::default();
        published.into_iter().filter(|fact| is_kept(fact)).for_each(|fact| unsaved.add(fact));
        let authority = MeshAuthority(setup.identity.clone());
        Ok(Self {
            setup,
            authority,
            table,
            spent,
            unsaved,
            disk: DiskReport::new("facts"),
            refused: BTreeMap::new(),
            coalesce: Coalesce::default(),
            cells,
        })
    }

    /// Signs, stores and spreads one of this node's own facts.
    fn publish(&mut self, kind: FactKind, body: Vec<u8>) -> anyhow::Result<()> {
        let identity = self.setup.identity.load();
        let mut fact = self.table.draft(kind, body);
        self.setup.seq.store(fact.seq, Ordering::Relaxed);
        fact.chain = der_chain(&identity.chain);
        fact.signature = identity.key.sign(&fact.signed_bytes());
        let fact = self.table.publish(fact)?;
        self.spread(std::slice::from_ref(&fact), None);
        if is_kept(&fact) {
            self.unsaved.add(fact);
        }
        Ok(())
    }

    fn say_record(&mut self) {
        let endpoints = {
            let (hosted, certified) = (self.setup.hosted.borrow(), self.setup.certified.borrow());
            let is_overloaded = *self.setup.overloaded.borrow();
            let row = |hosted: &Hosted| match certified.contains(&hosted.service.account()) {
                true if is_overloaded && hosted.health == EndpointHealth::Healthy => {
                    EndpointRow { health: EndpointHealth::Overloaded, ..hosted.row() }
                }
                true => hosted.row(),
                // It could show callers no certificate.
                false => EndpointRow { health: EndpointHealth::Unhealthy, ..hosted.row() },
            };
            hosted.values().map(row).collect()
        };
        let record = NodeRecord { state: *self.setup.state.borrow(), endpoints, ..self.setup.about.clone() };
        self.coalesce.said(Instant::now().into_std());
        let said = record.encode().map_err(anyhow::Error::from).and_then(|body| self.publish(FactKind::NODE, body));
        if let Err(error) = said {
            // Registrations are checked against this; if one slipped through, the last record holds.
            tracing::error!(%error, "this node's record cannot be said");
        }
    }

    /// Takes in facts from a peer; returns whether any was new.
    async fn merge(&mut self, facts: Vec<SignedFact>, from: NodeId) -> bool {
        let (now, wall_ms) = (Instant::now().into_std(), wall_ms());
        let met = self.table.met().len();
        let mut news = Vec::new();
        for (taken, fact) in facts.into_iter().enumerate() {
            if taken % YIELD_EVERY == YIELD_EVERY - 1 {
                tokio::task::yield_now().await;
            }
            let (owner, version) = (fact.owner.clone(), fact.version());
            match self.table.merge_from(from, fact, &self.authority, now, wall_ms) {
                Effect::New(fact) => news.push(fact),
                Effect::Old => {}
                Effect::NotWanted => self.count("not_wanted"),
                Effect::Equivocation(changed) => {
                    self.count("equivocation");
                    tracing::warn!(%owner, ?version, "node said two things at once: is its data directory copied?");
                    news.extend(changed);
                }
                Effect::RateLimited => self.count("rate_limited"),
                Effect::OutVersioned(version) => {
                    self.count("out_versioned");
                    tracing::error!(?version, "another process speaks as this node: is its data directory copied?");
                }
                Effect::Refused(refusal) => self.refuse(&owner, from, &refusal),
            }
        }
        let any = !news.is_empty();
        if !any && self.table.met().len() != met {
            self.publish_view();
        }
        if any {
            self.spread(&news, Some(from));
            news.into_iter().filter(|fact| is_kept(fact)).for_each(|fact| self.unsaved.add(fact));
        }
        any
    }

    fn refuse(&mut self, owner: &NodeName, from: NodeId, refusal: &Refusal) {
        self.count(refusal.label());
        let now = Instant::now();
        self.refused.retain(|_, logged| now - *logged < REFUSAL_INTERVAL);
        let new = !self.refused.contains_key(&(owner.clone(), refusal.label()));
        // Peers send it again and again, and the owner may be anybody's invention.
        if new && self.refused.len() < MAX_REFUSALS {
            self.refused.insert((owner.clone(), refusal.label()), now);
            tracing::warn!(%owner, %from, %refusal, "fact refused");
        }
    }

    fn count(&self, reason: &'static str) {
        self.setup.telemetry.facts_refused.get_or_create(&Reason { reason }).inc();
    }

    fn pull(&self, node: NodeId) {
        let (links, myself) = (self.setup.links.clone(), self.setup.myself.clone());
        tokio::spawn(async move {
            let ask = |question| {
                let links = links.clone();
                async move { links.request(node, &question).await }
            };
            if let Err(error) = pull(node, ask, &myself).await {
                tracing::debug!(%node, %error, "facts could not be pulled");
            }
        });
    }

    async fn spend(&mut self, token: [u8; 8], allowed: u32) -> anyhow::Result<()> {
        let used: u32 = self.table.spent_tokens().filter_map(|(_, spent)| spent.uses.get(&token)).sum();
        if used >= allowed {
            bail!("the token has been used {used} of {allowed} times: create another with `weft token create`");
        }
        *self.spent.uses.entry(token).or_default() += 1;
        self.publish(FactKind::SPENT_TOKENS, self.spent.encode()?)?;
        Ok(self.save().await?)
    }

    fn forget_uses(&mut self, tokens: &[TokenId]) -> anyhow::Result<()> {
        let before = self.spent.uses.len();
        self.spent.uses.retain(|token, _| !tokens.contains(&TokenId(*token)));
        if self.spent.uses.len() < before {
            self.publish(FactKind::SPENT_TOKENS, self.spent.encode()?)?;
        }
        Ok(())
    }

    /// Writes what is new to disk. What could not be written is kept for the next try.
    async fn save(&mut self) -> Result<(), StoreError> {
        if self.unsaved.is_empty() {
            return Ok(());
        }
        let facts = self.unsaved.take();
        let (saved, facts) = self.setup.store.call(move |store| Ok((store.save_facts(&facts), facts))).await?;
        if saved.is_err() {
            self.unsaved.put_back(facts);
        }
        saved
    }

    async fn housekeep(&mut self) {
        let standings = self.setup.standings.borrow().clone();
        let is_member = |node: NodeId| {
            standings.get(&node).is_some_and(|standing| matches!(standing.status, Status::Alive | Status::Suspect))
        };
        let dropped = self.table.expire(Instant::now().into_std(), is_member);
        for name in dropped {
            self.forgotten(name).await;
        }
        let saved = self.save().await;
        self.disk.note(&saved);
        let told = self.say_summary().and_then(|()| self.review_wants());
        if let Err(error) = told {
            tracing::error!(error = format!("{error:#}"), "what this node has to say of cells cannot be told");
        }
        self.spread(&[], None);
    }

    /// Drops the facts of nodes that are revoked: who called them finds others at once.
    async fn forget_revoked(&mut self) {
        let identity = self.setup.identity.load_full();
        let is_revoked = |name: &&NodeName| {
            let fact = self.table.get(name, FactKind::NODE);
            let judged = fact.map(|fact| tls::judge(&identity.trust, &fact.chain, UnixTime::now()));
            matches!(judged, Some(Err(TrustError::Revoked(_))))
        };
        let revoked: Vec<NodeName> = self.table.nodes().map(|(name, ..)| name).filter(is_revoked).cloned().collect();
        for name in revoked {
            if self.table.forget(&name) {
                self.forgotten(name).await;
            }
        }
    }

    async fn forgotten(&mut self, name: NodeName) {
        self.unsaved.forget(&name);
        let forgotten = self.setup.store.call(move |store| store.forget_facts(&name)).await;
        self.disk.note(&forgotten);
    }
}

/// Whether a fact is still true after a restart.
fn is_kept(fact: &SignedFact) -> bool {
    !matches!(fact.kind, FactKind::CIRCUITS | FactKind::RELAY)
}

/// Waits until then, or for ever.
async fn sleep_until(at: Option<std::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Asks a peer for what is missing here, until it has no news.
async fn pull<F>(node: NodeId, ask: impl Fn(Request) -> F, myself: &Mailbox<Msg>) -> anyhow::Result<()>
where
    F: Future<Output = Result<Response, PeerError>>,
{
    let mut pull = Pull::default();
    loop {
        let mut news = false;
        let have = myself.ask(Msg::Have).await?;
        let Response::Facts(mut facts) = ask(Request::PullFacts { have }).await? else {
            bail!("the peer answered something else than facts");
        };
        // In parts, so that none keeps the actor from its other messages for long.
        while !facts.is_empty() {
            let rest = facts.split_off(facts.len().min(MAX_PUSH_ITEMS));
            news |= myself.ask(|reply| Msg::Merge(facts, node, reply)).await?;
            facts = rest;
        }
        if !pull.again(news) {
            return Ok(());
        }
    }
}

impl Actor for FactsActor {
    type Msg = Msg;

    async fn run(mut self, inbox: &mut Inbox<Msg>) -> anyhow::Result<()> {
        let mut hosted = self.setup.hosted.clone();
        let mut identity_changes = self.setup.identity_changes.clone();
        let mut certified = self.setup.certified.clone();
        let mut overloaded = self.setup.overloaded.clone();
        hosted.mark_unchanged();
        certified.mark_unchanged();
        overloaded.mark_unchanged();
        identity_changes.mark_unchanged();
        if !self.spent.uses.is_empty() {
            self.publish(FactKind::SPENT_TOKENS, self.spent.encode()?)?;
        }
        self.say_record();
        self.say_wants()?;
        self.publish_view();
        let mut tick = tokio::time::interval(HOUSEKEEPING);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let say_at = self.coalesce.due(Instant::now().into_std());
            tokio::select! {
                biased;
                _ = tick.tick() => {
                    self.housekeep().await;
                    continue;
                }
                () = sleep_until(say_at), if say_at.is_some() => self.say_record(),
                changed = hosted.changed() => {
                    changed?;
                    self.coalesce.changed();
                    continue;
                }
                changed = certified.changed() => {
                    changed?;
                    self.coalesce.changed();
                    continue;
                }
                changed = overloaded.changed() => {
                    changed?;
                    self.coalesce.changed();
                    continue;
                }
                changed = identity_changes.changed() => {
                    changed?;
                    self.forget_revoked().await;
                    if !self.spent.uses.is_empty() {
                        self.publish(FactKind::SPENT_TOKENS, self.spent.encode()?)?;
                    }
                    self.coalesce.changed();
                }
                message = inbox.recv() => match message {
                    Some(Msg::Merge(facts, from, reply)) => {
                        let news = self.merge(facts, from).await;
                        let _ = reply.send(news);
                        if !news {
                            continue;
                        }
                    }
                    Some(Msg::Have(reply)) => {
                        let _ = reply.send(self.table.have());
                        continue;
                    }
                    Some(Msg::PullFrom(node)) => {
                        self.pull(node);
                        continue;
                    }
                    Some(Msg::MissingFor(peer, have, reply)) => {
                        let first = NodeId(rand::random());
                        let missing = self.table.missing_for_peer(peer, &have, first, MAX_ANSWER);
                        let missing = missing.iter().map(|fact| (**fact).clone()).collect();
                        let _ = reply.send((missing, self.table.is_behind(peer, &have)));
                        continue;
                    }
                    Some(Msg::Spend { token, allowed, reply }) => {
                        let spent = self.spend(token, allowed).await;
                        let _ = reply.send(spent);
                    }
                    Some(Msg::ForgetUses(tokens)) => self.forget_uses(&tokens)?,
                    Some(Msg::SayCircuits(record)) => self.publish(FactKind::CIRCUITS, record.encode()?)?,
                    Some(Msg::Call(service)) => self.call(&service)?,
                    Some(Msg::SayRelay(word)) => self.publish(FactKind::RELAY, word.encode()?)?,
                    Some(Msg::Say(state, reply)) => {
                        self.setup.state.send_replace(state);
                        self.say_record();
                        let said = self.setup.seq.load(Ordering::Relaxed);
                        let _ = reply.send(FactVersion { incarnation: self.setup.incarnation, seq: said });
                    }
                    None => return Ok(self.save().await?),
                },
            }
            self.publish_view();
        }
    }
}

#[cfg(test)]
mod tests;
