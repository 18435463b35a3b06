//! TrafficPolicies over real connections: what they bound, what they have go wrong, and where they send.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::app::{Ask, Behaviour, Http, Payload, Requests, Until};
use weft_tests::lab::{Endpoint, Lab, NAMESPACE};
use weft_tests::wait;

use crate::fixture::Mesh;
use crate::http::Web;
use crate::http_retries::rule;

/// Puts a TrafficPolicy with these settings for these targets.
pub(crate) fn policy(lab: &Lab, name: &str, targets: &Value, settings: &Value) -> Result<()> {
    let mut spec = settings.clone();
    spec["targetRefs"] = targets.clone();
    lab.manifests().put(json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "TrafficPolicy",
        "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec
    }))
}

pub(crate) fn service(name: &str) -> Value {
    json!([{"group": "", "kind": "Service", "name": name}])
}

#[test]
fn fault_abort() -> Result<()> {
    let web = Web::serving("faultabort", 1, "http")?;
    let get = |http, path: &str, count| web.app.request(Requests::to(web.web.v4(), http, Ask::get(path), count));
    policy(&web.lab, "a-fault", &service("web"), &json!({"fault": {"abort": {"percent": 100, "status": 503}}}))?;
    wait::until("requests to fail on purpose", wait::DEADLINE, || {
        let reply = web.app.fetch(web.web.v4(), Http::One, Ask::get("/"))?;
        ensure!((reply.status, reply.header("weft-error")) == (503, Some("fault_injected")), "{reply:?}");
        Ok(())
    })?;
    let (_, server, listener) = &web.servers[0];
    let before = server.seen(*listener)?.requests;
    ensure!(web.steered(1, || get(Http::Two, "/", 50))?.with(503) == 50);
    let call = web.app.fetch(web.web.v4(), Http::Two, Ask::grpc("hello"))?;
    ensure!((call.status, call.header("grpc-status")) == (200, Some("14")), "{call:?}");
    ensure!(server.seen(*listener)?.requests == before, "a request was sent all the same");
    // For one rule of a route, and a part of its requests.
    web.lab.manifests().remove("TrafficPolicy", NAMESPACE, "a-fault");
    let to = json!([{"name": "web", "port": 80}]);
    web.lab.manifests().put(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}],
            "rules": [
                {"name": "some", "matches": [{"path": {"type": "PathPrefix", "value": "/some"}}], "backendRefs": to},
                {"name": "none", "backendRefs": to}
            ]
        }
    }))?;
    let route =
        json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "web", "sectionName": "some"}]);
    policy(&web.lab, "b-fault", &route, &json!({"fault": {"abort": {"percent": 30, "status": 418}}}))?;
    wait::until("some of the requests of one rule to fail", wait::DEADLINE, || {
        let (some, none) = (get(Http::One, "/some", 400)?, get(Http::One, "/", 100)?);
        // Four standard deviations are 37.
        ensure!((83..=157).contains(&some.with(418)) && some.with(418) + some.with(200) == 400, "{some:?}");
        ensure!(none.with(200) == 100, "{none:?}");
        Ok(())
    })?;
    web.lab.finish()
}

#[test]
fn fault_delay() -> Result<()> {
    let web = Web::serving("faultdelay", 1, "http")?;
    policy(&web.lab, "a-fault", &service("web"), &json!({"fault": {"delay": {"percent": 50, "duration": "300ms"}}}))?;
    let timed = || -> Result<u128> {
        let begun = Instant::now();
        let reply = web.app.fetch(web.web.v4(), Http::One, Ask::get("/"))?;
        ensure!(reply.status == 200, "{reply:?}");
        Ok(begun.elapsed().as_millis())
    };
    wait::until("a request to be late", wait::DEADLINE, || {
        ensure!(timed()? >= 300);
        Ok(())
    })?;
    let times = web.steered(40, || (0..40).map(|_| timed()).collect::<Result<Vec<_>>>())?;
    let late = times.iter().filter(|time| **time >= 300).count();
    // Four standard deviations are 13.
    ensure!((7..=33).contains(&late), "{late} of 40 were late: {times:?}");
    web.lab.finish()
}

