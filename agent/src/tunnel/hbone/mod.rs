//! HBONE: one HTTP/2 CONNECT stream per connection, as Istio's ztunnel speaks it. For every peer that is not Weft.

mod client;
mod io;
mod keepalive;
mod request;
mod server;
mod watched;

pub(super) use client::{Client, Running, establish};
pub(super) use io::HboneIo;
pub(super) use server::{Accepted, Answer, accept, run};

/// What a stream may hold unread, in bytes. 256 KiB fill 2 Gbit/s at a round trip of 1 ms.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Larger than all streams' windows together, so that no reader who stops can take another's share.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// The largest DATA frame accepted: four TLS records.
const FRAME_MAX: u32 = 64 * 1024;
/// What a stream may have written and not yet sent, in bytes.
const SEND_BUFFER: usize = 128 * 1024;
/// What small DATA frames that nobody reads may cost, in bytes as h2 counts them (256 less the payload each): two windows
/// full of one-byte segments, some 75 MB of memory. A tunnel that needs more is closed. Without this bound the connection
/// window would be the bound.
const FRAME_BUDGET: usize = 128 << 20;
/// The header list announced and accepted, in bytes.
const HEADER_LIST_MAX: u32 = 64 * 1024;
