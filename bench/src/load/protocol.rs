//! The first bytes of a connection tell the server what to do with it: one port serves every measure.

/// Length of what a client sends first.
pub const HEADER: usize = 8;

/// What a connection asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// Echo whatever comes until the client ends.
    Echo,
    /// Echo this many bytes, then close: the server ends first, so that no client port waits in TIME_WAIT.
    Once(u32),
    /// Send for this many milliseconds, then close.
    Source(u32),
}

impl Ask {
    /// As it goes over the wire.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER] {
        let (kind, argument) = match self {
            Self::Echo => (b'E', 0),
            Self::Once(bytes) => (b'O', bytes),
            Self::Source(milliseconds) => (b'S', milliseconds),
        };
        let [a, b, c, d] = argument.to_be_bytes();
        [b'w', b'b', 1, kind, a, b, c, d]
    }

    /// From the wire; `None` for bytes of somebody else.
    #[must_use]
    pub fn decode(bytes: [u8; HEADER]) -> Option<Self> {
        let [b'w', b'b', 1, kind, a, b, c, d] = bytes else { return None };
        let argument = u32::from_be_bytes([a, b, c, d]);
        match kind {
            b'E' => Some(Self::Echo),
            b'O' => Some(Self::Once(argument)),
            b'S' => Some(Self::Source(argument)),
            _ => None,
        }
    }
}