#[test]
fn rate_limit() -> Result<()> {
    let web = Web::serving("ratelimit", 1, "http")?;
    policy(
        &web.lab,
        "a-rate",
        &service("web"),
        &json!({"rateLimit": {"requests": 60, "interval": "1m", "burst": 20}}),
    )?;
    let ask = |ask: Ask, count| web.app.request(Requests::to(web.web.v4(), Http::Two, ask, count));
    wait::until("requests to be too many", wait::DEADLINE, || {
        ensure!(ask(Ask::get("/"), 30)?.with(429) > 0);
        Ok(())
    })?;
    let (begun, answers) = (Instant::now(), web.steered(1, || ask(Ask::get("/"), 100))?);
    let allowed = begun.elapsed().as_secs() + 2;
    ensure!(answers.with(200) <= allowed && answers.with(200) + answers.with(429) == 100, "{allowed}: {answers:?}");
    let reply = web.app.fetch(web.web.v4(), Http::One, Ask::get("/"))?;
    ensure!((reply.status, reply.header("weft-error")) == (429, Some("rate_limited")), "{reply:?}");
    ensure!(reply.header("retry-after").is_some_and(|wait| wait == "1" || wait == "2"), "{reply:?}");
    let calls = ask(Ask::grpc("hello"), 20)?;
    ensure!(calls.grpc.get("14").is_some_and(|refused| *refused >= 15), "{calls:?}");
    ensure!(web.counted(&[("response_code", "429"), ("error", "rate_limited")])? >= 90);
    web.lab.finish()
}

#[test]
fn circuit_breaking() -> Result<()> {
    let web = Web::serving("circuit", 1, "http")?;
    policy(&web.lab, "a-limits", &service("web"), &json!({"limits": {"requests": 2, "pending": 1}}))?;
    // Six at once, of which two are under way and one waits.
    wait::until("requests to be refused", wait::DEADLINE, || {
        let requests = Requests::to(web.web.v4(), Http::Two, Ask::get("/wait/400"), 6).over(1, 6);
        let answers = web.steered(1, || web.app.request(requests))?;
        ensure!(answers.with(200) == 3 && answers.with(503) == 3, "{answers:?}");
        Ok(())
    })?;
    // What is over makes room.
    let answers = web.app.request(Requests::to(web.web.v4(), Http::One, Ask::get("/"), 50).over(2, 1))?;
    ensure!(answers.with(200) == 50, "{answers:?}");
    ensure!(web.counted(&[("response_code", "503"), ("error", "overloaded")])? >= 3);
    web.lab.finish()
}

#[test]
fn connections_are_limited_and_let_go_when_idle() -> Result<()> {
    let (mesh, _) = Mesh::serving("tcplimits", Behaviour::Echo)?;
    let settings = json!({"limits": {"connections": 2}, "idleTimeout": "2s", "tcpKeepalive": {"time": "10s"}});
    policy(&mesh.lab, "echo", &service("echo"), &settings)?;
    let open = || mesh.app.open(mesh.echo.v4());
    // The app's connect is the mesh's to answer; what is refused is reset at once.
    let works = |conn: u64| -> Result<bool> {
        let said = Payload::Text("hello".into());
        Ok(mesh.app.send(conn, said).is_ok() && mesh.app.receive(conn, Until::Bytes(5))?.text == "hello")
    };
    wait::until("a third connection to be refused", wait::DEADLINE, || {
        let conns = mesh.steered(3, || (0..3).map(|_| Ok(open()?.conn)).collect::<Result<Vec<_>>>())?;
        let good = conns.iter().map(|conn| works(*conn).unwrap_or(false)).collect::<Vec<_>>();
        for conn in &conns {
            mesh.app.close(*conn)?;
        }
        ensure!(good.iter().filter(|good| **good).count() == 2, "{good:?}");
        Ok(())
    })?;
    let conn = wait::until("a connection", wait::DEADLINE, || {
        let conn = open()?.conn;
        ensure!(works(conn)?);
        Ok(conn)
    })?;
    let begun = Instant::now();
    let ended = mesh.app.receive(conn, Until::End);
    let took = begun.elapsed();
    ensure!(ended.is_ok_and(|ended| ended.end.is_some()), "it was not ended");
    ensure!((Duration::from_millis(1900)..Duration::from_secs(5)).contains(&took), "ended after {took:?}");
    mesh.lab.finish()
}

/// Which endpoint each of these keys leads to.
fn places(web: &Web, keys: usize) -> Result<BTreeMap<String, String>> {
    (0..keys)
        .map(|key| {
            let key = format!("user-{key}");
            let reply = web.app.fetch(web.web.v4(), Http::One, Ask::get("/").with(&[("x-user", &key)]))?;
            let name = reply.header("x-name").context("nobody answered")?.to_owned();
            Ok((key, name))
        })
        .collect()
}

