//! Bad input: whatever arrives at the tunnel port or in the manifests is turned away, counted, logged, within a deadline,
//! and costs nobody else anything.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use weft_tests::app::{App, Behaviour, Payload, Until};
use weft_tests::lab::{Agent, Pod};
use weft_tests::wait;

use crate::fixture::{Mesh, moves};
use crate::peer;

/// Where pods receive tunnels.
const TUNNEL_PORT: u16 = 15008;

/// Longer than the deadline of a handshake, shorter than a client's patience.
const PATIENCE: Duration = Duration::from_secs(10);

/// A mesh, and a process outside it that misbehaves towards the server's tunnel port.
pub(crate) struct Attack {
    pub(crate) mesh: Mesh,
    pub(crate) rogue: Pod,
    pub(crate) attacker: App,
}

impl Attack {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let (mesh, _) = Mesh::serving(name, Behaviour::Identify)?;
        let rogue = mesh.lab.pod(&mesh.a, "rogue").namespace("outside").create()?;
        let attacker = rogue.app(&mesh.lab)?;
        mesh.steered(1, || mesh.app.call_once(mesh.echo.v4()))?;
        Ok(Self { mesh, rogue, attacker })
    }

    /// The server's tunnel port in both families.
    pub(crate) fn targets(&self) -> Result<[SocketAddr; 2]> {
        Ok([self.mesh.server.v4(TUNNEL_PORT)?, self.mesh.server.v6(TUNNEL_PORT)?])
    }

    /// Runs an attack and checks that the kernel brought it to the agent, that it was counted at least `count` times for
    /// what it was and logged, that memory did not grow, and that the mesh goes on.
    pub(crate) fn rejected(&self, reason: &str, count: u64, attack: impl FnOnce() -> Result<()>) -> Result<()> {
        let mesh = &self.mesh;
        let agent = mesh.agent(&mesh.b)?;
        let rejections =
            || -> Result<f64> { Ok(agent.metrics()?.sum("weft_inbound_rejections_total", &[("reason", reason)])) };
        let (before, memory, logged) = (rejections()?, agent.process().memory_bytes()?, agent.process().log().len());
        moves(&mesh.lab, &mesh.b, "lookup_assign_tunnel", count, attack)?;
        wait::until("the rejection to be counted", PATIENCE, || {
            let by = rejections()? - before;
            let all = agent.metrics()?.by_label("weft_inbound_rejections_total", "reason");
            ensure!(by >= count as f64, "{by} of {count} were counted as {reason}: {all:?}");
            Ok(())
        })?;
        wait::until("the rejection to be logged", PATIENCE, || {
            let log = agent.process().log();
            let rogue =
                self.rogue.addresses().iter().any(|ip| log.get(logged..).unwrap_or_default().contains(&ip.to_string()));
            ensure!(rogue, "no line names the peer:\n{}", log.get(logged..).unwrap_or_default());
            Ok(())
        })?;
        let grown = agent.process().memory_bytes()?.saturating_sub(memory);
        ensure!(grown < 32 << 20, "the agent grew by {grown} bytes");
        mesh.steered(1, || mesh.app.call_once(mesh.echo.v6()))?;
        Ok(())
    }

    /// Sends bytes to the tunnel port in both families and expects the connection to be closed without an answer that
    /// is more than a TLS alert, within the deadline.
    fn send(&self, reason: &str, payload: &Payload, finish: bool) -> Result<()> {
        self.rejected(reason, 2, || {
            for to in self.targets()? {
                let start = Instant::now();
                let conn = self.attacker.open(to)?.conn;
                // The agent may hang up while this is still being sent.
                let _ = self.attacker.send(conn, payload.clone());
                if finish {
                    let _ = self.attacker.finish(conn);
                }
                let received = self.attacker.receive(conn, Until::End).context("the connection was left open")?;
                ensure!(received.sum.length <= 64, "{to} answered: {received:?}");
                ensure!(start.elapsed() < PATIENCE, "it took {:?}", start.elapsed());
            }
            Ok(())
        })
    }
}

