//! Echoes beside bulk flows of the same client and server: what a small request waits behind.
//!
//! They are few and spread over connections, so that one has its answer long before the next is due on its connection: a
//! wait for bulk is measured, and not a queue of echoes behind one that waited.

use std::io;
use std::net::SocketAddr;

use super::bulk::{self, Flows};
use super::echo::{self, Echo, Pace};
use super::{Outcome, Watch, Window};

/// Connections the echoes are spread over.
const CONNECTIONS: usize = 16;

/// Runs `flows` flows, and beside them `rate` echoes of 64 bytes a second.
///
/// # Errors
/// When a connection cannot be opened.
pub fn run(to: SocketAddr, flows: usize, rate: u64, window: Window, watches: &[Watch]) -> io::Result<Outcome> {
    // The echo's connection opens while the flows run already.
    let lasting = Window { warmup: window.warmup * 3, length: window.length };
    let flows = Flows::open(to, flows, lasting)?;
    std::thread::sleep(window.warmup);
    let (begin, before) = (std::time::Instant::now(), flows.received());
    let echo = Echo { to, connections: CONNECTIONS, size: 64, pace: Pace::Open(rate), window };
    let mut outcome = echo::run(&echo, watches)?;
    let after = flows.received();
    bulk::summarise(&mut outcome, &before, &after, begin.elapsed().as_secs_f64());
    flows.finish(&mut outcome);
    Ok(outcome)
}
