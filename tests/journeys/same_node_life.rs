//! The same-node fast path over time: switched on and off, without an agent, with endpoints that refuse, and seen from
//! outside.

use std::time::Duration;

use anyhow::{Result, ensure};
use weft_tests::app::{Behaviour, Calls};
use weft_tests::lab::{AgentOptions, NAMESPACE};
use weft_tests::wait;

use crate::fixture::{anywhere, moves, running_agent};
use crate::same_node::{Near, Way, settles};

#[test]
fn agent_kill9_fast_path_survives() -> Result<()> {
    let near = Near::serving("near-kill9", Behaviour::Identify)?;
    // Without any agent, what stands stays and what is new goes directly.
    let to = near.server.v4(8080)?;
    let held = near.by(Way::Direct, 10, || near.app.hold(Calls::to(to).times(10, 2)))?;
    ensure!(held.opened.ok == 10, "{held:?}");
    running_agent(&near.lab, &near.node)?.process().kill()?;
    ensure!(near.app.poke(held.group)?.ok == 10, "connections past the proxy ended with the agent");
    let seen = near.peer.seen(near.listener)?.accepted;
    for to in [to, near.echo.v4(), near.echo.v6()] {
        let summary = near.app.call(Calls::to(to).times(200, 4))?;
        ensure!(summary.ok == 200 && summary.failed() == 0 && summary.untruthful == 0, "{summary:?}");
    }
    ensure!(near.peer.seen(near.listener)?.accepted - seen == 600);
    let successor = near.lab.start_agent(&near.node, AgentOptions::default())?;
    near.lab.wait_live(&near.client)?;
    near.goes(Way::Direct)?;
    ensure!(near.app.poke(held.group)?.ok == 10, "connections past the proxy ended with the successor");
    near.app.release(held.group)?;
    // What stood before it came is counted by the successor.
    wait::until("their end to be counted", wait::DEADLINE, || {
        let labels = [("path", "same_node"), ("reporter", "source"), ("reason", "fin")];
        let closed = successor.metrics()?.sum("weft_tcp_connections_closed_total", &labels);
        ensure!(closed >= 610.0, "{closed}");
        Ok(())
    })?;
    near.lab.finish()
}

#[test]
fn fast_path_disabled_by_annotation() -> Result<()> {
    let near = Near::serving("near-off", Behaviour::Identify)?;
    let (pod, vip) = (near.server.v6(8080)?, near.echo.v4());
    let goes = |to, way| settles(&near.lab, &near.node, &near.app, to, way);
    goes(pod, Way::Direct)?;
    near.annotate("Service", NAMESPACE, "echo", Way::Proxy)?;
    goes(vip, Way::Proxy)?;
    goes(pod, Way::Direct)?;
    near.annotate("Service", NAMESPACE, "echo", Way::Direct)?;
    goes(vip, Way::Direct)?;
    near.annotate("Namespace", "", NAMESPACE, Way::Proxy)?;
    goes(vip, Way::Proxy)?;
    goes(pod, Way::Proxy)?;
    near.annotate("Namespace", "", NAMESPACE, Way::Direct)?;
    goes(vip, Way::Direct)?;
    goes(pod, Way::Direct)?;
    near.lab.finish()
}

#[test]
fn fast_path_switched_over_a_restart() -> Result<()> {
    let near = Near::serving("near-switch", Behaviour::Identify)?;
    let held = near.by(Way::Direct, 6, || near.app.hold(Calls::to(near.echo.v4()).times(6, 2)))?;
    let off = near.lab.start_agent(&near.node, AgentOptions::with(&["--fast-path", "off"]))?;
    near.goes(Way::Proxy)?;
    ensure!(off.ask("/status")?["fast_path"].as_str().is_some_and(|said| said.contains("--fast-path off")));
    ensure!(near.app.poke(held.group)?.ok == 6, "connections past the proxy ended when it was switched off");
    let proxied = near.by(Way::Proxy, 6, || near.app.hold(Calls::to(near.echo.v6()).times(6, 2)))?;
    near.lab.start_agent(&near.node, AgentOptions::with(&["--fast-path", "on"]))?;
    near.goes(Way::Direct)?;
    // Those of the predecessor run on until its drain deadline; those past the proxy are nobody's.
    ensure!(near.app.poke(proxied.group)?.ok == 6, "connections through the proxy ended when it was switched on");
    ensure!(near.app.poke(held.group)?.ok == 6, "connections past the proxy ended when it was switched on");
    near.app.release(proxied.group)?;
    near.app.release(held.group)?;
    wait::until("the predecessor to end", wait::DEADLINE, || {
        ensure!(off.process().exited().is_some(), "it drains");
        Ok(())
    })?;
    near.lab.finish()
}