#[test]
fn bad_plaintext_on_tunnel_port() -> Result<()> {
    let attack = Attack::new("plaintext")?;
    attack.send("not_tls", &Payload::Text("GET / HTTP/1.1\r\nHost: server\r\n\r\n".into()), false)?;
    attack.send("not_tls", &Payload::Text("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into()), false)?;
    attack.mesh.lab.finish()
}

/// The first bytes of a TLS 1.3 ClientHello, whose record header promises more than follows.
const TRUNCATED: &str = "\u{16}\u{3}\u{1}\u{0}\u{70}\u{1}\u{0}\u{0}\u{6c}\u{3}\u{3}cut here";

#[test]
fn bad_truncated_handshake() -> Result<()> {
    let attack = Attack::new("truncated")?;
    attack.send("handshake_aborted", &Payload::Text(TRUNCATED.into()), true)?;
    attack.send("handshake_aborted", &Payload::Text("\u{16}".into()), true)?;
    attack.mesh.lab.finish()
}

#[test]
fn bad_oversized_record() -> Result<()> {
    let attack = Attack::new("oversized")?;
    // A record header that claims 32 KiB, twice what TLS allows, and as much as it claims; then megabytes of noise.
    let claims = format!("\u{16}\u{3}\u{1}\u{7f}\u{7f}{}", "\u{1}".repeat(32_767));
    attack.send("not_tls", &Payload::Text(claims), false)?;
    attack.send("not_tls", &Payload::Noise { seed: 31, length: 8 << 20 }, false)?;
    attack.mesh.lab.finish()
}

#[test]
fn bad_slow_loris() -> Result<()> {
    let attack = Attack::new("loris")?;
    attack.rejected("handshake_timeout", 200, || {
        let mut conns = Vec::new();
        for to in attack.targets()? {
            for number in 0..100 {
                let conn = attack.attacker.open(to)?.conn;
                // Half of them say a little, the others nothing.
                if number % 2 == 0 {
                    attack.attacker.say(conn, "\u{16}\u{3}\u{1}")?;
                }
                conns.push(conn);
            }
        }
        let start = Instant::now();
        for conn in conns {
            let received = attack.attacker.receive(conn, Until::End).context("a slow handshake was left open")?;
            ensure!(received.sum.length <= 64, "{received:?}");
        }
        ensure!(start.elapsed() < 2 * PATIENCE, "it took {:?} to be rid of them", start.elapsed());
        Ok(())
    })?;
    // A handshake that drips, and a header block that never ends.
    attack.by_peer("slow-handshake", "handshake_timeout", None, &[])?;
    attack.by_peer("slow-headers", "protocol_error", None, &[])?;
    attack.mesh.lab.finish()
}

#[test]
fn bad_manifest_keeps_last_good() -> Result<()> {
    let (mesh, _) = Mesh::serving("manifest", Behaviour::Identify)?;
    mesh.lab.expect_error("weft::manifests");
    let works = || mesh.steered(4, || mesh.ways()?.into_iter().try_for_each(|to| mesh.app.call_once(to).map(drop)));
    works()?;
    let service = format!("service-{}-echo.yaml", mesh.echo.namespace());
    let whole = std::fs::read_to_string(mesh.lab.manifests().directory().join(&service))?;
    let agent = mesh.agent(&mesh.a)?;
    let problems = || Ok::<_, anyhow::Error>(agent.metrics()?.sum("weft_config_problems", &[("severity", "error")]));
    for broken in ["apiVersion: v1\nkind: Service\nmetadata: [\n", "\0\0\0", "kind: Service\nmetadata: {name: 7}\n"] {
        mesh.lab.manifests().write(&service, broken)?;
        wait::until("the broken file to be reported", wait::DEADLINE, || {
            ensure!(problems()? > 0.0, "no problem is counted");
            ensure!(agent.process().log().contains(&service), "the log does not name {service}");
            Ok(())
        })?;
        works()?;
        mesh.lab.manifests().write(&service, &whole)?;
        wait::until("the mended file to be read", wait::DEADLINE, || {
            ensure!(problems()? == 0.0, "problems are still counted");
            Ok(())
        })?;
        works()?;
    }
    let report = Agent::check(&broken_directory(&mesh)?);
    let problem = report.err().context("`weft check` passed a broken manifest")?;
    ensure!(format!("{problem:#}").contains("bad.yaml:4"), "no file and line in: {problem:#}");
    mesh.lab.finish()
}

/// A directory with one manifest whose fourth line is wrong.
fn broken_directory(mesh: &Mesh) -> Result<std::path::PathBuf> {
    let directory = mesh.lab.directory().join("broken");
    std::fs::create_dir(&directory)?;
    std::fs::write(directory.join("bad.yaml"), "apiVersion: v1\nkind: Namespace\nmetadata:\n  nome: demo\n")?;
    Ok(directory)
}

impl Attack {
    /// Runs the foreign peer in this mode once a family, against the server or the authority named, and expects it to be
    /// turned away.
    fn by_peer(&self, mode: &str, reason: &str, authority: Option<&str>, more: &[&str]) -> Result<()> {
        let certificates = peer::signed(&self.mesh.lab, &self.rogue.spiffe(), "1h")?;
        self.rejected(reason, 2, || {
            for to in self.targets()? {
                let own = SocketAddr::new(to.ip(), 8080).to_string();
                let (to, authority) = (to.to_string(), authority.unwrap_or(&own));
                let common = ["--connect", &to, "--authority", authority, "--mode", mode, "--timeout", "15"];
                let arguments: Vec<&str> = common.iter().chain(more).copied().collect();
                peer::client(&self.mesh.lab, &self.rogue, &certificates, &arguments)?;
            }
            Ok(())
        })
    }
}

#[test]
fn bad_alpn() -> Result<()> {
    let attack = Attack::new("alpn")?;
    attack.by_peer("wrong-alpn", "wrong_alpn", None, &[])?;
    attack.mesh.lab.finish()
}

#[test]
fn bad_tls_without_certificate() -> Result<()> {
    let attack = Attack::new("no-cert")?;
    attack.by_peer("no-cert", "no_client_certificate", None, &[])?;
    attack.mesh.lab.finish()
}

#[test]
fn bad_connect_to_another_address() -> Result<()> {
    let attack = Attack::new("elsewhere")?;
    let client = attack.mesh.client.v4(8080)?.to_string();
    let vip = attack.mesh.echo.v4().to_string();
    for authority in [client.as_str(), &vip, "127.0.0.1:8080", "[::1]:8080", "169.254.169.254:80"] {
        attack.by_peer("echo", "not_this_pod", Some(authority), &["--expect-status", "400"])?;
    }
    attack.by_peer("bad-authority", "bad_authority", None, &["--expect-status", "400"])?;
    attack.by_peer("get", "not_connect", None, &["--expect-status", "400"])?;
    attack.mesh.lab.finish()
}

#[test]
fn bad_connect_to_reserved_port() -> Result<()> {
    let attack = Attack::new("reserved")?;
    for port in [15001, 15006, TUNNEL_PORT] {
        let authority = attack.mesh.server.v4(port)?.to_string();
        attack.by_peer("echo", "reserved_port", Some(&authority), &["--expect-status", "503"])?;
    }
    attack.mesh.lab.finish()
}

#[test]
fn bad_headers_64k() -> Result<()> {
    let attack = Attack::new("headers")?;
    attack.by_peer("big-headers", "headers_too_large", None, &["--bytes", "66000", "--expect-status", "431"])?;
    attack.mesh.lab.finish()
}
