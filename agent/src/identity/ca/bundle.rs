//! A certificate, its key and the trust anchors as PEM files, for a peer that is not this agent.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::super::{CaError, Issued};
use super::files::{make_directory, write_atomically};

/// What `weft ca sign` writes: three PEM texts.
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
    pub(super) fn new(issued: &Issued, key: Zeroizing<String>) -> Self {
        Self { chain: pem_of(&issued.chain), key, anchors: pem_of(&issued.anchors) }
    }

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

fn pem_of(certificates: &[CertificateDer<'_>]) -> String {
    let unix = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    certificates.iter().map(|der| pem::encode_config(&pem::Pem::new("CERTIFICATE", der.as_ref()), unix)).collect()
}
