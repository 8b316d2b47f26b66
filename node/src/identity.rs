//! Who this node is: its key, its certificate, and whom it believes. The issuer actor swaps in a new one at each
//! renewal; everybody else reads.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, UnixTime},
    sign::CertifiedKey,
};
use weft_ca::{
    key::PrivateKey,
    keyfile,
    revocation::Revocations,
    trust::{PeerIdentity, TrustBundle},
};
use weft_discovery::authority::{Authority, Signer};
use weft_wire::id::{Grant, NodeName, TrustDomain};

use crate::{
    dir::{Credential, Dir},
    peer::tls,
};

/// The current identity of this node.
pub type IdentityReader = Arc<ArcSwap<NodeIdentity>>;

#[derive(Clone)]
pub struct NodeIdentity {
    pub name: NodeName,
    pub grant: Grant,
    pub key: Arc<PrivateKey>,
    /// Leaf first, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// What the certificate says.
    pub certificate: PeerIdentity,
    pub trust: TrustBundle,
    /// What members are shown.
    pub member_key: Arc<CertifiedKey>,
    /// What joining hosts are shown: the root too.
    pub join_key: Arc<CertifiedKey>,
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeIdentity").field("name", &self.name).finish_non_exhaustive()
    }
}

impl NodeIdentity {
    /// Puts an identity together and checks that its parts belong together. An expired certificate passes: a node
    /// must come back from its disk alone, and renews it then.
    pub fn new(key: Arc<PrivateKey>, chain: Vec<CertificateDer<'static>>, trust: TrustBundle) -> anyhow::Result<Self> {
        let own = tls::judge(&trust, &chain, UnixTime::now())?.identity;
        let Some(name) = own.id.as_node().cloned() else { bail!("{} is not a node's identity", own.id) };
        let grant = own.grant.clone().context("the node's certificate grants nothing: join again")?;
        if own.public_key != key.public_key() {
            bail!("the node's key is not the one in its certificate");
        }
        let with_root: Vec<_> = chain.iter().chain(trust.roots()).cloned().collect();
        let certified = |chain: Vec<CertificateDer<'static>>| certified_key(&key, chain);
        Ok(Self {
            name,
            grant,
            member_key: certified(chain.clone())?,
            join_key: certified(with_root)?,
            certificate: own,
            key,
            chain,
            trust,
        })
    }

    /// Reads the identity that `weft init` or `weft join` left.
    pub fn load(dir: &Dir) -> anyhow::Result<Self> {
        if !dir.node().exists() {
            bail!(
                "there is no node identity in {}: create a mesh with `weft init` or enter one with `weft join`",
                dir.path().display()
            );
        }
        let trust = TrustBundle::new(keyfile::read_chain(&dir.roots())?)?;
        let Credential { cert, key } = dir.node();
        Self::new(Arc::new(keyfile::read_key(&key)?), keyfile::read_chain(&cert)?, trust)
            .with_context(|| format!("the node identity in {}", dir.path().display()))
    }

    /// The same, of somebody who believes no certificate that is revoked.
    pub fn with_revocations(&self, revocations: Arc<Revocations>) -> Self {
        Self { trust: self.trust.with_revocations(revocations), ..self.clone() }
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        self.trust.trust_domain()
    }

    /// The roots as rustls wants them.
    pub fn root_store(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.trust.roots().iter().cloned());
        roots
    }
}

/// A key and its chain as rustls shows them.
pub fn certified_key(key: &PrivateKey, chain: Vec<CertificateDer<'static>>) -> anyhow::Result<Arc<CertifiedKey>> {
    let signer = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key.to_tls())?;
    Ok(Arc::new(CertifiedKey::new(chain, signer)))
}

/// Judges what other nodes and operators signed, by the roots and revocations that this node knows now.
#[derive(Clone)]
pub struct MeshAuthority(pub IdentityReader);

impl Authority for MeshAuthority {
    fn signer(&self, chain: &[Vec<u8>], signed: &[u8], signature: &[u8], at_ms: u64) -> Result<Signer, String> {
        let at = UnixTime::since_unix_epoch(Duration::from_millis(at_ms));
        let peer = self.0.load().trust.verify_chain(chain, at).map_err(|error| error.to_string())?;
        peer.verify_signature(signed, signature).map_err(|error| error.to_string())?;
        Ok(Signer { id: peer.id, grant: peer.grant })
    }
}

/// Milliseconds since 1970, for stamps; [`UnixTime::now`] has the seconds.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// A chain as facts and documents carry it.
pub fn der_chain(chain: &[CertificateDer<'_>]) -> Vec<Vec<u8>> {
    chain.iter().map(|certificate| certificate.to_vec()).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use weft_ca::init::{self, NewMesh};

    use super::*;

    /// The identity of the node `a`, which founded a mesh, and what else came of that.
    pub(crate) fn founder() -> (IdentityReader, NewMesh) {
        let mesh =
            init::create_mesh(&"cluster.local".parse().unwrap(), &"a".parse().unwrap(), UnixTime::now()).unwrap();
        let trust = TrustBundle::new(vec![mesh.root.certificate().clone()]).unwrap();
        let key = PrivateKey::from_pem(mesh.node.key.to_pem().as_bytes()).unwrap();
        let identity = NodeIdentity::new(Arc::new(key), mesh.node.chain.clone(), trust).unwrap();
        (Arc::new(ArcSwap::from_pointee(identity)), mesh)
    }
}
