//! Requests that are sent again: which, how often, and with what of their bodies.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::app::{Ask, Behaviour, Http, Payload, Reply, Requests, Until};
use weft_tests::lab::{Lab, NAMESPACE};
use weft_tests::wait;

use crate::http::Web;

/// Attaches an HTTPRoute with this rule to `web`.
pub(crate) fn rule(lab: &Lab, rule: &Value) -> Result<()> {
    lab.manifests().put(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}],
            "rules": [rule]
        }
    }))
}

/// One that has failures repeated, and says that it is in force.
fn repeating(lab: &Lab, attempts: u32) -> Result<()> {
    let there = json!([{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-rule", "value": "1"}]}}]);
    let retry = json!({"attempts": attempts, "codes": [503], "backoff": "10ms"});
    rule(lab, &json!({"retry": retry, "filters": there, "backendRefs": [{"name": "web", "port": 80}]}))
}

fn in_force(web: &Web) -> Result<()> {
    wait::until("the route", wait::DEADLINE, || {
        let reply = web.app.fetch(web.web.v4(), Http::One, Ask::get("/"))?;
        ensure!(reply.header("x-rule") == Some("1"), "{reply:?}");
        Ok(())
    })
}

/// How often the servers have the request when it is made once, with how many bytes in all; and the reply.
fn made(web: &Web, http: Http, ask: Ask) -> Result<(u64, u64, Reply)> {
    let seen = || -> Result<(u64, u64)> {
        web.servers.iter().try_fold((0, 0), |(requests, bytes), (_, server, listener)| {
            let seen = server.seen(*listener)?;
            Ok((requests + seen.requests, bytes + seen.body_bytes))
        })
    };
    let before = seen()?;
    let reply = web.steered(1, || web.app.fetch(web.web.v4(), http, ask))?;
    let after = seen()?;
    Ok((after.0 - before.0, after.1 - before.1, reply))
}

#[test]
fn no_retry_after_body_too_large() -> Result<()> {
    let web = Web::serving("retrybody", 2, "http")?;
    repeating(&web.lab, 2)?;
    in_force(&web)?;
    for http in [Http::One, Http::Two] {
        for (length, times) in [(0, 3), (1000, 3), (65_536, 3), (65_537, 1), (3_000_000, 1)] {
            let body = Payload::Noise { seed: 7, length };
            let (requests, bytes, reply) = made(&web, http, Ask::post("/status/503", body.clone()))?;
            ensure!(
                requests == times && bytes == times * length,
                "{length} bytes: made {requests} times, {bytes} in all"
            );
            let saw = reply.saw()?;
            ensure!(reply.status == 503 && saw.body == body.sum() && saw.method == "POST", "{reply:?}");
        }
    }
    web.lab.finish()
}

#[test]
fn retry_after_reset_sends_the_same_body() -> Result<()> {
    let web = Web::with("retryreset", 1, &Behaviour::Manual, "http")?;
    let (_, server, listener) = &web.servers[0];
    repeating(&web.lab, 1)?;
    wait::until("the Service to be steered", wait::DEADLINE, || {
        web.steered(1, || web.app.open(web.web.v4())).and_then(|open| web.app.close(open.conn))
    })?;
    let request = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n";
    wait::until("a request to be sent again", wait::DEADLINE, || {
        let client = web.app.open(web.web.v4())?.conn;
        web.app.say(client, &format!("{request}hello "))?;
        // The first connection breaks off in the middle of the body; the other gets it from its beginning.
        let first = server.accept(*listener)?.conn;
        let head = server.receive(first, Until::Head)?.text;
        ensure!(server.receive(first, Until::Bytes(6))?.text == "hello ");
        server.reset(first)?;
        let second = server.accept(*listener)?.conn;
        let again = server.receive(second, Until::Head)?.text;
        ensure!(again == head, "{again:?} is not {head:?}");
        web.app.say(client, "world")?;
        ensure!(server.receive(second, Until::Bytes(11))?.text == "hello world");
        server.say(second, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        let answer = web.app.receive(client, Until::Head)?.text;
        ensure!(answer.starts_with("HTTP/1.1 200") && answer.to_lowercase().contains("x-rule: 1"), "{answer:?}");
        web.app.close(client)
    })?;
    web.lab.finish()
}

#[test]
fn retry_budget_respected() -> Result<()> {
    let web = Web::serving("retrybudget", 2, "http")?;
    repeating(&web.lab, 3)?;
    in_force(&web)?;
    let seen = || -> Result<u64> {
        web.servers.iter().map(|(_, server, listener)| Ok(server.seen(*listener)?.requests)).sum()
    };
    let (before, begun) = (seen()?, std::time::Instant::now());
    let requests = Requests::to(web.web.v4(), Http::Two, Ask::get("/status/503"), 1000).over(4, 5);
    let answers = web.steered(4, || web.app.request(requests))?;
    let (took, retries) = (begun.elapsed().as_secs_f64(), seen()? - before - 1000);
    ensure!(answers.with(503) == 1000, "{answers:?}");
    // A fifth of what the client asked, and ten a second; without a budget it would be three thousand.
    let most = 200.0 + 10.0 * (took + 1.0) + 1.0;
    ensure!((100.0..=most).contains(&(retries as f64)), "{retries} retries in {took:.1} s, at most {most:.0} allowed");
    web.lab.finish()
}

#[test]
fn retry_grpc_trailers_only() -> Result<()> {
    let web = Web::serving("retrygrpc", 2, "grpc")?;
    repeating(&web.lab, 2)?;
    in_force(&web)?;
    let call = |field: &str, status: &str| Ask::grpc("hello").with(&[(field, status)]);
    for (ask, times, status) in [
        (call("x-fail", "14"), 3, "14"),
        (call("x-fail", "5"), 1, "5"),
        // What has said something is not taken back.
        (call("x-fail-late", "14"), 1, "14"),
    ] {
        let (requests, _, reply) = made(&web, Http::Two, ask.clone())?;
        let said = reply.header("grpc-status").or(reply.trailer("grpc-status")).context("no status")?;
        ensure!(requests == times && said == status, "{ask:?} was made {requests} times: {reply:?}");
    }
    web.lab.finish()
}
