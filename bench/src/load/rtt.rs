//! One round trip after the other on one connection, by blocking calls: the shortest path there is through a client, for
//! comparing subjects' round trips. Tails are [`super::echo`]'s, which does not wait for an answer to ask again.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use super::outcome::{latencies, note};
use super::protocol::Ask;
use super::watch::Used;
use super::{Outcome, Watch, Window, socket};

/// Plays ping-pong with messages of `size` bytes.
///
/// # Errors
/// When the connection cannot be opened; one that breaks is a failure in the outcome.
pub fn run(to: SocketAddr, size: usize, window: Window, watches: &[Watch]) -> io::Result<Outcome> {
    let mut stream = socket::open(to, Ask::Echo)?;
    let (message, mut answer) = (vec![b'.'; size], vec![0; size]);
    let mut outcome = Outcome::default();
    let warm = Instant::now() + window.warmup;
    while Instant::now() < warm {
        stream.write_all(&message)?;
        stream.read_exact(&mut answer)?;
    }
    let used = Used::read(watches);
    let mut latencies = latencies();
    let begin = Instant::now();
    let mut last = begin;
    while last - begin < window.length {
        if let Err(error) = stream.write_all(&message).and_then(|()| stream.read_exact(&mut answer)) {
            outcome.fail(socket::reason(&error));
            break;
        }
        let now = Instant::now();
        note(&mut latencies, now - last);
        last = now;
    }
    outcome.operations(&latencies, (last - begin).as_secs_f64());
    outcome.values.extend(Used::read(watches).since(&used));
    Ok(outcome)
}
