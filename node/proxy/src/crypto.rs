//! The cryptography of all TLS and QUIC here.

use std::sync::{Arc, LazyLock};

use rustls::{
    CipherSuite,
    crypto::{CryptoProvider, aws_lc_rs},
};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
});

/// aws-lc's, with X25519MLKEM768 preferred, and of TLS 1.3's suites the one that everybody must have (RFC 8446 section
/// 9.1): processors have instructions for SHA-256 more often than for SHA-384, of which a handshake has dozens, and
/// AES takes ten rounds in place of fourteen.
pub fn provider() -> Arc<CryptoProvider> {
    PROVIDER.clone()
}
