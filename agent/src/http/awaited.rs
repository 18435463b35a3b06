//! What is held of an endpoint's response over HTTP/1 whose head is not complete: charged to the pod that waits for it, beyond a
//! free share.
//!
//! The head's end is found here, in the bytes that hyper is about to read: it alone knows when a head is read, and does not tell.
//! Whether what came is a head at all is its affair.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::heads::{FREE, WHOLE};
use crate::tunnel::Budget;

/// Nothing is asked of the endpoint.
const IDLE: u8 = 0;
/// A request is on its way, and no byte of its response has come.
const ASKED: u8 = 1;
/// A response was not read on: its pod has no room for its head.
const OVER: u8 = 2;

/// Whether a connection's next byte begins a response. Who sends requests and who reads the connection share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Awaited(Arc<AtomicU8>);

impl Awaited {
    /// A request is sent.
    pub(super) fn asked(&self) {
        self.0.store(ASKED, Ordering::Relaxed);
    }

    /// Whether the connection ended because there was no room for a response's head.
    pub(super) fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) == OVER
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Unfinished {
    budget: Arc<Budget>,
    awaited: Awaited,
    head: Option<Head>,
    charged: bool,
}

/// A head as far as it has come.
#[derive(Debug, Default)]
struct Head {
    bytes: usize,
    /// Bytes of the line that is not over, without its end.
    line: usize,
    /// The status begins with 1: another head follows.
    interim: bool,
    /// The status is 101: none does.
    switching: bool,
}

/// Where the first digit of `HTTP/1.1 200` stands, and its last.
const STATUS: (usize, usize) = (9, 11);

impl Unfinished {
    /// Of a connection made for the pod whose budget this is.
    pub(super) fn new(budget: &Arc<Budget>, awaited: Awaited) -> Self {
        Self { budget: Arc::clone(budget), awaited, head: None, charged: false }
    }

    /// Those bytes have come. `false` if its pod has no room for what is begun.
    pub(super) fn read(&mut self, came: &[u8]) -> bool {
        let taken = self.awaited.0.compare_exchange(ASKED, IDLE, Ordering::Relaxed, Ordering::Relaxed);
        if taken.is_ok() {
            self.head = Some(Head::default());
        }
        let Some(head) = &mut self.head else { return true };
        if head.ends_in(came) {
            self.head = None;
            self.free();
        } else if head.bytes > FREE && !self.charged {
            self.charged = self.budget.claim(WHOLE);
            if !self.charged {
                self.awaited.0.store(OVER, Ordering::Relaxed);
                return false;
            }
        }
        true
    }

    fn free(&mut self) {
        if std::mem::take(&mut self.charged) {
            self.budget.disclaim(WHOLE);
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.free();
    }
}

impl Head {
    /// Whether it is complete with these bytes.
    fn ends_in(&mut self, came: &[u8]) -> bool {
        for &byte in came {
            match byte {
                // Empty lines in front of it are passed over, as hyper does.
                b'\r' | b'\n' if self.bytes == 0 => {}
                b'\n' if self.line > 0 => (self.bytes, self.line) = (self.bytes + 1, 0),
                b'\n' if self.interim && !self.switching => *self = Self::default(),
                b'\n' => return true,
                b'\r' => self.bytes += 1,
                _ => self.more(byte),
            }
        }
        false
    }

    fn more(&mut self, byte: u8) {
        if self.bytes == STATUS.0 {
            self.interim = byte == b'1';
            self.switching = self.interim;
        } else if self.bytes > STATUS.0 && self.bytes <= STATUS.1 {
            self.switching &= byte == if self.bytes == STATUS.1 { b'1' } else { b'0' };
        }
        self.bytes += 1;
        self.line += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An eighth of its budget is for such: two whole heads.
    fn pod() -> Arc<Budget> {
        Arc::new(Budget::new(8 * 2 * WHOLE))
    }

    fn asked(budget: &Arc<Budget>) -> (Unfinished, Awaited) {
        let awaited = Awaited::default();
        awaited.asked();
        (Unfinished::new(budget, awaited.clone()), awaited)
    }

    fn long() -> Vec<u8> {
        [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'y'; FREE]].concat()
    }

    #[test]
    fn long_heads_are_charged_until_they_are_complete() {
        let budget = pod();
        let ((mut first, _), (mut second, _), (mut third, awaited)) = (asked(&budget), asked(&budget), asked(&budget));
        assert!(first.read(&long()[..FREE]) && budget.claimed() == 0, "the free share");
        assert!(first.read(&long()[FREE..]) && budget.claimed() == WHOLE);
        assert!(second.read(&long()) && !awaited.is_over());
        assert!(!third.read(&long()) && awaited.is_over(), "no room for a third");
        assert!(first.read(b"\r\n\r") && budget.claimed() == 2 * WHOLE);
        assert!(first.read(b"\nbody") && budget.claimed() == WHOLE, "complete");
        drop((second, third));
        assert_eq!(budget.claimed(), 0);
    }

    #[test]
    fn bodies_are_nobodys_head() {
        let budget = pod();
        let (mut head, awaited) = asked(&budget);
        assert!(head.read(b"\r\nHTTP/1.1 200 OK\r\na: b\n\n"), "a line may end without CR");
        assert!(head.read(&vec![b'z'; 4 * FREE]) && budget.claimed() == 0);
        awaited.asked();
        assert!(head.read(&long()) && budget.claimed() == WHOLE, "the next response");
    }

    #[test]
    fn heads_that_announce_another_end_nothing() {
        let budget = pod();
        let (mut head, _) = asked(&budget);
        assert!(head.read(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n"));
        assert!(head.read(&long()) && budget.claimed() == WHOLE);
        let (mut switched, _) = asked(&budget);
        assert!(switched.read(b"HTTP/1.1 101 Switching Protocols\r\n\r\n") && switched.read(&long()));
        assert_eq!(budget.claimed(), WHOLE);
    }
}
