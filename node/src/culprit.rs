//! Which document keeps views from being compiled, found by trying. Pure: whoever compiles says what came of each try.
//!
//! First all documents are tried as they are. If that fails, those that have changed since the last view are suspected:
//! without their changes it must work, and then a binary search finds the first of them with which it does not. That one
//! is blamed, and the search goes on with the others. If it fails without any of the changes, all documents are suspected.

use std::{collections::BTreeMap, sync::Arc};

use weft_policy::document::Document;
use weft_wire::document::DocumentKey;

/// A document over which compiling fails.
#[derive(Clone, Debug)]
pub struct Blamed {
    pub document: Arc<Document>,
    /// The version that holds in its place, if one has ever been compiled.
    pub instead: Option<Arc<Document>>,
    pub why: String,
}

/// What is known from one search to the next.
#[derive(Debug, Default)]
pub struct Known {
    /// What the last view was made of.
    good: BTreeMap<DocumentKey, Arc<Document>>,
    /// Those that are still among the documents.
    pub blamed: Vec<Blamed>,
}

impl Known {
    /// What there is now is to be compiled.
    pub fn search(&mut self, documents: &[Arc<Document>]) -> Search {
        self.blamed.retain(|blamed| documents.iter().any(|document| Arc::ptr_eq(document, &blamed.document)));
        let mut search = Search {
            wanted: documents.to_vec(),
            instead: self.good.clone(),
            suspects: Vec::new(),
            harmless: None,
            tried: 0,
            harmful: None,
            all_suspected: false,
            blamed: self.blamed.clone(),
        };
        search.suspect(|good, document| !good.is_some_and(|good| Arc::ptr_eq(good, document)));
        search
    }

    /// A view was compiled of these documents.
    pub fn compiled(&mut self, search: Search) {
        self.good = search.documents().into_iter().map(|document| (document.key.clone(), document)).collect();
        self.blamed = search.blamed;
    }
}

/// One search: try [`Search::documents`] until [`Search::passed`] says that it is over.
#[derive(Debug)]
pub struct Search {
    wanted: Vec<Arc<Document>>,
    /// What holds in the place of suspects that are not tried, and of those that are blamed.
    instead: BTreeMap<DocumentKey, Arc<Document>>,
    /// Documents that may be the cause. Of these the first [`Search::tried`] are part of the present try.
    suspects: Vec<Arc<Document>>,
    tried: usize,
    /// With so many of the suspects it works; `None` while that is not known even of none.
    harmless: Option<usize>,
    /// With so many it does not, and why.
    harmful: Option<(usize, String)>,
    all_suspected: bool,
    blamed: Vec<Blamed>,
}

impl Search {
    /// What is to be tried.
    pub fn documents(&self) -> Vec<Arc<Document>> {
        let left_out = self.suspects[self.tried..].iter().chain(self.blamed.iter().map(|blamed| &blamed.document));
        let left_out: BTreeMap<&DocumentKey, &Arc<Document>> =
            left_out.map(|document| (&document.key, document)).collect();
        let held = self.wanted.iter().filter_map(|document| match left_out.get(&document.key) {
            Some(left_out) if Arc::ptr_eq(left_out, document) => self.instead_of(document),
            _ => Some(document.clone()),
        });
        held.collect()
    }

    fn instead_of(&self, document: &Arc<Document>) -> Option<Arc<Document>> {
        let blamed = self.blamed.iter().find(|blamed| Arc::ptr_eq(&blamed.document, document));
        let instead = match blamed {
            Some(blamed) => blamed.instead.clone(),
            None => self.instead.get(&document.key).cloned(),
        };
        instead.filter(|instead| !Arc::ptr_eq(instead, document))
    }

    /// The present try has worked. Whether the search is over: all is compiled but for what is blamed.
    pub fn passed(&mut self) -> bool {
        if self.tried == self.suspects.len() {
            return true;
        }
        self.harmless = Some(self.tried);
        self.narrow();
        false
    }

    /// The present try has failed.
    ///
    /// # Errors
    /// Why, if it fails without any document: then none is to blame.
    pub fn failed(&mut self, why: String) -> Result<(), String> {
        if self.tried > 0 {
            self.harmful = Some((self.tried, why));
            self.narrow();
            return Ok(());
        }
        if self.all_suspected {
            return Err(why);
        }
        // Not the changes alone: what surrounds them may have changed too.
        self.instead.clear();
        self.all_suspected = true;
        self.suspect(|_, _| true);
        self.harmful = Some((self.suspects.len(), why));
        self.narrow();
        Ok(())
    }

    fn suspect(&mut self, is_suspect: impl Fn(Option<&Arc<Document>>, &Arc<Document>) -> bool) {
        let is_blamed = |document: &Arc<Document>| self.blamed.iter().any(|one| Arc::ptr_eq(&one.document, document));
        let suspects = self.wanted.iter().filter(|document| !is_blamed(document));
        let suspects = suspects.filter(|document| is_suspect(self.instead.get(&document.key), document));
        self.suspects = suspects.cloned().collect();
        (self.tried, self.harmless, self.harmful) = (self.suspects.len(), None, None);
    }

    /// Chooses the next try.
    fn narrow(&mut self) {
        let (Some(harmless), Some((harmful, why))) = (self.harmless, &self.harmful) else {
            self.tried = 0;
            return;
        };
        if harmful - harmless > 1 {
            self.tried = (harmless + harmful) / 2;
            return;
        }
        let (document, why) = (self.suspects.remove(harmless), why.clone());
        let instead = self.instead.get(&document.key).filter(|instead| !Arc::ptr_eq(instead, &document)).cloned();
        self.blamed.push(Blamed { document, instead, why });
        // Then with all the others.
        (self.tried, self.harmful) = (self.suspects.len(), None);
    }

