//! TLS of both kinds of tunnel, on rustls' unbuffered interface: records are sealed into the buffer they are written from
//! and opened in the buffer they were read into.
//!
//! `session` has no socket; `handshake` brings one up; `io` is the same as an ordinary byte stream, for HTTP/2; `records` is
//! what a Weft tunnel goes on with after the handshake, without a copy.

mod handshake;
mod io;
mod records;
mod session;

pub(super) use handshake::{Established, accept, connect};
pub(super) use io::TlsIo;
pub(super) use records::{PREFIX, Records, SUFFIX};
#[cfg(test)]
use session::Tls;

#[cfg(test)]
mod tests;
