//! The `documents` actor: what operators told the mesh. It stamps, signs and spreads what is written here, takes in
//! what was written elsewhere (verified before it is stored or passed on), and answers peers that missed some.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::catch_unwind,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, MissedTickBehavior},
};
use weft_ca::token::{TokenClaims, TokenId};
use weft_discovery::{
    cells::Abroad,
    documents::{self, DocumentTable, JOIN_TOKEN_KIND, KEEP_DELETED, NotTaken, WEFT_GROUP},
    liveness::Status,
    membership::MemberSet,
    pull::{MAX_ANSWER, Pull},
};
use weft_policy::{
    api::core::SecretHead,
    document::{Document, DocumentError, Position, Problem, Spec, parse_stored},
    secrets::Reference,
};
use weft_wire::{
    document::{DocumentKey, DocumentVersion, KeptVersion, SignedDocument, Stamp, VersionId},
    frame::{Holdings, Push, Request, Response},
    id::{AccountPattern, NodeId, NodeName, Role, SpiffeId, Subject},
    secret::{SecretDigest, SecretPayload},
};

use crate::{
    actors::{links, membership::Standings, secrets},
    admin::api::{Draft, Outcome, Prepare, Prepared, Write, Written},
    culprit::Blamed,
    events::Kind,
    identity::{IdentityReader, MeshAuthority, NodeIdentity, der_chain, wall_ms},
    store::{DiskReport, Store, StoreError},
    supervisor::{Actor, Inbox, Mailbox, panic_message},
    telemetry::{LogLimit, Reason, Telemetry},
};

/// How often it is tried to write what the disk did not take.
const SAVE_AGAIN: Duration = Duration::from_millis(500);
/// How often it is looked for deletions that all members know.
const FORGET_EVERY: Duration = Duration::from_secs(1);
/// So that the scenario tests see them go.
const KEEP_DELETED_IN_TESTS: Duration = Duration::from_secs(5);
/// What one build cannot compile, the next one may.
const BUILD: &str = env!("CARGO_PKG_VERSION");

/// A join token that was issued, as the mesh remembers it: without the part that lets anybody in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRecord {
    pub id: String,
    pub issuer: NodeName,
    pub role: Role,
    pub allow: Vec<AccountPattern>,
    pub uses: u32,
    /// Seconds since 1970.
    pub expires: u64,
    pub revoked: bool,
}

impl TokenRecord {
    pub fn new(claims: &TokenClaims) -> Self {
        Self {
            id: claims.id.to_string(),
            issuer: claims.issuer.clone(),
            role: claims.grant.role,
            allow: claims.grant.accounts.clone(),
            uses: claims.uses,
            expires: claims.expires,
            revoked: false,
        }
    }

    fn key(id: &str) -> DocumentKey {
        DocumentKey { group: WEFT_GROUP.into(), kind: JOIN_TOKEN_KIND.into(), namespace: None, name: id.into() }
    }
}

fn is_token(key: &DocumentKey) -> bool {
    key.group == WEFT_GROUP && key.kind == JOIN_TOKEN_KIND
}

pub type Tokens = Arc<BTreeMap<String, TokenRecord>>;

pub enum Msg {
    /// Answers whether any was new.
    Merge(Vec<SignedDocument>, NodeId, oneshot::Sender<bool>),
    PullFrom(NodeId),
    Have(oneshot::Sender<Vec<(DocumentKey, DocumentVersion)>>),
    MissingFor(Vec<(DocumentKey, DocumentVersion)>, oneshot::Sender<(Vec<SignedDocument>, bool)>),
    Prepare(Prepare, oneshot::Sender<anyhow::Result<Vec<Prepared>>>),
    Write(Write, oneshot::Sender<anyhow::Result<Vec<Written>>>),
    HoldBack(Blamed),
}

/// What readers need of the documents.
#[derive(Clone, Default)]
pub struct Published {
    /// What the policy engine understands of them.
    pub policy: Arc<watch::Sender<Arc<Vec<Arc<Document>>>>>,
    pub tokens: Arc<watch::Sender<Tokens>>,
    pub held: Arc<watch::Sender<Arc<Held>>>,
}

/// The whole table: what the admin API lists, and what the actor finds again after a crash.
#[derive(Default)]
pub struct Held {
    /// Deletions among them.
    documents: Vec<Arc<SignedDocument>>,
    /// How the policy documents among them were read, with the stamp of the version that was.
    readings: BTreeMap<DocumentKey, (Stamp, Reading)>,
    high_water: Stamp,
    /// The digest of all, equal on nodes that hold the same.
    root: [u8; 16],
}

