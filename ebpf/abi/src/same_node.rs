//! Connections between pods of one node that never see the proxy: what the hooks draw from, what they note of each, and
//! what they report of it.
//!
//! The kernel attests who connects. When an enrolled pod's socket sends its SYN, its 4-tuple is written down with the
//! cookie of its namespace; the destination's lookup hook finds it there and applies policy to that pod. An entry lives
//! with its socket: one that outlived it could be used by whoever forges the address.

use crate::{Address, PodEntry};

/// What an application dials: a service's address and port, or a pod's address and port 0 for all of its ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// The address.
    pub address: Address,
    /// In host order.
    pub port: u32,
}

/// An endpoint on this node that the kernel may send connections to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Where it is.
    pub address: Address,
    /// Cookie of its network namespace.
    pub cookie: u64,
    /// Its port in host order; 0 keeps the one dialled.
    pub port: u32,
    /// The last number of a draw from all of `u32` that falls on it.
    pub last: u32,
}

/// The endpoints of one service port that are on this node, with their shares among all of its endpoints. Numbers above
/// the last endpoint's are the shares of the others.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// How many of `choices` there are; 0 says that connections here go through the proxy.
    pub count: u32,
    /// Not 0: draws take turns instead of being random.
    pub in_turns: u32,
    /// The number of the next turn.
    pub turn: u32,
    /// None.
    pub padding: u32,
    /// Ascending by `last`.
    pub choices: [Choice; Self::CHOICES],
}

impl Frontend {
    /// Endpoints of one service port that can be reached directly; further ones are reached through the proxy.
    pub const CHOICES: usize = 16;

    /// The golden section of `u32`: steps of this length spread over the whole range so evenly that no stretch of it is
    /// ever far off its share, whatever its place (three-distance theorem).
    const STEP: u32 = 0x9e37_79b9;

    /// A frontend that sends everybody through the proxy.
    pub const NONE: Self = Self {
        count: 0,
        in_turns: 0,
        turn: 0,
        padding: 0,
        choices: [Choice { address: Address::UNSPECIFIED, cookie: 0, port: 0, last: 0 }; Self::CHOICES],
    };

    /// The draw of a turn.
    #[inline(always)]
    pub const fn turn(number: u32) -> u32 {
        number.wrapping_mul(Self::STEP)
    }

    /// The endpoint a number falls on; `None` where it is one of the others'.
    #[inline(always)]
    pub fn draw(&self, number: u32) -> Option<&Choice> {
        // Indexed, and bounded by a constant: the verifier wants to see both.
        let mut at = 0;
        while at < Self::CHOICES {
            if at as u32 >= self.count {
                return None;
            }
            let choice = &self.choices[at];
            if number <= choice.last {
                return Some(choice);
            }
            at += 1;
        }
        None
    }
}

/// A pod's place in [`AdmitSet`]: pods are numbered as they are enrolled, and have one place for each family of
/// addresses, because policies may speak of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u32);

impl Slot {
    /// Pods that can have one; a kubelet runs at most a few hundred.
    pub const PODS: u32 = 512;

    /// The place of a pod's connections from one of its addresses.
    #[inline(always)]
    pub const fn new(pod: u32, source: &Address) -> Self {
        Self(pod * 2 + if source.is_v4() { 0 } else { 1 })
    }
}

/// Which pods of this node may connect to a port: one bit for each [`Slot`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdmitSet {
    words: [u64; Self::WORDS],
}

impl AdmitSet {
    /// Words that hold a bit for each slot.
    pub const WORDS: usize = (Slot::PODS * 2 / 64) as usize;

    /// From bits: that of a slot at its place.
    pub const fn from_words(words: [u64; Self::WORDS]) -> Self {
        Self { words }
    }

    /// Lets a pod in.
    pub fn admit(&mut self, slot: Slot) {
        if let Some(word) = self.words.get_mut((slot.0 / 64) as usize) {
            *word |= 1 << (slot.0 % 64);
        }
    }

    /// Whether a pod is let in; one beyond the last place is not.
    #[inline(always)]
    pub fn admits(&self, slot: Slot) -> bool {
        // Masked and read whatever the slot is: after a comparison the compiler keeps the bound in another register than
        // the index, and the verifier loses it.
        let word = self.words[(slot.0 / 64) as usize & (Self::WORDS - 1)];
        (slot.0 < Slot::PODS * 2) & (word >> (slot.0 % 64) & 1 == 1)
    }
}

