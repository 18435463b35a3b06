//! A mesh that follows an API server: pods found by their processes, marked on their objects, and served on whatever
//! becomes of the server.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_tests::app::{Behaviour, Calls};
use weft_tests::lab::{Agent, AgentOptions, Endpoint, NAMESPACE, Node, Pod};
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere};

const PAUSE: Duration = Duration::from_millis(5);
/// How long the API server is away.
const OUTAGE: Duration = Duration::from_secs(60);

pub(crate) fn marked(mesh: &Mesh, pod: &Pod, wanted: impl Fn(Option<&str>) -> bool) -> Result<()> {
    wait::until(&format!("the mark on {}", pod.name()), wait::DEADLINE, || {
        let mark = mesh.api()?.mark(pod)?;
        if wanted(mark.as_deref()) { Ok(()) } else { bail!("it is {mark:?}") }
    })
}

pub(crate) fn agents(mesh: &Mesh) -> Result<[Agent; 2]> {
    Ok([mesh.agent(&mesh.a)?, mesh.agent(&mesh.b)?])
}

/// Whether an agent says that changes may be missing.
pub(crate) fn stale(agent: &Agent) -> Result<bool> {
    Ok(!agent.ask("/status")?["kubernetes"]["stale_seconds"].is_null())
}

fn lists(agent: &Agent) -> Result<f64> {
    Ok(agent.metrics()?.sum("weft_kubernetes_lists_total", &[("kind", "EndpointSlice")]))
}

#[test]
fn cluster_label_enrols_running_pods() -> Result<()> {
    let mesh = Mesh::in_cluster("cluster-label")?;
    mesh.peer.listen(anywhere(8080), "server", Behaviour::Identify)?;
    let loops: Vec<u64> =
        mesh.ways()?.into_iter().map(|to| mesh.app.start_loop(Calls::to(to), PAUSE)).collect::<Result<_>>()?;
    marked(&mesh, &mesh.client, |mark| mark.is_none())?;
    mesh.lab.mesh()?;
    // Found among the processes of their cgroups: nobody told the agents where the namespaces are.
    mesh.steered(40, || {
        for to in mesh.ways()? {
            let summary = mesh.app.call(Calls::to(to).times(10, 2))?;
            ensure!(summary.ok == 10, "{summary:?}");
        }
        Ok(())
    })?;
    marked(&mesh, &mesh.server, |mark| mark == Some("enrolled"))?;
    // A pod's label wins over its namespace's.
    mesh.lab.label_pod(&mesh.client, "weft.dev/mesh", Some("disabled"))?;
    mesh.lab.wait_restored(&mesh.client)?;
    marked(&mesh, &mesh.client, |mark| mark.is_none())?;
    mesh.lab.label_pod(&mesh.client, "weft.dev/mesh", None)?;
    mesh.lab.wait_live(&mesh.client)?;
    mesh.steered(1, || mesh.app.call_once(mesh.echo.v4()))?;
    mesh.lab.label_namespace(NAMESPACE, false)?;
    for pod in [&mesh.client, &mesh.server] {
        marked(&mesh, pod, |mark| mark.is_none())?;
        mesh.lab.wait_restored(pod)?;
    }
    for looping in loops {
        let report = mesh.app.stop_loop(looping)?;
        ensure!(report.failed() == 0 && report.ok > 0 && report.untruthful == 0, "{report:?}");
    }
    mesh.lab.finish()
}

