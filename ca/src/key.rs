//! ECDSA P-256 keys: one algorithm, because every peer, `openssl` and TLS library knows it.

use std::fmt;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
    },
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use zeroize::{Zeroize, Zeroizing};

use crate::{CaError, pem};

/// Length of an uncompressed P-256 point (SEC 1, section 2.3.3).
const POINT_LEN: usize = 65;

/// A private key. Its bytes are wiped when it is dropped, and nothing prints them.
pub struct PrivateKey {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl PrivateKey {
    /// Makes a new key from the host's randomness.
    ///
    /// # Errors
    /// [`CaError::Crypto`] if the host has no randomness or memory left.
    pub fn generate() -> Result<Self, CaError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .map_err(|_| CaError::Crypto { what: "making a key" })?;
        Self::from_pkcs8(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// Reads PKCS#8 DER (RFC 5958).
    ///
    /// # Errors
    /// [`CaError::BadKey`] if it is not one P-256 key.
    pub fn from_pkcs8(pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, CaError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8)
            .map_err(|_| CaError::BadKey("it is not an ECDSA P-256 key in PKCS#8"))?;
        Ok(Self { pair, pkcs8 })
    }

    /// Reads the first `PRIVATE KEY` block of a PEM text.
    ///
    /// # Errors
    /// [`CaError::BadKey`] if there is none, or it is not a P-256 key.
    pub fn from_pem(text: &[u8]) -> Result<Self, CaError> {
        let mut der = PrivatePkcs8KeyDer::from_pem_slice(text)
            .map_err(|_| CaError::BadKey("there is no whole PRIVATE KEY block in it"))?;
        let pkcs8 = Zeroizing::new(der.secret_pkcs8_der().to_vec());
        der.zeroize();
        Self::from_pkcs8(pkcs8)
    }

    /// The key as a `PRIVATE KEY` PEM block.
    pub fn to_pem(&self) -> Zeroizing<String> {
        pem::encode("PRIVATE KEY", &self.pkcs8)
    }

    /// A copy for rustls, which wants to own it.
    pub fn to_tls(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.to_vec()))
    }

    pub fn public_key(&self) -> PublicKey {
        PublicKey::from_point(self.pair.public_key().as_ref())
            .expect("aws-lc gives the public key of a P-256 pair as an uncompressed point")
    }

    /// Signs a message: ECDSA with SHA-256, ASN.1.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.pair.sign(&SystemRandom::new(), message);
        signature
            .expect("the key was checked when it was read, and a nonce needs no more than randomness")
            .as_ref()
            .to_vec()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

impl rcgen::PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// Signs through this type, so that rcgen never holds a copy of the key that nobody wipes.
impl rcgen::SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.sign(message))
    }
}

/// A P-256 public key. Whether its point is on the curve is checked when it verifies something.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; POINT_LEN]);

impl PublicKey {
    /// Takes an uncompressed point (SEC 1, section 2.3.3); `None` for anything else.
    pub fn from_point(point: &[u8]) -> Option<Self> {
        let point: [u8; POINT_LEN] = point.try_into().ok()?;
        (point[0] == 4).then_some(Self(point))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this key made this signature (ECDSA with SHA-256, ASN.1) of this message.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.0).verify(message, signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublicKey(")?;
        self.0[1..9].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("..)")
    }
}

impl rcgen::PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_from_its_pem() {
        let key = PrivateKey::generate().unwrap();
        let pem = key.to_pem();
        assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"), "{}", &pem[..40]);
        assert!(pem.ends_with("\n-----END PRIVATE KEY-----\n"));
        assert!(pem.lines().all(|line| line.len() <= 64));
        assert_eq!(PrivateKey::from_pem(pem.as_bytes()).unwrap().public_key(), key.public_key());
    }

    #[test]
    fn a_signature_verifies_for_its_message_and_key_only() {
        let (key, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let signature = key.sign(b"message");
        assert!(key.public_key().verify(b"message", &signature));
        assert!(!key.public_key().verify(b"massage", &signature));
        assert!(!other.public_key().verify(b"message", &signature));
        assert!(!key.public_key().verify(b"message", b""));
    }

    #[test]
    fn a_key_is_never_printed() {
        let key = PrivateKey::generate().unwrap();
        assert_eq!(format!("{key:?}"), "PrivateKey(..)");
        assert_eq!(format!("{key:#?}"), "PrivateKey(..)");
    }

    #[test]
    fn what_is_no_p256_key_is_refused() {
        let key = PrivateKey::generate().unwrap();
        let half = key.to_pem()[..80].to_owned();
        let p384 = aws_lc_rs::signature::EcdsaKeyPair::generate_pkcs8(
            &aws_lc_rs::signature::ECDSA_P384_SHA384_ASN1_SIGNING,
            &SystemRandom::new(),
        )
        .unwrap();
        for text in ["", "hello", &half, &pem::encode("PRIVATE KEY", p384.as_ref()), &pem::encode("CERTIFICATE", b"x")]
        {
            let error = PrivateKey::from_pem(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("P-256"), "{error}");
        }
    }
}
