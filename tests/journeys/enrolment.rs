//! Enrolment: pods join and leave while their processes run and their connections stand.

use std::time::Duration;

use anyhow::{Result, ensure};
use weft_tests::app::{Behaviour, Calls, Options};
use weft_tests::lab::{AgentOptions, Lab, NAMESPACE};
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere, moves};
use crate::kubernetes::marked;

const PAUSE: Duration = Duration::from_millis(5);

#[test]
fn enrol_running_pod_without_restart() -> Result<()> {
    let mesh = Mesh::unmeshed("enrol")?;
    mesh.peer.listen(anywhere(8080), "server", Behaviour::Identify)?;
    let loops: Vec<u64> =
        mesh.ways()?.into_iter().map(|to| mesh.app.start_loop(Calls::to(to), PAUSE)).collect::<Result<_>>()?;
    let rounds = |more: u64| -> Result<()> {
        for &looping in &loops {
            let so_far = mesh.app.loop_report(looping)?.ok;
            wait::holds("the loops to go on", || {
                mesh.app.loop_report(looping).is_ok_and(|now| now.ok >= so_far + more)
            })?;
        }
        Ok(())
    };
    rounds(10)?;
    let pids = (mesh.app.process().pid(), mesh.peer.process().pid());
    let before = mesh.agent(&mesh.a)?.verdicts()?;
    ensure!(
        before.get("connect_steer").copied().unwrap_or_default() == 0,
        "steered before it was asked for: {before:?}"
    );
    mesh.lab.mesh()?;
    mesh.steered(40, || rounds(10))?;
    ensure!(pids == (mesh.app.process().pid(), mesh.peer.process().pid()) && mesh.app.process().exited().is_none());
    for looping in loops {
        let report = mesh.app.stop_loop(looping)?;
        ensure!(report.failed() == 0 && report.untruthful == 0, "{report:?}");
    }
    mesh.lab.finish()
}

#[test]
fn unenrol_running_pod() -> Result<()> {
    let (mesh, _) = Mesh::serving("unenrol", Behaviour::Identify)?;
    mesh.steered(1, || mesh.app.call_once(mesh.echo.v4()))?;
    let looping = mesh.app.start_loop(Calls::to(mesh.echo.v4()), PAUSE)?;
    mesh.lab.label_namespace(NAMESPACE, false)?;
    for pod in [&mesh.client, &mesh.server] {
        mesh.lab.wait_not_live(pod)?;
        mesh.lab.wait_restored(pod)?;
    }
    moves(&mesh.lab, &mesh.a, "connect_not_enrolled", 4, || {
        mesh.ways()?.into_iter().try_for_each(|to| mesh.app.call_once(to).map(drop))
    })?;
    let report = mesh.app.stop_loop(looping)?;
    ensure!(report.failed() == 0, "{report:?}");
    ensure!(mesh.client.listening_ports()?.is_empty(), "listeners were left in the client");
    mesh.lab.finish()
}

