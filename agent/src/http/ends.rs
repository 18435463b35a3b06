//! What the app's end of a connection and those who carry its requests tell each other.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::ahead::Full;
use super::room::{FREE, Room};
use super::sent::Queue;
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
    heads: Mutex<Heads>,
    /// There is one to be written.
    long: AtomicBool,
}

#[derive(Debug)]
struct Heads {
    room: Room,
    /// Of HTTP/2.
    queue: Queue,
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
            heads: Mutex::new(Heads { room: Room::new(budget), queue: Queue::default() }),
            long: AtomicBool::default(),
        }
    }

    fn heads(&self) -> MutexGuard<'_, Heads> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The head of a response, of so many bytes, is to be written. `false` if the pod has no room for it.
    pub(super) fn tell(&self, bytes: usize) -> bool {
        if bytes <= FREE {
            return true;
        }
        let (mut heads, bytes) = (self.heads(), bytes.next_power_of_two());
        let fits = heads.room.complete(bytes);
        if fits {
            heads.queue.tell(bytes);
            self.long.store(true, Ordering::Relaxed);
        }
        if heads.room.is_in_the_way() {
            self.last();
        }
        fits
    }

    /// Whether a long one is to be written.
    pub(super) fn has_long(&self) -> bool {
        self.long.load(Ordering::Relaxed)
    }

    /// All that was to be written over HTTP/1 is. Its buffer is kept.
    pub(super) fn written(&self) {
        if self.long.swap(false, Ordering::Relaxed) {
            self.heads().room.over();
        }
    }

    /// Something is written over HTTP/2, and of heads so many bytes.
    pub(super) fn wrote(&self, bytes: usize) {
        if self.has_long() {
            self.less(|queue| queue.wrote(bytes));
        }
    }

    /// HTTP/2 flushes: what has been written before, or nothing.
    pub(super) fn flushed(&self) {
        if self.has_long() {
            self.less(Queue::flushed);
        }
    }

    fn less(&self, how: impl FnOnce(&mut Queue) -> usize) {
        let mut heads = self.heads();
        let less = how(&mut heads.queue);
        heads.room.less(less);
        self.long.store(heads.queue.waits(), Ordering::Relaxed);
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
            assert!(ends.tell(FREE + 1) && ends.tell(FREE + 1) && ends.has_long());
        }
        assert_eq!(budget.claimed(), 8 * FREE);
        assert!(!http2.tell(FREE + 1) && http2.tell(FREE), "no room for a long one");
        http2.wrote(FREE);
        http2.flushed();
        assert_eq!(budget.claimed(), 7 * FREE, "more may be queued");
        http2.wrote(FREE);
        http2.flushed();
        http2.flushed();
        assert!(budget.claimed() == 4 * FREE && !http2.has_long(), "nothing is");
        http1.written();
        assert!(budget.claimed() == 2 * FREE && !http1.has_long(), "the buffer is kept");
        http1.written();
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
