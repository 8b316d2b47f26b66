//! The TLS side of QUIC between nodes: who may connect, and what we show. Certificates are read from the current
//! [`crate::identity::NodeIdentity`] at every handshake, so a renewal needs no restart.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ClientHello, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use weft_ca::trust::{PeerIdentity, TrustBundle, TrustError};
use weft_proxy::crypto;
use weft_wire::{
    frame::{ALPN_JOIN, ALPN_MEMBER},
    id::MeshId,
};

use super::PeerError;
use crate::identity::IdentityReader;

/// How long after its end a node's certificate still lets the node ask for a new one, and nothing else. A host that
/// was off for a holiday comes back by itself; one that was off for longer joins again.
pub const RENEWAL_GRACE: Duration = Duration::from_secs(30 * 24 * 3600);

/// What a peer's certificate says, and what the peer may do with it.
#[derive(Clone, Debug)]
pub struct Peer {
    pub identity: PeerIdentity,
    pub standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Member,
    /// The certificate has run out: it may only be renewed.
    Expired,
    /// The CA node that signed it is revoked: it may only be renewed, by its owner.
    IssuerRevoked,
}

/// Judges the certificates that a peer showed.
///
/// # Errors
/// Whatever makes the chain unfit, in words; an expired leaf passes within [`RENEWAL_GRACE`], and one of a revoked
/// issuer, marked as such.
pub fn judge<C: AsRef<[u8]>>(trust: &TrustBundle, chain: &[C], now: UnixTime) -> Result<Peer, TrustError> {
    let (identity, standing) = match trust.verify_path(chain, now) {
        Ok(identity) => (identity, Standing::Member),
        Err(TrustError::Expired { ago_secs }) if ago_secs < RENEWAL_GRACE.as_secs() => {
            let when_good = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() - ago_secs - 1));
            (trust.verify_path(chain, when_good)?, Standing::Expired)
        }
        Err(error) => return Err(error),
    };
    let standing = match trust.check_revoked(&identity, now) {
        Ok(()) => standing,
        Err(TrustError::IssuerRevoked(_)) => Standing::IssuerRevoked,
        Err(error) => return Err(error),
    };
    Ok(Peer { identity, standing })
}

/// For connections that this node accepts: members show their certificate, joining hosts have none.
pub fn server_config(identity: IdentityReader) -> Result<rustls::ServerConfig, PeerError> {
    let provider = crypto::provider();
    let verifier = MeshVerifier::new(Expect::Members(identity.clone()), &provider);
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(ShowIdentity(identity)));
    config.alpn_protocols = vec![ALPN_MEMBER.to_vec(), ALPN_JOIN.to_vec()];
    // A resumed session would skip the certificates, and with them every renewal and revocation since.
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// For a connection that this node dials as a member.
pub fn member_client_config(
    identity: IdentityReader,
    refused: &Arc<OnceLock<TrustError>>,
) -> Result<rustls::ClientConfig, PeerError> {
    let provider = crypto::provider();
    let mut verifier = MeshVerifier::new(Expect::Members(identity.clone()), &provider);
    verifier.refused = refused.clone();
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(ShowIdentity(identity)));
    config.alpn_protocols = vec![ALPN_MEMBER.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// For a joining host: it has no certificate, and believes a seed whose chain ends at the mesh id in its token.
pub fn join_client_config(
    mesh: MeshId,
    refused: &Arc<OnceLock<TrustError>>,
) -> Result<rustls::ClientConfig, PeerError> {
    let provider = crypto::provider();
    let mut verifier = MeshVerifier::new(Expect::Mesh(mesh), &provider);
    verifier.refused = refused.clone();
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn tls(error: TlsError) -> PeerError {
    PeerError::Tls(error.to_string())
}

/// Shows the node's current certificate, with the root behind it to a joining host, which knows only the root's hash.
#[derive(Debug)]
struct ShowIdentity(IdentityReader);

impl ResolvesServerCert for ShowIdentity {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let joining = hello.alpn().is_some_and(|mut offered| offered.any(|alpn| alpn == ALPN_JOIN));
        let identity = self.0.load();
        Some(if joining { identity.join_key.clone() } else { identity.member_key.clone() })
    }
}

impl ResolvesClientCert for ShowIdentity {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().member_key.clone())
    }
    fn has_certs(&self) -> bool {
        true
    }
}

/// Whom the verifier lets through.
#[derive(Debug)]
enum Expect {
    /// Nodes of our own mesh.
    Members(IdentityReader),
    /// A node of the mesh with this id, whose root we have never seen.
    Mesh(MeshId),
}

#[derive(Debug)]
struct MeshVerifier {
    expect: Expect,
    /// Why the peer was refused, for whoever dialled: the connection's own error would say it in rustls' terms.
    refused: Arc<OnceLock<TrustError>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl MeshVerifier {
    fn new(expect: Expect, provider: &CryptoProvider) -> Self {
        Self { expect, refused: Arc::default(), algorithms: provider.signature_verification_algorithms }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), TlsError> {
        let chain: Vec<_> = std::iter::once(leaf).chain(intermediates).cloned().collect();
        let peer = match &self.expect {
            Expect::Members(identity) => judge(&identity.load().trust, &chain, now),
            Expect::Mesh(mesh) => TrustBundle::pin(&chain, *mesh)
                .and_then(|trust| trust.verify_chain(&chain, now))
                .map(|identity| Peer { identity, standing: Standing::Member }),
        }
        .map_err(|error| {
            let _ = self.refused.set(error.clone());
            refuse(error)
        })?;
        match peer.identity.id.as_node() {
            Some(_) => Ok(()),
            None => Err(TlsError::General(format!("{} is not a node", peer.identity.id))),
        }
    }
}

/// The alert the peer sees stays standard; our side's log keeps the words.
fn refuse(error: TrustError) -> TlsError {
    if matches!(error, TrustError::Revoked(_)) {
        return CertificateError::Revoked.into();
    }
    TlsError::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(InWords(error)))))
}

/// rustls prints such errors by `Debug`.
#[derive(thiserror::Error)]
#[error("{0}")]
struct InWords(TrustError);

impl std::fmt::Debug for InWords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl ServerCertVerifier for MeshVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        self.verify(leaf, intermediates, now).map(|()| ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(only_tls13())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, signature, &self.algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for MeshVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    /// Joining hosts have no certificate; a connection without one is only ever read as a join.
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        self.verify(leaf, intermediates, now).map(|()| ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(only_tls13())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, signature, &self.algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn only_tls13() -> TlsError {
    TlsError::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered)
}
