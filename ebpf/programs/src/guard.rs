//! The guard on the node's end of every pod's link: nothing leaves a pod in the name of an enrolled one that it is not.
//!
//! The kernel's word on who connects is worth what the addresses in packets are worth: on a bridge that pods share, whoever
//! may send raw packets could answer in another's name. What concerns no enrolled pod of the node is not looked at.
//!
//! It runs for every packet a pod sends, so what every packet is, TCP or UDP from the pod's own addresses, passes after one
//! look into a map and a few comparisons.

use aya_ebpf::{bindings::TC_ACT_SHOT, programs::TcContext};
use weft_abi::{Address, Frame, Link, Owners, Station};

use crate::maps::{GUARDED, LINKS, STATIONS, count};

/// Leaves the packet to whoever else looks at it.
const NEXT: i32 = -1;

const ETHERNET: usize = 14;
const TAG: usize = 4;
const IPV4: usize = 20;
const IPV6: usize = 40;

const ARP: u16 = 0x0806;
const IP: u16 = 0x0800;
const IP6: u16 = 0x86dd;
const VLAN: [u16; 2] = [0x8100, 0x88a8];

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;
const ICMP_REDIRECT: u8 = 5;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// IPv6 headers that others may follow: hop-by-hop, routing, fragment, authentication, destination options.
const EXTENSIONS: [u8; 5] = [0, 43, 44, 51, 60];

/// Extension headers that are stepped over; no honest packet has more.
const DEPTH: usize = 4;

/// What a packet of a pod may do.
#[inline(always)]
pub(crate) fn judge(context: &TcContext) -> i32 {
    // SAFETY: the context is valid for the whole run of the program; user space replaces entries as a whole.
    let link = unsafe { LINKS.get((*context.skb.skb).ifindex) }.unwrap_or(&Link::UNKNOWN);
    if is_plain(context, link) {
        return NEXT;
    }
    // What is too short to be read says nothing to anybody.
    let Some(frame) = Packet(context).read() else { return NEXT };
    match weft_abi::guard(&frame, link, &Known) {
        Some(verdict) => {
            count(verdict);
            TC_ACT_SHOT
        }
        None => NEXT,
    }
}

/// What every packet is: untagged TCP or UDP from the pod's own address, which can be nothing that is looked for.
#[inline(always)]
fn is_plain(context: &TcContext, link: &Link) -> bool {
    let (start, end) = (context.data(), context.data_end());
    if start + ETHERNET + IPV4 > end {
        return false;
    }
    // SAFETY: what is read lies between the packet's bounds, which the verifier sees compared; headers have no alignment.
    unsafe {
        if link.is_shared() && Station::from_octets(read(start + 6)) != link.station {
            return false;
        }
        match u16::from_be_bytes(read(start + 12)) {
            IP => {
                let source = Address::from_v4_word(read(start + ETHERNET + 12));
                is_transport(read(start + ETHERNET + 9)) && link.owns(&source)
            }
            IP6 if start + ETHERNET + IPV6 <= end => {
                let source = Address::from_v6_words(read(start + ETHERNET + 8));
                is_transport(read(start + ETHERNET + 6)) && link.owns(&source)
            }
            _ => false,
        }
    }
}

#[inline(always)]
const fn is_transport(protocol: u8) -> bool {
    protocol == TCP || protocol == UDP
}

/// # Safety
/// The address must lie inside the packet, with all of `T`.
#[inline(always)]
unsafe fn read<T: Copy>(address: usize) -> T {
    // SAFETY: as the caller promises.
    unsafe { (address as *const T).read_unaligned() }
}

/// Who is who, from the maps.
struct Known;

impl Owners for Known {
    #[inline(always)]
    fn of_address(&self, address: &Address) -> Option<u64> {
        // SAFETY: the value is one word.
        unsafe { GUARDED.get(address.words()) }.copied()
    }

    #[inline(always)]
    fn of_station(&self, station: Station) -> Option<u64> {
        // SAFETY: the value is one word.
        unsafe { STATIONS.get(station.number()) }.copied()
    }
}

/// Read by the helper that finds a byte wherever it lies: a forged packet may keep its headers outside of the linear part.
struct Packet<'a>(&'a TcContext);

impl Packet<'_> {
    /// What the packet says of its sender; `None` if it ends too early.
    #[inline(always)]
    fn read(&self) -> Option<Frame> {
        let station = Station::from_octets(self.at(6)?);
        let frame = self.headers()?;
        Some(Frame { station, ..frame })
    }

    #[inline(always)]
    fn headers(&self) -> Option<Frame> {
        let mut kind = self.short(12)?;
        let mut at = ETHERNET;
        if VLAN.contains(&kind) {
            kind = self.short(16)?;
            at += TAG;
        }
        match kind {
            IP => self.v4(at),
            IP6 => self.v6(at),
            // The sender's protocol address, and nothing but Ethernet and IPv4 is resolved here.
            ARP => {
                let claims = Address::from_v4_word(self.at(at + 14)?);
                Some(Frame { claims, ..Frame::default() })
            }
            // Two tags: only a router between pods would take them off, and none is to be fooled so.
            kind if VLAN.contains(&kind) => Some(Frame { routes: true, ..Frame::default() }),
            _ => Some(Frame::default()),
        }
    }

    #[inline(always)]
    fn v4(&self, at: usize) -> Option<Frame> {
        let header: [u8; 20] = self.at(at)?;
        let source = Address::from_v4_word(u32::from_ne_bytes([header[12], header[13], header[14], header[15]]));
        let length = usize::from(header[0] & 0xf) * 4;
        let routes = header[9] == ICMP && self.at::<u8>(at + length)? == ICMP_REDIRECT;
        Some(Frame { source, routes, ..Frame::default() })
    }

    #[inline(always)]
    fn v6(&self, at: usize) -> Option<Frame> {
        let source = Address::from_v6_words(self.at(at + 8)?);
        let mut next: u8 = self.at(at + 6)?;
        let mut at = at + IPV6;
        for _ in 0..DEPTH {
            if !EXTENSIONS.contains(&next) {
                break;
            }
            let length: u8 = self.at(at + 1)?;
            next = self.at(at)?;
            // In units of eight bytes, the first not counted; longer ones do not come before neighbour discovery.
            if length > 3 {
                let routes = next == ICMP6 || EXTENSIONS.contains(&next);
                return Some(Frame { source, routes, ..Frame::default() });
            }
            at += 8 * (1 + length as usize);
        }
        if next != ICMP6 {
            return Some(Frame { source, routes: EXTENSIONS.contains(&next), ..Frame::default() });
        }
        match self.at::<u8>(at)? {
            NEIGHBOUR_ADVERTISEMENT => {
                let claims = Address::from_v6_words(self.at(at + 8)?);
                Some(Frame { source, claims, ..Frame::default() })
            }
            ROUTER_ADVERTISEMENT | REDIRECT => Some(Frame { source, routes: true, ..Frame::default() }),
            _ => Some(Frame { source, ..Frame::default() }),
        }
    }

    #[inline(always)]
    fn short(&self, at: usize) -> Option<u16> {
        self.at::<[u8; 2]>(at).map(u16::from_be_bytes)
    }

    #[inline(always)]
    fn at<T: Copy>(&self, at: usize) -> Option<T> {
        self.0.load(at).ok()
    }
}
