//! Where HTTP/1 requests begin and end, read beside hyper and more strictly: what two readers could tell apart differently is
//! refused before hyper sees it whole.
//!
//! hyper takes Transfer-Encoding where there is Content-Length as well, merges lengths that agree, and accepts a line that
//! ends in LF alone, all of which RFC 9112 allows, and all of which smuggling is made of. Nothing is kept but the line that
//! is not complete. Protocol only: it reads no socket.

/// A request line or field longer than this is hyper's to refuse, by its limit for the head.
const LINE_MAX: usize = 128 * 1024;

/// Why a stream of requests is not read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Ambiguous {
    #[error("a line ends in LF without CR, or has a CR within")]
    Line,
    #[error("a field is folded over lines")]
    Folded,
    #[error("a space stands before a field's colon, or there is no colon")]
    Name,
    #[error("the length is said twice")]
    Lengths,
    #[error("the length is not a number")]
    Length,
    #[error("the transfer coding is not chunked")]
    Coding,
    #[error("a chunk's size is not a number")]
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
}

/// Reads along.
#[derive(Debug)]
pub(super) struct Framing {
    state: State,
    head: Head,
    /// The beginning of a line.
    part: Vec<u8>,
}

impl Default for Framing {
    fn default() -> Self {
        Self { state: State::Request, head: Head::default(), part: Vec::new() }
    }
}

impl Framing {
    /// Reads the next bytes.
    ///
    /// # Errors
    /// How many of them stand before the line that is at fault, and its fault. Nothing is to be read after that.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(), (usize, Ambiguous)> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self.state {
                State::Switched => return Ok(()),
                State::Body(left) => at += self.skip(left, rest.len(), State::Body, State::Request),
                State::Chunk(left) => at += self.skip(left, rest.len(), State::Chunk, State::ChunkEnd),
                _ => at += self.line(rest).map_err(|fault| (at, fault))?,
            }
        }
        Ok(())
    }

    /// Whether what was read ends with a request, and nothing of another has come.
    pub(super) fn is_between(&self) -> bool {
        self.state == State::Request && self.part.is_empty()
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

    /// Takes a line, or the beginning of one. Answers how many bytes that were.
    fn line(&mut self, bytes: &[u8]) -> Result<usize, Ambiguous> {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            if self.part.len() < LINE_MAX {
                self.part.extend_from_slice(bytes);
            }
            return Ok(bytes.len());
        };
        if self.part.is_empty() {
            self.judge(&bytes[..end])?;
        } else {
            let mut part = std::mem::take(&mut self.part);
            part.extend_from_slice(&bytes[..end]);
            self.judge(&part)?;
        }
        Ok(end + 1)
    }

    /// A line without its LF.
    fn judge(&mut self, line: &[u8]) -> Result<(), Ambiguous> {
        let line = line.strip_suffix(b"\r").filter(|line| !line.contains(&b'\r')).ok_or(Ambiguous::Line)?;
        self.state = match self.state {
            // Empty lines before a request are nothing (RFC 9112, 2.2).
            State::Request if line.is_empty() => State::Request,
            State::Request => {
                self.head = Head {
                    switches: line.starts_with(b"CONNECT "),
                    old: !line.ends_with(b" HTTP/1.1"),
                    ..Head::default()
                };
                State::Fields
            }
            State::Fields if line.is_empty() => self.body()?,
            State::Fields => {
                self.field(line)?;
                State::Fields
            }
            State::Size => match size(line)? {
                0 => State::Trailers,
                size => State::Chunk(size),
            },
            State::ChunkEnd if line.is_empty() => State::Size,
            State::ChunkEnd => return Err(Ambiguous::Chunk),
            State::Trailers if line.is_empty() => self.next(State::Request),
            State::Trailers => {
                split(line)?;
                State::Trailers
            }
            other @ (State::Body(_) | State::Chunk(_) | State::Switched) => other,
        };
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Ambiguous> {
        let (name, value) = split(line)?;
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.head.length.is_some() || self.head.chunked {
                return Err(Ambiguous::Lengths);
            }
            self.head.length = Some(number(value, 10).ok_or(Ambiguous::Length)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.head.length.is_some() || self.head.chunked {
                return Err(Ambiguous::Lengths);
            }
            if self.head.old || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Ambiguous::Coding);
            }
            self.head.chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.head.switches |= switches(value) && !self.head.old;
        }
        Ok(())
    }

    fn body(&self) -> Result<State, Ambiguous> {
        Ok(match (self.head.chunked, self.head.length) {
            (true, _) => State::Size,
            (false, Some(length)) if length > 0 => State::Body(length),
            _ => self.next(State::Request),
        })
    }
}

