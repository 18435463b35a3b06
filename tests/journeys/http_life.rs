//! HTTP when things fail, are refused, or are replaced.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_tests::app::{Ask, Behaviour, End, Http, Options, Payload, Requests, Until};
use weft_tests::capture::Capture;
use weft_tests::lab::{AgentOptions, Lab, NAMESPACE};
use weft_tests::wait;

use crate::fixture::{anywhere, running_agent};
use crate::http::Web;
use crate::security::policy;

#[test]
fn http_dead_endpoint_no_client_error() -> Result<()> {
    let web = Web::serving("httpdead", 3, "http")?;
    // One refuses, one is gone from the network without a word; both stay listed as ready. Connections to them are kept.
    let (_, refusing, listener) = &web.servers[0];
    refusing.unlisten(*listener)?;
    refusing.process().kill()?;
    web.servers[1].0.netns().ip(&["link set eth0 down".into()])?;
    for (to, http) in [(web.web.v4(), Http::One), (web.web.v6(), Http::Two)] {
        let requests = Requests::to(to, http, Ask::get("/"), 60).over(2, 2);
        let answers = web.steered(2, || web.app.request(requests))?;
        ensure!(answers.with(200) == 60 && answers.failed() == 0, "{http:?}: {answers:?}");
        ensure!(answers.names.keys().eq(["v3"].iter()), "{answers:?}");
    }
    web.servers[1].0.reconnect()?;
    web.lab.finish()
}

#[test]
fn http_refusals_say_why() -> Result<()> {
    let web = Web::serving("httpwhy", 1, "http")?;
    let to = web.web.v4();
    let says = |status: u16, word: &str| -> Result<()> {
        wait::until(&format!("{status}, {word}"), wait::DEADLINE, || {
            let reply = web.app.fetch(to, Http::One, Ask::get("/"))?;
            ensure!(reply.status == status && reply.header("weft-error") == Some(word), "{reply:?}");
            ensure!(reply.text.starts_with("weft: "), "{reply:?}");
            Ok(())
        })
    };
    // Policy is the server's; the client is told so in words of HTTP, and in those of gRPC if it speaks that.
    let deny = json!({"action": "Deny", "rules": [{"to": [{"ports": [8080]}]}]});
    policy(&web.lab, "AuthorizationPolicy", "never", &deny)?;
    says(403, "refused_by_policy")?;
    let call = web.app.fetch(to, Http::Two, Ask::grpc("hello"))?;
    ensure!((call.status, call.header("grpc-status")) == (200, Some("7")), "{call:?}");
    web.lab.manifests().remove("AuthorizationPolicy", NAMESPACE, "never");
    web.answers()?;
    // Nobody listens; then nobody is there.
    let (_, server, listener) = &web.servers[0];
    server.unlisten(*listener)?;
    server.process().kill()?;
    says(503, "refused_unreachable")?;
    web.lab.set_endpoints(&web.web, Vec::new())?;
    says(503, "no_endpoints")?;
    let call = web.app.fetch(to, Http::Two, Ask::grpc("hello"))?;
    ensure!((call.status, call.header("grpc-status")) == (200, Some("14")), "{call:?}");
    ensure!(call.header("grpc-message").is_some_and(|message| message.contains("no endpoints")), "{call:?}");
    // A request that has gone in circles.
    let looping = web.app.fetch(to, Http::One, Ask::get("/").with(&[("weft-hops", "32")]))?;
    ensure!((looping.status, looping.header("weft-error")) == (508, Some("loop")), "{looping:?}");
    web.lab.finish()
}

#[test]
fn http_plaintext_on_the_wire_is_absent() -> Result<()> {
    let web = Web::serving("httpwire", 1, "http")?;
    let capture = Capture::start(&web.lab)?;
    let payload = Payload::Noise { seed: 31, length: 300_000 };
    let ask = Ask::post("/", payload.clone()).with(&[("x-secret", "a-very-secret-word")]);
    for http in [Http::One, Http::Two] {
        let saw = web.app.fetch(web.web.v4(), http, ask.clone())?.saw()?;
        ensure!(saw.body == payload.sum() && saw.header("x-secret") == Some("a-very-secret-word"), "{saw:?}");
    }
    wait::until("its bytes to pass as TLS", wait::DEADLINE, || {
        let bytes = capture.tls_bytes(15008)?;
        ensure!(bytes >= 600_000, "{bytes} bytes of application data");
        Ok(())
    })?;
    for secret in [payload.block()[..200].to_vec(), b"a-very-secret-word".to_vec()] {
        ensure!(capture.containing(&secret).is_empty(), "plaintext between nodes: {:?}", capture.containing(&secret));
    }
    web.lab.finish()
}

