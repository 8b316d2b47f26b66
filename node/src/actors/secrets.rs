//! The `secrets` actor: the contents of Secrets. It keeps those that this node may have, encrypted on disk, fetches
//! those that it lacks, and wipes those that it may have no longer. Nodes that may write documents keep all, so that
//! a Secret outlives any host; others have what documents make them need ([`needed_by`]).

mod fetch;
mod shelf;

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, bail, ensure};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use weft_ca::trust::PeerIdentity;
use weft_discovery::liveness::Status;
use weft_policy::{
    document::Document,
    secrets::{Contents, Reference, needed_by},
};
use weft_wire::{
    document::{DocumentKey, SignedDocument},
    frame::{Request, Response},
    id::{NodeName, Role},
    secret::{SecretDigest, SecretPayload},
};

use self::{fetch::Fetches, shelf::Shelf};
use crate::{
    actors::{
        documents::{self, SecretState},
        facts, links,
        membership::Standings,
        refresh::until,
    },
    admin::api::Draft,
    identity::{IdentityReader, MeshAuthority},
    supervisor::{Actor, Inbox, Mailbox},
    telemetry::{Reason, Telemetry},
    vault::Vault,
};

/// Keepers that are asked in turn to take a Secret.
const MAX_KEEPERS_ASKED: usize = 3;

pub enum Msg {
    /// Contents of documents that are about to be written.
    Hold(Vec<(DocumentKey, SecretPayload)>, oneshot::Sender<anyhow::Result<()>>),
    Fetched(Reference, SecretDigest, Option<Box<(DocumentKey, SecretPayload)>>),
}

/// What this node has of Secrets.
#[derive(Debug, Default)]
pub struct Held {
    /// All that it keeps, as far as it is what the documents say now or said last.
    pub contents: Contents,
    /// Those that it should have in their present version and has not.
    pub missing: Vec<Reference>,
}

/// What readers need. It outlives the actor.
#[derive(Clone, Default)]
pub struct Published {
    pub held: Arc<watch::Sender<Arc<Held>>>,
    /// What this node itself needs: what a view may use. A keeper keeps more.
    pub in_use: Arc<watch::Sender<Arc<Contents>>>,
}

/// What stays the same over the actor's restarts.
#[derive(Clone)]
pub struct Setup {
    pub name: NodeName,
    pub vault: Vault,
    pub identity: IdentityReader,
    pub documents: watch::Receiver<Arc<documents::Held>>,
    pub policy: watch::Receiver<Arc<Vec<Arc<Document>>>>,
    pub facts: watch::Receiver<Arc<facts::Published>>,
    pub standings: watch::Receiver<Standings>,
    pub published: Published,
    pub links: links::Handle,
    pub myself: Mailbox<Msg>,
    pub telemetry: Telemetry,
}

#[derive(Clone)]
pub struct Handle(Setup);

impl Handle {
    pub fn new(setup: Setup) -> Self {
        Self(setup)
    }

    pub fn held(&self) -> Arc<Held> {
        self.0.published.held.borrow().clone()
    }

    /// Whether this node keeps every Secret.
    fn is_keeper(&self) -> bool {
        self.0.identity.load().grant.role >= Role::Admin
    }

    /// Puts the contents of documents that are about to be written where the mesh finds them: on this node's disk if
    /// it keeps Secrets, or else on that of a node that does.
    pub async fn secure(&self, documents: &[SignedDocument], contents: Vec<SecretPayload>) -> anyhow::Result<()> {
        let paired = paired(documents.iter().map(key_and_body), contents)?;
        match (paired.is_empty(), self.is_keeper()) {
            (true, _) => Ok(()),
            (false, true) => self.hold(paired).await,
            (false, false) => self.hand_over(documents, paired).await,
        }
    }

    /// As [`Self::secure`], for documents that this node signs itself.
    pub async fn secure_drafts(&self, drafts: &[Draft]) -> anyhow::Result<()> {
        let contents = drafts.iter().filter_map(|draft| draft.content.clone()).collect();
        let paired = paired(drafts.iter().map(|draft| (&draft.key, draft.body.as_deref())), contents)?;
        // What a node may not sign is refused for that.
        if paired.is_empty() || !self.is_keeper() { Ok(()) } else { self.hold(paired).await }
    }

    /// Keeps contents for documents that come soon.
    async fn hold(&self, contents: Vec<(DocumentKey, SecretPayload)>) -> anyhow::Result<()> {
        self.0.myself.ask_outcome(|reply| Msg::Hold(contents, reply)).await?
    }

