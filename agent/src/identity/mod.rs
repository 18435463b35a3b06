//! Who this node may speak as: one P-256 key and certificate per service account, renewed before it expires.
//!
//! `store` keeps an identity's certificate fresh by asking an [`Authority`]; `ca` is the authority of a mesh without a
//! cluster, `remote` one over the network; `credentials` turns a certificate into cached TLS configurations; `verify` decides whether a peer's
//! certificate names who it should. Keys are made here, live in memory and are never written to disk. Whether an
//! authenticated peer may do what it asks is the policy's business, not this room's.

mod authority;
mod bundle;
pub mod ca;
mod credentials;
mod error;
mod key;
mod provider;
mod remote;
mod store;
mod verify;

#[cfg(test)]
mod tests;

pub use authority::{Authority, CertificateRequest, Issued};
pub use bundle::{Bundle, mint};
pub use credentials::{Credentials, PeerCertificate};
pub use error::{AuthorityError, CaError, CredentialsError, PeerError, Unavailable};
pub use remote::{RemoteCa, RemoteSettings};
pub use store::{Identities, IdentityState, Settings};
pub(crate) use verify::peer_error;
