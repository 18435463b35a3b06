//! `cargo xtask demo`: two nodes, live processes, and the mesh coming to them without a restart; with `--kube` by way of an
//! API server, from what `deploy/weft.yaml` installs. Each line states what was just seen; the exit code is 0 only if all of
//! it held, and nothing is left behind either way.

mod cluster;
mod screen;

use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use cluster::Installation;
use weft_tests::app::{App, Behaviour, Calls, Payload};
use weft_tests::capture::Capture;
use weft_tests::lab::{Lab, NAMESPACE, Node, Pod, Service};
use weft_tests::wait;

use screen::Screen;

/// Connections the split is measured over.
const CALLS: u64 = 1000;

/// Shows live processes joining the mesh and leaving it.
#[derive(Parser)]
struct Options {
    /// In a cluster: an API server, and controller, agents and holders in containers as deploy/weft.yaml has them
    #[arg(long)]
    kube: bool,
}

fn main() {
    let options = Options::parse();
    let mut screen = Screen::new();
    let outcome = run(&mut screen, &options);
    if let Err(problem) = &outcome {
        screen.failed(problem);
    }
    std::process::exit(i32::from(outcome.is_err()));
}

/// What the demo is played with.
struct Stage {
    lab: Lab,
    a: Node,
    b: Node,
    client: Pod,
    v1: Pod,
    v2: Pod,
    echo: Service,
    caller: App,
    servers: [(App, u64); 2],
    /// What was installed by way of the API server, in a lab that has one.
    installation: Option<Installation>,
}

fn run(screen: &mut Screen, options: &Options) -> Result<()> {
    screen.step("Two nodes, a client calling the Service echo; v1 (weight 90) and v2 (weight 10) on the other node");
    let mut stage = Stage::set(options)?;
    let capture = Capture::start(&stage.lab)?;
    let looping =
        stage.caller.start_loop(Calls::to(stage.echo.v4()).line("before: a secret"), Duration::from_millis(10))?;
    let pid = stage.caller.process().pid();
    wait::holds("the client to call", || stage.caller.loop_report(looping).is_ok_and(|report| report.ok >= 20))?;
    let report = stage.caller.stop_loop(looping)?;
    ensure!(report.failed() == 0, "calls failed before any mesh: {report:?}");
    wait::holds("the secret on the wire", || !capture.containing(b"before: a secret").is_empty())?;
    screen.saw(
        "plaintext",
        format!("process {pid} made {} calls; \"before: a secret\" is readable between the nodes", report.ok),
    );

    if options.kube {
        stage.installation = Some(Installation::show(screen, &stage.lab)?);
        screen.step("kubectl label namespace demo weft.dev/mesh=enabled");
    } else {
        screen.step("An agent on each node; then: kubectl label namespace demo weft.dev/mesh=enabled");
        stage.lab.start_agents()?;
    }
    stage.enrol(screen, pid)?;
    stage.show_mutual_tls(screen, &capture)?;
    stage.show_split(screen)?;
    stage.show_identities(screen)?;
    stage.show_addresses(screen)?;
    stage.show_death(screen)?;
    stage.leave(screen, pid)
}

impl Stage {
    fn set(options: &Options) -> Result<Self> {
        let lab = if options.kube { Lab::installed("demo")? } else { Lab::new("demo")? };
        let (a, b) = (lab.node("a")?, lab.node("b")?);
        let (client, v1, v2) =
            (lab.pod(&a, "client").create()?, lab.pod(&b, "v1").create()?, lab.pod(&b, "v2").create()?);
        let caller = client.app(&lab)?;
        let serve = |pod: &Pod| -> Result<(App, u64)> {
            let app = pod.app(&lab)?;
            let (listener, _) = app.listen((Ipv6Addr::UNSPECIFIED, 8080).into(), pod.name(), Behaviour::Identify)?;
            Ok((app, listener))
        };
        let servers = [serve(&v1)?, serve(&v2)?];
        let echo = lab.service("echo").pods(&[&v1, &v2]).create()?;
        let one = lab.service("echo-v1").pods(&[&v1]).create()?;
        let two = lab.service("echo-v2").pods(&[&v2]).create()?;
        lab.split("echo", &echo, &[(&one, 90), (&two, 10)])?;
        Ok(Self { lab, a, b, client, v1, v2, echo, caller, servers, installation: None })
    }

    fn pods(&self) -> [&Pod; 3] {
        [&self.client, &self.v1, &self.v2]
    }

    /// Labels the pods' namespace into the mesh or out of it.
    fn label(&self, meshed: bool) -> Result<()> {
        match &self.installation {
            Some(_) => cluster::label(&self.lab, meshed),
            None => self.lab.label_namespace(NAMESPACE, meshed),
        }
    }

    fn enrol(&self, screen: &mut Screen, pid: i32) -> Result<()> {
        let looping = self.caller.start_loop(Calls::to(self.echo.v4()), Duration::from_millis(10))?;
        self.label(true)?;
        self.pods().into_iter().try_for_each(|pod| self.lab.wait_live(pod))?;
        let during = self.caller.stop_loop(looping)?;
        ensure!(during.ok > 0 && during.failed() == 0, "calls failed while the mesh came: {during:?}");
        ensure!(self.caller.process().pid() == pid && self.caller.process().exited().is_none());
        if let Some(installation) = &self.installation {
            installation.show_enrolled(screen, &self.lab, self.pods())?;
        }
        let calls = format!("{} calls meanwhile, 0 errors", during.ok);
        screen.saw("enrolled", format!("3 pods, {calls}; the client is still process {pid}"));
        Ok(())
    }

