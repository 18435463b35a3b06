//! What the hooks tell user space because it must act: rare, rate-limited per pod and kind, and safe to lose.

use crate::Address;

/// One record of the ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// An [`EventKind`].
    pub kind: u32,
    /// Destination port, host order.
    pub port: u32,
    /// Cookie of the network namespace it happened in.
    pub cookie: u64,
    /// The process's cgroup, 0 where a SYN and no process caused the event.
    pub cgroup: u64,
    /// Process id in the upper half, thread id in the lower: a thread may be in another namespace than its process.
    pub pid_tgid: u64,
    /// Where the connection was going.
    pub destination: Address,
}

const _: () = assert!(size_of::<Event>() == 4 + 4 + 3 * 8 + 16);

impl Event {
    /// At most one event of a kind per pod in this time.
    pub const INTERVAL_NS: u64 = 50_000_000;

    /// Reads a record, as the ring hands it out: bytes of any alignment.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
            bytes.get(at..at + N)?.try_into().ok()
        }
        Some(Self {
            kind: u32::from_ne_bytes(number(bytes, 0)?),
            port: u32::from_ne_bytes(number(bytes, 4)?),
            cookie: u64::from_ne_bytes(number(bytes, 8)?),
            cgroup: u64::from_ne_bytes(number(bytes, 16)?),
            pid_tgid: u64::from_ne_bytes(number(bytes, 24)?),
            destination: Address::from_octets(number(bytes, 32)?),
        })
    }

    /// The kind, if this build knows it.
    pub const fn kind(&self) -> Option<EventKind> {
        EventKind::from_raw(self.kind)
    }

    /// The thread that connected.
    pub const fn tid(&self) -> u32 {
        self.pid_tgid as u32
    }
}

/// Why user space is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum EventKind {
    /// A namespace nobody has classified made a connect, which went through.
    Unclassified = 1,
    /// The same, and the connect was refused.
    UnclassifiedRefused = 2,
    /// A SYN belonged to the agent and the slot held no listener that could take it.
    ListenerMissing = 3,
}

impl EventKind {
    /// From its number.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Unclassified),
            2 => Some(Self::UnclassifiedRefused),
            3 => Some(Self::ListenerMissing),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_of_any_length_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(Event::read(&bytes).is_some(), bytes.len() >= size_of::<Event>());
        }
    }

    #[test]
    fn fields_come_back_from_their_places() {
        let mut bytes = [0; 48];
        bytes[..4].copy_from_slice(&3_u32.to_ne_bytes());
        bytes[4..8].copy_from_slice(&8080_u32.to_ne_bytes());
        bytes[8..16].copy_from_slice(&7_u64.to_ne_bytes());
        bytes[16..24].copy_from_slice(&9_u64.to_ne_bytes());
        bytes[24..32].copy_from_slice(&((5_u64 << 32) | 6).to_ne_bytes());
        bytes[32..].copy_from_slice(&Address::from_v4_word(1).octets());
        let event = Event::read(&bytes).unwrap();
        assert_eq!(event.kind(), Some(EventKind::ListenerMissing));
        assert_eq!((event.port, event.cookie, event.cgroup, event.tid()), (8080, 7, 9, 6));
        assert_eq!(event.destination, Address::from_v4_word(1));
    }
}