/// A connection as the packets of its client carry it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// The client's address.
    pub source: Address,
    /// The server's.
    pub destination: Address,
    /// In host order.
    pub source_port: u32,
    /// In host order.
    pub destination_port: u32,
}

/// What the kernel knows of the client of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attested {
    /// Cookie of the namespace the connecting socket is in.
    pub source: u64,
    /// Cookie of the namespace it is meant for; nobody else is to believe it.
    pub destination: u64,
    /// The socket's own cookie.
    pub socket: u64,
    /// CLOCK_MONOTONIC of its SYN.
    pub opened: u64,
    /// CLOCK_MONOTONIC of the SYN-ACK, or 0.
    pub established: u64,
    /// Not 0: policy refused it.
    pub denied: u64,
}

impl Attested {
    /// How long a SYN is believed to be its socket's: longer than any handshake on one node takes.
    pub const SYN_NS: u64 = 10_000_000_000;
    /// How long after the SYN-ACK the handshake's last ACK is: with syncookies it is looked up like a SYN.
    pub const ACK_NS: u64 = 3_000_000_000;

    /// Whether a packet that opens a connection can still be this one's.
    #[inline(always)]
    pub const fn is_fresh(&self, now: u64) -> bool {
        if self.established != 0 {
            return now.saturating_sub(self.established) < Self::ACK_NS;
        }
        now.saturating_sub(self.opened) < Self::SYN_NS
    }

    /// Whether the namespace `destination` may believe a SYN from `address` to be of the pod whose entry is `source`.
    #[inline(always)]
    pub const fn proves(&self, destination: u64, source: &PodEntry, address: &Address, now: u64) -> bool {
        self.destination == destination && self.is_fresh(now) && source.is_direct() && source.owns(address)
    }
}

/// What is noted of a connecting socket for as long as it lives.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Its connection; without a source until the kernel has chosen one.
    pub tuple: Tuple,
    /// What the application dialled.
    pub dialled: Address,
    /// In host order.
    pub dialled_port: u32,
    /// Of [`Flow::FIN_RECEIVED`] and [`Flow::FIN_ACKED`].
    pub flags: u32,
    /// As in [`Attested`].
    pub source: u64,
    /// As in [`Attested`].
    pub destination: u64,
    /// As in [`Attested`].
    pub opened: u64,
    /// As in [`Attested`].
    pub established: u64,
    /// Bytes received when the own FIN had been acknowledged.
    pub received: u64,
    /// Smoothed round trip when it was last established, in eighths of a microsecond as the kernel counts.
    pub srtt: u32,
    /// None.
    pub padding: u32,
}

impl Flow {
    /// The peer has finished.
    pub const FIN_RECEIVED: u32 = 1;
    /// The peer knows that we have.
    pub const FIN_ACKED: u32 = 2;
}

/// TCP states, in the kernel's numbers.
pub mod state {
    /// Both ends know of each other.
    pub const ESTABLISHED: u32 = 1;
    /// The SYN is sent.
    pub const SYN_SENT: u32 = 2;
    /// The own FIN is sent.
    pub const FIN_WAIT1: u32 = 4;
    /// The own FIN is acknowledged.
    pub const FIN_WAIT2: u32 = 5;
    /// Gone.
    pub const CLOSE: u32 = 7;
    /// The peer's FIN is received.
    pub const CLOSE_WAIT: u32 = 8;
    /// The peer's FIN is received, the own is sent.
    pub const LAST_ACK: u32 = 9;
    /// The same, in the other order.
    pub const CLOSING: u32 = 11;
}

impl Flow {
    /// Notes a change of state. `received` counts as the kernel does.
    #[inline(always)]
    pub const fn step(&mut self, old: u32, new: u32, received: u64, srtt: u32, now: u64) {
        if old == state::ESTABLISHED {
            self.srtt = srtt;
        }
        match new {
            state::ESTABLISHED => self.established = now,
            state::CLOSE_WAIT | state::LAST_ACK | state::CLOSING => self.flags |= Self::FIN_RECEIVED,
            state::FIN_WAIT2 => {
                self.flags |= Self::FIN_ACKED;
                self.received = received;
            }
            // Nothing else comes after the own FIN and ends the socket but the peer's: a FIN was the last of what came.
            state::CLOSE if old == state::FIN_WAIT2 && received > self.received => self.flags |= Self::FIN_RECEIVED,
            state::CLOSE if matches!(old, state::LAST_ACK | state::CLOSING) => self.flags |= Self::FIN_ACKED,
            _ => {}
        }
    }
}

