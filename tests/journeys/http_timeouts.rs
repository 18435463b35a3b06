//! How long a request may take, as its rule has it: one try, all of it, and what has begun to be answered.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::app::{App, Ask, Behaviour, End, Http, Requests, Until};
use weft_tests::lab::{Endpoint, Pod};
use weft_tests::wait;

use crate::fixture::anywhere;
use crate::http::Web;
use crate::http_retries::rule;

/// What a try is given, where one is bounded.
const EACH: Duration = Duration::from_millis(300);

/// Has requests to `web` bounded so, and waits until they are.
fn bounded(web: &Web, mark: &str, settings: &Value) -> Result<()> {
    let mut bounded = settings.clone();
    bounded["filters"] = json!([{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-rule", "value": mark}]}}]);
    bounded["backendRefs"] = json!([{"name": "web", "port": 80}]);
    rule(&web.lab, &bounded)?;
    wait::until("the rule to be in force", wait::DEADLINE, || {
        let reply = web.app.fetch(web.web.v4(), Http::One, Ask::get("/"))?;
        ensure!(reply.header("x-rule") == Some(mark), "{reply:?}");
        Ok(())
    })
}

/// One more endpoint, which takes connections and does this; not in the Service yet.
fn another(web: &Web, behaviour: Behaviour) -> Result<(Pod, App, u64)> {
    let pod = web.lab.pod(&web.b, "late").create()?;
    let app = pod.app(&web.lab)?;
    let (listener, _) = app.listen(anywhere(8080), "late", behaviour)?;
    web.lab.wait_live(&pod)?;
    Ok((pod, app, listener))
}

#[test]
fn a_try_that_takes_too_long_is_given_up() -> Result<()> {
    let web = Web::serving("trylate", 1, "http")?;
    bounded(&web, "each", &json!({"timeouts": {"backendRequest": "300ms"}}))?;
    let late = |ask: Ask| ask.with(&[("x-late", "1")]);
    for (http, protocol, ask, status) in [
        (Http::One, "http1", Ask::get("/wait/20000"), (504, None)),
        (Http::Two, "http2", Ask::get("/wait/20000"), (504, None)),
        (Http::Two, "grpc", Ask { target: "/wait/20000".into(), ..Ask::grpc("hello") }, (200, Some("4"))),
    ] {
        let labels = [("request_protocol", protocol), ("response_code", "504"), ("error", "timeout")];
        let (before, begun) = (web.counted(&labels)?, Instant::now());
        let reply = web.steered(1, || web.app.fetch(web.web.v4(), http, late(ask)))?;
        let took = begun.elapsed();
        ensure!((reply.status, reply.header("grpc-status")) == status, "{protocol}: {reply:?}");
        ensure!(reply.header("weft-error") == Some("timeout"), "{protocol}: {reply:?}");
        ensure!((EACH..Duration::from_secs(5)).contains(&took), "{protocol}: given up after {took:?}");
        ensure!(web.counted(&labels)? == before + 1, "{protocol} is not counted as {labels:?}");
    }
    // Who is asked over HTTP/2 is told.
    let (_, server, listener) = &web.servers[0];
    wait::until("the endpoint to stop working for nobody", wait::DEADLINE, || {
        let seen = server.seen(*listener)?;
        ensure!(seen.cancelled >= 2, "{} were given up", seen.cancelled);
        Ok(())
    })?;
    // One that is in time is not concerned.
    for http in [Http::One, Http::Two] {
        let answers = web.app.request(Requests::to(web.web.v6(), http, Ask::get("/wait/20"), 20))?;
        ensure!(answers.with(200) == 20, "{answers:?}");
    }
    web.lab.finish()
}

#[test]
fn a_try_that_takes_too_long_is_made_again() -> Result<()> {
    let web = Web::serving("tryagain", 1, "http")?;
    let settings = |whole: &str| json!({"timeouts": {"request": whole, "backendRequest": "300ms"}, "retry": {"attempts": 3, "backoff": "10ms"}});
    bounded(&web, "again", &settings("10s"))?;
    let (pod, late, listener) = another(&web, Behaviour::Stall)?;
    let good = &web.servers[0].0;
    web.lab.set_endpoints(&web.web, vec![Endpoint::from(good), Endpoint::from(&pod)])?;
    let (failures, before) = (web.counted(&[("error", "timeout")])?, late.seen(listener)?.accepted);
    // Each that meets the slow endpoint costs its client the time of one try, and nothing else.
    for http in [Http::One, Http::Two] {
        let mut replies = Vec::new();
        let slowest = wait::until("a request to meet the slow endpoint", wait::DEADLINE, || {
            let begun = Instant::now();
            replies.push(web.steered(1, || web.app.fetch(web.web.v4(), http, Ask::get("/")))?);
            let took = begun.elapsed();
            ensure!(took >= EACH, "the last took {took:?}");
            Ok(took)
        })?;
        for reply in replies {
            ensure!((reply.status, reply.header("x-name")) == (200, Some("v1")), "{http:?}: {reply:?}");
        }
        ensure!(slowest < Duration::from_secs(5), "it took {slowest:?}");
    }
    ensure!(late.seen(listener)?.accepted > before, "the slow endpoint was never tried");
    ensure!(web.counted(&[("error", "timeout")])? == failures, "an answered request is counted as late");
    // Nobody else is there: tries go on until the time of the whole request is over.
    bounded(&web, "whole", &settings("1s"))?;
    web.lab.set_endpoints(&web.web, vec![Endpoint::from(&pod)])?;
    wait::until("the good endpoint to be gone", wait::DEADLINE, || {
        let before = late.seen(listener)?.accepted;
        let begun = Instant::now();
        let reply = web.app.fetch(web.web.v4(), Http::One, Ask::get("/"))?;
        let (took, tries) = (begun.elapsed(), late.seen(listener)?.accepted - before);
        ensure!((reply.status, reply.header("weft-error")) == (504, Some("timeout")), "{reply:?}");
        ensure!(took >= Duration::from_secs(1) && took < Duration::from_secs(5), "it took {took:?}");
        ensure!((2..=4).contains(&tries), "tried {tries} times");
        Ok(())
    })?;
    web.lab.finish()
}

#[test]
fn a_response_that_takes_too_long_is_cut_short() -> Result<()> {
    let web = Web::serving("responselate", 1, "http")?;
    bounded(&web, "whole", &json!({"timeouts": {"request": "500ms"}}))?;
    let counted =
        |protocol: &str| web.counted(&[("request_protocol", protocol), ("response_code", "200"), ("error", "timeout")]);
    // It streams on and on: neither version may have it look whole.
    for (http, protocol) in [(Http::One, "http1"), (Http::Two, "http2")] {
        let before = counted(protocol)?;
        let begun = Instant::now();
        let endless = Ask::get("/bytes/1000000000000");
        let cut = web.steered(1, || Ok(web.app.fetch(web.web.v4(), http, endless).err()))?;
        let (took, cut) = (begun.elapsed(), format!("{:#}", cut.context("it came to an end")?));
        ensure!(cut.contains("body: "), "{protocol}: {cut}");
        ensure!(took >= Duration::from_millis(500) && took < Duration::from_secs(5), "{protocol}: it took {took:?}");
        ensure!(counted(protocol)? == before + 1, "{protocol} is not counted");
        let whole = web.app.fetch(web.web.v4(), http, Ask::get("/bytes/300000"))?;
        ensure!(whole.status == 200 && whole.sum.length == 300_000, "{whole:?}");
    }
    // One that has begun and says no more; its endpoint is told that nobody waits.
    let (pod, server, listener) = another(&web, Behaviour::Manual)?;
    web.lab.set_endpoints(&web.web, vec![Endpoint::from(&pod)])?;
    wait::until("a response to be cut in the middle", wait::DEADLINE, || {
        let client = web.steered(1, || web.app.open(web.web.v4()))?.conn;
        web.app.say(client, "GET /begun HTTP/1.1\r\nHost: a\r\n\r\n")?;
        let far = server.accept(listener)?.conn;
        server.receive(far, Until::Head)?;
        server.say(far, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")?;
        let head = web.app.receive(client, Until::Head)?.text;
        ensure!(head.starts_with("HTTP/1.1 200") && head.to_lowercase().contains("x-rule: whole"), "{head:?}");
        let rest = web.app.receive(client, Until::End)?;
        ensure!(rest.text == "5\r\nhello\r\n", "{rest:?} is not what came in time");
        ensure!(matches!(rest.end, Some(End::Fin | End::Reset)), "{rest:?}");
        ensure!(server.receive(far, Until::End)?.end.is_some(), "the endpoint still has its connection");
        Ok(())
    })?;
    web.lab.finish()
}
