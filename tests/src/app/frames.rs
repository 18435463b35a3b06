//! HTTP/2 as bytes: frames that a journey writes to the letter, right or wrong, and those that came.
//!
//! It knows the nine octets of a frame's head (RFC 9113, 4.1) and the plainest of HPACK's representations (RFC 7541, 6.2.2),
//! and judges nothing.

use serde::{Deserialize, Serialize};

use super::protocol::End;

/// What a client begins with (RFC 9113, 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The types of frames (RFC 9113, 6).
#[allow(missing_docs, reason = "named as in the RFC")]
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags (RFC 9113, 6).
#[allow(missing_docs, reason = "named as in the RFC")]
pub mod flag {
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 is the connection.
    pub stream: u32,
    /// Its payload; of one that was read the first [`Frame::KEPT`] bytes.
    pub payload: Vec<u8>,
}

/// What came, up to what was waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    /// The frames.
    pub frames: Vec<Frame>,
    /// How the connection ended, if it did.
    pub end: Option<End>,
}

impl Frame {
    /// Bytes of a payload that are reported.
    pub const KEPT: usize = 1024;

    /// A frame.
    #[must_use]
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, flags, stream, payload: payload.into() }
    }

    /// As it is sent.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap_or(u32::MAX).to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    /// From a frame's head: the frame without its payload, and the payload's length.
    #[must_use]
    pub fn head(head: &[u8; 9]) -> (Self, usize) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        (Self::new(head[3], head[4], stream, Vec::new()), length)
    }

    /// Of RST_STREAM and GOAWAY: the code (RFC 9113, 7).
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        let at = match self.kind {
            kind::RST_STREAM => 0,
            kind::GOAWAY => 4,
            _ => return None,
        };
        self.payload.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// Whether it is the last of this stream.
    #[must_use]
    pub fn ends(&self, stream: u32) -> bool {
        let last = [kind::DATA, kind::HEADERS].contains(&self.kind) && self.flags & flag::END_STREAM != 0;
        self.stream == stream && last
    }
}

/// Fields as literals that nothing is remembered of (RFC 7541, 6.2.2), no Huffman code.
#[must_use]
pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend(text.bytes());
        }
    }
    block
}

/// RFC 7541, 5.1, with a prefix of seven bits.
fn integer(block: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        return block.push(value as u8);
    }
    block.push(127);
    value -= 127;
    while value >= 128 {
        block.push((value % 128) as u8 | 128);
        value /= 128;
    }
    block.push(value as u8);
}
