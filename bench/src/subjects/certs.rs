//! Keys and certificates of the peers: one CA and one leaf that both sides hold, ECDSA P-256 as Weft's are, made for the run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};

/// The name both sides are checked for.
const NAME: &str = "mesh.test";

/// Writes `ca.pem`, `cert.pem`, `key.pem` and `both.pem` (certificate and key in one, as HAProxy wants them).
pub(super) fn write(directory: &Path) -> Result<PathBuf> {
    let certs = directory.join("certs");
    if certs.join("both.pem").exists() {
        return Ok(certs);
    }
    fs::create_dir_all(&certs)?;
    let (ca, leaf) = (key()?, key()?);
    let mut root = CertificateParams::default();
    root.distinguished_name.push(DnType::CommonName, "bench root");
    root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root_pem = root.self_signed(&ca)?.pem();
    let mut params = CertificateParams::new(vec![NAME.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, NAME);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&leaf, &Issuer::from_params(&root, &ca))?.pem();
    let files = [
        ("ca.pem", root_pem),
        ("cert.pem", certificate.clone()),
        ("key.pem", leaf.serialize_pem()),
        ("both.pem", certificate + &leaf.serialize_pem()),
    ];
    for (name, text) in files {
        fs::write(certs.join(name), text).with_context(|| format!("writing {name}"))?;
    }
    Ok(certs)
}

fn key() -> Result<KeyPair> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}