    async fn hand_over(
        &self,
        documents: &[SignedDocument],
        contents: Vec<(DocumentKey, SecretPayload)>,
    ) -> anyhow::Result<()> {
        let of_secret = |document: &&SignedDocument| contents.iter().any(|(key, _)| *key == document.key);
        let documents = documents.iter().filter(of_secret).cloned().collect();
        let contents = contents.into_iter().map(|(_, content)| content).collect();
        let request = Request::KeepSecrets { documents, contents };
        let mut why = String::from("none is alive");
        for peer in fetch::keepers(&self.0).into_iter().take(MAX_KEEPERS_ASKED) {
            match self.0.links.request_at(peer.name.id(), peer.address, &request).await {
                Ok(Response::Kept) => return Ok(()),
                Ok(_) => why = format!("{} did something else", peer.name),
                Err(error) => why = format!("{}: {error}", peer.name),
            }
        }
        bail!("nothing was written, as no node of role admin or ca took the Secret ({why}): apply it on one of these")
    }

    /// Takes in the contents of documents that a peer is about to write.
    pub async fn keep(&self, documents: Vec<SignedDocument>, contents: Vec<SecretPayload>) -> anyhow::Result<()> {
        ensure!(self.is_keeper(), "this node keeps no Secrets: its role is below admin");
        // Before anything reaches the disk: only who may write documents may have a Secret kept.
        let authority = MeshAuthority(self.0.identity.clone());
        for document in &documents {
            weft_discovery::documents::verify(document, &authority)?;
        }
        self.hold(paired(documents.iter().map(key_and_body), contents)?).await
    }

    /// A content, for a peer that may have it.
    pub fn answer(
        &self,
        peer: &PeerIdentity,
        key: &DocumentKey,
        digest: SecretDigest,
    ) -> anyhow::Result<SecretPayload> {
        let refuse = |reason: &'static str, why: &str| {
            self.0.telemetry.secrets_refused.get_or_create(&Reason { reason }).inc();
            anyhow::anyhow!("{key}: {why}")
        };
        let reference = Reference::of_secret(key).ok_or_else(|| refuse("no_secret", "is no Secret"))?;
        if !self.may_have(peer, &reference) {
            return Err(refuse("not_needed", "no document says that you need it"));
        }
        let held = self.held();
        let content = held.contents.get(&reference).ok_or_else(|| refuse("not_held", "is not held here"))?;
        if content.digest() != digest {
            return Err(refuse("other_version", "is held in another version"));
        }
        Ok(content.as_ref().clone())
    }

    fn may_have(&self, peer: &PeerIdentity, reference: &Reference) -> bool {
        if peer.grant.as_ref().is_some_and(|grant| grant.role >= Role::Admin) {
            return true;
        }
        let facts = self.0.facts.borrow().clone();
        let policy = self.0.policy.borrow().clone();
        let node = peer.id.as_node().and_then(|name| facts.nodes.get(name));
        node.is_some_and(|node| needed_by(&node.record, &policy).contains(reference))
    }
}

fn key_and_body(document: &SignedDocument) -> (&DocumentKey, Option<&str>) {
    (&document.key, document.body.as_deref())
}

/// The contents with the documents that commit to them.
///
/// # Errors
/// If a Secret has no content here, or a content no Secret.
fn paired<'d>(
    documents: impl Iterator<Item = (&'d DocumentKey, Option<&'d str>)>,
    contents: Vec<SecretPayload>,
) -> anyhow::Result<Vec<(DocumentKey, SecretPayload)>> {
    let mut by_digest: BTreeMap<SecretDigest, SecretPayload> = BTreeMap::new();
    for content in contents {
        ensure!(content.is_bounded(), "a Secret's content is out of bounds");
        by_digest.insert(content.digest(), content);
    }
    let mut paired = Vec::new();
    for (key, body) in documents {
        let Some(head) = documents::secret_head(key, body)? else { continue };
        let content = head.content.digest.and_then(|digest| by_digest.remove(&digest));
        let content = content.with_context(|| format!("{key} comes without its content"))?;
        ensure!(head.content.describes(&content), "{key} says something else of its content");
        paired.push((key.clone(), content));
    }
    ensure!(by_digest.is_empty(), "a content comes without its Secret");
    Ok(paired)
}

pub struct SecretsActor {
    setup: Setup,
    shelf: Shelf,
    fetches: Fetches,
}

impl SecretsActor {
    /// Begins with what is on disk.
    pub fn new(setup: Setup) -> Self {
        let shelf = Shelf::new(setup.vault.clone(), Instant::now());
        Self { setup, shelf, fetches: Fetches::default() }
    }

