//! The last versions of a document, put together from what the nodes of the mesh have kept.

use std::collections::{BTreeMap, btree_map::Entry};

use anyhow::{Context, bail, ensure};
use futures_util::StreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_discovery::{authority::Refusal, documents::verify};
use weft_wire::{
    document::{DocumentKey, DocumentVersion, KeptVersion, MAX_VERSIONS, SignedDocument, VersionId},
    frame::{Request, Response},
};

use super::{api::rfc3339, ask::Answers};
use crate::{actors::Handles, identity::MeshAuthority};

/// The answer to `POST /api/v1/documents/history`
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct History {
    /// The newest first.
    pub versions: Vec<Version>,
    /// Nodes that do not answer: what they alone have kept is missing.
    pub silent: Vec<String>,
}

/// One version of a document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    pub version: VersionId,
    /// When it was written, by RFC 3339.
    pub time: String,
    pub author: String,
    /// The node that it was written at, by that node's word; `null` if that is not there any more, or has it no longer.
    pub node: Option<String>,
    pub event: Event,
    /// The earlier version that says the same, if there is one and it is not the one before.
    pub same_as: Option<VersionId>,
    /// As it was stored; `null` of a deletion.
    pub body: Option<serde_json::Value>,
}

/// What happened to the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    Created,
    Configured,
    Deleted,
}

impl Event {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Deleted => "deleted",
        }
    }
}

/// The versions of one document, from whoever has kept them.
struct Gathered<'a> {
    key: &'a DocumentKey,
    /// With the node that each was written at.
    versions: BTreeMap<DocumentVersion, (SignedDocument, Option<String>)>,
}

impl Gathered<'_> {
    /// # Errors
    /// If the node tells what its author never wrote: then it is believed nothing further.
    fn add(
        &mut self,
        node: &str,
        kept: Vec<KeptVersion>,
        verify: impl Fn(&SignedDocument) -> Result<(), Refusal>,
    ) -> anyhow::Result<()> {
        for KeptVersion { document, written_here } in kept {
            ensure!(document.key == *self.key, "a version of {} instead", document.key);
            let known = match self.versions.entry(document.version()) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => {
                    verify(&document)?;
                    place.insert((document, None))
                }
            };
            if written_here {
                known.1.get_or_insert_with(|| node.to_owned());
            }
        }
        Ok(())
    }

    /// The newest first.
    fn told(&self) -> anyhow::Result<Vec<Version>> {
        let newest: Vec<_> = self.versions.iter().rev().take(MAX_VERSIONS).collect();
        let told = newest.iter().enumerate().map(|(place, (version, (document, node)))| {
            let older = newest[place + 1..].iter().map(|(version, (older, _))| (version.id(), &older.body));
            let before = older.clone().next().is_some_and(|(_, body)| *body == document.body);
            let same = older.clone().find(|(_, body)| document.body.is_some() && **body == document.body);
            let body = document.body.as_ref().map(|body| serde_json::from_str(body)).transpose();
            Ok(Version {
                version: version.id(),
                time: rfc3339(document.stamp.millis),
                author: document.author.to_string(),
                node: node.clone(),
                event: match &document.body {
                    None => Event::Deleted,
                    Some(_) if document.created == document.stamp => Event::Created,
                    Some(_) => Event::Configured,
                },
                same_as: same.map(|(version, _)| version).filter(|_| !before),
                body: body.with_context(|| format!("version {} is no JSON", version.id()))?,
            })
        });
        told.collect()
    }
}

