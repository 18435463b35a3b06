//! Programs people really use, unmodified, at both ends of the mesh: curl, h2load, gRPC's own implementation and WebSockets.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_tests::app::{App, Behaviour, Payload, Saw};
use weft_tests::lab::{Lab, Node, Pod, Process, Service, binary};
use weft_tests::wait;

use crate::fixture::{anywhere, moves};

/// How long any of them may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A client's pod and a server's, meshed, on two nodes; the server's port is behind the Service `real`.
pub(crate) struct Real {
    pub(crate) lab: Lab,
    pub(crate) a: Node,
    pub(crate) client: Pod,
    server: Pod,
    pub(crate) service: Service,
}

impl Real {
    pub(crate) fn new(name: &str, port: u16, app_protocol: Option<&str>) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (a, b) = (lab.node("a")?, lab.node("b")?);
        let (client, server) = (lab.pod(&a, "client").create()?, lab.pod(&b, "server").create()?);
        let service = lab.service("real").port(port, port).pods(&[&server]);
        let service = match app_protocol {
            Some(app_protocol) => service.speaks(app_protocol),
            None => service,
        };
        let service = service.create()?;
        lab.start_agents()?;
        lab.mesh()?;
        Ok(Self { lab, a, client, server, service })
    }

    /// One whose server answers with what it saw.
    fn http(name: &str) -> Result<(Self, App, u64)> {
        let real = Self::new(name, 8080, Some("http"))?;
        let app = real.server.app(&real.lab)?;
        let (listener, _) = app.listen(anywhere(8080), "server", Behaviour::Http)?;
        Ok((real, app, listener))
    }

    /// Runs a program in the client's pod to its good end; yields what it said.
    pub(crate) fn run(&self, command: &[&str]) -> Result<String> {
        let process = self.client.spawn(&self.lab, command[0].rsplit('/').next().unwrap_or("client"), command)?;
        let status = process.wait(PATIENCE)?;
        ensure!(status.success(), "{command:?}: {status}: {}", process.log());
        Ok(process.log())
    }

    /// The same, over at least so many connections that are steered.
    pub(crate) fn steered(&self, count: u64, command: &[&str]) -> Result<String> {
        moves(&self.lab, &self.a, "connect_steer", count, || self.run(command))
    }

    /// Starts a server in the server's pod; it is ready once it says `ready`.
    pub(crate) fn serve(&self, command: &[&str], ready: &str) -> Result<Process> {
        let process = self.server.spawn(&self.lab, "server", command)?;
        wait::until("the server to listen", wait::DEADLINE, || {
            ensure!(process.exited().is_none() && process.log().contains(ready), "{}", process.log());
            Ok(())
        })?;
        Ok(process)
    }
}

/// What comes from PyPI, installed by `cargo xtask setup`.
fn python() -> Result<String> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target/tools/clients/bin/python3");
    ensure!(python.exists(), "{} is missing: `cargo xtask setup` installs it", python.display());
    Ok(python.display().to_string())
}

