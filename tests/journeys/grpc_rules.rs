//! GRPCRoutes beyond what the conformance suite asks: expressions, answers that are changed, copies, consumers, and calls that
//! are tried again.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::app::{App, Ask, Http, Reply, Requests};
use weft_tests::lab::NAMESPACE;
use weft_tests::wait;

use crate::http::Web;
use crate::http_policy::policy;

/// In a row: what holds once may hold by chance.
const ROW: u64 = 50;

/// `web` of the servers `v1` and `v2`, each also a Service of its own.
fn calls(name: &str) -> Result<Web> {
    let web = Web::serving(name, 2, "grpc")?;
    for (pod, ..) in &web.servers {
        web.lab.service(pod.name()).speaks("grpc").pods(&[pod]).create()?;
    }
    Ok(web)
}

/// Attaches a GRPCRoute of these rules to `web`.
fn route(web: &Web, namespace: &str, rules: &Value) -> Result<()> {
    web.lab.manifests().put(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GRPCRoute",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "web", "namespace": NAMESPACE, "port": 80}],
            "rules": rules
        }
    }))
}

fn to(name: &str) -> Value {
    json!([{"name": name, "namespace": NAMESPACE, "port": 80}])
}

/// A call of this method.
fn call(target: &str) -> Ask {
    Ask { target: target.into(), ..Ask::grpc("hello") }
}

/// Makes a call.
fn answer(web: &Web, app: &App, ask: &Ask) -> Result<Reply> {
    web.steered(1, || app.fetch(web.web.v4(), Http::Two, ask.clone()))
}

/// Waits until a call is answered by this server, and then has many be so.
fn all_by(web: &Web, app: &App, name: &str, ask: &Ask) -> Result<()> {
    let many = |count| {
        let answers = web.steered(1, || app.request(Requests::to(web.web.v4(), Http::Two, ask.clone(), count)))?;
        ensure!(answers.names == BTreeMap::from([(name.to_owned(), count)]), "{ask:?}: {answers:?}");
        ensure!(answers.grpc.get("0") == Some(&count), "{ask:?}: {answers:?}");
        Ok(())
    };
    wait::until(&format!("{} to be answered by {name}", ask.target), wait::DEADLINE, || many(10))?;
    many(ROW)
}

#[test]
fn grpc_routes_match_by_expression() -> Result<()> {
    let web = calls("grpcregex")?;
    let like = |service: &str, method: &str| json!({"type": "RegularExpression", "service": service, "method": method});
    route(
        &web,
        NAMESPACE,
        &json!([
            {"matches": [{"method": like("lab\\.(Echo|Other)", "S[a-z]y")}], "backendRefs": to("v2")},
            {"matches": [{"method": {"type": "RegularExpression", "method": "Only.+"}}], "backendRefs": to("v2")},
            {"matches": [{"headers": [{"type": "RegularExpression", "name": "x-user", "value": "a[0-9]+"}]}], "backendRefs": to("v2")},
            {"matches": [{"method": {"service": "lab.Echo"}}], "backendRefs": to("v1")},
        ]),
    )?;
    for (ask, name) in [
        (call("/lab.Echo/Say"), "v2"),
        (call("/lab.Other/Sxy"), "v2"),
        (call("/any.Thing/OnlyThis"), "v2"),
        (call("/any.Thing/Else").with(&[("x-user", "a42")]), "v2"),
        // All of a name, and nothing in its place: what is only like it in part is another's.
        (call("/lab.Echo/Says"), "v1"),
        (call("/lab.Echo/Only"), "v1"),
    ] {
        all_by(&web, &web.app, name, &ask)?;
    }
    for nobody in [
        call("/labXEcho/Say"),
        call("/lab.Other/say"),
        call("/x.lab.Other/Say"),
        call("/a.B/C").with(&[("x-user", "ra4")]),
    ] {
        let reply = answer(&web, &web.app, &nobody)?;
        ensure!((reply.status, reply.header("grpc-status")) == (200, Some("12")), "{nobody:?}: {reply:?}");
    }
    web.lab.finish()
}

