//! A Kubernetes API server to test with: HTTP/1.1 and HTTP/2, JSON, over TCP or TLS, everything in memory.
//!
//! It behaves as the real one does where a mesh's agents and controllers can tell: the contract suite ([`contract`])
//! replays exchanges recorded from a real API server against it, and runs the same against any cluster a kubeconfig names.
//! What it does and what it refuses to do is in `tests/apiserver/README.md`.
//!
//! ```no_run
//! # async fn run() -> anyhow::Result<()> {
//! use weft_apiserver::{Config, Server};
//! let server = Server::start("127.0.0.1:0".parse()?, Config::default()).await?;
//! println!("{}", server.kubeconfig());
//! server.faults().cut_watches();
//! # Ok(()) }
//! ```

mod auth;
pub mod contract;
mod controllers;
mod counters;
mod engine;
mod faults;
mod handle;
mod json;
mod kinds;
mod patch;
mod request;
mod restore;
mod schema;
mod select;
mod server;
mod status;
mod store;
mod tls;
mod view;

pub use counters::{Counts, Watch};
pub use engine::Config;
pub use faults::{Faults, Rule};
pub use server::Server;
