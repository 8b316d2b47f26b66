//! What a certificate proves: path validation by rustls-webpki, then the mesh's own rules on top.

use std::{fmt, slice, sync::Arc};

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, aws_lc_rs::ECDSA_P256_SHA256};
use weft_wire::id::{Grant, MeshId, NodeName, Revoked, SpiffeId, Subject, TrustDomain};

use crate::{
    certificate::Fields,
    key::PublicKey,
    revocation::{Provenance, Reason, Revocations},
};

/// Most certificates in a chain that is looked at: leaf, intermediate, root and one to spare.
pub const MAX_CHAIN_LEN: usize = 4;
/// Largest certificate that is looked at, in bytes: a full grant and as much again.
pub const MAX_CERTIFICATE_LEN: usize = 8 * 1024;
/// Most roots in a bundle: a rotation needs two.
pub const MAX_ROOTS: usize = 8;

const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[ECDSA_P256_SHA256];

/// Why a chain, a root or a signature is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    #[error("a chain must be 1 to {MAX_CHAIN_LEN} certificates of {MAX_CERTIFICATE_LEN} bytes at most")]
    BadSize,
    #[error("not a certificate of a mesh: {0}")]
    Malformed(String),
    #[error("the certificate ended {ago_secs} s ago; its owner must renew it (is one of the two clocks wrong?)")]
    Expired { ago_secs: u64 },
    #[error("the certificate begins in {in_secs} s; one of the two hosts has a wrong clock")]
    NotYetValid { in_secs: u64 },
    #[error("the certificate was not signed by this mesh: none of its roots is behind it")]
    UnknownRoot,
    #[error("the certificate is of trust domain {found}, this mesh is {expected}")]
    WrongTrustDomain { found: String, expected: TrustDomain },
    #[error("the certificate's path is not valid: {0}")]
    BadPath(String),
    #[error("{0} has no grant in its certificate; it must be issued anew")]
    NoGrant(SpiffeId),
    #[error("its certificate was revoked, with all that were issued to {0} until then: it must join again")]
    Revoked(Revoked),
    #[error("its certificate was signed by the CA node {0}, which is revoked: it must get one from another CA node")]
    IssuerRevoked(NodeName),
    #[error("the signature was not made by {0}")]
    BadSignature(SpiffeId),
    #[error("a trust bundle must hold 1 to {MAX_ROOTS} roots of one trust domain: {0}")]
    BadBundle(String),
    #[error(
        "the seed belongs to another mesh than the token ({}): check the address, or ask that mesh for a token",
        Presented(presented)
    )]
    WrongMesh { presented: Option<MeshId> },
}

struct Presented<'a>(&'a Option<MeshId>);

impl fmt::Display for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(mesh) => write!(f, "it shows mesh {mesh}"),
            None => f.write_str("it shows no root at all"),
        }
    }
}

/// Somebody whose certificate was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    pub id: SpiffeId,
    /// Nodes and operators have one; workloads do not.
    pub grant: Option<Grant>,
    pub public_key: PublicKey,
    pub not_before: UnixTime,
    pub not_after: UnixTime,
    /// The leaf's serial number, big-endian.
    pub serial: Vec<u8>,
    pub provenance: Provenance,
}

impl PeerIdentity {
    /// Checks that this peer signed these bytes (ECDSA P-256 with SHA-256, ASN.1).
    ///
    /// # Errors
    /// [`TrustError::BadSignature`].
    pub fn verify_signature(&self, message: &[u8], signature: &[u8]) -> Result<(), TrustError> {
        if self.public_key.verify(message, signature) { Ok(()) } else { Err(TrustError::BadSignature(self.id.clone())) }
    }
}

/// The roots that this node believes.
#[derive(Clone)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    mesh_id: MeshId,
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    revocations: Arc<Revocations>,
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustBundle({}, mesh {}, {} roots)", self.trust_domain, self.mesh_id, self.roots.len())
    }
}

