//! HTTP, request by request: ports whose `appProtocol` says so, from unmodified clients to unmodified servers.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use weft_tests::app::{App, Ask, Behaviour, Http, Payload, Requests, Until};
use weft_tests::lab::{Lab, Node, Pod, Service};
use weft_tests::wait;

use crate::fixture::{anywhere, moves, running_agent};

/// A client on one node and HTTP servers on the other, meshed, behind the Service `web`.
pub(crate) struct Web {
    pub(crate) lab: Lab,
    pub(crate) a: Node,
    pub(crate) b: Node,
    pub(crate) app: App,
    pub(crate) servers: Vec<(Pod, App, u64)>,
    pub(crate) web: Service,
}

impl Web {
    /// With so many servers, which behave like this, behind a port that is said to speak this.
    pub(crate) fn with(name: &str, servers: usize, behaviour: &Behaviour, app_protocol: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (a, b) = (lab.node("a")?, lab.node("b")?);
        let app = lab.pod(&a, "client").create()?.app(&lab)?;
        let mut made = Vec::new();
        for number in 1..=servers {
            let name = format!("v{number}");
            let pod = lab.pod(&b, &name).create()?;
            let server = pod.app(&lab)?;
            let (listener, _) = server.listen(anywhere(8080), &name, behaviour.clone())?;
            made.push((pod, server, listener));
        }
        let pods: Vec<&Pod> = made.iter().map(|(pod, ..)| pod).collect();
        let web = lab.service("web").speaks(app_protocol).pods(&pods).create()?;
        // In turns: what is counted here is that requests are balanced, not which endpoint is faster on a busy machine.
        lab.algorithm(&web, "RoundRobin")?;
        lab.start_agents()?;
        lab.mesh()?;
        Ok(Self { lab, a, b, app, servers: made, web })
    }

    /// With servers that answer with what they saw.
    pub(crate) fn serving(name: &str, servers: usize, app_protocol: &str) -> Result<Self> {
        let web = Self::with(name, servers, &Behaviour::Http, app_protocol)?;
        web.answers()?;
        Ok(web)
    }

    /// Waits until requests are answered.
    pub(crate) fn answers(&self) -> Result<()> {
        wait::until("the Service to answer", wait::DEADLINE, || {
            let reply = self.app.fetch(self.web.v4(), Http::One, Ask::get("/"))?;
            ensure!(reply.status == 200, "{reply:?}");
            Ok(())
        })
    }

    /// Runs `journey` and checks that the kernel steered at least `count` connections of the client meanwhile.
    pub(crate) fn steered<R>(&self, count: u64, journey: impl FnOnce() -> Result<R>) -> Result<R> {
        moves(&self.lab, &self.a, "connect_steer", count, journey)
    }

    /// Connections the servers have accepted, by name.
    pub(crate) fn accepted(&self) -> Result<BTreeMap<String, u64>> {
        self.servers.iter().map(|(pod, app, at)| Ok((pod.name().to_owned(), app.seen(*at)?.accepted))).collect()
    }

    /// Requests the client's agent has counted with these labels.
    pub(crate) fn counted(&self, labels: &[(&str, &str)]) -> Result<u64> {
        Ok(running_agent(&self.lab, &self.a)?.metrics()?.sum("weft_http_requests_total", labels) as u64)
    }
}

#[test]
fn outbound_http1() -> Result<()> {
    let web = Web::serving("http1", 2, "http")?;
    let before = web.counted(&[("response_code", "200"), ("request_protocol", "http1")])?;
    let answers = web.steered(2, || {
        let mut all = BTreeMap::new();
        for to in [web.web.v4(), web.web.v6()] {
            // One connection of the client's, a hundred requests: each goes where it is best for it.
            let answers = web.app.request(Requests::to(to, Http::One, Ask::get("/hello?x=1"), 100))?;
            ensure!(answers.with(200) == 100 && answers.failed() == 0 && answers.connections == 1, "{to}: {answers:?}");
            for (name, count) in answers.names {
                *all.entry(name).or_insert(0) += count;
            }
        }
        Ok(all)
    })?;
    ensure!(answers.len() == 2 && answers.values().all(|count| *count >= 20), "not balanced by request: {answers:?}");
    ensure!(web.counted(&[("response_code", "200"), ("request_protocol", "http1")])? - before == 200);
    // Connections to endpoints are kept: a handful for two hundred requests.
    let accepted = web.accepted()?;
    ensure!(accepted.values().all(|count| *count <= 6), "a connection for each request: {accepted:?}");
    let ports = running_agent(&web.lab, &web.a)?.metrics()?;
    let http = [("protocol", "http"), ("because", "app_protocol_http")];
    ensure!(ports.sum("weft_service_ports", &http) == 1.0, "{:?}", ports.by_label("weft_service_ports", "protocol"));
    let reply = web.app.fetch(web.web.v4(), Http::One, Ask::get("/a/b?c=d").with(&[("x-mine", "1")]))?;
    let saw = reply.saw()?;
    ensure!((saw.method.as_str(), saw.target.as_str(), saw.version.as_str()) == ("GET", "/a/b?c=d", "HTTP/1.1"));
    ensure!(saw.header("x-mine") == Some("1") && saw.header("host") == Some(&web.web.v4().to_string()), "{saw:?}");
    web.lab.finish()
}

