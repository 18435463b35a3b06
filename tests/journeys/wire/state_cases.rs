//! Settings and windows, the states of streams, and header blocks that cannot be read.

use weft_tests::app::Frame;
use weft_tests::app::frames::{self, flag, kind};

use super::http2::Expect::{Connection, Served, Stream};
use super::http2::{
    CLOSED, COMPRESSION, Case, FLOW_CONTROL, FRAME_SIZE, GET, PROTOCOL, WHOLE, case, data, get, headers, post, reset,
    settings, slow, update,
};

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    [settings_cases(), stream_cases(), compression_cases()].into_iter().flatten().collect()
}

/// SETTINGS and windows.
fn settings_cases() -> Vec<Case> {
    let last = (1 << 31) - 1;
    vec![
        case(
            Connection(FRAME_SIZE),
            "RFC 9113, 6.5",
            "an acknowledgement that says something",
            &[Frame::new(kind::SETTINGS, flag::ACK, 0, [0; 6])],
        ),
        case(
            Connection(PROTOCOL),
            "RFC 9113, 6.5",
            "SETTINGS of a stream",
            &[Frame::new(kind::SETTINGS, 0, 1, [0, 4, 0, 0, 0, 1])],
        ),
        case(
            Connection(FRAME_SIZE),
            "RFC 9113, 6.5",
            "SETTINGS of five octets",
            &[Frame::new(kind::SETTINGS, 0, 0, [0; 5])],
        ),
        case(Connection(PROTOCOL), "RFC 9113, 6.5.2", "ENABLE_PUSH of 2", &[settings(&[(2, 2)])]),
        case(Connection(FLOW_CONTROL), "RFC 9113, 6.5.2", "INITIAL_WINDOW_SIZE of 2^31", &[settings(&[(4, 1 << 31)])]),
        case(Connection(PROTOCOL), "RFC 9113, 6.5.2", "MAX_FRAME_SIZE of 16,383", &[settings(&[(5, 16_383)])]),
        case(Connection(PROTOCOL), "RFC 9113, 6.5.2", "MAX_FRAME_SIZE of 2^24", &[settings(&[(5, 1 << 24)])]),
        case(Served, "RFC 9113, 6.5.2", "a setting nobody knows", &[settings(&[(0x42, 7), (3, 5)]), get(1)]),
        case(
            Served,
            "RFC 9113, 6.5.2",
            "no table, a small list, large frames",
            &[settings(&[(1, 0), (6, 4096), (5, 1 << 20)]), get(1)],
        ),
        case(
            Connection(PROTOCOL),
            "RFC 9113, 6.5.3",
            "an acknowledgement of what was not sent",
            &[Frame::new(kind::SETTINGS, flag::ACK, 0, []), Frame::new(kind::SETTINGS, flag::ACK, 0, [])],
        ),
        case(Connection(PROTOCOL), "RFC 9113, 6.9", "WINDOW_UPDATE of 0 for the connection", &[update(0, 0)]),
        case(Stream(PROTOCOL), "RFC 9113, 6.9", "WINDOW_UPDATE of 0 for a stream", &[post(1), update(1, 0)]),
        case(
            Connection(FRAME_SIZE),
            "RFC 9113, 6.9",
            "WINDOW_UPDATE of three octets",
            &[Frame::new(kind::WINDOW_UPDATE, 0, 0, [0, 0, 1])],
        ),
        case(
            Connection(FLOW_CONTROL),
            "RFC 9113, 6.9.1",
            "a connection's window of more than 2^31-1",
            &[update(0, last), update(0, last)],
        ),
        case(
            Stream(FLOW_CONTROL),
            "RFC 9113, 6.9.1",
            "a stream's window of more than 2^31-1",
            &[post(1), update(1, last), update(1, last)],
        ),
        case(
            Connection(FLOW_CONTROL),
            "RFC 9113, 6.9.2",
            "a stream's window of more than 2^31-1, by SETTINGS",
            &[post(1), update(1, last - 65_535), settings(&[(4, last)])],
        ),
        case(
            Served,
            "RFC 9113, 6.9.2",
            "a window that begins as none and is opened later",
            &[settings(&[(4, 0)]), get(1), update(1, 100_000)],
        ),
    ]
}

