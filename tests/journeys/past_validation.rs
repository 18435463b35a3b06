//! Objects that the API server took and that say nothing right: told on the object, by agents and in metrics; the rest goes on.

use anyhow::{Result, ensure};
use serde_json::json;
use weft_tests::app::{Behaviour, Calls};
use weft_tests::lab::NAMESPACE;
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere, moves};
use crate::kubernetes::{agents, stale};

/// Has the API server take any object of a kind of `weft.dev`, as one did whose CustomResourceDefinition was older or newer.
fn forget_schema(mesh: &Mesh, plural: &str) -> Result<()> {
    let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.weft.dev");
    let mut definition = mesh.api()?.get(&path)?;
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let (status, answer) = mesh.api()?.send("PUT", &path, "application/json", Some(definition.to_string()))?;
    ensure!(status == 200, "{status} {answer}");
    Ok(())
}

/// Waits until the controller says this of a policy of the mesh's own.
fn told(mesh: &Mesh, kind: &str, name: &str, reason: &str) -> Result<()> {
    let plural = if kind == "PeerAuthentication" {
        "peerauthentications"
    } else {
        &kind.to_lowercase().replace("policy", "policies")
    };
    let path = format!("/apis/weft.dev/v1alpha1/namespaces/{NAMESPACE}/{plural}/{name}");
    wait::until(&format!("the status of {kind} {name}"), wait::DEADLINE, || {
        let condition = mesh.api()?.get(&path)?["status"]["conditions"][0].clone();
        let holds = condition["status"] == if reason == "Accepted" { "True" } else { "False" };
        ensure!(condition["type"] == "Accepted" && condition["reason"] == reason && holds, "it is {condition}");
        Ok(())
    })
}

#[test]
fn objects_past_validation_are_reported() -> Result<()> {
    let mesh = Mesh::serving_in_cluster("past-validation")?;
    mesh.lab.expect_error("weft::manifests");
    let other = mesh.lab.pod(&mesh.b, "other").create()?;
    let peer = other.app(&mesh.lab)?;
    peer.listen(anywhere(8080), "other", Behaviour::Identify)?;
    mesh.lab.wait_live(&other)?;
    mesh.steered(4, || mesh.ways()?.into_iter().try_for_each(|to| mesh.app.call_once(to).map(drop)))?;
    for plural in ["authorizationpolicies", "peerauthentications", "trafficpolicies"] {
        forget_schema(&mesh, plural)?;
    }
    let agents = agents(&mesh)?;
    let broken = [
        (
            "AuthorizationPolicy",
            "meant-well",
            json!({"selector": {"matchLabels": {"app": "server"}}, "action": "Permit"}),
        ),
        ("AuthorizationPolicy", "no-policy", json!({"selector": {"matchLabels": {"app": "nobody"}}, "rules": 7})),
        ("PeerAuthentication", "no-mode", json!({"mtls": "Strict"})),
        ("TrafficPolicy", "no-policy", json!([1, 2])),
    ];
    for (kind, name, spec) in &broken {
        // The server may go on for a moment with the schema it has forgotten.
        wait::until("the object to be taken", wait::DEADLINE, || {
            mesh.lab.manifests().put(json!({
                "apiVersion": "weft.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec
            }))
        })?;
    }
    for agent in &agents {
        wait::until("every one of them to be reported", wait::DEADLINE, || {
            let problems = agent.ask("/status")?["problems"].to_string();
            for (kind, name, _) in &broken {
                let object = format!("{kind} {NAMESPACE}/{name}");
                ensure!(problems.contains(&object), "{object} is not among {problems}");
            }
            ensure!(
                agent.metrics()?.sum("weft_config_problems", &[("severity", "error")]) >= 4.0,
                "not all are counted"
            );
            ensure!(!stale(agent)?, "a watch broke off for it");
            Ok(())
        })?;
    }
    for (kind, name, _) in &broken {
        told(&mesh, kind, name, "Invalid")?;
    }
    // Nobody knows what was meant: the pods it selects let nobody in, and all others are as they were.
    wait::until("the policy's pods to be closed", wait::DEADLINE, || {
        let report = mesh.app.call(Calls::to(mesh.echo.v4()).times(1, 1).deadline_ms(5_000))?;
        ensure!(report.ok == 0, "{report:?}");
        Ok(())
    })?;
    moves(&mesh.lab, &mesh.a, "connect_steer", 2, || {
        for to in [other.v4(8080)?, other.v6(8080)?] {
            ensure!(mesh.app.call_once(to)? == "other");
        }
        Ok(())
    })?;
    // Changes are followed on: the watches of these kinds too.
    for (kind, name, _) in &broken {
        mesh.lab.manifests().remove(kind, NAMESPACE, name);
    }
    wait::until("calls to be let in again", wait::DEADLINE, || mesh.app.call_once(mesh.echo.v4()).map(drop))?;
    // What is right and leads nowhere is told apart from what is in force.
    for (name, target, reason) in [("in-force", "echo", "Accepted"), ("astray", "nobody", "TargetNotFound")] {
        let targets = json!([{"group": "", "kind": "Service", "name": target}]);
        mesh.lab.manifests().put(json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"targetRefs": targets, "slowStart": "0s"}
        }))?;
        told(&mesh, "TrafficPolicy", name, reason)?;
    }
    mesh.lab.finish()
}
