//! The cryptography of the mesh: TLS 1.3 only, hybrid post-quantum key exchange first, one library.

use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// The provider every TLS configuration of the mesh uses.
///
/// AES-128 before AES-256: it is what RFC 8446 has everyone implement, what BoringSSL, and so Envoy, chooses, as strong as the
/// P-256 certificates beside it, and takes 10 rounds a block in the place of 14. Peers that want AES-256 get it.
///
/// X25519MLKEM768 costs 32 to 59 us more per handshake than X25519 and keeps recorded traffic closed to a later quantum
/// computer; peers without it fall back to X25519 or P-256.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
                aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
                aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            kx_groups: vec![
                aws_lc_rs::kx_group::X25519MLKEM768,
                aws_lc_rs::kx_group::X25519,
                aws_lc_rs::kx_group::SECP256R1,
            ],
            ..aws_lc_rs::default_provider()
        })
    }))
}
