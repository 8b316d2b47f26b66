//! What was really said and written, against which all that nodes hold is checked.

use std::collections::{BTreeMap, BTreeSet};

use weft_wire::{
    document::{DocumentKey, DocumentVersion, SignedDocument, Stamp},
    fact::{FactKind, FactVersion, SignedFact},
    id::NodeName,
};

#[derive(Default)]
pub struct Ledger {
    said: BTreeSet<(NodeName, FactKind, FactVersion, Vec<u8>)>,
    wrote: BTreeMap<DocumentKey, BTreeSet<DocumentVersion>>,
    /// The newest deletions that somebody let go of.
    forgot: BTreeMap<DocumentKey, DocumentVersion>,
    last_stamp: Stamp,
}

/// What one process has taken in, which must only ever grow newer.
#[derive(Default)]
pub struct Taken {
    facts: BTreeMap<(NodeName, FactKind), FactVersion>,
    documents: BTreeMap<DocumentKey, DocumentVersion>,
}

impl Ledger {
    pub fn said(&mut self, fact: &SignedFact) {
        self.said.insert((fact.owner.clone(), fact.kind, fact.version(), fact.body.clone()));
    }

    pub fn wrote(&mut self, document: &SignedDocument) {
        self.last_stamp = self.last_stamp.max(document.stamp);
        self.wrote.entry(document.key.clone()).or_default().insert(document.version());
    }

    pub fn forgot(&mut self, deletion: &SignedDocument) {
        let version = deletion.version();
        let newest = self.forgot.entry(deletion.key.clone()).or_insert_with(|| version.clone());
        *newest = version.max(newest.clone());
    }

    /// # Errors
    /// If the document was deleted after this version, and was let go of.
    pub fn check_not_forgotten(&self, document: &SignedDocument) -> Result<(), String> {
        match self.forgot.get(&document.key) {
            Some(deletion) if document.version() < *deletion => {
                Err(format!("{} of {} has come back after its deletion", document.key, document.stamp))
            }
            _ => Ok(()),
        }
    }

    /// The latest of all stamps. A document is taken in when its stamp is no longer far ahead.
    pub fn last_stamp(&self) -> Stamp {
        self.last_stamp
    }

    /// # Errors
    /// What is wrong with it.
    pub fn check_fact(&self, fact: &SignedFact, taken: &mut Taken) -> Result<(), String> {
        let (owner, version) = (&fact.owner, fact.version());
        if !self.said.contains(&(owner.clone(), fact.kind, version, fact.body.clone())) {
            return Err(format!("took in what {owner} never said: {:?} {version:?}", fact.kind));
        }
        match taken.facts.insert((owner.clone(), fact.kind), version) {
            Some(before) if before > version => Err(format!("{owner} went back from {before:?} to {version:?}")),
            _ => Ok(()),
        }
    }

    /// # Errors
    /// What is wrong with it.
    pub fn check_document(&self, document: &SignedDocument, taken: &mut Taken) -> Result<(), String> {
        let (key, version) = (&document.key, document.version());
        if !self.wrote.get(key).is_some_and(|versions| versions.contains(&version)) {
            return Err(format!("took in what nobody wrote: {key} {}", version.stamp));
        }
        match taken.documents.insert(key.clone(), version.clone()) {
            Some(before) if before >= version => {
                Err(format!("{key} went back from {} to {}", before.stamp, version.stamp))
            }
            _ => Ok(()),
        }
    }
}
