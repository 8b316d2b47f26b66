//! Peers' certificate chains that were verified: most handshakes are with a peer that has been here before, and checking
//! the signatures of its chain again is a large part of what they cost.
//!
//! What is remembered is what does not change while the roots stay the same: that the signatures are right, and for how
//! long the certificates hold. What may change is asked at each handshake, after this: what is revoked, who is expected,
//! who may call.

use std::{hash::Hash, sync::Arc};

use aws_lc_rs::digest::{self, SHA256, SHA256_OUTPUT_LEN};
use foldhash::HashMap;
use parking_lot::Mutex;
use rustls::{Error, RootCertStore, crypto::WebPkiSupportedAlgorithms};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::KeyUsage;

use super::{Peer, refused, verify_chain};

/// So many chains are remembered, and as many again of those that were asked for less lately: far more than one node
/// has peers at a time. One takes some 200 bytes.
const MOST: usize = 1024;

/// What a peer is in a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// The chains that were verified. Shared by all workers.
#[derive(Default)]
pub(super) struct VerifiedChains(Mutex<Remembered>);

/// Two generations: what is asked for is moved to the young one, and when that is full, the old one is forgotten.
#[derive(Default)]
struct Remembered {
    /// Against which they were verified.
    roots: Option<Arc<RootCertStore>>,
    young: HashMap<Key, Verified>,
    old: HashMap<Key, Verified>,
}

/// SHA-256 of the role and the whole chain.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key([u8; SHA256_OUTPUT_LEN]);

#[derive(Clone)]
struct Verified {
    peer: Arc<Peer>,
    hold: Validity,
}

/// The seconds in which all certificates of a chain hold, the first and the last with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Validity {
    from: u64,
    until: u64,
}

impl VerifiedChains {
    /// Who the peer is: its chain ends in one of the roots, and all of it holds now.
    ///
    /// # Errors
    /// It does not, or names nobody.
    pub(super) fn verify(
        &self,
        roots: &Arc<RootCertStore>,
        algorithms: WebPkiSupportedAlgorithms,
        role: Role,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Arc<Peer>, Error> {
        let key = Key::of(role, end_entity, intermediates);
        if let Some(known) = self.0.lock().find(roots, &key, now) {
            return Ok(known);
        }
        let usage = match role {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let intermediate = verify_chain(roots, algorithms, end_entity, intermediates, now, usage, None)?;
        let peer = Arc::new(Peer::of(end_entity, intermediate).map_err(refused)?);
        if let Some(hold) = Validity::of(end_entity, intermediates) {
            self.0.lock().remember(roots, key, Verified { peer: peer.clone(), hold });
        }
        Ok(peer)
    }
}

impl Remembered {
    fn find(&mut self, roots: &Arc<RootCertStore>, key: &Key, now: UnixTime) -> Option<Arc<Peer>> {
        if !self.are_of(roots) {
            return None;
        }
        let found = self.young.get(key).cloned().or_else(|| {
            let found = self.old.remove(key)?;
            self.insert(*key, found.clone());
            Some(found)
        })?;
        found.hold.includes(now).then_some(found.peer)
    }

    fn are_of(&self, roots: &Arc<RootCertStore>) -> bool {
        self.roots.as_ref().is_some_and(|known| Arc::ptr_eq(known, roots))
    }

    fn remember(&mut self, roots: &Arc<RootCertStore>, key: Key, verified: Verified) {
        if !self.are_of(roots) {
            *self = Self { roots: Some(roots.clone()), ..Self::default() };
        }
        self.insert(key, verified);
    }

    fn insert(&mut self, key: Key, verified: Verified) {
        if self.young.len() >= MOST && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, verified);
    }
}

impl Key {
    fn of(role: Role, end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Self {
        let mut digest = digest::Context::new(&SHA256);
        digest.update(&[role as u8]);
        for certificate in std::iter::once(end_entity).chain(intermediates) {
            // With their lengths, so that no other certificates make the same bytes.
            digest.update(&(certificate.len() as u64).to_be_bytes());
            digest.update(certificate);
        }
        let mut key = [0; SHA256_OUTPUT_LEN];
        key.copy_from_slice(digest.finish().as_ref());
        Self(key)
    }
}

impl Validity {
    /// `None` if some certificate cannot be read, or there is no time at which all hold.
    fn of(end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Option<Self> {
        let mut all = Self { from: 0, until: u64::MAX };
        for certificate in std::iter::once(end_entity).chain(intermediates) {
            let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
            let validity = parsed.validity();
            let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).ok();
            all.from = all.from.max(seconds(validity.not_before)?);
            all.until = all.until.min(seconds(validity.not_after)?);
        }
        (all.from <= all.until).then_some(all)
    }

    fn includes(self, now: UnixTime) -> bool {
        (self.from..=self.until).contains(&now.as_secs())
    }
}

#[cfg(test)]
mod tests;
