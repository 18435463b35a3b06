//! The mesh switched off and on in a cluster: on a node, on all, and while nobody can be told.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use weft_tests::app::{Behaviour, Calls};
use weft_tests::lab::AgentOptions;
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere};
use crate::kubernetes::{agents, marked, stale};

const PAUSE: Duration = Duration::from_millis(5);

#[test]
fn cluster_disable_all_and_enable_all() -> Result<()> {
    let mesh = Mesh::serving_in_cluster("cluster-off")?;
    let system = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "weft-system", "labels": {}}});
    mesh.lab.manifests().put(system)?;
    mesh.steered(4, || mesh.ways()?.into_iter().try_for_each(|to| mesh.app.call_once(to).map(drop)))?;
    let loops = mesh.ways()?.map(|to| mesh.app.start_loop(Calls::to(to).times(0, 4), PAUSE));
    let said = mesh.api()?.weft(&["disable", "--all"])?;
    ensure!(said.contains("every pod is out of the mesh"), "{said}");
    for pod in [&mesh.client, &mesh.server] {
        mesh.lab.wait_restored(pod)?;
        marked(&mesh, pod, |mark| mark.is_none())?;
    }
    for agent in agents(&mesh)? {
        ensure!(agent.ask("/status")?["disabled"] == true, "an agent does not say that it is off");
    }
    let steered = || -> Result<u64> { Ok(mesh.agent(&mesh.a)?.verdicts()?["connect_steer"]) };
    let before = steered()?;
    mesh.ways()?.into_iter().try_for_each(|to| mesh.app.call_once(to).map(drop))?;
    ensure!(steered()? == before, "still steered");
    // One that begins now stays out as well.
    mesh.agent(&mesh.b)?.process().terminate(wait::DEADLINE)?;
    mesh.lab.start_agent(&mesh.b, AgentOptions::default())?;
    ensure!(mesh.agent(&mesh.b)?.ask("/status")?["enrolled"] == 0, "a new agent enrols all the same");
    mesh.api()?.weft(&["enable", "--all"])?;
    for pod in [&mesh.client, &mesh.server] {
        mesh.lab.wait_live(pod)?;
    }
    mesh.steered(4, || mesh.ways()?.into_iter().try_for_each(|to| mesh.app.call_once(to).map(drop)))?;
    for looping in loops {
        let report = mesh.app.stop_loop(looping?)?;
        ensure!(report.failed() == 0 && report.ok > 50, "{report:?}");
    }
    mesh.lab.finish()
}

#[test]
fn cluster_disable_with_the_api_server_away() -> Result<()> {
    let mesh = Mesh::serving_in_cluster("cluster-disable")?;
    let second = mesh.lab.pod(&mesh.b, "second").create()?;
    let app = second.app(&mesh.lab)?;
    let (listener, _) = mesh.app.listen(anywhere(8081), "client", Behaviour::Identify)?;
    mesh.lab.wait_live(&second)?;
    let looping = mesh.app.start_loop(Calls::to(mesh.echo.v4()).times(0, 4), PAUSE)?;
    mesh.steered(1, || mesh.app.call_once(mesh.echo.v6()))?;
    mesh.api()?.order("away", &json!({"seconds": 12}))?;
    let agent = mesh.agent(&mesh.b)?;
    wait::holds("the agent to notice", || stale(&agent).unwrap_or(false))?;
    let order = agent.clone();
    let disabling = std::thread::spawn(move || order.weft(&["disable"]));
    // What the node's own pods dial is direct within seconds, whatever their peers know.
    wait::until("the pods' own connections to be direct", wait::DEADLINE, || {
        crate::fixture::moves(&mesh.lab, &mesh.b, "connect_leaving", 1, || app.call_once(mesh.client.v4(8081)?))
    })?;
    ensure!(stale(&agent)?, "the API server was back too soon for this to mean anything");
    // Peers cannot know, and are served as before: for longer than the grace period of a second.
    let before = mesh.app.loop_report(looping)?.ok;
    wait::holds("peers' calls to go on", || mesh.app.loop_report(looping).is_ok_and(|now| now.ok > before + 500))?;
    disabling.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    for pod in [&mesh.server, &second] {
        marked(&mesh, pod, |mark| mark.is_none())?;
        mesh.lab.wait_restored(pod)?;
    }
    let report = mesh.app.stop_loop(looping)?;
    ensure!(report.failed() == 0 && report.ok > 0, "{report:?}");
    mesh.app.unlisten(listener)?;
    mesh.lab.finish()
}
