//! What operators tell the mesh: whole documents, each signed and stamped, the latest stamp wins. Every node stores
//! every document, so they outlive their authors.
//!
//! [`DocumentTable::merge`] gives the same table in whatever order and however often documents arrive. A deletion is a
//! version without a body, and is kept lest a node that was away bring the document back: for [`KEEP_DELETED`], and until
//! every member has acknowledged it, by a digest that it is part of or that came later. Then it goes to an archive that
//! the caller keeps, with no part in digests and pulls any more, of which the table knows the versions alone. Whoever
//! comes with something older then, after whatever time, is answered from there ([`DocumentTable::recall`]).

mod digest;
mod rules;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use weft_wire::{
    document::{DocumentKey, DocumentVersion, SignedDocument, Stamp},
    id::{NodeId, SpiffeId},
};

use self::digest::SetDigest;
pub use self::rules::{JOIN_TOKEN_KIND, REVOCATION_KIND, WEFT_GROUP, verify, verify_tap};
use crate::{
    authority::{Authority, Refusal},
    clock::{self, HybridClock, TooFarAhead},
};

/// A deletion stays in the table for so long at least, by its stamp.
pub const KEEP_DELETED: Duration = Duration::from_secs(24 * 3600);
/// Deletions in the archive. Of older ones nothing is known any more.
pub const MAX_ARCHIVED: usize = 10_000;
/// Encoded length of a document's small fields, rounded up.
const DOCUMENT_OVERHEAD: usize = 256;

/// Why a document was not taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    #[error("not newer than what is held")]
    Old,
    /// Older than a deletion in the archive: that is to be recalled, so that whoever has this hears of it.
    #[error("older than its deletion")]
    Deleted,
    /// Stamped by a clock that runs ahead, or this one is behind. It comes again when it is time.
    #[error(transparent)]
    Quarantined(TooFarAhead),
    /// Not to be passed on either; to be counted against the link that it came by.
    #[error(transparent)]
    Refused(Refusal),
}

/// A document that was verified and is newer than what the table held then.
#[derive(Clone, Debug)]
pub struct Checked {
    document: SignedDocument,
    version: DocumentVersion,
}

impl Checked {
    pub fn document(&self) -> &SignedDocument {
        &self.document
    }
}

/// Why a document cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DraftError {
    #[error("{0} does not exist: `weft get all -A` lists what there is")]
    NotFound(DocumentKey),
    #[error(transparent)]
    Clock(#[from] TooFarAhead),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

#[derive(Debug)]
struct Held {
    document: Arc<SignedDocument>,
    version: DocumentVersion,
    /// A deletion that is past its time: no part of the digest, which changes at the same time everywhere.
    is_past: bool,
    /// The count of all that was taken in, when it was.
    taken: u64,
}

/// All documents that this node holds, deletions among them.
#[derive(Debug)]
pub struct DocumentTable {
    documents: BTreeMap<DocumentKey, Held>,
    clock: HybridClock,
    digest: SetDigest,
    /// The versions of the deletions in the archive.
    archived: BTreeMap<DocumentKey, DocumentVersion>,
    taken: u64,
    /// [`DocumentTable::taken`] when a member last had the same digest: all that was taken in until then it has.
    acknowledged: BTreeMap<NodeId, u64>,
    keep_deleted: Duration,
}

impl Default for DocumentTable {
    fn default() -> Self {
        Self {
            documents: BTreeMap::new(),
            clock: HybridClock::default(),
            digest: SetDigest::default(),
            archived: BTreeMap::new(),
            taken: 0,
            acknowledged: BTreeMap::new(),
            keep_deleted: KEEP_DELETED,
        }
    }
}

/// What has left the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Deletions for the archive.
    pub archived: Vec<Arc<SignedDocument>>,
    /// What is to leave the archive, which would else grow without end.
    pub dropped: Vec<DocumentKey>,
}

impl DocumentTable {
    /// With the deletions that an earlier table let go into the archive, and with another time for which they are kept
    /// than [`KEEP_DELETED`].
    pub fn with_archive(
        mut self,
        archived: impl IntoIterator<Item = (DocumentKey, DocumentVersion)>,
        keep_deleted: Duration,
    ) -> Self {
        self.keep_deleted = keep_deleted;
        self.archived = archived.into_iter().filter(|(key, _)| !self.documents.contains_key(key)).collect();
        self
    }

    /// A table of what was on disk, verified before it was stored, and the clock's mark stored with it.
    pub fn restore(documents: impl IntoIterator<Item = SignedDocument>, high_water: Stamp) -> Self {
        let mut table = Self { clock: HybridClock::restored(high_water), ..Self::default() };
        for document in documents {
            let version = document.version();
            if table.is_newer(&document.key, &version) {
                table.insert(Arc::new(document), version);
            }
        }
        table
    }

    /// The clock's mark, to be stored in one transaction with what was merged.
    pub fn high_water(&self) -> Stamp {
        self.clock.high_water()
    }