    pub fn blamed(&self) -> &[Blamed] {
        &self.blamed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_policy::document::{parse_stored, parse_yaml};
    use weft_wire::{document::Stamp, id::Namespace};

    use super::*;

    fn document(name: &str, text: &str) -> Arc<Document> {
        let yaml = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{text: {text}}}\n");
        let parsed = parse_yaml(&yaml, &Namespace::default_namespace()).unwrap().documents.remove(0);
        Arc::new(parse_stored(&parsed.key, &parsed.json, Stamp::default()).unwrap())
    }

    fn names(documents: &[Arc<Document>]) -> Vec<&str> {
        documents.iter().map(|document| document.key.name.as_str()).collect()
    }

    /// Compiles until it works, where it fails with any of these documents; returns how many tries that took.
    fn compile(known: &mut Known, documents: &[Arc<Document>], bad: &[&Arc<Document>]) -> Result<usize, String> {
        let mut search = known.search(documents);
        for tries in 1.. {
            let fails = search.documents().iter().any(|one| bad.iter().any(|bad| Arc::ptr_eq(bad, one)));
            match fails {
                true => search.failed("panicked".into())?,
                false if search.passed() => {
                    known.compiled(search);
                    return Ok(tries);
                }
                false => {}
            }
            assert!(tries < 1_000, "without end");
        }
        unreachable!()
    }

    #[test]
    fn the_one_that_changed_last_is_blamed_and_its_last_good_version_holds() {
        let mut known = Known::default();
        let mut documents: Vec<_> = ["a", "b", "c"].map(|name| document(name, "good")).into();
        assert_eq!(compile(&mut known, &documents, &[]), Ok(1));
        let good = documents[1].clone();
        documents[1] = document("b", "bad");
        let bad = documents[1].clone();
        assert_eq!(compile(&mut known, &documents, &[&bad]), Ok(3));
        assert_eq!(known.blamed.len(), 1);
        assert!(Arc::ptr_eq(&known.blamed[0].document, &bad));
        assert!(Arc::ptr_eq(known.blamed[0].instead.as_ref().unwrap(), &good));
        assert!(Arc::ptr_eq(&known.good[&good.key], &good));

        // What is known is not tried again; others change meanwhile.
        documents[0] = document("a", "new");
        assert_eq!(compile(&mut known, &documents, &[&bad]), Ok(1));
        assert_eq!(known.blamed.len(), 1);
        assert!(Arc::ptr_eq(&known.good[&documents[0].key], &documents[0]));
        // It ends when the document changes.
        documents[1] = document("b", "better");
        assert_eq!(compile(&mut known, &documents, &[&bad]), Ok(1));
        assert!(known.blamed.is_empty());
    }

    #[test]
    fn a_new_document_that_is_blamed_is_left_out_and_one_that_fails_only_now_is_found() {
        let mut known = Known::default();
        let old = document("a", "good");
        compile(&mut known, std::slice::from_ref(&old), &[]).unwrap();
        let both = [old.clone(), document("b", "bad")];
        compile(&mut known, &both, &[&both[1]]).unwrap();
        assert_eq!(names(&known.good.values().cloned().collect::<Vec<_>>()), ["a"]);
        assert!(known.blamed[0].instead.is_none());
        // Nothing has changed but what surrounds the documents.
        compile(&mut known, &both, &[&both[1], &old]).unwrap();
        assert!(known.good.is_empty());
        assert_eq!(known.blamed.len(), 2);
    }

    #[test]
    fn what_fails_without_any_document_is_no_documents_fault() {
        let mut search = Known::default().search(&[document("a", "x"), document("b", "x")]);
        let mut tries = 0;
        while search.failed("panicked".into()).is_ok() {
            tries += 1;
        }
        assert!(tries < 5, "{tries}");
        assert!(search.blamed().is_empty());
    }

    proptest! {
        #[test]
        fn exactly_the_bad_ones_are_blamed_whichever_and_however_many(
            first in prop::collection::vec(prop::option::of(any::<bool>()), 0..20),
            then in prop::collection::vec(prop::option::of(any::<bool>()), 0..20),
        ) {
            let mut known = Known::default();
            let mut all = Vec::new();
            for (round, round_bad) in [first, then].iter().enumerate() {
                // None leaves a document as it was, if there was one.
                for (n, is_bad) in round_bad.iter().enumerate().filter_map(|(n, bad)| Some((n, (*bad)?))) {
                    let new = document(&format!("d{n}"), &format!("{round}-{is_bad}"));
                    all.retain(|(old, _): &(Arc<Document>, bool)| old.key != new.key);
                    all.push((new, is_bad));
                }
                let documents: Vec<_> = all.iter().map(|(document, _)| document.clone()).collect();
                let bad: Vec<_> = all.iter().filter(|(_, is_bad)| *is_bad).map(|(document, _)| document).collect();
                let tries = compile(&mut known, &documents, &bad).unwrap();
                prop_assert!(tries <= 2 + 6 * bad.len(), "{} tries for {}", tries, bad.len());
                let mut expected: Vec<_> = bad.iter().map(|bad| bad.key.name.clone()).collect();
                let mut blamed: Vec<_> = known.blamed.iter().map(|one| one.document.key.name.clone()).collect();
                expected.sort();
                blamed.sort();
                prop_assert_eq!(blamed, expected);
            }
        }
    }
}
