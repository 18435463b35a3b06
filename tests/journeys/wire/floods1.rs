//! The same of HTTP/1: heads, chunks and trailers without end, and answers that nobody reads.

use anyhow::{Result, anyhow, ensure};
use weft_tests::app::{Payload, Until};

use super::Wire;
use super::floods::{CONNECTIONS, Rest, flood, still};

#[test]
fn http1_floods_are_bounded() -> Result<()> {
    let wire = Wire::new("floods1")?;
    let rest = Rest::of(&wire)?;
    let post = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let text = |text: &str, times| Payload::Bytes { bytes: text.as_bytes().to_vec(), times };
    let (get, head) = ("GET /", "GET / HTTP/1.1\r\n");
    wire.web.steered(6 * CONNECTIONS as u64, || {
        for (what, begins, more, status) in [
            ("a target without end", get, text("y", 20_000_000), "414"),
            ("a field without end", "GET / HTTP/1.1\r\nX: ", text("y", 20_000_000), "431"),
            ("fields without end", head, text("X: y\r\n", 2_000_000), "431"),
            ("an extension without end (CVE-2023-39326)", &format!("{post}5;"), text("y", 20_000_000), "400"),
            ("extensions without end", post, text("1;xyz\r\ny\r\n", 2_000_000), "400"),
            ("trailers without end", &format!("{post}0\r\n"), text("X: y\r\n", 2_000_000), "431"),
        ] {
            rest.bears(what, || refused(&wire, begins, &more, status))?;
        }
        // Heads that are never finished, and answers that are never read.
        rest.bears("heads that are not finished", || {
            for _ in 0..400 {
                let conn = wire.open()?;
                wire.web.app.send(
                    conn,
                    Payload::Bytes { bytes: format!("{head}X: {}", "y".repeat(40_000)).into_bytes(), times: 1 },
                )?;
            }
            still(&rest)
        })?;
        let asked = text("GET /bytes/1000000 HTTP/1.1\r\nHost: a\r\n\r\n", 20_000);
        rest.bears("answers that are not read", || {
            flood(&wire, b"", &asked, false)?;
            still(&rest)
        })
    })?;
    wire.finish()
}

/// Sends in several connections, each of which is answered and ended.
fn refused(wire: &Wire, begins: &str, more: &Payload, status: &str) -> Result<()> {
    let app = &wire.web.app;
    for _ in 0..CONNECTIONS {
        let conn = wire.open()?;
        app.say(conn, begins)?;
        let (writer, more) = (app.clone(), more.clone());
        let writing = std::thread::spawn(move || writer.send(conn, more).is_err());
        let said = app.receive(conn, Until::End)?;
        ensure!(said.text.is_empty() || said.text.starts_with(&format!("HTTP/1.1 {status} ")), "{:?}", said.text);
        ensure!(writing.join().map_err(|_| anyhow!("panicked"))?, "all of it was taken");
    }
    Ok(())
}
