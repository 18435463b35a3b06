//! What is on the wire: eight bytes of header, then the payload. `docs/tunnel.md`, "Frames".

use super::fields::{Hello, Open};
use super::malformed::Malformed;

/// Bytes in front of every payload: type, flags, length (2), stream (4), big-endian.
pub const HEADER: usize = 8;
/// The longest payload: with its header it fills one TLS record.
pub const PAYLOAD_MAX: usize = 16 * 1024 - HEADER;

/// Of OPEN and DATA: nothing follows in this direction.
const END: u8 = 1;

/// The types of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Hello = 1,
    Open = 2,
    Accept = 3,
    Refuse = 4,
    Data = 5,
    Credit = 6,
    Reset = 7,
    Ping = 8,
    Pong = 9,
    GoAway = 10,
}

impl Kind {
    fn read(byte: u8) -> Result<Self, Malformed> {
        Ok(match byte {
            1 => Self::Hello,
            2 => Self::Open,
            3 => Self::Accept,
            4 => Self::Refuse,
            5 => Self::Data,
            6 => Self::Credit,
            7 => Self::Reset,
            8 => Self::Ping,
            9 => Self::Pong,
            10 => Self::GoAway,
            other => return Err(Malformed::Kind(other)),
        })
    }

    fn is_about_a_stream(self) -> bool {
        !matches!(self, Self::Hello | Self::Ping | Self::Pong | Self::GoAway)
    }

    fn length_fits(self, length: usize) -> bool {
        match self {
            Self::Hello | Self::Data => true,
            Self::Open => length >= 2,
            Self::Accept => length == 0,
            Self::Refuse | Self::Reset => length == 1,
            Self::Credit => length == 4,
            Self::Ping | Self::Pong => length == 8,
            Self::GoAway => length == 5,
        }
    }
}

/// A header that was found in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) end: bool,
    pub(super) length: usize,
    pub(super) stream: u32,
}

impl Header {
    pub(super) fn read(bytes: [u8; HEADER]) -> Result<Self, Malformed> {
        let [kind, flags, l1, l2, s1, s2, s3, s4] = bytes;
        let kind = Kind::read(kind)?;
        let header = Self {
            kind,
            end: flags == END,
            length: usize::from(u16::from_be_bytes([l1, l2])),
            stream: u32::from_be_bytes([s1, s2, s3, s4]),
        };
        let may_end = matches!(kind, Kind::Open | Kind::Data);
        if flags > END || (header.end && !may_end) {
            return Err(Malformed::Flags);
        }
        if header.length > PAYLOAD_MAX || !kind.length_fits(header.length) {
            return Err(Malformed::Length);
        }
        if kind.is_about_a_stream() != (header.stream != 0) {
            return Err(Malformed::StreamNumber);
        }
        if kind == Kind::Data && header.length == 0 && !header.end {
            return Err(Malformed::EmptyData);
        }
        Ok(header)
    }

    fn write(kind: Kind, end: bool, length: usize, stream: u32) -> [u8; HEADER] {
        // Lengths are at most PAYLOAD_MAX, which every caller sees to.
        let [l1, l2] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
        let [s1, s2, s3, s4] = stream.to_be_bytes();
        [kind as u8, if end { END } else { 0 }, l1, l2, s1, s2, s3, s4]
    }
}

/// The header of a DATA frame with `length` bytes, at most [`PAYLOAD_MAX`].
#[must_use]
pub fn data_header(stream: u32, length: usize, end: bool) -> [u8; HEADER] {
    Header::write(Kind::Data, end, length, stream)
}

/// Why a stream or a tunnel ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// Of GOAWAY: nothing is wrong. Of REFUSE: the tunnel takes no more streams; another may.
    Leaving = 0,
    /// Of REFUSE: the address or port is not this pod's.
    BadRequest = 1,
    /// Of REFUSE: policy says no.
    Denied = 2,
    /// Of REFUSE: the app does not answer.
    Unreachable = 3,
    /// Of RESET: the connection was reset, or its stream's owner is gone.
    Cancelled = 4,
    /// Of RESET: the pod's byte budget is used up, and this stream's reader is slow.
    OverBudget = 5,
    /// Of GOAWAY: the peer broke the protocol.
    Malformed = 6,
    /// Of REFUSE: the port is one of the mesh's own.
    ReservedPort = 7,
}

