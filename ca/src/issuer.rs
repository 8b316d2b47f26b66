//! Signing: the root signs intermediates and operators, an intermediate signs nodes and workloads.
//!
//! A CA is bound to its trust domain by its own SPIFFE id, `spiffe://TRUST_DOMAIN` without a path (X.509-SVID,
//! section 3.1), which [`crate::trust`] compares with the leaf's. An X.509 name constraint would say the same in a way
//! that every TLS library knows, but rustls-webpki 0.103 fails closed on constraints of URIs: it would refuse each of
//! our certificates.

use std::{sync::Arc, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use weft_wire::id::{AccountName, Grant, MeshId, NodeName, Role, ServiceAccount, SpiffeId, TrustDomain};
use x509_parser::asn1_rs::{ToDer, Utf8String};

use crate::{
    CaError,
    certificate::{Fields, HOST_OID, issuer_node},
    csr, grant,
    key::{PrivateKey, PublicKey},
    trust::TrustBundle,
};

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
pub const OPERATOR_LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);
pub const INTERMEDIATE_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);
pub const NODE_LIFETIME: Duration = DAY;
pub const WORKLOAD_LIFETIME: Duration = HOUR;
/// Certificates begin this long before they are made, for peers whose clocks are late.
pub const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// No date is written past this one, 2200-01-01, in seconds since 1970: a clock set to nonsense must not overflow one.
const LAST_DATE: u64 = 7_258_118_400;

/// The mesh's root. Its key may be kept off-line once the CA nodes have their intermediates.
#[derive(Debug)]
pub struct Root(Authority);

impl Root {
    /// Makes the root of a new mesh, good for ten years.
    ///
    /// # Errors
    /// [`CaError::Crypto`] if the host cannot make a key.
    pub fn create(trust_domain: &TrustDomain, now: UnixTime) -> Result<Self, CaError> {
        let key = PrivateKey::generate()?;
        let mut params = authority_params(trust_domain, 1)?;
        // Roots of one mesh, as in a rotation, must differ in name: path building goes by it.
        let mesh_id = MeshId::of_root_spki(&key.subject_public_key_info()).to_string();
        params.distinguished_name.push(DnType::OrganizationName, "weft root");
        params.distinguished_name.push(DnType::CommonName, &mesh_id[..16]);
        set_validity(&mut params, now, end_after(now, ROOT_LIFETIME))?;
        let certificate = params.self_signed(&key).map_err(encoding)?.der().clone();
        Self::open(key, certificate)
    }

    /// Takes up a root that was kept on disk.
    ///
    /// # Errors
    /// [`CaError::BadAuthority`] if the certificate is no CA's of a trust domain, or has another key.
    pub fn open(key: PrivateKey, certificate: CertificateDer<'static>) -> Result<Self, CaError> {
        Authority::open(Arc::new(key), certificate).map(Self)
    }

    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.0.certificate
    }
    pub fn key(&self) -> &PrivateKey {
        &self.0.key
    }
    pub fn mesh_id(&self) -> MeshId {
        self.0.mesh_id
    }
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// Certifies a CA node's intermediate: 30 days, and it may sign no further CA.
    ///
    /// # Errors
    /// [`CaError::BadRequest`] if the request does not prove its key; [`CaError::AuthorityExpired`].
    pub fn sign_intermediate(
        &self,
        node: &NodeName,
        csr: &[u8],
        now: UnixTime,
    ) -> Result<CertificateDer<'static>, CaError> {
        let mut params = authority_params(&self.0.trust_domain, 0)?;
        params.distinguished_name.push(DnType::OrganizationName, "weft issuer");
        params.distinguished_name.push(DnType::CommonName, node.as_str());
        self.0.sign(&csr::verify(csr)?, params, INTERMEDIATE_LIFETIME, now)
    }

    /// Certifies an operator for a year. Only the root does, and [`crate::trust`] insists on it.
    ///
    /// # Errors
    /// As [`Root::sign_intermediate`].
    pub fn sign_operator(
        &self,
        name: &AccountName,
        csr: &[u8],
        now: UnixTime,
    ) -> Result<CertificateDer<'static>, CaError> {
        let id = SpiffeId::operator(self.0.trust_domain.clone(), name.clone());
        let grant = Grant { role: Role::Admin, accounts: Vec::new() };
        self.0.sign(&csr::verify(csr)?, leaf_params(&id, Some(&grant))?, OPERATOR_LIFETIME, now)
    }
}

