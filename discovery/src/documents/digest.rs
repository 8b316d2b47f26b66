//! A digest of a set of versions that costs the same to update however large the set is.
//!
//! Keys fall into buckets; a bucket is the sum of its versions' hashes, in which order plays no part. Comparing roots
//! tells whether two nodes differ; comparing buckets will tell where, once there are too many documents to list.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256, digest};
use weft_wire::{codec, document::DocumentKey};

const BUCKETS: usize = 1024;

pub(super) struct SetDigest {
    buckets: Vec<u128>,
}

impl SetDigest {
    pub(super) fn add(&mut self, key: &DocumentKey, hash: [u8; 16]) {
        let bucket = &mut self.buckets[bucket_of(key)];
        *bucket = bucket.wrapping_add(u128::from_be_bytes(hash));
    }

    pub(super) fn remove(&mut self, key: &DocumentKey, hash: [u8; 16]) {
        let bucket = &mut self.buckets[bucket_of(key)];
        *bucket = bucket.wrapping_sub(u128::from_be_bytes(hash));
    }

    /// First 16 bytes of the SHA-256 of all buckets.
    pub(super) fn root(&self) -> [u8; 16] {
        let mut context = Context::new(&SHA256);
        for bucket in &self.buckets {
            context.update(&bucket.to_be_bytes());
        }
        let mut root = [0; 16];
        root.copy_from_slice(&context.finish().as_ref()[..16]);
        root
    }
}

impl Default for SetDigest {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS] }
    }
}

impl fmt::Debug for SetDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.root())
    }
}

fn bucket_of(key: &DocumentKey) -> usize {
    let hash = digest(&SHA256, &codec::signing_bytes("weft/document-bucket/1", key));
    usize::from(u16::from_be_bytes([hash.as_ref()[0], hash.as_ref()[1]])) % BUCKETS
}
