//! The seam between this node and whoever signs its certificates.

use std::time::Duration;

use futures_util::future::BoxFuture;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use weft_core::model::Identity;

use super::AuthorityError;

/// What is asked of an [`Authority`].
#[derive(Debug, Clone)]
pub struct CertificateRequest {
    /// The identity the certificate shall carry as its only URI SAN.
    pub identity: Identity,
    /// PKCS #10, signed by the key it is for.
    pub csr: CertificateSigningRequestDer<'static>,
    /// How long the certificate shall last; an authority may shorten it.
    pub lifetime: Duration,
}

/// What an [`Authority`] answers.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The leaf first, then the intermediates, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Every trust anchor of the mesh: two or more while a root is being replaced.
    pub anchors: Vec<CertificateDer<'static>>,
}

/// Signs the certificates of this node's workloads.
///
/// The authority decides whether the caller may have the identity; the store only asks for identities of pods it runs.
pub trait Authority: Send + Sync + 'static {
    /// Signs one certificate.
    fn sign(&self, request: CertificateRequest) -> BoxFuture<'_, Result<Issued, AuthorityError>>;

    /// The trust anchors as they are now, asked regularly so that a root can be replaced without a restart.
    fn anchors(&self) -> BoxFuture<'_, Result<Vec<CertificateDer<'static>>, AuthorityError>>;
}