#[test]
fn grpc_routes_change_answers_and_copy_calls() -> Result<()> {
    let web = calls("grpcfilters")?;
    let edits = |name: &str| {
        json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": {
            "set": [{"name": format!("x-set-{name}"), "value": name}], "add": [{"name": "x-add", "value": name}], "remove": ["x-saw"]
        }})
    };
    let mirror = json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "v2", "port": 80}}});
    route(
        &web,
        NAMESPACE,
        &json!([
            {
                "matches": [{"method": {"service": "lab.Echo", "method": "Changed"}}],
                "filters": [edits("rule")],
                "backendRefs": [{"name": "v1", "port": 80, "filters": [edits("backend")]}]
            },
            {"matches": [{"method": {"service": "lab.Echo", "method": "Copied"}}], "filters": [mirror], "backendRefs": to("v1")},
        ]),
    )?;
    let changed = |ask: Ask, status: &str| -> Result<()> {
        let reply = answer(&web, &web.app, &ask)?;
        let said = reply.trailer("grpc-status").or(reply.header("grpc-status"));
        ensure!(said == Some(status) && reply.header("x-name") == Some("v1"), "{reply:?}");
        ensure!(reply.header("x-set-rule") == Some("rule") && reply.header("x-saw").is_none(), "{reply:?}");
        ensure!(reply.header("x-set-backend") == Some("backend"), "{reply:?}");
        let added = reply.headers.iter().filter(|(name, _)| name == "x-add").map(|(_, value)| value.as_str());
        ensure!(added.eq(["backend", "rule"]), "{reply:?}");
        Ok(())
    };
    wait::until("answers to be changed", wait::DEADLINE, || changed(call("/lab.Echo/Changed"), "0"))?;
    for _ in 0..ROW {
        changed(call("/lab.Echo/Changed"), "0")?;
        changed(call("/lab.Echo/Changed").with(&[("x-fail", "5")]), "5")?;
    }
    // Each copied once, whole; nobody hears what its server says, and who is no match is not copied.
    let (_, copies, listener) = &web.servers[1];
    let before = copies.seen(*listener)?;
    all_by(&web, &web.app, "v1", &call("/lab.Echo/Copied"))?;
    let copied = wait::until("the copies", wait::DEADLINE, || {
        let seen = copies.seen(*listener)?;
        let made = seen.requests - before.requests;
        ensure!(made >= ROW + 10 && seen.body_bytes - before.body_bytes == made * 10, "{made} copies: {seen:?}");
        Ok(seen.requests)
    })?;
    for _ in 0..20 {
        changed(call("/lab.Echo/Changed"), "0")?;
    }
    ensure!(copies.seen(*listener)?.requests == copied, "what no filter copies was copied");
    web.lab.finish()
}

#[test]
fn grpc_consumer_routes_are_their_namespaces_own() -> Result<()> {
    let web = calls("grpcconsumer")?;
    let pod = web.lab.pod(&web.a, "other").namespace("elsewhere").mesh("enabled").create()?;
    let theirs = pod.app(&web.lab)?;
    web.lab.wait_live(&pod)?;
    web.lab.manifests().put(json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
        "metadata": {"name": "routes", "namespace": NAMESPACE},
        "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "GRPCRoute", "namespace": "elsewhere"}],
            "to": [{"group": "", "kind": "Service"}]
        }
    }))?;
    route(&web, "elsewhere", &json!([{"matches": [{"method": {"service": "lab.Echo"}}], "backendRefs": to("v2")}]))?;
    all_by(&web, &theirs, "v2", &call("/lab.Echo/Say"))?;
    let refused = answer(&web, &theirs, &call("/lab.Other/Say"))?;
    ensure!(refused.header("grpc-status") == Some("12"), "{refused:?}");
    // The Service's own namespace is not concerned: neither by where calls go nor by which are taken.
    for target in ["/lab.Echo/Say", "/lab.Other/Say"] {
        let answers = web.app.request(Requests::to(web.web.v4(), Http::Two, call(target), ROW))?;
        ensure!(answers.names.len() == 2 && answers.grpc.get("0") == Some(&ROW), "{answers:?}");
    }
    web.lab.finish()
}