impl Handles {
    /// What became of a document. Whatever node is asked, and however new it is, it tells what all that answer know.
    pub async fn history(&self, key: DocumentKey) -> anyhow::Result<History> {
        let authority = MeshAuthority(self.identity.clone());
        let is_genuine = |document: &SignedDocument| verify(document, &authority);
        let mut gathered = Gathered { key: &key, versions: BTreeMap::new() };
        let me = self.identity.load().name.to_string();
        // Its own were verified before it kept them.
        gathered.add(&me, self.documents.versions(key.clone()).await?, |_| Ok(()))?;
        let Answers { mut answers, mut silent, .. } = self.ask_others(Request::ListVersions { key: key.clone() });
        while let Some((name, answer)) = answers.next().await {
            if let Err(error) = answer.and_then(read).and_then(|kept| gathered.add(&name, kept, is_genuine)) {
                tracing::debug!(node = name, error = format!("{error:#}"), "cannot ask for versions of a document");
                silent.push(name);
            }
        }
        silent.sort();
        Ok(History { versions: gathered.told()?, silent })
    }
}

fn read(answer: Response) -> anyhow::Result<Vec<KeptVersion>> {
    match answer {
        Response::Versions(versions) => Ok(versions),
        Response::Refused { why } => bail!("{why}"),
        _ => bail!("another answer than was asked for"),
    }
}

#[cfg(test)]
mod tests {
    use weft_wire::document::Stamp;

    use super::*;
    use crate::identity::{der_chain, tests::founder};

    #[test]
    fn versions_of_several_nodes_make_one_history_and_forged_ones_are_not_believed() {
        let (identity, mesh) = founder();
        let authority = MeshAuthority(identity);
        let now = crate::identity::wall_ms();
        let key = DocumentKey {
            group: "networking.istio.io".into(),
            kind: "VirtualService".into(),
            namespace: Some("default".parse().unwrap()),
            name: "reviews".into(),
        };
        let stamp = |age_ms: u64| Stamp { millis: now - age_ms, counter: 0 };
        let version = |age_ms: u64, created_ms: u64, body: Option<&str>, written_here| {
            let mut document = SignedDocument {
                key: key.clone(),
                stamp: stamp(age_ms),
                created: stamp(created_ms),
                author: "spiffe://cluster.local/operator/admin".parse().unwrap(),
                body: body.map(str::to_owned),
                chain: der_chain(&mesh.operator.chain),
                signature: Vec::new(),
            };
            document.signature = mesh.operator.key.sign(&document.signed_bytes());
            KeptVersion { document, written_here }
        };
        let first = version(90, 90, Some(r#"{"a":1}"#), true);
        let second = version(80, 90, Some(r#"{"a":2}"#), false);
        let back = version(70, 90, Some(r#"{"a":1}"#), false);
        let gone = version(60, 90, None, false);
        let anew = version(50, 50, Some(r#"{"a":1}"#), true);
        let is_genuine = |document: &SignedDocument| verify(document, &authority);
        let mut gathered = Gathered { key: &key, versions: BTreeMap::new() };
        gathered.add("a", vec![first.clone(), second.clone(), back.clone()], is_genuine).unwrap();
        gathered.add("b", vec![second.clone(), gone.clone(), anew.clone()], is_genuine).unwrap();
        let told = gathered.told().unwrap();
        let lines: Vec<_> =
            told.iter().map(|one| (one.event.as_str(), one.node.as_deref(), one.same_as, one.body.is_some())).collect();
        let id = |kept: &KeptVersion| Some(kept.document.version().id());
        assert_eq!(
            lines,
            [
                ("created", Some("b"), id(&back), true),
                ("deleted", None, None, false),
                ("configured", None, id(&first), true),
                ("configured", None, None, true),
                ("created", Some("a"), None, true),
            ]
        );
        assert_eq!(told[0].body, Some(serde_json::json!({ "a": 1 })));

        let mut forged = version(10, 90, Some("{}"), true);
        forged.document.body = Some(r#"{"a":3}"#.into());
        let other = DocumentKey { name: "ratings".into(), ..key.clone() };
        let elsewhere = KeptVersion { document: SignedDocument { key: other, ..gone.document }, written_here: false };
        for wrong in [forged, elsewhere] {
            gathered.add("c", vec![wrong], is_genuine).unwrap_err();
            assert_eq!(gathered.versions.len(), 5);
        }
    }
}
