use std::{io, path::PathBuf};

use crate::grant::GrantError;

/// Why a key, a certificate or a file of either could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("{what} failed in the cryptographic library; if it happens again, the host is short of memory or entropy")]
    Crypto { what: &'static str },
    #[error("not a usable private key: {0}; weft wants one PKCS#8 PEM block (\"PRIVATE KEY\") with an ECDSA P-256 key")]
    BadKey(&'static str),
    #[error("certificate request refused: {0}")]
    BadRequest(&'static str),
    #[error("not a usable CA certificate: {0}")]
    BadAuthority(String),
    #[error("not PEM certificates: {0}")]
    BadPem(&'static str),
    #[error("the issuing certificate ended {ago_secs} s ago; renew it before it can sign")]
    AuthorityExpired { ago_secs: u64 },
    #[error("the certificate could not be encoded: {0}")]
    Encoding(String),
    #[error(transparent)]
    Grant(#[from] GrantError),
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{0} is readable by others than its owner (mode {mode:o}): run `chmod 600 {0}`", path.display())]
    OpenKeyFile { path: PathBuf, mode: u32 },
    #[error("{} is larger than {limit} bytes, which no file of its kind is", path.display())]
    FileTooLarge { path: PathBuf, limit: u64 },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: Box<CaError> },
}
