//! What the controller does for a mesh: nodes know of each other's pods by its slices, whichever replica writes them, and
//! routes say what has become of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_tests::app::{Behaviour, Calls};
use weft_tests::lab::{AgentOptions, Endpoint, NAMESPACE, Pod};
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere};

const PAUSE: Duration = Duration::from_millis(5);
/// Time in which another replica takes over from one that was killed: the Lease's 15 s, and up to 4.4 s between two looks
/// at it, on a machine that is busy with other labs.
const FAILOVER: Duration = Duration::from_secs(40);

/// Pods by UID as slices have them; fails if one is in two.
fn published(mesh: &Mesh) -> Result<BTreeMap<String, Value>> {
    let slices = mesh.api()?.get("/apis/weft.dev/v1alpha1/namespaces/weft-system/workloadslices")?;
    let mut pods = BTreeMap::new();
    for slice in slices["items"].as_array().into_iter().flatten() {
        for said in slice["spec"]["workloads"].as_array().into_iter().flatten() {
            let uid = said["uid"].as_str().unwrap_or_default().to_owned();
            ensure!(pods.insert(uid.clone(), said.clone()).is_none(), "{uid} is in two slices: {slices}");
        }
    }
    Ok(pods)
}

/// Waits until the slices say of exactly these pods that they are live.
fn published_live(mesh: &Mesh, pods: &[&Pod]) -> Result<()> {
    let wanted: Vec<&str> = pods.iter().map(|pod| pod.uid()).collect();
    wait::until("the slices to say who is live", FAILOVER, || {
        let published = published(mesh)?;
        let live: Vec<&str> =
            published.iter().filter(|(_, said)| said["live"] == true).map(|(uid, _)| uid.as_str()).collect();
        let all = wanted.iter().all(|uid| live.contains(uid)) && live.len() == wanted.len();
        if all { Ok(()) } else { bail!("{live:?}, not {wanted:?}") }
    })
}

/// Events sent on each open watch of a kind by this kind of client.
fn heard(mesh: &Mesh, resource: &str, client: &str) -> Result<Vec<u64>> {
    let counters = mesh.api()?.get("/test/counters")?;
    let watches = counters["watches"].as_object().context("no watches")?.values();
    let ours = watches.filter(|watch| {
        watch["resource"] == resource
            && watch["open"] == true
            && watch["agent"].as_str().is_some_and(|agent| agent.starts_with(client))
    });
    Ok(ours.map(|watch| watch["events"].as_u64().unwrap_or_default()).collect())
}

#[test]
fn slices_tell_nodes_of_each_others_pods() -> Result<()> {
    let mesh = Mesh::serving_in_cluster("slices")?;
    mesh.steered(4, || mesh.ways()?.iter().try_for_each(|to| mesh.app.call_once(*to).map(drop)))?;
    published_live(&mesh, &[&mesh.client, &mesh.server])?;
    let server = published(&mesh)?[mesh.server.uid()].clone();
    ensure!(server["pod"]["node"] == "b" && server["pod"]["serviceAccount"] == "server", "{server}");
    // A change of a Pod is told to its own node and to the controller, and where it says nothing new to nobody else.
    let pod = format!("/api/v1/namespaces/{NAMESPACE}/pods/{}", mesh.server.name());
    mesh.api()?.send("DELETE", "/test/counters", "application/json", None)?;
    mesh.api()?.merge(&pod, &json!({"metadata": {"labels": {"said": "something"}}}))?;
    wait::until("the controller to hear of it", wait::DEADLINE, || {
        let heard = heard(&mesh, "pods", "weft-controller/")?;
        if heard == [1] { Ok(()) } else { bail!("{heard:?}") }
    })?;
    let told = heard(&mesh, "pods", "weft-agent/")?;
    ensure!(told.len() == 2 && told.iter().sum::<u64>() == 1, "agents heard of it: {told:?}");
    // What other nodes have to know they hear by a slice.
    mesh.api()?.merge(&pod, &json!({"metadata": {"annotations": {"weft.dev/weight": "7"}}}))?;
    wait::until("the slice to say so", wait::DEADLINE, || {
        let said = published(&mesh)?[mesh.server.uid()].clone();
        if said["pod"]["weight"] == 7 { Ok(()) } else { bail!("{said}") }
    })?;
    wait::until("both agents to hear of it", wait::DEADLINE, || {
        let heard = heard(&mesh, "workloadslices.weft.dev", "weft-agent/")?;
        if heard == [1, 1] { Ok(()) } else { bail!("{heard:?}") }
    })?;
    // Withdrawn: the pod is served until no slice calls it live.
    mesh.lab.label_pod(&mesh.server, "weft.dev/mesh", Some("disabled"))?;
    mesh.lab.wait_restored(&mesh.server)?;
    let said = published(&mesh)?[mesh.server.uid()].clone();
    ensure!(said["live"] == false, "its node let go of a pod that others still take for live: {said}");
    ensure!(mesh.app.call_once(mesh.echo.v4())? == "server");
    mesh.lab.finish()
}