impl Code {
    pub(super) fn read(byte: u8) -> Result<Self, Malformed> {
        Ok(match byte {
            0 => Self::Leaving,
            1 => Self::BadRequest,
            2 => Self::Denied,
            3 => Self::Unreachable,
            4 => Self::Cancelled,
            5 => Self::OverBudget,
            6 => Self::Malformed,
            7 => Self::ReservedPort,
            _ => return Err(Malformed::Code),
        })
    }
}

/// A frame, as [`super::Decoder`] yields it. DATA may come in parts, the rest of an OPEN comes as DATA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<'a> {
    /// The first frame each way.
    Hello(Hello),
    /// A stream begins.
    Open(u32, Open),
    /// Bytes of a stream, and whether they are its last.
    Data {
        /// The stream.
        stream: u32,
        /// Perhaps not all of the frame's.
        bytes: &'a [u8],
        /// With the last part of a frame that has the flag END.
        end: bool,
    },
    /// The stream was accepted.
    Accept(u32),
    /// It was not.
    Refuse(u32, Code),
    /// So many more bytes may be sent.
    Credit(u32, u32),
    /// The stream is over, at once and both ways.
    Reset(u32, Code),
    /// To be answered with the same token.
    Ping(u64),
    /// The answer.
    Pong(u64),
    /// No stream above this one is taken.
    GoAway(u32, Code),
}

impl Frame<'_> {
    /// Appends the frame. DATA of more than [`PAYLOAD_MAX`] bytes is cut off; OPEN is written without data.
    pub fn write(&self, into: &mut Vec<u8>) {
        let mut put = |kind, end, stream, payload: &[u8]| {
            into.extend_from_slice(&Header::write(kind, end, payload.len(), stream));
            into.extend_from_slice(payload);
        };
        match self {
            Self::Hello(hello) => put(Kind::Hello, false, 0, &hello.write()),
            Self::Open(stream, open) => {
                write_open(*stream, open, &[], false, into);
            }
            Self::Data { stream, bytes, end } => {
                put(Kind::Data, *end, *stream, &bytes[..bytes.len().min(PAYLOAD_MAX)]);
            }
            Self::Accept(stream) => put(Kind::Accept, false, *stream, &[]),
            Self::Refuse(stream, code) => put(Kind::Refuse, false, *stream, &[*code as u8]),
            Self::Credit(stream, amount) => put(Kind::Credit, false, *stream, &amount.to_be_bytes()),
            Self::Reset(stream, code) => put(Kind::Reset, false, *stream, &[*code as u8]),
            Self::Ping(token) => put(Kind::Ping, false, 0, &token.to_be_bytes()),
            Self::Pong(token) => put(Kind::Pong, false, 0, &token.to_be_bytes()),
            Self::GoAway(last, code) => {
                let [a, b, c, d] = last.to_be_bytes();
                put(Kind::GoAway, false, 0, &[a, b, c, d, *code as u8]);
            }
        }
    }
}

/// Appends an OPEN with the stream's first bytes; what does not fit beside the fields is left to DATA. Answers how many
/// of them it took.
pub(super) fn write_open(stream: u32, open: &Open, first: &[u8], end: bool, into: &mut Vec<u8>) -> usize {
    let fields = open.write();
    let room = PAYLOAD_MAX - 2 - fields.len();
    let first = &first[..first.len().min(room)];
    into.extend_from_slice(&Header::write(Kind::Open, end, 2 + fields.len() + first.len(), stream));
    into.extend_from_slice(&u16::try_from(fields.len()).unwrap_or(u16::MAX).to_be_bytes());
    into.extend_from_slice(&fields);
    into.extend_from_slice(first);
    first.len()
}
