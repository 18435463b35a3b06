//! Bulk: the server sends on some flows for a while, and a thread each counts what arrives.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::protocol::Ask;
use super::watch::Used;
use super::{Outcome, Watch, Window, socket};

/// How much longer the server sends than anybody counts.
const MARGIN: Duration = Duration::from_millis(200);

/// Flows under way.
pub struct Flows {
    counters: Vec<Arc<AtomicU64>>,
    readers: Vec<JoinHandle<io::Result<()>>>,
}

impl Flows {
    /// Opens `count` flows that last for the window.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn open(to: SocketAddr, count: usize, window: Window) -> io::Result<Self> {
        let lasting = window.warmup + window.length + MARGIN;
        let ask = Ask::Source(u32::try_from(lasting.as_millis()).unwrap_or(u32::MAX));
        let mut flows = Self { counters: Vec::new(), readers: Vec::new() };
        for _ in 0..count {
            let stream = socket::open(to, ask)?;
            let counter = Arc::new(AtomicU64::new(0));
            flows.counters.push(counter.clone());
            flows
                .readers
                .push(std::thread::Builder::new().name("flow".into()).spawn(move || count_to_end(stream, &counter))?);
        }
        Ok(flows)
    }

    /// Bytes received so far, by flow.
    #[must_use]
    pub fn received(&self) -> Vec<u64> {
        self.counters.iter().map(|counter| counter.load(Ordering::Relaxed)).collect()
    }

    /// Waits for the server to end all flows; a flow that broke is a failure.
    pub fn finish(self, outcome: &mut Outcome) {
        for reader in self.readers {
            match reader.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => outcome.fail(socket::reason(&error)),
                Err(_) => outcome.fail("a flow's thread panicked"),
            }
        }
    }
}

/// Receives on `flows` flows.
///
/// # Errors
/// When one cannot be opened.
pub fn run(to: SocketAddr, flows: usize, window: Window, watches: &[Watch]) -> io::Result<Outcome> {
    let flows = Flows::open(to, flows, window)?;
    std::thread::sleep(window.warmup);
    let (begin, before, used) = (Instant::now(), flows.received(), Used::read(watches));
    std::thread::sleep(window.length);
    let (seconds, after, usage) = (begin.elapsed().as_secs_f64(), flows.received(), Used::read(watches));
    let mut outcome = Outcome::default();
    summarise(&mut outcome, &before, &after, seconds);
    outcome.values.extend(usage.since(&used));
    flows.finish(&mut outcome);
    Ok(outcome)
}

/// Adds what flows received between two looks: bytes, rate, and the slowest flow's share of the fastest's.
pub fn summarise(outcome: &mut Outcome, before: &[u64], after: &[u64], seconds: f64) {
    let received: Vec<u64> = before.iter().zip(after).map(|(before, after)| after - before).collect();
    let bytes = received.iter().sum::<u64>() as f64;
    outcome.set("bytes", bytes);
    outcome.set("gbit_s", bytes * 8.0 / seconds / 1e9);
    let (least, most) = (received.iter().min(), received.iter().max());
    if let (Some(&least), Some(&most)) = (least, most) {
        outcome.set("fairness", least as f64 / (most as f64).max(1.0));
        if least == 0 {
            outcome.fail("a flow received nothing");
        }
    }
}

fn count_to_end(mut stream: std::net::TcpStream, counter: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => drop(counter.fetch_add(n as u64, Ordering::Relaxed)),
        }
    }
}
