//! Rules of HTTPRoutes: whom they take by expressions, and TrafficPolicies for one of them, which leave the others alone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_tests::app::{Ask, Http, Reply, Requests};
use weft_tests::lab::{Lab, NAMESPACE};
use weft_tests::wait;

use crate::http::Web;
use crate::http_policy::policy;

/// In a row: what holds once may hold by chance.
const ROW: u64 = 50;
/// Requests a rule lets in at once, one more in a minute.
const BURST: u64 = 10;

/// Attaches an HTTPRoute of these rules to `web`.
fn route(lab: &Lab, rules: &Value) -> Result<()> {
    lab.manifests().put(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}], "rules": rules}
    }))
}

fn get(web: &Web, ask: &Ask) -> Result<Reply> {
    web.steered(1, || web.app.fetch(web.web.v4(), Http::One, ask.clone()))
}

#[test]
fn http_routes_match_by_expression() -> Result<()> {
    let web = Web::serving("httpregex", 2, "http")?;
    for (pod, ..) in &web.servers {
        web.lab.service(pod.name()).speaks("http").pods(&[pod]).create()?;
    }
    let like = |name: &str, value: &str| json!([{"type": "RegularExpression", "name": name, "value": value}]);
    let path = |value: &str| json!({"type": "RegularExpression", "value": value});
    let to = |name: &str| json!([{"name": name, "port": 80}]);
    route(
        &web.lab,
        &json!([
            {"matches": [{"headers": like("X-User", "a[0-9]+|b.*z")}], "backendRefs": to("v2")},
            {"matches": [{"queryParams": like("v", "[2-9]\\d*|two words")}], "backendRefs": to("v2")},
            {"matches": [{"path": path("/items/[0-9]+(/.*)?")}], "backendRefs": to("v2")},
            {"matches": [{"headers": like("x-both", "y.s"), "queryParams": like("both", "y.s")}], "backendRefs": to("v1")},
        ]),
    )?;
    let user = |value: &str| Ask::get("/").with(&[("x-user", value)]);
    wait::until("the route", wait::DEADLINE, || {
        let reply = get(&web, &Ask::get("/"))?;
        ensure!(reply.status == 404, "{reply:?}");
        Ok(())
    })?;
    for (ask, name) in [
        (user("a42"), "v2"),
        (user("bz"), "v2"),
        (user("b to z"), "v2"),
        (Ask::get("/?v=7"), "v2"),
        (Ask::get("/any?u=1&v=20"), "v2"),
        // As it is meant, not as it is written.
        (Ask::get("/?v=%32"), "v2"),
        (Ask::get("/?v=two+words"), "v2"),
        (Ask::get("/items/7"), "v2"),
        (Ask::get("/items/7/parts?v=1"), "v2"),
        (Ask::get("/?both=yes").with(&[("x-both", "yes")]), "v1"),
    ] {
        for http in [Http::One, Http::Two] {
            let asked = Requests::to(web.web.v4(), http, ask.clone(), ROW);
            let answers = web.steered(1, || web.app.request(asked))?;
            ensure!(answers.names == BTreeMap::from([(name.to_owned(), ROW)]), "{ask:?}: {answers:?}");
        }
    }
    // All of a value, in its own case; the first of several parameters; both conditions of a match.
    for nobody in [
        user("a"),
        user("xa42"),
        user("a42x"),
        user("A42"),
        Ask::get("/?v=12"),
        Ask::get("/?v=2x"),
        Ask::get("/?v=1&v=2"),
        Ask::get("/?V=2"),
        Ask::get("/items/7x"),
        Ask::get("/other/items/7"),
        Ask::get("/?both=yes"),
        Ask::get("/?both=yes").with(&[("x-both", "yess")]),
    ] {
        let reply = get(&web, &nobody)?;
        ensure!((reply.status, reply.header("weft-error")) == (404, Some("no_route")), "{nobody:?}: {reply:?}");
    }
    web.lab.finish()
}