    /// The next version of a document, or its deletion if `body` is `None`: to be signed by `author` and merged, which
    /// checks whether the author may write it. `wall_ms` is Unix milliseconds.
    ///
    /// # Errors
    /// [`DraftError`] if there is nothing to delete, the clock cannot be trusted, or every node would refuse the
    /// document's form.
    pub fn draft(
        &mut self,
        key: DocumentKey,
        body: Option<String>,
        author: SpiffeId,
        wall_ms: u64,
    ) -> Result<SignedDocument, DraftError> {
        let created = self.get(&key).map(|document| document.created);
        if created.is_none() && body.is_none() {
            return Err(DraftError::NotFound(key));
        }
        let stamp = self.clock.now(wall_ms)?;
        let created = created.unwrap_or(stamp);
        let draft = SignedDocument { key, stamp, created, author, body, chain: Vec::new(), signature: Vec::new() };
        rules::check_form(&draft)?;
        Ok(draft)
    }

    /// Takes in a document. `wall_ms` is Unix milliseconds.
    ///
    /// # Errors
    /// [`NotTaken`]; the table is then as before.
    pub fn merge(
        &mut self,
        document: SignedDocument,
        authority: &impl Authority,
        wall_ms: u64,
    ) -> Result<Arc<SignedDocument>, NotTaken> {
        self.check(document, authority, wall_ms).map(|checked| self.store(checked))
    }

    /// Verifies a document for [`DocumentTable::store`]. `wall_ms` is Unix milliseconds.
    ///
    /// # Errors
    /// [`NotTaken`]
    pub fn check(
        &self,
        document: SignedDocument,
        authority: &impl Authority,
        wall_ms: u64,
    ) -> Result<Checked, NotTaken> {
        rules::check_form(&document).map_err(NotTaken::Refused)?;
        let version = document.version();
        if !self.is_newer(&document.key, &version) {
            return Err(NotTaken::Old);
        }
        match self.archived.get(&document.key) {
            Some(deletion) if version < *deletion => return Err(NotTaken::Deleted),
            Some(deletion) if version == *deletion => return Err(NotTaken::Old),
            _ => {}
        }
        // Before verification, which takes the stamp as the time of signing.
        clock::check(document.stamp, wall_ms).map_err(NotTaken::Quarantined)?;
        rules::verify(&document, authority).map_err(NotTaken::Refused)?;
        Ok(Checked { document, version })
    }

    /// Takes in a document that was checked: write it to disk with [`DocumentTable::high_water`], and pass it on.
    pub fn store(&mut self, Checked { document, version }: Checked) -> Arc<SignedDocument> {
        self.clock.observe(document.stamp);
        let document = Arc::new(document);
        if self.is_newer(&document.key, &version) {
            self.insert(document.clone(), version);
        }
        document
    }

    fn is_newer(&self, key: &DocumentKey, version: &DocumentVersion) -> bool {
        self.documents.get(key).is_none_or(|held| held.version < *version)
    }

    fn insert(&mut self, document: Arc<SignedDocument>, version: DocumentVersion) {
        let key = document.key.clone();
        self.digest.add(&key, version.hash);
        self.archived.remove(&key);
        self.taken += 1;
        let held = Held { document, version, is_past: false, taken: self.taken };
        if let Some(replaced) = self.documents.insert(key, held).filter(|replaced| !replaced.is_past) {
            self.digest.remove(&replaced.document.key, replaced.version.hash);
        }
    }

    /// Takes out a version that would be refused now, since its author was revoked before it was stamped and this was
    /// heard of later. The same happens at every member.
    pub fn take_out(&mut self, key: &DocumentKey) {
        if let Some(held) = self.documents.remove(key).filter(|held| !held.is_past) {
            self.digest.remove(key, held.version.hash);
        }
    }

    /// Takes deletions whose time is over out of the digest. Call it at the start and then every second or so, before the
    /// digest is told to anybody. `wall_ms` is Unix milliseconds.
    pub fn age(&mut self, wall_ms: u64) {
        let keep_ms = self.keep_deleted.as_millis() as u64;
        for held in self.documents.values_mut().filter(|held| held.document.body.is_none()) {
            let is_past = wall_ms.saturating_sub(held.version.stamp.millis) >= keep_ms;
            // A clock that was set back does not bring it back.
            if is_past && !held.is_past {
                held.is_past = true;
                self.digest.remove(&held.document.key, held.version.hash);
            }
        }
    }

    /// These members say that they have what is in this table's present digest.
    pub fn acknowledged_by(&mut self, members: impl IntoIterator<Item = NodeId>) {
        self.acknowledged.extend(members.into_iter().map(|member| (member, self.taken)));
    }

