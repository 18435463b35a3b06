//! Protocols that are found out, where `weft.dev/l7: enabled` asks for it: HTTP is carried request by request, all else as it is,
//! and who waits for the server to speak is not kept waiting for long, nor twice.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use weft_tests::app::{App, Ask, Behaviour, Http, Requests, Until};
use weft_tests::lab::{Lab, Node, Pod, Service};
use weft_tests::wait;

use crate::fixture::{anywhere, moves, running_agent};

/// How long an app that says nothing is kept waiting.
const PATIENCE: Duration = Duration::from_millis(100);

struct Ports {
    lab: Lab,
    a: Node,
    app: App,
    /// Held for its processes.
    _servers: Vec<(Pod, App)>,
    web: Service,
    greet: Service,
    echo: Service,
    database: Service,
}

impl Ports {
    fn new() -> Result<Self> {
        let lab = Lab::new("detection")?;
        let (a, b) = (lab.node("a")?, lab.node("b")?);
        let app = lab.pod(&a, "client").create()?.app(&lab)?;
        let mut servers = Vec::new();
        for name in ["v1", "v2"] {
            let pod = lab.pod(&b, name).create()?;
            let server = pod.app(&lab)?;
            for (port, behaviour) in
                [(8080, Behaviour::Http), (8081, Behaviour::Greet), (8082, Behaviour::Echo), (8083, Behaviour::Greet)]
            {
                server.listen(anywhere(port), name, behaviour)?;
            }
            servers.push((pod, server));
        }
        let pods: Vec<_> = servers.iter().map(|(pod, _)| pod).collect();
        let service = |name: &str, port, target| {
            lab.service(name).port(port, target).annotation("weft.dev/l7", "enabled").pods(&pods).create()
        };
        let (web, greet) = (service("web", 80, 8080)?, service("greet", 4000, 8081)?);
        let (echo, database) = (service("echo", 4001, 8082)?, service("database", 5432, 8083)?);
        lab.algorithm(&web, "RoundRobin")?;
        lab.start_agents()?;
        lab.mesh()?;
        Ok(Self { lab, a, app, _servers: servers, web, greet, echo, database })
    }

    /// How long the server's first word takes.
    fn greeted(&self, service: &Service) -> Result<Duration> {
        let begun = Instant::now();
        let conn = self.app.open(service.v4())?.conn;
        let greeting = self.app.receive(conn, Until::Line)?.text;
        let took = begun.elapsed();
        ensure!(greeting == "v1\n" || greeting == "v2\n", "{greeting:?}");
        self.app.say(conn, "and back\n")?;
        ensure!(self.app.receive(conn, Until::Line)?.text == "and back\n");
        self.app.close(conn)?;
        Ok(took)
    }

    fn found(&self, result: &str) -> Result<u64> {
        let metrics = running_agent(&self.lab, &self.a)?.metrics()?;
        Ok(metrics.sum("weft_protocol_detections_total", &[("result", result)]) as u64)
    }

    fn steered<R>(&self, count: u64, journey: impl FnOnce() -> Result<R>) -> Result<R> {
        moves(&self.lab, &self.a, "connect_steer", count, journey)
    }
}

#[test]
fn protocols_are_found_out_where_asked_for() -> Result<()> {
    let ports = Ports::new()?;
    wait::until("requests to be balanced one by one", wait::DEADLINE, || {
        for http in [Http::One, Http::Two] {
            let requests = Requests::to(ports.web.v4(), http, Ask::get("/"), 40);
            let answers = ports.steered(1, || ports.app.request(requests))?;
            ensure!(answers.with(200) == 40 && answers.connections == 1 && answers.names.len() == 2, "{answers:?}");
        }
        Ok(())
    })?;
    let metrics = running_agent(&ports.lab, &ports.a)?.metrics()?;
    ensure!(metrics.sum("weft_http_requests_total", &[("destination_service_name", "web")]) >= 80.0);
    ensure!(metrics.sum("weft_service_ports", &[("protocol", "detected"), ("because", "asked_for")]) == 3.0);
    ensure!(metrics.sum("weft_service_ports", &[("because", "server_first_port")]) == 1.0);
    // What is no HTTP is carried as it is, on a port that speaks HTTP, too: the answer is the server's own.
    for service in [&ports.echo, &ports.web] {
        let before = ports.found("other")?;
        let conn = ports.steered(1, || ports.app.open(service.v4()))?.conn;
        ports.app.say(conn, "EHLO example\r\n")?;
        let answer = ports.app.receive(conn, Until::Line)?.text;
        ensure!(answer == "EHLO example\r\n" || answer.starts_with("HTTP/1.1 400"), "{answer:?}");
        ports.app.close(conn)?;
        ensure!(ports.found("other")? == before + 1);
    }
    // A server that speaks first: once it takes as long as is waited, and never again.
    let first = ports.steered(1, || ports.greeted(&ports.greet))?;
    ensure!(first >= PATIENCE && ports.found("silent")? == 1, "the first took {first:?}");
    wait::until("it to be remembered", wait::DEADLINE, || {
        let before = ports.found("known_silent")?;
        let took = ports.greeted(&ports.greet)?;
        ensure!(ports.found("known_silent")? == before + 1 && took < PATIENCE, "it took {took:?}");
        Ok(())
    })?;
    let silent = ports.found("silent")?;
    let times = ports.steered(10, || (0..10).map(|_| ports.greeted(&ports.greet)).collect::<Result<Vec<_>>>())?;
    ensure!(ports.found("silent")? == silent && silent <= 2, "kept waiting {silent} times, then {times:?}");
    // On a database's port nobody waits at all.
    let before = ports.found("silent")? + ports.found("known_silent")?;
    let took = ports.steered(1, || ports.greeted(&ports.database))?;
    ensure!(ports.found("silent")? + ports.found("known_silent")? == before, "it was looked at, for {took:?}");
    ports.lab.finish()
}