fn peer(script: &str) -> String {
    format!("{}/peers/{script}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn curl_over_every_version() -> Result<()> {
    let (real, server, listener) = Real::http("curl")?;
    let format = "%{http_code} %{http_version} %{num_connects}\\n";
    let curl = |options: &[&str], url: String| {
        let command =
            [&["curl", "-sS", "-g", "--max-time", "20", "--retry-connrefused", "-w", format], options].concat();
        real.steered(1, &[&command[..], &[&url]].concat())
    };
    let (v4, v6) = (real.service.v4(), real.service.v6());
    for (options, said) in [
        (&["--http1.1"][..], "200 1.1 1"),
        (&["--http1.0"], "200 1 1"),
        (&["--http2-prior-knowledge"], "200 2 1"),
        // An upgrade to h2c is not what is carried: the request is answered in the version it came in.
        (&["--http2"], "200 1.1 1"),
        (&["--tr-encoding", "--compressed"], "200 1.1 1"),
        (&["-X", "PATCH", "-d", "a=b", "-H", "Transfer-Encoding: chunked"], "200 1.1 1"),
    ] {
        for to in [v4, v6] {
            let answer = curl(options, format!("http://{to}/path?query"))?;
            let (body, told) = answer.trim_end().rsplit_once('}').context("no body")?;
            let saw: Saw = serde_json::from_str(&format!("{body}}}")).with_context(|| answer.clone())?;
            ensure!(told == said && saw.target.ends_with("/path?query"), "{options:?}: {told:?}, {saw:?}");
            ensure!(saw.header("user-agent").is_some_and(|agent| agent.starts_with("curl/")), "{saw:?}");
        }
    }
    // Fifty requests in one connection, which curl keeps.
    let (before, urls) = (server.seen(listener)?.requests, format!("http://{v4}/n[1-50]"));
    let row = real.steered(1, &["curl", "-sS", "-o", "/dev/null", "-w", format, &urls])?;
    ensure!(row.lines().filter(|line| *line == "200 1.1 0").count() == 49, "{row}");
    ensure!(server.seen(listener)?.requests - before == 50);
    real.lab.finish()
}

#[test]
fn curl_uploads_ten_megabytes() -> Result<()> {
    let (real, _server, _) = Real::http("upload")?;
    let payload = Payload::Noise { seed: 77, length: 10_000_000 };
    let file = real.lab.directory().join("upload");
    let block = payload.block();
    std::fs::write(&file, block.iter().copied().cycle().take(10_000_000).collect::<Vec<_>>())?;
    let file = file.display().to_string();
    let url = format!("http://{}/upload", real.service.v4());
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let log = real.steered(
            1,
            &[
                "curl",
                "-sS",
                "-v",
                version,
                "--expect100-timeout",
                "20",
                "--max-time",
                "30",
                "-H",
                "Expect: 100-continue",
                "-T",
                &file,
                &url,
            ],
        )?;
        let line = log.lines().find_map(|line| line.find("{\"name\"").map(|at| &line[at..])).context(log.clone())?;
        let saw: Saw = serde_json::Deserializer::from_str(line).into_iter().next().context("no answer")??;
        ensure!(saw.body == payload.sum() && saw.method == "PUT", "{saw:?}");
        // It waited to be asked, and was.
        ensure!(version != "--http1.1" || log.contains("< HTTP/1.1 100 Continue"), "{log}");
    }
    real.lab.finish()
}

#[test]
fn h2load_loses_nothing() -> Result<()> {
    let (real, server, listener) = Real::http("h2load")?;
    let url = format!("http://{}/", real.service.v4());
    for version in [&["--h1"][..], &["-m", "20"]] {
        let before = server.seen(listener)?.requests;
        let log = real.steered(8, &[&["h2load", "-n", "2000", "-c", "8"], version, &[&*url]].concat())?;
        ensure!(log.contains("2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{log}");
        ensure!(log.contains("status codes: 2000 2xx"), "{log}");
        ensure!(server.seen(listener)?.requests - before == 2000);
    }
    real.lab.finish()
}

#[test]
fn grpcio_client_and_server() -> Result<()> {
    let real = Real::new("grpcio", 50051, Some("grpc"))?;
    let (python, script) = (python()?, peer("grpc_peer.py"));
    real.serve(&[&python, &script, "--listen", "[::]:50051", "--name", "server"], "listening")?;
    for to in [real.service.v4(), real.service.v6()] {
        let said = real.steered(1, &[&python, &script, "--connect", &to.to_string()])?;
        ensure!(said.contains("ok"), "{said}");
    }
    real.lab.finish()
}

#[test]
fn tonic_client_and_server() -> Result<()> {
    let real = Real::new("tonic", 50052, Some("grpc"))?;
    let peer = binary("lab-grpc")?.display().to_string();
    real.serve(&[&peer, "--listen", "[::]:50052"], "listening")?;
    for to in [real.service.v4(), real.service.v6()] {
        let said = real.steered(1, &[&peer, "--connect", &to.to_string()])?;
        ensure!(said.contains("ok"), "{said}");
    }
    real.lab.finish()
}

#[test]
fn websocket_client_and_server() -> Result<()> {
    let real = Real::new("websockets", 8765, Some("kubernetes.io/ws"))?;
    let (python, script) = (python()?, peer("websocket_peer.py"));
    real.serve(&[&python, &script, "--listen", "[::]:8765"], "listening")?;
    for to in [real.service.v4(), real.service.v6()] {
        let said = real.steered(2, &[&python, &script, "--connect", &to.to_string()])?;
        ensure!(said.contains("ok"), "{said}");
    }
    real.lab.finish()
}
