//! The mesh's TLS: version 1.3 only, both sides proved by SPIFFE ids, hybrid post-quantum key exchange preferred.
//!
//! Sessions are never resumed: a resumed session would carry over an identity that nobody checked again. Instead what is
//! costly of a peer's certificates is checked once: see [`verified`].

mod verified;

use std::{fmt, sync::Arc};

use aws_lc_rs::digest;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerMisbehaved,
    RootCertStore, ServerConfig, SignatureScheme,
    client::{
        ResolvesClientCert, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage, RevocationOptions};
use weft_ca::revocation::{Provenance, Revocations};
use weft_wire::id::{SpiffeId, Subject, TrustDomain};

pub(crate) use self::verified::Role;
use self::verified::VerifiedChains;
use crate::{
    crypto,
    error::PeerError,
    ports::{Identities, IdentitySnapshot, Views, WorkloadIdentity},
};

pub(crate) const ALPN_HTTP2: &[u8] = b"h2";
pub(crate) const ALPN_HTTP1: &[u8] = b"http/1.1";
/// Raw TCP: after the handshake, the bytes of the two applications.
pub(crate) const ALPN_TCP: &[u8] = b"weft-tcp/1";

const TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// What both sides of a mesh connection need. Shared by all workers.
pub(crate) struct MeshTls {
    provider: Arc<CryptoProvider>,
    server: Arc<ServerConfig>,
    verified: Arc<VerifiedChains>,
}

impl MeshTls {
    pub(crate) fn new(views: Views, identities: Identities) -> Result<Self, Error> {
        let provider = crypto::provider();
        let algorithms = provider.signature_verification_algorithms;
        let verified = Arc::<VerifiedChains>::default();
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(TLS13)?
            .with_client_cert_verifier(Arc::new(MeshClientVerifier {
                views: views.clone(),
                identities: identities.clone(),
                verified: verified.clone(),
                algorithms,
            }))
            .with_cert_resolver(Arc::new(WorkloadCertificates { views, identities }));
        server.alpn_protocols = vec![ALPN_HTTP2.into(), ALPN_HTTP1.into(), ALPN_TCP.into()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { provider, server: Arc::new(server), verified })
    }

