//! What runs inside the pods: one server, and the clients that put a load on a subject and time it.
//!
//! A client dials what an ordinary program would dial, with default socket options but for `TCP_NODELAY`, and prints one
//! line of JSON ([`Outcome`]). It opens and warms its connections before the window that counts, and reads the proxies'
//! CPU counters at the window's two ends, so that nothing but the window is in any figure. It knows nothing of meshes.

pub mod bulk;
pub mod connect;
pub mod echo;
pub mod hook;
pub mod http;
pub mod idle;
pub mod mixed;
pub mod outcome;
pub mod pace;
pub mod protocol;
pub mod rtt;
pub mod serve;
pub mod socket;
#[cfg(test)]
mod tests;
pub mod watch;

use std::time::Duration;

pub use outcome::Outcome;
pub use watch::Watch;

/// When a measurement counts.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Time under load before anything counts: caches, tunnels and congestion windows fill.
    pub warmup: Duration,
    /// Time that counts.
    pub length: Duration,
}

impl Window {
    /// A window of this length after a tenth of it, or 100 ms, of warming up.
    #[must_use]
    pub fn of(length: Duration) -> Self {
        Self { warmup: (length / 10).max(Duration::from_millis(100)), length }
    }
}
