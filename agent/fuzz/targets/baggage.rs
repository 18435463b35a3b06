//! `baggage`: no panic, bounded values, and what was understood survives being written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft::tunnel::codec::{BAGGAGE_MAX, format_baggage, parse_baggage};

fuzz_target!(|text: &str| {
    let Ok(claims) = parse_baggage(text) else { return };
    assert!(text.len() <= BAGGAGE_MAX);
    let values = [&claims.cluster, &claims.namespace, &claims.service, &claims.version, &claims.region, &claims.zone];
    for value in values.into_iter().flatten().chain(claims.workload.as_ref().map(|(_, name)| name)) {
        assert!(!value.is_empty() && value.len() <= 253 && !value.chars().any(char::is_control));
    }
    let written = format_baggage(&claims);
    assert!(written.bytes().all(|byte| byte.is_ascii_graphic()), "not a header value: {written:?}");
    assert_eq!(parse_baggage(&written), Ok(claims));
});
