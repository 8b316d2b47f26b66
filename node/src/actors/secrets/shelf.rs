//! The contents that are on this node's disk, and how long they stay.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use weft_policy::secrets::{Contents, Reference};
use weft_wire::{
    document::DocumentKey,
    secret::{SecretDigest, SecretPayload},
};

use crate::{
    actors::documents::SecretState,
    vault::{Stored, Vault},
};

/// A content comes before its document, which needs as long at most.
const BEFORE_ITS_DOCUMENT: Duration = Duration::from_secs(600);
/// A content of which no document is known, not even a deletion, stays so long: the documents may have been lost and
/// come back from peers.
const WITHOUT_DOCUMENT: Duration = Duration::from_secs(24 * 3600);
/// What could not be removed from disk is tried again after this.
const REMOVE_AGAIN: Duration = Duration::from_secs(1);

struct Kept {
    reference: Reference,
    content: Arc<SecretPayload>,
    since: Instant,
    /// Whether it was in force, so that it waits for no document.
    was_in_force: bool,
}

pub(super) struct Shelf {
    vault: Vault,
    kept: BTreeMap<SecretDigest, Kept>,
    /// What is in force of each Secret: the present version, or until that is there the one before.
    current: BTreeMap<Reference, SecretDigest>,
    /// When the next content's time is over.
    expiry: Option<Instant>,
}

impl Shelf {
    /// With what is on disk, whose documents may come later.
    pub(super) fn new(vault: Vault, now: Instant) -> Self {
        let stored = vault.load();
        let mut shelf = Self { vault, kept: BTreeMap::new(), current: BTreeMap::new(), expiry: None };
        stored.into_iter().for_each(|Stored { key, content }| shelf.put(&key, content, now));
        shelf
    }

    /// Adds a content that is on disk. Its document may come later.
    pub(super) fn put(&mut self, key: &DocumentKey, content: SecretPayload, now: Instant) {
        let Some(reference) = Reference::of_secret(key) else { return };
        let kept = Kept { reference, content: Arc::new(content), since: now, was_in_force: false };
        let digest = kept.content.digest();
        self.kept.entry(digest).or_insert(kept).since = now;
    }

    /// Makes the shelf what the documents say, and wipes the rest. Returns the Secrets that are wanted and not there in
    /// their present version.
    pub(super) fn sync(
        &mut self,
        states: &BTreeMap<Reference, SecretState>,
        wanted: impl Fn(&Reference) -> bool,
        now: Instant,
    ) -> Vec<Reference> {
        let mut missing = Vec::new();
        let mut current = BTreeMap::new();
        for (reference, state) in states.iter().filter(|(reference, _)| wanted(reference)) {
            let last = self.current.get(reference).copied().filter(|digest| self.kept.contains_key(digest));
            match state {
                SecretState::Sealed(digest) if self.kept.contains_key(digest) => {
                    current.insert(reference.clone(), *digest);
                }
                SecretState::Sealed(_) | SecretState::Unreadable => {
                    missing.push(reference.clone());
                    let any = || self.kept.iter().find(|(_, kept)| kept.reference == *reference).map(|(one, _)| *one);
                    // The last good one holds on; after a restart it is the one that is on disk.
                    if let Some(digest) = last.or_else(any) {
                        current.insert(reference.clone(), digest);
                    }
                }
                SecretState::Deleted => {}
            }
        }
        self.current = current;
        for digest in self.current.values() {
            self.kept.entry(*digest).and_modify(|kept| kept.was_in_force = true);
        }
        self.wipe(states, now);
        missing
    }

    fn wipe(&mut self, states: &BTreeMap<Reference, SecretState>, now: Instant) {
        let in_force: BTreeSet<SecretDigest> = self.current.values().copied().collect();
        let mut expiry: Option<Instant> = None;
        let mut gone = Vec::new();
        for (digest, kept) in self.kept.iter().filter(|(digest, _)| !in_force.contains(digest)) {
            let stays = match (states.contains_key(&kept.reference), kept.was_in_force) {
                (false, _) => WITHOUT_DOCUMENT,
                (true, false) => BEFORE_ITS_DOCUMENT,
                (true, true) => Duration::ZERO,
            };
            let end = kept.since + stays;
            if end <= now {
                gone.push(*digest);
            } else {
                expiry = Some(expiry.map_or(end, |first| first.min(end)));
            }
        }
        self.expiry = expiry;
        for digest in gone {
            match self.vault.remove(digest) {
                Ok(()) => drop(self.kept.remove(&digest)),
                // It stays known, and is tried again.
                Err(error) => {
                    tracing::error!(%error, "a Secret that is needed no longer cannot be removed from disk");
                    let again = now + REMOVE_AGAIN;
                    self.expiry = Some(self.expiry.map_or(again, |first| first.min(again)));
                }
            }
        }
    }

