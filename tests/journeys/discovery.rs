//! Discovery: Services and their endpoints change in the API server, and connections follow.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use weft_tests::app::{App, Behaviour, Calls};
use weft_tests::lab::{Endpoint, NAMESPACE, Pod};
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere, moved};

const PAUSE: Duration = Duration::from_millis(5);
/// Far less than any timeout of the mesh, far more than a reset takes.
const FAST: Duration = Duration::from_secs(1);

/// A mesh in a cluster with two pods that could be behind `echo`; `server` is.
struct Pair {
    mesh: Mesh,
    second: Pod,
    /// Kept, for its process ends with it.
    _peer: App,
}

fn pair(name: &str) -> Result<Pair> {
    let mesh = Mesh::in_cluster(name)?;
    mesh.peer.listen(anywhere(8080), "server", Behaviour::Identify)?;
    let second = mesh.lab.pod(&mesh.b, "second").ports(&[8080]).create()?;
    let peer = second.app(&mesh.lab)?;
    peer.listen(anywhere(8080), "second", Behaviour::Identify)?;
    mesh.lab.mesh()?;
    mesh.steered(1, || mesh.app.call_once(mesh.echo.v4()))?;
    Ok(Pair { mesh, second, _peer: peer })
}

impl Pair {
    fn set(&self, endpoints: Vec<Endpoint>) -> Result<()> {
        self.mesh.lab.set_endpoints(&self.mesh.echo, endpoints)
    }

    /// Waits until each of these, and nobody else, answers some of 40 calls.
    fn answered_by(&self, what: &str, names: &[&str]) -> Result<()> {
        wait::until(what, wait::DEADLINE, || {
            for to in [self.mesh.echo.v4(), self.mesh.echo.v6()] {
                let summary = self.mesh.app.call(Calls::to(to).times(40, 4))?;
                let seen: Vec<&str> = summary.names.keys().map(String::as_str).collect();
                ensure!(summary.failed() == 0 && seen == names, "{summary:?}");
            }
            Ok(())
        })
    }
}

fn draining(pod: &Pod) -> Endpoint {
    Endpoint { pod: pod.clone(), ready: false, terminating: true }
}

fn unready(pod: &Pod) -> Endpoint {
    Endpoint { pod: pod.clone(), ready: false, terminating: false }
}

#[test]
fn endpoint_added() -> Result<()> {
    let pair = pair("endpoint-added")?;
    pair.answered_by("the one endpoint to answer", &["server"])?;
    let looping = pair.mesh.app.start_loop(Calls::to(pair.mesh.echo.v4()).times(0, 2), PAUSE)?;
    pair.set(vec![Endpoint::from(&pair.mesh.server), Endpoint::from(&pair.second)])?;
    pair.mesh.steered(80, || pair.answered_by("both endpoints to answer", &["second", "server"]))?;
    let report = pair.mesh.app.stop_loop(looping)?;
    ensure!(report.failed() == 0 && report.names.contains_key("second"), "{report:?}");
    pair.mesh.lab.finish()
}

#[test]
fn endpoint_removed_under_load() -> Result<()> {
    let pair = pair("endpoint-removed")?;
    pair.set(vec![Endpoint::from(&pair.mesh.server), Endpoint::from(&pair.second)])?;
    pair.answered_by("both endpoints to answer", &["second", "server"])?;
    let held = pair.mesh.app.hold(Calls::to(pair.mesh.echo.v4()).times(20, 4))?;
    let looping = pair.mesh.app.start_loop(Calls::to(pair.mesh.echo.v4()).times(0, 4), PAUSE)?;
    pair.set(vec![Endpoint::from(&pair.mesh.server)])?;
    pair.mesh.steered(80, || pair.answered_by("the endpoint that is left to answer alone", &["server"]))?;
    let report = pair.mesh.app.stop_loop(looping)?;
    ensure!(report.failed() == 0, "{report:?}");
    // It was taken off the list, not off the air.
    let poked = pair.mesh.app.poke(held.group)?;
    ensure!(poked.ok == 20, "connections ended with their endpoint's entry: {poked:?}");
    pair.mesh.app.release(held.group)?;
    pair.mesh.lab.finish()
}

