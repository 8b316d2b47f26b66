//! Who signed, and why something is not believed.

use weft_wire::id::{Grant, NodeName, ServiceAccount, SpiffeId};

/// Certificates in a chain, leaf first, without the root: a leaf and two issuers leave one to spare.
const MAX_CHAIN_CERTS: usize = 4;
/// Largest DER certificate in a chain, in bytes. A grant may name many accounts.
const MAX_CERT_LEN: usize = 8 * 1024;
/// An ASN.1 ECDSA P-256 signature takes 72 bytes at most; other algorithms may come.
const MAX_SIGNATURE_LEN: usize = 1024;

/// Who signed something, as the chain's leaf says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    pub id: SpiffeId,
    /// What the leaf allows; operators and workloads may have none.
    pub grant: Option<Grant>,
}

/// Judges signatures. The node implements it with its trust roots.
pub trait Authority {
    /// The signer, if `chain` led to a trusted root at `at_ms` (Unix milliseconds) and its leaf's key made
    /// `signature` over `signed`.
    ///
    /// # Errors
    /// Why not, for a person to read.
    fn signer(&self, chain: &[Vec<u8>], signed: &[u8], signature: &[u8], at_ms: u64) -> Result<Signer, String>;
}

/// Why a fact or document was neither stored nor forwarded. Whoever refuses counts it by [`Refusal::label`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("not signed by a trusted key: {0}")]
    NotTrusted(String),
    #[error("signed by {signer}, but says it is from {claimed}")]
    ForeignSigner { signer: SpiffeId, claimed: String },
    #[error(
        "{node} announces service account {account}, which its certificate does not allow; join it with a token that has --allow {account}"
    )]
    AccountNotAllowed { node: NodeName, account: ServiceAccount },
    #[error("{signer} may not write this: it takes {needs}")]
    RoleTooLow { signer: SpiffeId, needs: &'static str },
    #[error("malformed: {0}")]
    Malformed(String),
    #[error("{what} is {len}, more than the limit of {limit}")]
    TooLarge { what: &'static str, len: usize, limit: usize },
}

impl Refusal {
    /// A metric label: one of a fixed few.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotTrusted(_) => "not_trusted",
            Self::ForeignSigner { .. } => "foreign_signer",
            Self::AccountNotAllowed { .. } => "account_not_allowed",
            Self::RoleTooLow { .. } => "role_too_low",
            Self::Malformed(_) => "malformed",
            Self::TooLarge { .. } => "too_large",
        }
    }
}

/// Refuses what is longer than its limit.
pub(crate) fn at_most(what: &'static str, len: usize, limit: usize) -> Result<(), Refusal> {
    if len > limit { Err(Refusal::TooLarge { what, len, limit }) } else { Ok(()) }
}

/// Bounds a chain and signature before any of it is parsed.
pub(crate) fn check_proof(chain: &[Vec<u8>], signature: &[u8]) -> Result<(), Refusal> {
    at_most("the number of certificates", chain.len(), MAX_CHAIN_CERTS)?;
    for cert in chain {
        at_most("a certificate's length", cert.len(), MAX_CERT_LEN)?;
    }
    at_most("the signature's length", signature.len(), MAX_SIGNATURE_LEN)
}

/// An authority for tests, whose certificates are plain text: `SPIFFE-ID|ROLE|ACCOUNTS`. A signature is the chain's
/// leaf followed by what is signed.
#[cfg(test)]
pub(crate) mod fake {
    use super::*;

    pub(crate) struct FakeAuthority;

    /// The chain of a signer with this id, role and accounts, such as `*/*`.
    pub(crate) fn chain(id: &str, role: &str, accounts: &str) -> Vec<Vec<u8>> {
        vec![format!("{id}|{role}|{accounts}").into_bytes()]
    }

    pub(crate) fn sign(chain: &[Vec<u8>], signed: &[u8]) -> Vec<u8> {
        // Short, like a real one, but over all of it.
        let mut input = chain[0].clone();
        input.extend_from_slice(signed);
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &input).as_ref().to_vec()
    }

    impl Authority for FakeAuthority {
        fn signer(&self, chain: &[Vec<u8>], signed: &[u8], signature: &[u8], _at_ms: u64) -> Result<Signer, String> {
            if sign(chain, signed) != signature {
                return Err("the signature does not match".into());
            }
            let leaf = String::from_utf8(chain[0].clone()).map_err(|error| error.to_string())?;
            let parts: Vec<&str> = leaf.split('|').collect();
            let accounts = parts[2].split(',').filter(|a| !a.is_empty()).map(|a| a.parse().unwrap()).collect();
            Ok(Signer {
                id: parts[0].parse().unwrap(),
                grant: Some(Grant { role: parts[1].parse().unwrap(), accounts }),
            })
        }
    }
}
