//! TLS to places outside of the mesh: their certificates, and ours where they ask for one.
//!
//! Versions 1.2 and 1.3: within the mesh it is 1.3 only, but many a server outside has no more than 1.2. What is
//! needed for a handshake is made when documents or certificates change, never for a request.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    sign::CertifiedKey,
};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
    pem::{self, PemObject},
};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList, RevocationOptionsBuilder,
};
use weft_policy::origination::Origination;

use crate::{
    crypto,
    tls::{ALPN_HTTP1, ALPN_HTTP2, OneCertificate, verify_chain},
};

/// What an [`Origination`] refers to, as it is now.
pub struct Material<'m> {
    pub authorities: Trust<'m>,
    /// Revocation lists in PEM.
    pub revoked: Option<&'m [u8]>,
    /// The client's certificate with its issuers, and its key, in PEM.
    pub identity: Option<(&'m [u8], &'m [u8])>,
}

/// Who may have signed the server's certificate.
pub enum Trust<'m> {
    Roots(Arc<RootCertStore>),
    /// Certificates of authorities in PEM, several files of them.
    Pem(Vec<&'m [u8]>),
    /// The certificate is not looked at.
    Anybody,
}

/// Begins TLS with places outside of the mesh.
pub struct Originator {
    http2: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
    bytes: Arc<ClientConfig>,
}

/// What is spoken inside of TLS, and so offered in the handshake (ALPN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inside {
    Http2,
    Http1,
    Bytes,
}

impl Originator {
    /// # Errors
    /// What is wrong with the material; nothing of a key.
    pub fn new(origination: &Origination, material: &Material<'_>) -> Result<Self, String> {
        let provider = crypto::provider();
        let identity =
            material.identity.map(|(certificates, key)| identity(certificates, key, &provider)).transpose()?;
        let verifier = Verifier {
            authorities: authorities(&material.authorities)?,
            revoked: material.revoked.map(revocation_lists).transpose()?.unwrap_or_default(),
            names: origination.names.iter().map(|name| Wanted::read(name)).collect(),
            algorithms: provider.signature_verification_algorithms,
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map_err(|error| error.to_string())?
            .dangerous() // rustls's word for "not by the server name alone": chain and names are both verified below
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut bytes = match identity {
            Some(identity) => builder.with_client_cert_resolver(Arc::new(OneCertificate(Arc::new(identity)))),
            None => builder.with_no_client_auth(),
        };
        bytes.resumption = Resumption::disabled();
        let offering = |alpn: &[u8]| {
            let mut config = bytes.clone();
            config.alpn_protocols = vec![alpn.to_vec()];
            Arc::new(config)
        };
        Ok(Self { http2: offering(ALPN_HTTP2), http1: offering(ALPN_HTTP1), bytes: Arc::new(bytes) })
    }

    pub(crate) fn config(&self, inside: Inside) -> Arc<ClientConfig> {
        match inside {
            Inside::Http2 => &self.http2,
            Inside::Http1 => &self.http1,
            Inside::Bytes => &self.bytes,
        }
        .clone()
    }
}

impl fmt::Debug for Originator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Originator")
    }
}

/// `None` is anybody.
fn authorities(trust: &Trust<'_>) -> Result<Option<Arc<RootCertStore>>, String> {
    let files = match trust {
        Trust::Anybody => return Ok(None),
        Trust::Roots(roots) => return Ok(Some(roots.clone())),
        Trust::Pem(files) => files,
    };
    let mut roots = RootCertStore::empty();
    for certificate in files.iter().flat_map(|file| CertificateDer::pem_slice_iter(file)) {
        let certificate =
            certificate.map_err(|error| format!("the authorities' certificates are no PEM: {}", text(&error)))?;
        roots.add(certificate).map_err(|_| "a certificate of the authorities cannot be read".to_owned())?;
    }
    if roots.is_empty() {
        return Err("there is no certificate among the authorities'".into());
    }
    Ok(Some(Arc::new(roots)))
}

fn revocation_lists(file: &[u8]) -> Result<Vec<CertRevocationList<'static>>, String> {
    let lists = CertificateRevocationListDer::pem_slice_iter(file).map(|list| {
        let list = list.map_err(|error| format!("the revocation lists are no PEM: {}", text(&error)))?;
        let read = OwnedCertRevocationList::from_der(&list);
        read.map(CertRevocationList::from).map_err(|error| format!("a revocation list cannot be read: {error}"))
    });
    let lists: Vec<_> = lists.collect::<Result<_, _>>()?;
    if lists.is_empty() { Err("there is no revocation list in its file".into()) } else { Ok(lists) }
}

fn identity(certificates: &[u8], key: &[u8], provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates).collect();
    let chain = chain.map_err(|error| format!("the client's certificate is no PEM: {}", text(&error)))?;
    if chain.is_empty() {
        return Err("there is no client certificate in its file".into());
    }
    // Nothing of what the key's file holds is said.
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|_| "the client's key is no PEM of a private key".to_owned())?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        Error::InconsistentKeys(_) => "the client's key is not that of its certificate".to_owned(),
        _ => "the client's certificate or key cannot be used".to_owned(),
    })
}

fn text(error: &pem::Error) -> String {
    error.to_string()
}

/// A name of which the server's certificate must hold one.
struct Wanted {
    text: String,
    /// If it is a host's name or an address.
    host: Option<ServerName<'static>>,
}

impl Wanted {
    fn read(text: &str) -> Self {
        Self { text: text.to_owned(), host: ServerName::try_from(text.to_owned()).ok() }
    }

    /// A certificate's wildcard stands for one label, and may be wanted itself; a URI must be the same.
    fn is_of(&self, certificate: &EndEntityCert<'_>) -> bool {
        let names_host = |host| certificate.verify_is_valid_for_subject_name(host).is_ok();
        self.host.as_ref().is_some_and(names_host)
            || certificate.valid_dns_names().any(|name| name.eq_ignore_ascii_case(&self.text))
            || certificate.valid_uri_names().any(|uri| uri == self.text)
    }
}

/// The check of a server outside.
struct Verifier {
    /// `None` is anybody.
    authorities: Option<Arc<RootCertStore>>,
    revoked: Vec<CertRevocationList<'static>>,
    names: Vec<Wanted>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(authorities) = &self.authorities else { return Ok(ServerCertVerified::assertion()) };
        let lists: Vec<&CertRevocationList<'_>> = self.revoked.iter().collect();
        // As Envoy does: each authority of the chain needs a list that has not ended.
        let revoked = RevocationOptionsBuilder::new(&lists).ok();
        let revoked = revoked.map(|builder| builder.with_expiration_policy(ExpirationPolicy::Enforce).build());
        let usage = KeyUsage::server_auth();
        verify_chain(authorities, self.algorithms, end_entity, intermediates, now, usage, revoked)?;
        let certificate = EndEntityCert::try_from(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let is_named = match &self.names[..] {
            [] => certificate.verify_is_valid_for_subject_name(server_name).is_ok(),
            names => names.iter().any(|name| name.is_of(&certificate)),
        };
        if is_named { Ok(ServerCertVerified::assertion()) } else { Err(CertificateError::NotValidForName.into()) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
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
