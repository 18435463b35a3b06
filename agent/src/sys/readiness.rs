//! Waiting for a descriptor that tokio has no type for.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// Tells when a descriptor has something to read.
pub struct Readable(AsyncFd<OwnedFd>);

impl Readable {
    /// Watches a duplicate of the descriptor, so that its owner may use it freely.
    pub fn of(descriptor: BorrowedFd<'_>) -> io::Result<Self> {
        let duplicate = descriptor.try_clone_to_owned()?;
        // SAFETY: the registration asks that the descriptor stay open and the same; an `OwnedFd` that nobody else can
        // reach does both until the registration is dropped with it.
        let watched = unsafe { AsyncFd::register_with_interest(duplicate, Interest::READABLE) };
        watched.map(Self).map_err(|error| error.into_parts().1)
    }

    /// Waits until there may be something new. Read everything first: what was there before is not announced again.
    pub async fn wait(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}