#[test]
fn consistent_hash_minimal_movement() -> Result<()> {
    let web = Web::serving("hash", 4, "http")?;
    for (algorithm, most) in [("RingHash", 0), ("Maglev", 6)] {
        let balancer = json!({"loadBalancer": {"algorithm": algorithm, "hashOn": {"header": "X-User"}}});
        policy(&web.lab, "web", &service("web"), &balancer)?;
        let before = wait::until("the same keys to go to the same endpoints", wait::DEADLINE, || {
            let (first, second) = (places(&web, 60)?, places(&web, 60)?);
            ensure!(
                first == second && first.values().collect::<BTreeSet<_>>().len() == 4,
                "{first:?}, then {second:?}"
            );
            Ok(first)
        })?;
        let kept: Vec<_> = web.servers.iter().skip(1).map(|(pod, ..)| Endpoint::from(pod)).collect();
        web.lab.set_endpoints(&web.web, kept)?;
        let after = wait::until("the endpoint to be gone", wait::DEADLINE, || {
            let after = web.steered(60, || places(&web, 60))?;
            ensure!(after.values().all(|name| name != "v1"), "{after:?}");
            Ok(after)
        })?;
        let moved = before.iter().filter(|(key, name)| *name != "v1" && after[*key] != **name).count();
        let own = before.values().filter(|name| *name == "v1").count();
        ensure!(moved <= most && (4..=30).contains(&own), "{algorithm}: {moved} moved beside its own {own}");
        web.lab.set_endpoints(&web.web, web.servers.iter().map(|(pod, ..)| Endpoint::from(pod)).collect())?;
    }
    web.lab.finish()
}

#[test]
fn outlier_by_status() -> Result<()> {
    let web = Web::serving("outlier", 3, "http")?;
    let ask = Ask::get("/").with(&[("x-bad", "v1")]);
    let answers = || web.app.request(Requests::to(web.web.v4(), Http::One, ask.clone(), 60));
    // Without a policy a server's own failure is its answer.
    let plain = answers()?;
    ensure!((15..=25).contains(&plain.with(500)), "{plain:?}");
    let settings =
        json!({"outlierDetection": {"consecutiveFailures": 3, "statuses": "Server", "baseEjectionTime": "60s"}});
    policy(&web.lab, "a-outlier", &service("web"), &settings)?;
    wait::until("the bad endpoint to be left out", wait::DEADLINE, || {
        let answers = web.steered(1, answers)?;
        ensure!(answers.with(500) == 0 && answers.with(200) == 60 && answers.names.len() == 2, "{answers:?}");
        Ok(())
    })?;
    web.lab.finish()
}

#[test]
fn policies_of_ports_and_of_rules() -> Result<()> {
    let web = Web::serving("policyport", 1, "grpc")?;
    let failing = |section: &str| json!([{"group": "", "kind": "Service", "name": "web", "sectionName": section}]);
    // Another port's is not this one's; this one's, by its number, comes before that of all.
    policy(&web.lab, "a-other", &failing("81"), &json!({"fault": {"abort": {"percent": 100, "status": 501}}}))?;
    policy(&web.lab, "b-all", &service("web"), &json!({"fault": {"abort": {"percent": 100, "status": 502}}}))?;
    policy(&web.lab, "c-this", &failing("80"), &json!({"fault": {"abort": {"percent": 100, "status": 504}}}))?;
    wait::until("the port's policy to decide", wait::DEADLINE, || {
        let reply = web.steered(1, || web.app.fetch(web.web.v4(), Http::One, Ask::get("/")))?;
        ensure!(reply.status == 504, "{reply:?}");
        Ok(())
    })?;
    for name in ["a-other", "b-all", "c-this"] {
        web.lab.manifests().remove("TrafficPolicy", NAMESPACE, name);
    }
    // Calls are tried again where a policy says so: a GRPCRoute has no word for it.
    rule(&web.lab, &json!({"name": "calls", "backendRefs": [{"name": "web", "port": 80}]}))?;
    let route =
        json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "web", "sectionName": "calls"}]);
    policy(&web.lab, "d-retry", &route, &json!({"retry": {"attempts": 2, "codes": [503], "backoff": "10ms"}}))?;
    let (_, server, listener) = &web.servers[0];
    wait::until("a call to be made three times", wait::DEADLINE, || {
        let before = server.seen(*listener)?.requests;
        web.app.fetch(web.web.v4(), Http::Two, Ask::grpc("hello").with(&[("x-fail", "14")]))?;
        let made = server.seen(*listener)?.requests - before;
        ensure!(made == 3, "made {made} times");
        Ok(())
    })?;
    web.lab.finish()
}
