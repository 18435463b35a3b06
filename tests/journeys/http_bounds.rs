//! What counts against a policy's bounds, and how long, and what becomes of what is over them.

use anyhow::{Result, ensure};
use serde_json::json;
use weft_tests::app::{Ask, Behaviour, Http, Requests, Until};
use weft_tests::lab::AgentOptions;
use weft_tests::wait;

use crate::fixture::{anywhere, running_agent};
use crate::http::Web;
use crate::http_policy::{policy, service};
use crate::http_retries::rule;

/// What a connection goes on with: bytes, both ways.
const SWITCHES: [(&str, &str); 2] = [
    (
        "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ),
    ("CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"),
];

/// Whether one more request is refused; the server lets it go if it is not.
fn is_refused(web: &Web) -> Result<bool> {
    let (_, server, listener) = &web.servers[0];
    let once = Requests { deadline_ms: 500, ..Requests::to(web.web.v4(), Http::One, Ask::get("/"), 1) };
    let refused = web.app.request(once)?.with(503) == 1;
    if !refused {
        server.close(server.accept(*listener)?.conn)?;
    }
    Ok(refused)
}

#[test]
fn switched_connections_count_as_requests() -> Result<()> {
    let web = Web::with("switched", 1, &Behaviour::Manual, "http")?;
    let (pod, server, listener) = &web.servers[0];
    web.lab.wait_live(pod)?;
    policy(&web.lab, "a-limits", &service("web"), &json!({"limits": {"requests": 1}}))?;
    for (ask, answer) in SWITCHES {
        let (near, far) = wait::until("a request beside one that has switched to be refused", wait::DEADLINE, || {
            let near = web.steered(1, || web.app.open(web.web.v4()))?.conn;
            web.app.say(near, ask)?;
            let far = server.accept(*listener)?.conn;
            server.receive(far, Until::Head)?;
            server.say(far, answer)?;
            web.app.receive(near, Until::Head)?;
            let refused = is_refused(&web)?;
            if !refused {
                server.close(far)?;
                web.app.close(near)?;
            }
            ensure!(refused, "it was let in");
            Ok((near, far))
        })?;
        // It works all the while, and its end makes room.
        web.app.say(near, "ping")?;
        ensure!(server.receive(far, Until::Bytes(4))?.text == "ping" && is_refused(&web)?);
        server.close(far)?;
        web.app.close(near)?;
        wait::until("room for another", wait::DEADLINE, || {
            ensure!(!is_refused(&web)?, "it was refused");
            Ok(())
        })?;
    }
    ensure!(web.counted(&[("response_code", "503"), ("error", "overloaded")])? >= 4);
    web.lab.finish()
}

#[test]
fn what_is_refused_is_not_mirrored() -> Result<()> {
    let web = Web::serving("unmirrored", 1, "http")?;
    let pod = web.lab.pod(&web.b, "copies").create()?;
    let getter = pod.app(&web.lab)?;
    let (copies, _) = getter.listen(anywhere(8080), "copies", Behaviour::Http)?;
    web.lab.service("copies").speaks("http").pods(&[&pod]).create()?;
    web.lab.wait_live(&pod)?;
    let mirror = json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "copies", "port": 80}}});
    rule(&web.lab, &json!({"filters": [mirror], "backendRefs": [{"name": "web", "port": 80}]}))?;
    wait::until("requests to be copied", wait::DEADLINE, || {
        web.app.fetch(web.web.v4(), Http::One, Ask::get("/"))?;
        ensure!(getter.seen(copies)?.requests > 0, "there is no copy");
        Ok(())
    })?;
    // Those that were made before there was a rule have none.
    let (_, server, listener) = &web.servers[0];
    let without = server.seen(*listener)?.requests - getter.seen(copies)?.requests;
    // One of two fails on purpose, and of the others some are too many.
    let settings = json!({
        "rateLimit": {"requests": 60, "interval": "1m", "burst": 40},
        "fault": {"abort": {"percent": 50, "status": 418}}
    });
    policy(&web.lab, "a-rate", &service("web"), &settings)?;
    for http in [Http::One, Http::Two] {
        wait::until("requests to be refused", wait::DEADLINE, || {
            let answers = web.steered(1, || web.app.request(Requests::to(web.web.v4(), http, Ask::get("/"), 100)))?;
            ensure!(answers.with(429) > 0 && answers.with(418) > 0, "{answers:?}");
            Ok(())
        })?;
        wait::until("a copy of each that went on", wait::DEADLINE, || {
            let (made, copied) = (server.seen(*listener)?.requests, getter.seen(copies)?.requests);
            ensure!(copied <= made && made - copied <= without, "{copied} copies of {made} requests");
            Ok(())
        })?;
    }
    web.lab.finish()
}

#[test]
fn unfinished_heads_are_ended() -> Result<()> {
    let web = Web::serving("unfinished", 1, "http")?;
    let old = running_agent(&web.lab, &web.a)?;
    web.lab.start_agent(&web.a, AgentOptions::with(&["--request-head-timeout", "2s"]))?;
    ensure!(old.process().wait(wait::DEADLINE)?.success());
    web.answers()?;
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    // One that only waits for its next request waits on.
    let idle = web.app.open(web.web.v4())?.conn;
    web.app.say(idle, get)?;
    ensure!(web.app.receive(idle, Until::Head)?.text.starts_with("HTTP/1.1 200"));
    let begun =
        ["P", "GET / HT", "GET / HTTP/1.1\r\nHost: a\r\n", &format!("{get}GET / HTTP/1.1\r\nX: "), "PRI * HTTP/2.0"];
    let conns = web.steered(begun.len() as u64, || {
        begun
            .iter()
            .map(|text| {
                let conn = web.app.open(web.web.v4())?.conn;
                web.app.say(conn, text)?;
                Ok(conn)
            })
            .collect::<Result<Vec<_>>>()
    })?;
    for (text, conn) in begun.iter().zip(conns) {
        let said = web.app.receive(conn, Until::End)?;
        let answer = said.text.find("HTTP/1.1 408 ").map(|at| said.text[at..].to_lowercase()).unwrap_or_default();
        ensure!(answer.contains("\r\nweft-error: request_timeout\r\n"), "{text:?} was answered with {:?}", said.text);
        ensure!(answer.contains("\r\nconnection: close\r\n") && said.end.is_some(), "{text:?}: {said:?}");
    }
    let counted = web.counted(&[("response_code", "408"), ("error", "request_timeout")])?;
    ensure!(counted == begun.len() as u64, "{counted} of {} were counted", begun.len());
    web.app.say(idle, get)?;
    let said = web.app.receive(idle, Until::Bytes(12))?.text;
    ensure!(!said.is_empty(), "the idle connection is gone");
    web.lab.finish()
}
