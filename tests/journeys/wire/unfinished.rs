//! Heads that are never finished, of requests and of responses, and answers that are never read, by very many connections of one
//! pod.

use anyhow::{Result, ensure};
use weft_tests::app::{App, Ask, Behaviour, Http, Options, Until};
use weft_tests::lab::Service;
use weft_tests::wait;

use super::Wire;
use super::floods::{Rest, still};
use crate::fixture::anywhere;

/// Connections with long heads of each kind.
const MANY: usize = 2000;
/// Responses with long heads: twice the room, uncharged.
const RESPONSES: u64 = 800;
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

/// A server outside the mesh: what a tunnel holds is not looked at here.
fn plain(wire: &Wire, behaviour: Behaviour) -> Result<(App, u64, Service)> {
    let pod = wire.web.lab.pod(&wire.web.b, "plain").mesh("disabled").create()?;
    let server = pod.app(&wire.web.lab)?;
    let (listener, _) = server.listen(anywhere(8080), "plain", behaviour)?;
    let service = wire.web.lab.service("plain").speaks("http").pods(&[&pod]).create()?;
    Ok((server, listener, service))
}

#[test]
fn long_response_heads_are_charged_to_their_pod() -> Result<()> {
    let wire = Wire::new("longanswers")?;
    let (server, listener, plain) = plain(&wire, Behaviour::Manual)?;
    let app = &wire.web.app;
    let asked = || -> Result<_> {
        let near = app.open(plain.v4())?.conn;
        app.say(near, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
        let far = server.accept(listener)?.conn;
        server.receive(far, Until::Head)?;
        Ok((near, far))
    };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: {}", "y".repeat(60_000));
    let complete = || {
        wait::until("a long head of a response to be passed on", wait::DEADLINE, || {
            let (near, far) = asked()?;
            server.write(far, head.as_bytes())?;
            server.say(far, "\r\n\r\n")?;
            let said = app.receive(near, Until::Head)?.text;
            server.close(far)?;
            app.close(near)?;
            ensure!(said.starts_with("HTTP/1.1 200") && said.contains("yyy"), "{said:?}");
            Ok(())
        })
    };
    complete()?;
    let (over, rest) =
        (|| wire.requests_counted(&[("response_code", "503"), ("error", "over_budget")]), Rest::of(&wire)?);
    let (before, mut conns) = (over()?, Vec::new());
    wire.web.steered(RESPONSES, || {
        rest.bears("heads of responses that are not complete", || {
            for _ in 0..RESPONSES {
                let (near, far) = asked()?;
                // One that is refused may be closed before all of it is taken.
                let _ = server.write(far, head.as_bytes());
                conns.push((near, far));
            }
            still(&rest)
        })
    })?;
    let over = over()? - before;
    ensure!((400..RESPONSES).contains(&over), "{over} of {RESPONSES} were refused");
    for (near, far) in conns {
        server.close(far)?;
        app.close(near)?;
    }
    // What is over makes room.
    complete()?;
    wire.finish()
}

#[test]
fn answers_nobody_reads_hold_little() -> Result<()> {
    let wire = Wire::new("unreadanswers")?;
    let (_server, _, plain) = plain(&wire, Behaviour::Http)?;
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