/// A rule of this name for what is below it.
fn named(name: &str) -> Value {
    json!({
        "name": name,
        "matches": [{"path": {"type": "PathPrefix", "value": format!("/{name}")}}],
        "backendRefs": [{"name": "web", "port": 80}]
    })
}

/// Puts a policy for one rule.
fn of_rule(lab: &Lab, rule: &str, settings: &Value) -> Result<()> {
    let target =
        json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "web", "sectionName": rule}]);
    policy(lab, rule, &target, settings)
}

#[test]
fn rules_have_limits_and_faults_of_their_own() -> Result<()> {
    let web = Web::serving("rulepolicies", 1, "http")?;
    route(
        &web.lab,
        &json!([named("limited"), named("late"), named("failing"), {"backendRefs": [{"name": "web", "port": 80}]}]),
    )?;
    of_rule(&web.lab, "limited", &json!({"rateLimit": {"requests": 1, "interval": "1m", "burst": BURST}}))?;
    of_rule(&web.lab, "late", &json!({"fault": {"delay": {"percent": 100, "duration": "300ms"}}}))?;
    of_rule(&web.lab, "failing", &json!({"fault": {"abort": {"percent": 100, "status": 418}}}))?;
    let timed = |path: &str| -> Result<(Reply, Duration)> {
        let begun = Instant::now();
        Ok((get(&web, &Ask::get(path))?, begun.elapsed()))
    };
    wait::until("the policies", wait::DEADLINE, || {
        let (reply, took) = timed("/late")?;
        ensure!(reply.status == 200 && took >= Duration::from_millis(300), "{took:?}: {reply:?}");
        let reply = get(&web, &Ask::get("/failing"))?;
        ensure!((reply.status, reply.header("weft-error")) == (418, Some("fault_injected")), "{reply:?}");
        ensure!(get(&web, &Ask::get("/limited"))?.status == 429);
        Ok(())
    })?;
    // One in a minute, whoever asks, over whichever version; and it says when to come again.
    let (_, server, listener) = &web.servers[0];
    let before = server.seen(*listener)?.requests;
    let begun = Instant::now();
    for http in [Http::One, Http::Two] {
        let answers =
            web.steered(1, || web.app.request(Requests::to(web.web.v4(), http, Ask::get("/limited"), ROW)))?;
        let let_in = 1 + begun.elapsed().as_secs() / 60;
        ensure!(answers.with(429) >= ROW - let_in && answers.with(200) + answers.with(429) == ROW, "{answers:?}");
    }
    ensure!(server.seen(*listener)?.requests - before <= 2, "it was asked all the same");
    let (refused, took) = timed("/limited")?;
    ensure!((refused.status, refused.header("weft-error")) == (429, Some("rate_limited")), "{refused:?}");
    let again = refused.header("retry-after").and_then(|wait| wait.parse::<u64>().ok());
    ensure!(again.is_some_and(|wait| (1..=61).contains(&wait)) && refused.text.starts_with("weft: "), "{refused:?}");
    ensure!(took < Duration::from_millis(300), "another rule's delay is its too: {took:?}");
    // Whoever is of no such rule is as before.
    for http in [Http::One, Http::Two] {
        let answers =
            web.steered(1, || web.app.request(Requests::to(web.web.v4(), http, Ask::get("/other"), 2 * ROW)))?;
        ensure!(answers.with(200) == 2 * ROW && answers.median_ms < 300.0, "{answers:?}");
    }
    // A rule of another name is another rule.
    route(
        &web.lab,
        &json!([{
            "name": "free", "matches": [{"path": {"type": "PathPrefix", "value": "/limited"}}],
            "backendRefs": [{"name": "web", "port": 80}]
        }]),
    )?;
    wait::until("the rule to have no limit any more", wait::DEADLINE, || {
        let asked = Requests::to(web.web.v4(), Http::One, Ask::get("/limited"), ROW);
        let answers = web.steered(1, || web.app.request(asked))?;
        ensure!(answers.with(200) == ROW, "{answers:?}");
        Ok(())
    })?;
    web.lab.finish()
}
