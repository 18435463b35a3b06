//! Heads that are never finished, of requests and of responses, and answers that are never read, by very many connections of one
//! pod.

use anyhow::{Result, ensure};
use weft_tests::app::{App, Ask, Behaviour, Http, Options, Until};
use weft_tests::lab::Service;
use weft_tests::wait;

use super::Wire;
use super::floods::{Rest, begin, request, still};
use super::http2::{WHOLE, headers};
use crate::fixture::anywhere;

/// Connections with long heads of each kind.
const MANY: usize = 2000;
/// Responses with long heads: twice the room, uncharged.
const RESPONSES: u64 = 800;
/// Requests of a connection of HTTP/2, and such connections: uncharged, what they are answered is twice the room.
const STREAMS: u32 = 240;
const CONNECTIONS: u64 = 5;
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
struct Plain {
    server: App,
    listener: u64,
    service: Service,
}

impl Plain {
    fn new(wire: &Wire, behaviour: Behaviour) -> Result<Self> {
        let pod = wire.web.lab.pod(&wire.web.b, "plain").mesh("disabled").create()?;
        let server = pod.app(&wire.web.lab)?;
        let (listener, _) = server.listen(anywhere(8080), "plain", behaviour)?;
        let service = wire.web.lab.service("plain").speaks("http").pods(&[&pod]).create()?;
        Ok(Self { server, listener, service })
    }

    /// A request that has come to the server, at both ends.
    fn asked(&self, wire: &Wire) -> Result<(u64, u64)> {
        let near = wire.web.app.open(self.service.v4())?.conn;
        wire.web.app.say(near, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
        let far = self.server.accept(self.listener)?.conn;
        self.server.receive(far, Until::Head)?;
        Ok((near, far))
    }

    fn close(&self, wire: &Wire, (near, far): (u64, u64)) -> Result<()> {
        self.server.close(far)?;
        wire.web.app.close(near)
    }

    /// A response with that head comes to the app.
    fn passes_on(&self, wire: &Wire, head: &str) -> Result<()> {
        wait::until("a long head of a response to be passed on", wait::DEADLINE, || {
            let conn = self.asked(wire)?;
            self.server.write(conn.1, head.as_bytes())?;
            let said = wire.web.app.receive(conn.0, Until::Head)?.text;
            self.close(wire, conn)?;
            ensure!(said.starts_with("HTTP/1.1 200") && said.contains("yyy"), "{said:?}");
            Ok(())
        })
    }

    /// So many responses begin with `begun` and do not end: borne, and half of them or more refused. With them gone, `whole` passes.
    fn bears(&self, wire: &Wire, what: &str, begun: &str, whole: &str) -> Result<()> {
        self.passes_on(wire, whole)?;
        let over = || wire.requests_counted(&[("response_code", "503"), ("error", "over_budget")]);
        let (before, rest, mut conns) = (over()?, Rest::of(wire)?, Vec::new());
        wire.web.steered(RESPONSES, || {
            rest.bears(what, || {
                for _ in 0..RESPONSES {
                    let (near, far) = self.asked(wire)?;
                    // One that is refused may be closed before all of it is taken.
                    let _ = self.server.write(far, begun.as_bytes());
                    conns.push((near, far));
                }
                still(&rest)
            })
        })?;
        let over = over()? - before;
        ensure!((RESPONSES / 2..RESPONSES).contains(&over), "{what}: {over} of {RESPONSES} were refused");
        for conn in conns {
            self.close(wire, conn)?;
        }
        // What is over makes room.
        self.passes_on(wire, whole)
    }
}

/// The head of a response, without its end.
fn long_response(length: u32) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nX: {}", "y".repeat(60_000))
}

#[test]
fn long_response_heads_are_charged_to_their_pod() -> Result<()> {
    let wire = Wire::new("longanswers")?;
    let plain = Plain::new(&wire, Behaviour::Manual)?;
    let head = long_response(0);
    plain.bears(&wire, "heads of responses that are not complete", &head, &format!("{head}\r\n\r\n"))?;
    wire.finish()
}

/// Long buffers stay with connections: of the endpoint, whose response is not over, and of the app, which reads none of it.
#[test]
fn responses_with_long_heads_are_charged_until_they_are_over() -> Result<()> {
    let wire = Wire::new("longopen")?;
    let plain = Plain::new(&wire, Behaviour::Manual)?;
    let head = format!("{}\r\n\r\n", long_response(1));
    plain.bears(&wire, "responses with long heads that are not over", &head, &head)?;
    wire.finish()
}

/// The library flushes with heads queued behind what it has written, and they are charged all the same.
#[test]
fn long_heads_queued_over_http2_are_charged() -> Result<()> {
    let wire = Wire::new("queuedheads")?;
    let plain = Plain::new(&wire, Behaviour::Http)?;
    let (app, to) = (&wire.web.app, plain.service.v4());
    let over = || wire.requests_counted(&[("response_code", "503"), ("error", "over_budget")]);
    // Twice the room and more, one after another in one connection. Clients take heads of 16 KB.
    let row = || wire.web.steered(1, || app.row(to, Http::Two, Ask::get("/head/12000"), 5000));
    wait::until("long heads to be passed on", wait::DEADLINE, || {
        let replies = row()?;
        ensure!(replies.iter().all(|reply| reply.status == 200), "{:?}", replies.last());
        Ok(())
    })?;
    let (before, rest, mut conns) = (over()?, Rest::of(&wire)?, Vec::new());
    let asked = (0..STREAMS).flat_map(|n| headers(WHOLE, 2 * n + 1, request("/head/60000")).bytes());
    let asked: Vec<u8> = begin(&[]).into_iter().chain(asked).collect();
    wire.web.steered(CONNECTIONS, || {
        rest.bears("long heads that nobody reads", || {
            for _ in 0..CONNECTIONS {
                let slow = Options { receive_buffer: Some(4096), ..Options::default() };
                let conn = app.open_with(to, slow)?.conn;
                app.write(conn, &asked)?;
                conns.push(conn);
            }
            still(&rest)
        })
    })?;
    let (over, all) = (over()? - before, CONNECTIONS * u64::from(STREAMS));
    ensure!((all / 3..all).contains(&over), "{over} of {all} were refused");
    for conn in conns {
        app.close(conn)?;
    }
    wait::until("room for long heads", wait::DEADLINE, || {
        let replies = row()?;
        ensure!(replies.iter().all(|reply| reply.status == 200), "{:?}", replies.last());
        Ok(())
    })?;
    wire.finish()
}

#[test]
fn answers_nobody_reads_hold_little() -> Result<()> {
    let wire = Wire::new("unreadanswers")?;
    let plain = Plain::new(&wire, Behaviour::Http)?;
    let app = &wire.web.app;
    wait::until("the server to answer", wait::DEADLINE, || {
        let reply = wire.web.steered(1, || app.fetch(plain.service.v4(), Http::One, Ask::get("/")))?;
        ensure!(reply.status == 200, "{reply:?}");
        Ok(())
    })?;
    let rest = Rest::of(&wire)?;
    wire.web.steered(ANSWERS, || {
        rest.bears("answers of 8 MB that are not read", || {
            for _ in 0..ANSWERS {
                let slow = Options { receive_buffer: Some(4096), ..Options::default() };
                let conn = app.open_with(plain.service.v4(), slow)?.conn;
                app.say(conn, "GET /bytes/8000000 HTTP/1.1\r\nHost: a\r\n\r\n")?;
            }
            still(&rest)
        })
    })?;
    wire.finish()
}
