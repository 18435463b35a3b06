//! HTTP/1 as apps send it: the same reading however it is split, and nothing passes that hyper's own parser would refuse, or
//! see the end of elsewhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft::http::framing::{Framing, HEAD_MAX, Unreadable};

/// What has passed, fed in pieces of `split` bytes, and the fault.
fn pass(bytes: &[u8], split: usize) -> (Vec<u8>, Option<Unreadable>) {
    let (mut framing, mut passed, mut held) = (Framing::default(), Vec::new(), Vec::new());
    for piece in bytes.chunks(split) {
        held.extend_from_slice(piece);
        match framing.read(&held) {
            Ok(good) => passed.extend(held.drain(..good)),
            Err((good, fault)) => {
                passed.extend(held.drain(..good));
                return (passed, Some(fault));
            }
        }
        assert!(held.len() <= HEAD_MAX, "{} bytes are held", held.len());
    }
    (passed, None)
}

/// Reads what has passed with the parser hyper uses, as far as it goes; a head or a chunk that is not complete is no fault.
fn follow(mut bytes: &[u8]) {
    loop {
        while let Some(rest) = bytes.strip_prefix(b"\r\n") {
            bytes = rest;
        }
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut request = httparse::Request::new(&mut fields);
        let size = match request.parse(bytes).expect("a head has passed that hyper refuses") {
            httparse::Status::Complete(size) => size,
            httparse::Status::Partial => return,
        };
        let method = request.method.unwrap_or_default();
        http::Method::from_bytes(method.as_bytes()).expect("a method has passed that hyper refuses");
        http::Uri::try_from(request.path.unwrap_or_default()).expect("a target has passed that hyper refuses");
        let all = |name: &str| request.headers.iter().filter(|f| f.name.eq_ignore_ascii_case(name)).collect::<Vec<_>>();
        let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
        assert!(lengths.len() + codings.len() <= 1, "the length is said twice");
        // What follows may be another protocol.
        let switched = method == "CONNECT" || !all("upgrade").is_empty();
        bytes = &bytes[size..];
        if let [length] = lengths[..] {
            let length: u64 = std::str::from_utf8(length.value).ok().and_then(|v| v.parse().ok()).expect("no length");
            bytes = &bytes[usize::try_from(length).map_or(bytes.len(), |length| length.min(bytes.len()))..];
        } else if !codings.is_empty() {
            match follow_chunks(bytes) {
                Some(rest) => bytes = rest,
                None => return,
            }
        }
        if switched {
            return;
        }
    }
}

/// What stands behind a chunked body; `None` if it is not complete.
fn follow_chunks(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let read = httparse::parse_chunk_size(bytes).expect("a chunk has passed that hyper refuses");
        let httparse::Status::Complete((at, size)) = read else { return None };
        bytes = &bytes[at..];
        if size == 0 {
            let mut fields = [httparse::EMPTY_HEADER; 100];
            let read = httparse::parse_headers(bytes, &mut fields).expect("trailers have passed that hyper refuses");
            let httparse::Status::Complete((at, _)) = read else { return None };
            return Some(&bytes[at..]);
        }
        bytes = bytes.get(usize::try_from(size).ok()?..)?;
        if bytes.len() < 2 {
            return None;
        }
        bytes = bytes.strip_prefix(b"\r\n").expect("a chunk has passed that does not end where it says");
    }
}

fuzz_target!(|bytes: &[u8]| {
    let whole = pass(bytes, usize::MAX);
    for split in [1, 7] {
        assert!(pass(bytes, split) == whole, "another reading in pieces of {split}");
    }
    follow(&whole.0);
});
