//! Certificate requests (PKCS#10, RFC 2986): a public key and the proof that the sender has its private half.
//!
//! A request may also ask for names, usages and extensions. They are not read: names come from [`crate::rules`].

use rcgen::{CertificateParams, DistinguishedName};
use x509_parser::{
    certification_request::X509CertificationRequest, oid_registry::OID_SIG_ECDSA_WITH_SHA256, prelude::FromDer,
};

use crate::{
    CaError, certificate,
    key::{PrivateKey, PublicKey},
};

/// Largest request that is looked at, in bytes; ours are about 200.
pub const MAX_CSR_LEN: usize = 4 * 1024;

/// A request for a certificate of this key, DER. It asks for no name.
///
/// # Errors
/// [`CaError::Encoding`], which no key is known to cause.
pub fn create(key: &PrivateKey) -> Result<Vec<u8>, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(key).map_err(|error| CaError::Encoding(error.to_string()))?;
    Ok(request.der().to_vec())
}

/// Checks a request's signature and returns its key, the only part of it that may enter a certificate.
///
/// # Errors
/// [`CaError::BadRequest`] if it is too large, malformed, not for a P-256 key, or not signed by that key.
pub fn verify(der: &[u8]) -> Result<PublicKey, CaError> {
    if der.len() > MAX_CSR_LEN {
        return Err(CaError::BadRequest("it is larger than 4 KiB"));
    }
    let (rest, request) = X509CertificationRequest::from_der(der)
        .map_err(|_| CaError::BadRequest("it is not a PKCS#10 request in DER"))?;
    if !rest.is_empty() {
        return Err(CaError::BadRequest("bytes follow the request"));
    }
    let info = &request.certification_request_info;
    let key =
        certificate::public_key(&info.subject_pki).ok_or(CaError::BadRequest("its key is not an ECDSA P-256 key"))?;
    if request.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256 {
        return Err(CaError::BadRequest("it is not signed with ECDSA and SHA-256"));
    }
    if !key.verify(info.raw, &request.signature_value.data) {
        return Err(CaError::BadRequest("it is not signed by the key that it names"));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_yields_its_key() {
        let key = PrivateKey::generate().unwrap();
        assert_eq!(verify(&create(&key).unwrap()).unwrap(), key.public_key());
    }

    #[test]
    fn a_request_for_somebody_elses_key_is_refused() {
        let (own, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let mut request = create(&own).unwrap();
        let at = request.windows(65).position(|window| window == own.public_key().as_bytes()).unwrap();
        request[at..at + 65].copy_from_slice(other.public_key().as_bytes());
        assert!(verify(&request).unwrap_err().to_string().contains("not signed by the key"));
    }

    #[test]
    fn requests_of_another_shape_are_refused() {
        let request = create(&PrivateKey::generate().unwrap()).unwrap();
        let mut longer = request.clone();
        longer.push(0);
        let rsa_like = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let ed25519 = CertificateParams::default().serialize_request(&rsa_like).unwrap().der().to_vec();
        for (bytes, why) in [
            (&request[..request.len() - 1], "not a PKCS#10"),
            (&longer, "bytes follow"),
            (&ed25519, "not an ECDSA P-256 key"),
            (&[0; MAX_CSR_LEN + 1], "larger than"),
        ] {
            let error = verify(bytes).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(verify(&bytes).is_err());
        }
    }

    #[test]
    fn no_flipped_bit_makes_a_request_for_another_key() {
        let key = PrivateKey::generate().unwrap();
        let request = create(&key).unwrap();
        for bit in 0..request.len() * 8 {
            let mut changed = request.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            // Some bits of the frame around what is signed mean nothing.
            if let Ok(found) = verify(&changed) {
                assert_eq!(found, key.public_key(), "bit {bit}");
            }
        }
    }
}
