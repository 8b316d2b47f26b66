//! The `documents` actor: what operators told the mesh. It stamps, signs and spreads what is written here, takes in
//! what was written elsewhere (verified before it is stored or passed on), and answers peers that missed some.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};
use weft_ca::token::{TokenClaims, TokenId};
use weft_discovery::documents::{DocumentTable, Effect, Expect, JOIN_TOKEN_KIND, WEFT_GROUP};
use weft_policy::document::{Document, parse_stored};
use weft_wire::{
    document::{DocumentKey, DocumentVersion, SignedDocument, Stamp},
    frame::{MAX_FRAME_LEN, Push, Request, Response},
    id::{AccountPattern, NodeId, NodeName, Role, SpiffeId},
};

use crate::{
    actors::links,
    admin::api::{self, Draft, Outcome, Prepare, Prepared, Write, Written},
    identity::{IdentityReader, MeshAuthority, der_chain, wall_ms},
    store::Store,
    supervisor::{Actor, Inbox, Mailbox},
    telemetry::{Reason, Telemetry},
};

/// Documents in one answer to a pull; the puller asks again for the rest.
const MAX_ANSWER: usize = MAX_FRAME_LEN / 2;

/// A join token that was issued, as the mesh remembers it: without the part that lets anybody in.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    Merge(Vec<SignedDocument>, Option<NodeId>),
    PullFrom(NodeId),
    MissingFor(Vec<(DocumentKey, DocumentVersion)>, oneshot::Sender<Vec<SignedDocument>>),
    Prepare(Prepare, oneshot::Sender<anyhow::Result<Vec<Prepared>>>),
    Write(Write, oneshot::Sender<anyhow::Result<Vec<Written>>>),
    List(oneshot::Sender<Vec<Arc<SignedDocument>>>),
}

/// What readers need of the documents.
#[derive(Clone)]
pub struct Published {
    /// What the policy engine understands of them.
    pub policy: Arc<watch::Sender<Arc<Vec<Arc<Document>>>>>,
    pub tokens: Arc<watch::Sender<Tokens>>,
    /// The digest of all, equal on nodes that hold the same.
    pub root: Arc<watch::Sender<[u8; 16]>>,
}

#[derive(Clone)]
pub struct Handle {
    mailbox: Mailbox<Msg>,
    tokens: watch::Receiver<Tokens>,
    root: watch::Receiver<[u8; 16]>,
}

impl Handle {
    pub fn new(mailbox: Mailbox<Msg>, published: &Published) -> Self {
        Self { mailbox, tokens: published.tokens.subscribe(), root: published.root.subscribe() }
    }

    /// The join tokens that were issued and not forgotten, by id.
    pub fn tokens(&self) -> &watch::Receiver<Tokens> {
        &self.tokens
    }
    pub fn root(&self) -> [u8; 16] {
        *self.root.borrow()
    }

    /// Takes in documents from a peer. When the actor is behind they are dropped, counted, and pulled later.
    pub fn merge(&self, documents: Vec<SignedDocument>, from: Option<NodeId>) {
        let _ = self.mailbox.try_send(Msg::Merge(documents, from));
    }

    /// Asks a peer for what it has and this node has not.
    pub fn pull_from(&self, node: NodeId) {
        // Asked again as long as the difference lasts.
        let _ = self.mailbox.try_send(Msg::PullFrom(node));
    }

    pub async fn missing_for(&self, have: Vec<(DocumentKey, DocumentVersion)>) -> anyhow::Result<Vec<SignedDocument>> {
        Ok(self.mailbox.ask(|reply| Msg::MissingFor(have, reply)).await?)
    }

    /// Stamps what an author is about to sign.
    pub async fn prepare(&self, prepare: Prepare) -> anyhow::Result<Vec<Prepared>> {
        self.mailbox.ask(|reply| Msg::Prepare(prepare, reply)).await?
    }

    /// Gives documents to the mesh: on this node's disk before it returns, on its way to the others.
    pub async fn write(&self, write: Write) -> anyhow::Result<Vec<Written>> {
        self.mailbox.ask(|reply| Msg::Write(write, reply)).await?
    }

    pub async fn record_token(&self, record: TokenRecord) -> anyhow::Result<()> {
        let draft = Draft { key: TokenRecord::key(&record.id), body: Some(serde_json::to_string(&record)?) };
        self.write(Write::Drafts(vec![draft])).await.map(drop)
    }

