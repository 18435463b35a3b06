//! Where configuration comes from: sources that turn Kubernetes objects into deltas, and the store they change.
//!
//! A source emits [`Delta`](weft_core::snapshot::Delta)s and nothing else. The data path reads the store's snapshot and
//! never learns whether a directory or an API server was behind it.

pub mod crd;
pub mod enrol;
pub mod install;
pub mod kubernetes;
pub mod manifests;
pub mod publish;
mod readiness;
pub mod resource;
pub mod review;
mod source;
pub mod standing;
mod store;

/// The namespace the mesh itself is in, unless it is told otherwise.
pub const SYSTEM_NAMESPACE: &str = "weft-system";

pub use readiness::Readiness;
pub use source::{Batch, Source};
pub use store::Store;
