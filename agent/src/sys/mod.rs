//! What the standard library and the crates we use leave out of Linux: namespaces, socket options, socket diagnosis,
//! routes and rules inside a pod, sysctls, cgroups, two calls of bpf(2) and one of the allocator.
//!
//! All of user space's `unsafe` is in this room. It knows nothing of pods, policy or the mesh: it does what it is told
//! and reports `io::Error`s.
#![allow(unsafe_code, reason = "this room is where it lives; each block says why it is sound")]

pub mod bpf;
pub mod cgroup;
pub mod clock;
pub mod diag;
pub mod dial;
pub mod limits;
pub mod link;
pub mod loader;
pub mod memory;
pub mod netns;
pub mod readiness;
pub mod rights;
pub mod route;
pub mod socket;
pub mod sysctl;

pub use netns::NetNs;