    /// Compares what there is with what there should be.
    fn sync(&mut self, now: Instant) {
        let documents = self.setup.documents.borrow_and_update().clone();
        let policy = self.setup.policy.borrow_and_update().clone();
        let facts = self.setup.facts.borrow_and_update().clone();
        if !documents.is_loaded() {
            // What the documents say is not known yet, and must not be taken for nothing.
            return;
        }
        let needed = match facts.nodes.get(&self.setup.name) {
            Some(node) => needed_by(&node.record, &policy),
            None => Default::default(),
        };
        let is_keeper = self.setup.identity.load().grant.role >= Role::Admin;
        let states: BTreeMap<Reference, SecretState> = documents.secrets().collect();
        let wanted = |reference: &Reference| is_keeper || needed.contains(reference);
        let missing = self.shelf.sync(&states, wanted, now);
        let digest_of = |reference: &Reference| match states.get(reference) {
            Some(SecretState::Sealed(digest)) => Some(*digest),
            _ => None,
        };
        self.fetches.want(missing.iter().filter_map(|one| Some((one.clone(), digest_of(one)?))), now);
        let contents = self.shelf.contents();
        let in_use: Contents = contents.iter().filter(|(one, _)| needed.contains(one)).map(owned).collect();
        self.setup.published.in_use.send_if_modified(|known| {
            let is_same = known.len() == in_use.len()
                && known.iter().zip(&in_use).all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(a.1, b.1));
            if !is_same {
                *known = Arc::new(in_use);
            }
            !is_same
        });
        self.setup.published.held.send_replace(Arc::new(Held { contents, missing }));
    }

    async fn hold(&mut self, contents: Vec<(DocumentKey, SecretPayload)>) -> anyhow::Result<()> {
        let vault = self.setup.vault.clone();
        let saved = tokio::task::spawn_blocking(move || {
            contents.iter().try_for_each(|(key, content)| vault.save(key, content))?;
            Ok::<_, anyhow::Error>(contents)
        });
        let saved = saved.await?.context("nothing was written: a Secret cannot be kept on this node's disk")?;
        saved.into_iter().for_each(|(key, content)| self.shelf.put(&key, content, Instant::now()));
        Ok(())
    }

    async fn fetched(
        &mut self,
        reference: Reference,
        digest: SecretDigest,
        fetched: Option<Box<(DocumentKey, SecretPayload)>>,
    ) {
        let now = Instant::now();
        match fetched {
            None => self.fetches.failed(&reference, digest, now),
            Some(content) => {
                self.fetches.done(&reference);
                if let Err(error) = self.hold(vec![*content]).await {
                    tracing::error!(%reference, error = format!("{error:#}"), "a Secret cannot be kept");
                    self.fetches.failed(&reference, digest, now);
                }
                self.sync(now);
            }
        }
    }

    fn fetch_due(&mut self) {
        let held = self.setup.documents.borrow().clone();
        for (reference, digest) in self.fetches.due(Instant::now()) {
            // What the documents say no longer is forgotten by the next sync.
            if let Some(head) = held.secret(&reference) {
                tokio::spawn(fetch::fetch(self.setup.clone(), reference, digest, head.clone()));
            }
        }
    }
}

fn owned<V: Clone>((reference, value): (&Reference, &V)) -> (Reference, V) {
    (reference.clone(), value.clone())
}

impl Actor for SecretsActor {
    type Msg = Msg;

    async fn run(mut self, inbox: &mut Inbox<Msg>) -> anyhow::Result<()> {
        self.sync(Instant::now());
        loop {
            let due = [self.shelf.expiry(), self.fetches.next_due()].into_iter().flatten().min();
            let Setup { documents, policy, facts, standings, .. } = &mut self.setup;
            tokio::select! {
                biased;
                () = until(due) => {
                    if self.shelf.expiry().is_some_and(|expiry| expiry <= Instant::now()) {
                        self.sync(Instant::now());
                    }
                    self.fetch_due();
                }
                changed = documents.changed() => {
                    changed?;
                    self.sync(Instant::now());
                    self.fetch_due();
                }
                changed = policy.changed() => {
                    changed?;
                    self.sync(Instant::now());
                    self.fetch_due();
                }
                changed = facts.changed() => {
                    changed?;
                    self.sync(Instant::now());
                }
                changed = standings.changed() => {
                    changed?;
                    let is_back = standings.borrow_and_update().values().any(|one| one.status == Status::Alive);
                    if is_back {
                        // Somebody may be there who was not.
                        self.fetches.retry(Instant::now());
                    }
                }
                message = inbox.recv() => match message {
                    Some(Msg::Hold(contents, reply)) => {
                        let held = self.hold(contents).await;
                        let _ = reply.send(held);
                        self.sync(Instant::now());
                    }
                    Some(Msg::Fetched(reference, digest, fetched)) => {
                        self.fetched(reference, digest, fetched).await;
                    }
                    None => return Ok(()),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests;
