//! What of HTTP/2 is written to the app: how many bytes of heads, and when none waits any more.
//!
//! The library flushes whenever its buffer is written, also with heads queued behind it. Only a second flush that nothing was
//! written before says that there are none.

use std::io::IoSlice;

/// Length of what a frame begins with (RFC 9113, section 4.1).
const FRAME: usize = 9;
/// Types of the frames heads are in (the same, sections 6.2 and 6.10).
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

/// Frames as they are written, in pieces cut anywhere.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The beginning of a frame, as far as it is written.
    begun: [u8; FRAME],
    filled: usize,
    /// Bytes of the frame that are still to be written after that.
    left: usize,
}

/// Heads to be written, in bytes since the connection began.
#[derive(Debug, Default)]
pub(super) struct Queue {
    told: u64,
    gone: u64,
    /// What was told when the library flushed last, unless something has been written since.
    flushed: Option<u64>,
}

impl Frames {
    /// The first `written` bytes of `pieces` are written. How many of them belong to heads.
    pub(super) fn wrote(&mut self, pieces: &[IoSlice<'_>], written: usize) -> usize {
        let (mut heads, mut left) = (0, written);
        for piece in pieces {
            let size = piece.len().min(left);
            heads += self.read(&piece[..size]);
            left -= size;
        }
        heads
    }

    fn read(&mut self, mut bytes: &[u8]) -> usize {
        let mut heads = 0;
        while !bytes.is_empty() {
            let beginning = self.left == 0;
            let wanted = if beginning { FRAME - self.filled } else { self.left };
            let (now, rest) = bytes.split_at(wanted.min(bytes.len()));
            bytes = rest;
            if !beginning {
                self.left -= now.len();
                heads += if self.is_head() { now.len() } else { 0 };
                continue;
            }
            self.begun[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            if self.filled == FRAME {
                let [high, middle, low, ..] = self.begun;
                self.left = u32::from_be_bytes([0, high, middle, low]) as usize;
                self.filled = 0;
            }
        }
        heads
    }

    fn is_head(&self) -> bool {
        matches!(self.begun[3], HEADERS | CONTINUATION)
    }
}

impl Queue {
    /// A head of so many bytes is to be written.
    pub(super) fn tell(&mut self, bytes: usize) {
        self.told += bytes as u64;
    }

    /// Whether there is one.
    pub(super) fn waits(&self) -> bool {
        self.told > self.gone
    }

    /// Something is written, and of heads so many bytes. How much less is to be written.
    pub(super) fn wrote(&mut self, bytes: usize) -> usize {
        self.flushed = None;
        self.go(self.told.min(self.gone + bytes as u64))
    }

    /// The library flushes. How much less is to be written: heads are compressed, and of streams that were reset none is sent.
    pub(super) fn flushed(&mut self) -> usize {
        let before = self.flushed.replace(self.told);
        self.go(before.unwrap_or(self.gone).max(self.gone))
    }

    #[expect(clippy::cast_possible_truncation, reason = "what waits is in memory")]
    fn go(&mut self, gone: u64) -> usize {
        let less = gone - self.gone;
        self.gone = gone;
        less as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, size: usize) -> Vec<u8> {
        let length = u32::try_from(size).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 1], &vec![kind; size]].concat()
    }

    #[test]
    fn heads_are_told_from_all_else_however_the_bytes_are_cut() {
        let all = [(4, 6), (1, 300), (9, 70_000), (0, 500), (8, 4), (1, 0), (0, 0), (1, 41)];
        let bytes: Vec<u8> = all.iter().flat_map(|(kind, size)| frame(*kind, *size)).collect();
        for cut in [1, 2, 7, 9, 10, 511, 65_537, bytes.len()] {
            let mut frames = Frames::default();
            let heads: usize = bytes.chunks(cut).map(|piece| frames.wrote(&[IoSlice::new(piece)], piece.len())).sum();
            assert_eq!(heads, 70_341, "pieces of {cut}");
        }
        let (mut frames, (first, rest)) = (Frames::default(), bytes.split_at(100));
        let pieces = [IoSlice::new(first), IoSlice::new(rest)];
        assert_eq!(frames.wrote(&pieces, 124), 100, "what is not written is not counted");
    }

    #[test]
    fn what_waits_is_what_is_not_written_until_a_flush_finds_nothing_to_write() {
        let mut queue = Queue::default();
        queue.tell(1000);
        queue.tell(1000);
        assert_eq!((queue.wrote(300), queue.wrote(0), queue.waits()), (300, 0, true));
        assert_eq!((queue.flushed(), queue.waits()), (0, true), "more is queued behind what is written");
        assert_eq!((queue.wrote(400), queue.flushed()), (400, 0));
        queue.tell(50);
        assert_eq!((queue.flushed(), queue.waits()), (1300, true), "what was told since waits");
        assert_eq!((queue.flushed(), queue.waits()), (50, false));
        assert_eq!((queue.wrote(500), queue.flushed(), queue.flushed()), (0, 0, 0), "trailers are heads too");
    }
}
