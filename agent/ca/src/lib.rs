//! What a certificate authority of the mesh does, wherever its key is kept: it reads requests, makes roots, signs leaves;
//! and the protocol in which it is asked over a network.
//!
//! The agent's embedded authority and the controller's issuer sign with this, so that a certificate is the same whoever
//! signed it. Nothing here does I/O or decides who may have which identity: that is its callers' to decide.

mod pem;
pub mod protocol;
mod request;
mod root;
mod signer;

#[cfg(test)]
mod tests;

pub use pem::{certificates, pem_of};
pub use request::{Request, RequestError, request_params};
pub use root::{MadeRoot, make_root, root_of_key};
pub use signer::{Leaf, Signer, SignerError};