/// How this build reads a policy document.
#[derive(Clone, Default)]
pub struct Reading {
    /// What is in force; of a version that cannot be read the last good one, if there was one.
    pub in_force: Option<Arc<Document>>,
    /// Why the newest version cannot be read.
    pub error: Option<Arc<DocumentError>>,
    /// Why the newest version is held back: views cannot be compiled with it.
    pub held_back: Option<Arc<str>>,
}

impl Reading {
    pub fn of(document: Arc<Document>) -> Self {
        Self { in_force: Some(document), ..Self::default() }
    }

    /// After a newer version that cannot be read.
    pub fn unreadable(self, error: DocumentError) -> Self {
        Self { error: Some(Arc::new(error)), held_back: None, ..self }
    }

    /// After it was found that views cannot be compiled with the version in force; with what holds in its place.
    pub fn held_back(why: &str, instead: Option<Arc<Document>>) -> Self {
        Self { in_force: instead, error: None, held_back: Some(why.into()) }
    }
}

#[derive(Clone)]
pub struct Handle {
    mailbox: Mailbox<Msg>,
    tokens: watch::Receiver<Tokens>,
    held: watch::Receiver<Arc<Held>>,
    store: Store,
}

impl Handle {
    pub fn new(mailbox: Mailbox<Msg>, published: &Published, store: Store) -> Self {
        Self { mailbox, tokens: published.tokens.subscribe(), held: published.held.subscribe(), store }
    }

    /// The join tokens that were issued and not forgotten, by id.
    pub fn tokens(&self) -> &watch::Receiver<Tokens> {
        &self.tokens
    }
    pub fn root(&self) -> [u8; 16] {
        self.held.borrow().root
    }

    /// Takes in documents from a peer, and returns when that is done, as [`super::facts::Handle::merge`] does.
    pub async fn merge(&self, documents: Vec<SignedDocument>, from: NodeId) {
        let _ = self.mailbox.ask(|reply| Msg::Merge(documents, from, reply)).await;
    }

    /// Asks a peer for what it has and this node has not.
    pub fn pull_from(&self, node: NodeId) {
        // Asked again as long as the difference lasts.
        let _ = self.mailbox.try_send(Msg::PullFrom(node));
    }

    /// What a peer lacks that has these versions, and whether it has something newer.
    pub async fn missing_for(
        &self,
        have: Vec<(DocumentKey, DocumentVersion)>,
    ) -> anyhow::Result<(Vec<SignedDocument>, bool)> {
        Ok(self.mailbox.ask(|reply| Msg::MissingFor(have, reply)).await?)
    }

    /// Stamps what an author is about to sign.
    pub async fn prepare(&self, prepare: Prepare) -> anyhow::Result<Vec<Prepared>> {
        self.mailbox.ask(|reply| Msg::Prepare(prepare, reply)).await?
    }

    /// Gives documents to the mesh: on this node's disk before it returns, on its way to the others.
    pub async fn write(&self, write: Write) -> anyhow::Result<Vec<Written>> {
        self.mailbox.ask_outcome(|reply| Msg::Write(write, reply)).await?
    }

    pub async fn record_token(&self, record: TokenRecord) -> anyhow::Result<()> {
        let body = Some(serde_json::to_string(&record)?);
        let draft = Draft { key: TokenRecord::key(&record.id), body, content: None, if_version: None };
        self.write(Write::Drafts(vec![draft])).await.map(drop)
    }

    /// Deletes the records of tokens that ended long ago.
    pub async fn forget_tokens(&self, tokens: &[TokenId]) -> anyhow::Result<()> {
        let draft = |id: &TokenId| {
            let key = TokenRecord::key(&id.to_string());
            Draft { key, body: None, content: None, if_version: None }
        };
        match tokens {
            [] => Ok(()),
            tokens => self.write(Write::Drafts(tokens.iter().map(draft).collect())).await.map(drop),
        }
    }

    /// The versions of a document that this node has kept, the oldest first: the present one, a deletion too, and some
    /// before it.
    pub async fn versions(&self, key: DocumentKey) -> Result<Vec<KeptVersion>, StoreError> {
        self.store.call(move |store| store.load_versions(&key)).await
    }

    /// Views cannot be compiled with this document: until it changes, its last good version holds on this node.
    pub fn hold_back(&self, blamed: Blamed) {
        // Said again with the next view.
        let _ = self.mailbox.try_send(Msg::HoldBack(blamed));
    }

    /// How many documents are held back.
    pub fn held_back(&self) -> usize {
        self.held.borrow().readings.values().filter(|(_, reading)| reading.held_back.is_some()).count()
    }

