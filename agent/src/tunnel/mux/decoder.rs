//! Bytes to frames, however the bytes are split. Holds at most one frame that is not DATA.

use super::fields::{Hello, Open};
use super::frame::{Code, Frame, HEADER, Header, Kind};
use super::malformed::Malformed;

/// What the next byte belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Place {
    /// A header.
    #[default]
    Header,
    /// A payload, or the fields of an OPEN, of which `wanted` bytes are needed before more is known.
    Payload { header: Header, wanted: usize },
    /// The data of a DATA or OPEN frame, of which `left` bytes are to come.
    Data { stream: u32, left: usize, end: bool },
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decoder {
    place: Place,
    /// What has come of a header or payload; empty and without memory most of the time.
    held: Vec<u8>,
}

impl Decoder {
    /// The next frame, or part of one, from the front of `input`; `None` when all of it has been taken.
    ///
    /// # Errors
    /// [`Malformed`]; there is no going on after it.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Frame<'a>>, Malformed> {
        loop {
            match self.place {
                Place::Header => {
                    let Some(bytes) = self.gather(HEADER, input) else { return Ok(None) };
                    let header = Header::read(bytes.try_into().map_err(|_| Malformed::Length)?)?;
                    self.forget();
                    self.place = match header.kind {
                        Kind::Data => Place::Data { stream: header.stream, left: header.length, end: header.end },
                        Kind::Open => Place::Payload { header, wanted: 2 },
                        _ => Place::Payload { header, wanted: header.length },
                    };
                }
                Place::Payload { header, wanted } => {
                    let Some(bytes) = self.gather(wanted, input) else { return Ok(None) };
                    if header.kind == Kind::Open && wanted == 2 {
                        let fields = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
                        // None would leave this place as it is, for ever.
                        if fields == 0 || 2 + fields > header.length {
                            return Err(Malformed::OpenFields);
                        }
                        self.place = Place::Payload { header, wanted: 2 + fields };
                        continue;
                    }
                    let frame = read(&header, bytes)?;
                    self.place = match header.kind {
                        Kind::Open => {
                            Place::Data { stream: header.stream, left: header.length - wanted, end: header.end }
                        }
                        _ => Place::Header,
                    };
                    self.forget();
                    return Ok(Some(frame));
                }
                Place::Data { stream, left, end } => {
                    if left == 0 && !end {
                        self.place = Place::Header;
                        continue;
                    }
                    if left > 0 && input.is_empty() {
                        return Ok(None);
                    }
                    let (bytes, rest) = input.split_at(left.min(input.len()));
                    *input = rest;
                    let left = left - bytes.len();
                    self.place = if left == 0 { Place::Header } else { Place::Data { stream, left, end } };
                    return Ok(Some(Frame::Data { stream, bytes, end: end && left == 0 }));
                }
            }
        }
    }

    /// To be asked when the connection has ended.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] within a frame.
    pub fn finish(&self) -> Result<(), Malformed> {
        let between =
            self.held.is_empty() && matches!(self.place, Place::Header | Place::Data { left: 0, end: false, .. });
        if between { Ok(()) } else { Err(Malformed::Truncated) }
    }

    /// A header's worth of memory is kept for the next frame, no more.
    fn forget(&mut self) {
        self.held.clear();
        self.held.shrink_to(HEADER);
    }

    /// The first `wanted` bytes of what is held and of `input`, once there are so many.
    fn gather(&mut self, wanted: usize, input: &mut &[u8]) -> Option<&[u8]> {
        let missing = wanted.saturating_sub(self.held.len());
        let (taken, rest) = input.split_at(missing.min(input.len()));
        *input = rest;
        self.held.extend_from_slice(taken);
        (taken.len() == missing).then(|| &self.held[..wanted])
    }
}

fn read(header: &Header, payload: &[u8]) -> Result<Frame<'static>, Malformed> {
    let number = |at: usize| payload.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    let token = || payload.try_into().map(u64::from_be_bytes).map_err(|_| Malformed::Length);
    let code = |at: usize| payload.get(at).ok_or(Malformed::Length).and_then(|byte| Code::read(*byte));
    let stream = header.stream;
    Ok(match header.kind {
        Kind::Hello => Frame::Hello(Hello::read(payload)?),
        Kind::Open => Frame::Open(stream, Open::read(&payload[2..])?),
        Kind::Accept => Frame::Accept(stream),
        Kind::Refuse => Frame::Refuse(stream, code(0)?),
        Kind::Credit => Frame::Credit(stream, number(0).ok_or(Malformed::Length)?),
        Kind::Reset => Frame::Reset(stream, code(0)?),
        Kind::Ping => Frame::Ping(token()?),
        Kind::Pong => Frame::Pong(token()?),
        Kind::GoAway => Frame::GoAway(number(0).ok_or(Malformed::Length)?, code(4)?),
        Kind::Data => return Err(Malformed::Kind(Kind::Data as u8)),
    })
}
