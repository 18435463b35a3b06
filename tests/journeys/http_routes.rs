//! HTTPRoutes and GRPCRoutes over real connections: each request goes where its rule says, changed as its filters say.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_tests::app::{App, Ask, Behaviour, Http, Payload, Reply, Requests};
use weft_tests::lab::{Lab, NAMESPACE, Node, Pod, Service};
use weft_tests::wait;

use crate::fixture::{anywhere, moves};

/// In a row: what holds once may hold by chance.
const ROW: usize = 50;

/// `web` of the servers `v1` and `v2`, each also a Service of its own; a client on another node.
struct Routes {
    lab: Lab,
    a: Node,
    app: App,
    servers: Vec<(App, u64)>,
    web: Service,
}

impl Routes {
    /// With this `appProtocol`, if any: a route is enough to make a port HTTP.
    fn new(name: &str, app_protocol: Option<&str>) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (a, b) = (lab.node("a")?, lab.node("b")?);
        let app = lab.pod(&a, "client").create()?.app(&lab)?;
        let mut servers = Vec::new();
        let mut pods: Vec<Pod> = Vec::new();
        for name in ["v1", "v2"] {
            let pod = lab.pod(&b, name).create()?;
            let server = pod.app(&lab)?;
            let (listener, _) = server.listen(anywhere(8080), name, Behaviour::Http)?;
            lab.service(name).pods(&[&pod]).create()?;
            servers.push((server, listener));
            pods.push(pod);
        }
        let web = lab.service("web").pods(&pods.iter().collect::<Vec<_>>());
        let web = match app_protocol {
            Some(app_protocol) => web.speaks(app_protocol),
            None => web,
        };
        let web = web.create()?;
        lab.start_agents()?;
        lab.mesh()?;
        Ok(Self { lab, a, app, servers, web })
    }

    /// Attaches a route of these rules to `web`, and of one more, by which it is seen that it is there.
    fn route(&self, kind: &str, namespace: &str, name: &str, mut rules: Value) -> Result<()> {
        let there = json!({
            "matches": [{"path": {"type": "Exact", "value": "/there"}}],
            "filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "there", "statusCode": 302}}]
        });
        if let Some(rules) = rules.as_array_mut().filter(|_| kind == "HTTPRoute") {
            rules.push(there);
        }
        self.lab.manifests().put(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": "web", "namespace": NAMESPACE, "port": 80}],
                "rules": rules
            }
        }))
    }

    fn get(&self, ask: &Ask) -> Result<Reply> {
        self.app.fetch(self.web.v4(), Http::One, ask.clone())
    }

    /// Waits until the route decides.
    fn in_force(&self) -> Result<()> {
        self.settles("the route", &Ask::get("/there"), |reply| reply.status == 302)
    }

    /// Waits until a request is answered so.
    fn settles(&self, what: &str, ask: &Ask, good: impl Fn(&Reply) -> bool) -> Result<()> {
        wait::until(what, wait::DEADLINE, || {
            let reply = self.get(ask)?;
            ensure!(good(&reply), "{reply:?}");
            Ok(())
        })
    }

    /// Checks that every one of many such requests, over both versions, goes to this server.
    fn all_to(&self, name: &str, ask: &Ask) -> Result<()> {
        for http in [Http::One, Http::Two] {
            let answers = moves(&self.lab, &self.a, "connect_steer", 1, || {
                self.app.request(Requests::to(self.web.v4(), http, ask.clone(), ROW as u64))
            })?;
            let expected = BTreeMap::from([(name.to_owned(), ROW as u64)]);
            ensure!(answers.names == expected && answers.with(200) == ROW as u64, "{ask:?}: {answers:?}");
        }
        Ok(())
    }
}

fn to(name: &str) -> Value {
    json!([{"name": name, "port": 80}])
}

