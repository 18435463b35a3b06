//! `weft hold`: keeps the agent's listening sockets open while no agent does.
//!
//! A listener that closes resets what queued on it, and a SYN that finds none is refused; so a second process, which does
//! nothing else and need not change between releases, holds a duplicate of every listener. A new agent takes duplicates
//! of its own and accepts what waited meanwhile. A holder that finds another running takes everything over from it, so that a
//! rolling update can replace both processes. The holder never accepts, reads or judges anything. It talks only to
//! processes of its own user or root, over a socket that nobody else can open, and takes only TCP listeners.

mod client;
mod server;
mod wire;

#[cfg(test)]
mod tests;

pub use client::Client;
pub use server::Holder;

/// What keeps a holder from starting.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The socket cannot be made.
    #[error("cannot listen at {path}: {source}; is its directory writable?")]
    Bind {
        /// The socket's path.
        path: std::path::PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Accepting agents failed for good.
    #[error("the holder cannot accept agents any more: {0}")]
    Accept(#[source] std::io::Error),
}