#[test]
fn controller_failover() -> Result<()> {
    let mesh = Mesh::serving_in_cluster("controller-failover")?;
    mesh.lab.start_controller()?;
    let looping = mesh.app.start_loop(Calls::to(mesh.echo.v4()).times(0, 4), PAUSE)?;
    let leader = wait::until("a replica to write", wait::DEADLINE, || mesh.lab.leader())?;
    let transitions = |mesh: &Mesh| Ok::<_, anyhow::Error>(mesh.lab.lease()?["spec"]["leaseTransitions"].as_i64());
    let before = transitions(&mesh)?;
    leader.process().kill()?;
    // Enrolled while nobody can say so: its node serves it, and the others learn of it later.
    let second = mesh.lab.pod(&mesh.b, "second").ports(&[8080]).create()?;
    let peer = second.app(&mesh.lab)?;
    peer.listen(anywhere(8080), "second", Behaviour::Identify)?;
    let died = Instant::now();
    let successor = wait::until("the other replica to write", FAILOVER, || mesh.lab.leader())?;
    eprintln!("another replica wrote {} ms after the leader was killed", died.elapsed().as_millis());
    ensure!(transitions(&mesh)? > before, "the Lease has not changed hands: {}", mesh.lab.lease()?);
    published_live(&mesh, &[&mesh.client, &mesh.server, &second])?;
    mesh.lab.wait_live(&second)?;
    mesh.lab.set_endpoints(&mesh.echo, vec![Endpoint::from(&second)])?;
    wait::until("calls to reach the new pod", wait::DEADLINE, || {
        mesh.steered(1, || {
            let name = mesh.app.call_once(mesh.echo.v4())?;
            ensure!(name == "second", "{name} answered");
            Ok(())
        })
    })?;
    // One that is told to stop leaves the Lease at once.
    let third = mesh.lab.start_controller()?;
    let told = Instant::now();
    successor.process().terminate(wait::DEADLINE)?;
    wait::until("the third replica to write", FAILOVER, || if third.leads()? { Ok(()) } else { bail!("it does not") })?;
    let took = told.elapsed();
    eprintln!("another replica wrote {} ms after the leader was told to stop", took.as_millis());
    ensure!(took < Duration::from_secs(15), "the Lease was not given up: {took:?}");
    let count = |name: &str| third.metrics().map(|metrics| metrics.sum(name, &[]));
    ensure!(count("weft_controller_slice_writes_total")? == 0.0, "what was published already was written again");
    published_live(&mesh, &[&mesh.client, &mesh.server, &second])?;
    let report = mesh.app.stop_loop(looping)?;
    ensure!(report.failed() == 0 && report.ok > 0, "{report:?}");
    mesh.lab.finish()
}

