//! What a connection has carried so far, and which side began: counted where bytes move, read by whoever wants to know.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;

use super::Side;

/// Bytes moved so far; may be read while the relay runs.
///
/// Every open connection has one: it is 24 bytes, and what waits for its first byte is only there where somebody does.
#[derive(Debug, Default)]
pub struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
    waiting: ArcSwapOption<Waiting>,
}

/// What is done at the first byte.
struct Waiting(Box<dyn Fn(Side) + Send + Sync>);

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiting")
    }
}

impl Traffic {
    /// Counts bytes from the near side.
    pub fn count_sent(&self, bytes: usize) {
        if self.sent.fetch_add(bytes as u64, Ordering::Relaxed) == 0 && bytes > 0 {
            self.began(Side::Near);
        }
    }

    /// Counts bytes to the near side.
    pub fn count_received(&self, bytes: usize) {
        if self.received.fetch_add(bytes as u64, Ordering::Relaxed) == 0 && bytes > 0 {
            self.began(Side::Far);
        }
    }

    /// Has the side told that sends the first byte of all, by whoever moves it: `then` must not wait for anything. Never told if
    /// the connection ends without one, or if bytes have moved before. Replaces who waited until now.
    pub fn on_first_byte(&self, then: impl Fn(Side) + Send + Sync + 'static) {
        self.waiting.store(Some(Arc::new(Waiting(Box::new(then)))));
        if self.sent() > 0 || self.received() > 0 {
            // Who was first cannot be told any more; and nobody else takes it now, or has.
            self.waiting.store(None);
        }
    }

    /// Bytes from the near side to the far side.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes from the far side to the near side.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// The first byte from this side: twice in a connection's life.
    #[cold]
    fn began(&self, side: Side) {
        if let Some(waiting) = self.waiting.swap(None) {
            (waiting.0)(side);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn watched() -> (Traffic, mpsc::Receiver<Side>) {
        let (traffic, (tell, told)) = (Traffic::default(), mpsc::channel());
        traffic.on_first_byte(move |side| tell.send(side).unwrap());
        (traffic, told)
    }

    #[test]
    fn the_first_byte_is_told_once() {
        let (traffic, told) = watched();
        traffic.count_received(0);
        traffic.count_sent(0);
        assert!(told.try_recv().is_err(), "nothing has moved");
        traffic.count_received(3);
        traffic.count_sent(2);
        traffic.count_received(1);
        assert_eq!(told.iter().collect::<Vec<_>>(), [Side::Far], "and then who waits is gone");
        assert_eq!((traffic.sent(), traffic.received()), (2, 4));
        let (traffic, told) = watched();
        traffic.count_sent(1);
        traffic.count_received(1);
        assert_eq!(told.iter().collect::<Vec<_>>(), [Side::Near]);
    }

    #[test]
    fn who_comes_too_late_or_waits_for_nothing_is_let_go() {
        let (traffic, (tell, told)) = (Traffic::default(), mpsc::channel());
        traffic.count_received(1);
        traffic.on_first_byte(move |side| tell.send(side).unwrap());
        traffic.count_sent(1);
        assert_eq!(told.iter().count(), 0);
        let (traffic, told) = watched();
        drop(traffic);
        assert_eq!(told.iter().count(), 0);
    }

    #[test]
    fn every_open_connection_has_one_and_it_is_small() {
        assert_eq!(size_of::<Traffic>(), 24);
    }
}
