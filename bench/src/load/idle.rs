//! Idle connections: opened, each proven by one echo, and held until the process is ended.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::protocol::Ask;
use super::{Outcome, http, socket};

/// How many are opened at once.
const OPENERS: usize = 16;

/// Opens `count` connections; yields them with what failed.
///
/// # Errors
/// When there is no room for so many descriptors.
pub fn open(to: SocketAddr, count: usize, http: bool) -> io::Result<(Vec<TcpStream>, Outcome)> {
    socket::make_room(count as u64 + 256)?;
    let next = AtomicUsize::new(0);
    let mut outcome = Outcome::default();
    let mut held = Vec::with_capacity(count);
    std::thread::scope(|scope| {
        let openers: Vec<_> = (0..OPENERS).map(|_| scope.spawn(|| open_some(to, &next, count, http))).collect();
        for opener in openers {
            match opener.join() {
                Ok((opened, failed)) => {
                    held.extend(opened);
                    outcome.blame(failed.failures);
                }
                Err(_) => outcome.fail("an opener's thread panicked"),
            }
        }
    });
    outcome.set("open", held.len() as f64);
    Ok((held, outcome))
}

fn open_some(to: SocketAddr, next: &AtomicUsize, count: usize, http: bool) -> (Vec<TcpStream>, Outcome) {
    let (mut opened, mut outcome) = (Vec::new(), Outcome::default());
    while next.fetch_add(1, Ordering::Relaxed) < count {
        match if http { ask_one(to) } else { open_one(to) } {
            Ok(stream) => opened.push(stream),
            Err(error) => outcome.fail(socket::reason(&error)),
        }
    }
    (opened, outcome)
}

fn open_one(to: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = socket::open(to, Ask::Echo)?;
    let mut message = [b'.'; 64];
    stream.write_all(&message)?;
    stream.read_exact(&mut message)?;
    Ok(stream)
}

/// A connection of HTTP/1 on which a page has been asked for and has come.
fn ask_one(to: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = socket::connect(to)?;
    write!(stream, "GET /items/42 HTTP/1.1\r\nhost: {to}\r\nx-tenant: blue\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut piece = [0; 2048];
    loop {
        let size = stream.read(&mut piece)?;
        answer.extend_from_slice(&piece[..size]);
        if !answer.starts_with(b"HTTP/1.1 200"[..answer.len().min(12)].as_ref()) || size == 0 {
            return Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned()));
        }
        let head = answer.windows(4).position(|end| end == b"\r\n\r\n");
        if head.is_some_and(|head| answer.len() == head + 4 + http::PAGE) {
            return Ok(stream);
        }
    }
}
