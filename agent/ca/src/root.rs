//! A new root of a mesh: a P-256 key and the certificate it signs for itself.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use weft_core::model::TrustDomain;
use zeroize::Zeroizing;

use crate::signer::{BACKDATE, random_serial};

/// How long a root lasts: as long as a machine.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A root, as PEM.
#[derive(Debug)]
pub struct MadeRoot {
    /// PKCS #8.
    pub key: Zeroizing<String>,
    /// Its certificate.
    pub certificate: String,
}

/// Makes a root.
///
/// # Errors
/// When the cryptographic library refuses.
pub fn make_root(trust_domain: &TrustDomain) -> Result<MadeRoot, String> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| e.to_string())?;
    let key = Zeroizing::new(key.serialize_pem());
    let certificate = root_of_key(&key, trust_domain)?;
    Ok(MadeRoot { key, certificate })
}

/// The certificate of a root whose key is there already, as PEM.
///
/// # Errors
/// When the key cannot be read.
pub fn root_of_key(key: &str, trust_domain: &TrustDomain) -> Result<String, String> {
    let key = KeyPair::from_pem(key).map_err(|e| e.to_string())?;
    let params = params(trust_domain).map_err(|e| e.to_string())?;
    Ok(params.self_signed(&key).map_err(|e| e.to_string())?.pem())
}

fn params(trust_domain: &TrustDomain) -> Result<CertificateParams, rcgen::Error> {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain.as_str());
    params.distinguished_name.push(DnType::CommonName, format!("Weft root {:08x}", rand::random::<u32>()));
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(random_serial());
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + LIFETIME).into();
    Ok(params)
}
