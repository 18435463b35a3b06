//! How tunnels are dialled, received and kept.

use std::time::Duration;

use super::{HBONE_PORT, Protocols};

/// Streams a Weft tunnel may carry at once: they share nothing but the connection.
pub(super) const WEFT_STREAMS: u32 = 65_536;

/// How a dead peer is noticed.
#[derive(Debug, Clone, Copy)]
pub struct Keepalive {
    /// Pause between two PINGs.
    pub every: Duration,
    /// How long a PING may stay unanswered.
    pub timeout: Duration,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { every: Duration::from_secs(1), timeout: Duration::from_secs(2) }
    }
}

/// How tunnels are dialled and shared.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// The port peers accept tunnels on.
    pub port: u16,
    /// What is offered.
    pub protocols: Protocols,
    /// Streams in one HBONE tunnel; the next opens another. What a Weft tunnel takes, its server says.
    pub streams: usize,
    /// How long a tunnel without streams is kept.
    pub idle: Duration,
    /// From the call to the server's answer: dial, handshake and the app's accept.
    pub budget: Duration,
    /// When a silent peer is dead.
    pub keepalive: Keepalive,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            port: HBONE_PORT,
            protocols: Protocols::default(),
            streams: 100,
            idle: Duration::from_secs(300),
            budget: Duration::from_secs(1),
            keepalive: Keepalive::default(),
        }
    }
}

/// How tunnels are received.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// What is accepted.
    pub protocols: Protocols,
    /// From accept to the end of the handshake; for HBONE, of the HTTP/2 preface.
    pub handshake: Duration,
    /// Streams a peer may have open in one HBONE tunnel.
    pub streams: u32,
    /// How long a tunnel may be without streams.
    pub idle: Duration,
    /// When a silent peer is dead.
    pub keepalive: Keepalive,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            protocols: Protocols::default(),
            handshake: Duration::from_secs(5),
            streams: 200,
            idle: Duration::from_secs(600),
            keepalive: Keepalive::default(),
        }
    }
}
