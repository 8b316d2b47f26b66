//! What a certificate of the mesh says. Says, not proves: [`crate::trust`] decides whether to believe it.

use std::time::Duration;

use rustls_pki_types::UnixTime;
use weft_wire::id::{Grant, MeshId, TrustDomain};
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY},
    prelude::FromDer,
    time::ASN1Time,
    x509::SubjectPublicKeyInfo,
};

use crate::{grant, key::PublicKey};

/// The fields that the mesh reads of a certificate. The error is a clause for the caller's sentence.
pub(crate) struct Fields {
    /// The one URI among the subject's alternative names.
    pub(crate) uri: String,
    pub(crate) is_authority: bool,
    pub(crate) public_key: PublicKey,
    /// The mesh that this certificate is the root of, if it is a root.
    pub(crate) mesh_id: MeshId,
    pub(crate) grant: Option<Grant>,
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
    pub(crate) serial: Vec<u8>,
}

impl Fields {
    pub(crate) fn of(der: &[u8]) -> Result<Self, String> {
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| "it is not an X.509 certificate in DER")?;
        if !rest.is_empty() {
            return Err("bytes follow the certificate".into());
        }
        let constraints = parsed.basic_constraints().map_err(|_| "its basic constraints are malformed or doubled")?;
        Ok(Self {
            uri: only_uri(&parsed)?,
            is_authority: constraints.is_some_and(|constraints| constraints.value.ca),
            public_key: public_key(parsed.public_key()).ok_or("its key is not an ECDSA P-256 key")?,
            mesh_id: MeshId::of_root_spki(parsed.public_key().raw),
            grant: grant_of(&parsed)?,
            not_before: unix_time(parsed.validity().not_before),
            not_after: unix_time(parsed.validity().not_after),
            serial: parsed.raw_serial().to_vec(),
        })
    }

    /// The trust domain of a CA certificate, whose URI is `spiffe://TRUST_DOMAIN` with no path.
    pub(crate) fn authority_domain(&self) -> Option<TrustDomain> {
        if !self.is_authority {
            return None;
        }
        self.uri.strip_prefix("spiffe://")?.parse().ok()
    }
}

/// A P-256 key out of a certificate or a request; `None` for any other kind.
pub(crate) fn public_key(spki: &SubjectPublicKeyInfo<'_>) -> Option<PublicKey> {
    let curve = spki.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok())?;
    if spki.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || curve != OID_EC_P256 {
        return None;
    }
    PublicKey::from_point(&spki.subject_public_key.data)
}

/// An identity certificate has exactly one URI name (X.509-SVID, section 2), and here no name of another kind.
fn only_uri(certificate: &X509Certificate<'_>) -> Result<String, String> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| "its names are malformed or doubled")?
        .ok_or("it has no SPIFFE id")?;
    match names.value.general_names.as_slice() {
        [GeneralName::URI(uri)] => Ok((*uri).to_owned()),
        _ => Err("it must have one SPIFFE id and no other name".into()),
    }
}

fn grant_of(certificate: &X509Certificate<'_>) -> Result<Option<Grant>, String> {
    let is_grant =
        |oid: &x509_parser::asn1_rs::Oid<'_>| oid.iter().is_some_and(|arcs| arcs.eq(grant::OID.iter().copied()));
    let mut grants = certificate.extensions().iter().filter(|extension| is_grant(&extension.oid));
    match (grants.next(), grants.next()) {
        (None, _) => Ok(None),
        (Some(one), None) => grant::from_der(one.value).map(Some).map_err(|error| error.to_string()),
        (Some(_), Some(_)) => Err("it has two grants".into()),
    }
}

/// Dates before 1970 count as 1970.
fn unix_time(time: ASN1Time) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(time.timestamp().try_into().unwrap_or(0)))
}
