//! The lab and what its journeys share.
//!
//! A lab is a small data centre on one kernel: nodes and pods are network namespaces with cgroups of their own, joined by
//! a bridge, and every process in them is a real one. Tests, the demo and benches all start from [`lab::Lab`].
//!
//! Nothing here knows how the mesh works inside. The lab starts the real binaries, writes the manifests a user would
//! write, and judges from outside: by what processes, packets, counters and the kernel's own tables say, the mesh's
//! pinned maps among them.

pub mod app;
pub mod capture;
pub mod lab;
pub mod metrics;
pub mod wait;
