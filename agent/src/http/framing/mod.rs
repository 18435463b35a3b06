//! Where HTTP/1 requests begin and end, read before hyper and more strictly: what two readers could tell apart differently is
//! refused before hyper sees the line that says it.
//!
//! hyper takes Transfer-Encoding where there is Content-Length as well, merges lengths that agree, and accepts a line that
//! ends in LF alone, all of which RFC 9112 allows, and all of which smuggling is made of. And what it refuses it answers
//! without a word of why, which nobody counts: so everything it would refuse is refused here. Nothing is kept: a line that is
//! not complete is the caller's to bring again. Protocol only: it reads no socket.

mod line;
#[cfg(test)]
mod tests;

pub(super) use line::switches;

/// A head at the most, in bytes, and the trailers of a body.
pub const HEAD_MAX: usize = 64 * 1024;
/// Fields in a head at the most: hyper takes 100, one of which is kept for [`super::near`]'s own.
const FIELDS_MAX: usize = 99;
/// What the extensions of a body's chunks may come to, in bytes: hyper takes 16 KiB.
const EXTENSIONS_MAX: usize = 15 * 1024;
/// Empty lines before a request. hyper counts them as part of its head.
const EMPTY_MAX: u16 = 256;

/// Why a stream of requests is not read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// RFC 9112, 2.2.
    #[error("a line ends in LF without CR, or has a CR within (RFC 9112, 2.2)")]
    Line,
    /// RFC 9112, 3.
    #[error("a request begins with METHOD target HTTP/1.1, a space between each two (RFC 9112, 3)")]
    Request,
    /// RFC 9112, 3.2.
    #[error("the request's target is no URI (RFC 9112, 3.2)")]
    Target,
    /// RFC 9110, 15.5.15.
    #[error("the request's first line is longer than 64 KiB")]
    TargetTooLong,
    /// RFC 9110, 15.6.6.
    #[error("the only versions read here are HTTP/1.0 and HTTP/1.1")]
    Version,
    /// RFC 9112, 5.2.
    #[error("a field is folded over lines (RFC 9112, 5.2)")]
    Folded,
    /// RFC 9112, 5.1.
    #[error("a field's name is no token, a space stands before its colon, or there is no colon (RFC 9112, 5.1)")]
    Name,
    /// RFC 9110, 5.5.
    #[error("a field's value has control characters (RFC 9110, 5.5)")]
    Value,
    /// RFC 6585, 5.
    #[error("the head is longer than 64 KiB, or has more than 99 fields")]
    TooLarge,
    /// RFC 9112, 6.3.
    #[error("the length is said twice (RFC 9112, 6.3)")]
    Lengths,
    /// RFC 9110, 8.6.
    #[error("the length is not a number (RFC 9110, 8.6)")]
    Length,
    /// RFC 9112, 6.1.
    #[error("the transfer coding is not chunked (RFC 9112, 6.1)")]
    Coding,
    /// RFC 9112, 7.1.
    #[error("a chunk's size is not a number, or its extensions are too many (RFC 9112, 7.1)")]
    Chunk,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The request line.
    Request,
    /// A field, or the empty line.
    Fields,
    /// So many bytes of a body.
    Body(u64),
    /// A chunk's size.
    Size,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The line end behind a chunk.
    ChunkEnd,
    /// A trailer, or the empty line.
    Trailers,
    /// Whatever was switched to.
    Switched,
}

/// What a head has said so far.
#[derive(Debug, Default, Clone, Copy)]
struct Head {
    length: Option<u64>,
    chunked: bool,
    old: bool,
    switches: bool,
    /// Bytes and fields, of the head and then of the trailers.
    size: usize,
    fields: usize,
    /// Bytes of chunk extensions.
    extensions: usize,
}

/// Where in a stream of requests a fault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Between two requests.
    Between,
    /// In a head, of which lines have passed.
    Head,
    /// In a body.
    Body,
}

/// A stream of requests, as far as it has been read.
#[derive(Debug)]
pub struct Framing {
    state: State,
    head: Head,
    /// Empty lines since the last request.
    empty: u16,
}

impl Default for Framing {
    fn default() -> Self {
        Self { state: State::Request, head: Head::default(), empty: 0 }
    }
}

