//! Lifecycle: agents die, are replaced and drain, and applications notice as little as can be.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use weft_tests::app::{Behaviour, Calls, Payload};
use weft_tests::lab::{AgentOptions, Lab};
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere, moves};

const PAUSE: Duration = Duration::from_millis(5);

#[test]
fn agent_kill9_new_connections_survive() -> Result<()> {
    let (mesh, _) = Mesh::serving("kill9", Behaviour::Identify)?;
    mesh.steered(4, || mesh.ways()?.into_iter().try_for_each(|to| mesh.app.call_once(to).map(drop)))?;
    // The client's agent first (outbound), then the server's (inbound).
    for node in [&mesh.a, &mesh.b] {
        mesh.agent(node)?.process().kill()?;
        let (app, ways) = (mesh.app.clone(), mesh.ways()?);
        let calls = std::thread::spawn(move || -> Result<_> {
            ways.into_iter()
                .map(|to| app.call(Calls::to(to).times(25, 25).deadline_ms(30_000)))
                .collect::<Result<Vec<_>>>()
        });
        // They are under way, with no agent to accept them, when the successor starts.
        wait::holds("calls to begin without an agent", || mesh.lab.agent_on(node).is_none())?;
        mesh.lab.start_agent(node, AgentOptions::default())?;
        for summary in calls.join().map_err(|_| anyhow::anyhow!("panicked"))?? {
            ensure!(summary.ok == 25 && summary.failed() == 0, "on {}: {summary:?}", node.name());
        }
        mesh.lab.wait_live(&mesh.client)?;
        mesh.lab.wait_live(&mesh.server)?;
        mesh.steered(4, || mesh.ways()?.into_iter().try_for_each(|to| mesh.app.call_once(to).map(drop)))?;
    }
    mesh.lab.finish()
}

#[test]
fn upgrade_under_load_no_error() -> Result<()> {
    let (mesh, _) = Mesh::serving("upgrade", Behaviour::Identify)?;
    let loops = mesh.ways()?.map(|to| mesh.app.start_loop(Calls::to(to).times(0, 4), PAUSE));
    let held = mesh.app.hold(Calls::to(mesh.echo.v4()).times(20, 4))?;
    ensure!(held.opened.ok == 20, "{held:?}");
    for node in [&mesh.a, &mesh.b] {
        let old = mesh.agent(node)?;
        mesh.lab.start_agent(node, AgentOptions::default())?;
        // Connections the predecessor carries go on while it drains.
        if node.name() == "a" {
            wait::until("the predecessor to drain", wait::DEADLINE, || {
                ensure!(old.process().log().contains("draining"), "it does not yet");
                Ok(())
            })?;
            ensure!(old.process().exited().is_none(), "the predecessor left before its connections");
            let poked = mesh.app.poke(held.group)?;
            ensure!(poked.ok == 20, "the predecessor left before its connections: {poked:?}");
            mesh.app.release(held.group)?;
        }
        let status = old.process().wait(Duration::from_secs(60))?;
        ensure!(status.success(), "the predecessor ended with {status}");
        mesh.steered(4, || mesh.ways()?.into_iter().try_for_each(|to| mesh.app.call_once(to).map(drop)))?;
    }
    for looping in loops {
        let report = mesh.app.stop_loop(looping?)?;
        ensure!(report.failed() == 0 && report.ok > 50, "{report:?}");
    }
    mesh.lab.finish()
}

