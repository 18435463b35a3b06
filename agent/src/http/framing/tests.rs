//! What has one meaning is read, what has two is refused.

use super::{Framing, HEAD_MAX, Place, State, Unreadable};

const HEAD: &str = "POST / HTTP/1.1\r\nHost: a\r\n";

/// Read at once, and a byte at a time: it must not matter.
fn read(text: &str) -> Result<State, Unreadable> {
    let mut whole = Framing::default();
    let at_once = whole.read(text.as_bytes()).map(|_| whole.state).map_err(|(_, fault)| fault);
    let (mut bytewise, mut line) = (Framing::default(), Vec::new());
    let one_by_one = text.bytes().try_for_each(|byte| {
        line.push(byte);
        bytewise.read(&line).map(|good| drop(line.drain(..good)))
    });
    assert_eq!(at_once, one_by_one.map(|()| bytewise.state).map_err(|(_, fault)| fault), "{text:?}");
    at_once
}

#[test]
fn what_has_one_meaning_is_read_to_its_end() {
    for text in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nGET / HTTP/1.0\r\n\r\n",
        &format!("{HEAD}Content-Length: 3\r\n\r\nabc"),
        &format!("{HEAD}Content-Length: 0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        &format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n3 \t\r\na\nb\r\nA;x=y\r\n0123456789\r\n0\r\nX: y\r\n\r\n"),
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    ] {
        assert_eq!(read(text), Ok(State::Request), "{text:?}");
    }
    assert_eq!(read("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n\0\n\0"), Ok(State::Switched));
    assert_eq!(read("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n\n\n"), Ok(State::Switched));
    assert_eq!(read(&format!("{HEAD}Content-Length: 5\r\n\r\nab")), Ok(State::Body(3)));
}

#[test]
fn what_has_two_is_refused() {
    let with = |fields: &str| format!("{HEAD}{fields}\r\n\r\n");
    for (text, fault) in [
        (with("Content-Length: 5\r\nTransfer-Encoding: chunked"), Unreadable::Lengths),
        (with("Transfer-Encoding: chunked\r\ncontent-length: 5"), Unreadable::Lengths),
        (with("Content-Length: 5\r\nContent-Length: 5"), Unreadable::Lengths),
        (with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), Unreadable::Lengths),
        (with("Content-Length: +5"), Unreadable::Length),
        (with("Content-Length: 5, 5"), Unreadable::Length),
        (with("Content-Length: 0x5"), Unreadable::Length),
        (with("Content-Length: 99999999999999999999"), Unreadable::Length),
        (with("Transfer-Encoding: xchunked"), Unreadable::Coding),
        (with("Transfer-Encoding: chunked, identity"), Unreadable::Coding),
        (with("Transfer-Encoding : chunked"), Unreadable::Name),
        (with("X: y\r\n folded"), Unreadable::Folded),
        (with(": nameless"), Unreadable::Name),
        (with("X: a\rb"), Unreadable::Line),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned(), Unreadable::Line),
        ("GET / HTTP/1.1\r\nHost: a\n\n".to_owned(), Unreadable::Line),
        ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), Unreadable::Coding),
        (with("Transfer-Encoding: chunked\r\n\r\n5\nhello"), Unreadable::Line),
        (with("Transfer-Encoding: chunked\r\n\r\n-1"), Unreadable::Chunk),
        (with("Transfer-Encoding: chunked\r\n\r\n5\x0c"), Unreadable::Chunk),
        (with("Transfer-Encoding: chunked\r\n\r\n2\r\nabc"), Unreadable::Chunk),
        (with("X\0: y"), Unreadable::Name),
        (with("X(y): z"), Unreadable::Name),
        (with("no colon"), Unreadable::Name),
        (with("X: y\0z"), Unreadable::Value),
        (with("X: y\u{7f}"), Unreadable::Value),
        ("GET / HTTP/2.0\r\n".to_owned(), Unreadable::Version),
        ("GET / HTTP/1.1 \r\n".to_owned(), Unreadable::Request),
        ("GET  / HTTP/1.1\r\n".to_owned(), Unreadable::Request),
        ("GET /\r\n".to_owned(), Unreadable::Request),
        ("G@T / HTTP/1.1\r\n".to_owned(), Unreadable::Request),
        (" GET / HTTP/1.1\r\n".to_owned(), Unreadable::Request),
        ("GET / http/1.1\r\n".to_owned(), Unreadable::Request),
        ("GET no-path-at:all/ HTTP/1.1\r\n".to_owned(), Unreadable::Target),
        ("GET /\u{7f} HTTP/1.1\r\n".to_owned(), Unreadable::Target),
    ] {
        assert_eq!(read(&text), Err(fault), "{text:?}");
    }
}

