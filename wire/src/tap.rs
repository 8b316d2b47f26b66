//! A tap: an operator's leave, for one node, to watch requests of the whole mesh for a while.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    codec,
    id::{NodeName, SpiffeId},
};

/// Longest question of a tap, in bytes.
pub const MAX_TAP_QUERY_LEN: usize = 4 * 1024;
/// The longest time that a tap may last, in milliseconds.
pub const MAX_TAP_MS: u64 = 30 * 60 * 1_000;

/// Signed like a document, by whoever may write documents; but it is given to nobody but the nodes that are asked, and
/// kept by none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SignedTap {
    /// Tells it from others.
    pub id: u64,
    /// The node that reads it: from no other is it taken, so that nobody can use what was asked of them.
    pub reader: NodeName,
    pub author: SpiffeId,
    /// When it was signed, in milliseconds since 1970, and for how long it is good.
    pub at_ms: u64,
    pub for_ms: u64,
    /// Which requests, and how much of them: JSON, as the admin API is asked.
    pub query: String,
    /// The author's certificate and its issuers, DER, leaf first, without the root.
    pub chain: Vec<Vec<u8>>,
    /// ECDSA P-256 with SHA-256, ASN.1, over [`SignedTap::signed_bytes`], by the leaf's key.
    pub signature: Vec<u8>,
}

impl SignedTap {
    /// What the signature covers: everything but the chain and itself, in a domain of its own.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let Self { id, reader, author, at_ms, for_ms, query, .. } = self;
        codec::signing_bytes("weft/tap/1", &(id, reader, author, at_ms, for_ms, query))
    }
}