    /// Deletes the records of tokens that ended long ago.
    pub async fn forget_tokens(&self, tokens: &[TokenId]) -> anyhow::Result<()> {
        let draft = |id: &TokenId| Draft { key: TokenRecord::key(&id.to_string()), body: None };
        match tokens {
            [] => Ok(()),
            tokens => self.write(Write::Drafts(tokens.iter().map(draft).collect())).await.map(drop),
        }
    }

    /// All documents but weft's own records, by key.
    pub async fn list(&self) -> anyhow::Result<Vec<api::Document>> {
        let documents = self.mailbox.ask(Msg::List).await?;
        let listed = documents.iter().filter(|document| !is_token(&document.key)).filter_map(|document| {
            Some(api::Document {
                key: document.key.clone(),
                author: document.author.to_string(),
                created_millis: document.created.millis,
                updated_millis: document.stamp.millis,
                body: serde_json::from_str(document.body.as_ref()?).ok()?,
            })
        });
        Ok(listed.collect())
    }
}

/// What stays the same over the actor's restarts.
#[derive(Clone)]
pub struct Setup {
    pub identity: IdentityReader,
    pub published: Published,
    pub store: Store,
    pub links: links::Handle,
    pub myself: Mailbox<Msg>,
    pub telemetry: Telemetry,
}

pub struct DocumentsActor {
    setup: Setup,
    authority: MeshAuthority,
    table: DocumentTable,
    /// The policy documents as they were read, with the stamp of the newest; one that cannot be read keeps its last
    /// good version, if there was one.
    policy: BTreeMap<DocumentKey, (Stamp, Option<Arc<Document>>)>,
}

impl DocumentsActor {
    /// Begins with what is on disk.
    pub fn new(setup: Setup) -> anyhow::Result<Self> {
        let stored = setup.store.load_documents()?;
        if stored.skipped > 0 {
            tracing::warn!(skipped = stored.skipped, "documents on disk could not be read; peers have them");
        }
        let table = DocumentTable::restore(stored.rows, setup.store.high_water()?);
        let authority = MeshAuthority(setup.identity.clone());
        Ok(Self { setup, authority, table, policy: BTreeMap::new() })
    }

    /// Takes in documents, stores the new ones and passes them on. Returns how many were refused, and why the first.
    async fn merge(&mut self, documents: Vec<SignedDocument>, from: Option<NodeId>) -> anyhow::Result<Vec<String>> {
        let (mut news, mut refusals) = (Vec::new(), Vec::new());
        for document in documents {
            let (key, author) = (document.key.clone(), document.author.clone());
            match self.table.merge(document, &self.authority, wall_ms()) {
                Effect::New { document, .. } => news.push((*document).clone()),
                Effect::Old => {}
                Effect::Quarantined(ahead) => refusals.push((key, author, "quarantined", ahead.to_string())),
                Effect::Refused(refusal) => refusals.push((key, author, refusal.label(), refusal.to_string())),
            }
        }
        for (key, author, reason, why) in &refusals {
            self.setup.telemetry.documents_refused.get_or_create(&Reason { reason }).inc();
            tracing::warn!(%key, %author, from = from.map(tracing::field::display), why, "document refused");
        }
        if !news.is_empty() {
            let (saved, high_water) = (news.clone(), self.table.high_water());
            self.setup.store.call(move |store| store.save_documents(&saved, high_water)).await?;
            self.setup.links.push(&Push::Documents(news), from);
            self.publish();
        }
        Ok(refusals.into_iter().map(|(key, _, _, why)| format!("{key}: {why}")).collect())
    }

    fn pull(&self, node: NodeId) {
        let (links, myself, have) = (self.setup.links.clone(), self.setup.myself.clone(), self.table.have());
        tokio::spawn(async move {
            match links.request(node, &Request::PullDocuments { have }).await {
                Ok(Response::Documents(documents)) => {
                    let _ = myself.send(Msg::Merge(documents, Some(node))).await;
                }
                Ok(_) => tracing::debug!(%node, "peer answered something else than documents"),
                Err(error) => tracing::debug!(%node, %error, "documents could not be pulled"),
            }
        });
    }