    /// What this node holds, unless it is what has this digest.
    pub fn holdings(&self, root: [u8; 16]) -> Holdings {
        let held = self.held();
        let versions = held.documents.iter().map(|document| (document.key.clone(), document.version()));
        let is_unused = |reading: &Reading| reading.error.is_some() || reading.held_back.is_some();
        let unreadable = held.readings.iter().filter(|(_, (_, reading))| is_unused(reading));
        Holdings {
            root: held.root,
            versions: if held.root == root { Vec::new() } else { versions.collect() },
            unreadable: unreadable.map(|(key, _)| key.clone()).collect(),
        }
    }

    /// All that is held; see [`Held::policy`].
    pub fn held(&self) -> Arc<Held> {
        self.held.borrow().clone()
    }

    /// How many policy documents there are.
    pub fn count(&self) -> usize {
        self.held.borrow().readings.len()
    }
}

impl Held {
    /// The policy documents, by key: all but deleted ones and weft's own records.
    pub fn policy(&self) -> impl Iterator<Item = (&SignedDocument, &Reading)> {
        self.documents.iter().filter_map(|document| Some((&**document, &self.readings.get(&document.key)?.1)))
    }

    /// Whether the actor has read the disk: until then nothing is known of any document.
    pub fn is_loaded(&self) -> bool {
        self.root != [0; 16]
    }

    /// What is known of each Secret, deleted ones among them.
    pub fn secrets(&self) -> impl Iterator<Item = (Reference, SecretState)> {
        self.documents.iter().filter_map(|document| {
            let reference = Reference::of_secret(&document.key)?;
            let reading = self.readings.get(&document.key).map(|(_, reading)| reading);
            let state = match (&document.body, reading) {
                (None, _) => SecretState::Deleted,
                (Some(_), Some(Reading { in_force: Some(read), error: None, held_back: None })) => match &read.spec {
                    Spec::SecretHead(head) => head.content.digest.map_or(SecretState::Unreadable, SecretState::Sealed),
                    _ => SecretState::Unreadable,
                },
                (Some(_), _) => SecretState::Unreadable,
            };
            Some((reference, state))
        })
    }

    /// The document of a Secret, if it exists.
    pub fn secret(&self, reference: &Reference) -> Option<&Arc<SignedDocument>> {
        let is_meant =
            |document: &&Arc<SignedDocument>| Reference::of_secret(&document.key).as_ref() == Some(reference);
        self.documents.iter().find(is_meant).filter(|document| document.body.is_some())
    }
}

/// What the documents say of a Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretState {
    /// It commits to the content of this digest.
    Sealed(SecretDigest),
    /// It exists, and this build cannot read it.
    Unreadable,
    Deleted,
}

/// What a document says of a Secret; `None` if it is about something else, or deletes.
///
/// # Errors
/// If it is about a Secret, and cannot be read.
pub fn secret_head(key: &DocumentKey, body: Option<&str>) -> anyhow::Result<Option<SecretHead>> {
    let (Some(_), Some(body)) = (Reference::of_secret(key), body) else { return Ok(None) };
    match parse_stored(key, body, Stamp::default())?.spec {
        Spec::SecretHead(head) => Ok(Some(*head)),
        _ => bail!("{key} is no sealed Secret"),
    }
}

/// What stays the same over the actor's restarts.
#[derive(Clone)]
pub struct Setup {
    pub identity: IdentityReader,
    /// Changes with what is revoked, among others.
    pub identity_changes: watch::Receiver<u64>,
    pub published: Published,
    pub store: Store,
    pub links: links::Handle,
    /// Who has to know of a deletion before it is forgotten.
    pub standings: watch::Receiver<Standings>,
    /// The digests that members gossip.
    pub rumours: watch::Receiver<Arc<MemberSet>>,
    /// Other cells, each of which has to know of a deletion too.
    pub abroad: watch::Receiver<Arc<Abroad>>,
    /// What this node has of Secrets.
    pub contents: watch::Receiver<Arc<secrets::Held>>,
    pub myself: Mailbox<Msg>,
    pub telemetry: Telemetry,
}

pub struct DocumentsActor {
    setup: Setup,
    authority: MeshAuthority,
    table: DocumentTable,
    /// How the policy documents were read, with the stamp of the version that was.
    readings: BTreeMap<DocumentKey, (Stamp, Reading)>,
    /// What peers sent and the disk has not taken yet.
    to_save: BTreeMap<DocumentKey, Arc<SignedDocument>>,
    disk: DiskReport,
    refusals: LogLimit,
}

