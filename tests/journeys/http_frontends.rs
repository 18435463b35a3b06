//! Which connections are a Service's requests at all: those to its own address, and, where nothing is said of its ports, what
//! its namespace or it itself asks for.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::app::{Ask, Behaviour, Http, Requests};
use weft_tests::lab::{Lab, NAMESPACE, Service};
use weft_tests::wait;

use crate::fixture::{anywhere, moves, running_agent};
use crate::http::Web;
use crate::http_policy::{policy, service};
use crate::http_retries::rule;

#[test]
fn routes_are_not_for_who_dials_a_pod() -> Result<()> {
    let web = Web::serving("podrouted", 1, "http")?;
    let (pod, server, listener) = &web.servers[0];
    let mark = json!([{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-rule", "value": "1"}]}}]);
    let retry = json!({"attempts": 2, "codes": [503], "backoff": "10ms"});
    rule(&web.lab, &json!({"retry": retry, "filters": mark, "backendRefs": [{"name": "web", "port": 80}]}))?;
    let made = |to, http, path: &str| -> Result<(u64, weft_tests::app::Reply)> {
        let before = server.seen(*listener)?.requests;
        let reply = web.app.fetch(to, http, Ask::get(path))?;
        Ok((server.seen(*listener)?.requests - before, reply))
    };
    wait::until("the route", wait::DEADLINE, || {
        let (times, reply) = made(web.web.v4(), Http::One, "/status/503")?;
        ensure!(times == 3 && reply.header("x-rule") == Some("1"), "made {times} times: {reply:?}");
        Ok(())
    })?;
    let counted = web.counted(&[])?;
    for to in [pod.v4(8080)?, pod.v6(8080)?] {
        for http in [Http::One, Http::Two] {
            let (times, reply) = web.steered(1, || made(to, http, "/status/503"))?;
            ensure!(reply.status == 503 && times == 1, "{to}: made {times} times");
            ensure!(reply.header("x-rule").is_none(), "{to} is routed: {reply:?}");
            // One connection of the client's is one to the server, carried as it is.
            let row = web.steered(1, || web.app.row(to, http, Ask::get("/"), 20))?;
            let connections = row.iter().map(|reply| Ok(reply.saw()?.connection)).collect::<Result<BTreeSet<_>>>()?;
            ensure!(connections.len() == 1 && row.len() == 20, "{to}: {connections:?}");
        }
    }
    // Nor is a TrafficPolicy of the Service: nobody has dialled that.
    policy(&web.lab, "a-fault", &service("web"), &json!({"fault": {"abort": {"percent": 100, "status": 418}}}))?;
    let own = counted;
    wait::until("requests to the Service to fail", wait::DEADLINE, || {
        let reply = web.app.fetch(web.web.v4(), Http::One, Ask::get("/"))?;
        ensure!(reply.status == 418, "{reply:?}");
        Ok(())
    })?;
    let by_service = web.counted(&[])?;
    let answers = web.steered(1, || web.app.request(Requests::to(pod.v4(8080)?, Http::One, Ask::get("/"), 50)))?;
    ensure!(answers.with(200) == 50 && answers.connections == 1, "{answers:?}");
    ensure!(web.counted(&[])? == by_service && by_service > own, "requests to a pod's address are counted");
    web.lab.finish()
}

/// Two servers behind Services that say nothing of their ports, but for this annotation.
struct Asked {
    lab: Lab,
    a: weft_tests::lab::Node,
    app: weft_tests::app::App,
    _servers: Vec<weft_tests::app::App>,
}

impl Asked {
    fn new() -> Result<(Self, [Service; 3])> {
        let lab = Lab::new("l7namespace")?;
        let (a, b) = (lab.node("a")?, lab.node("b")?);
        let app = lab.pod(&a, "client").create()?.app(&lab)?;
        let (mut pods, mut servers) = (Vec::new(), Vec::new());
        for name in ["v1", "v2"] {
            let pod = lab.pod(&b, name).create()?;
            let server = pod.app(&lab)?;
            server.listen(anywhere(8080), name, Behaviour::Http)?;
            servers.push(server);
            pods.push(pod);
        }
        let pods: Vec<_> = pods.iter().collect();
        let silent = lab.service("silent").pods(&pods).create()?;
        let on = lab.service("on").annotation("weft.dev/l7", "enabled").pods(&pods).create()?;
        let off = lab.service("off").annotation("weft.dev/l7", "disabled").pods(&pods).create()?;
        for service in [&silent, &on, &off] {
            lab.algorithm(service, "RoundRobin")?;
        }
        lab.start_agents()?;
        lab.mesh()?;
        Ok((Self { lab, a, app, _servers: servers }, [silent, on, off]))
    }

    /// Annotates the Namespace.
    fn namespace(&self, l7: Option<&str>) -> Result<()> {
        self.lab.manifests().change("Namespace", "", NAMESPACE, |namespace| {
            namespace["metadata"]["annotations"] = l7.map_or_else(|| json!({}), |l7| json!({"weft.dev/l7": l7}));
        })
    }

    /// What the agent says that a Service's port speaks.
    fn said(&self, service: &Service) -> Result<Value> {
        let services = running_agent(&self.lab, &self.a)?.ask("/services")?;
        let mut known = services.as_array().into_iter().flatten();
        let known = known.find(|known| known["name"] == service.name()).context("unknown")?;
        Ok(known["ports"][0]["protocol"].clone())
    }

    /// Waits until the requests of one connection go to so many servers: to all, one by one, or all to one, as bytes.
    fn reach(&self, service: &Service, servers: usize) -> Result<()> {
        let name = service.name();
        wait::until(&format!("{name} to have each connection's requests go to {servers}"), wait::DEADLINE, || {
            for (to, http) in [(service.v4(), Http::One), (service.v6(), Http::Two)] {
                let requests = Requests::to(to, http, Ask::get("/"), 40);
                let answers = moves(&self.lab, &self.a, "connect_steer", 1, || self.app.request(requests))?;
                ensure!(answers.with(200) == 40 && answers.connections == 1, "{answers:?}");
                ensure!(answers.names.len() == servers, "{:?} by {}", answers.names, self.said(service)?);
            }
            let said = self.said(service)?;
            ensure!((said == "detected") == (servers == 2), "said to speak {said}");
            Ok(())
        })
    }
}

#[test]
fn protocols_are_found_out_where_a_namespace_asks() -> Result<()> {
    let (asked, [silent, on, off]) = Asked::new()?;
    // A Service that says something is heard, whatever its namespace says; one that does not is its namespace's.
    for (namespace, servers) in [(None, 1), (Some("enabled"), 2), (Some("disabled"), 1), (Some("enabled"), 2)] {
        asked.namespace(namespace)?;
        asked.reach(&silent, servers)?;
        asked.reach(&on, 2)?;
        asked.reach(&off, 1)?;
    }
    asked.lab.finish()
}
