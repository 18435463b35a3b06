//! Whom a client is sent to where it is to keep its endpoint: highest random weight (rendezvous hashing).
//!
//! Each position's score follows from the client and the endpoint's address alone, so that an agent that was restarted
//! sends a client where its predecessor did, and a position that goes takes nobody's but its own clients along. Over many
//! clients each position has its weight's share.

use std::net::{IpAddr, SocketAddr};

/// The positions' winner for a client, none of `excluded` (ascending). Positions are given by address and weight; one
/// that weighs nothing never wins.
pub(super) fn choose(
    client: IpAddr,
    positions: impl Iterator<Item = (SocketAddr, u64)>,
    excluded: &[usize],
) -> Option<usize> {
    let client = digest(client, 0);
    let open = positions.enumerate().filter(|(at, (_, weight))| *weight > 0 && excluded.binary_search(at).is_err());
    let scored = open.map(|(at, (address, weight))| (score(client ^ digest(address.ip(), address.port()), weight), at));
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, at)| at)
}

/// A client's hash, for algorithms that ask for one.
pub(super) fn of_client(client: IpAddr) -> u64 {
    digest(client, 0)
}

/// −w / ln(u), with u uniform over (0, 1): the largest of several falls on each in proportion to its w.
fn score(hash: u64, weight: u64) -> f64 {
    // 53 bits are what a double holds; the half keeps it off 0 and 1.
    let uniform = ((mixed(hash) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -(weight as f64) / uniform.ln()
}

pub(super) fn digest(ip: IpAddr, port: u16) -> u64 {
    let bits = match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    mixed(mixed(bits as u64 ^ u64::from(port)) ^ (bits >> 64) as u64)
}

/// The finaliser of splitmix64: every bit of the input moves every bit of the output.
pub(super) fn mixed(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    fn client(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 + n).into()
    }

    fn endpoint(n: u32) -> SocketAddr {
        (Ipv4Addr::from_bits(0x0a01_0000 + n), 8080).into()
    }

    #[test]
    fn clients_are_spread_by_weight() {
        let weights = [60, 30, 10, 0];
        let mut counts = BTreeMap::new();
        for n in 0..20_000 {
            let positions = (0..).map(endpoint).zip(weights);
            *counts.entry(choose(client(n), positions, &[]).unwrap()).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 3);
        for (at, share) in [(0, 0.6), (1, 0.3), (2, 0.1)] {
            let got = f64::from(counts[&at]) / 20_000.0;
            assert!((got - share).abs() < 0.015, "{counts:?}");
        }
    }

    #[test]
    fn one_that_goes_takes_only_its_own_clients_along() {
        for n in 0..2_000 {
            let all = choose(client(n), (0..8).map(|e| (endpoint(e), 1)), &[]).unwrap();
            let without = choose(client(n), (0..8).map(|e| (endpoint(e), 1)), &[3]).unwrap();
            assert!(all == 3 || all == without, "{all} {without}");
            assert_ne!(without, 3);
        }
    }
}