/// A CA node's intermediate: signs nodes and workloads, and nothing that outlives itself.
#[derive(Debug)]
pub struct Issuer {
    authority: Authority,
    /// The CA node that it is for.
    node: NodeName,
    /// Its certificate and those above it, without the root.
    chain: Vec<CertificateDer<'static>>,
}

impl Issuer {
    /// Takes up an intermediate: its key, its certificate and those above it, without the root.
    ///
    /// # Errors
    /// [`CaError::BadAuthority`] if the first certificate is no CA's of a trust domain, names no node, or has another key.
    pub fn open(key: impl Into<Arc<PrivateKey>>, chain: Vec<CertificateDer<'static>>) -> Result<Self, CaError> {
        let first = chain.first().ok_or_else(|| CaError::BadAuthority("the chain is empty".into()))?;
        let authority = Authority::open(key.into(), first.clone())?;
        let node = issuer_node(first).map_err(CaError::BadAuthority)?;
        Ok(Self { authority, node, chain })
    }

    pub fn key(&self) -> &Arc<PrivateKey> {
        &self.authority.key
    }
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.authority.trust_domain
    }
    pub fn not_before(&self) -> UnixTime {
        self.authority.not_before
    }
    pub fn not_after(&self) -> UnixTime {
        self.authority.not_after
    }

    /// Whether what it signs now gets the whole of this life, rather than ending with the intermediate.
    pub fn can_give(&self, lifetime: Duration, now: UnixTime) -> bool {
        now.as_secs().saturating_add(lifetime.as_secs()) <= self.not_after().as_secs()
    }

    /// Certifies a node for 24 hours. Returns the whole chain, leaf first, without the root.
    ///
    /// Only the request's key is used. Whether the node may have this name and grant is for [`crate::rules`].
    ///
    /// # Errors
    /// [`CaError::BadRequest`], [`CaError::AuthorityExpired`], or [`CaError::Grant`] for a grant past its bounds.
    pub fn sign_node(
        &self,
        name: &NodeName,
        grant: &Grant,
        csr: &[u8],
        now: UnixTime,
    ) -> Result<Vec<CertificateDer<'static>>, CaError> {
        let id = SpiffeId::node(self.authority.trust_domain.clone(), name.clone());
        self.sign(leaf_params(&id, Some(grant))?, csr, NODE_LIFETIME, now)
    }

    /// Certifies a workload of the node `host` for an hour. Returns the whole chain, leaf first, without the root.
    ///
    /// Only the request's key is used. Whether the asking node may host the account is for [`crate::rules`].
    ///
    /// # Errors
    /// [`CaError::BadRequest`] or [`CaError::AuthorityExpired`].
    pub fn sign_workload(
        &self,
        account: &ServiceAccount,
        host: &NodeName,
        csr: &[u8],
        now: UnixTime,
    ) -> Result<Vec<CertificateDer<'static>>, CaError> {
        let id = SpiffeId::workload(self.authority.trust_domain.clone(), account.clone());
        let mut params = leaf_params(&id, None)?;
        let host =
            Utf8String::new(host.as_str()).to_der_vec().expect("a Vec takes all that is written, and a name is short");
        params.custom_extensions = vec![CustomExtension::from_oid_content(HOST_OID, host)];
        self.sign(params, csr, WORKLOAD_LIFETIME, now)
    }

    /// Checks that the mesh believes now what this intermediate signs.
    ///
    /// # Errors
    /// [`CaError::AuthorityExpired`], or [`CaError::BadAuthority`] with the reason.
    pub fn verify(&self, trust: &TrustBundle, now: UnixTime) -> Result<(), CaError> {
        let chain =
            self.sign_workload(&ServiceAccount::default_account(), &self.node, &csr::create(self.key())?, now)?;
        trust.verify_chain(&chain, now).map(drop).map_err(|error| CaError::BadAuthority(error.to_string()))
    }

    fn sign(
        &self,
        params: CertificateParams,
        csr: &[u8],
        lifetime: Duration,
        now: UnixTime,
    ) -> Result<Vec<CertificateDer<'static>>, CaError> {
        let leaf = self.authority.sign(&csr::verify(csr)?, params, lifetime, now)?;
        Ok(std::iter::once(leaf).chain(self.chain.iter().cloned()).collect())
    }
}

