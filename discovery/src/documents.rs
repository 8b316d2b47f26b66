//! What operators tell the mesh: whole documents, each signed and stamped, the latest stamp wins. Every node stores
//! every document, so they outlive their authors.
//!
//! [`DocumentTable::merge`] gives the same table in whatever order and however often documents arrive. A deletion is a
//! version without a body and is kept: forgetting it would let a node that was away bring the document back.

mod digest;
mod rules;

use std::{collections::BTreeMap, sync::Arc};

use weft_wire::{
    document::{DocumentKey, DocumentVersion, SignedDocument, Stamp},
    id::SpiffeId,
};

use self::digest::SetDigest;
pub use self::rules::{JOIN_TOKEN_KIND, WEFT_GROUP, verify};
use crate::{
    authority::{Authority, Refusal},
    clock::{self, HybridClock, TooFarAhead},
};

/// Encoded length of a document's small fields, rounded up.
const DOCUMENT_OVERHEAD: usize = 256;

/// Why a document was not taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    #[error("not newer than what is held")]
    Old,
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
}

/// All documents that this node holds, deletions among them.
#[derive(Debug, Default)]
pub struct DocumentTable {
    documents: BTreeMap<DocumentKey, Held>,
    clock: HybridClock,
    digest: SetDigest,
}

impl DocumentTable {
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
        if let Some(replaced) = self.documents.insert(key, Held { document, version }) {
            self.digest.remove(&replaced.document.key, replaced.version.hash);
        }
    }

    /// The document, if it exists and was not deleted.
    pub fn get(&self, key: &DocumentKey) -> Option<&Arc<SignedDocument>> {
        self.documents.get(key).map(|held| &held.document).filter(|document| document.body.is_some())
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

    /// Versions of all that is held, deletions included: what to send when asking a peer for more.
    pub fn have(&self) -> Vec<(DocumentKey, DocumentVersion)> {
        self.documents.iter().map(|(key, held)| (key.clone(), held.version.clone())).collect()
    }

    /// The documents that a peer with these versions lacks, about `max_bytes` of them and at least one.
    pub fn missing_for(&self, have: &[(DocumentKey, DocumentVersion)], max_bytes: usize) -> Vec<Arc<SignedDocument>> {
        let have: BTreeMap<_, _> = have.iter().map(|(key, version)| (key, version)).collect();
        let mut left = max_bytes;
        self.documents
            .iter()
            .filter(|(key, held)| have.get(key).is_none_or(|&version| *version < held.version))
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
