//! What the issuer serves TLS with: a key of this replica's own, certified by the root it signs with.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use super::roots::Signing;

/// How long its certificate lasts; it is renewed at half of that.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

pub(super) struct ServingKey {
    pub(super) certified: Arc<CertifiedKey>,
    signed_by: CertificateDer<'static>,
    due: SystemTime,
}

impl ServingKey {
    /// Makes a key and has it certified for these DNS names.
    pub(super) fn make(signing: &Signing, names: &[String]) -> Result<Self, String> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| e.to_string())?;
        let leaf = signing.signer.sign_server(names, &key, LIFETIME).map_err(|e| e.to_string())?;
        let der = zeroize::Zeroizing::new(key.serialize_der());
        let private = any_ecdsa_type(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.as_slice())))
            .map_err(|e| e.to_string())?;
        let mut chain = vec![leaf.certificate];
        chain.extend(signing.intermediates.iter().cloned());
        let left = leaf.not_after.duration_since(SystemTime::now()).unwrap_or_default();
        Ok(Self {
            certified: Arc::new(CertifiedKey::new(chain, private)),
            signed_by: signing.signer.certificate().clone(),
            due: SystemTime::now() + left / 2,
        })
    }

    /// Whether it need not be renewed, and is of the root that signs.
    pub(super) fn is_fresh(&self, signing: &Signing) -> bool {
        self.signed_by == *signing.signer.certificate()
            && self.certified.cert[1..] == signing.intermediates[..]
            && SystemTime::now() < self.due
    }
}
