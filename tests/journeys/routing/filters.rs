//! What a rule makes of a request and of its response.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_tests::app::{Ask, Http, Payload, Requests};
use weft_tests::lab::NAMESPACE;
use weft_tests::wait;

use super::{ROW, Routes, to};

/// `web` with a route of these rules, in force.
fn routed(name: &str, rules: Value) -> Result<Routes> {
    let routes = Routes::new(name, Some("http"))?;
    routes.route("HTTPRoute", NAMESPACE, "web", rules)?;
    routes.in_force()?;
    Ok(routes)
}

fn below(path: &str) -> Value {
    json!([{"path": {"type": "PathPrefix", "value": path}}])
}

#[test]
fn header_modification() -> Result<()> {
    let edits = |name: &str| {
        json!({
            "set": [{"name": format!("x-set-{name}"), "value": name}, {"name": "x-last", "value": name}],
            "add": [{"name": "x-add", "value": name}],
            "remove": ["x-gone"]
        })
    };
    let filters = |name: &str| {
        json!([
            {"type": "RequestHeaderModifier", "requestHeaderModifier": edits(name)},
            {"type": "ResponseHeaderModifier", "responseHeaderModifier": edits(name)}
        ])
    };
    let backend = json!({"name": "v1", "port": 80, "filters": filters("backend")});
    let routes = routed(
        "headers",
        json!([
            {"matches": below("/headers"), "filters": filters("rule"), "backendRefs": [backend]},
            {"backendRefs": to("v2")},
        ]),
    )?;
    for http in [Http::One, Http::Two] {
        for _ in 0..ROW {
            let ask =
                Ask::get("/headers").with(&[("x-gone", "1"), ("X-Gone", "2"), ("x-add", "mine"), ("x-last", "mine")]);
            let reply = routes.app.fetch(routes.web.v4(), http, ask)?;
            let saw = reply.saw()?;
            ensure!(
                saw.header("x-set-rule") == Some("rule") && saw.header("x-set-backend") == Some("backend"),
                "{saw:?}"
            );
            let all = |name: &str| -> Vec<_> {
                saw.headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect()
            };
            // The rule's come before the backend's, and who adds takes nothing away.
            ensure!(all("x-add") == ["mine", "rule", "backend"] && all("x-last") == ["backend"], "{saw:?}");
            ensure!(all("x-gone").is_empty(), "{saw:?}");
            ensure!(reply.header("x-set-backend") == Some("backend"), "{reply:?}");
            // On the way back the rule's come last.
            ensure!((reply.header("x-set-rule"), reply.header("x-last")) == (Some("rule"), Some("rule")), "{reply:?}");
        }
        let reply = routes.app.fetch(routes.web.v4(), http, Ask::get("/other").with(&[("x-gone", "1")]))?;
        ensure!(reply.saw()?.header("x-gone") == Some("1") && reply.header("x-set-rule").is_none(), "{reply:?}");
    }
    routes.lab.finish()
}

#[test]
fn rewrite() -> Result<()> {
    let filter = |rewrite: Value| json!([{"type": "URLRewrite", "urlRewrite": rewrite}]);
    let prefix = |new: &str| json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": new});
    let whole = json!({"type": "ReplaceFullPath", "replaceFullPath": "/whole"});
    let rule = |path: &str, rewrite: Value| json!({"matches": below(path), "filters": filter(rewrite), "backendRefs": to("v1")});
    let routes = routed(
        "rewrite",
        json!([
            rule("/old", json!({"hostname": "new.example", "path": prefix("/new")})),
            rule("/cut", json!({"path": prefix("/")})),
            rule("/full", json!({"path": whole})),
            rule("/host", json!({"hostname": "other.example"})),
            {"backendRefs": to("v2")},
        ]),
    )?;
    let dialled = routes.web.v4().to_string();
    let cases = [
        ("/old/a?b=c", "/new/a?b=c", "new.example"),
        ("/old", "/new", "new.example"),
        ("/old/", "/new/", "new.example"),
        ("/older", "/older", &dialled),
        ("/cut/a%20b?c", "/a%20b?c", &dialled),
        ("/cut", "/", &dialled),
        ("/full/a?b", "/whole?b", &dialled),
        ("/host/a", "/host/a", "other.example"),
    ];
    for _ in 0..ROW {
        for (asked, path, host) in cases {
            let saw = routes.get(&Ask::get(asked))?.saw()?;
            ensure!((saw.target.as_str(), saw.header("host")) == (path, Some(host)), "{asked}: {saw:?}");
        }
    }
    for (asked, path, host) in cases {
        let saw = routes.app.fetch(routes.web.v4(), Http::Two, Ask::get(asked))?.saw()?;
        ensure!(saw.target == format!("http://{host}{path}"), "{asked}: {saw:?}");
    }
    routes.lab.finish()
}

