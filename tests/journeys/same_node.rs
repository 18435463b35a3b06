//! Connections between pods of one node past the proxy, from an unmodified process that dials a VIP.

use anyhow::{Result, ensure};
use weft_tests::app::{Behaviour, Calls};
use weft_tests::lab::{AgentOptions, Lab};
use weft_tests::wait;

use crate::fixture::{anywhere, moved};

#[test]
fn agent_kill9_fast_path_survives() -> Result<()> {
    let lab = Lab::new("same-node")?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let client = lab.pod(&a, "client").create()?;
    let (here, there) = (lab.pod(&a, "here").weight(3).create()?, lab.pod(&b, "there").create()?);
    let echo = lab.service("echo").pods(&[&here, &there]).create()?;
    let (app, one, two) = (client.app(&lab)?, here.app(&lab)?, there.app(&lab)?);
    let (listener, _) = one.listen(anywhere(8080), "here", Behaviour::Identify)?;
    two.listen(anywhere(8080), "there", Behaviour::Identify)?;
    for node in [&a, &b] {
        lab.start_agent(node, AgentOptions::with(&["--fast-path", "on"]))?;
    }
    lab.mesh()?;
    let agent = lab.agent_on(&a).ok_or_else(|| anyhow::anyhow!("no agent"))?;
    wait::until("the fast path", wait::DEADLINE, || {
        let before = agent.verdicts()?;
        app.call(Calls::to(echo.v4()).times(20, 1))?;
        moved(&agent, &before, "lookup_same_node", 1)
    })?;
    // Weights stay exact over endpoints here and elsewhere, and both ends see the truth.
    let before = agent.verdicts()?;
    for to in [echo.v4(), echo.v6()] {
        let summary = app.call(Calls::to(to).times(5_000, 8))?;
        ensure!(summary.ok == 5_000 && summary.untruthful == 0, "{to}: {summary:?}");
        let share = summary.names["here"] as f64 / 5_000.0;
        println!("{to}: {share}");
        ensure!((share - 0.75).abs() <= 0.02, "{to}: {share}");
        ensure!(summary.seen_as.iter().all(|ip| client.addresses().contains(ip)), "{summary:?}");
    }
    moved(&agent, &before, "connect_same_node", 7_000)?;
    moved(&agent, &before, "connect_steer_rest", 2_000)?;
    wait::until("the connections to be counted", wait::DEADLINE, || {
        let labels = [("path", "same_node"), ("reporter", "source"), ("source_principal", &*client.spiffe())];
        let counted = agent.metrics()?.sum("weft_tcp_connections_closed_total", &labels);
        ensure!(counted >= 7_000.0, "{counted}");
        Ok(())
    })?;
    // Without any agent, what stands stays and what is new goes directly.
    let held = app.hold(Calls::to(here.v4(8080)?).times(10, 2))?;
    ensure!(held.opened.ok == 10, "{held:?}");
    agent.process().kill()?;
    ensure!(app.poke(held.group)?.ok == 10, "connections past the proxy ended with the agent");
    let seen = one.seen(listener)?.accepted;
    let summary = app.call(Calls::to(here.v4(8080)?).times(200, 4))?;
    ensure!(summary.ok == 200 && summary.failed() == 0, "{summary:?}");
    ensure!(one.seen(listener)?.accepted - seen == 200);
    lab.start_agent(&a, AgentOptions::with(&["--fast-path", "on"]))?;
    lab.wait_live(&client)?;
    lab.finish()
}
