//! What the app's end of a connection over HTTP/1 and those who carry its requests tell each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::ahead::Full;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ends {
    reset: AtomicBool,
    answering: AtomicUsize,
    last: AtomicBool,
    /// The app has finished sending, and waits for an answer.
    pub(super) finished: Notify,
    /// Whether the app takes no more for now.
    pub(super) full: Full,
}

/// A request that is not answered in full.
#[derive(Debug)]
pub(super) struct Answering(Arc<Ends>);

impl Ends {
    /// Closing the connection is to reset it.
    pub(super) fn reset(&self) {
        self.reset.store(true, Ordering::Relaxed);
    }

    /// Whether it is.
    pub(super) fn is_reset(&self) -> bool {
        self.reset.load(Ordering::Relaxed)
    }

    /// What is answered now is to be the last: what the connection holds others may need.
    pub(super) fn last(&self) {
        self.last.store(true, Ordering::Relaxed);
    }

    /// A request has come.
    pub(super) fn answer(self: &Arc<Self>) -> Answering {
        self.answering.fetch_add(1, Ordering::Relaxed);
        Answering(Arc::clone(self))
    }

    /// Whether a request is not answered in full.
    pub(super) fn is_answering(&self) -> bool {
        self.answering.load(Ordering::Relaxed) > 0
    }
}

impl Answering {
    /// Whether it is to be the connection's last.
    pub(super) fn is_last(&self) -> bool {
        self.0.last.load(Ordering::Relaxed)
    }

    /// Whether the app takes no more for now.
    pub(super) fn is_held_up(&self) -> bool {
        self.0.full.is()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Ordering::Relaxed);
    }
}
