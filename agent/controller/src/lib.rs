//! The role `weft controller`: what a mesh in a cluster needs once, and no node can do by itself.
//!
//! It runs as a Deployment of two replicas or more. Nothing of it is on a connection's path: while it is away, agents
//! serve with what they know and hold. It consists of parts, each a task and a room of its own ([`run`]); parts share a
//! client of the API server, the settings, the metrics and the word to stop, and know nothing of each other.

mod issuer;
mod lease;
mod parts;
mod settings;
mod slices;
mod status;
mod telemetry;

pub use parts::{RunError, run};
pub use settings::{ControllerArgs, IssuerArgs, IssuerSettings, Settings};
pub use telemetry::Telemetry;
