//! A node whose clock is an hour off: said wherever somebody would look, and nobody else's trouble.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_tests::app::{Behaviour, Calls};
use weft_tests::lab::{Agent, AgentOptions, NAMESPACE, Node};
use weft_tests::wait;

use crate::fixture::{anywhere, moves};
use crate::issuer::Issued;

/// Starts a node's agent with a clock that is off by as much, and does not wait for it.
fn launch(mesh: &Issued, node: &Node, clock: Option<&str>) -> Result<Agent> {
    let arguments = mesh.lab.issuer_arguments(node, &mesh.issuer)?;
    mesh.lab.launch_agent(node, AgentOptions { arguments, clock: clock.map(str::to_owned) })
}

/// Waits until an agent says by how many seconds its clock is off, and in words if that is much.
fn says(agent: &Agent, seconds: f64, words: Option<&str>) -> Result<()> {
    wait::until("the agent to say how its clock is", wait::DEADLINE, || {
        let offset = agent.metrics()?.sum("weft_clock_offset_seconds", &[]);
        ensure!((offset - seconds).abs() < 30.0, "{offset} s");
        let status = agent.weft(&["status"])?;
        match words {
            Some(words) => ensure!(status.contains(words), "weft status says: {status}"),
            None => ensure!(!status.contains("clock"), "weft status says: {status}"),
        }
        Ok(())
    })
}

#[test]
fn clock_skew_of_an_hour() -> Result<()> {
    let mesh = Issued::up("clock", &[], &[])?;
    mesh.serves()?;
    let looping = mesh.app.start_loop(Calls::to(mesh.echo.v4()).times(0, 2), std::time::Duration::from_millis(5))?;
    let c = mesh.lab.node("c")?;
    let late = mesh.lab.pod(&c, "late").create()?;
    let app = late.app(&mesh.lab)?;
    app.listen(anywhere(8080), "late", Behaviour::Identify)?;
    // Behind: what the issuer shows is not valid yet.
    let behind = launch(&mesh, &c, Some("-1h"))?;
    wait::holds("the agent to answer", || behind.ask("/status").is_ok())?;
    says(&behind, -3600.0, Some("min behind the API server's"))?;
    let api = mesh.lab.api().context("no API server")?;
    wait::until("the pod to say why it waits", wait::DEADLINE, || {
        let mark = api.mark(&late)?.unwrap_or_default();
        ensure!(mark.starts_with("pending: ") && mark.contains("clock right"), "it is {mark:?}");
        let events = api.get(&format!("/api/v1/namespaces/{NAMESPACE}/events"))?;
        let about = |event: &Value| {
            event["involvedObject"]["name"] == "late"
                && event["message"].as_str().is_some_and(|message| message.contains("clock right"))
        };
        ensure!(events["items"].as_array().into_iter().flatten().any(about), "{events}");
        let failed = behind.metrics()?.sum("weft_certificate_failures_total", &[]);
        ensure!(failed > 0.0, "no failure is counted");
        Ok(())
    })?;
    let check = api.weft(&["check"]).err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(check.contains("demo/late (pending: ") && check.contains("clock right"), "weft check says: {check}");
    // Reached as before the mesh; all others go on in it.
    ensure!(mesh.app.call_once(late.v4(8080)?)? == "late");
    mesh.serves()?;
    // Set right, it needs nobody's help.
    behind.process().terminate(wait::DEADLINE)?;
    let right = launch(&mesh, &c, None)?;
    right.wait_ready()?;
    mesh.lab.wait_live(&late)?;
    says(&right, 0.0, None)?;
    let both_ways = || {
        moves(&mesh.lab, &c, "connect_steer", 1, || app.call_once(mesh.echo.v4()).map(drop))?;
        moves(&mesh.lab, &mesh.a, "connect_steer", 1, || mesh.app.call_once(late.v4(8080)?).map(drop))
    };
    both_ways()?;
    // Ahead: certificates of a day are good for 23 hours.
    right.process().terminate(wait::DEADLINE)?;
    let ahead = launch(&mesh, &c, Some("+1h"))?;
    ahead.wait_ready()?;
    mesh.lab.wait_live(&late)?;
    says(&ahead, 3600.0, Some("min ahead of the API server's"))?;
    both_ways()?;
    let report = mesh.app.stop_loop(looping)?;
    ensure!(report.failed() == 0 && report.ok > 100, "{report:?}");
    mesh.lab.finish()
}
