//! What a certificate of the mesh says. Says, not proves: [`crate::trust`] decides whether to believe it.

use std::time::Duration;

use rustls_pki_types::UnixTime;
use weft_wire::id::{Grant, MeshId, NodeName, TrustDomain};
use x509_parser::{
    asn1_rs::{Oid, Utf8String},
    certificate::X509Certificate,
    extensions::GeneralName,
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY},
    prelude::FromDer,
    time::ASN1Time,
    x509::SubjectPublicKeyInfo,
};

use crate::{grant, issuer::BACKDATE, key::PublicKey, revocation::Provenance};

/// Names the node that asked for a workload's certificate, in a DER UTF8String. In IANA's experimental arc.
pub(crate) const HOST_OID: &[u64] = &[1, 3, 6, 1, 3, 15008, 2];

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
        let parsed = parse(der)?;
        let constraints = parsed.basic_constraints().map_err(|_| "its basic constraints are malformed or doubled")?;
        Ok(Self {
            uri: only_uri(&parsed)?,
            is_authority: constraints.is_some_and(|constraints| constraints.value.ca),
            public_key: public_key(parsed.public_key()).ok_or("its key is not an ECDSA P-256 key")?,
            mesh_id: MeshId::of_root_spki(parsed.public_key().raw),
            grant: only_extension(&parsed, grant::OID)?
                .map(grant::from_der)
                .transpose()
                .map_err(|error| error.to_string())?,
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

impl Provenance {
    /// Of a certificate that was verified, and of the intermediate that signed it, if one did.
    ///
    /// # Errors
    /// A clause for the caller's sentence, if they are not as the mesh makes them.
    pub fn of(leaf: &[u8], intermediate: Option<&[u8]>) -> Result<Self, String> {
        let leaf = parse(leaf)?;
        let host = only_extension(&leaf, HOST_OID)?.map(host_of).transpose()?;
        let issuer = |der| Ok::<_, String>((issuer_node(der)?, issued(&parse(der)?)));
        Ok(Self { issued: issued(&leaf), host, issuer: intermediate.map(issuer).transpose()? })
    }
}

/// The CA node that an intermediate is for.
pub(crate) fn issuer_node(intermediate: &[u8]) -> Result<NodeName, String> {
    let parsed = parse(intermediate)?;
    let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok()?.parse().ok());
    name.ok_or_else(|| "an intermediate names no CA node".into())
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, String> {
    match X509Certificate::from_der(der) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err("bytes follow the certificate".into()),
        Err(_) => Err("it is not an X.509 certificate in DER".into()),
    }
}

/// When it was made, which is later than when it begins.
fn issued(certificate: &X509Certificate<'_>) -> UnixTime {
    let begins = unix_time(certificate.validity().not_before).as_secs();
    UnixTime::since_unix_epoch(Duration::from_secs(begins.saturating_add(BACKDATE.as_secs())))
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

/// The value of an extension that may be there once.
fn only_extension<'c>(certificate: &'c X509Certificate<'_>, oid: &[u64]) -> Result<Option<&'c [u8]>, String> {
    let is_it = |found: &Oid<'_>| found.iter().is_some_and(|arcs| arcs.eq(oid.iter().copied()));
    let mut all = certificate.extensions().iter().filter(|extension| is_it(&extension.oid));
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(one), None) => Ok(Some(one.value)),
        (Some(_), Some(_)) => Err("it has an extension of weft's twice".into()),
    }
}

fn host_of(der: &[u8]) -> Result<NodeName, String> {
    match Utf8String::from_der(der) {
        Ok(([], name)) => name.as_ref().parse().map_err(|error| format!("its host: {error}")),
        _ => Err("its host is no text".into()),
    }
}

/// Dates before 1970 count as 1970.
fn unix_time(time: ASN1Time) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(time.timestamp().try_into().unwrap_or(0)))
}
