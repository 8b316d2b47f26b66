//! Certificates with their keys, in PEM.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use x509_parser::{pem::Pem, time::ASN1Time};
use zeroize::Zeroizing;

/// What the certificate and its key are called, the first pair that is there.
pub(crate) const PAIRS: [(&str, &str); 2] = [("tls.crt", "tls.key"), ("cert", "key")];
/// What the certificates of authorities are called.
pub(crate) const AUTHORITIES: [&str; 2] = ["ca.crt", "cacert"];

/// Of what `get` finds under each key, when the certificate begins and ends, in seconds since 1970; why it cannot be
/// used; `None` if there is no pair of certificate and key.
pub(crate) fn of<'s>(get: impl Fn(&str) -> Option<&'s [u8]>) -> Option<Result<(i64, i64), String>> {
    let (certificate, key) = PAIRS.iter().find_map(|(certificate, key)| Some((get(certificate)?, get(key)?)))?;
    let read = || {
        let pem = read_certificate(certificate)?;
        let parsed = pem.parse_x509().map_err(|_| "its certificate cannot be read".to_owned())?;
        read_key(key)?;
        let validity = parsed.validity();
        Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
    };
    Some(read())
}

/// Whether a certificate holds, by when it begins and ends, all in seconds since 1970.
pub(crate) fn check_validity(not_before: Option<i64>, not_after: Option<i64>, now: i64) -> Result<(), String> {
    let text = |time: i64| ASN1Time::from_timestamp(time).map_or_else(|_| time.to_string(), |time| time.to_string());
    if let Some(end) = not_after.filter(|end| now > *end) {
        return Err(format!("its certificate ended on {}", text(end)));
    }
    if let Some(begin) = not_before.filter(|begin| now < *begin) {
        return Err(format!("its certificate begins on {}", text(begin)));
    }
    Ok(())
}

/// Whether the key is the first certificate's.
///
/// # Errors
/// The key of the Secret that is wrong, and why; nothing of its value.
pub(crate) fn check_pair(certificate: &[u8], key: &[u8]) -> Result<(), (&'static str, String)> {
    let in_certificate = |why: String| ("tls.crt", why);
    let pem = read_certificate(certificate).map_err(in_certificate)?;
    let parsed = pem.parse_x509().map_err(|_| in_certificate("its certificate cannot be read".into()))?;
    let key = read_key(key).map_err(|why| ("tls.key", why))?;
    let public_keys = public_keys(&Zeroizing::new(key.contents));
    if public_keys.is_empty() {
        let why =
            "its key cannot be read: it must be an ECDSA (P-256, P-384, P-521), RSA or Ed25519 key, not encrypted";
        return Err(("tls.key", why.into()));
    }
    let of_certificate = &*parsed.public_key().subject_public_key.data;
    if public_keys.iter().any(|public| public == of_certificate) {
        Ok(())
    } else {
        Err(("tls.key", "is not the key of the certificate in tls.crt".into()))
    }
}

/// Whether these are certificates of authorities, at least one.
pub(crate) fn check_authorities(text: &[u8]) -> Result<(), &'static str> {
    let mut count = 0;
    for pem in Pem::iter_from_buffer(text) {
        let pem = pem.map_err(|_| "is no PEM")?;
        if pem.label == "CERTIFICATE" {
            pem.parse_x509().map_err(|_| "has a certificate that cannot be read")?;
            count += 1;
        }
    }
    if count == 0 { Err("has no certificate in PEM") } else { Ok(()) }
}

fn read_certificate(text: &[u8]) -> Result<Pem, String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(text).map_err(|_| "its certificate is no PEM".to_owned())?;
    if pem.label == "CERTIFICATE" { Ok(pem) } else { Err("its certificate is PEM of something else".into()) }
}

fn read_key(text: &[u8]) -> Result<Pem, String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(text).map_err(|_| "its key is no PEM".to_owned())?;
    if pem.label.ends_with("PRIVATE KEY") { Ok(pem) } else { Err("its key is PEM of something else".into()) }
}

/// The public keys of a private key in PKCS#8, SEC1 or PKCS#1: one, if it can be read.
fn public_keys(der: &[u8]) -> Vec<Vec<u8>> {
    fn of<K: KeyPair>(pair: &K) -> Vec<u8> {
        pair.public_key().as_ref().to_vec()
    }
    let curves = [&ECDSA_P256_SHA256_ASN1_SIGNING, &ECDSA_P384_SHA384_ASN1_SIGNING, &ECDSA_P521_SHA512_ASN1_SIGNING];
    let ecdsa = curves.into_iter().filter_map(|curve| EcdsaKeyPair::from_private_key_der(curve, der).ok());
    let rsa = RsaKeyPair::from_pkcs8(der).or_else(|_| RsaKeyPair::from_der(der)).ok();
    let ed25519 = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok();
    ecdsa.map(|pair| of(&pair)).chain(rsa.map(|pair| of(&pair))).chain(ed25519.map(|pair| of(&pair))).collect()
}