impl DocumentsActor {
    /// Begins with what is on disk, and after a crash with what was published before it: the disk may lag behind.
    pub fn new(setup: Setup) -> Self {
        let (stored, high_water) = load(&setup.store).unwrap_or_else(|error| {
            tracing::error!(%error, "documents on disk could not be read; peers have them");
            Default::default()
        });
        let on_disk: Vec<_> = stored.iter().map(|document| (document.key.clone(), document.version())).collect();
        let held = setup.published.held.borrow().clone();
        let restored = held.documents.iter().map(|document| (**document).clone()).chain(stored);
        let archive = setup.store.load_archive().map(|archive| archive.rows).unwrap_or_else(|error| {
            tracing::error!(%error, "it cannot be read which documents were deleted long ago");
            Vec::new()
        });
        let archive = archive.into_iter().map(|deletion| (deletion.key.clone(), deletion.version()));
        let mut table = DocumentTable::restore(restored, high_water.max(held.high_water))
            .with_archive(archive, if cfg!(feature = "testing") { KEEP_DELETED_IN_TESTS } else { KEEP_DELETED });
        table.age(wall_ms());
        let to_save = by_key(table.missing_for(&on_disk, usize::MAX)).collect();
        // Read anew, for their stamps are not known; those that cannot be read now are still the last good ones.
        let last_good = setup.published.policy.borrow().clone();
        let mut readings: BTreeMap<_, _> =
            last_good.iter().map(|last| (last.key.clone(), (Stamp::default(), Reading::of(last.clone())))).collect();
        readings.extend(held_back(&setup.store, &table));
        let authority = MeshAuthority(setup.identity.clone());
        let (disk, refusals) = (DiskReport::new("documents"), LogLimit::default());
        Self { setup, authority, table, readings, to_save, disk, refusals }
    }

    /// Takes in documents from a peer, stores the new ones and passes them on; returns whether there were any.
    async fn merge(&mut self, documents: Vec<SignedDocument>, from: Option<NodeId>) -> bool {
        let (mut news, mut deleted) = (Vec::new(), Vec::new());
        for document in documents {
            let (key, author) = (document.key.clone(), document.author.clone());
            match self.table.merge(document, &self.authority, wall_ms()) {
                Ok(document) => news.push(document),
                Err(NotTaken::Deleted) => deleted.push(key),
                Err(why) => self.refuse(&key, &author, from, &why),
            }
        }
        let recalled = self.recall(deleted).await;
        if !recalled.is_empty() {
            self.setup.links.push(&Push::Documents(recalled), None);
        }
        if news.is_empty() {
            return false;
        }
        self.to_save.extend(by_key(news.iter().cloned()));
        self.spread(&news, from);
        self.save_waiting().await;
        true
    }

    /// Counts and logs a document that was not taken, unless it is only old.
    fn refuse(&mut self, key: &DocumentKey, author: &SpiffeId, from: Option<NodeId>, why: &NotTaken) {
        let reason = match why {
            NotTaken::Old | NotTaken::Deleted => return,
            NotTaken::Quarantined(_) => "quarantined",
            NotTaken::Refused(refusal) => refusal.label(),
        };
        self.setup.telemetry.documents_refused.get_or_create(&Reason { reason }).inc();
        if let Some(left_out) = self.refusals.allow(Instant::now().into_std()) {
            tracing::warn!(%key, %author, from = from.map(tracing::field::display), %why, left_out, "document refused");
        }
    }

    /// Takes deletions back from the archive, because somebody has not heard of them.
    async fn recall(&mut self, keys: Vec<DocumentKey>) -> Vec<SignedDocument> {
        if keys.is_empty() {
            return Vec::new();
        }
        let found = self.setup.store.call(move |store| store.load_archived(&keys)).await;
        let found = found.unwrap_or_else(|error| {
            // Asked for again as long as the difference lasts.
            tracing::warn!(%error, "a deletion cannot be read, of which a peer has not heard");
            Vec::new()
        });
        found.into_iter().filter_map(|deletion| Some((*self.table.recall(deletion)?).clone())).collect()
    }

    /// Takes out what nodes have written after they were revoked, where that came before it was known. What held before
    /// holds again; what no node has kept of that is gone.
    async fn take_out_revoked(&mut self) {
        let identity = self.setup.identity.load_full();
        let Some(first) = identity.trust.revocations().first() else { return };
        let first_ms = first.as_secs().saturating_mul(1_000);
        let snapshot = self.table.snapshot();
        let may_be = |document: &&Arc<SignedDocument>| {
            document.stamp.millis >= first_ms && matches!(document.author.subject, Subject::Node(_))
        };
        let is_refused = |document: &&Arc<SignedDocument>| documents::verify(document, &self.authority).is_err();
        let refused: Vec<_> = snapshot
            .iter()
            .filter(may_be)
            .filter(is_refused)
            .map(|document| (document.key.clone(), document.stamp))
            .collect();
        if refused.is_empty() {
            return;
        }
        for (key, stamp) in &refused {
            tracing::warn!(%key, "taken out: its author was revoked before it wrote this");
            self.table.take_out(key);
            self.to_save.remove(key);
            let (of, kept_of) = (key.clone(), key.clone());
            let taken_out = self.setup.store.call(move |store| store.take_out(&of)).await;
            self.disk.note(&taken_out);
            let kept = self.setup.store.call(move |store| store.load_versions(&kept_of)).await.unwrap_or_default();
            let earlier = kept.into_iter().rev().map(|kept| kept.document);
            for document in earlier.filter(|document| document.stamp < *stamp) {
                if let Ok(document) = self.table.merge(document, &self.authority, wall_ms()) {
                    self.to_save.insert(document.key.clone(), document);
                    break;
                }
            }
        }
        self.save_waiting().await;
        self.publish();
    }

