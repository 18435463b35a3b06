//! Who sends next when a tunnel's buffer is full: streams wait in line, and each gets a turn.
//!
//! As in FQ-CoDel (RFC 8290, section 4.2), a stream that has had nothing to send for a while goes before those that always
//! have: a small message waits for what is in the buffer, not for every bulk transfer's turn. After its turn a stream
//! stays in line behind the others, and leaves when its turn finds nothing: so nobody passes twice. A stream whose turn the
//! buffer's end cut short goes on with it before the next of those begins.

use std::collections::VecDeque;

/// Streams in line, each at most once.
#[derive(Debug, Default)]
pub(super) struct Line {
    fresh: VecDeque<u32>,
    served: VecDeque<u32>,
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.served.is_empty()
    }

    /// A stream that was not in line.
    pub(super) fn join(&mut self, stream: u32) {
        self.fresh.push_back(stream);
    }

    /// A stream that has had its turn and may have more.
    pub(super) fn again(&mut self, stream: u32) {
        self.served.push_back(stream);
    }

    /// A stream that has more to send in the turn it has.
    pub(super) fn go_on(&mut self, stream: u32) {
        self.served.push_front(stream);
    }

    /// Takes out whose turn it is.
    pub(super) fn next(&mut self) -> Option<u32> {
        self.fresh.pop_front().or_else(|| self.served.pop_front())
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newcomers_pass_once_and_the_others_take_turns() {
        let mut line = Line::default();
        (1..=3).for_each(|stream| line.join(stream));
        let turn = |line: &mut Line| line.next().inspect(|stream| line.again(*stream));
        assert_eq!([1, 2, 3, 1].map(|_| turn(&mut line)), [1, 2, 3, 1].map(Some));
        line.join(9);
        assert_eq!([9, 2, 3, 1, 9, 2].map(|_| turn(&mut line)), [9, 2, 3, 1, 9, 2].map(Some));
        // Cut short, and a newcomer passes it.
        line.go_on(7);
        line.join(8);
        assert_eq!([(); 3].map(|()| line.next()), [8, 7, 3].map(Some));
        line.clear();
        assert!(line.is_empty() && line.next().is_none());
    }
}
