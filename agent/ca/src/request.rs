//! A signing request, read and judged: a P-256 key, the name of one workload, and nothing else.

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKey, PublicKeyData, SanType,
};
use rustls::pki_types::CertificateSigningRequestDer;
use weft_core::model::{Identity, IdentityError};

/// Length of an uncompressed point on P-256.
const POINT: usize = 65;

/// Why a request is not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It is none, or its signature is not its key's.
    #[error("the request cannot be read: {0}")]
    Malformed(String),
    /// Its key is of another kind.
    #[error("keys must be ECDSA on P-256")]
    Key,
    /// It names nobody, or more than one workload.
    #[error("the request names {0} subject alternative names; it must carry exactly one URI, the SPIFFE identity")]
    Names(usize),
    /// It names a host or address.
    #[error("the request asks for a name that is no URI; it must carry exactly one URI, the SPIFFE identity")]
    NoUri,
    /// It names something that is no workload.
    #[error("the request names no workload: {0}")]
    Identity(#[from] IdentityError),
    /// It asks for more than an identity.
    #[error("the request asks for {0}, which no workload has")]
    Rights(&'static str),
}

/// A request that may be signed, if whoever made it may have the identity.
pub struct Request {
    pub(crate) key: PublicKey,
    identity: Identity,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Request {
    /// Reads a request and checks that it is signed by the key it is for.
    ///
    /// # Errors
    /// [`RequestError`] says what is wrong with it.
    pub fn read(csr: &CertificateSigningRequestDer<'_>) -> Result<Self, RequestError> {
        let asked =
            CertificateSigningRequestParams::from_der(csr).map_err(|e| RequestError::Malformed(e.to_string()))?;
        // By the signature's algorithm alone a P-384 key would pass for one on P-256.
        if asked.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 || asked.public_key.der_bytes().len() != POINT {
            return Err(RequestError::Key);
        }
        let identity = match &asked.params.subject_alt_names[..] {
            [SanType::URI(uri)] => uri.as_str().parse()?,
            [_] => return Err(RequestError::NoUri),
            names => return Err(RequestError::Names(names.len())),
        };
        modest(&asked.params)?;
        Ok(Self { key: asked.public_key, identity })
    }

    /// Whom it asks to be.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// Nothing of what a request asks for beside its name is put into the certificate; what would matter if it were is refused.
fn modest(params: &CertificateParams) -> Result<(), RequestError> {
    let leaf = [KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyAgreement];
    let peer = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    if matches!(params.is_ca, IsCa::Ca(_)) {
        return Err(RequestError::Rights("an authority's certificate"));
    }
    if params.key_usages.iter().any(|usage| !leaf.contains(usage)) {
        return Err(RequestError::Rights("a key usage"));
    }
    if params.extended_key_usages.iter().any(|usage| !peer.contains(usage)) {
        return Err(RequestError::Rights("an extended key usage"));
    }
    Ok(())
}

/// A request's content: the identity as the only subject alternative name, and no subject.
///
/// # Errors
/// When the identity cannot be a URI.
pub fn request_params(identity: &Identity) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names =
        vec![SanType::URI(identity.to_string().try_into().map_err(|e: rcgen::Error| e.to_string())?)];
    Ok(params)
}