    /// Lets go of deletions that all members know.
    async fn forget_deleted(&mut self) {
        let before = self.table.root();
        self.table.age(wall_ms());
        let root = self.table.root();
        let rumours = self.setup.rumours.borrow().clone();
        let abroad = self.setup.abroad.borrow().clone();
        self.table.acknowledged_by(abroad.holders(&rumours, root));
        let standings = self.setup.standings.borrow().clone();
        let members = standings.iter().filter(|(_, standing)| standing.status != Status::Left);
        let forgotten = self.table.forget_deleted(&abroad.witnesses(members.map(|(node, _)| *node)));
        let is_same = forgotten.archived.is_empty() && forgotten.dropped.is_empty();
        if !is_same {
            for document in &forgotten.archived {
                self.to_save.remove(&document.key);
            }
            tracing::debug!(deletions = forgotten.archived.len(), "deletions that all members know are archived");
            let moved = move |store: &Store| store.forget_deleted(&forgotten.archived, &forgotten.dropped);
            let saved = self.setup.store.call(moved).await;
            self.disk.note(&saved);
        }
        if !is_same || before != root {
            self.publish();
        }
    }

    fn spread(&mut self, news: &[Arc<SignedDocument>], from: Option<NodeId>) {
        for document in news.iter().filter(|document| !is_token(&document.key)) {
            let what = if document.body.is_some() { "applied" } else { "deleted" };
            // At the author's time, so that it is one event however many nodes tell it.
            let (at, author) = (document.stamp.millis, &document.author);
            let events = &self.setup.telemetry.events;
            events.say_at(at, Kind::Document, &document.key, format!("{what} by {author}"));
        }
        self.setup.links.push(&Push::Documents(news.iter().map(|document| (**document).clone()).collect()), from);
        self.publish();
    }

    /// Writes documents to disk, with those that it did not take before.
    async fn save(&mut self, written: Vec<Arc<SignedDocument>>) -> Result<(), StoreError> {
        let waiting = self.to_save.values().map(|document| (document, false));
        let all = waiting.chain(written.iter().map(|document| (document, true)));
        let kept = all.map(|(document, written_here)| KeptVersion { document: (**document).clone(), written_here });
        let kept: Vec<_> = kept.collect();
        let stamps = kept.iter().map(|kept| kept.document.stamp);
        let high_water = stamps.fold(self.table.high_water(), Stamp::max);
        let saved = self.setup.store.call(move |store| store.save_documents(&kept, high_water)).await;
        if saved.is_ok() {
            self.to_save.clear();
        }
        self.disk.note(&saved);
        saved
    }

    /// Writes what waits, if the disk takes it now; else it waits on.
    async fn save_waiting(&mut self) {
        if !self.to_save.is_empty() {
            let _ = self.save(Vec::new()).await;
        }
    }

    fn pull(&self, node: NodeId) {
        let (links, myself) = (self.setup.links.clone(), self.setup.myself.clone());
        tokio::spawn(async move {
            if let Err(error) = pull(node, &links, &myself).await {
                tracing::debug!(%node, %error, "documents could not be pulled");
            }
        });
    }

    /// Stamps drafts for an author, or else this node, all or none.
    fn prepare(&mut self, author: Option<SpiffeId>, drafts: &[Draft]) -> anyhow::Result<Vec<Prepared>> {
        let author = author.map_or_else(|| this_author(&self.setup.identity.load()), Ok)?;
        check_distinct(drafts.iter().map(|draft| &draft.key))?;
        drafts.iter().try_for_each(|draft| check(&draft.key, draft.body.as_deref()))?;
        drafts.iter().map(|draft| self.prepare_one(&author, draft)).collect()
    }

