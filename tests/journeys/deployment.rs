//! The mesh as it is deployed: the containers of `deploy/weft.yaml`, with the rights and mounts that stand there and no
//! other. With `WEFT_TEST_ROOTFS` they are made of an unpacked image (`cargo xtask image --test`).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use weft_tests::app::{Behaviour, Calls};
use weft_tests::lab::{AgentPod, ControllerPod, Endpoint, Process};
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere, moves};

const PAUSE: Duration = Duration::from_millis(5);

/// Meshed by the DaemonSet's agents, the server answering.
fn serving(name: &str) -> Result<(Mesh, Vec<AgentPod>)> {
    let (mesh, _, pods) = installed(name)?;
    Ok((mesh, pods))
}

fn installed(name: &str) -> Result<(Mesh, Vec<ControllerPod>, Vec<AgentPod>)> {
    let (mesh, controllers, agents) = Mesh::installed(name)?;
    mesh.peer.listen(anywhere(8080), "server", Behaviour::Identify)?;
    mesh.lab.mesh()?;
    Ok((mesh, controllers, agents))
}

/// A line of a process's status, as hexadecimal or decimal text.
fn status_of(process: &Process, line: &str) -> Result<String> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    Ok(found.with_context(|| format!("no {line}"))?.trim().to_owned())
}

#[test]
fn daemonset_needs_no_more_than_it_asks_for() -> Result<()> {
    let (mesh, pods) = serving("daemonset")?;
    // SYS_ADMIN, SYS_PTRACE and NET_ADMIN; the holder has nothing. Both under a seccomp filter.
    for (process, capabilities) in
        pods.iter().flat_map(|pod| [(pod.agent().process(), 1_u64 << 21 | 1 << 19 | 1 << 12), (pod.holder(), 0)])
    {
        let effective = u64::from_str_radix(&status_of(process, "CapEff")?, 16)?;
        ensure!(effective == capabilities, "{} has the capabilities {effective:x}", process.name());
        ensure!(status_of(process, "Seccomp")? == "2", "{} runs without a seccomp filter", process.name());
    }
    mesh.steered(8, || {
        for to in mesh.ways()? {
            let summary = mesh.app.call(Calls::to(to).times(2, 2))?;
            ensure!(summary.ok == 2, "{summary:?}");
        }
        Ok(())
    })?;
    // Between pods of one node, past the proxy, which needs the guard on their links.
    let neighbour = mesh.lab.pod(&mesh.a, "neighbour").create()?;
    let peer = neighbour.app(&mesh.lab)?;
    peer.listen(anywhere(8080), "neighbour", Behaviour::Identify)?;
    mesh.lab.wait_live(&neighbour)?;
    wait::until("the fast path", wait::DEADLINE, || {
        moves(&mesh.lab, &mesh.a, "connect_same_node", 1, || mesh.app.call_once(neighbour.v4(8080)?).map(drop))
    })?;
    // Ending live connections that policy refuses now takes rights of its own.
    let held = mesh.app.hold(Calls::to(mesh.echo.v4()).times(4, 4))?;
    ensure!(held.opened.ok == 4, "{held:?}");
    mesh.lab.manifests().put(serde_json::json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "nobody", "namespace": weft_tests::lab::NAMESPACE},
        "spec": {"action": "Deny", "rules": [{"from": [{"namespaces": [weft_tests::lab::NAMESPACE]}]}]}
    }))?;
    wait::until("the connections to be ended", wait::DEADLINE, || {
        let poked = mesh.app.poke(held.group)?;
        ensure!(poked.ok == 0, "{poked:?}");
        Ok(())
    })?;
    mesh.lab.finish()
}

#[test]
fn installation_issues_its_own_certificates() -> Result<()> {
    let (mesh, old, agents) = installed("installed")?;
    for controller in old.iter().map(ControllerPod::controller) {
        let of = |line: &str| status_of(controller.process(), line);
        ensure!(
            (of("CapEff")?.as_str(), of("CapBnd")?.as_str()) == ("0000000000000000", "0000000000000000"),
            "capable"
        );
        ensure!(of("Uid")?.split_whitespace().all(|id| id == "65532") && of("Seccomp")? == "2", "{}", of("Uid")?);
    }
    let issued = |pods: &[ControllerPod]| -> Result<f64> {
        let each = pods.iter().map(|pod| pod.controller().metrics());
        each.map(|metrics| Ok(metrics?.sum("weft_controller_certificates_issued_total", &[]))).sum()
    };
    ensure!(issued(&old)? >= 2.0, "the controller has signed nothing");
    mesh.steered(4, || mesh.ways()?.into_iter().try_for_each(|to| mesh.app.call_once(to).map(drop)))?;
    for agent in &agents {
        let embedded = agent.agent().state().join("ca");
        ensure!(!embedded.exists(), "{} has an authority of its own", agent.node().name());
    }
    // Another release of the controller, its replicas replaced one by one, while the mesh serves.
    let loops = mesh.ways()?.map(|to| mesh.app.start_loop(Calls::to(to).times(0, 4), PAUSE));
    let mut serving = old.clone();
    for leaving in &old {
        serving.push(mesh.lab.start_controller_pod(leaving.pod().node())?);
        serving.remove(0);
        mesh.lab.name_controllers(&serving)?;
        mesh.lab.end_controller_pod(leaving)?;
    }
    // An identity that none of the old ones has signed.
    let late = mesh.lab.pod(&mesh.b, "late").ports(&[8080]).create()?;
    let peer = late.app(&mesh.lab)?;
    peer.listen(anywhere(8080), "late", Behaviour::Identify)?;
    mesh.lab.wait_live(&late)?;
    mesh.steered(2, || {
        for to in [late.v4(8080)?, late.v6(8080)?] {
            let name = mesh.app.call_once(to)?;
            ensure!(name == "late", "{name} answered");
        }
        Ok(())
    })?;
    ensure!(issued(&serving)? >= 1.0, "the new replicas have signed nothing");
    for looping in loops {
        let report = mesh.app.stop_loop(looping?)?;
        ensure!(report.failed() == 0 && report.ok > 50, "{report:?}");
    }
    mesh.lab.finish()
}