#[test]
fn http_upgrade_under_load_no_error() -> Result<()> {
    let web = Web::serving("httpupgrade", 2, "http")?;
    let get = |to, http| Requests::to(to, http, Ask::get("/"), 0).over(2, 2).pause_ms(3);
    let post =
        Requests { ask: Ask::post("/", Payload::Noise { seed: 3, length: 2000 }), ..get(web.web.v6(), Http::One) };
    let loads = [get(web.web.v4(), Http::One), get(web.web.v4(), Http::Two), post];
    let loads = loads.map(|requests| web.app.start_requests(requests)).into_iter().collect::<Result<Vec<_>>>()?;
    for node in [&web.a, &web.b] {
        let old = running_agent(&web.lab, node)?;
        web.lab.start_agent(node, AgentOptions::default())?;
        let status = old.process().wait(Duration::from_secs(60))?;
        ensure!(status.success(), "the predecessor ended with {status}");
        web.steered(1, || web.app.fetch(web.web.v4(), Http::One, Ask::get("/")))?;
    }
    for load in loads {
        let answers = web.app.stop_requests(load)?;
        ensure!(answers.failed() == 0 && answers.with(200) > 50, "{answers:?}");
        ensure!(answers.connections < 40, "connections were not kept: {answers:?}");
    }
    web.lab.finish()
}

#[test]
fn http_agent_kill9_new_requests_survive() -> Result<()> {
    let web = Web::serving("httpkill", 1, "http")?;
    for node in [&web.a, &web.b] {
        running_agent(&web.lab, node)?.process().kill()?;
        let (app, to) = (web.app.clone(), web.web.v4());
        let requests = Requests { deadline_ms: 30_000, ..Requests::to(to, Http::One, Ask::get("/"), 20).over(10, 1) };
        let asking = std::thread::spawn(move || app.request(requests));
        wait::holds("requests to begin without an agent", || web.lab.agent_on(node).is_none())?;
        web.lab.start_agent(node, AgentOptions::default())?;
        let answers = asking.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        ensure!(answers.with(200) == 20 && answers.failed() == 0, "on {}: {answers:?}", node.name());
    }
    web.lab.finish()
}

#[test]
fn http_drain_lets_requests_finish() -> Result<()> {
    let web = Web::serving("httpdrain", 1, "http")?;
    let agent = running_agent(&web.lab, &web.a)?;
    let slow = [Http::One, Http::Two].map(|http| {
        let (app, to) = (web.app.clone(), web.web.v4());
        std::thread::spawn(move || app.fetch(to, http, Ask::get("/wait/2000")))
    });
    let (_, server, listener) = &web.servers[0];
    let before = server.seen(*listener)?.accepted;
    wait::until("the requests to be under way", wait::DEADLINE, || {
        ensure!(web.lab.agent_on(&web.a).context("gone")?.ask("/status")?["connections"].as_u64() >= Some(2));
        ensure!(server.seen(*listener)?.accepted >= before);
        Ok(())
    })?;
    let status = agent.process().terminate(Duration::from_secs(20))?;
    ensure!(status.success(), "it ended with {status}");
    for slow in slow {
        let reply = slow.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        ensure!(reply.status == 200, "{reply:?}");
        // Who speaks HTTP/1 is told that there is nothing to come; in HTTP/2 GOAWAY says that.
        if reply.version == "HTTP/1.1" {
            ensure!(reply.header("connection") == Some("close"), "{reply:?}");
        }
    }
    ensure!(agent.process().log().contains("draining"), "it did not drain");
    ensure!(!agent.process().log().contains("connections were cut"), "requests were cut");
    web.lab.start_agent(&web.a, AgentOptions::default())?;
    web.answers()?;
    web.lab.finish()
}