#[test]
fn says_how_much_stands_before_the_fault() {
    let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let text = format!("{good}{good}GET / HTTP/1.1\r\nX : y\r\n\r\n");
    let fault = Framing::default().read(text.as_bytes());
    assert_eq!(fault, Err((2 * good.len() + "GET / HTTP/1.1\r\n".len(), Unreadable::Name)));
}

#[test]
fn nothing_grows_without_end() {
    let field = |name: &str, length: usize| format!("{name}: {}\r\n", "y".repeat(length));
    let chunked = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n");
    for (text, fault) in [
        (format!("GET /{} HTTP/1.1\r\n", "a".repeat(HEAD_MAX)), Unreadable::TargetTooLong),
        (format!("GET /{}", "a".repeat(HEAD_MAX)), Unreadable::TargetTooLong),
        (format!("{HEAD}{}", field("X", HEAD_MAX)), Unreadable::TooLarge),
        (format!("{HEAD}{}", field("X", 700).repeat(98)), Unreadable::TooLarge),
        (format!("{HEAD}{}", field("X", 1).repeat(99)), Unreadable::TooLarge),
        (format!("{HEAD}X: {}", "y".repeat(HEAD_MAX)), Unreadable::TooLarge),
        (format!("{chunked}0\r\n{}", field("X", 700).repeat(99)), Unreadable::TooLarge),
        (format!("{chunked}1;{}\r\n", "x".repeat(16_000)), Unreadable::Chunk),
        (format!("{chunked}{}", "1;xxxxxxxx\r\ny\r\n".repeat(2000)), Unreadable::Chunk),
    ] {
        let short: String = text.chars().take(60).collect();
        assert_eq!(Framing::default().read(text.as_bytes()).map_err(|(_, fault)| fault), Err(fault), "{short:?}");
    }
    let most = format!("{HEAD}{}\r\n", field("X", 600).repeat(98));
    assert_eq!(read(&most), Ok(State::Request));
}

#[test]
fn an_incomplete_line_is_brought_again() {
    let mut framing = Framing::default();
    assert_eq!(framing.read(b"GET / HTTP/1.1\r\nHo"), Ok(16));
    assert_eq!((framing.read(b"Host: "), framing.place()), (Ok(0), Place::Head));
    assert_eq!((framing.read(b"Host: a\r\n\r\nGE"), framing.place()), (Ok(11), Place::Between));
}

#[test]
fn what_is_begun_is_counted_until_it_is_complete() {
    let mut framing = Framing::default();
    for (text, begun) in [
        ("\r\nPOST / HTTP/1.1\r\n", 17),
        ("Transfer-Encoding: chunked\r\n", 17 + 28),
        ("\r\n", 0),
        ("1\r\na\r\n", 0),
        ("0\r\nX: y\r\n", 3 + 6),
        ("\r\n", 0),
    ] {
        assert_eq!(framing.read(text.as_bytes()), Ok(text.len()), "{text:?}");
        assert_eq!(framing.begun(), begun, "after {text:?}");
    }
}

#[test]
fn empty_lines_before_a_request_have_an_end() {
    let get = "GET / HTTP/1.1\r\n\r\n";
    assert_eq!(read(&format!("{0}{get}{0}{get}", "\r\n".repeat(256))), Ok(State::Request));
    assert_eq!(read(&format!("{}{get}", "\r\n".repeat(257))), Err(Unreadable::Request));
}