#[test]
fn api_server_down_keeps_serving() -> Result<()> {
    let mesh = Mesh::serving_in_cluster("api-away")?;
    let second = mesh.lab.pod(&mesh.b, "second").create()?;
    let peer = second.app(&mesh.lab)?;
    peer.listen(anywhere(8080), "second", Behaviour::Identify)?;
    mesh.lab.wait_live(&second)?;
    let looping = mesh.app.start_loop(Calls::to(mesh.echo.v4()).times(0, 2), PAUSE)?;
    mesh.api()?.order("away", &json!({"seconds": OUTAGE.as_secs()}))?;
    for agent in agents(&mesh)? {
        wait::holds("the agent to notice", || stale(&agent).unwrap_or(false))?;
        // Told, and no reason to stop: ready, and in metrics and `weft status`.
        let missing = agent.ask("/status")?["waiting_for"].clone();
        ensure!(missing == json!([]), "the agent is waiting for {missing}");
        let seconds = agent.metrics()?.sum("weft_kubernetes_stale_seconds", &[("kind", "Pod")]);
        ensure!(seconds > 0.0, "the metric does not say so");
        ensure!(agent.weft(&["status"])?.contains("STALE"), "weft status does not say so");
    }
    mesh.steered(20, || {
        let summary = mesh.app.call(Calls::to(mesh.echo.v6()).times(20, 2))?;
        ensure!(summary.ok == 20, "{summary:?}");
        Ok(())
    })?;
    let all_current = || agents(&mesh).is_ok_and(|all| all.iter().all(|a| stale(a).is_ok_and(|s| !s)));
    wait::until("the agents to hear it again", OUTAGE + wait::DEADLINE, || {
        ensure!(all_current(), "they do not");
        Ok(())
    })?;
    let report = mesh.app.stop_loop(looping)?;
    ensure!(report.failed() == 0 && report.ok > 2000, "{report:?}");
    mesh.api()?.order("away", &json!({"seconds": 8}))?;
    for agent in agents(&mesh)? {
        wait::holds("the agent to notice", || stale(&agent).unwrap_or(false))?;
    }
    // An agent that begins now knows nothing and serves nobody; in the held sockets connections wait for it to learn.
    mesh.agent(&mesh.a)?.process().kill()?;
    let successor = mesh.lab.launch_agent(&mesh.a, AgentOptions::default())?;
    let summary = mesh.app.call(Calls::to(mesh.echo.v4()).times(10, 10).deadline_ms(30_000))?;
    ensure!(summary.ok == 10, "{summary:?}");
    successor.wait_ready()?;
    wait::holds("the agents to be up to date", all_current)?;
    mesh.lab.set_endpoints(&mesh.echo, vec![Endpoint::from(&second)])?;
    wait::until("a change to take effect", wait::DEADLINE, || {
        let name = mesh.app.call_once(mesh.echo.v4())?;
        ensure!(name == "second", "{name} answered");
        Ok(())
    })?;
    mesh.lab.finish()
}

#[test]
fn watch_reset_resyncs() -> Result<()> {
    let mesh = Mesh::serving_in_cluster("watch-reset")?;
    let second = mesh.lab.pod(&mesh.b, "second").create()?;
    let peer = second.app(&mesh.lab)?;
    peer.listen(anywhere(8080), "second", Behaviour::Identify)?;
    mesh.lab.wait_live(&second)?;
    let looping = mesh.app.start_loop(Calls::to(mesh.echo.v4()).times(0, 4), PAUSE)?;
    let held = mesh.app.hold(Calls::to(mesh.echo.v4()).times(8, 4))?;
    for (round, as_status) in [(0, false), (1, true)] {
        let (to, name) = if round == 0 { (&second, "second") } else { (&mesh.server, "server") };
        let agent = mesh.agent(&mesh.a)?;
        let before = lists(&agent)?;
        mesh.api()?.order("gone-as-status", &json!({"status": as_status}))?;
        // No watch stands while the endpoints change and the change is forgotten.
        mesh.api()?.order("faults", &json!({"verb": "watch", "status": 503}))?;
        mesh.api()?.order("close", &Value::Null)?;
        wait::holds("the agent to notice", || stale(&agent).unwrap_or(false))?;
        mesh.lab.set_endpoints(&mesh.echo, vec![Endpoint::from(to)])?;
        mesh.api()?.order("compact", &Value::Null)?;
        let (status, _) = mesh.api()?.send("DELETE", "/test/faults", "application/json", None)?;
        ensure!(status == 200, "the faults stay: {status}");
        wait::until("the change to be known", wait::DEADLINE, || {
            let answered = mesh.app.call_once(mesh.echo.v4())?;
            ensure!(answered == name, "{answered} answered");
            Ok(())
        })?;
        ensure!(lists(&agent)? > before, "nothing was read anew");
    }
    let enrolled = mesh.agent(&mesh.a)?.process().log().matches("leaving the mesh").count();
    ensure!(enrolled == 0, "a pod left the mesh {enrolled} times");
    let poked = mesh.app.poke(held.group)?;
    ensure!(poked.ok == 8, "connections ended: {poked:?}");
    mesh.app.release(held.group)?;
    let report = mesh.app.stop_loop(looping)?;
    ensure!(report.failed() == 0 && report.ok > 0, "{report:?}");
    mesh.lab.finish()
}