/// Bytes of a connection's payload, sent and received, from what the kernel counted: the SYN and each FIN count as one.
#[inline(always)]
pub const fn traffic(flags: u32, acked: u64, received: u64) -> (u64, u64) {
    let fin_acked = if flags & Flow::FIN_ACKED != 0 { 1 } else { 0 };
    let fin_received = if flags & Flow::FIN_RECEIVED != 0 { 1 } else { 0 };
    (acked.saturating_sub(1 + fin_acked), received.saturating_sub(fin_received))
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FlowEnd {
    /// It stands.
    Opened = 1,
    /// Both ends have finished, or the client has and nobody asked further.
    Finished = 2,
    /// A reset ended it.
    Reset = 3,
    /// Nobody answered, or nobody listened.
    Refused = 4,
    /// Policy refused it.
    Denied = 5,
}

impl FlowEnd {
    /// How a socket ended that was in this state.
    #[inline(always)]
    pub const fn of(old: u32, denied: bool) -> Self {
        match old {
            state::SYN_SENT if denied => Self::Denied,
            state::SYN_SENT => Self::Refused,
            state::FIN_WAIT2 | state::LAST_ACK | state::CLOSING => Self::Finished,
            _ => Self::Reset,
        }
    }

    /// From its number.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Opened),
            2 => Some(Self::Finished),
            3 => Some(Self::Reset),
            4 => Some(Self::Refused),
            5 => Some(Self::Denied),
            _ => None,
        }
    }
}

/// One record of the ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowRecord {
    /// A [`FlowEnd`].
    pub end: u32,
    /// Smoothed round trip in microseconds, 0 where it was never measured.
    pub rtt_us: u32,
    /// The client's namespace.
    pub source: u64,
    /// The server's.
    pub destination: u64,
    /// The client's socket.
    pub socket: u64,
    /// Nanoseconds from the SYN to this record.
    pub lasted: u64,
    /// Payload bytes from client to server.
    pub sent: u64,
    /// Payload bytes back.
    pub received: u64,
    /// The connection.
    pub tuple: Tuple,
    /// What the application dialled.
    pub dialled: Address,
    /// In host order.
    pub dialled_port: u32,
    /// None.
    pub padding: u32,
}

impl FlowRecord {
    /// Reads a record, as the ring hands it out: bytes of any alignment.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
            bytes.get(at..at + N)?.try_into().ok()
        }
        let short = |at| number(bytes, at).map(u32::from_ne_bytes);
        let long = |at| number(bytes, at).map(u64::from_ne_bytes);
        let address = |at| number(bytes, at).map(Address::from_octets);
        Some(Self {
            end: short(0)?,
            rtt_us: short(4)?,
            source: long(8)?,
            destination: long(16)?,
            socket: long(24)?,
            lasted: long(32)?,
            sent: long(40)?,
            received: long(48)?,
            tuple: Tuple {
                source: address(56)?,
                destination: address(72)?,
                source_port: short(88)?,
                destination_port: short(92)?,
            },
            dialled: address(96)?,
            dialled_port: short(112)?,
            padding: short(116)?,
        })
    }
}

const _: () = {
    assert!(size_of::<FrontendKey>() == 16 + 4);
    assert!(size_of::<Choice>() == 16 + 8 + 2 * 4);
    assert!(size_of::<Frontend>() == 4 * 4 + Frontend::CHOICES * 32);
    assert!(AdmitSet::WORDS.is_power_of_two());
    assert!(size_of::<AdmitSet>() == Slot::PODS as usize * 2 / 8);
    assert!(size_of::<Tuple>() == 2 * 16 + 2 * 4);
    assert!(size_of::<Attested>() == 6 * 8);
    assert!(size_of::<Flow>() == 40 + 16 + 2 * 4 + 5 * 8 + 2 * 4);
    assert!(size_of::<FlowRecord>() == 2 * 4 + 6 * 8 + 40 + 16 + 2 * 4);
};

#[cfg(test)]
mod tests;
