//! Facts: what a node says about itself, signed with its node key, so that whoever relays one cannot change it.
//!
//! A fact is a register: one owner, one kind, and the highest `(incarnation, seq)` wins. It dies with its owner.

use std::{collections::BTreeMap, net::IpAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    codec::{self, WireError},
    id::{AccountName, Locality, NodeName, ServiceAccount, ServiceName, WorkloadName},
};

/// Largest encoded body of one fact: about 300 endpoints.
pub const MAX_FACT_BODY_LEN: usize = 64 * 1024;
/// Most endpoints of one node.
pub const MAX_ENDPOINTS: usize = 300;
/// Most labels of a node, and of a workload.
pub const MAX_LABELS: usize = 32;

/// One node's claim. Kinds that this build does not know are kept and forwarded, never parsed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedFact {
    pub owner: NodeName,
    /// Counts the owner's starts; kept on its disk.
    pub incarnation: u64,
    /// Counts the owner's changes since that start.
    pub seq: u64,
    pub kind: FactKind,
    /// The claim, encoded as its kind says.
    pub body: Vec<u8>,
    /// The owner's certificate and its issuers, DER, leaf first, without the root.
    pub chain: Vec<Vec<u8>>,
    /// ECDSA P-256 with SHA-256, ASN.1, over [`SignedFact::signed_bytes`], by the leaf's key.
    pub signature: Vec<u8>,
}

/// What a fact is about, and how its body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FactKind(pub u16);

impl FactKind {
    /// The body is a [`NodeRecord`].
    pub const NODE: Self = Self(1);
    /// The body is a [`SpentTokens`]; only a CA node's counts.
    pub const SPENT_TOKENS: Self = Self(2);
    /// The body is a [`crate::circuit::CircuitRecord`]. It is not kept on disk: after a restart it is no longer true.
    pub const CIRCUITS: Self = Self(3);
    /// The body is a [`crate::cell::Wants`]. It stays within the owner's cell.
    pub const WANTS: Self = Self(4);
    /// The body is a [`crate::cell::CellSummary`]; only a relay's counts.
    pub const CELL: Self = Self(5);
    /// The body is a [`crate::cell::RelayWord`]; only a relay's counts.
    pub const RELAY: Self = Self(6);
}

impl SignedFact {
    /// What the signature covers: everything but the chain and itself, in a domain of its own.
    pub fn signed_bytes(&self) -> Vec<u8> {
        codec::signing_bytes("weft/fact/1", &(&self.owner, self.incarnation, self.seq, self.kind, &self.body))
    }

    /// Order among the facts of one owner and kind: the higher one holds.
    pub fn version(&self) -> FactVersion {
        FactVersion { incarnation: self.incarnation, seq: self.seq }
    }
}

/// Orders the facts of one owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FactVersion {
    pub incarnation: u64,
    pub seq: u64,
}

/// A node, and every endpoint that it hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Where peers reach the node, both UDP (QUIC) and TCP (data), on [`crate::frame::MESH_PORT`].
    pub advertise: IpAddr,
    pub state: NodeState,
    pub locality: Locality,
    pub labels: BTreeMap<String, String>,
    /// The build's version, such as `0.1.0`.
    pub build: String,
    pub endpoints: Vec<EndpointRow>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    Up,
    /// Stops soon: send nothing new.
    Draining,
    /// Given up for good: the name is free. The owner's last word.
    Left,
    /// Ended, and will be back under this name.
    Stopped,
}

impl NodeState {
    /// Whether the node serves nothing any more.
    pub fn is_gone(self) -> bool {
        matches!(self, Self::Left | Self::Stopped)
    }
}

/// One workload that a node hosts for a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRow {
    pub service: ServiceName,
    pub workload: WorkloadName,
    /// In the service's namespace.
    pub service_account: AccountName,
    /// Istio's `version` label, or empty.
    pub version: String,
    pub labels: BTreeMap<String, String>,
    /// The service's port, which clients name.
    pub port: u16,
    /// The port that the workload itself listens on.
    pub target_port: u16,
    pub protocol: Protocol,
    pub health: EndpointHealth,
}

impl EndpointRow {
    pub fn account(&self) -> ServiceAccount {
        ServiceAccount { namespace: self.service.namespace.clone(), name: self.service_account.clone() }
    }

    /// What selectors see: the labels, with `app` and `version` where only the service and the version are given.
    pub fn selector_labels(&self) -> BTreeMap<&str, &str> {
        let mut labels: BTreeMap<&str, &str> = self.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        labels.entry("app").or_insert(self.service.name.as_str());
        if !self.version.is_empty() {
            labels.entry("version").or_insert(&self.version);
        }
        labels
    }
}

/// How a service's bytes are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    Grpc,
    Tcp,
    /// Nobody said: what the two sides send first tells.
    #[default]
    Auto,
}

impl Protocol {
    /// Whether requests may be sent there.
    pub fn is_http(self) -> bool {
        self != Self::Tcp
    }
    /// Whether the workload speaks HTTP/2 with prior knowledge.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::Auto => "auto",
        }
    }
}

/// What the hosting node says of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointHealth {
    Healthy,
    Unhealthy,
    /// Finishes what it has; gets nothing new.
    Draining,
    /// Healthy, on a node with more to do than it can: others are better.
    Overloaded,
}

impl EndpointHealth {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Draining => "draining",
            Self::Overloaded => "overloaded",
        }
    }
}

/// How often each join token was used at one CA node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpentTokens {
    pub uses: BTreeMap<[u8; 8], u32>,
}

/// A fact body that has a kind.
pub trait FactBody: Serialize + for<'de> Deserialize<'de> {
    const KIND: FactKind;

    fn encode(&self) -> Result<Vec<u8>, WireError> {
        codec::encode(self, MAX_FACT_BODY_LEN)
    }
    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        codec::decode(bytes, MAX_FACT_BODY_LEN)
    }
}
impl FactBody for NodeRecord {
    const KIND: FactKind = FactKind::NODE;
}
impl FactBody for SpentTokens {
    const KIND: FactKind = FactKind::SPENT_TOKENS;
}
