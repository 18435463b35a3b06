//! Pods whose tunnel port the network lets nobody in to: told apart from pods that can be reached, said, and sent nothing in
//! the clear that was encrypted before.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_tests::app::{Behaviour, Calls};
use weft_tests::lab::{Agent, NAMESPACE};
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere, moves};
use crate::judged::enforce;
use crate::kubernetes::marked;

/// Waits until an agent counts these pods as unreachable: reached in plaintext, and not reached at all.
fn unreachable(agent: &Agent, plaintext: f64, closed: f64) -> Result<()> {
    wait::until("the unreachable pods to be counted", wait::DEADLINE, || {
        let count = |connections| {
            Ok::<_, anyhow::Error>(agent.metrics()?.sum("weft_unreachable_pods", &[("connections", connections)]))
        };
        let counts = (count("plaintext")?, count("closed")?);
        ensure!(counts == (plaintext, closed), "they are {counts:?}");
        Ok(())
    })
}

/// Waits for an Event about the server with this reason and these words.
fn event(mesh: &Mesh, reason: &str, words: &[&str]) -> Result<()> {
    wait::until(&format!("an Event {reason}"), wait::DEADLINE, || {
        let events = mesh.api()?.get(&format!("/api/v1/namespaces/{NAMESPACE}/events"))?;
        let says = |event: &Value| {
            let message = event["message"].as_str().unwrap_or_default();
            event["involvedObject"]["name"] == "server"
                && event["reason"] == reason
                && words.iter().all(|word| message.contains(word))
        };
        ensure!(events["items"].as_array().into_iter().flatten().any(says), "{events}");
        Ok(())
    })
}

#[test]
fn unreachable_tunnel_port_keeps_a_pod_pending() -> Result<()> {
    let mesh = Mesh::in_cluster_with("unreachable", &["--reach-every", "1s"])?;
    mesh.peer.listen(anywhere(8080), "server", Behaviour::Identify)?;
    // Whoever may tell: another pod of the server's node.
    let second = mesh.lab.pod(&mesh.b, "second").create()?;
    enforce(&mesh.b, &mesh.server, &[8080])?;
    mesh.lab.label_namespace(NAMESPACE, true)?;
    for pod in [&mesh.client, &second] {
        mesh.lab.wait_live(pod)?;
    }
    marked(&mesh, &mesh.server, |mark| mark.is_some_and(|mark| mark.starts_with("pending: port 15008")))?;
    mesh.lab.wait_not_live(&mesh.server)?;
    let words = ["15008", "demo/second gets no answer", "an answer at port 8080", "NetworkPolicy"];
    event(&mesh, "NotEnrolled", &words)?;
    let agent = mesh.agent(&mesh.b)?;
    unreachable(&agent, 1.0, 0.0)?;
    ensure!(agent.weft(&["workloads"])?.contains("15008"), "weft workloads does not say so");
    // Reached as before it was asked into the mesh.
    moves(&mesh.lab, &mesh.a, "connect_steer", 2, || {
        moves(&mesh.lab, &mesh.b, "lookup_plaintext", 4, || {
            mesh.ways()?.into_iter().try_for_each(|to| {
                let name = mesh.app.call_once(to)?;
                ensure!(name == "server", "{name} answered at {to}");
                Ok(())
            })
        })
    })?;
    // Let in, it is enrolled without anybody doing anything.
    enforce(&mesh.b, &mesh.server, &[8080, 15008])?;
    mesh.lab.wait_live(&mesh.server)?;
    unreachable(&agent, 0.0, 0.0)?;
    mesh.steered(4, || mesh.ways()?.into_iter().try_for_each(|to| mesh.app.call_once(to).map(drop)))?;
    // Whoever shuts it off now gets nothing in the clear.
    enforce(&mesh.b, &mesh.server, &[8080])?;
    event(&mesh, "Unreachable", &words)?;
    unreachable(&agent, 0.0, 1.0)?;
    ensure!(mesh.lab.is_live(&mesh.server), "it is no longer published");
    // Nor does what takes no plaintext, from the start.
    crate::security::policy(&mesh.lab, "PeerAuthentication", "strict", &json!({"mtls": {"mode": "Strict"}}))?;
    mesh.lab.label_pod(&mesh.server, "weft.dev/mesh", Some("disabled"))?;
    mesh.lab.wait_restored(&mesh.server)?;
    unreachable(&agent, 0.0, 0.0)?;
    mesh.lab.label_pod(&mesh.server, "weft.dev/mesh", None)?;
    mesh.lab.wait_live(&mesh.server)?;
    unreachable(&agent, 0.0, 1.0)?;
    let report = mesh.app.call(Calls::to(mesh.echo.v4()).times(1, 1).deadline_ms(8_000))?;
    ensure!(report.ok == 0, "what takes no plaintext was reached past port 15008: {report:?}");
    enforce(&mesh.b, &mesh.server, &[8080, 15008])?;
    unreachable(&agent, 0.0, 0.0)?;
    mesh.steered(1, || mesh.app.call_once(mesh.echo.v4()))?;
    mesh.lab.finish()
}
