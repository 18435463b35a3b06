//! Idle connections: opened, each proven by one echo, and held until the process is ended.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::protocol::Ask;
use super::{Outcome, socket};

/// How many are opened at once.
const OPENERS: usize = 16;

/// Opens `count` connections; yields them with what failed.
///
/// # Errors
/// When there is no room for so many descriptors.
pub fn open(to: SocketAddr, count: usize) -> io::Result<(Vec<TcpStream>, Outcome)> {
    socket::make_room(count as u64 + 256)?;
    let next = AtomicUsize::new(0);
    let mut outcome = Outcome::default();
    let mut held = Vec::with_capacity(count);
    std::thread::scope(|scope| {
        let openers: Vec<_> = (0..OPENERS).map(|_| scope.spawn(|| open_some(to, &next, count))).collect();
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

fn open_some(to: SocketAddr, next: &AtomicUsize, count: usize) -> (Vec<TcpStream>, Outcome) {
    let (mut opened, mut outcome) = (Vec::new(), Outcome::default());
    while next.fetch_add(1, Ordering::Relaxed) < count {
        match open_one(to) {
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