/// A pod behind `echo`, its process and listener.
type Replica = (Pod, App, u64);

fn replica(mesh: &Mesh, name: &str, number: usize) -> Result<Replica> {
    let node = if number.is_multiple_of(2) { &mesh.a } else { &mesh.b };
    let pod = mesh.lab.pod(node, name).ports(&[8080]).create()?;
    let app = pod.app(&mesh.lab)?;
    let (listener, _) = app.listen(anywhere(8080), name, Behaviour::Identify)?;
    Ok((pod, app, listener))
}

#[test]
fn rolling_restart_of_ten_endpoints_under_load() -> Result<()> {
    let mesh = Mesh::in_cluster("rolling-restart")?;
    let first = (0..10).map(|n| replica(&mesh, &format!("old-{n}"), n)).collect::<Result<Vec<_>>>()?;
    let mut behind: Vec<Endpoint> = first.iter().map(|(pod, ..)| Endpoint::from(pod)).collect();
    mesh.lab.set_endpoints(&mesh.echo, behind.clone())?;
    mesh.lab.mesh()?;
    let agent = mesh.agent(&mesh.a)?;
    let before = agent.verdicts()?;
    let loops = [mesh.echo.v4(), mesh.echo.v6()].map(|to| mesh.app.start_loop(Calls::to(to).times(0, 4), PAUSE));
    let mut second = Vec::new();
    for (n, (pod, app, listener)) in first.into_iter().enumerate() {
        // As a Deployment does it, one pod more than it has replicas: the new one is ready before the old one is told to go.
        let new = replica(&mesh, &format!("new-{n}"), n)?;
        mesh.lab.wait_live(&new.0)?;
        behind.push(Endpoint::from(&new.0));
        second.push(new);
        behind[0] = draining(&pod);
        mesh.lab.set_endpoints(&mesh.echo, behind.clone())?;
        wait::until(&format!("{} to get no more calls", pod.name()), wait::DEADLINE, || {
            let summary = mesh.app.call(Calls::to(mesh.echo.v4()).times(200, 4))?;
            ensure!(summary.failed() == 0 && !summary.names.contains_key(pod.name()), "{summary:?}");
            let open = app.seen(listener)?.open;
            ensure!(open == 0, "{open} are open");
            Ok(())
        })?;
        behind.remove(0);
        mesh.lab.set_endpoints(&mesh.echo, behind.clone())?;
        mesh.lab.delete_pod(&pod)?;
    }
    // Half of the endpoints are on the client's node, which the kernel sends to by itself; the proxy has the others.
    moved(&agent, &before, "connect_same_node", 400)?;
    moved(&agent, &before, "lookup_assign_outbound", 400)?;
    for looping in loops {
        let report = mesh.app.stop_loop(looping?)?;
        let ends = report.names.keys().filter(|name| name.starts_with("new-")).count();
        ensure!(report.failed() == 0 && ends == 10, "{report:?}");
    }
    mesh.lab.finish()
}

#[test]
fn no_endpoints_fails_fast() -> Result<()> {
    let pair = pair("no-endpoints")?;
    pair.set(Vec::new())?;
    let refused = |to| -> Result<Duration> {
        let begun = Instant::now();
        match pair.mesh.app.call_once(to) {
            Ok(name) => bail!("{name} answered"),
            Err(_) => Ok(begun.elapsed()),
        }
    };
    wait::until("the endpoints to be gone", wait::DEADLINE, || refused(pair.mesh.echo.v4()))?;
    for to in [pair.mesh.echo.v4(), pair.mesh.echo.v6()] {
        let took = pair.mesh.steered(1, || refused(to))?;
        ensure!(took < FAST, "a refusal took {took:?}");
    }
    pair.set(vec![Endpoint::from(&pair.second)])?;
    pair.answered_by("the new endpoint to answer", &["second"])?;
    pair.mesh.lab.finish()
}

