//! The mesh put into a cluster, changed and taken away by the program's own verbs, and what they say of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::app::{Behaviour, Calls};
use weft_tests::lab::{AgentPod, ApiServer, Lab, shipped};
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere};

const PAUSE: Duration = Duration::from_millis(5);
const DAEMONSET: &str = "/apis/apps/v1/namespaces/weft-system/daemonsets/weft-agent";
const NETWORK_POLICY: &str = "/apis/networking.k8s.io/v1/namespaces/weft-system/networkpolicies/weft-controller";

/// What an earlier release would have put there: its version and image, a variable that nobody reads any more, and not yet all
/// objects.
fn earlier() -> Result<Vec<Value>> {
    let mut objects = shipped()?;
    objects.retain(|object| object["kind"] != "NetworkPolicy" && object["kind"] != "PodDisruptionBudget");
    for object in &mut objects {
        object["metadata"]["labels"]["app.kubernetes.io/version"] = json!("0.0.1");
        if object["kind"] == "DaemonSet" {
            let agent = &mut object["spec"]["template"]["spec"]["containers"][0];
            agent["image"] = json!("ghcr.io/weft-mesh/weft:0.0.1");
            let variables = agent["env"].as_array_mut().context("no environment")?;
            variables.push(json!({"name": "WEFT_FORMERLY", "value": "yes"}));
        }
    }
    Ok(objects)
}

/// The variables the agents are to have, by the API server's DaemonSet.
fn variables(api: &ApiServer) -> Result<Vec<String>> {
    let daemonset = api.get(DAEMONSET)?;
    let variables = daemonset["spec"]["template"]["spec"]["containers"][0]["env"].clone();
    let name = |variable: &Value| variable["name"].as_str().unwrap_or_default().to_owned();
    Ok(variables.as_array().context("no environment")?.iter().map(name).collect())
}

fn is_there(api: &ApiServer, path: &str) -> Result<bool> {
    Ok(api.send("GET", path, "application/json", None)?.0 != 404)
}

/// The lines of a verb that are about objects, each of which ends in one of these words.
fn all_are(said: &str, words: &[&str]) -> Result<usize> {
    for line in said.lines() {
        ensure!(words.iter().any(|word| line.ends_with(word)), "not {words:?}: {line}");
    }
    Ok(said.lines().count())
}

#[test]
fn cli_installs_upgrades_and_uninstalls() -> Result<()> {
    let lab = Lab::uninstalled("cli")?;
    let api = lab.api().context("no API server")?.clone();
    let early = format!("{:#}", api.weft(&["upgrade"]).err().context("there is nothing to upgrade")?);
    ensure!(early.contains("weft install"), "{early}");
    let objects = shipped()?.len();
    let dry = api.weft(&["install", "--dry-run"])?;
    ensure!(all_are(&dry, &["created (dry run)"])? == objects, "{dry}");
    ensure!(!is_there(&api, "/api/v1/namespaces/weft-system")?, "a dry run makes a namespace");
    let file = lab.directory().join("earlier.json");
    let list = json!({"apiVersion": "v1", "kind": "List", "items": earlier()?});
    std::fs::write(&file, list.to_string())?;
    let file = file.display().to_string();
    api.kubectl(&["apply", "--server-side", "--validate=false", "--field-manager=weft", "-f", &file])?;
    ensure!(variables(&api)?.contains(&"WEFT_FORMERLY".to_owned()), "the earlier release is not there");
    let said = api.weft(&["upgrade"])?;
    ensure!(all_are(&said, &["created", "configured", "unchanged"])? == objects, "{said}");
    ensure!(said.contains("daemonset.apps/weft-agent configured"), "{said}");
    ensure!(said.contains("networkpolicy.networking.k8s.io/weft-controller created"), "{said}");
    ensure!(!variables(&api)?.contains(&"WEFT_FORMERLY".to_owned()), "what is no longer said stays");
    ensure!(is_there(&api, NETWORK_POLICY)?, "it says so and makes none");
    let again = api.weft(&["install"])?;
    ensure!(all_are(&again, &["unchanged"])? == objects, "{again}");
    serves_and_goes(Mesh::of_installation(lab)?)
}

/// Runs what is installed, meshed and under load, and takes it away.
fn serves_and_goes(
    (mesh, controllers, agents): (Mesh, Vec<weft_tests::lab::ControllerPod>, Vec<AgentPod>),
) -> Result<()> {
    mesh.peer.listen(anywhere(8080), "server", Behaviour::Identify)?;
    mesh.lab.mesh()?;
    mesh.steered(4, || mesh.ways()?.into_iter().try_for_each(|to| mesh.app.call_once(to).map(drop)))?;
    let loops = mesh.ways()?.map(|to| mesh.app.start_loop(Calls::to(to).times(0, 2), PAUSE));
    let api = mesh.api()?.clone();
    let said = std::thread::scope(|scope| -> Result<String> {
        let removing = scope.spawn(|| api.weft(&["uninstall"]));
        // What kubelet does once the DaemonSet is gone.
        wait::holds("the DaemonSet to be deleted", || is_there(&api, DAEMONSET).is_ok_and(|there| !there))?;
        let ending: Vec<_> = agents.iter().map(|pod| scope.spawn(|| mesh.lab.end_agent_pod(pod))).collect();
        ending.into_iter().try_for_each(|end| end.join().map_err(|_| anyhow::anyhow!("panicked"))?)?;
        removing.join().map_err(|_| anyhow::anyhow!("panicked"))?
    })?;
    for line in
        ["daemonset.apps/weft-agent deleted", "namespace/weft-system deleted", "kinds that stay", "still labelled"]
    {
        ensure!(said.contains(line), "{line}: {said}");
    }
    ensure!(!said.contains("have not ended") && !said.contains("still marked"), "{said}");
    for pod in [&mesh.client, &mesh.server] {
        mesh.lab.wait_restored(pod)?;
        ensure!(api.mark(pod)?.is_none(), "{} is marked", pod.name());
    }
    ensure!(mesh.lab.pinned_maps().is_empty(), "pinned and left: {:?}", mesh.lab.pinned_maps());
    for looping in loops {
        let report = mesh.app.stop_loop(looping?)?;
        ensure!(report.failed() == 0 && report.ok > 50, "{report:?}");
    }
    controllers.iter().try_for_each(|pod| mesh.lab.end_controller_pod(pod))?;
    api.weft(&["uninstall", "--crds"])?;
    for path in ["/api/v1/namespaces/weft-system", DAEMONSET, NETWORK_POLICY] {
        wait::holds("everything to be gone", || is_there(&api, path).is_ok_and(|there| !there))?;
    }
    for (collection, mine) in [
        ("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", ".weft.dev"),
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles", "weft-"),
        ("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", "weft-"),
    ] {
        let list = api.get(collection)?;
        let names =
            list["items"].as_array().context("no list")?.iter().map(|object| object["metadata"]["name"].to_string());
        let left: Vec<String> = names.filter(|name| name.contains(mine)).collect();
        ensure!(left.is_empty(), "left behind: {left:?}");
    }
    mesh.lab.finish()
}