impl TrustBundle {
    /// Believes these roots from now on. The first one's key is the mesh's id.
    ///
    /// A root's own dates are not checked, as usual for trust anchors: nothing that it signed outlives it.
    ///
    /// # Errors
    /// [`TrustError::BadBundle`] if there is none, there are too many, or they are not CAs of one trust domain.
    pub fn new(roots: Vec<CertificateDer<'static>>) -> Result<Self, TrustError> {
        if roots.len() > MAX_ROOTS || roots.iter().any(|root| root.len() > MAX_CERTIFICATE_LEN) {
            return Err(TrustError::BadBundle("it is too large".into()));
        }
        let mut first: Option<(TrustDomain, MeshId)> = None;
        let mut anchors = Vec::with_capacity(roots.len());
        for root in &roots {
            let fields = Fields::of(root).map_err(TrustError::BadBundle)?;
            let domain = fields
                .authority_domain()
                .ok_or_else(|| TrustError::BadBundle("a root is not a CA named spiffe://TRUST_DOMAIN".into()))?;
            let (expected, _) = first.get_or_insert_with(|| (domain.clone(), fields.mesh_id));
            if *expected != domain {
                return Err(TrustError::BadBundle(format!("it has roots of {expected} and of {domain}")));
            }
            let anchor =
                anchor_from_trusted_cert(root).map_err(|error| TrustError::BadBundle(format!("a root: {error}")))?;
            anchors.push(anchor.to_owned());
        }
        let (trust_domain, mesh_id) = first.ok_or_else(|| TrustError::BadBundle("it is empty".into()))?;
        Ok(Self { trust_domain, mesh_id, roots, anchors, revocations: Arc::default() })
    }

    /// Believes the same roots, and no certificate that is revoked.
    #[must_use]
    pub fn with_revocations(&self, revocations: Arc<Revocations>) -> Self {
        Self { revocations, ..self.clone() }
    }

