//! Bytes to send and sums to compare: a payload is named by its seed and length, so both ends agree without sharing it.

use serde::{Deserialize, Serialize};

/// Length of the repeated block: prime, so that no buffer size lines up with it and a misplaced block changes the sum.
const BLOCK: usize = 65_537;

/// What to send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// These very bytes.
    Text(String),
    /// These very bytes, so often.
    Bytes {
        /// The bytes.
        bytes: Vec<u8>,
        /// How often.
        times: u64,
    },
    /// `length` bytes of noise drawn from `seed`.
    Noise {
        /// Picks the noise.
        seed: u64,
        /// Bytes.
        length: u64,
    },
}

impl Payload {
    /// Its length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Bytes { bytes, times } => bytes.len() as u64 * times,
            Self::Noise { length, .. } => *length,
        }
    }

    /// The block that, repeated and cut at [`Payload::length`], is the payload.
    #[must_use]
    pub fn block(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Bytes { bytes, times } => {
                // Whole ones, and few writes of many.
                let most = (BLOCK / bytes.len().max(1)).max(1);
                bytes.repeat(most.min(usize::try_from(*times).unwrap_or(most)))
            }
            Self::Noise { seed, length } => noise(*seed, BLOCK.min(usize::try_from(*length).unwrap_or(BLOCK))),
        }
    }

    /// The sum a receiver of all of it must come to.
    #[must_use]
    pub fn sum(&self) -> Sum {
        let (block, mut sum, mut left) = (self.block(), Sum::default(), self.length());
        while left > 0 {
            let take = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            sum.add(&block[..take]);
            left -= take as u64;
        }
        sum
    }
}

/// xorshift64*: repeatable, and no compressor or pattern search finds it in other traffic.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A polynomial sum modulo 2^64 and a count: depends on every byte and its place, not on how reads were cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// Bytes added.
    pub length: u64,
    /// The polynomial's value.
    pub value: u64,
}

const P: u64 = 0x0000_0100_0000_01b3;

impl Sum {
    /// Adds the next bytes of the stream.
    pub fn add(&mut self, bytes: &[u8]) {
        const fn power(n: u32) -> u64 {
            P.wrapping_pow(n)
        }
        let mut value = self.value;
        let (words, rest) = bytes.as_chunks::<8>();
        for w in words {
            let mut next = value.wrapping_mul(power(8));
            for (i, &byte) in w.iter().enumerate() {
                next = next.wrapping_add(u64::from(byte).wrapping_mul(POWERS[i]));
            }
            value = next;
        }
        for &byte in rest {
            value = value.wrapping_mul(P).wrapping_add(u64::from(byte));
        }
        self.value = value;
        self.length += bytes.len() as u64;
    }
}

/// P^7 … P^0, the weights of the bytes of one word.
const POWERS: [u64; 8] = {
    let mut powers = [1u64; 8];
    let mut i = 7;
    while i > 0 {
        powers[i - 1] = powers[i].wrapping_mul(P);
        i -= 1;
    }
    powers
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_does_not_depend_on_how_reads_were_cut() {
        let bytes = noise(7, 10_000);
        let mut whole = Sum::default();
        whole.add(&bytes);
        for cut in [1, 3, 8, 9, 1024] {
            let mut pieces = Sum::default();
            bytes.chunks(cut).for_each(|piece| pieces.add(piece));
            assert_eq!(pieces, whole, "cut at {cut}");
        }
    }

    #[test]
    fn swapped_lost_and_repeated_bytes_change_a_sum() {
        let payload = Payload::Noise { seed: 1, length: 200_000 };
        let block = payload.block();
        let bytes: Vec<u8> = block.iter().copied().cycle().take(200_000).collect();
        let of = |bytes: &[u8]| {
            let mut sum = Sum::default();
            sum.add(bytes);
            sum
        };
        assert_eq!(of(&bytes), payload.sum());
        let mut swapped = bytes.clone();
        swapped[..131_072].rotate_left(65_536);
        assert_ne!(of(&swapped), payload.sum());
        assert_ne!(of(&bytes[1..]), payload.sum());
    }
}
