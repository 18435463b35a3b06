//! A certificate, its key and the trust anchors as PEM files, for a peer that is not this agent.

use std::path::Path;
use std::time::Duration;

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use weft_ca::{pem_of, request_params};
use weft_core::model::Identity;
use zeroize::Zeroizing;

use super::ca::files::{make_directory, write_atomically};
use super::{Authority, AuthorityError, CaError, CertificateRequest, Issued};

/// Makes a key and has `authority` sign a certificate for it, for a peer of another kind, e.g. a test client. The only keys
/// that leave memory.
///
/// # Errors
/// [`AuthorityError`] as the authority says.
pub async fn mint(
    authority: &dyn Authority,
    identity: &Identity,
    lifetime: Duration,
) -> Result<Bundle, AuthorityError> {
    let (key, request) = ask(identity, lifetime)?;
    Ok(gather(key, &authority.sign(request).await?))
}

/// A fresh key, and the request for its certificate.
pub(super) fn ask(
    identity: &Identity,
    lifetime: Duration,
) -> Result<(Zeroizing<String>, CertificateRequest), AuthorityError> {
    let refuse = |reason: String| AuthorityError::Refused { identity: identity.clone(), reason };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| refuse(e.to_string()))?;
    let csr = request_params(identity).map_err(refuse)?;
    let csr = csr.serialize_request(&key).map_err(|e| refuse(e.to_string()))?.into();
    let key = Zeroizing::new(key.serialize_pem());
    Ok((key, CertificateRequest { identity: identity.clone(), csr, lifetime }))
}

/// A key with what was issued for it.
pub(super) fn gather(key: Zeroizing<String>, issued: &Issued) -> Bundle {
    Bundle { chain: pem_of(&issued.chain), key, anchors: pem_of(&issued.anchors) }
}

/// What `weft ca sign` and `weft ca request` write: three PEM texts.
#[derive(Debug)]
pub struct Bundle {
    /// The chain, leaf first.
    pub chain: String,
    /// PKCS #8.
    pub key: Zeroizing<String>,
    /// The trust anchors.
    pub anchors: String,
}

impl Bundle {
    /// Writes `cert.pem`, `key.pem` (0600) and `roots.pem` into `directory`, making it if need be.
    ///
    /// # Errors
    /// [`CaError::File`] names the file that could not be written.
    pub fn write(&self, directory: &Path) -> Result<(), CaError> {
        make_directory(directory)?;
        write_atomically(&directory.join("key.pem"), self.key.as_bytes(), 0o600)?;
        write_atomically(&directory.join("cert.pem"), self.chain.as_bytes(), 0o644)?;
        write_atomically(&directory.join("roots.pem"), self.anchors.as_bytes(), 0o644)
    }
}