#[test]
fn http_on_one_node_is_balanced_by_request() -> Result<()> {
    let lab = Lab::new("httpnode")?;
    let a = lab.node("a")?;
    let app = lab.pod(&a, "client").create()?.app(&lab)?;
    let pods = ["v1", "v2"].map(|name| lab.pod(&a, name).create()).into_iter().collect::<Result<Vec<_>>>()?;
    let apps = pods.iter().map(|pod| pod.app(&lab)).collect::<Result<Vec<_>>>()?;
    for (pod, app) in pods.iter().zip(&apps) {
        app.listen(anywhere(8080), pod.name(), Behaviour::Http)?;
    }
    let web = lab.service("web").speaks("http").pods(&pods.iter().collect::<Vec<_>>()).create()?;
    lab.algorithm(&web, "RoundRobin")?;
    lab.start_agents()?;
    lab.mesh()?;
    let agent = running_agent(&lab, &a)?;
    wait::until("the fast path to be on", wait::DEADLINE, || {
        ensure!(agent.ask("/status")?["fast_path"] == "on");
        Ok(())
    })?;
    let said = agent.ask("/services")?;
    let port = said.as_array().into_iter().flatten().find(|known| known["name"] == "web").context("unknown")?["ports"]
        [0]
    .clone();
    ensure!(port["protocol"] == "http" && port["protocol_because"] == "its appProtocol is HTTP", "{port}");
    ensure!(port["proxy_only"].as_str().is_some_and(|why| why.contains("request by request")), "{port}");
    // One connection: the kernel alone would give all of it to one of them.
    let requests = Requests::to(web.v4(), Http::One, Ask::get("/"), 100);
    let answers = crate::fixture::moves(&lab, &a, "connect_steer", 1, || app.request(requests))?;
    ensure!(answers.with(200) == 100 && answers.connections == 1, "{answers:?}");
    ensure!(answers.names.len() == 2 && answers.names.values().all(|count| *count >= 20), "{answers:?}");
    lab.finish()
}

#[test]
fn http_stalled_response_does_not_block_others() -> Result<()> {
    let web = Web::serving("httpstall", 1, "http")?;
    // Clients that ask for much and read nothing: more than any shared window or buffer holds, over both versions.
    let slow = Options { receive_buffer: Some(4096), ..Options::default() };
    let stalled = (0..12)
        .map(|_| {
            let conn = web.app.open_with(web.web.v4(), slow.clone())?.conn;
            web.app.say(conn, "GET /bytes/50000000 HTTP/1.1\r\nHost: a\r\n\r\n")?;
            let head = web.app.receive(conn, Until::Head)?.text;
            ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
            Ok(conn)
        })
        .collect::<Result<Vec<_>>>()?;
    // The pod's requests over HTTP/2 share a connection to the endpoint.
    let much = Requests::to(web.web.v4(), Http::Two, Ask::get("/bytes/6000000"), 0).over(8, 2);
    let unread = web.app.leave_unread(much)?;
    for http in [Http::One, Http::Two] {
        let requests = Requests::to(web.web.v4(), http, Ask::get("/"), 80).over(2, 4);
        let requests = Requests { deadline_ms: 2000, ..requests };
        let answers = web.steered(2, || web.app.request(requests))?;
        ensure!(answers.with(200) == 80 && answers.failed() == 0, "{answers:?}");
        ensure!(answers.median_ms < 250.0, "stalled responses slow the others: {answers:?}");
    }
    // Nobody holds what nobody reads: a window each, and what sockets take.
    for node in [&web.a, &web.b] {
        let resident = running_agent(&web.lab, node)?.process().memory_bytes()?;
        ensure!(resident < 300 << 20, "{resident} bytes on {}", node.name());
    }
    ensure!(web.app.read_unread(unread)? == 16 * 6_000_000, "what waited is not lost");
    for conn in stalled {
        web.app.close(conn)?;
    }
    web.lab.finish()
}

#[test]
fn http_half_closing_clients_get_their_answer() -> Result<()> {
    let web = Web::serving("httphalf", 1, "http")?;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    // `nc -N`: a request, a FIN, and only then the answer; also two requests at once.
    let conn = web.steered(1, || web.app.open(web.web.v4()))?.conn;
    web.app.say(conn, &(get("/wait/700") + &get("/wait/1")))?;
    web.app.finish(conn)?;
    let said = web.app.receive(conn, Until::End)?;
    ensure!(said.text.matches("HTTP/1.1 200 OK").count() == 2 && said.end == Some(End::Fin), "{said:?}");
    // A body that breaks off is no request.
    let conn = web.app.open(web.web.v4())?.conn;
    web.app.say(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")?;
    web.app.finish(conn)?;
    let said = web.app.receive(conn, Until::End)?;
    ensure!(!said.text.contains("HTTP/1.1 200"), "{said:?}");
    // Who has sent a FIN and is gone waits for nothing.
    let (_, server, listener) = &web.servers[0];
    let counted = || web.counted(&[("request_protocol", "http1"), ("error", "cancelled")]);
    let (before, given_up) = (server.seen(*listener)?, counted()?);
    let gone = web.app.open(web.web.v4())?.conn;
    web.app.say(gone, &get("/wait/60000"))?;
    web.app.finish(gone)?;
    wait::until("the request to be made", wait::DEADLINE, || {
        ensure!(server.seen(*listener)?.requests > before.requests);
        Ok(())
    })?;
    web.app.close(gone)?;
    wait::until("the request to be given up", wait::DEADLINE, || {
        ensure!(counted()? > given_up, "the server still works for nobody");
        Ok(())
    })?;
    web.lab.finish()
}
