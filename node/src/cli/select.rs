//! Which documents a command is about: kinds, names, namespace and labels, in the words that kubectl takes.

use std::{collections::BTreeSet, str::FromStr};

use weft_policy::kinds::{Kind, find_kind, kinds};
use weft_wire::{document::DocumentKey, id::Namespace};

use crate::{
    admin::api::Document,
    config::{label_key, label_value},
};

/// The documents that a command is about.
pub(super) struct Selection {
    wanted: Vec<Wanted>,
    /// `None`: any.
    namespace: Option<Namespace>,
    labels: Selector,
}

struct Wanted {
    /// `None`: any.
    kind: Option<&'static Kind>,
    name: Option<String>,
}

impl Wanted {
    fn matches(&self, key: &DocumentKey) -> bool {
        self.kind.is_none_or(|kind| key.group == kind.group && key.kind == kind.kind)
            && self.name.as_ref().is_none_or(|name| key.name == *name)
    }

    /// What has no namespace is found wherever one looks for its kind; but it is no part of all that a namespace has.
    fn is_in(&self, key: &DocumentKey, namespace: Option<&Namespace>) -> bool {
        let Some(namespace) = namespace else { return true };
        key.namespace.as_ref().map_or(self.kind.is_some(), |own| own == namespace)
    }
}

impl Selection {
    /// Reads `KIND[,KIND]…`, `KIND NAME…` or `KIND/NAME…`; `all` is every kind.
    pub(super) fn new(
        words: &[String],
        namespace: Option<&Namespace>,
        labels: Option<Selector>,
    ) -> anyhow::Result<Self> {
        let wanted = wanted(words)?;
        let by_name = wanted.iter().any(|wanted| wanted.name.is_some());
        anyhow::ensure!(!by_name || labels.is_none(), "name documents or select them with -l, not both");
        anyhow::ensure!(!by_name || namespace.is_some(), "a name is looked up in one namespace: give -n, not -A");
        Ok(Self { wanted, namespace: namespace.cloned(), labels: labels.unwrap_or_default() })
    }

    /// Whether it is exactly one document.
    pub(super) fn is_one(&self) -> bool {
        matches!(self.wanted.as_slice(), [Wanted { name: Some(_), .. }])
    }

    /// Whether it names each document.
    pub(super) fn is_by_name(&self) -> bool {
        self.wanted.iter().all(|wanted| wanted.name.is_some())
    }

    /// Where it looks, in words; nowhere in particular if all that it is about has no namespace.
    pub(super) fn place(&self) -> String {
        let has_none = |wanted: &Wanted| wanted.kind.is_some_and(|kind| !kind.namespaced);
        let namespace = self.namespace.as_ref().filter(|_| !self.wanted.iter().all(has_none));
        namespace.map_or_else(String::new, |namespace| format!(" in namespace {namespace}"))
    }

    /// The documents that it is about, in its order, and what it names and is not there.
    pub(super) fn find(&self, documents: &[Document]) -> (Vec<Document>, Vec<String>) {
        let (mut found, mut missing, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        for wanted in &self.wanted {
            let matching = documents.iter().filter(|document| {
                wanted.matches(&document.key)
                    && wanted.is_in(&document.key, self.namespace.as_ref())
                    && self.labels.matches(document)
            });
            let mut is_there = false;
            for document in matching {
                is_there = true;
                if seen.insert(&document.key) {
                    found.push(document.clone());
                }
            }
            if let (Some(name), false) = (&wanted.name, is_there) {
                missing.push(format!("{} {name}", wanted.kind.map_or("document", |kind| kind.kind)));
            }
        }
        (found, missing)
    }
}

/// The document that `KIND NAME` or `KIND/NAME` names, whether there is one or not.
pub(super) fn named(words: &[String], namespace: &Namespace) -> anyhow::Result<DocumentKey> {
    match wanted(words)?.as_slice() {
        [Wanted { kind: Some(kind), name: Some(name) }] => Ok(DocumentKey {
            group: kind.group.into(),
            kind: kind.kind.into(),
            namespace: kind.namespaced.then(|| namespace.clone()),
            name: name.clone(),
        }),
        _ => anyhow::bail!("name one document, as KIND NAME or KIND/NAME"),
    }
}

fn wanted(words: &[String]) -> anyhow::Result<Vec<Wanted>> {
    if words.iter().any(|word| word.contains('/')) {
        let read = |word: &String| match word.split_once('/') {
            Some((kind, name)) if !name.is_empty() => Ok(Wanted { kind: Some(known(kind)?), name: Some(name.into()) }),
            _ => anyhow::bail!("{word:?} is not KIND/NAME, as the others are"),
        };
        return words.iter().map(read).collect();
    }
    let Some((first, names)) = words.split_first() else { anyhow::bail!("name a kind, or all") };
    let kinds: Vec<Option<&'static Kind>> = match first.as_str() {
        "all" => vec![None],
        list => list.split(',').map(|word| known(word).map(Some)).collect::<Result<_, _>>()?,
    };
    anyhow::ensure!(names.is_empty() || first != "all", "a name needs its kind: write KIND NAME or KIND/NAME");
    let of_kind = |kind| -> Vec<Wanted> {
        match names {
            [] => vec![Wanted { kind, name: None }],
            names => names.iter().map(|name| Wanted { kind, name: Some(name.clone()) }).collect(),
        }
    };
    Ok(kinds.into_iter().flat_map(of_kind).collect())
}