#[test]
fn agent_without_slices_waits() -> Result<()> {
    let mesh = Mesh::serving_in_cluster("no-slices")?;
    mesh.lab.expect_error("no WorkloadSlice is published");
    mesh.steered(1, || mesh.app.call_once(mesh.echo.v4()))?;
    mesh.lab.leader()?.process().kill()?;
    let slices = "/apis/weft.dev/v1alpha1/namespaces/weft-system/workloadslices";
    let (status, said) = mesh.api()?.send("DELETE", slices, "application/json", None)?;
    ensure!(status == 200, "{status} {said}");
    // Somebody took them away; what they said stays in force.
    mesh.steered(20, || {
        let summary = mesh.app.call(Calls::to(mesh.echo.v4()).times(20, 2))?;
        ensure!(summary.ok == 20, "{summary:?}");
        Ok(())
    })?;
    mesh.agent(&mesh.a)?.process().kill()?;
    let successor = mesh.lab.launch_agent(&mesh.a, AgentOptions::default())?;
    wait::until("the remedy", wait::DEADLINE, || {
        let status = successor.ask("/status")?;
        ensure!(status["pid"] == successor.process().pid(), "the predecessor answers");
        let said = status["problems"].to_string();
        ensure!(said.contains("Is weft controller running"), "{said}");
        ensure!(status["waiting_for"].to_string().contains("kubernetes"), "{status}");
        Ok(())
    })?;
    wait::until("the probe to say so", wait::DEADLINE, || {
        let said = format!("{:?}", successor.readyz().err());
        ensure!(said.contains("waiting for: ") && said.contains("Is weft controller running"), "{said}");
        Ok(())
    })?;
    let errors = successor.metrics()?.sum("weft_config_problems", &[("severity", "error")]);
    ensure!(errors >= 1.0, "the metric does not say so");
    // Connections wait in the held sockets meanwhile, and none goes out in plaintext.
    let app = mesh.app.clone();
    let to = mesh.echo.v4();
    let waiting = std::thread::spawn(move || app.call(Calls::to(to).times(5, 5).deadline_ms(60_000)));
    mesh.lab.start_controller()?;
    successor.wait_ready()?;
    let summary = waiting.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    ensure!(summary.ok == 5, "{summary:?}");
    mesh.steered(1, || mesh.app.call_once(mesh.echo.v6()))?;
    mesh.lab.finish()
}

/// The conditions the controller has written on a route, as `Type=Status Reason`.
fn conditions(mesh: &Mesh, route: &str) -> Result<Vec<String>> {
    let path = format!("/apis/gateway.networking.k8s.io/v1alpha2/namespaces/{NAMESPACE}/tcproutes/{route}");
    let object = mesh.api()?.get(&path)?;
    let generation = &object["metadata"]["generation"];
    let parents = object["status"]["parents"].as_array().cloned().unwrap_or_default();
    let ours = parents.iter().find(|parent| parent["controllerName"] == "weft.dev/controller").context("no entry")?;
    let said = ours["conditions"].as_array().into_iter().flatten().map(|condition| {
        ensure!(condition["observedGeneration"] == *generation, "{condition} is about an older generation");
        let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
        Ok(format!("{}={} {}", text("type"), text("status"), text("reason")))
    });
    said.collect()
}

#[test]
fn route_status_is_written() -> Result<()> {
    let mesh = Mesh::serving_in_cluster("route-status")?;
    let second = mesh.lab.pod(&mesh.b, "second").ports(&[8080]).create()?;
    let peer = second.app(&mesh.lab)?;
    peer.listen(anywhere(8080), "second", Behaviour::Identify)?;
    let other = mesh.lab.service("other").pods(&[&second]).create()?;
    mesh.lab.wait_live(&second)?;
    mesh.lab.split("all-to-other", &mesh.echo, &[(&other, 1)])?;
    let becomes = |wanted: [&str; 2]| {
        wait::until("the route's status", wait::DEADLINE, || {
            let now = conditions(&mesh, "all-to-other")?;
            if now == wanted { Ok(()) } else { bail!("{now:?}") }
        })
    };
    becomes(["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"])?;
    // It says what the agents do.
    wait::until("the route to apply", wait::DEADLINE, || {
        mesh.steered(1, || {
            let name = mesh.app.call_once(mesh.echo.v4())?;
            ensure!(name == "second", "{name} answered");
            Ok(())
        })
    })?;
    // What another controller has written stays.
    let path = format!("/apis/gateway.networking.k8s.io/v1alpha2/namespaces/{NAMESPACE}/tcproutes/all-to-other");
    let mut parents = mesh.api()?.get(&path)?["status"]["parents"].clone();
    let foreign = json!({"controllerName": "example.com/other", "parentRef": {"name": "gateway"}, "conditions": []});
    parents.as_array_mut().context("no list")?.insert(0, foreign.clone());
    mesh.api()?.merge(&format!("{path}/status"), &json!({"status": {"parents": parents}}))?;
    mesh.lab.manifests().remove("Service", NAMESPACE, "other");
    becomes(["Accepted=True Accepted", "ResolvedRefs=False BackendNotFound"])?;
    let status = mesh.api()?.get(&path)?["status"]["parents"].clone();
    ensure!(status[0] == foreign, "another controller's entry was touched: {status}");
    wait::until("its share to be refused", wait::DEADLINE, || {
        let summary = mesh.app.call(Calls::to(mesh.echo.v4()).times(3, 1))?;
        if summary.ok == 0 { Ok(()) } else { bail!("{summary:?}") }
    })?;
    mesh.lab.finish()
}

