//! The tunnel between agents: who speaks which protocol with whom, and what comes of one that is lost or abused.

use anyhow::{Result, ensure};
use weft_tests::app::{Behaviour, Calls, End, Payload, Until};
use weft_tests::lab::{AgentOptions, Lab};
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere, moves, running_agent};
use crate::peer;

#[test]
fn tunnel_protocols_mixed_in_one_service() -> Result<()> {
    let lab = Lab::new("mixed-tunnels")?;
    let (a, b, c) = (lab.node("a")?, lab.node("b")?, lab.node("c")?);
    let client = lab.pod(&a, "client").create()?;
    let (both, old) = (lab.pod(&b, "both").create()?, lab.pod(&c, "old").create()?);
    let service = lab.service("echo").pods(&[&both, &old]).create()?;
    let app = client.app(&lab)?;
    let servers = [both.app(&lab)?, old.app(&lab)?];
    for (server, name) in servers.iter().zip(["both", "old"]) {
        server.listen(anywhere(8080), name, Behaviour::Identify)?;
    }
    lab.start_agent(&a, AgentOptions::default())?;
    lab.start_agent(&b, AgentOptions::default())?;
    lab.start_agent(&c, AgentOptions::with(&["--tunnel-protocols", "hbone"]))?;
    lab.mesh()?;
    moves(&lab, &a, "connect_steer", 200, || {
        let summary = app.call(Calls::to(service.v4()).times(200, 8))?;
        ensure!(summary.ok == 200 && summary.failed() == 0, "{summary:?}");
        ensure!(summary.names.len() == 2, "one of the two was not used: {:?}", summary.names);
        Ok(())
    })?;
    for (node, expected) in [(&a, &["hbone", "weft/1"][..]), (&b, &["weft/1"]), (&c, &["hbone"])] {
        let spoken = running_agent(&lab, node)?.metrics()?.by_label("weft_tunnels_opened_total", "tunnel_protocol");
        ensure!(spoken.keys().eq(expected), "{} spoke {spoken:?}", node.name());
    }
    for (pod, protocol) in [(&both, "weft/1"), (&old, "hbone")] {
        let destination = format!("dst_addr={} ", pod.v4(8080)?);
        wait::until("the access log to tell the protocols", wait::DEADLINE, || {
            let log = running_agent(&lab, &a)?.process().log();
            let mut lines =
                log.lines().filter(|line| line.contains("weft::access") && line.contains(&destination)).peekable();
            ensure!(lines.peek().is_some(), "nothing is logged of {destination}");
            let wrong = lines.find(|line| !line.contains(&format!("tunnel_protocol=\"{protocol}\"")));
            ensure!(wrong.is_none(), "not {protocol}: {wrong:?}");
            Ok(())
        })?;
    }
    lab.finish()
}

#[test]
fn tunnel_lost_midstream_is_a_reset() -> Result<()> {
    let (mesh, _) = Mesh::serving("lost", Behaviour::Echo)?;
    moves(&mesh.lab, &mesh.a, "connect_steer", 2, || {
        let (busy, halfway) = (mesh.app.open(mesh.echo.v4())?.conn, mesh.app.open(mesh.server.v6(8080)?)?.conn);
        for conn in [busy, halfway] {
            mesh.app.say(conn, "hello")?;
            let heard = mesh.app.receive(conn, Until::Bytes(5))?;
            ensure!(heard.end.is_none(), "{heard:?}");
        }
        mesh.spoke("weft/1")?;
        // The other node loses its agent, and with it every tunnel, in the middle of both connections.
        mesh.agent(&mesh.b)?.process().kill()?;
        for conn in [busy, halfway] {
            let heard = mesh.app.receive(conn, Until::End)?;
            ensure!(heard.end == Some(End::Reset), "the app was told a clean end: {heard:?}");
        }
        Ok(())
    })?;
    mesh.lab.start_agent(&mesh.b, AgentOptions::default())?;
    mesh.lab.wait_live(&mesh.server)?;
    mesh.steered(1, || mesh.app.open(mesh.echo.v4()).map(drop))?;
    mesh.lab.finish()
}

/// A meshed server, and an unmeshed pod with a certificate that speaks the tunnel by hand.
struct Hand {
    mesh: Mesh,
    python: weft_tests::lab::Pod,
}