#[test]
fn pod_moved_to_other_node() -> Result<()> {
    let mesh = Mesh::serving_in_cluster("pod-moved")?;
    mesh.steered(2, || mesh.ways()?[..2].iter().try_for_each(|to| mesh.app.call_once(*to).map(drop)))?;
    let before = mesh.server.uid().to_owned();
    // As a StatefulSet does it: the same name, another pod, another node, another address.
    mesh.lab.delete_pod(&mesh.server)?;
    let moved = mesh.lab.pod(&mesh.a, "server").ports(&[8080]).create()?;
    ensure!(moved.uid() != before, "the API server gave the same UID twice");
    let peer = moved.app(&mesh.lab)?;
    peer.listen(anywhere(8080), "moved", Behaviour::Identify)?;
    mesh.lab.set_endpoints(&mesh.echo, vec![Endpoint::from(&moved)])?;
    mesh.lab.wait_live(&moved)?;
    wait::until("calls to reach it", wait::DEADLINE, || {
        for to in [mesh.echo.v4(), mesh.echo.v6(), moved.v4(8080)?] {
            let name = mesh.app.call_once(to)?;
            ensure!(name == "moved", "{name} answered at {to}");
        }
        Ok(())
    })?;
    let views = mesh.agent(&mesh.b)?.ask("/workloads")?;
    let nodes: Vec<&Value> =
        views.as_array().into_iter().flatten().filter(|w| w["name"] == "server").map(|w| &w["node"]).collect();
    ensure!(nodes == [&json!("a")], "the other agent has it on {nodes:?}");
    let left = mesh.agent(&mesh.b)?.ask("/status")?["enrolled"].clone();
    ensure!(left == 0, "{left} are enrolled on the old node");
    mesh.lab.finish()
}

#[test]
fn cluster_sandbox_made_anew() -> Result<()> {
    let mesh = Mesh::serving_in_cluster("cluster-sandbox")?;
    mesh.steered(1, || mesh.app.call_once(mesh.echo.v4()))?;
    mesh.lab.delete_sandbox(&mesh.client)?;
    let again = mesh.lab.pod(&mesh.a, "client").anew(&mesh.client).create()?;
    let app = again.app(&mesh.lab)?;
    wait::until("the new sandbox to be steered", wait::DEADLINE, || {
        crate::fixture::moves(&mesh.lab, &mesh.a, "connect_steer", 2, || {
            for to in [mesh.echo.v4(), mesh.echo.v6()] {
                ensure!(app.call_once(to)? == "server");
            }
            Ok(())
        })
    })?;
    mesh.lab.wait_live(&again)?;
    mesh.lab.finish()
}