    /// Finds the root that a token names in the chain that a seed presented, and believes that one alone. The chain
    /// is still to be verified against it.
    ///
    /// # Errors
    /// [`TrustError::WrongMesh`] if the named root is not in the chain.
    pub fn pin<C: AsRef<[u8]>>(presented: &[C], mesh: MeshId) -> Result<Self, TrustError> {
        if !fits(presented) {
            return Err(TrustError::BadSize);
        }
        let authorities = presented.iter().filter_map(|certificate| {
            let fields = Fields::of(certificate.as_ref()).ok()?;
            fields.is_authority.then_some((certificate, fields.mesh_id))
        });
        let mut last = None;
        for (certificate, found) in authorities {
            if found == mesh {
                return Self::new(vec![CertificateDer::from(certificate.as_ref()).into_owned()]);
            }
            last = Some(found);
        }
        Err(TrustError::WrongMesh { presented: last })
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }
    pub fn mesh_id(&self) -> MeshId {
        self.mesh_id
    }
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }
    pub fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// Whether somebody whose certificate was verified before is to be believed at this time.
    ///
    /// # Errors
    /// [`TrustError::Revoked`] or [`TrustError::IssuerRevoked`].
    pub fn check_revoked(&self, peer: &PeerIdentity, at: UnixTime) -> Result<(), TrustError> {
        match self.revocations.refuse(&peer.id, &peer.provenance, at) {
            None => Ok(()),
            Some(Reason::Itself(revoked)) => Err(TrustError::Revoked(revoked)),
            Some(Reason::Issuer(issuer)) => Err(TrustError::IssuerRevoked(issuer)),
        }
    }

    /// Verifies a chain, leaf first, with or without its root, and says who its leaf is. Tolerance for wrong clocks is
    /// the caller's: no date is stretched here.
    ///
    /// # Errors
    /// Whatever of the chain is not as the mesh makes it, or is revoked; the message says what.
    pub fn verify_chain<C: AsRef<[u8]>>(&self, chain: &[C], at: UnixTime) -> Result<PeerIdentity, TrustError> {
        let peer = self.verify_path(chain, at)?;
        self.check_revoked(&peer, at)?;
        Ok(peer)
    }

    /// As [`TrustBundle::verify_chain`], whatever is revoked.
    ///
    /// # Errors
    /// Whatever of the chain is not as the mesh makes it.
    pub fn verify_path<C: AsRef<[u8]>>(&self, chain: &[C], at: UnixTime) -> Result<PeerIdentity, TrustError> {
        let mut certificates = chain.iter().map(|certificate| CertificateDer::from(certificate.as_ref()));
        let leaf = &certificates.next().ok_or(TrustError::BadSize)?;
        let intermediates: &[CertificateDer<'_>] = &certificates.collect::<Vec<_>>();
        if !fits(slice::from_ref(leaf)) || !fits(intermediates) || intermediates.len() == MAX_CHAIN_LEN {
            return Err(TrustError::BadSize);
        }
        let end_entity = EndEntityCert::try_from(leaf).map_err(|error| TrustError::Malformed(error.to_string()))?;
        // Every leaf of the mesh serves both ends of TLS, so either usage would do.
        let usage = KeyUsage::client_auth();
        let path = end_entity
            .verify_for_usage(ALGORITHMS, &self.anchors, intermediates, at, usage, None, None)
            .map_err(|error| path_error(&error))?;
        for authority in path.intermediate_certificates() {
            let fields = Fields::of(&authority.der()).map_err(TrustError::Malformed)?;
            if fields.authority_domain().as_ref() != Some(&self.trust_domain) {
                return Err(self.wrong_domain(fields.uri));
            }
        }
        let intermediate = path.intermediate_certificates().next().map(|authority| authority.der());
        let provenance = Provenance::of(leaf, intermediate.as_deref()).map_err(TrustError::Malformed)?;
        let identity = self.identity(leaf, provenance)?;
        // A stolen intermediate shall not make operators: they outlive it, and answer for documents by name.
        if matches!(identity.id.subject, Subject::Operator(_)) && path.intermediate_certificates().next().is_some() {
            return Err(TrustError::BadPath("an operator's certificate must be signed by the root itself".into()));
        }
        Ok(identity)
    }

    /// Reads a leaf whose path is valid.
    fn identity(&self, leaf: &CertificateDer<'_>, provenance: Provenance) -> Result<PeerIdentity, TrustError> {
        let fields = Fields::of(leaf).map_err(TrustError::Malformed)?;
        let id: SpiffeId = fields.uri.parse().map_err(|error| TrustError::Malformed(format!("{error}")))?;
        if id.trust_domain != self.trust_domain {
            return Err(self.wrong_domain(id.trust_domain.to_string()));
        }
        let Fields { grant, public_key, not_before, not_after, serial, .. } = fields;
        let grant = match (&id.subject, grant) {
            (Subject::Workload(_), _) => None,
            (Subject::Node(_) | Subject::Operator(_), Some(grant)) => Some(grant),
            (Subject::Node(_) | Subject::Operator(_), None) => return Err(TrustError::NoGrant(id)),
        };
        Ok(PeerIdentity { id, grant, public_key, not_before, not_after, serial, provenance })
    }

    fn wrong_domain(&self, found: String) -> TrustError {
        TrustError::WrongTrustDomain { found, expected: self.trust_domain.clone() }
    }
}

/// Whether a chain is small enough to look at.
fn fits<C: AsRef<[u8]>>(chain: &[C]) -> bool {
    chain.len() <= MAX_CHAIN_LEN && chain.iter().all(|certificate| certificate.as_ref().len() <= MAX_CERTIFICATE_LEN)
}