/// What roots and intermediates have in common: a key, its certificate and what that one says.
#[derive(Debug)]
struct Authority {
    key: Arc<PrivateKey>,
    certificate: CertificateDer<'static>,
    trust_domain: TrustDomain,
    mesh_id: MeshId,
    not_before: UnixTime,
    not_after: UnixTime,
}

impl Authority {
    fn open(key: Arc<PrivateKey>, certificate: CertificateDer<'static>) -> Result<Self, CaError> {
        let fields = Fields::of(&certificate).map_err(CaError::BadAuthority)?;
        let trust_domain = fields
            .authority_domain()
            .ok_or_else(|| CaError::BadAuthority("it is not a CA's, named spiffe://TRUST_DOMAIN".into()))?;
        if fields.public_key != key.public_key() {
            return Err(CaError::BadAuthority("it belongs to another private key".into()));
        }
        let Fields { mesh_id, not_before, not_after, .. } = fields;
        Ok(Self { key, certificate, trust_domain, mesh_id, not_before, not_after })
    }

    fn sign(
        &self,
        subject: &PublicKey,
        mut params: CertificateParams,
        lifetime: Duration,
        now: UnixTime,
    ) -> Result<CertificateDer<'static>, CaError> {
        if now >= self.not_after {
            return Err(CaError::AuthorityExpired { ago_secs: now.as_secs() - self.not_after.as_secs() });
        }
        set_validity(&mut params, now, end_after(now, lifetime).min(self.not_after))?;
        params.use_authority_key_identifier_extension = true;
        let issuer = rcgen::Issuer::from_ca_cert_der(&self.certificate, &*self.key).map_err(encoding)?;
        Ok(params.signed_by(subject, &issuer).map_err(encoding)?.der().clone())
    }
}

/// A CA that may have `path_length` CAs below it.
fn authority_params(trust_domain: &TrustDomain, path_length: u8) -> Result<CertificateParams, CaError> {
    let mut params = named_params(&format!("spiffe://{trust_domain}"))?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Everybody in a mesh both calls and is called, so every leaf serves both ends of TLS.
fn leaf_params(id: &SpiffeId, grant: Option<&Grant>) -> Result<CertificateParams, CaError> {
    let mut params = named_params(&id.to_string())?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    if let Some(grant) = grant {
        params.custom_extensions = vec![CustomExtension::from_oid_content(grant::OID, grant::to_der(grant)?)];
    }
    Ok(params)
}

/// The URI is the only name. A leaf's subject stays empty, so that there is no second name to believe.
fn named_params(uri: &str) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(encoding)?)];
    params.serial_number = Some(SerialNumber::from_slice(&rand::random::<[u8; 16]>()));
    Ok(params)
}

fn end_after(now: UnixTime, lifetime: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().saturating_add(lifetime.as_secs()).min(LAST_DATE)))
}