fn known(word: &str) -> anyhow::Result<&'static Kind> {
    find_kind(word).ok_or_else(|| {
        let known: Vec<_> = kinds().iter().map(|kind| kind.plural).collect();
        anyhow::anyhow!("{word:?} is not a kind of document that this version knows; it knows {}", known.join(", "))
    })
}

/// Kubernetes' label selector: requirements that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    Exists,
    IsAbsent,
    In(BTreeSet<String>),
    /// Holds also where the label is absent.
    NotIn(BTreeSet<String>),
}

impl Selector {
    fn matches(&self, document: &Document) -> bool {
        let labels = &document.body["metadata"]["labels"];
        self.0.iter().all(|requirement| requirement.matches(labels[&requirement.key].as_str()))
    }
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        match &self.operator {
            Operator::Exists => value.is_some(),
            Operator::IsAbsent => value.is_none(),
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
        }
    }
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        split_outside_parentheses(text).map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// Splits at commas, but for those in a list of values.
fn split_outside_parentheses(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.split(move |c| {
        inside = (inside || c == '(') && c != ')';
        c == ',' && !inside
    })
}

impl FromStr for Requirement {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let one = |value: &str| BTreeSet::from([value.trim().to_owned()]);
        let (key, operator) = if let Some((head, values)) = text.split_once('(') {
            let values = values.trim_end().strip_suffix(')').ok_or_else(|| malformed(text))?;
            let values = values.split(',').map(|value| value.trim().to_owned()).collect();
            match head.split_whitespace().collect::<Vec<_>>().as_slice() {
                [key, "in"] => (*key, Operator::In(values)),
                [key, "notin"] => (*key, Operator::NotIn(values)),
                _ => return Err(malformed(text)),
            }
        } else if let Some((key, value)) = text.split_once("!=") {
            (key, Operator::NotIn(one(value)))
        } else if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
            (key, Operator::In(one(value)))
        } else if let Some(key) = text.trim().strip_prefix('!') {
            (key, Operator::IsAbsent)
        } else {
            (text, Operator::Exists)
        };
        label_key(key.trim()).map_err(|_| malformed(text))?;
        if let Operator::In(values) | Operator::NotIn(values) = &operator {
            values.iter().try_for_each(|value| label_value(value))?;
        }
        Ok(Self { key: key.trim().to_owned(), operator })
    }
}