/// Whether an Upgrade field's value asks for a protocol that is carried: HTTP/2 is not.
pub(super) fn switches(value: &[u8]) -> bool {
    !value.split(|byte| *byte == b',').any(|name| name.trim_ascii().to_ascii_lowercase().starts_with(b"h2"))
}

/// A field's name and value.
fn split(line: &[u8]) -> Result<(&[u8], &[u8]), Ambiguous> {
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return Err(Ambiguous::Folded);
    }
    let colon = line.iter().position(|byte| *byte == b':').filter(|at| *at > 0).ok_or(Ambiguous::Name)?;
    let name = &line[..colon];
    if name.iter().any(|byte| byte.is_ascii_whitespace()) {
        return Err(Ambiguous::Name);
    }
    Ok((name, line[colon + 1..].trim_ascii()))
}

/// A chunk's size; extensions behind it are nobody's concern.
fn size(line: &[u8]) -> Result<u64, Ambiguous> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    number(digits.trim_ascii_end(), 16).ok_or(Ambiguous::Chunk)
}

/// Digits and nothing else: no sign, no space.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    let plain = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
    plain.then(|| u64::from_str_radix(text, radix).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "POST / HTTP/1.1\r\nHost: a\r\n";

    /// Read at once, and a byte at a time: it must not matter.
    fn read(text: &str) -> Result<State, Ambiguous> {
        let mut whole = Framing::default();
        let at_once = whole.read(text.as_bytes()).map(|()| whole.state).map_err(|(_, fault)| fault);
        let mut bytewise = Framing::default();
        let one_by_one = text.bytes().try_for_each(|byte| bytewise.read(&[byte]));
        assert_eq!(at_once, one_by_one.map(|()| bytewise.state).map_err(|(_, fault)| fault), "{text:?}");
        at_once
    }

    #[test]
    fn what_has_one_meaning_is_read_to_its_end() {
        for text in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\nGET / HTTP/1.0\r\n\r\n",
            &format!("{HEAD}Content-Length: 3\r\n\r\nabc"),
            &format!("{HEAD}Content-Length: 0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            &format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n3\r\na\nb\r\nA;x=y\r\n0123456789\r\n0\r\nX: y\r\n\r\n"),
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        ] {
            assert_eq!(read(text), Ok(State::Request), "{text:?}");
        }
        assert_eq!(read("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n\0\n\0"), Ok(State::Switched));
        assert_eq!(read("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n\n\n"), Ok(State::Switched));
        assert_eq!(read(&format!("{HEAD}Content-Length: 5\r\n\r\nab")), Ok(State::Body(3)));
    }

    #[test]
    fn what_has_two_is_refused() {
        let with = |fields: &str| format!("{HEAD}{fields}\r\n\r\n");
        for (text, fault) in [
            (with("Content-Length: 5\r\nTransfer-Encoding: chunked"), Ambiguous::Lengths),
            (with("Transfer-Encoding: chunked\r\ncontent-length: 5"), Ambiguous::Lengths),
            (with("Content-Length: 5\r\nContent-Length: 5"), Ambiguous::Lengths),
            (with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), Ambiguous::Lengths),
            (with("Content-Length: +5"), Ambiguous::Length),
            (with("Content-Length: 5, 5"), Ambiguous::Length),
            (with("Content-Length: 0x5"), Ambiguous::Length),
            (with("Content-Length: 99999999999999999999"), Ambiguous::Length),
            (with("Transfer-Encoding: xchunked"), Ambiguous::Coding),
            (with("Transfer-Encoding: chunked, identity"), Ambiguous::Coding),
            (with("Transfer-Encoding : chunked"), Ambiguous::Name),
            (with("X: y\r\n folded"), Ambiguous::Folded),
            (with(": nameless"), Ambiguous::Name),
            (with("X: a\rb"), Ambiguous::Line),
            ("GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned(), Ambiguous::Line),
            ("GET / HTTP/1.1\r\nHost: a\n\n".to_owned(), Ambiguous::Line),
            ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), Ambiguous::Coding),
            (with("Transfer-Encoding: chunked\r\n\r\n5\nhello"), Ambiguous::Line),
            (with("Transfer-Encoding: chunked\r\n\r\n-1"), Ambiguous::Chunk),
            (with("Transfer-Encoding: chunked\r\n\r\n2\r\nabc"), Ambiguous::Chunk),
        ] {
            assert_eq!(read(&text), Err(fault), "{text:?}");
        }
    }

    #[test]
    fn says_how_much_stands_before_the_fault() {
        let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let text = format!("{good}{good}GET / HTTP/1.1\r\nX : y\r\n\r\n");
        let fault = Framing::default().read(text.as_bytes());
        assert_eq!(fault, Err((2 * good.len() + "GET / HTTP/1.1\r\n".len(), Ambiguous::Name)));
    }
}