    fn show_mutual_tls(&self, screen: &mut Screen, capture: &Capture) -> Result<()> {
        screen.step("The same process goes on calling; the wire between the nodes is read again");
        let length = 200_000;
        let secret = "after: a secret ".repeat(length / 16);
        let before = self.steered()?;
        let conn = self.caller.open(self.echo.v4())?.conn;
        self.caller.send(conn, Payload::Text(secret))?;
        let report = self.caller.call(Calls::to(self.echo.v4()).times(20, 4).line("after: a secret"))?;
        ensure!(report.ok == 20, "{report:?}");
        wait::until("the payload as TLS records", wait::DEADLINE, || {
            let bytes = capture.tls_bytes(15008)?;
            ensure!(bytes >= length as u64, "{bytes} bytes of it");
            Ok(())
        })?;
        let bytes = capture.tls_bytes(15008)?;
        ensure!(capture.containing(b"after: a secret").is_empty(), "the payload is on the wire in plaintext");
        let steered = self.steered()? - before;
        ensure!(steered >= 21, "the kernel steered only {steered} connections");
        self.caller.reset(conn)?;
        screen.saw(
            "mTLS",
            format!(
                "{bytes} bytes of TLS 1.3 on port 15008, the payload nowhere; {steered} connections steered by eBPF"
            ),
        );
        Ok(())
    }

    fn show_split(&self, screen: &mut Screen) -> Result<()> {
        screen.step(&format!("{CALLS} connections, counted by the backends"));
        let before = self.counts()?;
        let report = self.caller.call(Calls::to(self.echo.v4()).times(CALLS, 16))?;
        ensure!(report.ok == CALLS, "{report:?}");
        let after = self.counts()?;
        let (v1, v2) = (after[0] - before[0], after[1] - before[1]);
        ensure!(v1 + v2 == CALLS && (60..=140).contains(&v2), "v1 {v1}, v2 {v2}");
        screen.saw(
            "split",
            format!("v1 {v1}, v2 {v2} of {CALLS} (weights 90 and 10), {:.1} ms a call", report.median_ms),
        );
        Ok(())
    }

    fn show_identities(&self, screen: &mut Screen) -> Result<()> {
        let agent = self.lab.agent_on(&self.b).context("the server's agent ended")?;
        let metrics = agent.metrics()?;
        let principal = |pod: &Pod| -> Result<()> {
            let labels = [("source_principal", self.client.spiffe()), ("destination_principal", pod.spiffe())];
            let labels: Vec<_> = labels.iter().map(|(key, value)| (*key, value.as_str())).collect();
            let opened = metrics.sum("weft_tcp_connections_opened_total", &labels);
            ensure!(opened > 0.0, "no connection from {} to {} is on record", self.client.spiffe(), pod.spiffe());
            Ok(())
        };
        principal(&self.v1)?;
        principal(&self.v2)?;
        screen.saw("identity", format!("{} -> {}, {}", self.client.spiffe(), self.v1.spiffe(), self.v2.spiffe()));
        if let Some(installation) = &self.installation {
            installation.show_issuer(screen)?;
        }
        Ok(())
    }

    fn show_addresses(&self, screen: &mut Screen) -> Result<()> {
        let report = self.caller.call(Calls::to(self.echo.v4()).times(20, 4))?;
        let client = self.client.v4(0)?.ip();
        ensure!(report.untruthful == 0, "getpeername was not the Service's address");
        ensure!(report.seen_as.iter().eq([&client]), "the servers saw {:?}", report.seen_as);
        screen.saw("addresses", format!("the client sees {}, the servers see {client}: both true", self.echo.v4()));
        Ok(())
    }

    fn show_death(&self, screen: &mut Screen) -> Result<()> {
        screen.step("v1's process is killed between two calls; its endpoint stays listed as ready");
        // A call that is inside a process when it dies is nobody's to save.
        self.servers[0].0.process().kill()?;
        let report = self.caller.call(Calls::to(self.echo.v4()).times(300, 8))?;
        ensure!(report.ok == 300 && report.failed() == 0, "{report:?}");
        ensure!(report.names.keys().eq([self.v2.name()]), "{report:?}");
        screen.saw("failover", format!("{} calls after it without an error, all answered by v2", report.ok));
        Ok(())
    }

    fn leave(self, screen: &mut Screen, pid: i32) -> Result<()> {
        screen.step("kubectl label namespace demo weft.dev/mesh-");
        self.label(false)?;
        for pod in self.pods() {
            self.lab.wait_not_live(pod)?;
            self.lab.wait_restored(pod)?;
        }
        if self.installation.is_some() {
            cluster::show_left(screen, &self.lab, self.pods())?;
        }
        let before = self.steered()?;
        self.lab.set_endpoints(&self.echo, vec![(&self.v2).into()])?;
        ensure!(self.caller.call_once(self.echo.v4())? == "v2");
        ensure!(
            self.steered()? == before && self.caller.process().pid() == pid && self.caller.process().exited().is_none()
        );
        screen.saw(
            "left",
            format!("process {pid} calls plainly again; rules, routes, sysctls and listeners are as they were"),
        );
        screen.step("Taking everything down");
        self.lab.finish()?;
        screen.saw("clean", "no namespace, link, cgroup, pinned program or process is left".into());
        screen.succeeded();
        Ok(())
    }

    /// Connections the kernel has steered on the client's node.
    fn steered(&self) -> Result<u64> {
        let verdicts = self.lab.agent_on(&self.a).context("the client's agent ended")?.verdicts()?;
        Ok(verdicts.get("connect_steer").copied().unwrap_or_default())
    }

    fn counts(&self) -> Result<[u64; 2]> {
        let count = |(app, listener): &(App, u64)| app.seen(*listener).map(|seen| seen.accepted);
        Ok([count(&self.servers[0])?, count(&self.servers[1])?])
    }
}
