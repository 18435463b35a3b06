//! Which version of HTTP a connection speaks: that its first bytes tell, and both come to the same port.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// What a client that knows beforehand that it may speak HTTP/2 begins with (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How a connection has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// The first bytes of a connection, as many as it took.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Opening {
    bytes: [u8; PREFACE.len()],
    len: usize,
}

impl Opening {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// What they say; `None` while they may be either.
    fn says(&self) -> Option<Version> {
        match self.bytes() {
            bytes if bytes == PREFACE => Some(Version::Http2),
            bytes if PREFACE.starts_with(bytes) => None,
            _ => Some(Version::Http1),
        }
    }
}

/// What a connection speaks, how it has begun, and when what it has begun with must be complete, if it took so long.
pub(super) type Begun = (Version, Opening, Option<Pin<Box<Sleep>>>);

/// Reads until it is clear, or what has come has had its time; `None` if the app finishes without a word.
///
/// # Errors
/// When the connection fails.
pub(super) async fn read(app: &TcpStream, patience: Duration) -> io::Result<Option<Begun>> {
    let (mut opening, mut late) = (Opening::default(), None);
    loop {
        match &mut late {
            None => app.readable().await?,
            Some(late) => tokio::select! {
                biased;
                readable = app.readable() => readable?,
                () = late => return Ok(Some((Version::Http1, opening, Some(Box::pin(sleep(Duration::ZERO)))))),
            },
        }
        match app.try_read(&mut opening.bytes[opening.len..]) {
            Ok(0) if opening.len == 0 => return Ok(None),
            // Whatever it was going to be, it is no preface: HTTP/1 says what is wrong with it.
            Ok(0) => return Ok(Some((Version::Http1, opening, late))),
            Ok(read) => opening.len += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        if let Some(version) = opening.says() {
            return Ok(Some((version, opening, late)));
        }
        late.get_or_insert_with(|| Box::pin(sleep(patience)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(bytes: &[u8]) -> Option<Version> {
        let mut opening = Opening { len: bytes.len(), ..Opening::default() };
        opening.bytes[..bytes.len()].copy_from_slice(bytes);
        opening.says()
    }

    #[test]
    fn only_the_whole_preface_is_http2_and_only_its_beginning_leaves_it_open() {
        for len in 0..PREFACE.len() {
            assert_eq!(says(&PREFACE[..len]), None);
        }
        assert_eq!(says(PREFACE), Some(Version::Http2));
        for other in [&b"GET / HTTP/1.1\r\n"[..], b"P", b"PUT ", b"PRI * HTTP/1.1\r\n", b"\x16\x03\x01"] {
            let expected = (!PREFACE.starts_with(other)).then_some(Version::Http1);
            assert_eq!(says(other), expected, "{other:?}");
        }
    }
}
