//! Everything a peer can do wrong in a Weft tunnel, each under a name of its own.

/// Why a tunnel was closed: its peer broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// A type this version does not have.
    #[error("a frame of the unknown type {0}")]
    Kind(u8),
    /// Flags the type does not have.
    #[error("a frame with unknown flags")]
    Flags,
    /// Longer than a frame may be, or not as long as its type is.
    #[error("a frame of a wrong length")]
    Length,
    /// A frame about a stream without one, or one about the tunnel with one.
    #[error("a frame with a wrong stream number")]
    StreamNumber,
    /// Something else came before HELLO.
    #[error("the first frame was not HELLO")]
    NoHello,
    /// HELLO came twice.
    #[error("a second HELLO")]
    RepeatedHello,
    /// HELLO's fields cannot be read.
    #[error("a HELLO with fields that cannot be read")]
    HelloFields,
    /// OPEN's fields cannot be read.
    #[error("an OPEN with fields that cannot be read")]
    OpenFields,
    /// The number of an OPEN is not the next one.
    #[error("an OPEN out of turn")]
    OpenOrder,
    /// More streams than were allowed.
    #[error("more streams than the HELLO allowed")]
    TooManyStreams,
    /// A frame that only the other side sends.
    #[error("a frame of the wrong side")]
    WrongSide,
    /// About a stream that was never opened.
    #[error("a frame for a stream that was never opened")]
    UnknownStream,
    /// ACCEPT or REFUSE of a stream that has its answer, or DATA before it.
    #[error("a frame for a stream that was not accepted, or was already")]
    NotOpening,
    /// DATA behind the end of the data.
    #[error("data after the end of the stream")]
    DataAfterEnd,
    /// DATA with neither bytes nor an end.
    #[error("an empty frame of data")]
    EmptyData,
    /// More DATA than there was credit for.
    #[error("more data than the stream had credit for")]
    CreditExceeded,
    /// CREDIT of nothing, or past what can be counted.
    #[error("a wrong amount of credit")]
    CreditAmount,
    /// A code this version does not have.
    #[error("an unknown code")]
    Code,
    /// PONG without PING.
    #[error("a PONG that nobody asked for")]
    Pong,
    /// A GOAWAY that takes back what an earlier one has said.
    #[error("a GOAWAY that contradicts an earlier one")]
    GoAway,
    /// The connection ended inside a frame.
    #[error("the tunnel ended within a frame")]
    Truncated,
    /// So many frames that ask for an answer that the answers pile up.
    #[error("answers pile up faster than the peer reads them")]
    Flood,
}

impl Malformed {
    /// The label under which metrics count this.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Kind(_) => "frame_unknown_type",
            Self::Flags => "frame_unknown_flags",
            Self::Length => "frame_wrong_length",
            Self::StreamNumber => "frame_wrong_stream_number",
            Self::NoHello => "frame_before_hello",
            Self::RepeatedHello => "frame_second_hello",
            Self::HelloFields => "frame_bad_hello",
            Self::OpenFields => "frame_bad_open",
            Self::OpenOrder => "frame_open_out_of_turn",
            Self::TooManyStreams => "frame_too_many_streams",
            Self::WrongSide => "frame_wrong_side",
            Self::UnknownStream => "frame_unknown_stream",
            Self::NotOpening => "frame_not_accepted",
            Self::DataAfterEnd => "frame_data_after_end",
            Self::EmptyData => "frame_empty_data",
            Self::CreditExceeded => "frame_credit_exceeded",
            Self::CreditAmount => "frame_wrong_credit",
            Self::Code => "frame_unknown_code",
            Self::Pong => "frame_unasked_pong",
            Self::GoAway => "frame_wrong_goaway",
            Self::Truncated => "frame_truncated",
            Self::Flood => "frame_flood",
        }
    }
}