#[test]
fn cluster_pod_deleted_with_connections_open() -> Result<()> {
    let mesh = Mesh::serving_in_cluster("cluster-deleted")?;
    let other = mesh.lab.pod(&mesh.a, "other").create()?;
    let addressed = Instant::now();
    marked(&mesh, &other, |mark| mark == Some("enrolled"))?;
    eprintln!(
        "a new pod was enrolled, and marked so, {} ms after its object had an address",
        addressed.elapsed().as_millis()
    );
    let app = other.app(&mesh.lab)?;
    mesh.lab.wait_live(&other)?;
    let held = app.hold(Calls::to(mesh.echo.v4()).times(10, 5))?;
    ensure!(held.opened.ok == 10, "{held:?}");
    let open =
        |node: &Node| -> Result<u64> { mesh.agent(node)?.ask("/status")?["connections"].as_u64().context("no number") };
    wait::until("the connections to be counted", wait::DEADLINE, || {
        ensure!(open(&mesh.a)? >= 10 && open(&mesh.b)? >= 10);
        Ok(())
    })?;
    mesh.lab.delete_pod(&other)?;
    wait::until("the connections to end at both ends", wait::DEADLINE, || {
        let (ours, theirs) = (open(&mesh.a)?, open(&mesh.b)?);
        ensure!(ours == 0 && theirs == 0, "{ours} and {theirs} are open");
        Ok(())
    })?;
    wait::until("the pod to be forgotten", wait::DEADLINE, || {
        let enrolled = mesh.agent(&mesh.a)?.ask("/status")?["enrolled"].clone();
        ensure!(enrolled == 1, "{enrolled} are enrolled");
        Ok(())
    })?;
    mesh.steered(1, || mesh.app.call_once(mesh.echo.v4()))?;
    mesh.lab.finish()
}

#[test]
fn cluster_pods_that_cannot_be_enrolled_say_why() -> Result<()> {
    let mesh = Mesh::serving_in_cluster("cluster-refused")?;
    let host = mesh.lab.pod(&mesh.a, "host").host_network().create()?;
    marked(&mesh, &host, |mark| {
        mark.is_some_and(|mark| mark.starts_with("not enrolled: ") && mark.contains("hostNetwork"))
    })?;
    // Its object is there and has an address, but nothing of it runs.
    let ghost = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ghost", "namespace": NAMESPACE, "labels": {}},
        "spec": {"nodeName": "a", "serviceAccountName": "client", "containers": [{"name": "app", "image": "none"}]},
        "status": {"phase": "Running", "podIP": "10.244.1.250", "podIPs": [{"ip": "10.244.1.250"}]}
    });
    mesh.lab.manifests().put(ghost)?;
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    wait::until("the ghost's mark", wait::DEADLINE, || {
        let ghost = mesh.api()?.get(&format!("{pods}/ghost"))?;
        let mark = ghost["metadata"]["annotations"]["weft.dev/status"].as_str().unwrap_or_default().to_owned();
        ensure!(mark.starts_with("pending: no process of the pod"), "it is {mark:?}");
        Ok(())
    })?;
    for name in ["host", "ghost"] {
        wait::until(&format!("an Event about {name}"), wait::DEADLINE, || {
            let events = mesh.api()?.get(&format!("/api/v1/namespaces/{NAMESPACE}/events"))?;
            let about = |event: &&Value| event["involvedObject"]["name"] == name && event["reason"] == "NotEnrolled";
            ensure!(events["items"].as_array().into_iter().flatten().any(|event| about(&event)), "{events}");
            Ok(())
        })?;
    }
    // Nor does it hold up an update: after a moment the node is ready without it, and so is a successor.
    let ready = |agent: &Agent| -> Result<()> {
        wait::until("the agent to be ready all the same", wait::DEADLINE, || {
            let missing = agent.ask("/status")?["waiting_for"].clone();
            ensure!(missing == json!([]), "it waits for {missing}");
            ensure!(agent.metrics()?.sum("weft_pending_pods", &[]) == 1.0, "nothing is said of the ghost");
            Ok(())
        })
    };
    ready(&mesh.agent(&mesh.a)?)?;
    mesh.agent(&mesh.a)?.process().terminate(wait::DEADLINE)?;
    let successor = mesh.lab.launch_agent(&mesh.a, AgentOptions::default())?;
    wait::holds("the successor to answer", || successor.ask("/status").is_ok())?;
    ready(&successor)?;
    mesh.lab.manifests().remove("Pod", NAMESPACE, "ghost");
    mesh.steered(1, || mesh.app.call_once(mesh.echo.v4()))?;
    mesh.lab.finish()
}
