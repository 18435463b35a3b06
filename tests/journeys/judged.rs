//! `weft enrol`: what it says the label would break breaks, and what it says would not does not.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::app::{Behaviour, Calls};
use weft_tests::lab::{NAMESPACE, Node, Pod};
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere, moves};

/// What a cluster's network does to enforce a policy: new TCP connections to `pod` pass to these ports only.
pub(crate) fn enforce(node: &Node, pod: &Pod, ports: &[u16]) -> Result<()> {
    let ports = ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let (v4, v6) = (pod.v4(0)?.ip(), pod.v6(0)?.ip());
    let rules = format!(
        "table inet cni\ndelete table inet cni\ntable inet cni {{ chain pods {{
            type filter hook forward priority 0; policy accept;
            tcp flags & (syn | ack) != syn accept
            ip daddr {v4} tcp dport != {{ {ports} }} drop
            ip6 daddr {v6} tcp dport != {{ {ports} }} drop
        }}\n}}\n"
    );
    node.netns().feed(&["nft", "-f", "-"], &rules).map(drop)
}

fn network_policy(ports: &[u16]) -> Value {
    let ports: Vec<_> = ports.iter().map(|port| json!({"protocol": "TCP", "port": port})).collect();
    let from = json!([{"podSelector": {"matchLabels": {"app": "client"}}}, {"namespaceSelector": {}}]);
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {
            "podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": from, "ports": ports}]
        }
    })
}

fn peer_authentication(mode: &str) -> Value {
    json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "PeerAuthentication",
        "metadata": {"name": "mode", "namespace": NAMESPACE}, "spec": {"mtls": {"mode": mode}}
    })
}

/// What `weft enrol` says when it exits non-zero.
fn refused(mesh: &Mesh, arguments: &[&str]) -> Result<String> {
    let verb: Vec<&str> = ["enrol", NAMESPACE].into_iter().chain(arguments.iter().copied()).collect();
    Ok(format!("{:#}", mesh.api()?.weft(&verb).err().with_context(|| format!("weft {verb:?} found nothing"))?))
}

fn label(mesh: &Mesh) -> Result<Value> {
    Ok(mesh.api()?.get(&format!("/api/v1/namespaces/{NAMESPACE}"))?["metadata"]["labels"]["weft.dev/mesh"].clone())
}

#[test]
fn cluster_enrol_names_what_breaks() -> Result<()> {
    let mesh = Mesh::in_cluster("judged")?;
    mesh.peer.listen(anywhere(8080), "server", Behaviour::Identify)?;
    let stranger = mesh.lab.pod(&mesh.a, "stranger").namespace("elsewhere").create()?.app(&mesh.lab)?;
    let direct = mesh.server.v4(8080)?;
    mesh.lab.manifests().put(network_policy(&[8080]))?;
    mesh.lab.manifests().put(peer_authentication("Strict"))?;
    enforce(&mesh.b, &mesh.server, &[8080])?;
    for app in [&mesh.app, &stranger] {
        ensure!(app.call_once(direct)? == "server", "what is enforced is not what the policy says");
    }
    for arguments in [&["--dry-run"][..], &[]] {
        let said = refused(&mesh, arguments)?;
        for words in [
            "NetworkPolicy demo/web lets demo/client in to demo/server on TCP 8080, and not on TCP 15008",
            "PeerAuthentication demo/mode is Strict",
            "a pod of elsewhere",
            "2 things would break",
        ] {
            ensure!(said.contains(words), "{words:?} is not said: {said}");
        }
        ensure!(label(&mesh)?.is_null(), "labelled by weft enrol {arguments:?}");
    }
    mesh.api()?.weft(&["enrol", NAMESPACE, "--force"])?;
    for pod in [&mesh.client, &mesh.server] {
        mesh.lab.wait_live(pod)?;
    }
    moves(&mesh.lab, &mesh.b, "lookup_drop_plaintext", 1, || {
        ensure!(stranger.open(direct).is_err(), "a pod outside the mesh reaches a strict port");
        Ok(())
    })?;
    let call = Calls::to(direct).times(1, 1).deadline_ms(5_000);
    let report = mesh.app.call(call)?;
    ensure!(report.ok == 0, "the call passed where 15008 does not: {report:?}");
    // Both mended as it says.
    mesh.lab.manifests().put(network_policy(&[8080, 15008]))?;
    enforce(&mesh.b, &mesh.server, &[8080, 15008])?;
    mesh.lab.manifests().put(peer_authentication("Permissive"))?;
    let said = mesh.api()?.weft(&["enrol", NAMESPACE, "--dry-run"])?;
    ensure!(said.contains("nothing breaks") && said.contains("labelled already"), "{said}");
    mesh.steered(4, || mesh.ways()?.into_iter().try_for_each(|to| mesh.app.call_once(to).map(drop)))?;
    wait::until("plaintext to be let in again", wait::DEADLINE, || stranger.call_once(direct))?;
    // The lab did not label it, and would not unlabel it.
    mesh.lab.label_namespace(NAMESPACE, false)?;
    mesh.lab.finish()
}
