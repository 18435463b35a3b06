//! Bytes on their way between a socket and TLS. A buffer that is empty holds no memory: it goes back to its thread, for
//! whoever needs one next.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

/// The size most buffers have, in bytes: sixteen full TLS records, and room for one that is not complete.
pub(super) const STANDARD: usize = 17 * 17 * 1024;
/// Buffers a thread keeps for the next who needs one.
const KEPT: usize = 4;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A queue of bytes in one piece.
#[derive(Default)]
pub(super) struct Buffer {
    /// As long as what may be filled; the bytes are those from `start` to `end`.
    space: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// What has been filled and not consumed.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.space[self.start..self.end]
    }

    /// The same, to be decrypted in place.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.space[self.start..self.end]
    }

    /// Where [`Buffer::bytes`] begin, for [`Buffer::part`].
    pub(super) fn start(&self) -> usize {
        self.start
    }

    /// Bytes by their place in the buffer, consumed or not: they stay there until room is asked for, or memory given back.
    pub(super) fn part(&self, part: Range<usize>) -> &[u8] {
        self.space.get(part).unwrap_or_default()
    }

    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// At least `size` bytes to fill, behind those that are there.
    pub(super) fn room(&mut self, size: usize) -> &mut [u8] {
        if self.space.is_empty() {
            self.space = SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; STANDARD]);
        }
        if self.space.len() - self.end < size {
            self.space.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.space.len() - self.end < size {
            self.space.resize(self.end + size, 0);
        }
        &mut self.space[self.end..]
    }

    /// Takes note of `size` bytes filled into [`Buffer::room`].
    pub(super) fn filled(&mut self, size: usize) {
        self.end = (self.end + size).min(self.space.len());
    }

    /// Takes `size` bytes off the front.
    pub(super) fn consume(&mut self, size: usize) {
        self.start = (self.start + size).min(self.end);
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Gives the memory back, if it holds nothing.
    pub(super) fn rest(&mut self) {
        if !self.is_empty() || self.space.is_empty() {
            return;
        }
        let space = std::mem::take(&mut self.space);
        (self.start, self.end) = (0, 0);
        SPARE.with_borrow_mut(|spare| {
            if space.len() == STANDARD && spare.len() < KEPT {
                spare.push(space);
            }
        });
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in_and_memory_goes_back() {
        let mut buffer = Buffer::default();
        let mut expected = std::collections::VecDeque::new();
        for step in 0..2000_usize {
            let size = (step * 7919) % 3000;
            buffer.room(size)[..size].fill(step as u8);
            buffer.filled(size);
            expected.extend(std::iter::repeat_n(step as u8, size));
            let taken = (step * 104_729) % (expected.len() + 1);
            assert!(buffer.bytes().iter().eq(expected.iter()));
            buffer.consume(taken);
            expected.drain(..taken);
        }
        buffer.consume(buffer.len());
        buffer.rest();
        assert!(buffer.space.is_empty());
    }
}