#[test]
fn enrol_keeps_existing_connections() -> Result<()> {
    let mesh = Mesh::unmeshed("existing")?;
    mesh.peer.listen(anywhere(8080), "server", Behaviour::Identify)?;
    let hold = |count: u64| -> Result<Vec<u64>> {
        let groups = mesh.ways()?.into_iter().map(|to| {
            let held = mesh.app.hold(Calls::to(to).times(count, 4))?;
            ensure!(held.opened.ok == count, "{held:?}");
            Ok(held.group)
        });
        groups.collect()
    };
    let stand = |groups: &[u64], count: u64| -> Result<()> {
        for &group in groups {
            let poked = mesh.app.poke(group)?;
            ensure!(poked.ok == count && poked.failed() == 0, "{poked:?}");
        }
        Ok(())
    };
    let direct = hold(10)?;
    mesh.lab.mesh()?;
    stand(&direct, 10)?;
    let meshed = mesh.steered(40, || hold(10))?;
    mesh.lab.label_namespace(NAMESPACE, false)?;
    mesh.lab.wait_not_live(&mesh.client)?;
    mesh.lab.wait_not_live(&mesh.server)?;
    stand(&direct, 10)?;
    stand(&meshed, 10)?;
    // So they do when the grace period is over and nothing is taken any more.
    wait::until("the mesh's listeners to close", wait::DEADLINE, || {
        let (ours, theirs) = (mesh.client.listening_ports()?, mesh.server.listening_ports()?);
        ensure!(ours.is_empty() && theirs == [8080], "{ours:?} {theirs:?}");
        Ok(())
    })?;
    stand(&direct, 10)?;
    stand(&meshed, 10)?;
    for group in direct.into_iter().chain(meshed) {
        mesh.app.release(group)?;
    }
    // Only once the last of them has ended does the last of the mesh go.
    mesh.lab.wait_restored(&mesh.client)?;
    mesh.lab.wait_restored(&mesh.server)?;
    mesh.lab.finish()
}

#[test]
fn pod_ip_reuse() -> Result<()> {
    reuse_addresses(Mesh::serving("reuse-ip", Behaviour::Identify)?.0)
}

/// The same where other nodes hear of pods by slices, and of their end by what is no longer in one.
#[test]
fn cluster_pod_ip_reuse() -> Result<()> {
    reuse_addresses(Mesh::serving_in_cluster("cluster-reuse-ip")?)
}

fn reuse_addresses(mesh: Mesh) -> Result<()> {
    mesh.steered(1, || mesh.app.call_once(mesh.server.v4(8080)?))?;
    let addresses = mesh.server.addresses().to_vec();
    mesh.lab.delete_pod(&mesh.server)?;
    // Another workload, with an identity of its own, at the very addresses the old one had.
    let heir = mesh.lab.pod(&mesh.b, "heir").addresses(&addresses).create()?;
    let peer = heir.app(&mesh.lab)?;
    peer.listen(anywhere(8080), "heir", Behaviour::Identify)?;
    mesh.lab.wait_live(&heir)?;
    mesh.steered(20, || {
        for to in [heir.v4(8080)?, heir.v6(8080)?] {
            let summary = mesh.app.call(Calls::to(to).times(10, 2))?;
            ensure!(summary.ok == 10 && summary.names.contains_key("heir"), "{summary:?}");
        }
        Ok(())
    })?;
    let opened = mesh.agent(&mesh.a)?.metrics()?;
    let to_heir = opened.sum("weft_tcp_connections_opened_total", &[("destination_principal", &heir.spiffe())]);
    ensure!(to_heir >= 20.0, "{to_heir} connections were opened to the heir's identity");
    // And unmeshed at the same addresses: nothing of the old enrolment may answer there.
    mesh.lab.delete_pod(&heir)?;
    let plain = mesh.lab.pod(&mesh.b, "plain").mesh("disabled").addresses(&addresses).create()?;
    let peer = plain.app(&mesh.lab)?;
    peer.listen(anywhere(8080), "plain", Behaviour::Identify)?;
    mesh.lab.wait_not_live(&heir)?;
    wait::until("calls to reach the plain pod", wait::DEADLINE, || {
        let name = mesh.app.call_once(plain.v4(8080)?)?;
        ensure!(name == "plain", "{name} answered");
        Ok(())
    })?;
    // The kernel has forgotten that these addresses were the mesh's.
    wait::until("the addresses to be nobody's", wait::DEADLINE, || {
        moves(&mesh.lab, &mesh.a, "connect_unknown_destination", 2, || {
            [plain.v4(8080)?, plain.v6(8080)?].into_iter().try_for_each(|to| mesh.app.call_once(to).map(drop))
        })
    })?;
    mesh.lab.finish()
}

