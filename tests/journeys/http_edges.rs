//! Small promises about requests: connections that are idle, and filters nobody knows.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use weft_tests::app::{Ask, Http, Requests, Until};
use weft_tests::lab::NAMESPACE;
use weft_tests::wait;

use crate::http::Web;
use crate::http_policy::{policy, service};

#[test]
fn idle_http_connections_are_let_go() -> Result<()> {
    let web = Web::serving("httpidle", 1, "http")?;
    policy(&web.lab, "a-idle", &service("web"), &json!({"idleTimeout": "2s"}))?;
    let used = [Http::One, Http::Two].map(|http| {
        let requests = Requests::to(web.web.v4(), http, Ask::get("/"), 0).pause_ms(300);
        web.app.start_requests(requests)
    });
    // One that has had its answer, and one on which nothing was ever said.
    wait::until("an idle connection to be ended", wait::DEADLINE, || {
        let conn = web.steered(1, || web.app.open(web.web.v4()))?.conn;
        web.app.say(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
        let head = web.app.receive(conn, Until::Head)?.text;
        ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
        let begun = Instant::now();
        let rest = web.app.receive(conn, Until::End)?;
        let took = begun.elapsed();
        web.app.close(conn)?;
        ensure!(rest.end.is_some(), "it was not ended");
        ensure!((Duration::from_millis(1900)..Duration::from_secs(6)).contains(&took), "ended after {took:?}");
        Ok(())
    })?;
    let two = web.steered(1, || web.app.open(web.web.v6()))?.conn;
    web.app.write(two, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
    let begun = Instant::now();
    ensure!(web.app.receive(two, Until::End)?.end.is_some(), "one of HTTP/2 was not ended");
    ensure!(begun.elapsed() < Duration::from_secs(6), "ended after {:?}", begun.elapsed());
    // Those that are used stay, and are the same.
    for used in used {
        let answers = web.app.stop_requests(used?)?;
        ensure!(answers.failed() == 0 && answers.connections == 1 && answers.with(200) >= 10, "{answers:?}");
    }
    web.lab.finish()
}

#[test]
fn filters_nobody_knows_refuse_their_rule() -> Result<()> {
    let web = Web::serving("extension", 1, "http")?;
    web.lab.expect_error("is not supported; the rule's requests are refused");
    let to = json!([{"name": "web", "port": 80}]);
    let extension =
        json!([{"type": "ExtensionRef", "extensionRef": {"group": "example.com", "kind": "Guard", "name": "door"}}]);
    let prefix = |path: &str| json!([{"path": {"type": "PathPrefix", "value": path}}]);
    let mark = json!([{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-rule", "value": "1"}]}}]);
    web.lab.manifests().put(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}],
            "rules": [
                {"matches": prefix("/rule"), "filters": extension, "backendRefs": to},
                {"matches": prefix("/backend"), "backendRefs": [{"name": "web", "port": 80, "filters": extension}]},
                {"filters": mark, "backendRefs": to}
            ]
        }
    }))?;
    wait::until("the route", wait::DEADLINE, || {
        let reply = web.app.fetch(web.web.v4(), Http::One, Ask::get("/"))?;
        ensure!(reply.header("x-rule") == Some("1"), "{reply:?}");
        Ok(())
    })?;
    let (_, server, listener) = &web.servers[0];
    let labels = [("response_code", "500"), ("error", "rule_unsupported")];
    let (before, counted) = (server.seen(*listener)?.requests, web.counted(&labels)?);
    // What a filter would have held back does not pass because nobody knows the filter.
    for http in [Http::One, Http::Two] {
        for path in ["/rule", "/rule/deeper", "/backend"] {
            let replies = web.steered(1, || web.app.row(web.web.v4(), http, Ask::get(path), 10))?;
            for reply in replies {
                ensure!((reply.status, reply.header("weft-error")) == (500, Some("rule_unsupported")), "{reply:?}");
                ensure!(reply.text.contains("filters[0]: is not supported"), "{reply:?}");
            }
        }
    }
    ensure!(server.seen(*listener)?.requests == before, "a request was sent all the same");
    ensure!(web.counted(&labels)? == counted + 60, "not counted as {labels:?}");
    // The other rules work.
    let answers = web.app.request(Requests::to(web.web.v4(), Http::Two, Ask::get("/other"), 50))?;
    ensure!(answers.with(200) == 50, "{answers:?}");
    web.lab.finish()
}
