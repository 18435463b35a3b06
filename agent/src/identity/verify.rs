//! Whether a peer's certificate names who it should: the chain by webpki, then the SPIFFE identity.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};
use weft_core::model::{Identity, TrustDomain};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{PeerCertificate, PeerError};

/// Reads whom a leaf names and for how long. Verifies nothing.
///
/// # Errors
/// [`PeerError`] when it does not name exactly one workload.
pub(super) fn read_leaf(leaf: &CertificateDer<'_>) -> Result<PeerCertificate, PeerError> {
    let malformed = |e: &dyn fmt::Display| PeerError::Malformed(e.to_string());
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|e| malformed(&e))?;
    let names = certificate.subject_alternative_name().map_err(|e| malformed(&e))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|san| &san.value.general_names)
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    let [uri] = uris[..] else {
        return Err(if uris.is_empty() { PeerError::NoIdentity } else { PeerError::ManyIdentities(uris.len()) });
    };
    let seconds = |time: x509_parser::time::ASN1Time| {
        std::time::UNIX_EPOCH + std::time::Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
    };
    Ok(PeerCertificate {
        identity: uri.parse()?,
        serial: certificate.raw_serial_as_string(),
        not_before: seconds(certificate.validity.not_before),
        not_after: seconds(certificate.validity.not_after),
    })
}

/// Reads a leaf and refuses identities of another mesh.
pub(super) fn read_own_domain(leaf: &CertificateDer<'_>, own: &TrustDomain) -> Result<PeerCertificate, PeerError> {
    let read = read_leaf(leaf)?;
    if read.identity.trust_domain != *own {
        return Err(PeerError::OtherTrustDomain { found: read.identity, own: own.clone() });
    }
    Ok(read)
}

/// The precise reason inside a TLS error, if the error is about the peer's certificate.
pub(crate) fn peer_error(error: &Error) -> Option<PeerError> {
    let Error::InvalidCertificate(error) = error else { return None };
    Some(match error {
        CertificateError::Other(OtherError(inner)) => {
            inner.downcast_ref::<PeerError>().cloned().unwrap_or_else(|| PeerError::Invalid(inner.to_string()))
        }
        CertificateError::BadEncoding => PeerError::Malformed("not DER".to_owned()),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => PeerError::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => PeerError::NotYetValid,
        CertificateError::UnknownIssuer => PeerError::UnknownIssuer,
        other => PeerError::Invalid(other.to_string()),
    })
}

fn refuse(error: PeerError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// Checks the server of a tunnel: it must be exactly the workload that was dialled.
///
/// No DNS name or address is looked at; the identity is the name.
#[derive(Debug)]
pub(super) struct ServerIdentity {
    pub(super) expected: Identity,
    pub(super) roots: Arc<RootCertStore>,
    pub(super) provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ServerIdentity {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        rustls::client::verify_server_cert_signed_by_trust_anchor(&leaf, &self.roots, intermediates, now, algorithms)?;
        let found = read_own_domain(end_entity, &self.expected.trust_domain).map_err(refuse)?.identity;
        if found != self.expected {
            return Err(refuse(PeerError::Unexpected { expected: self.expected.clone(), found }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Checks the client of a tunnel: any workload of this mesh; policy decides what it may do.
#[derive(Debug)]
pub(super) struct ClientIdentity {
    own: TrustDomain,
    chain: Arc<dyn ClientCertVerifier>,
}

impl ClientIdentity {
    /// # Errors
    /// The text of webpki's objection, e.g. to an empty set of roots.
    pub(super) fn new(
        own: TrustDomain,
        roots: Arc<RootCertStore>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let chain = WebPkiClientVerifier::builder_with_provider(roots, provider).build().map_err(|e| e.to_string())?;
        Ok(Self { own, chain })
    }
}

impl ClientCertVerifier for ClientIdentity {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        read_own_domain(end_entity, &self.own).map_err(refuse)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
