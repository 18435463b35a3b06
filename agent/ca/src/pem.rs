//! Certificates as PEM text, as files, Secrets and Istio's protocol have them.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Every certificate of a text, in order.
///
/// # Errors
/// What cannot be read.
pub fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(text.as_bytes())
        .map(|certificate| certificate.map(CertificateDer::into_owned).map_err(|error| error.to_string()))
        .collect()
}

/// Certificates as one text, in order.
#[must_use]
pub fn pem_of(certificates: &[CertificateDer<'_>]) -> String {
    let unix = ::pem::EncodeConfig::new().set_line_ending(::pem::LineEnding::LF);
    certificates.iter().map(|der| ::pem::encode_config(&::pem::Pem::new("CERTIFICATE", der.as_ref()), unix)).collect()
}
