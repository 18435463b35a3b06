//! What goes wrong with identities, in words that say what to do.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use weft_core::model::{Identity, IdentityError, TrustDomain};

/// Why a peer's certificate was not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The leaf is not a certificate.
    #[error("the peer's certificate cannot be read: {0}")]
    Malformed(String),
    /// It was valid once.
    #[error(
        "the peer's certificate has expired: does its agent still reach its certificate authority, and are both clocks right?"
    )]
    Expired,
    /// It will be valid.
    #[error("the peer's certificate is not valid yet: are the clocks of both nodes right?")]
    NotYetValid,
    /// Nobody this node trusts has signed it.
    #[error(
        "the peer's certificate is signed by an authority this mesh does not trust: do both agents use the same root?"
    )]
    UnknownIssuer,
    /// It is not meant for this use, or its signature is wrong.
    #[error("the peer's certificate does not verify: {0}")]
    Invalid(String),
    /// It names nobody.
    #[error("the peer's certificate carries no URI SAN, so it names no workload")]
    NoIdentity,
    /// It names several.
    #[error("the peer's certificate carries {0} URI SANs; exactly one may name the workload")]
    ManyIdentities(usize),
    /// It names something that is not a workload.
    #[error("the peer's certificate names no workload: {0}")]
    Form(#[from] IdentityError),
    /// It names a workload of another mesh.
    #[error("the peer {found} belongs to another trust domain than {own}; federation is not configured")]
    OtherTrustDomain {
        /// Who the certificate names.
        found: Identity,
        /// This mesh.
        own: TrustDomain,
    },
    /// It names another workload than the one that was dialled.
    #[error(
        "the peer is {found}, but {expected} should answer at this address: has the address been given to another pod?"
    )]
    Unexpected {
        /// Who should have answered.
        expected: Identity,
        /// Who did.
        found: Identity,
    },
}

impl PeerError {
    /// The label under which metrics count this.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "certificate_malformed",
            Self::Expired => "certificate_expired",
            Self::NotYetValid => "certificate_not_yet_valid",
            Self::UnknownIssuer => "certificate_unknown_issuer",
            Self::Invalid(_) => "certificate_invalid",
            Self::NoIdentity | Self::ManyIdentities(_) | Self::Form(_) => "certificate_without_identity",
            Self::OtherTrustDomain { .. } => "other_trust_domain",
            Self::Unexpected { .. } => "wrong_identity",
        }
    }
}

/// Why an [`super::Authority`] did not sign.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuthorityError {
    /// The embedded authority's own files are at fault.
    #[error(transparent)]
    Ca(#[from] Arc<CaError>),
    /// The authority says no.
    #[error("the certificate authority refuses {identity}: {reason}")]
    Refused {
        /// Who was asked for.
        identity: Identity,
        /// Its words.
        reason: String,
    },
    /// The authority did not answer.
    #[error("the certificate authority cannot be reached: {0}")]
    Unreachable(String),
}

/// Why the embedded authority cannot work with its directory.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file cannot be read or written.
    #[error("cannot {action} {}: {source}; the state directory must be writable by the agent", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others could read the root key.
    #[error("{} has mode {mode:04o}: whoever reads it can be any workload of the mesh. If nobody could have read it, run `chmod 600 {}`; else remove the directory to start a new root", path.display(), path.display())]
    KeyExposed {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Others could replace the root.
    #[error("{} has mode {mode:04o}: whoever may write there can replace the root of the mesh. Run `chmod go-w {}`, or use a directory of the agent's own", path.display(), path.display())]
    DirectoryExposed {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The certificate is there, its key is not.
    #[error("{} is missing but its certificate is there: restore it from a backup, or remove the directory to start a new root", path.display())]
    KeyMissing {
        /// The key's file.
        path: PathBuf,
    },
    /// A file does not hold what it should.
    #[error("{} is damaged ({reason}): restore it from a backup, or remove the directory to start a new root", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The root belongs to another mesh.
    #[error("{} is the root of trust domain {found:?}, but this agent is configured for {own}: use another state directory or the same trust domain", path.display())]
    OtherTrustDomain {
        /// The certificate's file.
        path: PathBuf,
        /// The trust domain it names.
        found: String,
        /// The trust domain configured.
        own: TrustDomain,
    },
    /// The cryptographic library refused.
    #[error("cannot make the root certificate: {0}")]
    Crypto(String),
}

/// Why an issued certificate cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CredentialsError {
    /// A key could not be made.
    #[error("cannot make a key for {identity}: {reason}")]
    Key {
        /// For whom.
        identity: Identity,
        /// What the library said.
        reason: String,
    },
    /// The authority did not sign.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// By this node's clock it is not valid now.
    #[error("the certificate issued for {identity} {}: is this node's clock right, and the certificate authority's? Both should follow NTP", apart(*early, *by))]
    Clock {
        /// For whom.
        identity: Identity,
        /// It will be valid; else it was.
        early: bool,
        /// For how long it is not yet valid, or has not been any more.
        by: Duration,
    },
    /// The authority signed something else than was asked.
    #[error("the certificate issued for {identity} cannot be used: {reason}")]
    Unusable {
        /// For whom.
        identity: Identity,
        /// What is wrong with it.
        reason: String,
    },
}

impl CredentialsError {
    /// The label under which metrics count this.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Key { .. } => "key",
            Self::Authority(AuthorityError::Refused { .. }) => "refused",
            Self::Authority(AuthorityError::Unreachable(_)) => "unreachable",
            Self::Authority(AuthorityError::Ca(_)) => "embedded_ca",
            Self::Clock { .. } => "clock",
            Self::Unusable { .. } => "unusable",
        }
    }
}

/// How far outside its time a certificate is, in words that stay the same for a minute.
fn apart(early: bool, by: Duration) -> String {
    let minutes = by.as_secs() / 60;
    match early {
        true => format!("will be valid in {minutes} minutes only, by this node's clock"),
        false => format!("has not been valid for {minutes} minutes, by this node's clock"),
    }
}

/// There is no valid certificate for an identity of this node.
#[derive(Debug, Clone, thiserror::Error)]
#[error("there is no valid certificate for {identity}: {}", last.as_ref().map_or_else(|| "none has been issued yet".to_owned(), ToString::to_string))]
pub struct Unavailable {
    /// For whom.
    pub identity: Identity,
    /// Why the last attempt failed, if one did.
    pub last: Option<CredentialsError>,
}