fn malformed(text: &str) -> String {
    format!("{:?} is none of key=value, key!=value, key in (a,b), key notin (a,b), key, !key", text.trim())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admin::api::{DocumentStatus, Nodes};

    fn document(kind: &str, namespace: &str, name: &str, labels: serde_json::Value) -> Document {
        let kind = find_kind(kind).unwrap();
        let nodes = Nodes { current: 1, total: 1, lagging: Vec::new() };
        Document {
            key: DocumentKey {
                group: kind.group.into(),
                kind: kind.kind.into(),
                namespace: kind.namespaced.then(|| namespace.parse().unwrap()),
                name: name.into(),
            },
            author: String::new(),
            created_millis: 0,
            updated_millis: 0,
            version: "0.0-00000000".parse().unwrap(),
            body: json!({ "metadata": { "labels": labels } }),
            status: DocumentStatus {
                observed_generation: 0,
                conditions: Vec::new(),
                parents: vec![],
                ancestors: vec![],
                listeners: vec![],
                addresses: vec![],
                nodes,
            },
        }
    }

    fn select(words: &[&str], namespace: Option<&str>, labels: Option<&str>) -> anyhow::Result<Selection> {
        let words: Vec<String> = words.iter().map(|word| (*word).into()).collect();
        let namespace: Option<Namespace> = namespace.map(|namespace| namespace.parse().unwrap());
        Selection::new(&words, namespace.as_ref(), labels.map(|labels| labels.parse().unwrap()))
    }

    #[test]
    fn documents_are_found_by_kind_name_and_namespace() {
        let documents = [
            document("ns", "", "prod", json!({})),
            document("dr", "default", "a", json!({})),
            document("vs", "default", "a", json!({})),
            document("vs", "default", "b", json!({})),
            document("vs", "prod", "a", json!({})),
        ];
        let found = |words: &[&str], namespace| -> (Vec<String>, Vec<String>) {
            let (found, missing) = select(words, namespace, None).unwrap().find(&documents);
            (found.iter().map(|document| document.key.to_string()).collect(), missing)
        };
        let default = Some("default");
        let (virtual_a, virtual_b) = ("VirtualService default/a", "VirtualService default/b");
        for (words, namespace, expected) in [
            (&["vs"][..], default, &[virtual_a, virtual_b][..]),
            (&["vs", "b", "a"], default, &[virtual_b, virtual_a]),
            (&["vs", "a", "a"], default, &[virtual_a]),
            (&["vs/b", "dr/a"], default, &[virtual_b, "DestinationRule default/a"]),
            (&["virtualservice.networking.istio.io/b"], default, &[virtual_b]),
            (&["dr,vs", "a"], default, &["DestinationRule default/a", virtual_a]),
            (&["vs"], None, &[virtual_a, virtual_b, "VirtualService prod/a"]),
            (&["all"], Some("prod"), &["VirtualService prod/a"]),
            (&["ns,vs"], Some("prod"), &["Namespace prod", "VirtualService prod/a"]),
            (&["ns", "prod"], default, &["Namespace prod"]),
        ] {
            assert_eq!(
                found(words, namespace),
                (expected.iter().map(|key| (*key).into()).collect(), vec![]),
                "{words:?}"
            );
        }
        assert_eq!(found(&["all"], None).0.len(), documents.len());
        let (one, missing) = found(&["vs", "a", "z", "y"], default);
        assert_eq!((one.len(), missing), (1, vec!["VirtualService z".into(), "VirtualService y".into()]));
    }

    #[test]
    fn one_document_is_named_whether_it_is_there_or_not() {
        let named = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).into()).collect();
            super::named(&words, &"prod".parse().unwrap()).map(|key| key.to_string())
        };
        assert_eq!(named(&["vs", "a"]).unwrap(), "VirtualService prod/a");
        assert_eq!(named(&["ns/a"]).unwrap(), "Namespace a");
        for wrong in [&["vs"][..], &["vs", "a", "b"], &["all"], &["vs,dr", "a"], &["vs/a", "vs/b"]] {
            named(wrong).unwrap_err();
        }
    }

    #[test]
    fn what_kubectl_refuses_is_refused() {
        for (words, namespace, labels, why) in [
            (&["all", "a"][..], Some("default"), None, "needs its kind"),
            (&["vs/a", "b"], Some("default"), None, "not KIND/NAME"),
            (&["vs/"], Some("default"), None, "not KIND/NAME"),
            (&["vs", "a"], None, None, "one namespace"),
            (&["vs", "a"], Some("default"), Some("a=b"), "not both"),
            (&["vx"], Some("default"), None, "virtualservices"),
            (&["vs,,dr"], Some("default"), None, "not a kind"),
        ] {
            let error = select(words, namespace, labels).err().expect("refused").to_string();
            assert!(error.contains(why), "{words:?}: {error}");
        }
    }

    #[test]
    fn a_selector_selects_as_in_kubernetes() {
        let a = document("vs", "default", "a", json!({ "app": "a", "tier": "web", "empty": "" }));
        for (selector, expected) in [
            ("", true),
            ("app=a", true),
            ("app==a", true),
            ("app = b", false),
            ("app!=a", false),
            ("other!=a", true),
            ("app in (b, a)", true),
            ("app in (b)", false),
            ("app notin (b,c)", true),
            ("other notin (a)", true),
            ("app", true),
            ("other", false),
            ("!app", false),
            (" !other , app", true),
            ("app=a,tier in (web,db),!other", true),
            ("app=a,tier=db", false),
            ("empty=", true),
            ("app=", false),
        ] {
            let parsed: Selector = selector.parse().unwrap_or_else(|error| panic!("{selector}: {error}"));
            assert_eq!(parsed.matches(&a), expected, "{selector}");
        }
        for wrong in [
            "=a",
            "app in a",
            "app in (a",
            "app on (a)",
            "in (a)",
            "a b",
            "app=a,",
            "a=b=c",
            "app>1",
            "!",
            "app in ((a))",
        ] {
            assert!(wrong.parse::<Selector>().is_err(), "{wrong}");
        }
    }
}