#[test]
fn rolling_update_of_agent_and_holder() -> Result<()> {
    let (mesh, pods) = serving("rolling")?;
    let loops = mesh.ways()?.map(|to| mesh.app.start_loop(Calls::to(to).times(0, 4), PAUSE));
    let held = mesh.app.hold(Calls::to(mesh.echo.v4()).times(20, 4))?;
    ensure!(held.opened.ok == 20, "{held:?}");
    let mut newest = Vec::new();
    for old in &pods {
        // As a DaemonSet with maxSurge 1: the new pod starts beside the old one, which is deleted once the new one is ready.
        let new = mesh.lab.start_agent_pod(old.node())?;
        ensure!(old.agent().process().exited().is_none(), "the old agent left before it was told to");
        if newest.is_empty() {
            let poked = mesh.app.poke(held.group)?;
            ensure!(poked.ok == 20, "a hand-over cut connections: {poked:?}");
            mesh.app.release(held.group)?;
            // Were it to end by itself, kubelet would start it again, and it would take everything back.
            wait::holds("the old agent to have drained", || {
                old.agent().process().log().contains("waiting to be told")
            })?;
            ensure!(old.agent().process().exited().is_none(), "the old agent ended by itself");
        }
        mesh.lab.end_agent_pod(old)?;
        mesh.steered(4, || mesh.ways()?.into_iter().try_for_each(|to| mesh.app.call_once(to).map(drop)))?;
        newest.push(new);
    }
    for looping in loops {
        let report = mesh.app.stop_loop(looping?)?;
        ensure!(report.failed() == 0 && report.ok > 50, "{report:?}");
    }
    // The worst of it: the next pod's holder has just taken over, the old one is gone, and then the agent dies before its
    // successor starts. It stands still meanwhile, and so cannot have given the new holder anything itself.
    let doomed = newest.pop().context("no pod")?;
    let agent = doomed.agent().process();
    agent.signal(Signal::SIGSTOP)?;
    let next = mesh.lab.start_holder_of_next_pod(doomed.node())?;
    mesh.lab.end_holder(doomed.holder())?;
    agent.kill()?;
    let (app, ways) = (mesh.app.clone(), mesh.ways()?);
    let calls = std::thread::spawn(move || -> Result<_> {
        ways.into_iter().map(|to| app.call(Calls::to(to).times(10, 10).deadline_ms(60_000))).collect::<Result<Vec<_>>>()
    });
    let successor = mesh.lab.launch_agent_of(next)?;
    successor.agent().wait_ready()?;
    for summary in calls.join().map_err(|_| anyhow::anyhow!("panicked"))?? {
        ensure!(summary.ok == 10 && summary.failed() == 0, "calls while only the holder was there: {summary:?}");
    }
    mesh.lab.finish()
}

#[test]
fn uninstalling_takes_every_pod_out_first() -> Result<()> {
    let (mesh, pods) = serving("uninstall")?;
    let second = mesh.lab.pod(&mesh.b, "second").ports(&[8080]).create()?;
    let peer = second.app(&mesh.lab)?;
    peer.listen(anywhere(8080), "second", Behaviour::Identify)?;
    mesh.lab.wait_live(&second)?;
    mesh.lab.set_endpoints(&mesh.echo, vec![Endpoint::from(&mesh.server), Endpoint::from(&second)])?;
    let looping = mesh.app.start_loop(Calls::to(mesh.echo.v4()).times(0, 4), PAUSE)?;
    mesh.steered(2, || mesh.app.call(Calls::to(mesh.echo.v4()).times(2, 1)).map(drop))?;
    // kubectl delete, or helm uninstall: the DaemonSet goes, then kubelet ends its pods.
    mesh.lab.delete_daemonset()?;
    std::thread::scope(|scope| {
        let ending: Vec<_> = pods.iter().map(|pod| scope.spawn(|| mesh.lab.end_agent_pod(pod))).collect();
        ending.into_iter().try_for_each(|end| end.join().map_err(|_| anyhow::anyhow!("panicked"))?)
    })?;
    for pod in [&mesh.client, &mesh.server, &second] {
        mesh.lab.wait_restored(pod)?;
        let mark = mesh.lab.api().context("no API server")?.mark(pod)?;
        ensure!(mark.is_none(), "{} is marked {mark:?}", pod.name());
    }
    let pins = mesh.lab.pinned_maps();
    ensure!(pins.is_empty(), "pinned and left: {pins:?}");
    let before = mesh.app.loop_report(looping)?.ok;
    wait::holds("plain calls to go on", || mesh.app.loop_report(looping).is_ok_and(|now| now.ok > before + 50))?;
    let report = mesh.app.stop_loop(looping)?;
    ensure!(report.failed() == 0, "{report:?}");
    mesh.lab.finish()
}
