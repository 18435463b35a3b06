//! What `connect()` costs a process outside the mesh, with the agent's hook on its cgroup and without.
//!
//! The process moves between two cgroups, and makes a burst of connects in each in turn, so that whatever else changes on
//! the machine changes for both. It dials a closed port of its own loopback: the kernel's answer comes within the call, and
//! the difference is the hook, not the network.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use hdrhistogram::Histogram;
use socket2::{Domain, Socket, Type};

use super::Outcome;
use super::outcome::{latencies, note};

/// Connects in one burst: some milliseconds, so that bursts of both kinds fall into the same weather.
const BURST: usize = 250;

/// Makes `bursts` bursts in each of two cgroups, the first being the one without the hook. What is compared is the median
/// of single connects, which does not feel those that were interrupted.
///
/// # Errors
/// When a cgroup cannot be joined or a socket not be made.
pub fn run(to: SocketAddr, cgroups: [&PathBuf; 2], bursts: usize) -> io::Result<Outcome> {
    let mut connects = [latencies(), latencies()];
    for round in 0..=bursts {
        // Each goes first as often as the other, and the first round only warms up.
        for turn in 0..2 {
            let which = (round + turn) % 2;
            join(cgroups[which])?;
            let mut unused = latencies();
            burst(to, if round == 0 { &mut unused } else { &mut connects[which] })?;
        }
    }
    let [without, with] = connects.map(|connects| connects.value_at_quantile(0.5) as f64);
    let mut outcome = Outcome::default();
    outcome.set("connect_without_ns", without);
    outcome.set("connect_with_ns", with);
    outcome.set("hook_ns", with - without);
    Ok(outcome)
}

fn join(cgroup: &Path) -> io::Result<()> {
    std::fs::write(cgroup.join("cgroup.procs"), "0")
}

/// Times single connects; making and closing the sockets is not in it.
fn burst(to: SocketAddr, connects: &mut Histogram<u64>) -> io::Result<()> {
    let to = to.into();
    for _ in 0..BURST {
        // A socket belongs to the cgroup its process was in when it was made.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        let begin = Instant::now();
        let refused = socket.connect(&to);
        note(connects, begin.elapsed());
        if refused.is_ok() {
            return Err(io::Error::other(format!("{to:?} is not closed")));
        }
    }
    Ok(())
}