#[test]
fn redirect() -> Result<()> {
    let filter = |redirect: Value| json!([{"type": "RequestRedirect", "requestRedirect": redirect}]);
    let rule = |path: &str, redirect: Value| json!({"matches": below(path), "filters": filter(redirect)});
    let prefix = json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": "/here"});
    let whole = json!({"type": "ReplaceFullPath", "replaceFullPath": "/whole"});
    let routes = routed(
        "redirect",
        json!([
            rule("/moved", json!({"scheme": "https", "hostname": "there.example", "statusCode": 301, "path": prefix})),
            rule("/port", json!({"port": 8443, "statusCode": 307})),
            rule("/whole", json!({"hostname": "there.example", "path": whole})),
            {"backendRefs": to("v2")},
        ]),
    )?;
    let at = routes.web.v4();
    let seen = || -> Result<u64> { routes.servers.iter().map(|(server, of)| Ok(server.seen(*of)?.requests)).sum() };
    let before = seen()?;
    for http in [Http::One, Http::Two] {
        for _ in 0..ROW {
            for (asked, status, location) in [
                ("/moved/x?y=z", 301, "https://there.example/here/x?y=z".to_owned()),
                ("/moved", 301, "https://there.example/here".to_owned()),
                ("/port/a", 307, format!("http://{}:8443/port/a", at.ip())),
                ("/whole/a?b", 302, "http://there.example/whole?b".to_owned()),
            ] {
                let moved = routes.app.fetch(at, http, Ask::get(asked))?;
                ensure!((moved.status, moved.header("location")) == (status, Some(&*location)), "{asked}: {moved:?}");
            }
        }
    }
    // Nobody but the mesh had anything to do with it.
    ensure!(seen()? == before);
    routes.lab.finish()
}

#[test]
fn mirror() -> Result<()> {
    let routes = Routes::new("mirror", Some("http"))?;
    let copy = |to: &str, percent: u32| json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": to, "port": 80}, "percent": percent}});
    routes.route(
        "HTTPRoute",
        NAMESPACE,
        "web",
        json!([
            {"matches": [{"path": {"type": "PathPrefix", "value": "/all"}}], "filters": [copy("v2", 100)], "backendRefs": to("v1")},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/half"}}], "filters": [copy("v2", 50)], "backendRefs": to("v1")},
            {"backendRefs": to("v1")},
        ]),
    )?;
    routes.in_force()?;
    let (server, listener) = &routes.servers[1];
    for http in [Http::One, Http::Two] {
        let before = server.seen(*listener)?;
        let ask = Ask::post("/all", Payload::Noise { seed: 9, length: 100_000 });
        let answers = routes.app.request(Requests::to(routes.web.v4(), http, ask, 20))?;
        ensure!(answers.names == BTreeMap::from([("v1".to_owned(), 20)]) && answers.with(200) == 20, "{answers:?}");
        wait::until("the copies to arrive whole", wait::DEADLINE, || {
            let seen = server.seen(*listener)?;
            let (made, bytes) = (seen.requests - before.requests, seen.body_bytes - before.body_bytes);
            ensure!((made, bytes) == (20, 2_000_000), "{made} copies of {bytes} bytes");
            Ok(())
        })?;
    }
    let before = server.seen(*listener)?.requests;
    routes.app.request(Requests::to(routes.web.v4(), Http::One, Ask::get("/half"), 200))?;
    wait::until("about half to be copied", wait::DEADLINE, || {
        let made = server.seen(*listener)?.requests - before;
        // Four standard deviations.
        ensure!((72..=128).contains(&made), "{made} copies of 200");
        Ok(())
    })?;
    // Who gets copies delays nobody, and breaks nothing by being gone.
    server.process().kill()?;
    let answers = routes.app.request(Requests::to(routes.web.v4(), Http::One, Ask::get("/all"), 50))?;
    ensure!(answers.with(200) == 50 && answers.median_ms < 50.0, "{answers:?}");
    routes.lab.finish()
}
