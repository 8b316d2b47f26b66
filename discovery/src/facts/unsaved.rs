//! Facts that the disk does not have yet.

use std::{collections::BTreeMap, sync::Arc};

use weft_wire::{
    fact::{FactKind, SignedFact},
    id::NodeName,
};

/// The newest of each register, so that a disk that stays full does not fill the memory too.
#[derive(Debug, Default)]
pub struct Unsaved(BTreeMap<(NodeName, FactKind), Arc<SignedFact>>);

impl Unsaved {
    pub fn add(&mut self, fact: Arc<SignedFact>) {
        self.0.insert((fact.owner.clone(), fact.kind), fact);
    }

    /// All of them, to be written now.
    pub fn take(&mut self) -> Vec<Arc<SignedFact>> {
        std::mem::take(&mut self.0).into_values().collect()
    }

    /// They could not be written. What came since then is newer.
    pub fn put_back(&mut self, facts: Vec<Arc<SignedFact>>) {
        for fact in facts {
            self.0.entry((fact.owner.clone(), fact.kind)).or_insert(fact);
        }
    }

    /// Nothing of this owner is to be kept.
    pub fn forget(&mut self, owner: &NodeName) {
        self.0.retain(|(name, _), _| name != owner);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(owner: &str, seq: u64) -> Arc<SignedFact> {
        let (owner, kind) = (owner.parse().unwrap(), FactKind::NODE);
        Arc::new(SignedFact { owner, incarnation: 1, seq, kind, body: vec![], chain: vec![], signature: vec![] })
    }

    #[test]
    fn of_a_register_the_newest_waits_however_often_the_disk_is_full() {
        let mut unsaved = Unsaved::default();
        (1..=100).for_each(|seq| unsaved.add(fact("a", seq)));
        unsaved.add(fact("b", 1));
        let taken = unsaved.take();
        assert_eq!(taken.iter().map(|fact| fact.seq).collect::<Vec<_>>(), [100, 1]);
        unsaved.add(fact("a", 101));
        unsaved.put_back(taken);
        assert_eq!(unsaved.len(), 2);
        unsaved.forget(&"b".parse().unwrap());
        assert_eq!(unsaved.take(), [fact("a", 101)]);
        assert!(unsaved.is_empty());
    }
}