#[test]
fn calls_of_a_grpc_route_are_tried_again() -> Result<()> {
    let web = calls("grpcretry")?;
    let rule = |name: &str, method: &str| json!({"name": name, "matches": [{"method": {"service": "lab.Echo", "method": method}}], "backendRefs": to("v1")});
    route(&web, NAMESPACE, &json!([rule("again", "Again"), rule("once", "Once")]))?;
    let target =
        json!([{"group": "gateway.networking.k8s.io", "kind": "GRPCRoute", "name": "web", "sectionName": "again"}]);
    policy(&web.lab, "a-retry", &target, &json!({"retry": {"attempts": 2, "codes": [503], "backoff": "10ms"}}))?;
    let (_, server, listener) = &web.servers[0];
    let made = |ask: &Ask| -> Result<(u64, Option<String>)> {
        let before = server.seen(*listener)?.requests;
        let reply = answer(&web, &web.app, ask)?;
        let status = reply.trailer("grpc-status").or(reply.header("grpc-status")).context("no status")?.to_owned();
        Ok((server.seen(*listener)?.requests - before, Some(status)))
    };
    let failing =
        |method: &str, field: &str, status: &str| call(&format!("/lab.Echo/{method}")).with(&[(field, status)]);
    wait::until("a call to be made three times", wait::DEADLINE, || {
        let (times, said) = made(&failing("Again", "x-fail", "14"))?;
        ensure!(times == 3 && said.as_deref() == Some("14"), "made {times} times: {said:?}");
        Ok(())
    })?;
    for (ask, times, said) in [
        (failing("Again", "x-fail", "14"), 3, "14"),
        (failing("Again", "x-fail", "13"), 1, "13"),
        // What has said something is not taken back, and another rule is another's.
        (failing("Again", "x-fail-late", "14"), 1, "14"),
        (failing("Once", "x-fail", "14"), 1, "14"),
        (call("/lab.Echo/Again"), 1, "0"),
    ] {
        let found = made(&ask)?;
        ensure!(found == (times, Some(said.to_owned())), "{ask:?} was made {} times: {:?}", found.0, found.1);
    }
    web.lab.finish()
}

#[test]
fn grpc_rules_have_limits_and_faults_of_their_own() -> Result<()> {
    let web = calls("grpcpolicies")?;
    let rule = |name: &str, method: &str| json!({"name": name, "matches": [{"method": {"service": "lab.Echo", "method": method}}], "backendRefs": to("v1")});
    route(&web, NAMESPACE, &json!([rule("limited", "Limited"), rule("failing", "Failing"), rule("free", "Say")]))?;
    for (name, settings) in [
        ("limited", json!({"rateLimit": {"requests": 1, "interval": "1m", "burst": 10}})),
        ("failing", json!({"fault": {"abort": {"percent": 100, "status": 504}}})),
    ] {
        let target =
            json!([{"group": "gateway.networking.k8s.io", "kind": "GRPCRoute", "name": "web", "sectionName": name}]);
        policy(&web.lab, name, &target, &settings)?;
    }
    // In words of gRPC, and for which reason it is.
    let says = |method: &str, status: &str, error: &str| {
        wait::until(&format!("{method} to be {error}"), wait::DEADLINE, || {
            let reply = answer(&web, &web.app, &call(&format!("/lab.Echo/{method}")))?;
            ensure!((reply.status, reply.header("grpc-status")) == (200, Some(status)), "{reply:?}");
            ensure!(reply.header("weft-error") == Some(error) && reply.header("x-name").is_none(), "{reply:?}");
            ensure!(reply.header("grpc-message").is_some_and(|said| said.starts_with("weft: ")), "{reply:?}");
            Ok(())
        })
    };
    says("Failing", "4", "fault_injected")?;
    says("Limited", "14", "rate_limited")?;
    let begun = Instant::now();
    let limited = Requests::to(web.web.v4(), Http::Two, call("/lab.Echo/Limited"), ROW).over(1, 5);
    let answers = web.steered(1, || web.app.request(limited))?;
    let let_in = 1 + begun.elapsed().as_secs() / 60;
    ensure!(answers.grpc.get("14").is_some_and(|refused| refused + let_in >= ROW), "{answers:?}");
    all_by(&web, &web.app, "v1", &call("/lab.Echo/Say"))?;
    web.lab.finish()
}