    /// Stamps drafts for an author, all or none.
    fn prepare(&mut self, author: &SpiffeId, drafts: &[Draft]) -> anyhow::Result<Vec<Prepared>> {
        drafts.iter().try_for_each(|Draft { key, body }| check(key, body.as_deref()))?;
        drafts.iter().map(|draft| self.prepare_one(author, draft)).collect()
    }

    fn prepare_one(&mut self, author: &SpiffeId, Draft { key, body }: &Draft) -> anyhow::Result<Prepared> {
        let current = self.table.get(key);
        let outcome = match (current, body) {
            (Some(current), Some(_)) if current.body == *body => Outcome::Unchanged,
            (Some(_), Some(_)) => Outcome::Configured,
            (None, Some(_)) => Outcome::Created,
            (_, None) => Outcome::Deleted,
        };
        let document = match outcome {
            Outcome::Unchanged => None,
            _ => Some(self.table.draft(key.clone(), body.clone(), author.clone(), Expect::Anything, wall_ms())?),
        };
        Ok(Prepared { outcome, document })
    }

    async fn write(&mut self, write: Write) -> anyhow::Result<Vec<Written>> {
        let (written, signed) = match write {
            Write::Signed(documents) => {
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
        let refusals = self.merge(signed, None).await?;
        match refusals.first() {
            None => Ok(written),
            Some(first) => bail!("{first}"),
        }
    }

    fn sign(&mut self, drafts: Vec<Draft>) -> anyhow::Result<(Vec<Written>, Vec<SignedDocument>)> {
        let identity = self.setup.identity.load_full();
        if identity.grant.role < Role::Admin {
            bail!(
                "this node may not write documents (its role is {}): name an operator's credential with --credential, \
                 or use a node of role admin or ca",
                identity.grant.role
            );
        }
        let author = SpiffeId::node(identity.trust_domain().clone(), identity.name.clone());
        let prepared = self.prepare(&author, &drafts)?;
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

    fn publish(&mut self) {
        let mut tokens = BTreeMap::new();
        let mut policy = BTreeMap::new();
        for document in self.table.iter() {
            let Some(body) = &document.body else { continue };
            if is_token(&document.key) {
                if let Ok(record) = serde_json::from_str::<TokenRecord>(body) {
                    tokens.insert(record.id.clone(), record);
                }
                continue;
            }
            let read = match self.policy.remove(&document.key) {
                Some((stamp, known)) if stamp == document.stamp => known,
                before => match parse_stored(&document.key, body, document.created) {
                    Ok(read) => Some(Arc::new(read)),
                    Err(error) => {
                        // Kept and passed on all the same: a newer version of weft may understand it.
                        tracing::warn!(key = %document.key, %error, "document not understood; its last good version holds");
                        before.and_then(|(_, last_good)| last_good)
                    }
                },
            };
            policy.insert(document.key.clone(), (document.stamp, read));
        }
        self.policy = policy;
        let read = self.policy.values().filter_map(|(_, document)| document.clone()).collect();
        self.setup.published.policy.send_replace(Arc::new(read));
        self.setup.published.tokens.send_replace(Arc::new(tokens));
        self.setup.published.root.send_replace(self.table.root());
    }
}

/// Refuses what no node would understand.
fn check(key: &DocumentKey, body: Option<&str>) -> anyhow::Result<()> {
    if let Some(body) = body.filter(|_| !is_token(key)) {
        parse_stored(key, body, Stamp::default()).with_context(|| key.to_string())?;
    }
    Ok(())
}

impl Actor for DocumentsActor {
    type Msg = Msg;

    async fn run(mut self, inbox: &mut Inbox<Msg>) -> anyhow::Result<()> {
        self.publish();
        while let Some(message) = inbox.recv().await {
            match message {
                Msg::Merge(documents, from) => {
                    self.merge(documents, from).await?;
                }
                Msg::PullFrom(node) => self.pull(node),
                Msg::MissingFor(have, reply) => {
                    let missing = self.table.missing_for(&have, MAX_ANSWER);
                    let _ = reply.send(missing.iter().map(|document| (**document).clone()).collect());
                }
                Msg::Prepare(Prepare { author, drafts }, reply) => {
                    let _ = reply.send(self.prepare(&author, &drafts));
                }
                Msg::Write(write, reply) => {
                    let written = self.write(write).await;
                    let _ = reply.send(written);
                }
                Msg::List(reply) => {
                    let _ = reply.send(self.table.iter().cloned().collect());
                }
            }
        }
        Ok(())
    }
}
