//! The certificate authority of a mesh without a cluster: a root key in a state directory.
//!
//! Several agents may share the directory; whoever comes first makes the root, under a file lock. The root key is read
//! for each signature and not kept in memory, so replacing `root.key` and `root.crt` needs no restart: put the old
//! certificate into `trust.crt` until every leaf it signed has expired. Nobody is authenticated here: whoever can read
//! the directory can be any workload, which is why a key that others could read is refused.

mod bundle;
mod files;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, FutureExt};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use weft_core::model::{Identity, TrustDomain};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

pub use bundle::Bundle;

use super::key::request_params;
use super::{Authority, AuthorityError, CaError, CertificateRequest, Issued};
use files::Directory;

/// Certificates are valid from a little before they are issued, so that a peer whose clock is behind accepts them.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// How long a root lasts: as long as a machine.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// The longest leaf this authority signs.
const LEAF_LIFETIME_MAX: Duration = Duration::from_secs(90 * 24 * 3600);

/// The authority in a state directory: `root.key` (0600), `root.crt` and, while a root is being replaced, `trust.crt`.
#[derive(Debug, Clone)]
pub struct EmbeddedCa {
    directory: Directory,
    trust_domain: TrustDomain,
}

impl EmbeddedCa {
    /// Opens the authority in `directory`, making directory and root where there is none.
    ///
    /// # Errors
    /// [`CaError`]: unreadable or damaged files, a key that others could read, or the root of another trust domain.
    pub fn open(directory: &Path, trust_domain: &TrustDomain) -> Result<Self, CaError> {
        let ca = Self { directory: Directory::open(directory)?, trust_domain: trust_domain.clone() };
        let _lock = ca.directory.lock()?;
        if !ca.directory.has_certificate()? {
            ca.make_root()?;
        }
        ca.root()?;
        Ok(ca)
    }

    /// Where the root certificate lies, e.g. to give it to a peer of another kind.
    #[must_use]
    pub fn root_certificate(&self) -> PathBuf {
        self.directory.certificate_path()
    }

    /// Signs one certificate now. Blocks on the disk.
    ///
    /// # Errors
    /// [`AuthorityError`]: the files are at fault, or the request is not for a workload of this mesh.
    pub fn issue(&self, request: &CertificateRequest) -> Result<Issued, AuthorityError> {
        let refuse = |reason: String| AuthorityError::Refused { identity: request.identity.clone(), reason };
        if request.identity.trust_domain != self.trust_domain {
            return Err(refuse(format!("this authority signs for {} only", self.trust_domain)));
        }
        let mut asked = CertificateSigningRequestParams::from_der(&request.csr).map_err(|e| refuse(e.to_string()))?;
        if asked.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(refuse("keys must be ECDSA on P-256".to_owned()));
        }
        let mut leaf = request_params(&request.identity).map_err(refuse)?;
        if asked.params.subject_alt_names != leaf.subject_alt_names {
            return Err(refuse("the request names somebody else".to_owned()));
        }
        let root = self.root().map_err(Arc::new)?;
        complete_leaf(&mut leaf, request.lifetime, root.not_after);
        asked.params = leaf;
        let signed = asked.signed_by(&root.issuer).map_err(|e| refuse(e.to_string()))?;
        Ok(Issued { chain: vec![signed.into()], anchors: root.anchors })
    }

    fn make_root(&self) -> Result<(), CaError> {
        let crypto = |e: rcgen::Error| CaError::Crypto(e.to_string());
        // A key without a certificate is what a crash between the two writes leaves: nothing was signed with it.
        let key = match self.directory.read_key()? {
            Some(pem) => self.parse_key(&pem)?,
            None => {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(crypto)?;
                self.directory.write_key(&zeroize::Zeroizing::new(key.serialize_pem()))?;
                key
            }
        };
        let params = root_params(&self.trust_domain).map_err(crypto)?;
        self.directory.write_certificate(&params.self_signed(&key).map_err(crypto)?.pem())
    }

    fn parse_key(&self, pem: &str) -> Result<KeyPair, CaError> {
        KeyPair::from_pem(pem).map_err(|e| CaError::Damaged { path: self.directory.key_path(), reason: e.to_string() })
    }

    /// The root as it is on disk now, checked.
    fn root(&self) -> Result<Root, CaError> {
        let path = self.directory.certificate_path();
        let damaged = |reason: String| CaError::Damaged { path: path.clone(), reason };
        let anchors = self.directory.read_anchors()?;
        let first = anchors.first().ok_or_else(|| damaged("it holds no certificate".to_owned()))?;
        let (_, certificate) = X509Certificate::from_der(first).map_err(|e| damaged(e.to_string()))?;
        self.check_domain(&certificate, &path)?;
        let pem = self.directory.read_key()?.ok_or_else(|| CaError::KeyMissing { path: self.directory.key_path() })?;
        let key = self.parse_key(&pem)?;
        if certificate.public_key().subject_public_key.data[..] != *key.public_key_raw() {
            return Err(damaged("it belongs to another key than root.key".to_owned()));
        }
        let not_after = certificate.validity.not_after.to_datetime();
        let issuer = Issuer::from_ca_cert_der(first, key).map_err(|e| damaged(e.to_string()))?;
        Ok(Root { issuer, not_after, anchors })
    }

    fn check_domain(&self, root: &X509Certificate<'_>, path: &Path) -> Result<(), CaError> {
        let names = root.subject_alternative_name().ok().flatten();
        let uri = names.iter().flat_map(|san| &san.value.general_names).find_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        // A root made elsewhere need not name its trust domain.
        match uri {
            Some(uri) if uri != format!("spiffe://{}", self.trust_domain) => Err(CaError::OtherTrustDomain {
                path: path.to_owned(),
                found: uri.trim_start_matches("spiffe://").to_owned(),
                own: self.trust_domain.clone(),
            }),
            _ => Ok(()),
        }
    }
}

