//! HTTP/2 messages that are none: each costs its stream, and nothing of it reaches the server.

use weft_tests::app::Frame;
use weft_tests::app::frames::{self, flag, kind};

use super::http2::Expect::{Served, Stream};
use super::http2::{Case, Expect, GET, PROTOCOL, case, headers};

const BAD: Expect = Stream(PROTOCOL);
const WHOLE: u8 = flag::END_STREAM | flag::END_HEADERS;

/// A request of these fields and no others.
fn only(list: &[(&str, &str)]) -> [Frame; 1] {
    [headers(WHOLE, 1, frames::fields(list))]
}

/// An ordinary one with these as well.
fn also(list: &[(&str, &str)]) -> [Frame; 1] {
    only(&[&GET[..], list].concat())
}

/// An ordinary one with another value, or without.
fn but(name: &str, value: Option<&str>) -> [Frame; 1] {
    let list = GET.iter().filter_map(|(known, old)| match *known == name {
        true => value.map(|value| (*known, value)),
        false => Some((*known, *old)),
    });
    only(&list.collect::<Vec<_>>())
}

/// One with a body of such pieces, the last of which ends it.
fn sends(length: &str, pieces: &[&str]) -> Vec<Frame> {
    let list = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "web"),
        (":path", "/case"),
        ("content-length", length),
    ];
    let mut all = vec![headers(flag::END_HEADERS, 1, frames::fields(&list))];
    for (at, piece) in pieces.iter().enumerate() {
        let last = if at + 1 == pieces.len() { flag::END_STREAM } else { 0 };
        all.push(Frame::new(kind::DATA, last, 1, piece.as_bytes()));
    }
    all
}

