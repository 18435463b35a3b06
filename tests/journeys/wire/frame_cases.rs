//! Frames, one by one: what RFC 9113 makes of each that is out of order.

use weft_tests::app::Frame;
use weft_tests::app::frames::{self, flag, kind};

use super::http2::Expect::{Connection, Served, Stream};
use super::http2::{
    Case, FRAME_SIZE, GET, PROTOCOL, WHOLE, case, continuation, data, get, headers, ping, post, reset, slow,
};

/// Frames and connections.
pub(super) fn cases() -> Vec<Case> {
    let fields = frames::fields(&GET);
    let (half, other_half) = fields.split_at(fields.len() / 2);
    let unknown = |stream| Frame::new(0x42, 0xff, stream, *b"nobody knows this");
    vec![
        case(Served, "RFC 9113, 4.1", "a frame of a type nobody knows", &[unknown(0), get(1)]),
        case(Served, "RFC 9113, 4.1", "flags that mean nothing", &[headers(WHOLE | 0x52, 1, fields.clone())]),
        case(
            Served,
            "RFC 9113, 4.1",
            "the reserved bit of a stream's number",
            &[headers(WHOLE, 1 << 31 | 1, fields.clone())],
        ),
        case(Connection(FRAME_SIZE), "RFC 9113, 4.2", "DATA longer than allowed", &[post(1), data(0, 1, &[0; 16_385])]),
        case(
            Connection(FRAME_SIZE),
            "RFC 9113, 4.2",
            "HEADERS longer than allowed",
            &[headers(WHOLE, 1, vec![0; 16_385])],
        ),
        case(
            Connection(FRAME_SIZE),
            "RFC 9113, 4.2",
            "a frame nobody knows, longer than allowed",
            &[Frame::new(0x42, 0, 0, vec![0; 16_385])],
        ),
        case(
            Connection(PROTOCOL),
            "RFC 9113, 4.3",
            "another frame within a header block",
            &[headers(flag::END_STREAM, 1, half), ping()],
        ),
        case(
            Connection(PROTOCOL),
            "RFC 9113, 4.3",
            "another stream's HEADERS within a header block",
            &[headers(flag::END_STREAM, 1, half), get(3)],
        ),
        case(
            Connection(PROTOCOL),
            "RFC 9113, 5.5",
            "a frame nobody knows within a header block",
            &[headers(flag::END_STREAM, 1, half), unknown(1)],
        ),
        case(
            Connection(PROTOCOL),
            "RFC 9113, 6.10",
            "another stream's CONTINUATION",
            &[headers(flag::END_STREAM, 1, half), continuation(flag::END_HEADERS, 3, other_half)],
        ),
        case(
            Connection(PROTOCOL),
            "RFC 9113, 6.10",
            "CONTINUATION of nothing",
            &[continuation(flag::END_HEADERS, 1, &fields)],
        ),
        case(
            Connection(PROTOCOL),
            "RFC 9113, 6.10",
            "CONTINUATION after the end of the headers",
            &[slow(1), continuation(flag::END_HEADERS, 1, &[])],
        ),
        case(
            Connection(PROTOCOL),
            "RFC 9113, 6.10",
            "CONTINUATION of the connection",
            &[headers(flag::END_STREAM, 1, half), continuation(flag::END_HEADERS, 0, other_half)],
        ),
        case(
            Served,
            "RFC 9113, 6.10",
            "a header block in three frames, one of them empty",
            &[
                headers(flag::END_STREAM, 1, half),
                continuation(0, 1, &[]),
                continuation(flag::END_HEADERS, 1, other_half),
            ],
        ),
        case(Connection(PROTOCOL), "RFC 9113, 6.1", "DATA of the connection", &[data(0, 0, b"x")]),
        case(
            Connection(PROTOCOL),
            "RFC 9113, 6.1",
            "padding as long as the frame",
            &[post(1), data(flag::PADDED, 1, &[4, 0, 0, 0])],
        ),
        case(
            Served,
            "RFC 9113, 6.1",
            "DATA that is all padding",
            &[post(1), data(flag::PADDED | flag::END_STREAM, 1, &[3, 0, 0, 0])],
        ),
        case(Connection(PROTOCOL), "RFC 9113, 6.2", "HEADERS of the connection", &[get(0)]),
        case(
            Connection(PROTOCOL),
            "RFC 9113, 6.2",
            "padding longer than the header block",
            &[headers(WHOLE | flag::PADDED, 1, [&[255][..], &fields].concat())],
        ),
        case(
            Served,
            "RFC 9113, 6.2",
            "a padded header block with a priority",
            &[headers(WHOLE | flag::PADDED | flag::PRIORITY, 1, [&[2, 0, 0, 0, 0, 9][..], &fields, &[0, 0]].concat())],
        ),
        case(
            Connection(PROTOCOL),
            "RFC 9113, 6.3",
            "PRIORITY of the connection",
            &[Frame::new(kind::PRIORITY, 0, 0, [0, 0, 0, 1, 9])],
        ),
        case(
            Stream(FRAME_SIZE),
            "RFC 9113, 6.3",
            "PRIORITY of four octets",
            &[post(1), Frame::new(kind::PRIORITY, 0, 1, [0, 0, 0, 3])],
        ),
        case(
            Stream(PROTOCOL),
            "RFC 7540, 5.3.1",
            "a stream that depends on itself, by HEADERS",
            &[headers(WHOLE | flag::PRIORITY, 1, [&[0, 0, 0, 1, 9][..], &fields].concat())],
        ),
        case(
            Stream(PROTOCOL),
            "RFC 7540, 5.3.1",
            "a stream that depends on itself, by PRIORITY",
            &[post(1), Frame::new(kind::PRIORITY, 0, 1, [0, 0, 0, 1, 9])],
        ),
        case(
            Served,
            "RFC 9113, 5.3.2",
            "PRIORITY of an idle stream",
            &[Frame::new(kind::PRIORITY, 0, 7, [0, 0, 0, 1, 9]), get(1)],
        ),
        case(Connection(PROTOCOL), "RFC 9113, 6.4", "RST_STREAM of the connection", &[reset(0)]),
        case(
            Connection(FRAME_SIZE),
            "RFC 9113, 6.4",
            "RST_STREAM of three octets",
            &[slow(1), Frame::new(kind::RST_STREAM, 0, 1, [0, 0, 8])],
        ),
        case(
            Connection(PROTOCOL),
            "RFC 9113, 6.6",
            "PUSH_PROMISE by a client",
            &[
                post(1),
                Frame::new(kind::PUSH_PROMISE, flag::END_HEADERS, 1, [&2u32.to_be_bytes()[..], &fields].concat()),
            ],
        ),
        case(Connection(PROTOCOL), "RFC 9113, 6.7", "PING of a stream", &[Frame::new(kind::PING, 0, 1, [0; 8])]),
        case(Connection(FRAME_SIZE), "RFC 9113, 6.7", "PING of six octets", &[Frame::new(kind::PING, 0, 0, [0; 6])]),
        case(
            Served,
            "RFC 9113, 6.7",
            "an answer to a PING that was not",
            &[Frame::new(kind::PING, flag::ACK, 0, [7; 8]), get(1)],
        ),
        case(Connection(PROTOCOL), "RFC 9113, 6.8", "GOAWAY of a stream", &[Frame::new(kind::GOAWAY, 0, 1, [0; 8])]),
        case(Served, "RFC 9113, 6.8", "GOAWAY after a request", &[slow(1), Frame::new(kind::GOAWAY, 0, 0, [0; 8])]),
    ]
}
