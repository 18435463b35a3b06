//! HTTP/1: what is to be refused, and what only looks so.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use weft_tests::app::{End, Until};

use super::Wire;

/// A request, or what is sent as one.
struct Case {
    /// Where it says so.
    section: &'static str,
    text: String,
    /// The status it is answered with.
    status: u16,
}

fn case(status: u16, section: &'static str, text: impl Into<String>) -> Case {
    Case { section, text: text.into(), status }
}

/// A request with these fields, and what follows it.
fn with(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}")
}

fn chunked(body: &str) -> String {
    with("Transfer-Encoding: chunked", body)
}

/// Those that must not pass.
fn refused() -> Vec<Case> {
    let long = "y".repeat(70_000);
    let many = (0..120).fold(String::new(), |mut all, n| {
        let _ = write!(all, "X-{n}: y\r\n");
        all
    });
    vec![
        // Two lengths: where the next request begins is a matter of opinion.
        case(400, "RFC 9112, 6.3 (3)", with("Content-Length: 6\r\nTransfer-Encoding: chunked", "0\r\n\r\n")),
        case(400, "RFC 9112, 6.3 (3)", with("Transfer-Encoding: chunked\r\nContent-Length: 6", "0\r\n\r\n")),
        case(400, "RFC 9112, 6.3 (5)", with("Content-Length: 0\r\nContent-Length: 5", "12345")),
        case(400, "RFC 9112, 6.3 (5)", with("Content-Length: 5\r\nContent-Length: 5", "12345")),
        case(400, "RFC 9110, 8.6", with("Content-Length: 5, 5", "12345")),
        case(400, "RFC 9110, 8.6", with("Content-Length: +5", "12345")),
        case(400, "RFC 9110, 8.6", with("Content-Length: -5", "12345")),
        case(400, "RFC 9110, 8.6", with("Content-Length: 0x5", "12345")),
        case(400, "RFC 9110, 8.6", with("Content-Length: 5 5", "12345")),
        case(400, "RFC 9110, 8.6", with("Content-Length:", "")),
        case(400, "RFC 9110, 8.6", with("Content-Length: 18446744073709551616", "12345")),
        // Codings that one reader knows and another does not.
        case(501, "RFC 9112, 6.1", with("Transfer-Encoding: xchunked", "0\r\n\r\n")),
        case(501, "RFC 9112, 6.1", with("Transfer-Encoding: chunked, identity", "0\r\n\r\n")),
        case(501, "RFC 9112, 6.1", with("Transfer-Encoding: identity, chunked", "0\r\n\r\n")),
        case(501, "RFC 9112, 6.1", with("Transfer-Encoding: gzip", "0\r\n\r\n")),
        case(501, "RFC 9112, 6.1", with("Transfer-Encoding: \"chunked\"", "0\r\n\r\n")),
        case(501, "RFC 9112, 6.1", with("Transfer-Encoding:", "0\r\n\r\n")),
        case(400, "RFC 9112, 6.1", with("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "0\r\n\r\n")),
        case(400, "RFC 9112, 6.1", with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n")),
        case(501, "RFC 9112, 6.1", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        case(400, "RFC 9110, 5.5", with("Transfer-Encoding: \u{b}chunked", "0\r\n\r\n")),
        // Names and lines.
        case(400, "RFC 9112, 5.1", with("Transfer-Encoding : chunked", "0\r\n\r\n")),
        case(400, "RFC 9112, 2.2", with(" Transfer-Encoding: chunked", "0\r\n\r\n")),
        case(400, "RFC 9112, 5.2", with("X: y\r\n Transfer-Encoding: chunked", "0\r\n\r\n")),
        case(400, "RFC 9112, 5.2", with("X: y\r\n\tz", "")),
        case(400, "RFC 9112, 2.2", with("X: y\rTransfer-Encoding: chunked", "0\r\n\r\n")),
        case(400, "RFC 9112, 2.2", with("X: y\nTransfer-Encoding: chunked", "0\r\n\r\n")),
        case(400, "RFC 9110, 5.1", with("X\0: y", "")),
        case(400, "RFC 9110, 5.1", with("X(y): z", "")),
        case(400, "RFC 9110, 5.1", with("\u{e4}: z", "")),
        case(400, "RFC 9110, 5.5", with("X: y\0z", "")),
        case(400, "RFC 9112, 5", with(": nameless", "")),
        case(400, "RFC 9112, 5", with("no colon", "")),
        case(400, "RFC 9112, 2.2", "GET / HTTP/1.1\nHost: a\n\n"),
        // Request lines.
        case(400, "RFC 9112, 3", "GET /\r\n"),
        case(400, "RFC 9112, 3", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
        case(400, "RFC 9112, 3", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
        case(400, "RFC 9112, 3", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        case(400, "RFC 9112, 3", " GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        case(400, "RFC 9112, 3.1", "G(T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        case(400, "RFC 9112, 3.2", "GET a/path HTTP/1.1\r\nHost: a\r\n\r\n"),
        case(400, "RFC 9112, 3.2", "GET /\u{7f} HTTP/1.1\r\nHost: a\r\n\r\n"),
        case(400, "RFC 9112, 2.3", "GET / HTTP/1.1x\r\nHost: a\r\n\r\n"),
        case(400, "RFC 9112, 2.3", "GET / http/1.1\r\nHost: a\r\n\r\n"),
        case(505, "RFC 9110, 15.6.6", "GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
        case(505, "RFC 9113, 3.4", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"),
        case(400, "RFC 9110, 3.3", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}\r\n\r\n"),
        // Host.
        case(400, "RFC 9112, 3.2", "GET / HTTP/1.1\r\n\r\n"),
        case(400, "RFC 9112, 3.2", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        case(400, "RFC 9112, 3.2", "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n"),
        // Chunks.
        case(400, "RFC 9112, 7.1", chunked("x\r\n")),
        case(400, "RFC 9112, 7.1", chunked("-1\r\n")),
        case(400, "RFC 9112, 7.1", chunked("0x5\r\nhello\r\n0\r\n\r\n")),
        case(400, "RFC 9112, 7.1", chunked("\r\n")),
        case(400, "RFC 9112, 7.1", chunked("5\nhello\r\n0\r\n\r\n")),
        case(400, "RFC 9112, 7.1", chunked("2\r\nabc\r\n0\r\n\r\n")),
        case(400, "RFC 9112, 7.1", chunked("fffffffffffffffff\r\n")),
        case(400, "RFC 9112, 7.1", chunked("0000000000000000000005\r\nhello\r\n0\r\n\r\n")),
        case(400, "RFC 9112, 7.1.1", chunked(&format!("5;{long}\r\nhello\r\n0\r\n\r\n"))),
        case(400, "RFC 9112, 7.1.2", chunked("0\r\nX : y\r\n\r\n")),
        case(400, "RFC 9112, 7.1.2", chunked("0\r\nX: y\n\r\n\r\n")),
        // Too much of it.
        case(414, "RFC 9112, 3", format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")),
        case(431, "RFC 6585, 5", with(&format!("X: {long}"), "")),
        case(431, "RFC 6585, 5", with(&format!("X-{long}: y"), "")),
        case(431, "RFC 6585, 5", with(many.trim_end(), "")),
        case(431, "RFC 9112, 7.1.2", chunked(&format!("0\r\nX: {long}\r\n\r\n"))),
    ]
}

/// Those that must be served: strict is not the same as narrow.
fn served() -> Vec<Case> {
    vec![
        case(200, "RFC 9112, 2.2", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        case(200, "RFC 9112, 3.2.2", "GET http://a/x?y=z HTTP/1.1\r\nHost: b\r\n\r\n"),
        case(200, "RFC 9112, 3.2.4", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
        case(200, "RFC 9112, 5.1", "GET / HTTP/1.1\r\nHost:a\r\nX:\t y \t\r\nEmpty:\r\n\r\n"),
        case(200, "RFC 9110, 5.5", "GET / HTTP/1.1\r\nHost: a\r\nX: \u{e4}\u{f6}\r\n\r\n"),
        case(200, "RFC 9110, 5.6.2", "X!#$%&'*+.^_`|~ / HTTP/1.1\r\nHost: a\r\n\r\n"),
        case(200, "RFC 9112, 7.1", chunked("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n")),
        case(200, "RFC 9112, 7.1.1", chunked("5 ;x=\"y\"\r\nhello\r\n000;z\r\n\r\n")),
        case(200, "RFC 9112, 7.1.2", chunked("5\r\nhello\r\n0\r\nX-After: y\r\n\r\n")),
        case(200, "RFC 9110, 7.8", "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"),
        case(200, "RFC 9112, 3.2", "GET /%00/a;b=c/~d?e=f&g[]=%20#no HTTP/1.1\r\nHost: a\r\n\r\n"),
    ]
}

/// A second request, which must not be taken for one.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn requests_that_can_be_read_in_two_ways() -> Result<()> {
    let wire = Wire::new("smuggling")?;
    let cases = refused();
    ensure!(cases.len() >= 60, "{} cases", cases.len());
    let counted = |labels: [(&str, &str); 1]| wire.requests_counted(&labels);
    let (refused, answered) = (counted([("error", "bad_request")])?, counted([("response_code", "200")])?);
    wire.web.steered(cases.len() as u64, || {
        for Case { section, text, status } in &cases {
            let shown: String = text.chars().take(120).collect();
            check(&wire, text, *status).with_context(|| format!("{section}: {shown:?}"))?;
        }
        Ok(())
    })?;
    let refused = counted([("error", "bad_request")])? - refused;
    ensure!(refused == cases.len() as u64, "{refused} of {} are counted", cases.len());
    ensure!(counted([("response_code", "200")])? == answered, "the server has answered some");
    wire.finish()
}

#[test]
fn requests_that_only_look_odd_are_served() -> Result<()> {
    let wire = Wire::new("odd")?;
    let cases = served();
    wire.web.steered(cases.len() as u64, || {
        for Case { section, text, status } in &cases {
            let conn = wire.open()?;
            wire.web.app.say(conn, text)?;
            let head = wire.web.app.receive(conn, Until::Head)?.text;
            ensure!(head.starts_with(&format!("HTTP/1.1 {status}")), "{section}: {text:?} was answered with {head:?}");
            wire.web.app.close(conn)?;
        }
        Ok(())
    })?;
    wire.finish()
}

/// One answer, with that status and a reason, and the end of the connection.
fn check(wire: &Wire, text: &str, status: u16) -> Result<()> {
    let conn = wire.open()?;
    wire.web.app.say(conn, &format!("{text}{SMUGGLED}"))?;
    let said = wire.web.app.receive(conn, Until::End)?;
    let said_status = said.text.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5));
    ensure!(said_status == Some(&*status.to_string()), "it was answered with {:?}", said.text);
    ensure!(said.text.contains("\r\nweft-error: bad_request\r\n") && said.text.contains("\nweft: "), "{:?}", said.text);
    let answers = said.text.lines().filter(|line| line.starts_with("HTTP/1.")).count();
    ensure!(answers == 1, "it was taken for more than one: {:?}", said.text);
    ensure!(said.end == Some(End::Fin), "it ended with {:?}", said.end);
    Ok(())
}