/// The states of streams.
fn stream_cases() -> Vec<Case> {
    vec![
        case(Connection(PROTOCOL), "RFC 9113, 5.1", "DATA of an idle stream", &[data(flag::END_STREAM, 1, b"x")]),
        case(Connection(PROTOCOL), "RFC 9113, 5.1", "RST_STREAM of an idle stream", &[reset(1)]),
        case(Connection(PROTOCOL), "RFC 9113, 5.1", "WINDOW_UPDATE of an idle stream", &[update(1, 100)]),
        case(
            Stream(CLOSED),
            "RFC 9113, 5.1",
            "DATA of a stream whose request is complete",
            &[slow(1), data(flag::END_STREAM, 1, b"x")],
        ),
        case(Stream(CLOSED), "RFC 9113, 5.1", "HEADERS of a stream whose request is complete", &[slow(1), get(1)]),
        case(
            Stream(CLOSED),
            "RFC 9113, 5.1",
            "DATA after the client's own RST_STREAM",
            &[post(1), reset(1), data(flag::END_STREAM, 1, b"x")],
        ),
        case(
            Stream(CLOSED),
            "RFC 9113, 5.1",
            "HEADERS after the client's own RST_STREAM",
            &[post(1), reset(1), get(1)],
        ),
        case(Connection(PROTOCOL), "RFC 9113, 5.1.1", "a stream with an even number", &[get(2)]),
        case(Connection(PROTOCOL), "RFC 9113, 5.1.1", "a stream with a smaller number", &[slow(5), get(3)]),
        case(Served, "RFC 9113, 5.1.1", "numbers that are left out", &[get(1), slow(99)]),
    ]
}

/// Header blocks that cannot be read.
fn compression_cases() -> Vec<Case> {
    let fields = frames::fields(&GET);
    let block = |more: &[u8]| [headers(WHOLE, 1, [&fields[..], more].concat())];
    let begins = |more: &[u8]| [headers(WHOLE, 1, [more, &fields[..]].concat())];
    vec![
        case(Connection(COMPRESSION), "RFC 7541, 2.3.3", "an index of 0", &block(&[0x80])),
        case(Connection(COMPRESSION), "RFC 7541, 2.3.3", "an index beyond both tables", &block(&[0xff, 0x7f])),
        case(
            Connection(COMPRESSION),
            "RFC 7541, 4.2",
            "a table larger than allowed",
            &begins(&[0x3f, 0xe1, 0xff, 0x7f]),
        ),
        case(Connection(COMPRESSION), "RFC 7541, 4.2", "a table's size behind a field", &block(&[0x20])),
        case(Served, "RFC 7541, 4.2", "a table of no size", &begins(&[0x20])),
        case(
            Connection(COMPRESSION),
            "RFC 7541, 5.1",
            "an integer that does not end",
            &block(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
        ),
        case(
            Connection(COMPRESSION),
            "RFC 7541, 5.2",
            "a string longer than its block",
            &block(&[0, 0x7f, 0x20, b'x']),
        ),
        case(
            Connection(COMPRESSION),
            "RFC 7541, 5.2",
            "Huffman's end of string",
            &block(&[0, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]),
        ),
        case(
            Connection(COMPRESSION),
            "RFC 7541, 5.2",
            "padding of more than seven bits",
            &block(&[0, 1, b'x', 0x82, 0x1f, 0xff]),
        ),
        case(
            Connection(COMPRESSION),
            "RFC 7541, 5.2",
            "padding that is no prefix of the end of string",
            &block(&[0, 1, b'x', 0x81, 0x18]),
        ),
    ]
}
