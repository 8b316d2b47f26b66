//! What nodes say to each other over QUIC, once the connection's certificates say who is talking.
//!
//! A unidirectional stream carries one message: gossip or a [`Push`]. A bidirectional stream carries one [`Request`]
//! and its [`Response`].

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{
    codec::WireError,
    document::{DocumentKey, DocumentVersion, KeptVersion, MAX_VERSIONS, SignedDocument},
    fact::{FactKind, FactVersion, SignedFact},
    id::{AccountName, Namespace, NodeId},
    secret::{SecretDigest, SecretPayload},
    tap::{MAX_TAP_QUERY_LEN, SignedTap},
};

/// The port of a node, for QUIC (UDP) and for data (TCP).
pub const MESH_PORT: u16 = 15008;
/// ALPN of connections between members; both sides show a node certificate.
pub const ALPN_MEMBER: &[u8] = b"weft/1";
/// ALPN of a joining host's connection; only the server shows a certificate, pinned by the token's mesh id.
pub const ALPN_JOIN: &[u8] = b"weft-join/1";

/// Largest message on any stream.
pub const MAX_FRAME_LEN: usize = 4 * 1024 * 1024;
/// Largest [`Push`]: more than the largest fact or document with its chain. Small, because a peer's pushes wait in
/// queues that are bounded by number.
pub const MAX_PUSH_LEN: usize = 512 * 1024;
/// Most facts or documents of one [`Push`]: each may cost its receiver the verification of a chain.
pub const MAX_PUSH_ITEMS: usize = 512;
/// Most versions that a [`Request`] says to have.
pub const MAX_HAVE_ITEMS: usize = 64 * 1024;
/// Longest finding about a caller, in bytes.
pub const MAX_DECISION_LEN: usize = 16 * 1024;
/// Bytes of a node's list of who sends plaintext.
pub const MAX_PLAINTEXT_LEN: usize = 512 * 1024;
/// Bytes of what a node tells of its traffic, or of what has happened.
pub const MAX_TOLD_LEN: usize = 512 * 1024;
/// Longest question for spans or lines of access logs, in bytes.
pub const MAX_SPANS_QUERY_LEN: usize = 4 * 1024;
/// Largest message of gossip.
pub const MAX_GOSSIP_LEN: usize = 64 * 1024;
/// Largest message on a joining host's stream, read before anything is known of the sender.
pub const MAX_JOIN_FRAME_LEN: usize = 16 * 1024;

/// First byte of a unidirectional stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum UniKind {
    /// The rest is one message of the membership protocol, opaque here.
    Gossip = 1,
    /// The rest is one encoded [`Push`].
    Push = 2,
    /// Nothing follows: there was more to push than the queue for this peer took, which it may ask for.
    Missed = 3,
}

impl UniKind {
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Gossip),
            2 => Some(Self::Push),
            3 => Some(Self::Missed),
            _ => None,
        }
    }
}

/// News that is passed on to every neighbour that may not have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Push {
    Facts(Vec<SignedFact>),
    Documents(Vec<SignedDocument>),
}

impl Push {
    /// # Errors
    /// [`WireError::TooMany`] for more than [`MAX_PUSH_ITEMS`].
    pub fn check(&self) -> Result<(), WireError> {
        let items = match self {
            Self::Facts(facts) => facts.len(),
            Self::Documents(documents) => documents.len(),
        };
        at_most(items, MAX_PUSH_ITEMS)
    }
}

fn at_most(items: usize, limit: usize) -> Result<(), WireError> {
    if items > limit { Err(WireError::TooMany { items, limit }) } else { Ok(()) }
}

