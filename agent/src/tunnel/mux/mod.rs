//! The protocol of the Weft tunnel, without any I/O: bytes in, events out, frames to send. `docs/tunnel.md` specifies it.
//!
//! `frame` and `fields` are what is on the wire, `decoder` reads it however it is split, `session` is the state of a
//! tunnel and of its streams, `credit` the flow control of one direction of one stream. Nothing here knows TLS, sockets,
//! clocks or identities. A peer's bytes never panic: they are a frame, part of one, or a [`Malformed`] that ends the tunnel.

mod credit;
mod decoder;
mod fields;
mod frame;
mod malformed;
mod session;

#[cfg(test)]
mod tests;

pub use credit::{Inbound, Outbound, Windows};
pub use decoder::Decoder;
pub use fields::{Hello, Open};
pub use frame::{Code, Frame, HEADER, PAYLOAD_MAX, data_header};
pub use malformed::Malformed;
pub use session::{Event, NotOpened, Session, Side};