#[test]
fn routes_match_requests() -> Result<()> {
    // No appProtocol: the route makes the port HTTP.
    let routes = Routes::new("match", None)?;
    routes.route(
        "HTTPRoute",
        NAMESPACE,
        "web",
        json!([
            {"matches": [{"headers": [{"name": "X-Version", "value": "two"}]}], "backendRefs": to("v2")},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/two"}}], "backendRefs": to("v2")},
            {"matches": [{"path": {"type": "Exact", "value": "/exact"}}], "backendRefs": to("v2")},
            {"matches": [{"path": {"type": "RegularExpression", "value": "/n[0-9]+"}}], "backendRefs": to("v2")},
            {"matches": [{"method": "DELETE"}], "backendRefs": to("v2")},
            {"matches": [{"queryParams": [{"name": "v", "value": "2"}]}], "backendRefs": to("v2")},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/one"}}], "backendRefs": to("v1")},
        ]),
    )?;
    routes.in_force()?;
    for ask in [
        Ask::get("/any").with(&[("x-version", "two")]),
        Ask::get("/two/deeper"),
        Ask::get("/exact"),
        Ask::get("/n42"),
        Ask::get("/any").method("DELETE").with(&[("content-length", "0")]),
        Ask::get("/any?a=b&v=2"),
    ] {
        routes.all_to("v2", &ask)?;
    }
    // A longer path comes before any condition on anything else.
    for ask in [Ask::get("/one"), Ask::get("/one/more?v=2"), Ask::get("/one").with(&[("x-version", "two")])] {
        routes.all_to("v1", &ask)?;
    }
    // Elements, not letters; and what no rule takes is nobody's.
    for nobody in ["/twofold", "/exact/", "/n", "/"] {
        let reply = routes.get(&Ask::get(nobody))?;
        ensure!((reply.status, reply.header("weft-error")) == (404, Some("no_route")), "{nobody}: {reply:?}");
    }
    // A route that is gone decides nothing: the port is what it was.
    routes.lab.manifests().remove("HTTPRoute", NAMESPACE, "web");
    routes.settles("the route to be gone", &Ask::get("/"), |reply| reply.status == 200)?;
    routes.lab.finish()
}

#[test]
fn routes_split_requests() -> Result<()> {
    let routes = Routes::new("shares", Some("http"))?;
    routes.route(
        "HTTPRoute",
        NAMESPACE,
        "web",
        json!([{"backendRefs": [
            {"name": "v1", "port": 80, "weight": 70}, {"name": "v2", "port": 80, "weight": 30},
            {"name": "nowhere", "port": 80, "weight": 0},
        ]}]),
    )?;
    routes.in_force()?;
    let asked = Requests::to(routes.web.v4(), Http::One, Ask::get("/"), 500).over(2, 1);
    let answers = routes.app.request(asked.clone())?;
    ensure!(answers.with(200) == 500, "{answers:?}");
    let share = *answers.names.get("v1").unwrap_or(&0) as f64 / 500.0;
    // Four standard deviations would be 8 points; the balance is asked for within 5, so each try is a fair one.
    ensure!((share - 0.7).abs() < 0.082, "{answers:?}");
    // A backend that is missing keeps its share, in refusals.
    routes.route(
        "HTTPRoute",
        NAMESPACE,
        "web",
        json!([{"backendRefs": [{"name": "v1", "port": 80, "weight": 1}, {"name": "nowhere", "port": 80, "weight": 1}]}]),
    )?;
    wait::until("the missing backend's share", wait::DEADLINE, || {
        let answers = routes.app.request(asked.clone())?;
        ensure!(answers.with(200) + answers.with(500) == 500, "{answers:?}");
        ensure!((200..=300).contains(&answers.with(500)) && !answers.names.contains_key("v2"), "{answers:?}");
        Ok(())
    })?;
    // So does one of a kind nothing can be sent to.
    let bucket = json!({"group": "storage.example", "kind": "Bucket", "name": "b", "weight": 1});
    let backends = json!([{"name": "v2", "port": 80, "weight": 1}, bucket]);
    routes.route("HTTPRoute", NAMESPACE, "web", json!([{"backendRefs": backends}]))?;
    wait::until("the share of a backend that is no Service", wait::DEADLINE, || {
        let answers = routes.app.request(asked.clone())?;
        ensure!(answers.with(200) + answers.with(500) == 500, "{answers:?}");
        ensure!((200..=300).contains(&answers.with(500)) && !answers.names.contains_key("v1"), "{answers:?}");
        Ok(())
    })?;
    routes.lab.finish()
}

