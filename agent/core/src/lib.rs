//! The pure half of Weft: what a connection's facts lead to.
//!
//! Nothing here does I/O, reads a clock or draws a random number: time and randomness are arguments. Everything is a
//! function of an immutable [`snapshot::Snapshot`], so that what was decided can be decided again and compared.
#![forbid(unsafe_code)]

pub mod balance;
mod duration;
pub mod http;
pub mod model;
pub mod policy;
mod reason;
pub mod route;
pub mod same_node;
pub mod snapshot;
#[cfg(test)]
mod testing;
pub mod traffic;

pub use duration::parse_duration;