fn path_error(error: &webpki::Error) -> TrustError {
    match error {
        webpki::Error::CertExpired { time, not_after } => {
            TrustError::Expired { ago_secs: time.as_secs().saturating_sub(not_after.as_secs()) }
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            TrustError::NotYetValid { in_secs: not_before.as_secs().saturating_sub(time.as_secs()) }
        }
        // A look-alike root has the same name and another key, so that only its signature tells.
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => TrustError::UnknownRoot,
        other => TrustError::BadPath(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        csr, grant,
        init::{self, NewMesh},
        issuer::{Issuer, NODE_LIFETIME, Root},
        key::PrivateKey,
    };

    const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));

    fn mesh(domain: &str) -> (NewMesh, TrustBundle) {
        let mesh = init::create_mesh(&domain.parse().unwrap(), &"seed".parse().unwrap(), NOW).unwrap();
        let bundle = TrustBundle::new(vec![mesh.root.certificate().clone()]).unwrap();
        (mesh, bundle)
    }

    fn at(offset: i64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(NOW.as_secs().saturating_add_signed(offset)))
    }

    #[test]
    fn a_chain_proves_name_grant_and_key() {
        let (mesh, bundle) = mesh("cluster.local");
        let (key, grant) = (PrivateKey::generate().unwrap(), grant::from_text("role=member;accounts=a/b").unwrap());
        let chain = mesh.issuer.sign_node(&"n1".parse().unwrap(), &grant, &csr::create(&key).unwrap(), NOW).unwrap();
        let peer = bundle.verify_chain(&chain, NOW).unwrap();
        assert_eq!(peer.id.to_string(), "spiffe://cluster.local/node/n1");
        assert_eq!(peer.grant, Some(grant));
        assert_eq!(peer.verify_signature(b"fact", &key.sign(b"fact")), Ok(()));
        assert_eq!(peer.verify_signature(b"fake", &key.sign(b"fact")), Err(TrustError::BadSignature(peer.id.clone())));
        let bytes: Vec<Vec<u8>> = chain.iter().map(|certificate| certificate.to_vec()).collect();
        assert_eq!(bundle.verify_chain(&bytes, NOW), Ok(peer.clone()));
    }

    #[test]
    fn a_workload_has_a_name_and_no_grant() {
        let (mesh, bundle) = mesh("cluster.local");
        let csr = csr::create(&PrivateKey::generate().unwrap()).unwrap();
        let chain =
            mesh.issuer.sign_workload(&"default/web".parse().unwrap(), &"n1".parse().unwrap(), &csr, NOW).unwrap();
        let peer = bundle.verify_chain(&chain, NOW).unwrap();
        assert_eq!(peer.id.to_string(), "spiffe://cluster.local/ns/default/sa/web");
        assert_eq!(peer.grant, None);
    }

    #[test]
    fn a_certificate_says_when_for_which_node_and_by_whom_it_was_issued() {
        let (mesh, bundle) = mesh("cluster.local");
        let (host, account) = ("n1".parse().unwrap(), "default/web".parse().unwrap());
        let chain =
            mesh.issuer.sign_workload(&account, &host, &csr::create(&PrivateKey::generate().unwrap()).unwrap(), at(9));
        let chain = chain.unwrap();
        let issuer = Some(("seed".parse().unwrap(), NOW));
        let from = Provenance { issued: at(9), host: Some(host.clone()), issuer: issuer.clone() };
        assert_eq!(bundle.verify_chain(&chain, at(9)).unwrap().provenance, from);
        let node = bundle.verify_chain(&mesh.node.chain, NOW).unwrap();
        assert_eq!(node.provenance, Provenance { issued: NOW, host: None, issuer });
        let operator = bundle.verify_chain(&mesh.operator.chain, NOW).unwrap();
        assert_eq!(operator.provenance, Provenance { issued: NOW, host: None, issuer: None });

        let mut revocations = Revocations::default();
        revocations.add(Revoked::Node(host.clone()), at(20));
        let strict = bundle.with_revocations(Arc::new(revocations.clone()));
        assert_eq!(strict.verify_chain(&chain, at(20)), Err(TrustError::Revoked(Revoked::Node(host))));
        assert!(strict.verify_chain(&chain, at(19)).is_ok() && strict.verify_path(&chain, at(20)).is_ok());
        revocations.add(Revoked::Node("seed".parse().unwrap()), at(30));
        let strict = bundle.with_revocations(Arc::new(revocations));
        let after = mesh.issuer.sign_workload(
            &account,
            &"n2".parse().unwrap(),
            &csr::create(&PrivateKey::generate().unwrap()).unwrap(),
            at(40),
        );
        assert_eq!(
            strict.verify_chain(&after.unwrap(), at(40)),
            Err(TrustError::IssuerRevoked("seed".parse().unwrap()))
        );
        assert!(strict.verify_chain(&mesh.operator.chain, at(40)).is_ok(), "the root signed it");
    }

    #[test]
    fn another_mesh_is_not_believed_even_under_the_same_names() {
        let (ours, bundle) = mesh("cluster.local");
        let (other, other_bundle) = mesh("cluster.local");
        assert_eq!(bundle.verify_chain(&other.node.chain, NOW), Err(TrustError::UnknownRoot));
        let mixed = [other.node.chain[0].clone(), ours.node.chain[1].clone()];
        assert_eq!(bundle.verify_chain(&mixed, NOW), Err(TrustError::UnknownRoot));
        assert_ne!(bundle.mesh_id(), other_bundle.mesh_id());
    }

    #[test]
    fn a_ca_cannot_sign_for_another_trust_domain() {
        let (mesh, bundle) = mesh("cluster.local");
        let root_key = || PrivateKey::from_pem(mesh.root.key().to_pem().as_bytes()).unwrap();
        // The root's key under a certificate of another domain signs an issuer, which signs a node: the path to the
        // real root holds if the subject does, so only the names can tell.
        let key = PrivateKey::generate().unwrap();
        let csr = csr::create(&key).unwrap();
        let foreign = other_domain_root(&mesh.root, root_key());
        let intermediate = foreign.sign_intermediate(&"seed".parse().unwrap(), &csr, NOW).unwrap();
        let issuer = Issuer::open(key, vec![intermediate]).unwrap();
        let grant = grant::from_text("role=ca;accounts=*/*").unwrap();
        let chain = issuer.sign_node(&"seed".parse().unwrap(), &grant, &csr, NOW).unwrap();
        let error = bundle.verify_chain(&chain, NOW).unwrap_err();
        assert!(matches!(error, TrustError::WrongTrustDomain { .. }), "{error}");
        // A leaf of another domain right below the root.
        let leaf_only = foreign.sign_operator(&"admin".parse().unwrap(), &csr, NOW).unwrap();
        let error = bundle.verify_chain(&[leaf_only], NOW).unwrap_err();
        assert!(matches!(error, TrustError::WrongTrustDomain { ref found, .. } if found == "evil.example"), "{error}");
    }

    /// A certificate with the root's subject and key, but of another trust domain.
    fn other_domain_root(root: &Root, key: PrivateKey) -> Root {
        let issuer = rcgen::Issuer::from_ca_cert_der(root.certificate(), &key).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = subject_of(root.certificate());
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://evil.example".try_into().unwrap())];
        let certificate = params.signed_by(&key.public_key(), &issuer).unwrap().der().clone();
        Root::open(key, certificate).unwrap()
    }

    fn subject_of(certificate: &CertificateDer<'_>) -> rcgen::DistinguishedName {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).unwrap();
        let mut name = rcgen::DistinguishedName::new();
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().unwrap().to_owned();
        name.push(rcgen::DnType::OrganizationName, text(parsed.subject().iter_organization().next().unwrap()));
        name.push(rcgen::DnType::CommonName, text(parsed.subject().iter_common_name().next().unwrap()));
        name
    }

    #[test]
    fn dates_are_kept_to_the_second() {
        let (mesh, bundle) = mesh("cluster.local");
        let chain = &mesh.node.chain;
        let life = i64::try_from(NODE_LIFETIME.as_secs()).unwrap();
        assert!(bundle.verify_chain(chain, at(life)).is_ok());
        assert_eq!(bundle.verify_chain(chain, at(life + 1)), Err(TrustError::Expired { ago_secs: 1 }));
        assert!(bundle.verify_chain(chain, at(-300)).is_ok());
        assert_eq!(bundle.verify_chain(chain, at(-310)), Err(TrustError::NotYetValid { in_secs: 10 }));
    }

    #[test]
    fn a_leaf_cannot_sign() {
        let (mesh, bundle) = mesh("cluster.local");
        let NewMesh { node, .. } = mesh;
        // Sign with the node's key as if it were an issuer.
        let params = rcgen::CertificateParams::default();
        let issuer = rcgen::Issuer::from_params(&params, &node.key);
        let mut forged = rcgen::CertificateParams::default();
        forged.subject_alt_names = vec![rcgen::SanType::URI("spiffe://cluster.local/node/x".try_into().unwrap())];
        let leaf = forged.signed_by(&PrivateKey::generate().unwrap().public_key(), &issuer).unwrap().der().clone();
        let chain = [leaf, node.chain[0].clone(), node.chain[1].clone()];
        assert!(bundle.verify_chain(&chain, NOW).is_err());
    }

    #[test]
    fn a_ca_certificate_is_nobodys_identity() {
        let (mesh, bundle) = mesh("cluster.local");
        let error = bundle.verify_chain(mesh.issuer.chain(), NOW).unwrap_err();
        assert!(matches!(error, TrustError::BadPath(_)), "{error}");
    }

    #[test]
    fn a_leaf_with_two_names_or_none_is_refused() {
        let (mesh, bundle) = mesh("cluster.local");
        let uri = |name: &str| rcgen::SanType::URI(name.try_into().unwrap());
        let issuer = rcgen::Issuer::from_ca_cert_der(&mesh.issuer.chain()[0], mesh.issuer.key().as_ref()).unwrap();
        for names in [
            vec![],
            vec![uri("spiffe://cluster.local/node/a"), uri("spiffe://cluster.local/node/b")],
            vec![uri("spiffe://cluster.local/node/a"), rcgen::SanType::DnsName("a.example".try_into().unwrap())],
            vec![uri("https://cluster.local/node/a")],
        ] {
            let mut params = rcgen::CertificateParams::default();
            params.subject_alt_names = names.clone();
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            let leaf = params.signed_by(&mesh.node.key.public_key(), &issuer).unwrap().der().clone();
            let error = bundle.verify_chain(&[leaf, mesh.issuer.chain()[0].clone()], NOW).unwrap_err();
            assert!(matches!(error, TrustError::Malformed(_)), "{names:?}: {error}");
        }
    }

    #[test]
    fn a_node_without_a_grant_is_refused() {
        let (mesh, bundle) = mesh("cluster.local");
        let issuer = rcgen::Issuer::from_ca_cert_der(&mesh.issuer.chain()[0], mesh.issuer.key().as_ref()).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://cluster.local/node/a".try_into().unwrap())];
        let leaf = params.signed_by(&mesh.node.key.public_key(), &issuer).unwrap().der().clone();
        let error = bundle.verify_chain(&[leaf, mesh.issuer.chain()[0].clone()], NOW).unwrap_err();
        assert!(matches!(error, TrustError::NoGrant(_)), "{error}");
    }

    #[test]
    fn a_seed_is_pinned_by_the_mesh_id_of_the_token() {
        let (mesh, bundle) = mesh("cluster.local");
        let mut presented = mesh.node.chain.clone();
        presented.push(mesh.root.certificate().clone());
        let pinned = TrustBundle::pin(&presented, bundle.mesh_id()).unwrap();
        assert_eq!(pinned.verify_chain(&presented, NOW).unwrap().id.to_string(), "spiffe://cluster.local/node/seed");

        let other = init::create_mesh(&"cluster.local".parse().unwrap(), &"seed".parse().unwrap(), NOW).unwrap();
        let error = TrustBundle::pin(&presented, other.root.mesh_id()).unwrap_err();
        assert_eq!(error, TrustError::WrongMesh { presented: Some(bundle.mesh_id()) });
        assert!(error.to_string().contains("another mesh"), "{error}");
        let error = TrustBundle::pin(&presented[..1], other.root.mesh_id()).unwrap_err();
        assert_eq!(error, TrustError::WrongMesh { presented: None });
    }

    #[test]
    fn a_stolen_root_certificate_beside_a_foreign_leaf_proves_nothing() {
        let (mesh, bundle) = mesh("cluster.local");
        let other = init::create_mesh(&"cluster.local".parse().unwrap(), &"seed".parse().unwrap(), NOW).unwrap();
        let mut presented = other.node.chain.clone();
        presented.push(mesh.root.certificate().clone());
        let pinned = TrustBundle::pin(&presented, bundle.mesh_id()).unwrap();
        assert_eq!(pinned.verify_chain(&presented, NOW), Err(TrustError::UnknownRoot));
    }

    #[test]
    fn bundles_of_none_many_or_mixed_roots_are_refused() {
        let (mesh_a, _) = mesh("a.example");
        let (mesh_b, _) = mesh("b.example");
        let root = mesh_a.root.certificate().clone();
        for roots in [
            vec![],
            vec![root.clone(); MAX_ROOTS + 1],
            vec![root, mesh_b.root.certificate().clone()],
            vec![mesh_a.node.chain[0].clone()],
        ] {
            assert!(matches!(TrustBundle::new(roots), Err(TrustError::BadBundle(_))));
        }
    }

    #[test]
    fn chains_past_the_bounds_are_refused_before_they_are_read() {
        let (mesh, bundle) = mesh("cluster.local");
        let long = vec![mesh.node.chain[0].clone(); MAX_CHAIN_LEN + 1];
        assert_eq!(bundle.verify_chain(&long, NOW), Err(TrustError::BadSize));
        assert_eq!(bundle.verify_chain(&[vec![0; MAX_CERTIFICATE_LEN + 1]], NOW), Err(TrustError::BadSize));
        assert_eq!(bundle.verify_chain::<Vec<u8>>(&[], NOW), Err(TrustError::BadSize));
    }

    #[test]
    fn a_leaf_with_any_bit_flipped_is_refused() {
        let (mesh, bundle) = mesh("cluster.local");
        let chain: Vec<Vec<u8>> = mesh.node.chain.iter().map(|certificate| certificate.to_vec()).collect();
        for bit in 0..chain[0].len() * 8 {
            let mut changed = chain.clone();
            changed[0][bit / 8] ^= 1 << (bit % 8);
            assert!(bundle.verify_chain(&changed, NOW).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_operator_is_signed_by_the_root_alone() {
        let (mesh, bundle) = mesh("cluster.local");
        let issuer = rcgen::Issuer::from_ca_cert_der(&mesh.issuer.chain()[0], mesh.issuer.key().as_ref()).unwrap();
        let mut params = rcgen::CertificateParams::default();
        let name = "spiffe://cluster.local/operator/evil";
        params.subject_alt_names = vec![rcgen::SanType::URI(name.try_into().unwrap())];
        let grant = grant::to_der(&grant::from_text("role=admin;accounts=").unwrap()).unwrap();
        params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(grant::OID, grant)];
        let leaf = params.signed_by(&mesh.node.key.public_key(), &issuer).unwrap().der().clone();
        let error = bundle.verify_chain(&[leaf, mesh.issuer.chain()[0].clone()], NOW).unwrap_err();
        assert!(matches!(error, TrustError::BadPath(ref why) if why.contains("operator")), "{error}");
    }
}