#[test]
fn routes_change_requests() -> Result<()> {
    let routes = Routes::new("filters", Some("http"))?;
    let headers = |kind: &str, field: &str, name: &str| json!({"type": kind, field: {"set": [{"name": format!("x-set-{name}"), "value": name}], "add": [{"name": "x-add", "value": name}], "remove": ["x-gone"]}});
    let request = |name: &str| headers("RequestHeaderModifier", "requestHeaderModifier", name);
    let response = |name: &str| headers("ResponseHeaderModifier", "responseHeaderModifier", name);
    routes.route(
        "HTTPRoute",
        NAMESPACE,
        "web",
        json!([
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/headers"}}],
                "filters": [request("rule"), response("rule")],
                "backendRefs": [{"name": "v1", "port": 80, "filters": [request("backend"), response("backend")]}]
            },
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/old"}}],
                "filters": [{"type": "URLRewrite", "urlRewrite": {"hostname": "new.example", "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}}}],
                "backendRefs": to("v1")
            },
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/full"}}],
                "filters": [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/whole"}}}],
                "backendRefs": to("v1")
            },
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/moved"}}],
                "filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "hostname": "there.example", "statusCode": 301, "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/here"}}}]
            },
            {"backendRefs": to("v2")},
        ]),
    )?;
    routes.in_force()?;
    for _ in 0..ROW {
        let reply = routes.get(&Ask::get("/headers").with(&[("x-gone", "1"), ("x-add", "mine")]))?;
        let saw = reply.saw()?;
        ensure!(saw.header("x-set-rule") == Some("rule") && saw.header("x-set-backend") == Some("backend"), "{saw:?}");
        let added: Vec<_> = saw.headers.iter().filter(|(name, _)| name == "x-add").map(|(_, v)| v.as_str()).collect();
        ensure!(added == ["mine", "rule", "backend"] && saw.header("x-gone").is_none(), "{saw:?}");
        ensure!(
            reply.header("x-set-rule") == Some("rule") && reply.header("x-set-backend") == Some("backend"),
            "{reply:?}"
        );
        for (asked, path, host) in [
            ("/old/a?b=c", "/new/a?b=c", "new.example"),
            ("/old", "/new", "new.example"),
            ("/full/a?b", "/whole?b", &*routes.web.v4().to_string()),
        ] {
            let saw = routes.get(&Ask::get(asked))?.saw()?;
            ensure!((saw.target.as_str(), saw.header("host")) == (path, Some(host)), "{asked}: {saw:?}");
        }
        let moved = routes.get(&Ask::get("/moved/x?y=z"))?;
        let location = moved.header("location");
        ensure!((moved.status, location) == (301, Some("https://there.example/here/x?y=z")), "{moved:?}");
    }
    let saw = routes.app.fetch(routes.web.v4(), Http::Two, Ask::get("/old/a"))?.saw()?;
    ensure!(saw.target == "http://new.example/new/a", "{saw:?}");
    routes.lab.finish()
}

#[test]
fn routes_limit_and_repeat_requests() -> Result<()> {
    let routes = Routes::new("limits", Some("http"))?;
    routes.route(
        "HTTPRoute",
        NAMESPACE,
        "web",
        json!([
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/wait"}}],
                "timeouts": {"request": "500ms"}, "backendRefs": to("v1")
            },
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/status"}}],
                "retry": {"attempts": 2, "codes": [503], "backoff": "10ms"}, "backendRefs": to("v1")
            },
            {"backendRefs": to("v2")},
        ]),
    )?;
    routes.in_force()?;
    ensure!(routes.get(&Ask::get("/wait/10"))?.status == 200);
    let late = routes.get(&Ask::get("/wait/20000"))?;
    ensure!((late.status, late.header("weft-error")) == (504, Some("timeout")), "{late:?}");
    // The endpoint has it three times; what it says the third time is the client's.
    let (server, listener) = &routes.servers[0];
    for (asked, times) in [("/status/503", 3), ("/status/502", 1), ("/status/204", 1)] {
        let before = server.seen(*listener)?.requests;
        routes.get(&Ask::get(asked))?;
        let made = server.seen(*listener)?.requests - before;
        ensure!(made == times, "{asked} was made {made} times");
    }
    routes.lab.finish()
}

