//! The certificate authority of a mesh without a cluster: a root key in a state directory.
//!
//! Several agents may share the directory; whoever comes first makes the root, under a file lock. The root key is read
//! for each signature and not kept in memory, so replacing `root.key` and `root.crt` needs no restart: put the old
//! certificate into `trust.crt` until every leaf it signed has expired. Nobody is authenticated here: whoever can read
//! the directory can be any workload, which is why a key that others could read is refused.

pub(super) mod files;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use rustls::pki_types::CertificateDer;
use weft_ca::{Request, Signer, SignerError, make_root, root_of_key};
use weft_core::model::{Identity, TrustDomain};

use super::bundle::{Bundle, ask, gather};
use super::{Authority, AuthorityError, CaError, CertificateRequest, Issued};
use files::Directory;

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
        let asked = Request::read(&request.csr).map_err(|e| refuse(e.to_string()))?;
        if *asked.identity() != request.identity {
            return Err(refuse("the request names somebody else".to_owned()));
        }
        let (signer, anchors) = self.root().map_err(Arc::new)?;
        let leaf = signer.sign(&asked, request.lifetime.min(LEAF_LIFETIME_MAX)).map_err(|e| refuse(e.to_string()))?;
        Ok(Issued { chain: vec![leaf.certificate], anchors })
    }

    fn make_root(&self) -> Result<(), CaError> {
        // A key without a certificate is what a crash between the two writes leaves: nothing was signed with it.
        let certificate = match self.directory.read_key()? {
            Some(pem) => root_of_key(&pem, &self.trust_domain)
                .map_err(|reason| CaError::Damaged { path: self.directory.key_path(), reason })?,
            None => {
                let made = make_root(&self.trust_domain).map_err(CaError::Crypto)?;
                self.directory.write_key(&made.key)?;
                made.certificate
            }
        };
        self.directory.write_certificate(&certificate)
    }

    /// The root as it is on disk now, checked, and every anchor.
    fn root(&self) -> Result<(Signer, Vec<CertificateDer<'static>>), CaError> {
        let path = self.directory.certificate_path();
        let damaged = |reason: String| CaError::Damaged { path: path.clone(), reason };
        let anchors = self.directory.read_anchors()?;
        let first = anchors.first().ok_or_else(|| damaged("it holds no certificate".to_owned()))?;
        let pem = self.directory.read_key()?.ok_or_else(|| CaError::KeyMissing { path: self.directory.key_path() })?;
        let signer = Signer::read(first, &pem, &self.trust_domain).map_err(|error| match error {
            SignerError::OtherTrustDomain { found, own } => {
                CaError::OtherTrustDomain { path: path.clone(), found, own }
            }
            SignerError::Key(reason) => CaError::Damaged { path: self.directory.key_path(), reason },
            other => damaged(other.to_string()),
        })?;
        Ok((signer, anchors))
    }
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

impl EmbeddedCa {
    /// As [`mint`](super::mint), without waiting for anybody but the disk.
    ///
    /// # Errors
    /// [`AuthorityError`] as for [`EmbeddedCa::issue`].
    pub fn mint(&self, identity: &Identity, lifetime: Duration) -> Result<Bundle, AuthorityError> {
        let (key, request) = ask(identity, lifetime)?;
        Ok(gather(key, &self.issue(&request)?))
    }
}