#[test]
fn grants_count_when_they_come_and_until_they_go() -> Result<()> {
    let mesh = Mesh::serving_in_cluster("grants")?;
    mesh.lab.namespace("elsewhere")?;
    let second = mesh.lab.pod(&mesh.b, "second").namespace("elsewhere").mesh("enabled").ports(&[8080]).create()?;
    let peer = second.app(&mesh.lab)?;
    peer.listen(anywhere(8080), "second", Behaviour::Identify)?;
    let other = mesh.lab.service("other").namespace("elsewhere").pods(&[&second]).create()?;
    mesh.lab.wait_live(&second)?;
    mesh.lab.split("across", &mesh.echo, &[(&other, 1)])?;
    // Nothing else happens between one of these and the next: what was refused is looked at again for the grant alone.
    let follows = |resolved: &str, calls: bool| {
        wait::until(&format!("the route's status to be {resolved}"), wait::DEADLINE, || {
            let now = conditions(&mesh, "across")?;
            if now == ["Accepted=True Accepted", resolved] { Ok(()) } else { bail!("{now:?}") }
        })?;
        wait::until(&format!("connections to do as {resolved} says"), wait::DEADLINE, || {
            mesh.steered(3, || {
                let summary = mesh.app.call(Calls::to(mesh.echo.v4()).times(3, 1))?;
                let wanted = if calls { 3 } else { 0 };
                if summary.ok == wanted { Ok(()) } else { bail!("{summary:?}") }
            })
        })
    };
    follows("ResolvedRefs=False RefNotPermitted", false)?;
    mesh.lab.manifests().put(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant",
        "metadata": {"name": "routes", "namespace": "elsewhere"},
        "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "TCPRoute", "namespace": NAMESPACE}],
            "to": [{"group": "", "kind": "Service", "name": "other"}]
        }
    }))?;
    follows("ResolvedRefs=True ResolvedRefs", true)?;
    mesh.lab.manifests().remove("ReferenceGrant", "elsewhere", "routes");
    follows("ResolvedRefs=False RefNotPermitted", false)?;
    mesh.lab.finish()
}

#[test]
fn pods_with_one_address_are_reported() -> Result<()> {
    let mesh = Mesh::serving_in_cluster("one-address")?;
    let address = mesh.server.v4(8080)?.ip().to_string();
    // Nothing of it runs; it only claims the server's address.
    let thief = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a-thief", "namespace": NAMESPACE, "labels": {}},
        "spec": {"nodeName": "a", "serviceAccountName": "client", "containers": [{"name": "app", "image": "none"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    });
    let looping = mesh.app.start_loop(Calls::to(mesh.echo.v4()).times(0, 4), PAUSE)?;
    mesh.lab.manifests().put(thief)?;
    for name in ["a-thief", "server"] {
        wait::until(&format!("an Event about {name}"), wait::DEADLINE, || {
            let events = mesh.api()?.get(&format!("/api/v1/namespaces/{NAMESPACE}/events"))?;
            let about = |e: &&Value| e["involvedObject"]["name"] == name && e["reason"] == "AddressContested";
            ensure!(events["items"].as_array().into_iter().flatten().any(|event| about(&event)), "{events}");
            Ok(())
        })?;
    }
    ensure!(mesh.lab.leader()?.metrics()?.sum("weft_controller_addresses_contested", &[]) >= 1.0);
    // The pod that its node publishes as live has the address.
    mesh.steered(10, || {
        let summary = mesh.app.call(Calls::to(mesh.server.v4(8080)?).times(10, 2))?;
        ensure!(summary.ok == 10, "{summary:?}");
        Ok(())
    })?;
    let report = mesh.app.stop_loop(looping)?;
    ensure!(report.failed() == 0 && report.ok > 0, "{report:?}");
    mesh.lab.manifests().remove("Pod", NAMESPACE, "a-thief");
    mesh.lab.finish()
}