    fn prepare_one(&mut self, author: &SpiffeId, draft: &Draft) -> anyhow::Result<Prepared> {
        let Draft { key, body, content, if_version } = draft;
        let current = self.table.get(key);
        let outcome = match (current, body) {
            (Some(current), Some(_)) if current.body == *body => Outcome::Unchanged,
            (Some(current), Some(body)) if content.as_ref().is_some_and(|new| self.is_same(current, body, new)) => {
                Outcome::Unchanged
            }
            (Some(_), Some(_)) => Outcome::Configured,
            (None, Some(_)) => Outcome::Created,
            (_, None) => Outcome::Deleted,
        };
        // What the mesh says already may be said again: the answer to the first time may have been lost.
        if outcome == Outcome::Unchanged {
            return Ok(Prepared { outcome, document: None });
        }
        if let Some(version) = *if_version {
            self.check_version(key, version)?;
        }
        let document = self.table.draft(key.clone(), body.clone(), author.clone(), wall_ms())?;
        Ok(Prepared { outcome, document: Some(document) })
    }

    /// Refuses a change of another version than the present one.
    fn check_version(&self, key: &DocumentKey, seen: VersionId) -> anyhow::Result<()> {
        let command = |verb: &str| {
            let namespace = key.namespace.as_ref().map_or_else(String::new, |namespace| format!(" -n {namespace}"));
            format!("`weft {verb} {} {}{namespace}", key.kind.to_lowercase(), key.name)
        };
        match self.table.get(key).map(|current| current.version().id()) {
            Some(current) if current == seen => Ok(()),
            Some(current) => bail!(
                "{key} has changed: the mesh has version {current}, and this is a change of {seen}. Look at it with {} \
                 -o yaml` and make your change to that",
                command("get")
            ),
            None => bail!(
                "{key} does not exist any more, and this is a change of version {seen}: {}` tells what became of it, \
                 and without metadata.resourceVersion it is created anew",
                command("history")
            ),
        }
    }

    /// Whether a Secret says what it says now, though with a new salt.
    fn is_same(&self, current: &SignedDocument, body: &str, new: &SecretPayload) -> bool {
        let held = self.setup.contents.borrow().clone();
        let known = Reference::of_secret(&current.key).and_then(|reference| held.contents.get(&reference));
        known.is_some_and(|known| {
            let with_known = body.replace(&new.digest().to_string(), &known.digest().to_string());
            known.data == new.data && current.body.as_deref() == Some(&with_known)
        })
    }

    /// Writes documents, all or none: in the table only once they are verified and on disk.
    async fn write(&mut self, write: Write) -> anyhow::Result<Vec<Written>> {
        let (written, documents) = match write {
            Write::Signed { documents, if_versions, .. } => {
                check_distinct(documents.iter().map(|document| &document.key))?;
                if_versions.iter().try_for_each(|(key, version)| self.check_version(key, *version))?;
                for document in &documents {
                    check(&document.key, document.body.as_deref())?;
                }
                let written = documents.iter().map(|document| {
                    let outcome = if document.body.is_some() { Outcome::Configured } else { Outcome::Deleted };
                    Written { key: document.key.clone(), outcome }
                });
                (written.collect(), documents)
            }
            Write::Drafts(drafts) => self.sign(drafts)?,
        };
        let mut checked = Vec::new();
        for document in documents {
            let (key, author) = (document.key.clone(), document.author.clone());
            checked.push(self.table.check(document, &self.authority, wall_ms()).map_err(|why| {
                self.refuse(&key, &author, None, &why);
                match why {
                    NotTaken::Old | NotTaken::Deleted => {
                        anyhow!("{key} was changed meanwhile: look at it and repeat the command")
                    }
                    why => anyhow!("{key}: {why}"),
                }
            })?);
        }
        if checked.is_empty() {
            return Ok(written);
        }
        let documents = checked.iter().map(|checked| Arc::new(checked.document().clone())).collect();
        self.save(documents)
            .await
            .context("nothing was written: make room on this node's disk and repeat the command")?;
        let news: Vec<_> = checked.into_iter().map(|checked| self.table.store(checked)).collect();
        self.spread(&news, None);
        Ok(written)
    }

    fn sign(&mut self, drafts: Vec<Draft>) -> anyhow::Result<(Vec<Written>, Vec<SignedDocument>)> {
        let identity = self.setup.identity.load_full();
        let prepared = self.prepare(Some(this_author(&identity)?), &drafts)?;
        let written =
            drafts.into_iter().zip(&prepared).map(|(draft, p)| Written { key: draft.key, outcome: p.outcome });
        let written = written.collect();
        let signed = prepared.into_iter().filter_map(|prepared| prepared.document).map(|mut document| {
            document.chain = der_chain(&identity.chain);
            document.signature = identity.key.sign(&document.signed_bytes());
            document
        });
        Ok((written, signed.collect()))
    }