    /// Who is at the other end of a connection, by the certificates that its handshake has verified.
    pub(crate) fn peer(
        &self,
        snapshot: &IdentitySnapshot,
        certificates: Option<&[CertificateDer<'_>]>,
        role: Role,
    ) -> Result<Arc<Peer>, PeerError> {
        let (leaf, intermediates) = certificates.and_then(<[_]>::split_first).ok_or(PeerError::NoIdentity)?;
        let algorithms = self.provider.signature_verification_algorithms;
        let peer = self.verified.verify(&snapshot.roots, algorithms, role, leaf, intermediates, UnixTime::now());
        peer.map_err(|_| PeerError::NoIdentity)
    }

    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// The configuration of one connection: made as `identity`, to a server that must be one of `expected`.
    pub(crate) fn client(
        &self,
        snapshot: &IdentitySnapshot,
        identity: &WorkloadIdentity,
        expected: Arc<[SpiffeId]>,
        alpn: &[u8],
    ) -> Result<Arc<ClientConfig>, Error> {
        let verifier = MeshServerVerifier {
            roots: snapshot.roots.clone(),
            revocations: snapshot.revocations.clone(),
            expected,
            verified: self.verified.clone(),
            algorithms: self.provider.signature_verification_algorithms,
        };
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(TLS13)?
            .dangerous() // rustls's word for "not by DNS name": chain and identity are both verified below
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(OneCertificate(identity.certified_key.clone())));
        config.alpn_protocols = vec![alpn.into()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// The one SPIFFE id of a certificate, as the SPIFFE X.509-SVID standard demands (section 2).
pub(crate) fn spiffe_id(certificate: &CertificateDer<'_>) -> Result<SpiffeId, PeerError> {
    let parsed = EndEntityCert::try_from(certificate).map_err(|_| PeerError::NoIdentity)?;
    let mut uris = parsed.valid_uri_names();
    match (uris.next(), uris.next()) {
        (Some(uri), None) => uri.parse().map_err(|_| PeerError::NoIdentity),
        _ => Err(PeerError::NoIdentity),
    }
}

/// Who is at the other end of a mesh connection.
pub(crate) struct Peer {
    pub(crate) id: SpiffeId,
    /// SHA-256 of its certificate, in hex, as `x-forwarded-client-cert` carries it.
    pub(crate) certificate_hash: Box<str>,
    provenance: Provenance,
}

impl Peer {
    /// Reads a certificate that was verified, with the intermediate that signed it, if one did.
    fn of(leaf: &CertificateDer<'_>, intermediate: Option<CertificateDer<'_>>) -> Result<Self, PeerError> {
        let hash = digest::digest(&digest::SHA256, leaf);
        let certificate_hash = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
        let provenance = Provenance::of(leaf, intermediate.as_deref()).map_err(|_| PeerError::NoIdentity)?;
        Ok(Self { id: spiffe_id(leaf)?, certificate_hash, provenance })
    }

    /// Whether its certificate holds no more.
    pub(crate) fn is_revoked(&self, revocations: &Revocations, now: UnixTime) -> bool {
        revocations.refuse(&self.id, &self.provenance, now).is_some()
    }
}

fn refused(error: PeerError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// The client's check of the server.
struct MeshServerVerifier {
    roots: Arc<RootCertStore>,
    revocations: Arc<Revocations>,
    expected: Arc<[SpiffeId]>,
    verified: Arc<VerifiedChains>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for MeshServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>, // says which workload is meant; the SPIFFE id says who may be it
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let (verified, algorithms) = (&self.verified, self.algorithms);
        let shown = verified.verify(&self.roots, algorithms, Role::Server, end_entity, intermediates, now)?;
        check_revoked(&shown, &self.revocations, now)?;
        if !self.expected.contains(&shown.id) {
            let (shown, expected) = (shown.id.clone(), self.expected.clone());
            return Err(refused(PeerError::WrongIdentity { shown, expected }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into()) // TLS 1.2 is never negotiated
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The server's check of the client: any workload or node of our trust domain or one of its aliases. Whether it may
/// call *this* workload is for authorisation policy.
struct MeshClientVerifier {
    views: Views,
    identities: Identities,
    verified: Arc<VerifiedChains>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for MeshClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let identities = self.identities.load();
        let roots = &identities.roots;
        let shown = self.verified.verify(roots, self.algorithms, Role::Client, end_entity, intermediates, now)?;
        check_revoked(&shown, &identities.revocations, now)?;
        if !may_call(&shown.id, &self.views.load().settings.trust_domains) {
            return Err(refused(PeerError::NotAllowed(shown.id.clone())));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into()) // TLS 1.2 is never negotiated
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn check_revoked(peer: &Peer, revocations: &Revocations, now: UnixTime) -> Result<(), Error> {
    if peer.is_revoked(revocations, now) { Err(CertificateError::Revoked.into()) } else { Ok(()) }
}

fn may_call(id: &SpiffeId, trust_domains: &[TrustDomain]) -> bool {
    trust_domains.contains(&id.trust_domain) && matches!(id.subject, Subject::Workload(_) | Subject::Node(_))
}

/// Returns the intermediate that signed the leaf, if one did.
pub(crate) fn verify_chain(
    roots: &RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    usage: KeyUsage,
    revoked: Option<RevocationOptions<'_>>,
) -> Result<Option<CertificateDer<'static>>, Error> {
    let invalid = |error: webpki::Error| {
        Error::InvalidCertificate(match error {
            webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
            webpki::Error::CertExpired { .. } => CertificateError::Expired,
            webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
            webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
            webpki::Error::CertRevoked => CertificateError::Revoked,
            webpki::Error::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    };
    let parsed = EndEntityCert::try_from(end_entity).map_err(invalid)?;
    let path = parsed
        .verify_for_usage(algorithms.all, &roots.roots, intermediates, now, usage, revoked, None)
        .map_err(invalid)?;
    Ok(path.intermediate_certificates().next().map(|authority| authority.der().into_owned()))
}

/// The server's certificate: that of the workload which the caller names by SNI.
struct WorkloadCertificates {
    views: Views,
    identities: Identities,
}

impl ResolvesServerCert for WorkloadCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let view = self.views.load();
        let workload = view.local_workload(hello.server_name()?)?;
        let identities = self.identities.load();
        Some(identities.workloads.get(&workload.workload.account)?.certified_key.clone())
    }
}

/// The client's certificate, whatever issuers the server hints at.
pub(crate) struct OneCertificate(pub(crate) Arc<CertifiedKey>);

impl ResolvesClientCert for OneCertificate {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// rustls asks for `Debug`; keys and roots have nothing to show.
macro_rules! debug_as_name {
    ($($name:ident),*) => { $(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )* };
}
debug_as_name!(MeshServerVerifier, MeshClientVerifier, WorkloadCertificates, OneCertificate);
