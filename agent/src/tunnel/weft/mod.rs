//! The Weft tunnel on a socket: [`super::mux`] over [`super::tls`]. `docs/tunnel.md`.
//!
//! A [`link::Link`] is a tunnel's state behind one lock, which is held for moments and, with a worker per core, never
//! waited for. What apps send is read to where it is sealed (`outgoing`), by a stream's own task while there is room in the
//! tunnel's one buffer, in turn (`line`) when there is not. `driver` writes the buffer and reads the socket; what has come
//! is opened where it lies and given straight to the apps' sockets (`arrivals`). What an app does not take waits in the
//! stream, within its window and the pod's budget. A stream that is idle is an entry in a table.

mod arrivals;
mod client;
mod driver;
mod handle;
mod io;
mod line;
mod link;
mod outgoing;
mod pace;
mod pending;
mod pulse;
mod server;

pub(super) use client::{Client, Running, establish};
pub(crate) use handle::{App, Drained, Handle};
pub(super) use io::WeftIo;
pub(crate) use outgoing::Sent;
pub(super) use server::{Answer, run};
