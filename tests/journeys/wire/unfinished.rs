//! Heads that are never finished and answers that are never read, by very many connections of one pod.

use anyhow::{Result, ensure};
use weft_tests::app::{Ask, Behaviour, Http, Options, Until};
use weft_tests::wait;

use super::Wire;
use super::floods::{Rest, still};
use crate::fixture::anywhere;

/// Connections with long heads of each kind.
const MANY: usize = 2000;
/// Answers.
const ANSWERS: u64 = 700;

#[test]
fn long_heads_are_charged_to_their_pod() -> Result<()> {
    let wire = Wire::new("longheads")?;
    let rest = Rest::of(&wire)?;
    let head = "GET / HTTP/1.1\r\nHost: a\r\n";
    let line = format!("{head}X: {}", "y".repeat(60_000));
    let lines = format!("{head}{}", format!("X: {}\r\n", "y".repeat(1000)).repeat(60));
    let over = || wire.requests_counted(&[("response_code", "503"), ("error", "over_budget")]);
    for (what, head) in [("a line of 60 KB", line), ("60 lines of 1 KB", lines)] {
        let before = over()?;
        let mut conns = Vec::new();
        rest.bears(what, || {
            for _ in 0..MANY {
                let conn = wire.open()?;
                // One that is refused may be closed before all of it is taken.
                let _ = wire.web.app.write(conn, head.as_bytes());
                conns.push(conn);
            }
            still(&rest)
        })?;
        let over = over()? - before;
        ensure!((1500..MANY as u64).contains(&over), "{what}: {over} of {MANY} were refused");
        for conn in conns {
            wire.web.app.close(conn)?;
        }
        // What is over makes room.
        wait::until("room for a long head", wait::DEADLINE, || {
            let conn = wire.open()?;
            wire.web.app.write(conn, head.as_bytes())?;
            wire.web.app.say(conn, "\r\n\r\n")?;
            let said = wire.web.app.receive(conn, Until::Head)?.text;
            ensure!(said.starts_with("HTTP/1.1 200"), "{said:?}");
            Ok(())
        })?;
    }
    wire.finish()
}

#[test]
fn answers_nobody_reads_hold_little() -> Result<()> {
    let wire = Wire::new("unreadanswers")?;
    // A server outside the mesh: what a tunnel holds is not looked at here.
    let pod = wire.web.lab.pod(&wire.web.b, "plain").mesh("disabled").create()?;
    let server = pod.app(&wire.web.lab)?;
    server.listen(anywhere(8080), "plain", Behaviour::Http)?;
    let plain = wire.web.lab.service("plain").speaks("http").pods(&[&pod]).create()?;
    let app = &wire.web.app;
    wait::until("the server to answer", wait::DEADLINE, || {
        let reply = wire.web.steered(1, || app.fetch(plain.v4(), Http::One, Ask::get("/")))?;
        ensure!(reply.status == 200, "{reply:?}");
        Ok(())
    })?;
    let rest = Rest::of(&wire)?;
    wire.web.steered(ANSWERS, || {
        rest.bears("answers of 8 MB that are not read", || {
            for _ in 0..ANSWERS {
                let slow = Options { receive_buffer: Some(4096), ..Options::default() };
                let conn = app.open_with(plain.v4(), slow)?.conn;
                app.say(conn, "GET /bytes/8000000 HTTP/1.1\r\nHost: a\r\n\r\n")?;
            }
            still(&rest)
        })
    })?;
    wire.finish()
}
