//! What `weft init` makes: a root, and on its first node an issuer, a node identity and an operator's credential.

use rustls_pki_types::{CertificateDer, UnixTime};
use weft_wire::id::{AccountName, AccountPattern, Grant, NodeName, Role, TrustDomain};

use crate::{
    CaError, csr,
    issuer::{Issuer, Root},
    key::PrivateKey,
};

/// The first operator's name.
const FIRST_OPERATOR: &str = "admin";

/// A private key and its certificates, leaf first, without the root.
#[derive(Debug)]
pub struct Credential {
    pub key: PrivateKey,
    pub chain: Vec<CertificateDer<'static>>,
}

/// A mesh of one node, not yet on any disk.
#[derive(Debug)]
pub struct NewMesh {
    pub root: Root,
    pub issuer: Issuer,
    /// Of role `ca`, for every service account.
    pub node: Credential,
    /// The operator `admin`.
    pub operator: Credential,
}

/// Makes all that a new mesh needs, on the host of its first node.
///
/// # Errors
/// [`CaError::Crypto`] if the host cannot make keys.
pub fn create_mesh(trust_domain: &TrustDomain, node: &NodeName, now: UnixTime) -> Result<NewMesh, CaError> {
    let root = Root::create(trust_domain, now)?;

    let issuer_key = PrivateKey::generate()?;
    let intermediate = root.sign_intermediate(node, &csr::create(&issuer_key)?, now)?;
    let issuer = Issuer::open(issuer_key, vec![intermediate])?;

    let node_key = PrivateKey::generate()?;
    let grant = Grant { role: Role::Ca, accounts: vec![AccountPattern::Any] };
    let node_chain = issuer.sign_node(node, &grant, &csr::create(&node_key)?, now)?;

    let operator_key = PrivateKey::generate()?;
    let name: AccountName = FIRST_OPERATOR.parse().expect("a valid label");
    let operator_chain = vec![root.sign_operator(&name, &csr::create(&operator_key)?, now)?];

    Ok(NewMesh {
        root,
        issuer,
        node: Credential { key: node_key, chain: node_chain },
        operator: Credential { key: operator_key, chain: operator_chain },
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::trust::TrustBundle;

    #[test]
    fn a_new_mesh_believes_its_own_node_and_operator() {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
        let mesh = create_mesh(&"cluster.local".parse().unwrap(), &"seed".parse().unwrap(), now).unwrap();
        let bundle = TrustBundle::new(vec![mesh.root.certificate().clone()]).unwrap();
        assert_eq!(bundle.mesh_id(), mesh.root.mesh_id());

        let node = bundle.verify_chain(&mesh.node.chain, now).unwrap();
        assert_eq!(node.id.to_string(), "spiffe://cluster.local/node/seed");
        let grant = node.grant.unwrap();
        assert_eq!(grant.role, Role::Ca);
        assert!(grant.allows(&"any/thing".parse().unwrap()));

        let operator = bundle.verify_chain(&mesh.operator.chain, now).unwrap();
        assert_eq!(operator.id.to_string(), "spiffe://cluster.local/operator/admin");
        assert_eq!(operator.grant.unwrap().role, Role::Admin);
    }
}