    /// Lets go of the deletions that are past their time and that all these members, who are the others, have
    /// acknowledged. A member that had the same digest after the deletion was taken in either had the deletion in it, or,
    /// if that was no part of it any more, no document.
    pub fn forget_deleted(&mut self, members: &BTreeSet<NodeId>) -> Forgotten {
        self.acknowledged.retain(|member, _| members.contains(member));
        let known_to = |member| self.acknowledged.get(member).copied().unwrap_or_default();
        let known_to_all = members.iter().map(known_to).min().unwrap_or(u64::MAX);
        let is_over = |held: &Held| held.is_past && held.taken <= known_to_all;
        let gone = self.documents.extract_if(.., |_, held| is_over(held));
        let mut forgotten = Forgotten::default();
        for (key, held) in gone {
            self.archived.insert(key, held.version);
            forgotten.archived.push(held.document);
        }
        while self.archived.len() > MAX_ARCHIVED {
            let oldest = self.archived.iter().min_by_key(|(_, version)| version.stamp).map(|(key, _)| key.clone());
            let Some(key) = oldest else { break };
            self.archived.remove(&key);
            forgotten.dropped.push(key);
        }
        forgotten
    }

    /// The deletions in the archive that a peer with these versions has not heard of: to be recalled before it is
    /// answered.
    pub fn unheard_deletions(&self, have: &[(DocumentKey, DocumentVersion)]) -> Vec<DocumentKey> {
        let is_unheard = |(key, version): &&(DocumentKey, DocumentVersion)| {
            self.archived.get(key).is_some_and(|deletion| *version < *deletion)
        };
        have.iter().filter(is_unheard).map(|(key, _)| key.clone()).collect()
    }

    /// Takes a deletion back from the archive, to be told to whoever has something older; it was verified before it came
    /// there. Returns it, unless something newer is held.
    pub fn recall(&mut self, deletion: SignedDocument) -> Option<Arc<SignedDocument>> {
        let (key, version) = (deletion.key.clone(), deletion.version());
        if !self.is_newer(&key, &version) {
            return None;
        }
        let deletion = Arc::new(deletion);
        self.insert(deletion.clone(), version);
        if let Some(held) = self.documents.get_mut(&key) {
            // As it was before, and is everywhere else.
            held.is_past = true;
            self.digest.remove(&key, held.version.hash);
        }
        Some(deletion)
    }

    /// The document, if it exists and was not deleted.
    pub fn get(&self, key: &DocumentKey) -> Option<&Arc<SignedDocument>> {
        self.documents.get(key).map(|held| &held.document).filter(|document| document.body.is_some())
    }

    /// Whether there is a version of the document in the table, be it a deletion.
    pub fn holds(&self, key: &DocumentKey) -> bool {
        self.documents.contains_key(key)
    }

    /// All that is held, deletions among it, by key.
    pub fn snapshot(&self) -> Vec<Arc<SignedDocument>> {
        self.documents.values().map(|held| held.document.clone()).collect()
    }

    /// All documents but deleted ones, by key.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<SignedDocument>> {
        self.documents.values().map(|held| &held.document).filter(|document| document.body.is_some())
    }

    /// Equal on two nodes exactly when they hold the same versions.
    pub fn root(&self) -> [u8; 16] {
        self.digest.root()
    }

    /// Versions of all that is in the digest, deletions included: what to send when asking a peer for more.
    pub fn have(&self) -> Vec<(DocumentKey, DocumentVersion)> {
        let held = self.documents.iter().filter(|(_, held)| !held.is_past);
        held.map(|(key, held)| (key.clone(), held.version.clone())).collect()
    }

    /// Whether a peer with these versions, which is asking, has something newer, so that it is to be asked in turn.
    pub fn is_behind(&self, have: &[(DocumentKey, DocumentVersion)]) -> bool {
        have.iter().any(|(key, version)| {
            self.is_newer(key, version) && self.archived.get(key).is_none_or(|deletion| deletion < version)
        })
    }

    /// The documents that a peer with these versions lacks, about `max_bytes` of them and at least one. Deletions past
    /// their time are for those who have something older.
    pub fn missing_for(&self, have: &[(DocumentKey, DocumentVersion)], max_bytes: usize) -> Vec<Arc<SignedDocument>> {
        let have: BTreeMap<_, _> = have.iter().map(|(key, version)| (key, version)).collect();
        let mut left = max_bytes;
        self.documents
            .iter()
            .filter(|(key, held)| have.get(key).map_or(!held.is_past, |&version| *version < held.version))
            .map_while(|(_, held)| {
                let fits = left > 0;
                left = left.saturating_sub(encoded_len(&held.document));
                fits.then(|| held.document.clone())
            })
            .collect()
    }
}

fn encoded_len(document: &SignedDocument) -> usize {
    DOCUMENT_OVERHEAD
        + document.key.name.len()
        + document.body.as_ref().map_or(0, String::len)
        + document.signature.len()
        + document.chain.iter().map(Vec::len).sum::<usize>()
}

#[cfg(test)]
mod tests;