struct Root {
    issuer: Issuer<'static, KeyPair>,
    not_after: OffsetDateTime,
    anchors: Vec<CertificateDer<'static>>,
}

impl Authority for EmbeddedCa {
    fn sign(&self, request: CertificateRequest) -> BoxFuture<'_, Result<Issued, AuthorityError>> {
        let ca = self.clone();
        blocking(move || ca.issue(&request)).boxed()
    }

    fn anchors(&self) -> BoxFuture<'_, Result<Vec<CertificateDer<'static>>, AuthorityError>> {
        let directory = self.directory.clone();
        blocking(move || directory.read_anchors().map_err(|e| AuthorityError::Ca(Arc::new(e)))).boxed()
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AuthorityError> + Send + 'static,
) -> Result<T, AuthorityError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(AuthorityError::Unreachable("the agent is stopping".to_owned())),
    }
}

fn root_params(trust_domain: &TrustDomain) -> Result<CertificateParams, rcgen::Error> {
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
    params.not_after = (now + ROOT_LIFETIME).into();
    Ok(params)
}

fn complete_leaf(params: &mut CertificateParams, lifetime: Duration, root_ends: OffsetDateTime) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATE).into();
    params.not_after = root_ends.min((now + lifetime.min(LEAF_LIFETIME_MAX)).into());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(random_serial());
}

/// 127 random bits: positive, and never the same twice.
fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] &= 0x7f;
    SerialNumber::from_slice(&bytes)
}

/// Asks `ca` for `identity` with a key that is written out: for peers that are not this agent.
impl EmbeddedCa {
    /// Makes a key and a certificate for a peer of another kind, e.g. a test client. The only keys that leave memory.
    ///
    /// # Errors
    /// [`AuthorityError`] as for [`EmbeddedCa::issue`].
    pub fn mint(&self, identity: &Identity, lifetime: Duration) -> Result<Bundle, AuthorityError> {
        let refuse = |reason: String| AuthorityError::Refused { identity: identity.clone(), reason };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| refuse(e.to_string()))?;
        let csr = request_params(identity).map_err(refuse)?;
        let csr = csr.serialize_request(&key).map_err(|e| refuse(e.to_string()))?.into();
        let issued = self.issue(&CertificateRequest { identity: identity.clone(), csr, lifetime })?;
        Ok(Bundle::new(&issued, zeroize::Zeroizing::new(key.serialize_pem())))
    }
}
