//! What the app's end of a connection and those who carry its requests tell each other.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::ahead::Full;
use super::room::{FREE, Room};
use crate::tunnel::Budget;

/// See the module.
#[derive(Debug)]
pub(super) struct Ends {
    reset: AtomicBool,
    answering: AtomicUsize,
    last: AtomicBool,
    /// The app has finished sending, and waits for an answer.
    pub(super) finished: Notify,
    /// Whether the app takes no more for now.
    pub(super) full: Full,
    /// For long heads of responses: until they are written, and over HTTP/1, where the buffer is kept, as long as the connection
    /// lives.
    heads: Mutex<Room>,
    /// There is one to be written.
    long: AtomicBool,
}

/// A request that is not answered in full.
#[derive(Debug)]
pub(super) struct Answering(Arc<Ends>);

impl Ends {
    /// Of a connection of the pod whose budget this is.
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self {
            reset: AtomicBool::default(),
            answering: AtomicUsize::default(),
            last: AtomicBool::default(),
            finished: Notify::default(),
            full: Full::default(),
            heads: Mutex::new(Room::new(budget)),
            long: AtomicBool::default(),
        }
    }

    fn heads(&self) -> MutexGuard<'_, Room> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The head of a response, of so many bytes, is to be written. `false` if the pod has no room for it.
    pub(super) fn tell(&self, bytes: usize) -> bool {
        if bytes <= FREE {
            return true;
        }
        let mut heads = self.heads();
        let fits = heads.complete(bytes.next_power_of_two());
        self.long.store(true, Ordering::Relaxed);
        if heads.is_in_the_way() {
            self.last();
        }
        fits
    }

    /// All that was to be written is. What the version of HTTP `keeps` is its buffer.
    pub(super) fn written(&self, keeps: bool) {
        if !self.long.swap(false, Ordering::Relaxed) {
            return;
        }
        if keeps { self.heads().over() } else { self.heads().clear() }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_heads_of_responses_are_charged_until_they_are_written() {
        let budget = Arc::new(Budget::new(8 * 8 * FREE));
        let (http1, http2) = (Ends::new(&budget), Ends::new(&budget));
        assert!(http1.tell(FREE) && budget.claimed() == 0, "the free share");
        for ends in [&http1, &http2] {
            assert!(ends.tell(FREE + 1) && ends.tell(FREE + 1));
        }
        assert_eq!(budget.claimed(), 8 * FREE);
        assert!(!http2.tell(FREE + 1) && http2.tell(FREE), "no room for a long one");
        http2.written(false);
        assert_eq!(budget.claimed(), 4 * FREE);
        http1.written(true);
        assert_eq!(budget.claimed(), 2 * FREE, "the buffer is kept");
        http1.written(true);
        drop((http1, http2));
        assert_eq!(budget.claimed(), 0);
    }

    #[test]
    fn an_answer_with_a_long_head_is_the_last_where_room_is_short() {
        let budget = Arc::new(Budget::new(8 * 8 * FREE));
        let ends = Arc::new(Ends::new(&budget));
        let answering = ends.answer();
        assert!(ends.tell(2 * FREE) && !answering.is_last());
        assert!(budget.claim(4 * FREE) && ends.tell(10) && !answering.is_last());
        assert!(ends.tell(2 * FREE) && answering.is_last());
        budget.disclaim(4 * FREE);
    }
}