#[test]
fn stalled_stream_does_not_block_others() -> Result<()> {
    let (mesh, _) = Mesh::serving("stall", Behaviour::Stall)?;
    mesh.peer.listen(anywhere(8081), "lively", Behaviour::Identify)?;
    // Those that stand already share their tunnels with what is about to stall: another tunnel is no way out for them.
    let standing = [mesh.server.v4(8081)?, mesh.server.v6(8081)?].map(|to| mesh.app.hold(Calls::to(to).times(8, 8)));
    let standing = standing.into_iter().collect::<Result<Vec<_>>>()?;
    // Eight readers that never read, each fed until no more fits: more than any shared window holds.
    let stalled = mesh.steered(8, || {
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..8)
                .map(|seed| {
                    let (app, to) = (&mesh.app, mesh.echo.v4());
                    scope.spawn(move || -> Result<u64> {
                        let conn = app.open(to)?.conn;
                        let stuck = app.send(conn, Payload::Noise { seed, length: 64 << 20 });
                        ensure!(
                            stuck.as_ref().is_err_and(|e| format!("{e:#}").contains("no room")),
                            "not stalled but {stuck:?}"
                        );
                        Ok(conn)
                    })
                })
                .collect();
            writers.into_iter().map(|w| w.join().map_err(|_| anyhow::anyhow!("panicked"))?).collect::<Result<Vec<_>>>()
        })
    })?;
    mesh.steered(400, || {
        for to in [mesh.server.v4(8081)?, mesh.server.v6(8081)?] {
            let summary = mesh.app.call(Calls::to(to).times(200, 8).deadline_ms(5000))?;
            ensure!(summary.ok == 200 && summary.failed() == 0, "{summary:?}");
            ensure!(summary.median_ms < 250.0, "stalled streams slow the others: {summary:?}");
        }
        Ok(())
    })?;
    for held in standing {
        let poked = mesh.app.poke(held.group)?;
        ensure!(poked.ok == 8 && poked.failed() == 0, "stalled streams hold up those beside them: {poked:?}");
        mesh.app.release(held.group)?;
    }
    for conn in stalled {
        mesh.app.close(conn)?;
    }
    mesh.lab.finish()
}

#[test]
fn drain_deadline() -> Result<()> {
    let lab = Lab::new("drain")?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let (client, server) = (lab.pod(&a, "client").create()?, lab.pod(&b, "server").create()?);
    let (app, peer) = (client.app(&lab)?, server.app(&lab)?);
    peer.listen(anywhere(8080), "server", Behaviour::Identify)?;
    let agent = lab.start_agent(&a, AgentOptions::with(&["--drain-deadline", "3s"]))?;
    lab.start_agent(&b, AgentOptions::default())?;
    lab.mesh()?;
    let held = moves(&lab, &a, "connect_steer", 5, || app.hold(Calls::to(server.v4(8080)?).times(5, 5)))?;
    ensure!(held.opened.ok == 5);
    let start = Instant::now();
    let ending = {
        let agent = agent.clone();
        std::thread::spawn(move || agent.process().terminate(Duration::from_secs(20)))
    };
    let poked = app.poke(held.group)?;
    ensure!(poked.ok == 5, "connections were cut before the deadline: {poked:?}");
    let status = ending.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    let took = start.elapsed();
    ensure!(status.success(), "it ended with {status}");
    ensure!((Duration::from_secs(2)..Duration::from_secs(8)).contains(&took), "a deadline of 3 s took {took:?}");
    let poked = app.poke(held.group)?;
    ensure!(poked.ok == 0, "connections outlived their agent: {poked:?}");
    // With nothing to wait for it does not wait.
    lab.start_agent(&a, AgentOptions::default())?;
    lab.wait_live(&client)?;
    moves(&lab, &a, "connect_steer", 1, || app.call_once(server.v4(8080)?))?;
    lab.finish()
}

#[test]
fn ten_thousand_idle() -> Result<()> {
    let (mesh, listener) = Mesh::serving("idle", Behaviour::Identify)?;
    let agents = [mesh.agent(&mesh.a)?, mesh.agent(&mesh.b)?];
    mesh.steered(1, || mesh.app.call_once(mesh.echo.v4()))?;
    let memory = || -> Result<Vec<u64>> { agents.iter().map(|agent| agent.process().memory_bytes()).collect() };
    let before = memory()?;
    let held = mesh.steered(10_000, || mesh.app.hold(Calls::to(mesh.echo.v4()).times(10_000, 64)))?;
    ensure!(held.opened.ok == 10_000 && held.opened.failed() == 0, "{:?}", held.opened);
    ensure!(mesh.peer.seen(listener)?.open == 10_000);
    for (agent, (before, after)) in agents.iter().zip(before.into_iter().zip(memory()?)) {
        let each = after.saturating_sub(before) / 10_000;
        ensure!(each < 64 * 1024, "{} spends {each} bytes on an idle connection", agent.process().name());
    }
    mesh.steered(50, || {
        let summary = mesh.app.call(Calls::to(mesh.echo.v6()).times(50, 4))?;
        ensure!(summary.ok == 50, "{summary:?}");
        Ok(())
    })?;
    let poked = mesh.app.poke(held.group)?;
    ensure!(poked.ok == 10_000 && poked.failed() == 0, "{poked:?}");
    mesh.app.release(held.group)?;
    mesh.lab.finish()
}