impl Hand {
    fn new(name: &str) -> Result<Self> {
        let (mesh, _) = Mesh::serving(name, Behaviour::Echo)?;
        let python = mesh.lab.pod(&mesh.a, "python").mesh("disabled").create()?;
        Ok(Self { mesh, python })
    }

    /// Once a family.
    fn call(&self, certificates: &peer::Certificates, arguments: &[&str]) -> Result<()> {
        let server = &self.mesh.server;
        for (tunnel, app) in [(server.v4(15008)?, server.v4(8080)?), (server.v6(15008)?, server.v6(8080)?)] {
            let (tunnel, app) = (tunnel.to_string(), app.to_string());
            let common = ["--connect", &tunnel, "--authority", &app];
            let arguments: Vec<&str> = common.iter().chain(arguments).copied().collect();
            peer::weft_client(&self.mesh.lab, &self.python, certificates, &arguments)?;
        }
        Ok(())
    }
}

#[test]
fn weft_peer_written_apart() -> Result<()> {
    let hand = Hand::new("weft-peer")?;
    let good = peer::signed(&hand.mesh.lab, &hand.python.spiffe(), "1h")?;
    moves(&hand.mesh.lab, &hand.mesh.b, "lookup_assign_tunnel", 4, || {
        hand.call(&good, &["--mode", "echo", "--bytes", "10"])?;
        hand.call(&good, &["--mode", "echo", "--bytes", "3000000"])
    })?;
    let metrics = hand.mesh.agent(&hand.mesh.b)?.metrics()?;
    ensure!(metrics.sum("weft_tunnels_opened_total", &[("tunnel_protocol", "weft/1")]) >= 4.0);
    ensure!(metrics.sum("weft_tcp_connections_opened_total", &[("source_principal", &hand.python.spiffe())]) >= 4.0);
    ensure!(
        metrics.samples().iter().all(|sample| sample.labels.values().all(|value| value != "kube-system")),
        "the peer's baggage was believed"
    );
    hand.mesh.lab.finish()
}

#[test]
fn malformed_frames_close_the_tunnel() -> Result<()> {
    let hand = Hand::new("malformed")?;
    let good = peer::signed(&hand.mesh.lab, &hand.python.spiffe(), "1h")?;
    let agent = hand.mesh.agent(&hand.mesh.b)?;
    for (mode, reason) in [
        ("before-hello", "frame_before_hello"),
        ("second-hello", "frame_second_hello"),
        ("unknown-type", "frame_unknown_type"),
        ("unknown-flags", "frame_unknown_flags"),
        ("too-long", "frame_wrong_length"),
        ("out-of-turn", "frame_open_out_of_turn"),
        ("unknown-stream", "frame_unknown_stream"),
        ("after-end", "frame_data_after_end"),
        ("no-credit", "frame_wrong_credit"),
        ("wrong-side", "frame_wrong_side"),
        ("pong", "frame_unasked_pong"),
        ("bad-open", "frame_bad_open"),
    ] {
        moves(&hand.mesh.lab, &hand.mesh.b, "lookup_assign_tunnel", 2, || hand.call(&good, &["--mode", mode]))?;
        wait::until("both to be counted", wait::DEADLINE, || {
            let metrics = agent.metrics()?;
            let refused = metrics.sum("weft_inbound_rejections_total", &[("reason", reason)]);
            let closed = metrics.sum("weft_tunnels_closed_total", &[("reason", reason)]);
            ensure!(refused == 2.0 && closed == 2.0, "{mode}: {refused} refused, {closed} closed");
            Ok(())
        })?;
    }
    // Nobody else has noticed.
    hand.mesh.steered(1, || hand.mesh.app.open(hand.mesh.echo.v4()).map(drop))?;
    hand.mesh.lab.finish()
}

