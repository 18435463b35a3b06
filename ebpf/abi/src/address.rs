//! IP addresses as the programs see them: one 16-byte form, IPv4 as `::ffff:a.b.c.d`, so that both families share every
//! map and every line of code.

/// An address in network byte order, held as four words because that is how the hooks hand it out.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    words: [u32; 4],
}

const _: () = assert!(size_of::<Address>() == 16);

/// The third word of an IPv4 address in its mapped form.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

impl Address {
    /// `::`, which no host has: the programs' word for "no address".
    pub const UNSPECIFIED: Self = Self { words: [0; 4] };

    /// From the word a hook calls `user_ip4` or `local_ip4`: memory holds network order.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self { words: [0, 0, MAPPED, word] }
    }

    /// From the four words a hook calls `user_ip6` or `local_ip6`.
    #[inline(always)]
    pub const fn from_v6_words(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// From the sixteen bytes as they stand on the wire.
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self {
            words: [
                u32::from_ne_bytes([a, b, c, d]),
                u32::from_ne_bytes([e, f, g, h]),
                u32::from_ne_bytes([i, j, k, l]),
                u32::from_ne_bytes([m, n, o, p]),
            ],
        }
    }

    /// The sixteen bytes as they stand on the wire.
    pub fn octets(&self) -> [u8; 16] {
        let mut octets = [0; 16];
        for (slot, word) in octets.chunks_exact_mut(4).zip(self.words) {
            slot.copy_from_slice(&word.to_ne_bytes());
        }
        octets
    }

    /// Whether it is an IPv4 address in its mapped form.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == MAPPED
    }

    /// `::` or `0.0.0.0`; the kernel takes a connect to either for one to loopback.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        let [a, b, c, d] = self.words;
        d == 0 && a == 0 && b == 0 && (c == 0 || c == MAPPED)
    }

    /// `127.0.0.0/8` or `::1`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            return u32::from_be(self.words[3]) >> 24 == 127;
        }
        let [a, b, c, d] = self.words;
        a == 0 && b == 0 && c == 0 && u32::from_be(d) == 1
    }

    /// Addresses that mean something on one link only, or many hosts at once: link-local, multicast and broadcast.
    /// No service lives at one.
    #[inline(always)]
    pub const fn is_link_scoped(&self) -> bool {
        if self.is_v4() {
            let host = u32::from_be(self.words[3]);
            return host >> 28 == 0xe || host >> 16 == 0xa9fe || host == u32::MAX;
        }
        let high = u32::from_be(self.words[0]);
        high >> 24 == 0xff || high >> 22 == 0xfe80 >> 6
    }

    /// Equality that the eBPF backend compiles to four compares; the derived one may become a call.
    #[inline(always)]
    pub const fn is(&self, other: &Self) -> bool {
        self.words[0] == other.words[0]
            && self.words[1] == other.words[1]
            && self.words[2] == other.words[2]
            && self.words[3] == other.words[3]
    }

    /// The words as memory holds them: the key of a map.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        self.words
    }

    /// The last word: all of an IPv4 address, and enough of an IPv6 one to recognise it in a log line.
    #[inline(always)]
    pub const fn tail(&self) -> u32 {
        u32::from_be(self.words[3])
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(ip: core::net::IpAddr) -> Self {
        Self::from_octets(match ip {
            core::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            core::net::IpAddr::V6(v6) => v6.octets(),
        })
    }
}

impl From<Address> for core::net::IpAddr {
    /// Mapped addresses come back as the IPv4 they stand for.
    fn from(address: Address) -> Self {
        core::net::Ipv6Addr::from(address.octets()).to_canonical()
    }
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn v4_survives_the_way_there_and_back(octets: [u8; 4]) {
            let ip = IpAddr::from(octets);
            prop_assert_eq!(IpAddr::from(Address::from(ip)), ip);
            // What a hook would read from memory is the same address.
            prop_assert_eq!(Address::from_v4_word(u32::from_ne_bytes(octets)), Address::from(ip));
        }

        #[test]
        fn classes_agree_with_the_standard_library(octets: [u8; 16], v4: [u8; 4], pick in 0..6u8) {
            let ip: IpAddr = match pick {
                0 => Ipv6Addr::from(octets).to_canonical(),
                1 => IpAddr::from(Ipv4Addr::from(v4)),
                2 => IpAddr::from([127, v4[1], v4[2], v4[3]]),
                3 => IpAddr::from([169, 254, v4[2], v4[3]]),
                4 => IpAddr::from([224 | v4[0] & 15, v4[1], v4[2], v4[3]]),
                _ => {
                    let mut high = octets;
                    (high[0], high[1]) = (0xfe, 0x80 | high[1] & 0x3f);
                    IpAddr::from(high)
                }
            };
            let link = match ip {
                IpAddr::V4(v4) => v4.is_link_local() || v4.is_multicast() || v4.is_broadcast(),
                IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast(),
            };
            let address = Address::from(ip);
            prop_assert_eq!(address.is_loopback(), ip.is_loopback());
            prop_assert_eq!(address.is_unspecified(), ip.is_unspecified());
            prop_assert_eq!(address.is_link_scoped(), link);
            prop_assert!(address.is(&Address::from(ip)));
        }
    }

    #[test]
    fn the_edges() {
        assert!(Address::from(IpAddr::from([0, 0, 0, 0])).is_unspecified());
        assert!(Address::UNSPECIFIED.is_unspecified());
        assert!(Address::from("::1".parse::<IpAddr>().unwrap()).is_loopback());
        assert!(!Address::from("::2".parse::<IpAddr>().unwrap()).is_loopback());
        assert!(Address::from(IpAddr::from([255; 4])).is_link_scoped());
        assert!(!Address::from("fec0::1".parse::<IpAddr>().unwrap()).is_link_scoped());
    }
}
