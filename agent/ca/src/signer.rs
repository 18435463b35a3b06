//! Who signs leaves: a certificate with its key, read from PEM and checked.

use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SerialNumber,
};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use time::OffsetDateTime;
use weft_core::model::{Identity, IdentityError, TrustDomain};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{Request, request_params};

/// Certificates are valid from a little before they are issued, so that a peer whose clock is behind accepts them.
pub(crate) const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// Why a certificate and a key cannot sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignerError {
    /// The certificate cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Certificate(String),
    /// The key cannot be read.
    #[error("the key cannot be read: {0}")]
    Key(String),
    /// They do not belong together.
    #[error("the certificate belongs to another key")]
    OtherKey,
    /// It is a leaf's.
    #[error("the certificate is not an authority's (its basic constraints lack CA)")]
    NoAuthority,
    /// Its time is over, or has not come.
    #[error("the certificate is not valid at this time: renew it, and see whether the clock is right")]
    NotValid,
    /// Who trusts the anchors only would not believe what it signs.
    #[error(
        "what it signs is not believed by those who trust its anchors: {0}; is every certificate between the two in \
         tls.crt, and the root of tls.crt in ca.crt?"
    )]
    Unbelieved(String),
    /// It is another mesh's.
    #[error("it is the root of trust domain {found:?}, not of {own}")]
    OtherTrustDomain {
        /// The trust domain it names.
        found: String,
        /// The mesh's.
        own: TrustDomain,
    },
}

/// A certificate that was signed.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// DER.
    pub certificate: CertificateDer<'static>,
    /// Its serial number, hexadecimal with colons.
    pub serial: String,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
}

/// An authority's certificate with its key.
pub struct Signer {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    not_after: OffsetDateTime,
    self_signed: bool,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Signer {
    /// Puts a certificate and its key (PEM) together, for the mesh of `own`.
    ///
    /// # Errors
    /// [`SignerError`] when they cannot be used.
    pub fn read(certificate: &CertificateDer<'static>, key: &str, own: &TrustDomain) -> Result<Self, SignerError> {
        let unreadable = |e: &dyn std::fmt::Display| SignerError::Certificate(e.to_string());
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|e| unreadable(&e))?;
        check_domain(&parsed, own)?;
        if !parsed.is_ca() {
            return Err(SignerError::NoAuthority);
        }
        // Whatever stands before the key, as OpenSSL writes the parameters of a curve, is passed over.
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| SignerError::Key(e.to_string()))?;
        let key = KeyPair::try_from(&key).map_err(|e| SignerError::Key(e.to_string()))?;
        if parsed.public_key().subject_public_key.data[..] != *key.der_bytes() {
            return Err(SignerError::OtherKey);
        }
        let not_after = parsed.validity.not_after.to_datetime();
        let self_signed = parsed.subject() == parsed.issuer();
        let issuer = Issuer::from_ca_cert_der(certificate, key).map_err(|e| unreadable(&e))?;
        Ok(Self { issuer, certificate: certificate.clone(), not_after, self_signed })
    }

    /// Its own certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Until when its certificate is valid.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after.into()
    }

    /// Whether it is a root; if not, what it signs is sent with its certificate.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.self_signed
    }

    /// Signs what was asked for, for at most `lifetime` and no longer than the signer's own certificate lasts.
    ///
    /// # Errors
    /// [`SignerError::NotValid`] when that has expired; else what the cryptographic library says.
    pub fn sign(&self, request: &Request, lifetime: Duration) -> Result<Leaf, SignerError> {
        let params = request_params(request.identity()).map_err(SignerError::Certificate)?;
        self.finish(params, &request.key, lifetime)
    }

    /// Signs a certificate to serve TLS with under DNS names, for a key of the caller's own.
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub fn sign_server(&self, names: &[String], key: &KeyPair, lifetime: Duration) -> Result<Leaf, SignerError> {
        let mut params = CertificateParams::new(names).map_err(|e| SignerError::Certificate(e.to_string()))?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        self.finish(params, key, lifetime)
    }

    /// Signs for a workload of `own` as a trial, and verifies it as a peer does that trusts `anchors` and is sent
    /// `intermediates`: what nobody would believe is better not signed.
    ///
    /// # Errors
    /// [`SignerError::Unbelieved`], and those of [`Signer::sign`].
    pub fn check(
        &self,
        own: &TrustDomain,
        intermediates: &[CertificateDer<'static>],
        anchors: &[CertificateDer<'static>],
    ) -> Result<(), SignerError> {
        let unbelieved = |e: &dyn std::fmt::Display| SignerError::Unbelieved(e.to_string());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| SignerError::Key(e.to_string()))?;
        let identity: Identity = format!("spiffe://{own}/ns/weft-system/sa/weft-controller")
            .parse()
            .map_err(|e: IdentityError| SignerError::Certificate(e.to_string()))?;
        let params = request_params(&identity).map_err(SignerError::Certificate)?;
        let leaf = self.finish(params, &key, BACKDATE)?;
        let mut roots = RootCertStore::empty();
        for anchor in anchors {
            roots.add(anchor.clone()).map_err(|e| unbelieved(&e))?;
        }
        let provider = aws_lc_rs::default_provider().into();
        let peer =
            WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().map_err(|e| unbelieved(&e))?;
        let verified = peer.verify_client_cert(&leaf.certificate, intermediates, UnixTime::now());
        verified.map(drop).map_err(|e| unbelieved(&e))
    }

    fn finish(
        &self,
        mut params: CertificateParams,
        key: &impl PublicKeyData,
        lifetime: Duration,
    ) -> Result<Leaf, SignerError> {
        let now = SystemTime::now();
        let serial = random_serial();
        params.not_before = (now - BACKDATE).into();
        params.not_after = self.not_after.min((now + lifetime).into());
        if params.not_after <= OffsetDateTime::from(now) {
            return Err(SignerError::NotValid);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial.clone());
        let (not_before, not_after) = (params.not_before.into(), params.not_after.into());
        let signed = params.signed_by(key, &self.issuer).map_err(|e| SignerError::Certificate(e.to_string()))?;
        let serial: Vec<String> = serial.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Leaf { certificate: signed.into(), serial: serial.join(":"), not_before, not_after })
    }
}

fn check_domain(root: &X509Certificate<'_>, own: &TrustDomain) -> Result<(), SignerError> {
    let names = root.subject_alternative_name().ok().flatten();
    let uri = names.iter().flat_map(|san| &san.value.general_names).find_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    // A root made elsewhere need not name its trust domain.
    match uri {
        Some(uri) if uri != format!("spiffe://{own}") => Err(SignerError::OtherTrustDomain {
            found: uri.trim_start_matches("spiffe://").to_owned(),
            own: own.clone(),
        }),
        _ => Ok(()),
    }
}

/// 126 random bits behind a leading `01`: positive, never the same twice, and without a leading zero byte, which DER would drop
/// (X.690, 8.3.2): the number in the certificate reads as the one in the log.
pub(crate) fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x3f | 0x40;
    SerialNumber::from_slice(&bytes)
}
