//! Documents: what operators tell the mesh. They are signed by their author, stored by every node, and outlive both.
//!
//! The newest stamp wins, whole document against whole document; a document without a body is a deletion.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    codec,
    id::{Namespace, SpiffeId},
};

/// Largest body of a document, in bytes of JSON.
pub const MAX_DOCUMENT_LEN: usize = 256 * 1024;
/// So many versions of a document, the newest, are kept.
pub const MAX_VERSIONS: usize = 10;

/// What a document is about. Two documents with the same key are versions of one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct DocumentKey {
    /// API group, empty for the core group, such as `networking.istio.io`.
    pub group: String,
    /// Such as `VirtualService`.
    pub kind: String,
    /// The namespace, `None` for kinds that have none.
    pub namespace: Option<Namespace>,
    pub name: String,
}

impl fmt::Display for DocumentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if let Some(namespace) = &self.namespace {
            write!(f, " {namespace}/{}", self.name)
        } else {
            write!(f, " {}", self.name)
        }
    }
}

/// A hybrid logical clock stamp: wall-clock milliseconds since 1970, then a counter (Kulkarni et al., "Logical
/// Physical Clocks", 2014).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Stamp {
    pub millis: u64,
    pub counter: u16,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.millis, self.counter)
    }
}

/// One version of a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SignedDocument {
    pub key: DocumentKey,
    pub stamp: Stamp,
    /// The stamp of the document's first version, which decides what is "oldest" where Istio's rules ask.
    pub created: Stamp,
    pub author: SpiffeId,
    /// The document as JSON; `None` deletes.
    pub body: Option<String>,
    /// The author's certificate and its issuers, DER, leaf first, without the root.
    pub chain: Vec<Vec<u8>>,
    /// ECDSA P-256 with SHA-256, ASN.1, over [`SignedDocument::signed_bytes`], by the leaf's key.
    pub signature: Vec<u8>,
}

impl SignedDocument {
    /// What the signature covers: everything but the chain and itself, in a domain of its own.
    pub fn signed_bytes(&self) -> Vec<u8> {
        codec::signing_bytes("weft/document/1", &(&self.key, self.stamp, self.created, &self.author, &self.body))
    }

    /// What decides between two versions: the later stamp, then the author, then the content, so that all nodes
    /// choose alike even if an author breaks the rules.
    pub fn version(&self) -> DocumentVersion {
        DocumentVersion { stamp: self.stamp, author: self.author.clone(), hash: self.hash() }
    }

    /// First 16 bytes of the SHA-256 of what is signed.
    pub fn hash(&self) -> [u8; 16] {
        let hash = digest::digest(&digest::SHA256, &self.signed_bytes());
        let mut short = [0; 16];
        short.copy_from_slice(&hash.as_ref()[..16]);
        short
    }
}

/// Orders the versions of one document: the higher one holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DocumentVersion {
    pub stamp: Stamp,
    pub author: SpiffeId,
    pub hash: [u8; 16],
}

impl DocumentVersion {
    /// How it is written.
    pub fn id(&self) -> VersionId {
        let [a, b, c, d, ..] = self.hash;
        VersionId { stamp: self.stamp, hash: u32::from_be_bytes([a, b, c, d]) }
    }
}

/// A version of a document as a node has kept it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptVersion {
    pub document: SignedDocument,
    /// It was at this node that it was written; or so the node says, which nobody signs.
    pub written_here: bool,
}

/// A version of a document as people and programs write it, `MILLIS.COUNTER-HASH`: Kubernetes'
/// `metadata.resourceVersion`. Enough to tell whether a document is still what somebody has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct VersionId {
    stamp: Stamp,
    /// The beginning of the version's hash.
    hash: u32,
}

/// A text is no [`VersionId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no version of a document: `weft get -o yaml` shows it as metadata.resourceVersion")]
pub struct NoVersion(String);

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08x}", self.stamp, self.hash)
    }
}

impl FromStr for VersionId {
    type Err = NoVersion;

    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let read = || {
            let (stamp, hash) = text.split_once('-')?;
            let (millis, counter) = stamp.split_once('.')?;
            let stamp = Stamp { millis: millis.parse().ok()?, counter: counter.parse().ok()? };
            Some(Self { stamp, hash: u32::from_str_radix(hash, 16).ok()? })
        };
        // In one way only, so that texts may be compared.
        read().filter(|version| version.to_string() == text).ok_or_else(|| NoVersion(text.into()))
    }
}

impl TryFrom<String> for VersionId {
    type Error = NoVersion;
    fn try_from(text: String) -> Result<Self, NoVersion> {
        text.parse()
    }
}

impl From<VersionId> for String {
    fn from(version: VersionId) -> Self {
        version.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_as_it_is_written_and_in_no_other_way() {
        let version = DocumentVersion {
            stamp: Stamp { millis: 1_700_000_000_123, counter: 2 },
            author: "spiffe://cluster.local/operator/admin".parse().unwrap(),
            hash: [0, 1, 0xab, 0xcd, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9],
        };
        let text = version.id().to_string();
        assert_eq!(text, "1700000000123.2-0001abcd");
        assert_eq!(text.parse(), Ok(version.id()));
        for wrong in [
            "",
            "12",
            "1.2",
            "1-0001abcd",
            "1.2-1abcd",
            "1.2-0001ABCD",
            "01.2-0001abcd",
            "+1.2-0001abcd",
            "1.2-0001abcd ",
        ] {
            assert_eq!(wrong.parse::<VersionId>(), Err(NoVersion(wrong.into())));
        }
    }
}
