//! What `connect()` costs a process outside the mesh, with the agent's hook on its cgroup and without.
//!
//! The process moves between two cgroups, and makes a burst of connects in each in turn, so that whatever else changes on
//! the machine changes for both. It dials a closed port of its own loopback: the kernel's answer comes within the call, and
//! the difference is the hook, not the network.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use socket2::{Domain, Socket, Type};

use super::Outcome;

/// Connects in one burst: some milliseconds, so that bursts of both kinds fall into the same weather.
const BURST: u32 = 250;

/// Makes `bursts` bursts in each of two cgroups, the first being the one without the hook.
///
/// # Errors
/// When a cgroup cannot be joined or a socket not be made.
pub fn run(to: SocketAddr, cgroups: [&PathBuf; 2], bursts: usize) -> io::Result<Outcome> {
    let mut nanos = [Vec::with_capacity(bursts), Vec::with_capacity(bursts)];
    for round in 0..=bursts {
        // Each goes first as often as the other.
        for turn in 0..2 {
            let which = (round + turn) % 2;
            join(cgroups[which])?;
            let took = burst(to)?;
            // The first round warms up.
            if round > 0 {
                nanos[which].push(took);
            }
        }
    }
    let [without, with] = nanos.map(median);
    let mut outcome = Outcome::default();
    outcome.set("connect_without_ns", without);
    outcome.set("connect_with_ns", with);
    outcome.set("hook_ns", with - without);
    Ok(outcome)
}

fn join(cgroup: &Path) -> io::Result<()> {
    std::fs::write(cgroup.join("cgroup.procs"), "0")
}

/// Nanoseconds of one connect, as a mean over a burst; making and closing the sockets is not in it.
fn burst(to: SocketAddr) -> io::Result<f64> {
    let to = to.into();
    let mut nanos = 0;
    for _ in 0..BURST {
        // A socket belongs to the cgroup its process was in when it was made.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        let begin = Instant::now();
        let refused = socket.connect(&to);
        nanos += begin.elapsed().as_nanos();
        if refused.is_ok() {
            return Err(io::Error::other(format!("{to:?} is not closed")));
        }
    }
    #[allow(clippy::cast_precision_loss)]
    Ok(nanos as f64 / f64::from(BURST))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
