//! `forwarded`: no panic, and what was understood survives being written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft::tunnel::codec::{format_forwarded, parse_forwarded};

fuzz_target!(|text: &str| {
    let Ok(forwarded) = parse_forwarded(text) else { return };
    let written = format_forwarded(&forwarded);
    let again = parse_forwarded(&written).unwrap_or_else(|error| panic!("{written:?}: {error}"));
    assert_eq!(again.client, forwarded.client);
    assert!(again.host.is_none() || again.host == forwarded.host, "the host changed");
});