#[test]
fn terminating_endpoint_drains() -> Result<()> {
    let pair = pair("terminating")?;
    let held = pair.mesh.app.hold(Calls::to(pair.mesh.echo.v4()).times(10, 2))?;
    let looping = pair.mesh.app.start_loop(Calls::to(pair.mesh.echo.v4()).times(0, 2), PAUSE)?;
    pair.set(vec![draining(&pair.mesh.server), Endpoint::from(&pair.second)])?;
    pair.mesh.steered(80, || pair.answered_by("the ready endpoint to take what is new", &["second"]))?;
    let poked = pair.mesh.app.poke(held.group)?;
    ensure!(poked.ok == 10, "connections ended before their endpoint: {poked:?}");
    pair.mesh.app.release(held.group)?;
    // One that still serves is better than one that is not ready, where there is no other.
    pair.set(vec![draining(&pair.mesh.server), unready(&pair.second)])?;
    pair.answered_by("the draining endpoint to take all", &["server"])?;
    let report = pair.mesh.app.stop_loop(looping)?;
    ensure!(report.failed() == 0, "{report:?}");
    pair.mesh.lab.finish()
}

#[test]
fn headless_service() -> Result<()> {
    let pair = pair("headless")?;
    let Pair { mesh, second, .. } = &pair;
    mesh.lab.manifests().put(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "each", "namespace": NAMESPACE},
        "spec": {"clusterIP": "None", "selector": {"app": "second"}, "ports": [{"name": "tcp", "port": 8080}]}
    }))?;
    let agent = mesh.agent(&mesh.a)?;
    wait::until("the Service to be known", wait::DEADLINE, || {
        let services = agent.ask("/services")?;
        let each =
            services.as_array().into_iter().flatten().find(|s| s["name"] == "each").context("it is not")?.clone();
        ensure!(each["addresses"] == json!([]), "it has addresses: {each}");
        Ok(())
    })?;
    ensure!(agent.ask("/status")?["problems"] == json!([]), "a problem with a headless Service");
    // DNS gives its pods' addresses; whoever dials one gets that pod and no other, by mTLS.
    mesh.steered(20, || {
        for to in [second.v4(8080)?, second.v6(8080)?] {
            let summary = mesh.app.call(Calls::to(to).times(10, 2))?;
            ensure!(summary.ok == 10 && summary.names.keys().eq(["second"]), "{summary:?}");
        }
        Ok(())
    })?;
    let opened =
        agent.metrics()?.sum("weft_tcp_connections_opened_total", &[("destination_principal", &second.spiffe())]);
    ensure!(opened >= 20.0, "{opened} connections proved whom they reached");
    pair.mesh.lab.finish()
}

#[test]
fn external_name() -> Result<()> {
    let pair = pair("external-name")?;
    let mesh = &pair.mesh;
    mesh.lab.manifests().put(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "elsewhere", "namespace": NAMESPACE},
        "spec": {"type": "ExternalName", "externalName": "db.example.com"}
    }))?;
    // What comes after it is known, so it has been read.
    let marker = mesh.lab.service("marker").pods(&[&pair.second]).create()?;
    let agent = mesh.agent(&mesh.a)?;
    let names = || -> Result<Vec<String>> {
        let services = agent.ask("/services")?;
        Ok(services.as_array().into_iter().flatten().filter_map(|s| s["name"].as_str().map(str::to_owned)).collect())
    };
    wait::until("the next Service to be known", wait::DEADLINE, || {
        let names = names()?;
        ensure!(names.iter().any(|name| name == "marker"), "{names:?}");
        Ok(())
    })?;
    ensure!(
        !names()?.iter().any(|name| name == "elsewhere"),
        "a name that DNS resolves is listed as a Service of the mesh"
    );
    ensure!(agent.ask("/status")?["problems"] == json!([]), "a problem with an ExternalName");
    wait::until("the marker's endpoint", wait::DEADLINE, || mesh.app.call_once(marker.v4()))?;
    // Whatever its name resolves to is dialled as it is: outside the mesh, and left alone.
    let outside = mesh.lab.pod(&mesh.b, "db").mesh("disabled").create()?;
    let peer = outside.app(&mesh.lab)?;
    peer.listen(anywhere(5432), "db", Behaviour::Identify)?;
    crate::fixture::moves(&mesh.lab, &mesh.a, "connect_unknown_destination", 1, || {
        let name = mesh.app.call_once(outside.v4(5432)?)?;
        ensure!(name == "db", "{name} answered");
        Ok(())
    })?;
    pair.mesh.lab.finish()
}
