//! The guard on the node's end of every pod's link: nothing leaves a pod in the name of an enrolled one that it is not.
//!
//! The kernel's word on who connects is worth what the addresses in packets are worth: on a bridge that pods share, whoever
//! may send raw packets could answer in another's name. What concerns no enrolled pod of the node is not looked at.

use aya_ebpf::{bindings::TC_ACT_SHOT, programs::TcContext};
use weft_abi::{
    Address,
    decide::{self, Frame},
};

use crate::maps::{DEVICES, GUARDED, count};

/// Leaves the packet to whoever else looks at it.
const NEXT: i32 = -1;

const ETHERNET: usize = 14;
const TAG: usize = 4;
const IPV6: usize = 40;

const ARP: u16 = 0x0806;
const IP: u16 = 0x0800;
const IP6: u16 = 0x86dd;
const VLAN: [u16; 2] = [0x8100, 0x88a8];

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
    // What is too short to be read says nothing to anybody.
    let Some(frame) = Packet(context).read() else { return NEXT };
    // SAFETY: the context is valid for the whole run of the program; the value is one word.
    let sender = unsafe { DEVICES.get((*context.skb.skb).ifindex) }.copied().unwrap_or(0);
    // SAFETY: the value is one word.
    match decide::guard(&frame, sender, |address| unsafe { GUARDED.get(address.words()) }.copied()) {
        Some(verdict) => {
            count(verdict);
            TC_ACT_SHOT
        }
        None => NEXT,
    }
}

/// Read by the helper that finds a byte wherever it lies: a forged packet may keep its headers outside of the linear part.
struct Packet<'a>(&'a TcContext);

impl Packet<'_> {
    /// What the packet says of its sender; `None` if it ends too early.
    #[inline(always)]
    fn read(&self) -> Option<Frame> {
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
                let sender = Address::from_v4_word(self.at(at + 14)?);
                Some(Frame { claims: Some(sender), ..Frame::default() })
            }
            // Two tags: only a router between pods would take them off, and none is to be fooled so.
            kind if VLAN.contains(&kind) => Some(Frame { routes: true, ..Frame::default() }),
            _ => Some(Frame::default()),
        }
    }

    #[inline(always)]
    fn v4(&self, at: usize) -> Option<Frame> {
        let header: [u8; 20] = self.at(at)?;
        let source = Some(Address::from_v4_word(u32::from_ne_bytes([header[12], header[13], header[14], header[15]])));
        let length = usize::from(header[0] & 0xf) * 4;
        let routes = header[9] == ICMP && self.at::<u8>(at + length)? == ICMP_REDIRECT;
        Some(Frame { source, claims: None, routes })
    }

    #[inline(always)]
    fn v6(&self, at: usize) -> Option<Frame> {
        let source = Some(Address::from_v6_words(self.at(at + 8)?));
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
                return Some(Frame { source, claims: None, routes: next == ICMP6 || EXTENSIONS.contains(&next) });
            }
            at += 8 * (1 + length as usize);
        }
        if next != ICMP6 {
            return Some(Frame { source, claims: None, routes: EXTENSIONS.contains(&next) });
        }
        match self.at::<u8>(at)? {
            NEIGHBOUR_ADVERTISEMENT => {
                Some(Frame { source, claims: Some(Address::from_v6_words(self.at(at + 8)?)), routes: false })
            }
            ROUTER_ADVERTISEMENT | REDIRECT => Some(Frame { source, claims: None, routes: true }),
            _ => Some(Frame { source, claims: None, routes: false }),
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