#[test]
fn netns_recreated() -> Result<()> {
    let (mesh, _) = Mesh::serving("recreated", Behaviour::Identify)?;
    mesh.steered(1, || mesh.app.call_once(mesh.echo.v4()))?;
    // The same pod, its sandbox made anew: its object stays, and only the network namespace is another.
    mesh.lab.delete_sandbox(&mesh.client)?;
    let again = mesh.lab.pod(&mesh.a, "client").anew(&mesh.client).create()?;
    let app = again.app(&mesh.lab)?;
    mesh.lab.wait_live(&again)?;
    wait::until("the new namespace to be steered", wait::DEADLINE, || {
        moves(&mesh.lab, &mesh.a, "connect_steer", 2, || {
            for to in [mesh.echo.v4(), mesh.echo.v6()] {
                ensure!(app.call_once(to)? == "server");
            }
            Ok(())
        })
    })?;
    mesh.lab.finish()
}

#[test]
fn two_pods_same_service_account() -> Result<()> {
    let (mesh, listener) = Mesh::serving("same-account", Behaviour::Identify)?;
    twins(mesh, listener)
}

/// The same in a cluster, where pods are found by their processes.
#[test]
fn cluster_two_pods_same_service_account() -> Result<()> {
    let mesh = Mesh::in_cluster("cluster-twins")?;
    let (listener, _) = mesh.peer.listen(anywhere(8080), "server", Behaviour::Identify)?;
    mesh.lab.mesh()?;
    twins(mesh, listener)
}

fn twins(mesh: Mesh, listener: u64) -> Result<()> {
    let twins = ["one", "two"].map(|name| mesh.lab.pod(&mesh.a, name).service_account("twin").create());
    for twin in twins {
        let twin = twin?;
        let app = twin.app(&mesh.lab)?;
        mesh.lab.wait_live(&twin)?;
        mesh.steered(20, || {
            for to in [mesh.echo.v4(), mesh.echo.v6()] {
                let summary = app.call(Calls::to(to).times(10, 5))?;
                ensure!(summary.ok == 10, "{summary:?}");
                ensure!(
                    summary.seen_as.iter().all(|ip| twin.addresses().contains(ip)),
                    "{} was seen as {:?}",
                    twin.name(),
                    summary.seen_as
                );
            }
            Ok(())
        })?;
    }
    ensure!(mesh.peer.seen(listener)?.accepted == 40);
    mesh.lab.finish()
}

#[test]
fn namespace_label_flip() -> Result<()> {
    let mesh = Mesh::unmeshed("flip")?;
    mesh.peer.listen(anywhere(8080), "server", Behaviour::Identify)?;
    let loops = [mesh.echo.v4(), mesh.server.v6(8080)?].map(|to| mesh.app.start_loop(Calls::to(to).times(0, 2), PAUSE));
    let mut standing = Vec::new();
    for _ in 0..3 {
        mesh.lab.mesh()?;
        mesh.steered(1, || mesh.app.call_once(mesh.echo.v6()))?;
        standing.push(mesh.steered(4, || mesh.app.hold(Calls::to(mesh.echo.v4()).times(4, 2)))?);
        mesh.lab.label_namespace(NAMESPACE, false)?;
        for pod in [&mesh.client, &mesh.server] {
            mesh.lab.wait_not_live(pod)?;
        }
    }
    // The label comes back before the mesh has wholly gone, as it does each time: what was carried then is carried now.
    mesh.lab.mesh()?;
    for held in standing {
        let poked = mesh.app.poke(held.group)?;
        ensure!(held.opened.ok == 4 && poked.ok == 4, "connections ended with a flip: {held:?} {poked:?}");
        mesh.app.release(held.group)?;
    }
    for looping in loops {
        let report = mesh.app.stop_loop(looping?)?;
        ensure!(report.failed() == 0 && report.ok > 0, "{report:?}");
    }
    mesh.lab.finish()
}