    /// Has the last good version of a document hold, and remembers it beyond a restart.
    async fn hold_back(&mut self, Blamed { document, instead, why }: Blamed) {
        let is_it = |reading: &Reading| reading.in_force.as_ref().is_some_and(|one| Arc::ptr_eq(one, &document));
        let key = document.key.clone();
        let Some((stamp, reading)) = self.readings.get(&key).filter(|(_, reading)| is_it(reading)) else {
            // It has changed meanwhile, or this was said before.
            return;
        };
        let (stamp, is_second) = (*stamp, reading.held_back.is_some());
        let earlier = || async {
            let key = key.clone();
            self.setup.store.call(move |store| Ok(last_good(store, &key, stamp))).await.unwrap_or_default()
        };
        let instead = match instead {
            Some(instead) => Some(instead),
            // The version before was tried too.
            None if is_second => None,
            None => earlier().await,
        };
        let holds = if instead.is_some() { "its last good version holds" } else { "nothing of it holds" };
        tracing::error!(%key, why, "views cannot be compiled with this document; until it changes, {holds}");
        self.readings.insert(key.clone(), (stamp, Reading::held_back(&why, instead)));
        let saved = self.setup.store.call(move |store| store.hold_back(&key, stamp, BUILD, &why)).await;
        self.disk.note(&saved);
        self.publish();
    }

    fn publish(&mut self) {
        let mut tokens = BTreeMap::new();
        let mut readings = BTreeMap::new();
        for document in self.table.iter() {
            let Some(body) = &document.body else { continue };
            if is_token(&document.key) {
                if let Ok(record) = serde_json::from_str::<TokenRecord>(body) {
                    tokens.insert(record.id.clone(), record);
                }
                continue;
            }
            let reading = match self.readings.remove(&document.key) {
                Some((stamp, known)) if stamp == document.stamp => known,
                before => match read(&document.key, body, document.created) {
                    Ok(read) => Reading::of(Arc::new(read)),
                    Err(error) => {
                        // Kept and passed on all the same: a newer version of weft may understand it.
                        tracing::warn!(key = %document.key, %error, "document not understood; its last good version holds");
                        before.map(|(_, reading)| reading).unwrap_or_default().unreadable(error)
                    }
                },
            };
            readings.insert(document.key.clone(), (document.stamp, reading));
        }
        self.readings = readings;
        let read: Vec<_> = self.readings.values().filter_map(|(_, reading)| reading.in_force.clone()).collect();
        let Published { policy, tokens: known_tokens, held } = &self.setup.published;
        // A new view costs every reader something, so not for a token.
        policy.send_if_modified(|known| {
            let same = known.len() == read.len() && known.iter().zip(&read).all(|(a, b)| Arc::ptr_eq(a, b));
            if !same {
                *known = Arc::new(read);
            }
            !same
        });
        known_tokens.send_if_modified(|known| {
            let same = **known == tokens;
            if !same {
                *known = Arc::new(tokens);
            }
            !same
        });
        held.send_replace(Arc::new(Held {
            documents: self.table.snapshot(),
            readings: self.readings.clone(),
            high_water: self.table.high_water(),
            root: self.table.root(),
        }));
    }
}

/// Asks a peer for what is missing here, until it has no news.
async fn pull(node: NodeId, links: &links::Handle, myself: &Mailbox<Msg>) -> anyhow::Result<()> {
    let mut pull = Pull::default();
    loop {
        let have = myself.ask(Msg::Have).await?;
        let Response::Documents(documents) = links.request(node, &Request::PullDocuments { have }).await? else {
            bail!("the peer answered something else than documents");
        };
        let news = myself.ask(|reply| Msg::Merge(documents, node, reply)).await?;
        if !pull.again(news) {
            return Ok(());
        }
    }
}

/// This node as an author.
fn this_author(identity: &NodeIdentity) -> anyhow::Result<SpiffeId> {
    if identity.grant.role < Role::Admin {
        bail!(
            "this node may not write documents (its role is {}): name an operator's credential with --credential, or \
             use a node of role admin or ca",
            identity.grant.role
        );
    }
    Ok(SpiffeId::node(identity.trust_domain().clone(), identity.name.clone()))
}

/// Reads a document as [`parse_stored`], and also lives if that panics: what all nodes hold must not end any.
fn read(key: &DocumentKey, body: &str, created: Stamp) -> Result<Document, DocumentError> {
    // Unwind safe: nothing outlives it but what it returns.
    catch_unwind(|| parse_stored(key, body, created)).unwrap_or_else(|payload| {
        let problem = Problem::Invalid(format!("reading it panics: {}", panic_message(payload.as_ref())));
        let document = Some(format!("{} {}", key.kind, key.name));
        Err(DocumentError { at: Position::default(), document, path: String::new(), problem })
    })
}

