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
pub use self::rules::{JOIN_TOKEN_KIND, WEFT_GROUP};
use crate::{
    authority::{Authority, Refusal},
    clock::{self, HybridClock, TooFarAhead},
};

/// Encoded length of a document's small fields, rounded up.
const DOCUMENT_OVERHEAD: usize = 256;

/// What became of a document that was merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Stored: write it to disk with [`DocumentTable::high_water`], and pass it on.
    New { document: Arc<SignedDocument>, replaced: Option<Arc<SignedDocument>> },
    /// Not newer than what is held: nothing to do.
    Old,
    /// Stamped by a clock that runs ahead, or this one is behind. Not stored; it comes again when it is time.
    Quarantined(TooFarAhead),
    /// Neither stored nor to be passed on; to be counted against the link that it came by.
    Refused(Refusal),
}

/// What the writer of a document expects to replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Whatever is there.
    Anything,
    /// Nothing: the document is new.
    Absent,
    /// The version with this stamp.
    Version(Stamp),
}

/// Why a document cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DraftError {
    #[error("{key} has changed: it is at version {current}; read it again and repeat the change")]
    Conflict { key: DocumentKey, current: Stamp },
    #[error("{0} does not exist")]
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
                table.store(Arc::new(document), version);
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
    /// [`DraftError`] if the expectation fails, there is nothing to delete, the clock cannot be trusted, or every node
    /// would refuse the document's form.
    pub fn draft(
        &mut self,
        key: DocumentKey,
        body: Option<String>,
        author: SpiffeId,
        expect: Expect,
        wall_ms: u64,
    ) -> Result<SignedDocument, DraftError> {
        let current = self.get(&key).map(|document| (document.stamp, document.created));
        match (expect, current) {
            (Expect::Absent, Some((current, _))) => return Err(DraftError::Conflict { key, current }),
            (Expect::Version(expected), Some((current, _))) if expected != current => {
                return Err(DraftError::Conflict { key, current });
            }
            (Expect::Version(_), None) => return Err(DraftError::NotFound(key)),
            (_, None) if body.is_none() => return Err(DraftError::NotFound(key)),
            _ => {}
        }
        let stamp = self.clock.now(wall_ms)?;
        let created = current.map_or(stamp, |(_, created)| created);
        let draft = SignedDocument { key, stamp, created, author, body, chain: Vec::new(), signature: Vec::new() };
        rules::check_form(&draft)?;
        Ok(draft)
    }

    /// Takes in a document, from a peer or signed here. `wall_ms` is Unix milliseconds.
    pub fn merge(&mut self, document: SignedDocument, authority: &impl Authority, wall_ms: u64) -> Effect {
        if let Err(refusal) = rules::check_form(&document) {
            return Effect::Refused(refusal);
        }
        let version = document.version();
        if !self.is_newer(&document.key, &version) {
            return Effect::Old;
        }
        // Before verification, which takes the stamp as the time of signing.
        if let Err(ahead) = clock::check(document.stamp, wall_ms) {
            return Effect::Quarantined(ahead);
        }
        if let Err(refusal) = rules::verify(&document, authority) {
            return Effect::Refused(refusal);
        }
        if let Err(ahead) = self.clock.observe(document.stamp, wall_ms) {
            return Effect::Quarantined(ahead);
        }
        let document = Arc::new(document);
        let replaced = self.store(document.clone(), version);
        Effect::New { document, replaced }
    }

    fn is_newer(&self, key: &DocumentKey, version: &DocumentVersion) -> bool {
        self.documents.get(key).is_none_or(|held| held.version < *version)
    }

    fn store(&mut self, document: Arc<SignedDocument>, version: DocumentVersion) -> Option<Arc<SignedDocument>> {
        let key = document.key.clone();
        self.digest.add(&key, version.hash);
        let replaced = self.documents.insert(key, Held { document, version })?;
        self.digest.remove(&replaced.document.key, replaced.version.hash);
        Some(replaced.document)
    }

    /// The document, if it exists and was not deleted.
    pub fn get(&self, key: &DocumentKey) -> Option<&Arc<SignedDocument>> {
        self.documents.get(key).map(|held| &held.document).filter(|document| document.body.is_some())
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