#[test]
fn outbound_h2() -> Result<()> {
    let web = Web::serving("h2", 2, "kubernetes.io/h2c")?;
    let answers =
        web.steered(1, || web.app.request(Requests::to(web.web.v4(), Http::Two, Ask::get("/hello"), 200).over(1, 10)))?;
    ensure!(answers.with(200) == 200 && answers.failed() == 0 && answers.connections == 1, "{answers:?}");
    ensure!(answers.names.len() == 2 && answers.names.values().all(|count| *count >= 40), "{answers:?}");
    let saw = web.app.fetch(web.web.v6(), Http::Two, Ask::get("/x"))?.saw()?;
    ensure!(saw.version == "HTTP/2.0" && saw.target == format!("http://{}/x", web.web.v6()), "{saw:?}");
    ensure!(web.counted(&[("request_protocol", "http2")])? >= 201);
    web.lab.finish()
}

#[test]
fn outbound_http1_to_h2c() -> Result<()> {
    let web = Web::serving("raised", 2, "kubernetes.io/h2c")?;
    let to = web.web.v4();
    let body = Payload::Noise { seed: 7, length: 300_000 };
    let posted = Ask::post("/echo?x=1", body.clone()).with(&[("x-mine", "1"), ("transfer-encoding", "chunked")]);
    let (got, sent) = web.steered(2, || {
        let got = web.app.fetch(to, Http::One, Ask::get("/a/b?c=d"))?;
        Ok((got, web.app.fetch(to, Http::One, posted)?))
    })?;
    for (reply, method, path) in [(&got, "GET", "/a/b?c=d"), (&sent, "POST", "/echo?x=1")] {
        let saw = reply.saw()?;
        ensure!(saw.version == "HTTP/2.0", "the endpoint of a port that speaks HTTP/2 got {}: {saw:?}", saw.version);
        ensure!(reply.version == "HTTP/1.1" && saw.method == method, "{reply:?}");
        ensure!(saw.target == format!("http://{to}{path}") && saw.header("host").is_none(), "{saw:?}");
    }
    let saw = sent.saw()?;
    ensure!(saw.body == body.sum() && saw.header("x-mine") == Some("1"), "{saw:?}");
    ensure!(saw.header("transfer-encoding").is_none(), "{saw:?}");
    // Trailers come through, and requests are balanced over connections that many of them share.
    let after = web.app.fetch(to, Http::One, Ask::get("/trailers").with(&[("te", "trailers")]))?;
    ensure!(after.trailer("x-after") == Some("all of it"), "{after:?}");
    let answers = web.app.request(Requests::to(to, Http::One, Ask::get("/hello"), 200).over(4, 1))?;
    ensure!(answers.with(200) == 200 && answers.names.values().all(|count| *count >= 40), "{answers:?}");
    // An app that waits to be asked for its body is asked.
    let conn = web.app.open(to)?.conn;
    web.app.say(conn, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")?;
    ensure!(web.app.receive(conn, Until::Head)?.text.starts_with("HTTP/1.1 100 "));
    web.app.say(conn, "ok")?;
    ensure!(web.app.receive(conn, Until::Head)?.text.starts_with("HTTP/1.1 200 "));
    web.lab.finish()
}

#[test]
fn outbound_grpc() -> Result<()> {
    let web = Web::serving("grpc", 2, "grpc")?;
    let answers =
        web.steered(1, || web.app.request(Requests::to(web.web.v4(), Http::Two, Ask::grpc("hello"), 200).over(1, 10)))?;
    ensure!(answers.grpc.get("0") == Some(&200) && answers.failed() == 0 && answers.connections == 1, "{answers:?}");
    ensure!(answers.names.len() == 2 && answers.names.values().all(|count| *count >= 40), "{answers:?}");
    ensure!(web.counted(&[("request_protocol", "grpc"), ("grpc_response_status", "0")])? == 200);
    web.lab.finish()
}
