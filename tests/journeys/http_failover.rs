//! Who stands in when endpoints are not well: another Service, and far endpoints; and what Gateway API's own policy for backends
//! says.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_tests::app::{App, Ask, Behaviour, Http, Requests};
use weft_tests::lab::{Endpoint, Lab, NAMESPACE};
use weft_tests::wait;

use crate::fixture::{anywhere, moves};
use crate::http::Web;
use crate::http_policy::{policy, service};

/// Names of who answers.
fn names(web: &Web, count: u64) -> Result<Vec<String>> {
    let requests = Requests::to(web.web.v4(), Http::One, Ask::get("/"), count);
    let answers = web.steered(1, || web.app.request(requests))?;
    ensure!(answers.with(200) == count, "{answers:?}");
    Ok(answers.names.into_keys().collect())
}

#[test]
fn backend_fallback() -> Result<()> {
    let web = Web::serving("fallback", 2, "http")?;
    let pod = web.lab.pod(&web.b, "spare1").create()?;
    let spare = pod.app(&web.lab)?;
    spare.listen(anywhere(8080), "spare1", Behaviour::Http)?;
    web.lab.service("spare").speaks("http").pods(&[&pod]).create()?;
    web.lab.wait_live(&pod)?;
    let check = json!({"http": {"path": "/well", "statuses": [200]}, "interval": "200ms", "unhealthyThreshold": 2});
    let settings = json!({"fallback": {"name": "spare", "port": 80}, "healthCheck": check});
    policy(&web.lab, "a-fallback", &service("web"), &settings)?;
    let until = |what: &str, wanted: &[&str]| {
        wait::until(what, wait::DEADLINE, || {
            let names = names(&web, 20)?;
            ensure!(names == wanted, "{names:?}");
            Ok(())
        })
    };
    until("its own endpoints to answer", &["v1", "v2"])?;
    let with = |ready: [bool; 2]| -> Result<()> {
        let endpoints = web.servers.iter().zip(ready).map(|((pod, ..), ready)| Endpoint { ready, ..pod.into() });
        web.lab.set_endpoints(&web.web, endpoints.collect())
    };
    // One of its own is enough; without any that is ready the other Service stands in, as long as it takes.
    with([false, true])?;
    until("the one that is ready", &["v2"])?;
    with([false, false])?;
    until("the other Service to stand in", &["spare1"])?;
    with([true, true])?;
    until("its own endpoints to be back", &["v1", "v2"])?;
    // Ready, and yet not well by their checks.
    let be = |status: u16| {
        web.servers.iter().try_for_each(|(_, server, _)| {
            server.fetch("127.0.0.1:8080".parse()?, Http::One, Ask::get(&format!("/be/{status}"))).map(drop)
        })
    };
    be(503)?;
    until("the other Service to stand in for those that are unwell", &["spare1"])?;
    be(200)?;
    until("those to be well again", &["v1", "v2"])?;
    web.lab.finish()
}

#[test]
fn spillover_share_may_be_set() -> Result<()> {
    let lab = Lab::new("spillshare")?;
    let (a, b, c) = (lab.node("a")?, lab.node("b")?, lab.node("c")?);
    let app = lab.pod(&a, "client").create()?.app(&lab)?;
    let mut servers: Vec<(weft_tests::lab::Pod, App)> = Vec::new();
    for (node, name) in [(&b, "near1"), (&b, "near2"), (&c, "far1")] {
        let pod = lab.pod(node, name).create()?;
        let server = pod.app(&lab)?;
        server.listen(anywhere(8080), name, Behaviour::Http)?;
        servers.push((pod, server));
    }
    let pods: Vec<_> = servers.iter().map(|(pod, _)| pod).collect();
    let web = lab.service("web").speaks("http").pods(&pods).create()?;
    lab.algorithm(&web, "Random")?;
    lab.start_agents()?;
    for (node, zone) in [(&a, "east"), (&b, "east"), (&c, "west")] {
        lab.zone(node, zone)?;
    }
    lab.manifests().change("Service", NAMESPACE, "web", |service| {
        service["spec"]["trafficDistribution"] = "PreferSameZone".into();
    })?;
    lab.mesh()?;
    let endpoint = |pod: &weft_tests::lab::Pod| Endpoint { ready: pod.name() != "near1", ..pod.into() };
    lab.set_endpoints(&web, pods.into_iter().map(endpoint).collect())?;
    // Half of the zone is well: of it, enough by the policy's word, or too little.
    for (percent, near) in [(50, 400), (100, 200)] {
        policy(&lab, "a-spill", &service("web"), &json!({"spillover": {"healthyPercent": percent}}))?;
        wait::until("the zone to get its share", wait::DEADLINE, || {
            let requests = Requests::to(web.v4(), Http::One, Ask::get("/"), 400);
            let answers = moves(&lab, &a, "connect_steer", 1, || app.request(requests))?;
            let got = answers.names.get("near2").copied().unwrap_or_default();
            // Four standard deviations of 400 draws at a half.
            ensure!(answers.with(200) == 400 && got.abs_diff(near) <= 40, "{percent}: {answers:?}");
            Ok(())
        })?;
    }
    lab.finish()
}

#[test]
fn backend_traffic_policy() -> Result<()> {
    let web = Web::serving("backendpolicy", 3, "http")?;
    web.lab.manifests().put(json!({
        "apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XBackendTrafficPolicy",
        "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
            "retryConstraint": {"budget": {"percent": 0}, "minRetryRate": {"count": 1, "interval": "1s"}},
            "sessionPersistence": {"sessionName": "cart"}
        }
    }))?;
    // It has the name of the Service's TrafficPolicy, which stays in force beside it.
    policy(&web.lab, "a-retry", &service("web"), &json!({"retry": {"attempts": 3, "codes": [503], "backoff": "1ms"}}))?;
    let given = wait::until("a cookie", wait::DEADLINE, || {
        let reply = web.steered(1, || web.app.fetch(web.web.v4(), Http::One, Ask::get("/")))?;
        let cookie = reply.header("set-cookie").with_context(|| format!("{reply:?}"))?;
        // Of a Service, which many paths may lead to, it has no path.
        ensure!(cookie.starts_with("cart=") && cookie.ends_with("; HttpOnly; SameSite=Strict"), "{cookie}");
        ensure!(!cookie.contains("Path"), "{cookie}");
        Ok(cookie.split(';').next().unwrap_or_default().to_owned())
    })?;
    let shown = Ask::get("/").with(&[("cookie", &given)]);
    let answers = web.app.request(Requests::to(web.web.v4(), Http::Two, shown, 40))?;
    ensure!(answers.with(200) == 40 && answers.names.len() == 1, "{answers:?}");
    let others = names(&web, 40)?.into_iter().collect::<BTreeSet<_>>();
    ensure!(others.len() == 3, "{others:?}");
    // One retry a second, and none for what the requests are.
    let seen = || -> Result<u64> {
        web.servers.iter().map(|(_, server, listener)| Ok(server.seen(*listener)?.requests)).sum()
    };
    wait::until("retries within the budget", wait::DEADLINE, || {
        let (before, begun) = (seen()?, Instant::now());
        let failing = Requests::to(web.web.v4(), Http::Two, Ask::get("/status/503"), 300).over(2, 5);
        let answers = web.app.request(failing)?;
        let most = begun.elapsed().as_secs() + 2;
        let retries = seen()? - before - 300;
        ensure!(answers.with(503) == 300 && (1..=most).contains(&retries), "{retries} retries, at most {most}");
        Ok(())
    })?;
    web.lab.finish()
}
