//! The Weft tunnel on a socket: [`super::mux`] over [`super::tls`]. `docs/tunnel.md`.
//!
//! A [`link::Link`] is a tunnel's state behind one lock, which is held for moments and, with a worker per core, never
//! waited for. Streams seal what they send into its one buffer and leave; `driver` writes the buffer, reads the socket,
//! and gives what arrives straight to the app's socket. What the app does not take waits in the stream, within its window
//! and the pod's budget. A stream that is idle is an entry in a table.

mod client;
mod driver;
mod handle;
mod link;
mod pending;
mod pulse;
mod server;

pub(super) use client::{Client, Running, establish};
pub(crate) use handle::{Drained, Handle, Sent, Sink};
pub(super) use server::{Answer, run};
