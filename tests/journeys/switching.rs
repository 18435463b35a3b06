//! The mesh switched off and on in a cluster: on a node, on all, and while nobody can be told.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_tests::app::{Behaviour, Calls};
use weft_tests::lab::AgentOptions;
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere};
use crate::kubernetes::{agents, marked, stale};

const PAUSE: Duration = Duration::from_millis(5);
/// How long the API server is away: longer than anybody waits who switches the mesh off.
const AWAY: Duration = Duration::from_secs(30);

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
    let said = disabling.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    ensure!(said.contains("is direct") || said.contains("out of the mesh"), "{said}");
    for pod in [&mesh.server, &second] {
        marked(&mesh, pod, |mark| mark.is_none())?;
        mesh.lab.wait_restored(pod)?;
    }
    let report = mesh.app.stop_loop(looping)?;
    ensure!(report.failed() == 0 && report.ok > 0, "{report:?}");
    mesh.app.unlisten(listener)?;
    mesh.lab.finish()
}

/// Nobody can be told anything, and the node is switched off and on all the same, by whoever is root on it.
#[test]
fn cluster_enable_with_the_api_server_away() -> Result<()> {
    let mesh = Mesh::serving_in_cluster("cluster-enable")?;
    let second = mesh.lab.pod(&mesh.b, "second").create()?;
    let app = second.app(&mesh.lab)?;
    mesh.app.listen(anywhere(8081), "client", Behaviour::Identify)?;
    mesh.lab.wait_live(&second)?;
    let (to_node, from_node) =
        (mesh.app.start_loop(Calls::to(mesh.echo.v4()).times(0, 4), PAUSE)?, mesh.client.v4(8081)?);
    let outgoing = app.start_loop(Calls::to(from_node).times(0, 4), PAUSE)?;
    mesh.api()?.order("away", &json!({"seconds": AWAY.as_secs()}))?;
    let agent = mesh.agent(&mesh.b)?;
    wait::holds("the agent to notice", || stale(&agent).unwrap_or(false))?;
    // Who asks is told before the API server is back, and told what stays until then.
    let said = agent.weft(&["disable"])?;
    ensure!(
        said.contains("2 of them are still served") && said.contains("the API server is away"),
        "nothing is said of what stays: {said}"
    );
    ensure!(agent.weft(&["status"])?.contains("disabled on this node: weft enable"), "the state does not say so");
    let moves = |verdict| crate::fixture::moves(&mesh.lab, &mesh.b, verdict, 1, || app.call_once(from_node));
    moves("connect_leaving")?;
    let said = agent.weft(&["enable"])?;
    ensure!(said.contains("on again: 2 pods are in it"), "{said}");
    moves("connect_steer")?;
    mesh.steered(2, || {
        [mesh.echo.v4(), mesh.echo.v6()].into_iter().try_for_each(|to| mesh.app.call_once(to).map(drop))
    })?;
    ensure!(stale(&agent)?, "the API server was back too soon for this to mean anything");
    // To whoever hears of the pods later they never left.
    wait::until("the agent to hear the API server again", AWAY + wait::DEADLINE, || {
        ensure!(!stale(&agent)?, "it does not");
        Ok(())
    })?;
    for pod in [&mesh.server, &second] {
        marked(&mesh, pod, |mark| mark == Some("enrolled"))?;
    }
    for (of, looping) in [(&mesh.app, to_node), (&app, outgoing)] {
        let report = of.stop_loop(looping)?;
        ensure!(report.failed() == 0 && report.ok > 500, "{report:?}");
    }
    mesh.lab.finish()
}

#[test]
fn cluster_disable_another_node() -> Result<()> {
    let mesh = Mesh::serving_in_cluster("cluster-node-off")?;
    mesh.lab.zone(&mesh.b, "east")?;
    let second = mesh.lab.pod(&mesh.b, "second").create()?;
    let app = second.app(&mesh.lab)?;
    mesh.app.listen(anywhere(8081), "client", Behaviour::Identify)?;
    mesh.lab.wait_live(&second)?;
    let loops = mesh.ways()?.map(|to| mesh.app.start_loop(Calls::to(to).times(0, 4), PAUSE));
    let (api, from_node) = (mesh.api()?, mesh.client.v4(8081)?);
    let unknown =
        format!("{:#}", api.weft(&["disable", "--node", "nowhere"]).err().context("a node that is not there")?);
    ensure!(unknown.contains("nowhere") && unknown.contains("not found"), "{unknown}");
    let said = api.weft(&["disable", "--node", "b", "--wait", "20s"])?;
    ensure!(said.contains("every pod of b is out of the mesh"), "{said}");
    for pod in [&mesh.server, &second] {
        mesh.lab.wait_restored(pod)?;
        marked(&mesh, pod, |mark| mark.is_none())?;
    }
    crate::fixture::moves(&mesh.lab, &mesh.b, "connect_not_enrolled", 1, || app.call_once(from_node))?;
    // It is that node's affair alone, and also that of an agent that begins there.
    marked(&mesh, &mesh.client, |mark| mark == Some("enrolled"))?;
    crate::fixture::moves(&mesh.lab, &mesh.a, "connect_steer", 1, || mesh.app.call_once(mesh.echo.v4()))?;
    mesh.agent(&mesh.b)?.process().terminate(wait::DEADLINE)?;
    let agent = mesh.lab.start_agent(&mesh.b, AgentOptions::default())?;
    let status = agent.ask("/status")?;
    ensure!(status["enrolled"] == 0 && status["disabled"] == true, "a new agent enrols all the same: {status}");
    let said = agent.weft(&["enable"])?;
    ensure!(said.contains("still off by the label on its Node: weft enable --node b"), "{said}");
    ensure!(api.weft(&["enable", "--node", "b"])?.contains("on again on b"), "nothing is said of it");
    for pod in [&mesh.server, &second] {
        mesh.lab.wait_live(pod)?;
    }
    mesh.steered(4, || mesh.ways()?.into_iter().try_for_each(|to| mesh.app.call_once(to).map(drop)))?;
    crate::fixture::moves(&mesh.lab, &mesh.b, "connect_steer", 1, || app.call_once(from_node))?;
    for looping in loops {
        let report = mesh.app.stop_loop(looping?)?;
        ensure!(report.failed() == 0 && report.ok > 50, "{report:?}");
    }
    mesh.lab.finish()
}
