//! What the long heads that one connection holds take of its pod's budget: whole while they are not complete, then what they came to.

use std::sync::Arc;

use super::framing::HEAD_MAX;
use crate::tunnel::Budget;

/// What a head costs nobody, in bytes: hyper's first buffer.
pub(super) const FREE: usize = 8 * 1024;

/// What a head may cost that is not complete, in bytes: buffers double as they grow.
pub(super) const WHOLE: usize = 2 * HEAD_MAX;

/// See the module. What it holds is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    budget: Arc<Budget>,
    claimed: usize,
    /// A long head is not complete.
    unfinished: bool,
    /// Bytes of the long ones that are, and are still needed.
    complete: usize,
    /// The longest of these so far: its buffer is kept.
    longest: usize,
}

impl Room {
    /// Of a connection of the pod whose budget this is.
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), claimed: 0, unfinished: false, complete: 0, longest: 0 }
    }

    /// A head that is not complete has so many bytes. `false` if there is no room for it.
    pub(super) fn begun(&mut self, bytes: usize) -> bool {
        self.unfinished = bytes > FREE;
        self.settle()
    }

    /// A head of so many bytes is complete, and no other is begun. `false` if there is no room for it.
    pub(super) fn complete(&mut self, bytes: usize) -> bool {
        let before = (self.complete, self.longest);
        self.unfinished = false;
        if bytes > FREE {
            self.complete += bytes;
            self.longest = self.longest.max(bytes);
        }
        let fits = self.settle();
        if !fits {
            (self.complete, self.longest) = before;
        }
        fits
    }

    /// Whether what is complete is needed, and was long.
    pub(super) fn has_complete(&self) -> bool {
        self.complete > 0
    }

    /// Whether the connection keeps what others may need.
    pub(super) fn is_in_the_way(&self) -> bool {
        self.longest > 0 && self.budget.is_short()
    }

    /// What is complete is not needed any more. Its buffer is kept.
    pub(super) fn over(&mut self) {
        self.complete = 0;
        self.settle();
    }

    /// So many bytes of what is complete are not needed any more, and no buffer is kept.
    pub(super) fn less(&mut self, bytes: usize) {
        self.complete = self.complete.saturating_sub(bytes);
        self.longest = self.longest.min(self.complete);
        self.settle();
    }

    fn settle(&mut self) -> bool {
        let wanted = self.complete.max(self.longest) + if self.unfinished { WHOLE } else { 0 };
        if wanted > self.claimed && !self.budget.claim(wanted - self.claimed) {
            return false;
        }
        if wanted < self.claimed {
            self.budget.disclaim(self.claimed - wanted);
        }
        self.claimed = wanted;
        true
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.disclaim(self.claimed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_head_is_kept_and_those_still_needed_add_up() {
        let budget = Arc::new(Budget::default());
        let mut room = Room::new(&budget);
        assert!(
            room.begun(FREE) && room.complete(FREE) && budget.claimed() == 0 && !room.has_complete(),
            "the free share"
        );
        assert!(room.begun(FREE + 1) && budget.claimed() == WHOLE);
        assert!(room.complete(20_000) && room.complete(10_000) && budget.claimed() == 30_000 && room.has_complete());
        room.over();
        assert!(budget.claimed() == 20_000 && !room.has_complete(), "its buffer is kept");
        assert!(room.complete(10_000) && budget.claimed() == 20_000);
        room.less(5_000);
        assert!(budget.claimed() == 5_000 && room.has_complete(), "none is");
        room.less(6_000);
        assert!(budget.claimed() == 0 && !room.has_complete());
        assert!(room.begun(2 * FREE) && room.begun(0) && budget.claimed() == 0, "given up");
    }

    #[test]
    fn what_there_is_no_room_for_is_not_held() {
        // An eighth of it is for heads.
        let budget = Arc::new(Budget::new(8 * 30_000));
        let (mut first, mut second) = (Room::new(&budget), Room::new(&budget));
        assert!(first.complete(14_000) && !first.is_in_the_way());
        assert!(!second.complete(17_000) && !second.has_complete() && !second.is_in_the_way());
        assert!(second.complete(16_000) && second.is_in_the_way() && first.is_in_the_way(), "more than half is used");
        assert!(!first.begun(2 * FREE) && first.begun(0) && budget.claimed() == 30_000);
        drop((first, second));
        assert_eq!(budget.claimed(), 0);
    }
}