/// A pod of a node that has no agent, whose part a server plays that breaks the protocol.
#[test]
fn malformed_answers_close_the_tunnel() -> Result<()> {
    let (mesh, _) = Mesh::serving("malformed-answers", Behaviour::Echo)?;
    let c = mesh.lab.node("c")?;
    let foreign = mesh.lab.pod(&c, "foreign").create()?;
    peer::publish_live(&mesh.lab, "c", &[&foreign])?;
    mesh.lab.wait_live(&foreign)?;
    let good = peer::signed(&mesh.lab, &foreign.spiffe(), "1h")?;
    let agent = mesh.agent(&mesh.a)?;
    // Somebody else's connection, which is there all the while.
    let beside = mesh.app.open(mesh.echo.v4())?.conn;
    let before = agent.process().memory_bytes()?;
    for (mode, reason) in [
        ("before-hello", "frame_before_hello"),
        ("not-accepted", "frame_not_accepted"),
        ("unknown-stream", "frame_unknown_stream"),
        ("opens", "frame_wrong_side"),
        ("after-end", "frame_data_after_end"),
        ("no-credit", "frame_wrong_credit"),
        ("truncated", "frame_truncated"),
        ("silent", "tunnel_closed"),
    ] {
        for (tunnel, app) in [(foreign.v4(15008)?, foreign.v4(8080)?), (foreign.v6(15008)?, foreign.v6(8080)?)] {
            let closed = |reason| Ok(agent.metrics()?.sum("weft_tunnels_closed_total", &[("reason", reason)]));
            let counted: Result<f64> = closed(reason);
            let (counted, server) = (counted?, peer::weft_server(&mesh.lab, &foreign, &good, tunnel, mode)?);
            let conn = mesh.app.open(app)?.conn;
            let heard = mesh.app.receive(conn, Until::End)?;
            ensure!(heard.end == Some(End::Reset), "{mode}: the app was told {heard:?}");
            wait::until("the tunnel's end to be counted", wait::DEADLINE, || {
                let now: Result<f64> = closed(reason);
                ensure!(now? > counted, "{mode}: nothing more under {reason}");
                Ok(())
            })?;
            if !["truncated", "silent"].contains(&mode) {
                ensure!(server.event("left")?["told"] == true, "{mode}: the server was not told");
            }
            server.stop()?;
        }
        mesh.app.say(beside, mode)?;
        ensure!(mesh.app.receive(beside, Until::Bytes(mode.len() as u64))?.end.is_none(), "{mode}: another's end");
    }
    let grown = agent.process().memory_bytes()?.saturating_sub(before) >> 20;
    ensure!(grown < 32, "the agent grew by {grown} MiB");
    mesh.lab.finish()
}

#[test]
fn memory_bounded_by_slow_readers() -> Result<()> {
    const READERS: u64 = 64;
    let (mesh, _) = Mesh::serving("slow-readers", Behaviour::Stall)?;
    mesh.peer.listen(anywhere(8081), "lively", Behaviour::Identify)?;
    let agents = [mesh.agent(&mesh.a)?, mesh.agent(&mesh.b)?];
    mesh.steered(1, || mesh.app.call(Calls::to(mesh.server.v4(8081)?).times(50, 4)))?;
    let memory = || agents.iter().map(|agent| agent.process().memory_bytes()).collect::<Result<Vec<_>>>();
    let before = memory()?;
    mesh.steered(READERS, || {
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..READERS)
                .map(|seed| {
                    let (app, to) = (&mesh.app, mesh.echo.v4());
                    scope.spawn(move || -> Result<()> {
                        let conn = app.open(to)?.conn;
                        let stuck = app.send(conn, Payload::Noise { seed, length: 64 << 20 });
                        ensure!(stuck.as_ref().is_err_and(|e| format!("{e:#}").contains("no room")), "{stuck:?}");
                        Ok(())
                    })
                })
                .collect();
            writers.into_iter().try_for_each(|writer| writer.join().map_err(|_| anyhow::anyhow!("panicked"))?)
        })
    })?;
    for (agent, (before, after)) in agents.iter().zip(before.into_iter().zip(memory()?)) {
        let grown = after.saturating_sub(before) >> 20;
        // Half of the pod's budget for windows that have grown, and a first window for each stream, with what chunks
        // are larger than what they hold.
        ensure!(grown < 200, "{} grew by {grown} MiB", agent.process().name());
    }
    mesh.steered(200, || {
        let summary = mesh.app.call(Calls::to(mesh.server.v4(8081)?).times(200, 8).deadline_ms(5000))?;
        ensure!(summary.ok == 200 && summary.failed() == 0, "{summary:?}");
        Ok(())
    })?;
    mesh.lab.finish()
}