#[test]
fn consumer_routes_are_their_namespaces_own() -> Result<()> {
    let routes = Routes::new("consumer", Some("http"))?;
    // In turns: what is counted here is who is concerned, not which endpoint is faster on a busy machine.
    routes.lab.algorithm(&routes.web, "RoundRobin")?;
    let other = routes.lab.pod(&routes.a, "other").namespace("elsewhere").mesh("enabled").create()?;
    let theirs = other.app(&routes.lab)?;
    routes.lab.wait_live(&other)?;
    let to_v2 = json!([{"name": "v2", "namespace": NAMESPACE, "port": 80}]);
    routes.route("HTTPRoute", "elsewhere", "web", json!([{"backendRefs": to_v2, "filters": [
        {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-by", "value": "consumer"}]}}
    ]}]))?;
    routes.lab.manifests().put(json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
        "metadata": {"name": "routes", "namespace": NAMESPACE},
        "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "elsewhere"}],
            "to": [{"group": "", "kind": "Service"}]
        }
    }))?;
    wait::until("the consumer's route", wait::DEADLINE, || {
        let reply = theirs.fetch(routes.web.v4(), Http::One, Ask::get("/"))?;
        ensure!(reply.header("x-by") == Some("consumer") && reply.header("x-name") == Some("v2"), "{reply:?}");
        Ok(())
    })?;
    let answers = theirs.request(Requests::to(routes.web.v4(), Http::One, Ask::get("/"), ROW as u64))?;
    ensure!(answers.names == BTreeMap::from([("v2".to_owned(), ROW as u64)]), "{answers:?}");
    let answers = routes.app.request(Requests::to(routes.web.v4(), Http::One, Ask::get("/"), ROW as u64))?;
    ensure!(answers.names.len() == 2, "others are not concerned: {answers:?}");
    ensure!(routes.get(&Ask::get("/"))?.header("x-by").is_none());
    routes.lab.finish()
}

#[test]
fn grpc_routes_match_methods() -> Result<()> {
    let routes = Routes::new("grpcroute", Some("kubernetes.io/h2c"))?;
    routes.route(
        "GRPCRoute",
        NAMESPACE,
        "web",
        json!([
            {"matches": [{"method": {"service": "lab.Echo", "method": "Say"}, "headers": [{"name": "x-version", "value": "two"}]}], "backendRefs": to("v2")},
            {"matches": [{"method": {"service": "lab.Echo"}}], "backendRefs": to("v1")},
        ]),
    )?;
    let ask =
        |requests: Ask| routes.app.request(Requests::to(routes.web.v4(), Http::Two, requests, ROW as u64).over(1, 5));
    wait::until("the route", wait::DEADLINE, || {
        let answers = ask(Ask::grpc("hello"))?;
        ensure!(answers.names == BTreeMap::from([("v1".to_owned(), ROW as u64)]), "{answers:?}");
        Ok(())
    })?;
    let two = ask(Ask::grpc("hello").with(&[("x-version", "two")]))?;
    ensure!(
        two.names == BTreeMap::from([("v2".to_owned(), ROW as u64)]) && two.grpc.get("0") == Some(&(ROW as u64)),
        "{two:?}"
    );
    // A service no rule names is not implemented, as far as the client can tell.
    let unknown = Ask { target: "/lab.Other/Say".into(), ..Ask::grpc("hello") };
    let reply = routes.app.fetch(routes.web.v4(), Http::Two, unknown)?;
    ensure!((reply.status, reply.header("grpc-status")) == (200, Some("12")), "{reply:?}");
    routes.lab.finish()
}

#[test]
fn routes_mirror_requests() -> Result<()> {
    let routes = Routes::new("mirror", Some("http"))?;
    let mirror = |to: &str, percent: u32| json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": to, "port": 80}, "percent": percent}});
    routes.route(
        "HTTPRoute",
        NAMESPACE,
        "web",
        json!([
            {"matches": [{"path": {"type": "PathPrefix", "value": "/all"}}], "filters": [mirror("v2", 100)], "backendRefs": to("v1")},
            {"matches": [{"path": {"type": "PathPrefix", "value": "/half"}}], "filters": [mirror("v2", 50)], "backendRefs": to("v1")},
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
