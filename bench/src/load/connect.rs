//! New connections: connect, one echo of 64 bytes, close, and again.
//!
//! The echo is part of it because a proxy accepts before it has reached anybody: only an answer proves a connection. The
//! server closes first, so that neither the client's ports nor a proxy's wait in TIME_WAIT and run out.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::outcome::{latencies, note};
use super::protocol::Ask;
use super::watch::Used;
use super::{Outcome, Watch, Window, socket};

const MESSAGE: usize = 64;

/// Makes connections from `concurrency` threads.
///
/// # Errors
/// When a thread cannot be started.
pub fn run(to: SocketAddr, concurrency: usize, window: Window, watches: &[Watch]) -> io::Result<Outcome> {
    let begin = Instant::now();
    let (from, end) = (begin + window.warmup, begin + window.warmup + window.length);
    let callers = (0..concurrency.max(1))
        .map(|_| std::thread::Builder::new().name("caller".into()).spawn(move || calls(to, from, end)))
        .collect::<io::Result<Vec<_>>>()?;
    std::thread::sleep(from.saturating_duration_since(Instant::now()));
    let before = Used::read(watches);
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
    let after = Used::read(watches);
    let (mut all, mut outcome) = (latencies(), Outcome::default());
    for caller in callers {
        match caller.join() {
            Ok((latencies, failed)) => {
                let _ = all.add(&latencies);
                outcome.blame(failed.failures);
            }
            Err(_) => outcome.fail("a caller's thread panicked"),
        }
    }
    outcome.operations(&all, window.length.as_secs_f64());
    outcome.values.extend(after.since(&before));
    Ok(outcome)
}

/// Calls until the end; what ends within the window counts.
fn calls(to: SocketAddr, from: Instant, end: Instant) -> (Histogram<u64>, Outcome) {
    let (mut latencies, mut outcome) = (latencies(), Outcome::default());
    loop {
        let begin = Instant::now();
        if begin >= end {
            return (latencies, outcome);
        }
        let called = call(to);
        let now = Instant::now();
        let counts = now >= from && now < end;
        match called {
            Ok(()) if counts => note(&mut latencies, now - begin),
            Ok(()) => {}
            Err(error) => {
                outcome.fail(socket::reason(&error));
                // A refusal costs nothing: without a pause the callers would do nothing else.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

fn call(to: SocketAddr) -> io::Result<()> {
    let mut stream = socket::open(to, Ask::Once(MESSAGE as u32))?;
    let mut buffer = [b'.'; MESSAGE];
    stream.write_all(&buffer)?;
    stream.read_exact(&mut buffer)?;
    match stream.read(&mut buffer)? {
        0 => Ok(()),
        _ => Err(io::Error::other("more than was asked for")),
    }
}