/// A question to a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// "Send me the facts that are newer than these, or not among them."
    PullFacts { have: Vec<(NodeId, FactKind, FactVersion)> },
    /// "Send me the documents that are newer than these, or not among them."
    PullDocuments { have: Vec<(DocumentKey, DocumentVersion)> },
    /// "Renew my node certificate." The connection's certificate says whose.
    RenewNode { csr: Vec<u8> },
    /// "Certify this key for a service account." The connection's certificate says whether it may be hosted there.
    CertifyWorkload { namespace: Namespace, account: AccountName, csr: Vec<u8> },
    /// "Renew my intermediate." The connection's certificate says whose, and whether it is a CA node's; only a CA node
    /// that holds the root can.
    RenewIssuer { csr: Vec<u8> },
    /// "Send me the content of this Secret of which this is the digest." The connection's certificate says who asks;
    /// only who needs it is answered.
    PullSecret { key: DocumentKey, digest: SecretDigest },
    /// "Keep these Secrets for the mesh": their documents and, in the same order, their contents. Asked of nodes that
    /// may write documents, by a node that may not.
    KeepSecrets { documents: Vec<SignedDocument>, contents: Vec<SecretPayload> },
    /// "Tell me when your requests follow what I said of myself up to this version, and those sent before are answered."
    /// Asked before a node or a workload stops taking requests.
    AwaitFollowing { version: FactVersion },
    /// "What did your workloads' policies find against the caller that was told this id?"
    FindDecision { id: u64 },
    /// "Who sends plaintext to whom, as far as you see it?"
    ListPlaintext,
    /// "Which versions of this document have you kept?"
    ListVersions { key: DocumentKey },
    /// "What do you hold, if it is not what has this digest, and what of it can you not read?"
    CompareDocuments { root: [u8; 16] },
    /// "Who calls whom, how often and how well, in your last so many milliseconds?"
    ListTraffic { window_ms: u32 },
    /// "What has happened in your last so many seconds?"
    ListEvents { seconds: u32 },
    /// "Can you reach me, at the address of the connection?" The other way is proven by the question.
    ReachMe,
    /// "Which spans do you have like this?", in JSON, as the admin API is asked.
    FindSpans { query: String },
    /// "Who has called whom in so many points, each of so many steps of ten seconds, the first of which is the `first` since
    /// 1970?"
    ListTrafficHistory { first: u64, steps_per_point: u64, points: u64 },
    /// "What has gone by since I asked last?" Only of the node that the tap names.
    ReadTap(Box<SignedTap>),
    /// "How long are the certificates of the workloads that you host still good?"
    ListCertificates,
    /// "Which of the latest lines of your access logs are about this?", in JSON, as the admin API is asked. Only of a node
    /// that may write documents.
    ListLog { query: String },
}

impl Request {
    /// # Errors
    /// [`WireError::TooMany`] for more than [`MAX_HAVE_ITEMS`], or [`MAX_PUSH_ITEMS`] Secrets; [`WireError::TooLarge`] for a
    /// question of more than [`MAX_SPANS_QUERY_LEN`], or of a tap of more than [`MAX_TAP_QUERY_LEN`];
    /// [`WireError::Malformed`] for a Secret that is out of bounds.
    pub fn check(&self) -> Result<(), WireError> {
        match self {
            Self::PullFacts { have } => at_most(have.len(), MAX_HAVE_ITEMS),
            Self::PullDocuments { have } => at_most(have.len(), MAX_HAVE_ITEMS),
            Self::KeepSecrets { documents, contents } => {
                at_most(documents.len().max(contents.len()), MAX_PUSH_ITEMS)?;
                contents.iter().try_for_each(check_content)
            }
            Self::FindSpans { query } | Self::ListLog { query } => at_most_bytes(query, MAX_SPANS_QUERY_LEN),
            Self::ReadTap(tap) => at_most_bytes(&tap.query, MAX_TAP_QUERY_LEN),
            _ => Ok(()),
        }
    }
}

fn at_most_bytes(text: &str, limit: usize) -> Result<(), WireError> {
    if text.len() > limit { Err(WireError::TooLarge { len: text.len(), limit }) } else { Ok(()) }
}

