//! What a connection to an endpoint holds of the heads of responses over HTTP/1: charged to the pod that waits for them, beyond a free
//! share. A long one keeps the connection's buffer long, for as long as that lives; where its pod is short of room, it carries no
//! other request.
//!
//! The head's end is found here, in the bytes that hyper is about to read: it alone knows when a head is read, and does not tell.
//! Whether what came is a head at all is its affair.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::room::Room;
use crate::tunnel::Budget;

/// Nothing is asked of the endpoint.
const IDLE: u8 = 0;
/// A request is on its way, and no byte of its response has come.
const ASKED: u8 = 1;
/// A response was not read on: its pod has no room for its head.
const OVER: u8 = 2;
/// A response with a long head has come, and its pod is short of room.
const LAST: u8 = 3;

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

    /// Whether the connection is to carry no other request.
    pub(super) fn is_last(&self) -> bool {
        self.0.load(Ordering::Relaxed) == LAST
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Coming {
    room: Room,
    awaited: Awaited,
    head: Option<Head>,
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

impl Coming {
    /// Of a connection made for the pod whose budget this is.
    pub(super) fn new(budget: &Arc<Budget>, awaited: Awaited) -> Self {
        Self { room: Room::new(budget), awaited, head: None }
    }

    /// Those bytes have come. `false` if its pod has no room for what they belong to.
    pub(super) fn read(&mut self, came: &[u8]) -> bool {
        let taken = self.awaited.0.compare_exchange(ASKED, IDLE, Ordering::Relaxed, Ordering::Relaxed);
        if taken.is_ok() {
            self.head = Some(Head::default());
            self.room.over();
        }
        let Some(mut head) = self.head.take() else { return true };
        let fits = if head.ends_in(came) {
            // Buffers double as they grow.
            self.room.complete(head.bytes.next_power_of_two())
        } else {
            let bytes = head.bytes;
            self.head = Some(head);
            self.room.begun(bytes)
        };
        if !fits {
            self.awaited.0.store(OVER, Ordering::Relaxed);
        } else if self.head.is_none() && self.room.is_in_the_way() {
            self.awaited.0.store(LAST, Ordering::Relaxed);
        }
        fits
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
    use super::super::room::{FREE, WHOLE};
    use super::*;

    /// An eighth of its budget is for such: two whole heads.
    fn pod() -> Arc<Budget> {
        Arc::new(Budget::new(8 * 2 * WHOLE))
    }

    fn asked(budget: &Arc<Budget>) -> (Coming, Awaited) {
        let awaited = Awaited::default();
        awaited.asked();
        (Coming::new(budget, awaited.clone()), awaited)
    }

    fn long() -> Vec<u8> {
        [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'y'; FREE]].concat()
    }

    #[test]
    fn long_heads_are_charged_whole_until_they_are_complete() {
        let budget = pod();
        let ((mut first, _), (mut second, _), (mut third, awaited)) = (asked(&budget), asked(&budget), asked(&budget));
        assert!(first.read(&long()[..FREE]) && budget.claimed() == 0, "the free share");
        assert!(first.read(&long()[FREE..]) && budget.claimed() == WHOLE);
        assert!(second.read(&long()) && !awaited.is_over());
        assert!(!third.read(&long()) && awaited.is_over(), "no room for a third");
        assert!(first.read(b"\r\n\r") && budget.claimed() == 2 * WHOLE);
        assert!(first.read(b"\nbody") && budget.claimed() == WHOLE + 2 * FREE, "complete");
        drop((second, third));
        assert_eq!(budget.claimed(), 2 * FREE, "as long as the connection lives");
        drop(first);
        assert_eq!(budget.claimed(), 0);
    }

    #[test]
    fn connections_with_long_buffers_are_let_go_where_the_pod_is_short_of_room() {
        let budget = pod();
        let (mut first, awaited) = asked(&budget);
        let whole = [long(), b"\r\n\r\n".to_vec()].concat();
        assert!(first.read(&whole) && !awaited.is_last());
        assert!(budget.claim(WHOLE));
        awaited.asked();
        assert!(first.read(b"HTTP/1.1 204 No Content\r\n\r\n") && awaited.is_last(), "the buffer is as long as it was");
        let (mut usual, awaited) = asked(&budget);
        assert!(usual.read(b"HTTP/1.1 204 No Content\r\n\r\n") && !awaited.is_last());
        budget.disclaim(WHOLE);
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
