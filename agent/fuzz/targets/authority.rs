//! `:authority` of a CONNECT: no panic, and one text per address.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft::tunnel::codec::{format_authority, parse_authority};

fuzz_target!(|text: &str| {
    let Ok(address) = parse_authority(text) else { return };
    assert_ne!(address.port(), 0);
    assert_eq!(address.ip(), address.ip().to_canonical(), "a mapped address slipped through");
    assert_eq!(parse_authority(&format_authority(address)), Ok(address));
    if address.is_ipv4() {
        assert_eq!(format_authority(address), text, "an IPv4 address has one spelling");
    }
});