fn set_validity(params: &mut CertificateParams, now: UnixTime, end: UnixTime) -> Result<(), CaError> {
    if end <= now {
        return Err(CaError::Encoding("this host's clock is past the year 2199".into()));
    }
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now.as_secs().saturating_sub(BACKDATE.as_secs()));
    params.not_after = epoch + Duration::from_secs(end.as_secs());
    Ok(())
}

fn encoding(error: rcgen::Error) -> CaError {
    CaError::Encoding(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        init::{self, NewMesh},
        trust::TrustError,
    };

    const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));

    fn after(duration: Duration) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(NOW.as_secs()) + duration)
    }

    fn mesh() -> NewMesh {
        init::create_mesh(&"cluster.local".parse().unwrap(), &"seed".parse().unwrap(), NOW).unwrap()
    }

    fn request() -> (PrivateKey, Vec<u8>) {
        let key = PrivateKey::generate().unwrap();
        let csr = csr::create(&key).unwrap();
        (key, csr)
    }

    fn member() -> Grant {
        grant::from_text("role=member;accounts=default/*").unwrap()
    }

    #[test]
    fn a_request_cannot_name_itself() {
        let mesh = mesh();
        let key = PrivateKey::generate().unwrap();
        let mut greedy = CertificateParams::new(vec!["evil.example".into()]).unwrap();
        greedy.distinguished_name.push(DnType::CommonName, "evil");
        greedy.subject_alt_names.push(SanType::URI("spiffe://cluster.local/operator/evil".try_into().unwrap()));
        greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        greedy.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let all = Grant { role: Role::Ca, accounts: vec!["*/*".parse().unwrap()] };
        greedy.custom_extensions = vec![CustomExtension::from_oid_content(grant::OID, grant::to_der(&all).unwrap())];
        let csr = greedy.serialize_request(&key).unwrap().der().to_vec();

        let chain = mesh.issuer.sign_node(&"plain".parse().unwrap(), &member(), &csr, NOW).unwrap();
        let fields = Fields::of(&chain[0]).unwrap();
        assert_eq!(fields.uri, "spiffe://cluster.local/node/plain");
        assert_eq!(fields.grant, Some(member()));
        assert!(!fields.is_authority);
        assert_eq!(fields.public_key, key.public_key());
        assert!(!chain[0].windows(4).any(|window| window == b"evil"));
    }

    #[test]
    fn a_request_without_proof_of_its_key_is_refused() {
        let (_, mut csr) = request();
        let last = csr.len() - 1;
        csr[last] ^= 1;
        let error = mesh().issuer.sign_node(&"a".parse().unwrap(), &member(), &csr, NOW).unwrap_err();
        assert!(matches!(error, CaError::BadRequest(_)), "{error}");
    }

    #[test]
    fn lifetimes_are_the_documented_ones() {
        let mesh = mesh();
        let (_, csr) = request();
        let account = "default/web".parse().unwrap();
        let node = mesh.issuer.sign_node(&"a".parse().unwrap(), &member(), &csr, NOW).unwrap();
        let workload = mesh.issuer.sign_workload(&account, &"n1".parse().unwrap(), &csr, NOW).unwrap();
        for (certificate, lifetime) in [
            (&node[0], NODE_LIFETIME),
            (&workload[0], WORKLOAD_LIFETIME),
            (&mesh.issuer.chain()[0], INTERMEDIATE_LIFETIME),
            (mesh.root.certificate(), ROOT_LIFETIME),
            (&mesh.operator.chain[0], OPERATOR_LIFETIME),
        ] {
            let fields = Fields::of(certificate).unwrap();
            assert_eq!(fields.not_before.as_secs(), NOW.as_secs() - 300);
            assert_eq!(fields.not_after, after(lifetime));
        }
    }

    #[test]
    fn nothing_outlives_its_issuer() {
        let mesh = mesh();
        let (_, csr) = request();
        let late = after(INTERMEDIATE_LIFETIME - Duration::from_secs(600));
        let chain = mesh.issuer.sign_node(&"a".parse().unwrap(), &member(), &csr, late).unwrap();
        assert_eq!(Fields::of(&chain[0]).unwrap().not_after, mesh.issuer.not_after());
        assert!(!mesh.issuer.can_give(NODE_LIFETIME, late));
        assert!(mesh.issuer.can_give(Duration::from_secs(600), late));
        let intermediate =
            mesh.root.sign_intermediate(&"a".parse().unwrap(), &csr, after(ROOT_LIFETIME - DAY)).unwrap();
        assert_eq!(Fields::of(&intermediate).unwrap().not_after, after(ROOT_LIFETIME));
    }

    #[test]
    fn an_expired_issuer_signs_nothing() {
        let (_, csr) = request();
        let error = mesh()
            .issuer
            .sign_node(&"a".parse().unwrap(), &member(), &csr, after(INTERMEDIATE_LIFETIME + HOUR))
            .unwrap_err();
        assert!(matches!(error, CaError::AuthorityExpired { ago_secs: 3600 }), "{error}");
    }

    #[test]
    fn a_clock_of_the_far_future_is_an_error() {
        for secs in [LAST_DATE, u64::MAX] {
            let now = UnixTime::since_unix_epoch(Duration::from_secs(secs));
            assert!(Root::create(&"a".parse().unwrap(), now).is_err());
        }
    }

    #[test]
    fn an_issuer_wants_its_own_key_and_a_ca_certificate() {
        let mesh = mesh();
        let error = Issuer::open(PrivateKey::generate().unwrap(), mesh.issuer.chain().to_vec()).unwrap_err();
        assert!(error.to_string().contains("another private key"), "{error}");
        let error = Issuer::open(mesh.node.key, mesh.node.chain).unwrap_err();
        assert!(error.to_string().contains("not a CA's"), "{error}");
    }

    #[test]
    fn an_intermediate_of_another_mesh_or_past_its_end_is_found_out() {
        let (mesh, other) = (mesh(), mesh());
        let bundle = TrustBundle::new(vec![mesh.root.certificate().clone()]).unwrap();
        assert!(mesh.issuer.verify(&bundle, NOW).is_ok());
        let error = other.issuer.verify(&bundle, NOW).unwrap_err();
        assert!(error.to_string().contains("not signed by this mesh"), "{error}");
        let error = mesh.issuer.verify(&bundle, after(INTERMEDIATE_LIFETIME)).unwrap_err();
        assert!(matches!(error, CaError::AuthorityExpired { .. }), "{error}");
    }

    #[test]
    fn an_intermediate_cannot_make_another_ca() {
        let mesh = mesh();
        let bundle = TrustBundle::new(vec![mesh.root.certificate().clone()]).unwrap();
        // What a stolen intermediate would do: sign a CA below itself, and a leaf below that.
        let (key, csr) = request();
        let stolen = Root(Authority::open(mesh.issuer.authority.key, mesh.issuer.chain[0].clone()).unwrap());
        let below = stolen.sign_intermediate(&"evil".parse().unwrap(), &csr, NOW).unwrap();
        let issuer = Issuer::open(key, vec![below, stolen.certificate().clone()]).unwrap();
        let (_, csr) = request();
        let chain = issuer.sign_node(&"a".parse().unwrap(), &member(), &csr, NOW).unwrap();
        let error = bundle.verify_chain(&chain, NOW).unwrap_err();
        assert!(matches!(error, TrustError::BadPath(_)), "{error}");
    }

    #[test]
    fn serial_numbers_are_random() {
        let mesh = mesh();
        let (_, csr) = request();
        let serial = || {
            let chain =
                mesh.issuer.sign_workload(&"default/web".parse().unwrap(), &"n1".parse().unwrap(), &csr, NOW).unwrap();
            Fields::of(&chain[0]).unwrap().serial
        };
        assert_ne!(serial(), serial());
    }
}