/// The version of a document that held before this one, if this build can read it.
fn last_good(store: &Store, key: &DocumentKey, before: Stamp) -> Option<Arc<Document>> {
    let mut kept = store.load_versions(key).unwrap_or_default();
    kept.retain(|kept| kept.document.stamp < before);
    let earlier = kept.iter().rev().map_while(|kept| Some((kept.document.body.as_deref()?, kept.document.created)));
    earlier.into_iter().find_map(|(body, created)| read(key, body, created).ok()).map(Arc::new)
}

/// How those documents are read that an earlier life of this build could not compile views with.
fn held_back(store: &Store, table: &DocumentTable) -> Vec<(DocumentKey, (Stamp, Reading))> {
    let rows = store.load_held_back(BUILD).unwrap_or_else(|error| {
        tracing::warn!(%error, "it cannot be read which documents are held back; it is found out anew");
        Vec::new()
    });
    let is_present = |key: &DocumentKey, stamp| table.get(key).is_some_and(|document| document.stamp == stamp);
    let present = rows.into_iter().filter(|(key, stamp, _)| is_present(key, *stamp));
    let reading = |(key, stamp, why): (DocumentKey, Stamp, String)| {
        let instead = last_good(store, &key, stamp);
        (key, (stamp, Reading::held_back(&why, instead)))
    };
    present.map(reading).collect()
}

/// Refuses what no node would understand.
fn check(key: &DocumentKey, body: Option<&str>) -> anyhow::Result<()> {
    if let Some(body) = body.filter(|_| !is_token(key)) {
        read(key, body, Stamp::default()).with_context(|| key.to_string())?;
    }
    Ok(())
}

/// A document given twice has no order that its author could rely on.
fn check_distinct<'a>(keys: impl Iterator<Item = &'a DocumentKey>) -> anyhow::Result<()> {
    let mut seen = BTreeSet::new();
    for key in keys {
        if !seen.insert(key) {
            bail!("{key} is given twice: remove one of them");
        }
    }
    Ok(())
}

fn by_key(
    documents: impl IntoIterator<Item = Arc<SignedDocument>>,
) -> impl Iterator<Item = (DocumentKey, Arc<SignedDocument>)> {
    documents.into_iter().map(|document| (document.key.clone(), document))
}

/// All documents on disk, and the clock's mark.
fn load(store: &Store) -> Result<(Vec<SignedDocument>, Stamp), StoreError> {
    let stored = store.load_documents()?;
    if stored.skipped > 0 {
        tracing::warn!(skipped = stored.skipped, "documents on disk could not be read; peers have them");
    }
    Ok((stored.rows, store.high_water()?))
}

impl Actor for DocumentsActor {
    type Msg = Msg;

    async fn run(mut self, inbox: &mut Inbox<Msg>) -> anyhow::Result<()> {
        self.publish();
        let mut identity_changes = self.setup.identity_changes.clone();
        self.take_out_revoked().await;
        let mut tick = tokio::time::interval(SAVE_AGAIN);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut forget = tokio::time::interval(FORGET_EVERY);
        forget.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                changed = identity_changes.changed() => {
                    changed?;
                    self.take_out_revoked().await;
                }
                _ = forget.tick() => self.forget_deleted().await,
                _ = tick.tick(), if !self.to_save.is_empty() => self.save_waiting().await,
                message = inbox.recv() => match message {
                    Some(Msg::Merge(documents, from, reply)) => {
                        let news = self.merge(documents, Some(from)).await;
                        let _ = reply.send(news);
                    }
                    Some(Msg::Have(reply)) => drop(reply.send(self.table.have())),
                    Some(Msg::PullFrom(node)) => self.pull(node),
                    Some(Msg::HoldBack(blamed)) => self.hold_back(blamed).await,
                    Some(Msg::MissingFor(have, reply)) => {
                        self.recall(self.table.unheard_deletions(&have)).await;
                        let missing = self.table.missing_for(&have, MAX_ANSWER);
                        let missing = missing.iter().map(|document| (**document).clone()).collect();
                        let _ = reply.send((missing, self.table.is_behind(&have)));
                    }
                    Some(Msg::Prepare(Prepare { author, drafts }, reply)) => {
                        let _ = reply.send(self.prepare(author, &drafts));
                    }
                    Some(Msg::Write(write, reply)) => {
                        let written = self.write(write).await;
                        let _ = reply.send(written);
                    }
                    None => {
                        self.save_waiting().await;
                        return Ok(());
                    }
                },
            }
        }
    }
}

#[cfg(test)]
mod tests;