#[test]
fn unclassified_pod_closed_or_open() -> Result<()> {
    let lab = Lab::new("unclassified")?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let server = lab.pod(&b, "server").namespace("outside").create()?;
    let peer = server.app(&lab)?;
    peer.listen(anywhere(8080), "server", Behaviour::Identify)?;
    lab.start_agent(&a, AgentOptions::default())?;
    let stranger = lab.pod(&a, "stranger").hidden().create()?;
    let app = stranger.app(&lab)?;
    moves(&lab, &a, "connect_unclassified", 2, || {
        ensure!(app.call_once(server.v4(8080)?)? == "server");
        ensure!(app.call_once(server.v6(8080)?)? == "server");
        Ok(())
    })?;
    let open = lab.agent_on(&a).ok_or_else(|| anyhow::anyhow!("the agent ended"))?;
    open.process().terminate(wait::DEADLINE)?;
    let closed = lab.start_agent(&a, AgentOptions::with(&["--unclassified", "closed"]))?;
    moves(&lab, &a, "connect_refuse_unclassified", 2, || {
        for to in [server.v4(8080)?, server.v6(8080)?] {
            let refused = app.open_with(to, Options::default());
            ensure!(refused.is_err_and(|e| format!("{e:#}").contains("ConnectionRefused")), "{to} was not refused");
        }
        Ok(())
    })?;
    // Known and not meshed: left alone.
    lab.reveal(&stranger)?;
    wait::until("the pod to be classified", wait::DEADLINE, || {
        moves(&lab, &a, "connect_not_enrolled", 1, || app.call_once(server.v4(8080)?))
    })?;
    // A dead agent holds nobody: the heartbeat is what keeps the door shut.
    let other = lab.pod(&a, "other").hidden().create()?;
    let app = other.app(&lab)?;
    ensure!(app.open(server.v4(8080)?).is_err(), "an unclassified pod got out");
    closed.process().kill()?;
    wait::until("the heartbeat to go stale", wait::DEADLINE, || app.call_once(server.v4(8080)?))?;
    lab.start_agent(&a, AgentOptions::default())?;
    lab.finish()
}

/// Kubernetes gives a Pod its address long after its containers may have begun: until then it is not known as outside the mesh.
#[test]
fn cluster_closed_until_the_address_is_known() -> Result<()> {
    let mesh = Mesh::in_cluster_with("cluster-closed", &["--unclassified", "closed"])?;
    mesh.peer.listen(anywhere(8080), "server", Behaviour::Identify)?;
    mesh.lab.mesh()?;
    let (late, outside) = (mesh.lab.pod(&mesh.a, "late").hidden().create()?, mesh.lab.pod(&mesh.a, "outside"));
    let outside = outside.mesh("disabled").hidden().create()?;
    let (app, other) = (late.app(&mesh.lab)?, outside.app(&mesh.lab)?);
    marked(&mesh, &late, |mark| mark == Some("pending: it has no address"))?;
    let pending = mesh.agent(&mesh.a)?.metrics()?.sum("weft_pending_pods", &[]);
    ensure!(pending == 1.0, "{pending} pods are pending");
    moves(&mesh.lab, &mesh.a, "connect_refuse_unclassified", 2, || {
        for to in mesh.ways()? {
            let refused = app.open_with(to, Options::default());
            ensure!(refused.is_err_and(|e| format!("{e:#}").contains("ConnectionRefused")), "{to} was not refused");
        }
        Ok(())
    })?;
    // One that is to stay outside needs no address for that to be known.
    wait::until("the pod outside to be classified", wait::DEADLINE, || {
        moves(&mesh.lab, &mesh.a, "connect_not_enrolled", 1, || other.call_once(mesh.server.v4(8080)?).map(drop))
    })?;
    mesh.lab.reveal(&late)?;
    mesh.lab.wait_live(&late)?;
    mesh.steered(1, || {
        ensure!(app.call_once(mesh.echo.v4())? == "server");
        Ok(())
    })?;
    marked(&mesh, &late, |mark| mark == Some("enrolled"))?;
    mesh.lab.finish()
}
