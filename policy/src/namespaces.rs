//! What depends on the namespace of who asks.

use std::{collections::BTreeSet, sync::Arc};

use weft_wire::id::Namespace;

/// Who sees a document: its `exportTo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Visibility {
    #[default]
    All,
    Only(BTreeSet<Namespace>),
}

impl Visibility {
    /// `own` is the document's namespace. An empty list is everybody.
    pub(crate) fn read(export_to: &[String], own: &Namespace) -> Self {
        if export_to.is_empty() || export_to.iter().any(|name| name == "*") {
            return Self::All;
        }
        let names = export_to.iter().filter_map(|name| if name == "." { Some(own.clone()) } else { name.parse().ok() });
        Self::Only(names.collect())
    }

    /// Whether clients in a namespace see it; `None` is a namespace that no document names.
    pub(crate) fn includes(&self, namespace: Option<&Namespace>) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => namespace.is_some_and(|namespace| names.contains(namespace)),
        }
    }

    /// The namespaces that it names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Namespace> {
        let names = match self {
            Self::All => None,
            Self::Only(names) => Some(names),
        };
        names.into_iter().flatten()
    }
}

/// Something that may differ from one client namespace to another.
#[derive(Debug)]
pub(crate) struct PerNamespace<T> {
    elsewhere: T,
    /// Sorted by namespace.
    special: Box<[(Namespace, T)]>,
}

/// Whether two lists hold the very same things.
pub(crate) fn same<T>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

impl<T> PerNamespace<Vec<Arc<T>>> {
    /// `choose` is asked for each of the namespaces, and with `None` for all others.
    pub(crate) fn new<'n>(
        namespaces: impl IntoIterator<Item = &'n Namespace>,
        mut choose: impl FnMut(Option<&Namespace>) -> Vec<Arc<T>>,
    ) -> Self {
        let elsewhere = choose(None);
        let namespaces: BTreeSet<&Namespace> = namespaces.into_iter().collect();
        let special = namespaces.into_iter().map(|namespace| (namespace.clone(), choose(Some(namespace))));
        let special = special.filter(|(_, chosen)| !same(chosen, &elsewhere)).collect();
        Self { elsewhere, special }
    }
}

impl<T> PerNamespace<T> {
    pub(crate) fn everywhere(value: T) -> Self {
        Self { elsewhere: value, special: Box::default() }
    }

    pub(crate) fn of(&self, namespace: &Namespace) -> &T {
        match self.special.binary_search_by(|(known, _)| known.cmp(namespace)) {
            Ok(at) => self.special.get(at).map_or(&self.elsewhere, |(_, value)| value),
            Err(_) => &self.elsewhere,
        }
    }

    /// Each that some namespace has.
    pub(crate) fn all(&self) -> impl Iterator<Item = &T> + Clone {
        std::iter::once(&self.elsewhere).chain(self.special.iter().map(|(_, value)| value))
    }

    pub(crate) fn elsewhere(&self) -> &T {
        &self.elsewhere
    }

    pub(crate) fn map<U>(&self, mut f: impl FnMut(&T) -> U) -> PerNamespace<U> {
        let elsewhere = f(&self.elsewhere);
        let special = self.special.iter().map(|(namespace, value)| (namespace.clone(), f(value))).collect();
        PerNamespace { elsewhere, special }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str) -> Namespace {
        name.parse().unwrap()
    }

    #[test]
    fn export_to_names_who_sees_a_document() {
        let own = namespace("own");
        for (export_to, in_own, in_a, elsewhere) in [
            (&[][..], true, true, true),
            (&["*"], true, true, true),
            (&["."], true, false, false),
            (&["a"], false, true, false),
            (&[".", "a"], true, true, false),
            (&["~"], false, false, false),
        ] {
            let names: Vec<String> = export_to.iter().map(ToString::to_string).collect();
            let visibility = Visibility::read(&names, &own);
            let seen = [Some(&own), Some(&namespace("a")), None].map(|namespace| visibility.includes(namespace));
            assert_eq!(seen, [in_own, in_a, elsewhere], "{export_to:?}");
        }
    }

    #[test]
    fn a_namespace_that_is_like_all_others_is_not_kept() {
        let names = [namespace("b"), namespace("a"), namespace("c")];
        let (one, other) = (Arc::new(1), Arc::new(2));
        let is_other = |name: &Namespace| name.as_str() != "b";
        let chosen =
            PerNamespace::new(&names, |name| vec![if name.is_some_and(is_other) { &other } else { &one }.clone()]);
        assert_eq!(chosen.special.len(), 2);
        let found = ["a", "b", "c", "d"].map(|name| *chosen.of(&namespace(name))[0]);
        assert_eq!(found, [2, 1, 2, 1]);
    }
}