impl Framing {
    /// Reads the next bytes. Answers how many of them may go on: all but a line that is not complete, which is to be brought
    /// again with what follows it.
    ///
    /// # Errors
    /// How many stand before the line that is at fault, and its fault. Nothing is to be read after that.
    pub fn read(&mut self, bytes: &[u8]) -> Result<usize, (usize, Unreadable)> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self.state {
                State::Switched => return Ok(bytes.len()),
                State::Body(left) => at += self.skip(left, rest.len(), State::Body, State::Request),
                State::Chunk(left) => at += self.skip(left, rest.len(), State::Chunk, State::ChunkEnd),
                _ => match self.line(rest).map_err(|fault| (at, fault))? {
                    0 => break,
                    size => at += size,
                },
            }
        }
        Ok(at)
    }

    /// Where the next byte belongs.
    #[must_use]
    pub fn place(&self) -> Place {
        match self.state {
            State::Request => Place::Between,
            State::Fields => Place::Head,
            _ => Place::Body,
        }
    }

    /// Bytes that have gone on of a head, or of trailers, that is not complete.
    #[must_use]
    pub fn begun(&self) -> usize {
        if matches!(self.state, State::Fields | State::Trailers) { self.head.size } else { 0 }
    }

    fn skip(&mut self, left: u64, there: usize, more: fn(u64) -> State, then: State) -> usize {
        let size = left.min(there as u64);
        self.state = if size == left { self.next(then) } else { more(left - size) };
        usize::try_from(size).unwrap_or(there)
    }

    /// After a request comes the next, unless it asked for something else.
    fn next(&self, then: State) -> State {
        if then == State::Request && self.head.switches { State::Switched } else { then }
    }

    /// Takes a line, if it is complete. Answers how many bytes that were.
    fn line(&mut self, bytes: &[u8]) -> Result<usize, Unreadable> {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            return self.fits(bytes.len()).map(|()| 0);
        };
        self.fits(end + 1)?;
        self.judge(&bytes[..end])?;
        self.head.size += end + 1;
        Ok(end + 1)
    }

    /// Whether so much more is not too much.
    fn fits(&self, more: usize) -> Result<(), Unreadable> {
        let too_much = match self.state {
            State::Request => (more > HEAD_MAX, Unreadable::TargetTooLong),
            State::Size | State::ChunkEnd => (more > EXTENSIONS_MAX, Unreadable::Chunk),
            _ => (self.head.size + more > HEAD_MAX || self.head.fields > FIELDS_MAX, Unreadable::TooLarge),
        };
        if too_much.0 { Err(too_much.1) } else { Ok(()) }
    }

    /// A line without its LF.
    fn judge(&mut self, line: &[u8]) -> Result<(), Unreadable> {
        let line = line.strip_suffix(b"\r").filter(|line| !line.contains(&b'\r')).ok_or(Unreadable::Line)?;
        self.state = match self.state {
            // Empty lines before a request are nothing (RFC 9112, 2.2).
            State::Request if line.is_empty() && self.empty < EMPTY_MAX => {
                self.empty += 1;
                State::Request
            }
            State::Request => {
                let request = line::request(line)?;
                self.empty = 0;
                self.head = Head { switches: request.connects, old: request.old, ..Head::default() };
                State::Fields
            }
            State::Fields if line.is_empty() => self.body(),
            State::Fields => {
                self.field(line)?;
                State::Fields
            }
            State::Size => {
                let (size, extensions) = line::chunk(line)?;
                self.head.extensions += extensions;
                if self.head.extensions > EXTENSIONS_MAX {
                    return Err(Unreadable::Chunk);
                }
                self.head.size = 0;
                if size == 0 { State::Trailers } else { State::Chunk(size) }
            }
            State::ChunkEnd if line.is_empty() => State::Size,
            State::ChunkEnd => return Err(Unreadable::Chunk),
            State::Trailers if line.is_empty() => self.next(State::Request),
            State::Trailers => {
                self.count()?;
                line::field(line)?;
                State::Trailers
            }
            other @ (State::Body(_) | State::Chunk(_) | State::Switched) => other,
        };
        Ok(())
    }

    fn count(&mut self) -> Result<(), Unreadable> {
        self.head.fields += 1;
        if self.head.fields > FIELDS_MAX { Err(Unreadable::TooLarge) } else { Ok(()) }
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Unreadable> {
        self.count()?;
        let (name, value) = line::field(line)?;
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.head.length.is_some() || self.head.chunked {
                return Err(Unreadable::Lengths);
            }
            self.head.length = Some(line::length(value)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.head.length.is_some() || self.head.chunked {
                return Err(Unreadable::Lengths);
            }
            if self.head.old || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Unreadable::Coding);
            }
            self.head.chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.head.switches |= switches(value) && !self.head.old;
        }
        Ok(())
    }

    /// What follows a head.
    fn body(&mut self) -> State {
        match (self.head.chunked, self.head.length) {
            (true, _) => {
                self.head.fields = 0;
                State::Size
            }
            (false, Some(length)) if length > 0 => State::Body(length),
            _ => self.next(State::Request),
        }
    }
}
