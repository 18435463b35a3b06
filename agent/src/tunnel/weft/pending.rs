//! What has arrived for an app that has not taken it yet.

use std::collections::VecDeque;

/// Small arrivals are put together up to this size, in bytes: a window full of one-byte frames must not cost a window
/// full of allocations.
const CHUNK: usize = 16 * 1024;

/// A queue of bytes that costs nothing while it is empty.
#[derive(Debug, Default)]
pub(super) struct Pending {
    chunks: VecDeque<Vec<u8>>,
    /// Of the first chunk, how much has been taken.
    offset: usize,
    len: usize,
}

impl Pending {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        match self.chunks.back_mut().filter(|last| last.len() + bytes.len() <= CHUNK) {
            Some(last) => last.extend_from_slice(bytes),
            None => self.chunks.push_back(bytes.to_vec()),
        }
    }

    /// The next bytes in one piece.
    pub(super) fn front(&self) -> &[u8] {
        self.chunks.front().and_then(|first| first.get(self.offset..)).unwrap_or_default()
    }

    /// Takes `size` bytes off [`Pending::front`].
    pub(super) fn took(&mut self, size: usize) {
        self.len -= size;
        self.offset += size;
        if self.front().is_empty() {
            self.offset = 0;
            self.chunks.pop_front();
        }
        if self.chunks.is_empty() {
            self.chunks = VecDeque::new();
        }
    }

    /// Throws everything away.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_in_few_pieces() {
        let mut pending = Pending::default();
        let all: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
        all.chunks(1).take(50_000).for_each(|byte| pending.push(byte));
        pending.push(&all[50_000..]);
        assert!(pending.chunks.len() <= 6 && pending.len() == all.len());
        let mut out = Vec::new();
        while !pending.is_empty() {
            let size = pending.front().len().min(777);
            out.extend_from_slice(&pending.front()[..size]);
            pending.took(size);
        }
        assert_eq!(out, all);
        assert_eq!(pending.chunks.capacity(), 0);
    }
}