fn check_content(content: &SecretPayload) -> Result<(), WireError> {
    if content.is_bounded() { Ok(()) } else { Err(WireError::Malformed("a Secret is out of bounds".into())) }
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    Facts(Vec<SignedFact>),
    Documents(Vec<SignedDocument>),
    /// A certificate chain, leaf first, without the root; and the roots to trust.
    Certificate {
        chain: Vec<Vec<u8>>,
        roots: Vec<Vec<u8>>,
    },
    /// Not done, and why, in words for a person.
    Refused {
        why: String,
    },
    Secret(SecretPayload),
    /// Done, on disk.
    Kept,
    /// New requests follow what the asker said.
    Following,
    /// The finding as the admin API tells it, in JSON, which nodes of other versions can read too; `None` if it is not
    /// known.
    Decision {
        json: Option<String>,
    },
    /// The list as the admin API tells it, in JSON, which nodes of other versions can read too.
    Plaintext {
        json: String,
    },
    /// The oldest first.
    Versions(Vec<KeptVersion>),
    Holdings(Holdings),
    /// The answer to `ListTraffic`, `ListTrafficHistory`, `ListEvents`, `ReachMe`, `FindSpans`, `ReadTap`, `ListCertificates`
    /// and `ListLog` as the admin API tells it, in JSON, which nodes of other versions can read too.
    Told {
        json: String,
    },
}

/// What documents a node holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holdings {
    /// The digest of all.
    pub root: [u8; 16],
    /// Deletions among them. Left out where the digest is that of the question.
    pub versions: Vec<(DocumentKey, DocumentVersion)>,
    /// Those of which this version is not in force there, because the node cannot read or use it.
    pub unreadable: Vec<DocumentKey>,
}

impl Response {
    /// # Errors
    /// [`WireError::Malformed`] for a Secret that is out of bounds, [`WireError::TooLarge`] for a finding of more than
    /// [`MAX_DECISION_LEN`] or a list of more than [`MAX_PLAINTEXT_LEN`] or
    /// [`MAX_TOLD_LEN`], [`WireError::TooMany`] for more than
    /// [`MAX_VERSIONS`] of one document or [`MAX_HAVE_ITEMS`] of all.
    pub fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Secret(content) => check_content(content),
            Self::Decision { json: Some(json) } => at_most_bytes(json, MAX_DECISION_LEN),
            Self::Plaintext { json } => at_most_bytes(json, MAX_PLAINTEXT_LEN),
            Self::Versions(versions) => at_most(versions.len(), MAX_VERSIONS),
            Self::Holdings(holdings) => at_most(holdings.versions.len().max(holdings.unreadable.len()), MAX_HAVE_ITEMS),
            Self::Told { json } => at_most_bytes(json, MAX_TOLD_LEN),
            _ => Ok(()),
        }
    }
}

/// What a joining host asks a seed, after it has checked the seed against the token's mesh id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinQuestion {
    /// "Which nodes issue certificates?" All that a host asks of a seed whose certificate does not make it a CA: the
    /// token is shown to CA nodes only.
    WhoIssues,
    Join(Box<JoinRequest>),
}

/// A host's request for a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The token's text, as printed by `weft token create`.
    pub token: String,
    /// The name that the node asks for.
    pub name: String,
    /// PKCS#10, DER. Only its key and the proof that the host has it are used.
    pub csr: Vec<u8>,
    /// PKCS#10 for the intermediate of a joining CA node; absent for other roles.
    pub issuer_csr: Option<Vec<u8>>,
}

/// What the seed answers to a [`JoinQuestion`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinResponse {
    Welcome(Box<Welcome>),
    /// These nodes issue certificates.
    Issuers(Vec<SocketAddr>),
    /// Not done, and why, in words for a person.
    Refused {
        why: String,
    },
}

/// Everything a host needs to be a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The node's certificate and its issuers, DER, leaf first, without the root.
    pub chain: Vec<Vec<u8>>,
    /// For a joining CA node, its intermediate and that one's issuers, without the root.
    pub issuer_chain: Option<Vec<Vec<u8>>>,
    /// The roots to trust, DER.
    pub roots: Vec<Vec<u8>>,
    /// Nodes to gossip with first.
    pub peers: Vec<SocketAddr>,
}
