//! Which nodes hold which documents.

use std::collections::BTreeMap;

use anyhow::bail;
use futures_util::StreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_wire::{
    document::{DocumentKey, DocumentVersion, VersionId},
    frame::{Holdings, Request, Response},
};

use super::ask::Answers;
use crate::actors::Handles;

/// The answer to `POST /api/v1/documents/compare`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// By name.
    pub nodes: Vec<NodeDocuments>,
    /// Nodes that do not answer: nobody knows what they hold.
    pub silent: Vec<String>,
}

/// What one node holds, against the newest that any node holds.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeDocuments {
    pub node: String,
    /// Equal where the same documents are held, deletions with them.
    pub digest: String,
    pub differences: Vec<Difference>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Difference {
    pub document: DocumentKey,
    pub what: What,
    /// The version that the node holds.
    pub version: Option<VersionId>,
    /// The newest that is held anywhere.
    pub newest: VersionId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// The node has never heard of it, or not of its deletion.
    Lacks,
    Older,
    /// It has the newest version, and an older one or none is in force there.
    NotInForce,
}

impl What {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lacks => "lacks it",
            Self::Older => "older",
            Self::NotInForce => "not in force",
        }
    }
}

impl Handles {
    /// What all nodes hold.
    pub async fn compare_documents(&self) -> Comparison {
        let own = self.documents.holdings([0; 16]);
        let question = Request::CompareDocuments { root: own.root };
        let Answers { mut answers, mut silent, .. } = self.ask_others(question);
        let mut holdings = BTreeMap::from([(self.identity.load().name.to_string(), own.clone())]);
        while let Some((name, answer)) = answers.next().await {
            match answer.and_then(read) {
                // It left out what is the same.
                Ok(theirs) if theirs.root == own.root => {
                    holdings.insert(name, Holdings { versions: own.versions.clone(), ..theirs });
                }
                Ok(theirs) => drop(holdings.insert(name, theirs)),
                Err(error) => {
                    tracing::debug!(node = name, error = format!("{error:#}"), "cannot ask for documents held");
                    silent.push(name);
                }
            }
        }
        silent.sort();
        Comparison { nodes: compare(&holdings), silent }
    }
}

fn read(answer: Response) -> anyhow::Result<Holdings> {
    match answer {
        Response::Holdings(holdings) => Ok(holdings),
        Response::Refused { why } => bail!("{why}"),
        _ => bail!("another answer than was asked for"),
    }
}

fn compare(holdings: &BTreeMap<String, Holdings>) -> Vec<NodeDocuments> {
    let mut newest: BTreeMap<&DocumentKey, &DocumentVersion> = BTreeMap::new();
    for (key, version) in holdings.values().flat_map(|held| &held.versions) {
        let known = newest.entry(key).or_insert(version);
        *known = version.max(*known);
    }
    let of_node = |(node, held): (&String, &Holdings)| {
        let versions: BTreeMap<_, _> = held.versions.iter().map(|(key, version)| (key, version)).collect();
        let difference = |(&key, &newest): (&&DocumentKey, &&DocumentVersion)| {
            let version = versions.get(key).copied();
            let what = match version {
                None => What::Lacks,
                Some(version) if version < newest => What::Older,
                Some(_) if held.unreadable.contains(key) => What::NotInForce,
                Some(_) => return None,
            };
            let version = version.map(DocumentVersion::id);
            Some(Difference { document: key.clone(), what, version, newest: newest.id() })
        };
        let digest = held.root.iter().map(|byte| format!("{byte:02x}")).collect();
        NodeDocuments { node: node.clone(), digest, differences: newest.iter().filter_map(difference).collect() }
    };
    holdings.iter().map(of_node).collect()
}

#[cfg(test)]
mod tests {
    use weft_wire::document::Stamp;

    use super::*;

    #[test]
    fn each_node_is_told_against_the_newest_of_all() {
        let key = |name: &str| DocumentKey {
            group: "networking.istio.io".into(),
            kind: "VirtualService".into(),
            namespace: Some("default".parse().unwrap()),
            name: name.into(),
        };
        let version = |millis| DocumentVersion {
            stamp: Stamp { millis, counter: 0 },
            author: "spiffe://cluster.local/operator/admin".parse().unwrap(),
            hash: [7; 16],
        };
        let held = |root, versions: &[(&str, u64)], unreadable: &[&str]| Holdings {
            root: [root; 16],
            versions: versions.iter().map(|&(name, millis)| (key(name), version(millis))).collect(),
            unreadable: unreadable.iter().map(|name| key(name)).collect(),
        };
        let nodes = BTreeMap::from([
            ("a".to_owned(), held(1, &[("x", 1), ("y", 2)], &[])),
            ("b".to_owned(), held(2, &[("x", 2)], &[])),
            ("c".to_owned(), held(3, &[("x", 2), ("y", 2)], &["x"])),
        ]);
        let told: Vec<_> = compare(&nodes)
            .into_iter()
            .map(|node| {
                let difference =
                    |one: Difference| (one.document.name, one.what, one.version.is_some(), one.newest.to_string());
                (
                    node.node,
                    node.digest[..2].to_owned(),
                    node.differences.into_iter().map(difference).collect::<Vec<_>>(),
                )
            })
            .collect();
        let newest = "2.0-07070707".to_owned();
        assert_eq!(
            told,
            [
                ("a".into(), "01".into(), vec![("x".into(), What::Older, true, newest.clone())]),
                ("b".into(), "02".into(), vec![("y".into(), What::Lacks, false, newest.clone())]),
                ("c".into(), "03".into(), vec![("x".into(), What::NotInForce, true, newest)]),
            ]
        );
    }
}