/// One with such trailers.
fn trails(flags: u8, trailers: &[(&str, &str)]) -> Vec<Frame> {
    let mut all = sends("2", &["ok", ""]);
    all.pop();
    all.push(headers(flags | flag::END_HEADERS, 1, frames::fields(trailers)));
    all
}

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    let connect = |list: &[(&str, &str)]| only(&[&[(":method", "CONNECT")][..], list].concat());
    vec![
        // Fields.
        case(BAD, "RFC 9113, 8.2", "a name in upper case", &also(&[("X-Case", "y")])),
        case(BAD, "RFC 9113, 8.2.1", "a name with a space", &also(&[("x y", "z")])),
        case(BAD, "RFC 9113, 8.2.1", "a name with a colon", &also(&[("x:y", "z")])),
        case(BAD, "RFC 9113, 8.2.1", "a name with a line end", &also(&[("x\r\ny", "z")])),
        case(BAD, "RFC 9113, 8.2.1", "a name that is empty", &also(&[("", "z")])),
        case(BAD, "RFC 9113, 8.2.1", "a value with NUL", &also(&[("x", "y\0z")])),
        case(BAD, "RFC 9113, 8.2.1", "a value with CR", &also(&[("x", "y\rz")])),
        case(BAD, "RFC 9113, 8.2.1", "a value with LF", &also(&[("x", "y\r\nsmuggled: z")])),
        case(BAD, "RFC 9113, 8.2.2", "Connection", &also(&[("connection", "close")])),
        case(BAD, "RFC 9113, 8.2.2", "Keep-Alive", &also(&[("keep-alive", "timeout=5")])),
        case(BAD, "RFC 9113, 8.2.2", "Proxy-Connection", &also(&[("proxy-connection", "close")])),
        case(BAD, "RFC 9113, 8.2.2", "Transfer-Encoding", &also(&[("transfer-encoding", "chunked")])),
        case(BAD, "RFC 9113, 8.2.2", "Upgrade", &also(&[("upgrade", "websocket")])),
        case(BAD, "RFC 9113, 8.2.2", "TE of something else than trailers", &also(&[("te", "gzip")])),
        case(Served, "RFC 9113, 8.2.2", "TE of trailers", &also(&[("te", "trailers")])),
        case(Served, "RFC 9113, 8.2.3", "Cookie in two fields", &also(&[("cookie", "a=b"), ("cookie", "c=d")])),
        // Pseudo-fields.
        case(BAD, "RFC 9113, 8.3", "one that nobody knows", &also(&[(":other", "x")])),
        case(BAD, "RFC 9113, 8.3", "one of responses", &only(&[&GET[..], &[(":status", "200")]].concat())),
        case(BAD, "RFC 9113, 8.3", "one behind a field", &only(&[&GET[..3], &[("x", "y")], &GET[3..]].concat())),
        // To be refused, says the RFC; h2 drops it instead, so that nobody beyond reads it.
        case(Served, "RFC 9113, 8.3", "one in trailers", &trails(flag::END_STREAM, &[(":path", "/other")])),
        case(BAD, "RFC 9113, 8.3", "two methods", &only(&[&GET[..], &[(":method", "POST")]].concat())),
        case(BAD, "RFC 9113, 8.3", "two paths", &only(&[&GET[..], &[(":path", "/other")]].concat())),
        case(BAD, "RFC 9113, 8.3.1", "no method", &but(":method", None)),
        case(BAD, "RFC 9113, 8.3.1", "no scheme", &but(":scheme", None)),
        case(BAD, "RFC 9113, 8.3.1", "no path", &but(":path", None)),
        case(BAD, "RFC 9113, 8.3.1", "an empty path", &but(":path", Some(""))),
        case(BAD, "RFC 9113, 8.3.1", "a path with a space", &but(":path", Some("/a b"))),
        case(BAD, "RFC 9113, 8.3.1", "a path with a line end", &but(":path", Some("/ HTTP/1.1\r\nHost: b"))),
        case(BAD, "RFC 9113, 8.3.1", "a method that is no token", &but(":method", Some("GET /admin"))),
        case(BAD, "RFC 9113, 8.3.1", "an authority with a space", &but(":authority", Some("a b"))),
        case(BAD, "RFC 9113, 8.3.1", "a scheme that is none", &but(":scheme", Some("ht tp"))),
        case(
            Served,
            "RFC 9113, 8.3.1",
            "Host in the place of the authority",
            &only(&[GET[0], GET[1], GET[3], ("host", "web")]),
        ),
        case(
            Served,
            "RFC 9113, 8.3.1",
            "an asterisk",
            &only(&[(":method", "OPTIONS"), GET[1], GET[2], (":path", "*")]),
        ),
        // Bodies.
        case(BAD, "RFC 9113, 8.1", "trailers that do not end the stream", &trails(0, &[("x", "y")])),
        case(Served, "RFC 9113, 8.1", "trailers", &trails(flag::END_STREAM, &[("x", "y")])),
        case(BAD, "RFC 9113, 8.1.1", "less than the Content-Length", &sends("6", &["hello"])),
        case(BAD, "RFC 9113, 8.1.1", "more than the Content-Length", &sends("4", &["he", "llo"])),
        case(BAD, "RFC 9113, 8.1.1", "a Content-Length and no body", &also(&[("content-length", "5")])),
        case(BAD, "RFC 9113, 8.1.1", "a Content-Length that is no number", &sends("+5", &["hello"])),
        case(BAD, "RFC 9113, 8.1.1", "two Content-Lengths", &also(&[("content-length", "0"), ("content-length", "5")])),
        case(Served, "RFC 9113, 8.1.1", "a Content-Length that is true", &sends("5", &["he", "llo", ""])),
        // Tunnels.
        case(BAD, "RFC 9113, 8.5", "CONNECT with a scheme", &connect(&[(":scheme", "http"), (":authority", "a:1")])),
        case(BAD, "RFC 9113, 8.5", "CONNECT with a path", &connect(&[(":authority", "a:1"), (":path", "/")])),
        case(
            BAD,
            "RFC 8441, 3",
            "CONNECT for a protocol nobody has offered",
            &connect(&[(":protocol", "websocket"), GET[1], GET[2], GET[3]]),
        ),
    ]
}
