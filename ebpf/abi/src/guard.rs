//! The judgement of the guard on pods' links: whether a packet is sent in the name of an enrolled pod by somebody else.

use crate::{Address, Verdict};

/// A hardware address of Ethernet.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Station(u64);

impl Station {
    /// What no device has.
    pub const NONE: Self = Self(0);

    /// From the bytes as they stand in a frame.
    #[inline(always)]
    pub const fn from_octets(octets: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = octets;
        Self(u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]))
    }

    /// The key of a map.
    #[inline(always)]
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// The node's end of a link by which somebody's packets arrive.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Cookie of the network namespace at its other end; 0 is one that nobody knows.
    pub cookie: u64,
    /// The hardware address of its other end, or [`Station::NONE`] where that is not known to be nobody else's.
    pub station: Station,
    /// The addresses of the pod if it is enrolled: they need not be looked up.
    pub own: [Address; 2],
    /// Of [`Link::SHARED`] and [`Link::UPLINK`].
    pub flags: u64,
}

impl Link {
    /// Others hear its frames as they are, because it is a port of a bridge.
    pub const SHARED: u64 = 1;
    /// It does not lead to a namespace of this machine: routers may be beyond it.
    pub const UPLINK: u64 = 2;

    /// A link nobody has described: of nobody, and heard by all.
    pub const UNKNOWN: Self =
        Self { cookie: 0, station: Station::NONE, own: [Address::UNSPECIFIED; 2], flags: Self::SHARED };

    /// Whether others hear its frames.
    #[inline(always)]
    pub const fn is_shared(&self) -> bool {
        self.flags & Self::SHARED != 0
    }

    /// Whether packets from the address need not be looked at further.
    #[inline(always)]
    pub const fn owns(&self, address: &Address) -> bool {
        self.own[0].is(address) || self.own[1].is(address)
    }
}

const _: () = assert!(size_of::<Link>() == 2 * 8 + 2 * 16 + 8);

/// What a packet that came by a link says of its sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The hardware address it comes from.
    pub station: Station,
    /// The address it says it comes from, or [`Address::UNSPECIFIED`]: no option, for the verifier loses sight of which
    /// words were written.
    pub source: Address,
    /// The address whose neighbour it says it is, or [`Address::UNSPECIFIED`].
    pub claims: Address,
    /// It is one of those only routers send: an advertisement of one, or a redirect.
    pub routes: bool,
}

/// What the guard can find out of who is who on the node.
pub trait Owners {
    /// The cookie of the enrolled pod that has the address, or of the node where it is a gateway's.
    fn of_address(&self, address: &Address) -> Option<u64>;
    /// The cookie of the enrolled pod whose device has the hardware address.
    fn of_station(&self, station: Station) -> Option<u64>;
}

/// Why a packet is dropped; `None` lets it pass. Whoever sends may send what it likes but for what would make it another:
/// addresses of nobody here are not looked at. On a bridge, frames in another's name would bring that one's frames here.
#[inline(always)]
pub fn guard(frame: &Frame, link: &Link, owners: &impl Owners) -> Option<Verdict> {
    let others = |owner: Option<u64>| owner.is_some_and(|owner| owner != link.cookie);
    let forged = |address: &Address| {
        !link.owns(address) && !address.is(&Address::UNSPECIFIED) && others(owners.of_address(address))
    };
    if link.is_shared() && frame.station != link.station && others(owners.of_station(frame.station)) {
        return Some(Verdict::GuardStation);
    }
    if forged(&frame.source) {
        return Some(Verdict::GuardSource);
    }
    if forged(&frame.claims) {
        return Some(Verdict::GuardNeighbour);
    }
    if frame.routes && link.flags & Link::UPLINK == 0 {
        return Some(Verdict::GuardRouter);
    }
    None
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// What is at an even place is the sender's, at an odd one another pod's.
    struct Known {
        sender: u64,
        addresses: Vec<Address>,
        stations: Vec<Station>,
    }

    impl Known {
        fn owner(&self, at: Option<usize>) -> Option<u64> {
            at.map(|at| if at.is_multiple_of(2) { self.sender } else { self.sender + 1 })
        }
    }

    impl Owners for Known {
        fn of_address(&self, address: &Address) -> Option<u64> {
            let named = !address.is(&Address::UNSPECIFIED);
            self.owner(self.addresses.iter().position(|known| known == address && named))
        }

        fn of_station(&self, station: Station) -> Option<u64> {
            self.owner(self.stations.iter().position(|known| *known == station))
        }
    }

    fn any_address() -> impl Strategy<Value = Address> {
        (0..7_u8).prop_map(|n| if n == 6 { Address::UNSPECIFIED } else { Address::from(IpAddr::from([10, 0, 0, n])) })
    }

    fn any_station() -> impl Strategy<Value = Station> {
        (0..6_u8).prop_map(|n| Station::from_octets([2, 0, 0, 0, 0, n]))
    }

    proptest! {
        #[test]
        fn a_pod_sends_as_nobody_else(
            station in any_station(), source in any_address(), claims in any_address(), routes: bool, flags in 0..4_u64, sender in 1..4_u64,
            addresses in proptest::collection::vec(any_address(), 0..4),
            stations in proptest::collection::vec(any_station(), 0..4),
        ) {
            let known = Known { sender, addresses, stations };
            let own = known.addresses.first().copied().unwrap_or_default();
            let link = Link { cookie: sender, station: known.stations.first().copied().unwrap_or_default(),
                own: [own, Address::UNSPECIFIED], flags };
            let frame = Frame { station, source, claims, routes };
            let foreign = |address| known.of_address(&address).is_some_and(|owner| owner != sender);
            let expected = if flags & Link::SHARED != 0 && known.of_station(station).is_some_and(|owner| owner != sender) {
                Some(Verdict::GuardStation)
            } else if foreign(source) {
                Some(Verdict::GuardSource)
            } else if foreign(claims) {
                Some(Verdict::GuardNeighbour)
            } else {
                (routes && flags & Link::UPLINK == 0).then_some(Verdict::GuardRouter)
            };
            prop_assert_eq!(guard(&frame, &link, &known), expected);
        }
    }

    #[test]
    fn a_link_nobody_described_may_be_nobody() {
        let known = Known {
            sender: 7,
            addresses: vec![Address::from(IpAddr::from([10, 0, 0, 1]))],
            stations: vec![Station::from_octets([2, 0, 0, 0, 0, 1])],
        };
        let taken = Frame { source: known.addresses[0], ..Frame::default() };
        assert_eq!(guard(&taken, &Link::UNKNOWN, &known), Some(Verdict::GuardSource));
        let taken = Frame { station: known.stations[0], ..Frame::default() };
        assert_eq!(guard(&taken, &Link::UNKNOWN, &known), Some(Verdict::GuardStation));
        let free = Frame { source: Address::from(IpAddr::from([10, 0, 0, 9])), ..Frame::default() };
        assert_eq!(guard(&free, &Link::UNKNOWN, &known), None);
    }
}