#[test]
fn fast_path_refused_endpoint_is_left_to_the_proxy() -> Result<()> {
    let near = Near::serving("near-refused", Behaviour::Identify)?;
    let second = near.lab.pod(&near.node, "second").create()?;
    let other = second.app(&near.lab)?;
    let (listener, _) = other.listen(anywhere(8080), "second", Behaviour::Identify)?;
    let both = near.lab.service("both").pods(&[&near.server, &second]).create()?;
    near.lab.wait_live(&second)?;
    settles(&near.lab, &near.node, &near.app, both.v4(), Way::Direct)?;
    let refused =
        |summary: &weft_tests::app::Summary| summary.errors.keys().all(|error| error.contains("ConnectionRefused"));
    other.unlisten(listener)?;
    // The connection that finds out is refused, as it would be without a mesh; nobody after it is.
    let summary =
        moves(&near.lab, &near.node, "connect_same_node", 10, || near.app.call(Calls::to(both.v4()).times(300, 1)))?;
    ensure!(summary.failed() == 1 && refused(&summary), "{summary:?}");
    let summary = near.app.call(Calls::to(both.v6()).times(300, 8))?;
    ensure!(summary.failed() <= 8 && refused(&summary), "{summary:?}");
    let summary = near.app.call(Calls::to(both.v6()).times(300, 8))?;
    ensure!(summary.failed() == 0 && summary.names.keys().eq(["server"].iter()), "{summary:?}");
    // Once the proxy has probed it, half a minute later, it is among those the kernel draws again.
    other.listen(anywhere(8080), "second", Behaviour::Identify)?;
    wait::until("the endpoint to be drawn again", Duration::from_secs(90), || {
        let way = || near.app.call(Calls::to(both.v4()).times(40, 4));
        let summary = near.by(Way::Direct, 40, way)?;
        ensure!(summary.ok == 40 && summary.names.len() == 2, "{summary:?}");
        Ok(())
    })?;
    near.lab.finish()
}

#[test]
fn fast_path_is_seen() -> Result<()> {
    let near = Near::serving("near-seen", Behaviour::Identify)?;
    let agent = running_agent(&near.lab, &near.node)?;
    let held = near.by(Way::Direct, 3, || near.app.hold(Calls::to(near.echo.v4()).times(3, 1)))?;
    ensure!(agent.ask("/status")?["fast_path"] == "on");
    wait::until("the open connections to be listed", wait::DEADLINE, || {
        let listed = agent.ask("/connections")?;
        let mine = |c: &&serde_json::Value| {
            c["path"] == "same_node"
                && c["source_workload"] == "demo/client"
                && c["destination_workload"] == "demo/server"
        };
        let count = listed.as_array().into_iter().flatten().filter(mine).count();
        ensure!(count == 3, "{count} of {listed}");
        Ok(())
    })?;
    ensure!(agent.weft(&["connections"])?.contains("same_node"));
    near.app.release(held.group)?;
    let before = near.logged(Way::Direct)?.len();
    near.by(Way::Direct, 10, || near.app.call(Calls::to(near.echo.v6()).times(10, 2)))?;
    let principals = [("source_principal", near.client.spiffe()), ("destination_principal", near.server.spiffe())];
    wait::until("them to be counted and logged", wait::DEADLINE, || {
        let metrics = agent.metrics()?;
        for reporter in ["source", "destination"] {
            let mut labels =
                vec![("path", "same_node"), ("reporter", reporter), ("connection_security_policy", "none")];
            labels.extend(principals.iter().map(|(key, value)| (*key, value.as_str())));
            for metric in ["weft_tcp_connections_opened_total", "weft_tcp_connections_closed_total"] {
                let counted = metrics.sum(metric, &labels);
                ensure!(counted >= 13.0, "{reporter}: {metric} {counted}");
            }
        }
        let lines = near.logged(Way::Direct)?;
        let mine = |line: &&String| line.contains(&principals[0].1) && line.contains(&principals[1].1);
        ensure!(lines.len() >= before + 10 && lines.iter().any(|line| mine(&line)), "{lines:?}");
        ensure!(lines.iter().all(|line| line.contains(" rtt_us=")), "the round trip is not told: {lines:?}");
        Ok(())
    })?;
    near.lab.finish()
}

#[test]
fn fast_path_waits_for_the_guard() -> Result<()> {
    let near = Near::serving("near-guard", Behaviour::Identify)?;
    let agent = running_agent(&near.lab, &near.node)?;
    let elsewhere = near.lab.pod(&near.node, "elsewhere").namespace("outside").create()?;
    near.goes(Way::Direct)?;
    // A way out of a pod that does not end on the node: nobody can stand there.
    elsewhere
        .netns()
        .ip(&[format!("link add side type veth peer name side netns {}", near.lab.fabric().path().display())])?;
    near.goes(Way::Proxy)?;
    let said = agent.ask("/status")?["fast_path"].as_str().unwrap_or_default().to_owned();
    ensure!(said.contains("outside/elsewhere"), "the status names nobody: {said}");
    ensure!(agent.weft(&["status"])?.contains("outside/elsewhere"));
    elsewhere.netns().ip(&["link del side".into()])?;
    near.goes(Way::Direct)?;
    near.lab.finish()
}
