//! A fresh private key and the request that goes with it.

use std::sync::Arc;

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::SigningKey;
use weft_ca::request_params;
use weft_core::model::Identity;
use zeroize::{Zeroize, Zeroizing};

use super::CredentialsError;

/// A P-256 key that exists only in memory, and its signing request.
///
/// The encoded forms needed to hand it from one library to the other are wiped before this is returned.
pub(super) struct FreshKey {
    pub(super) signing: Arc<dyn SigningKey>,
    pub(super) csr: CertificateSigningRequestDer<'static>,
}

impl FreshKey {
    pub(super) fn generate(identity: &Identity) -> Result<Self, CredentialsError> {
        let fail = |reason: String| CredentialsError::Key { identity: identity.clone(), reason };
        let mut pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| fail(e.to_string()))?;
        let made = Self::from_pair(&pair, identity).map_err(fail);
        pair.zeroize();
        made
    }

    fn from_pair(pair: &KeyPair, identity: &Identity) -> Result<Self, String> {
        let csr = request_params(identity)?.serialize_request(pair).map_err(|e| e.to_string())?;
        let der = Zeroizing::new(pair.serialize_der());
        let signing = any_ecdsa_type(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.as_slice())))
            .map_err(|e| e.to_string())?;
        Ok(Self { signing, csr: csr.into() })
    }
}