    /// When something that is kept is to go.
    pub(super) fn expiry(&self) -> Option<Instant> {
        self.expiry
    }

    /// What is in force.
    pub(super) fn contents(&self) -> Contents {
        let content = |digest| self.kept.get(digest).map(|kept| kept.content.clone());
        self.current.iter().filter_map(|(one, digest)| Some((one.clone(), content(digest)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use weft_wire::secret::SecretBytes;

    use super::*;

    struct Bench {
        shelf: Shelf,
        _dir: tempfile::TempDir,
        start: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let vault = Vault::open(dir.path()).unwrap();
            let start = Instant::now();
            Self { shelf: Shelf::new(vault, start), _dir: dir, start }
        }

        fn save(&mut self, value: &str, at: Duration) {
            self.shelf.vault.save(&key(), &content(value)).unwrap();
            self.shelf.put(&key(), content(value), self.start + at);
        }

        /// Syncs with one Secret, and returns the values in force, those on disk, and what is missing.
        fn sync(&mut self, state: Option<SecretState>, wanted: bool, at: Duration) -> (Vec<String>, usize, usize) {
            let states = state.map(|state| (reference(), state)).into_iter().collect();
            let missing = self.shelf.sync(&states, |_| wanted, self.start + at);
            let value = |content: &Arc<SecretPayload>| String::from_utf8(content.data["v"].expose().to_vec()).unwrap();
            (self.shelf.contents().values().map(value).collect(), self.shelf.vault.load().len(), missing.len())
        }
    }

    fn key() -> DocumentKey {
        let namespace = Some("default".parse().unwrap());
        DocumentKey { group: String::new(), kind: "Secret".into(), namespace, name: "a".into() }
    }

    fn reference() -> Reference {
        Reference::of_secret(&key()).unwrap()
    }

    fn content(value: &str) -> SecretPayload {
        let data = [("v".to_owned(), SecretBytes::new(value.into()))].into();
        SecretPayload { salt: SecretBytes::new(vec![7; SecretPayload::SALT_LEN]), data }
    }

    fn sealed(value: &str) -> Option<SecretState> {
        Some(SecretState::Sealed(content(value).digest()))
    }

    const SOON: Duration = Duration::from_secs(1);

    fn values(values: &[&str]) -> Vec<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    #[test]
    fn a_secret_that_is_deleted_or_needed_no_longer_is_wiped_at_once() {
        for (state, wanted) in [(Some(SecretState::Deleted), true), (sealed("one"), false)] {
            let mut bench = Bench::new();
            bench.save("one", Duration::ZERO);
            assert_eq!(bench.sync(sealed("one"), true, SOON), (values(&["one"]), 1, 0));
            assert_eq!(bench.sync(state, wanted, SOON), (values(&[]), 0, 0));
        }
    }

    #[test]
    fn the_version_before_holds_until_the_new_one_is_there() {
        let mut bench = Bench::new();
        bench.save("one", Duration::ZERO);
        bench.sync(sealed("one"), true, SOON);
        assert_eq!(bench.sync(sealed("two"), true, SOON), (values(&["one"]), 1, 1));
        bench.save("two", SOON);
        assert_eq!(bench.sync(sealed("two"), true, SOON), (values(&["two"]), 1, 0));
        assert_eq!(bench.sync(Some(SecretState::Unreadable), true, SOON).0, values(&["two"]));
    }

    #[test]
    fn a_content_may_come_before_its_document_and_waits_for_some_time() {
        for state in [Some(SecretState::Deleted), sealed("zero")] {
            let mut bench = Bench::new();
            bench.save("one", Duration::ZERO);
            assert_eq!(bench.sync(state, false, SOON).1, 1);
            assert_eq!(bench.shelf.expiry(), Some(bench.start + BEFORE_ITS_DOCUMENT));
            assert_eq!(bench.sync(state, false, BEFORE_ITS_DOCUMENT).1, 0);
        }
    }

    #[test]
    fn contents_outlast_lost_documents() {
        let mut bench = Bench::new();
        bench.save("one", Duration::ZERO);
        bench.sync(sealed("one"), true, SOON);
        assert_eq!(bench.sync(None, true, 2 * BEFORE_ITS_DOCUMENT), (values(&[]), 1, 0), "not used, and not wiped");
        assert_eq!(bench.sync(sealed("one"), true, 2 * BEFORE_ITS_DOCUMENT), (values(&["one"]), 1, 0));
        assert_eq!(bench.sync(None, true, WITHOUT_DOCUMENT).1, 0);
    }
}
