//! Original destinations and the keys made of them: ring records, socket addresses, and the one 16-byte form.
#![no_main]

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use weft::sys::socket::canonical;
use weft_abi::{Address, Event};

fuzz_target!(|bytes: &[u8]| {
    if let Some(event) = Event::read(bytes) {
        assert_eq!(Address::from_octets(event.destination.octets()), event.destination);
        let _ = (event.kind(), event.tid());
    }
    let (Some(octets), Some(port)) = (bytes.first_chunk::<16>(), bytes.last_chunk::<2>()) else { return };
    let address = Address::from_octets(*octets);
    assert_eq!(address.octets(), *octets, "the key is the wire form");
    assert_eq!(Address::from_v6_words(address.words()), address);

    // What the agent reads from a socket and what the kernel keys a map with must be the same destination.
    let socket = SocketAddr::new(IpAddr::V6(Ipv6Addr::from(*octets)), u16::from_be_bytes(*port));
    let destination = canonical(socket);
    assert_eq!(destination.port(), socket.port());
    let key = match destination.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    assert_eq!(key, *octets, "a destination changed on the way through user space");
    assert_eq!(address.is_loopback(), destination.ip().is_loopback(), "{destination}");
});
