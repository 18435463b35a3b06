//! Pods the agent does not know of, where those are held (`--unclassified closed`): who is not held for all that.

use std::time::Duration;

use anyhow::{Result, ensure};
use weft_tests::app::{App, Behaviour};
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere};
use crate::kubernetes::{marked, stale};

/// What agents may read.
const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/weft-agent";
/// After half a minute an agent counts as deaf, three seconds later its heartbeat as gone.
const DEAF: Duration = Duration::from_secs(60);

/// How many sandboxes are made, and how many of them the search is to find: on a busy machine a change or the look that is due every
/// second may be sooner.
const SANDBOXES: usize = 10;
const SOUGHT: usize = 5;

/// What everything else needs is not held, whatever is not known of it or still to come; and an agent that hears of no new pod
/// holds none.
#[test]
fn cluster_closed_spares_the_clusters_own_pods() -> Result<()> {
    let mesh = Mesh::in_cluster_with("cluster-spared", &["--unclassified", "closed"])?;
    mesh.peer.listen(anywhere(8080), "server", Behaviour::Identify)?;
    mesh.lab.mesh()?;
    let to = mesh.server.v4(8080)?;
    let calls = |app: &App| app.call_once(to).is_ok_and(|name| name == "server");
    // Labelled, and without an address: elsewhere that is held.
    let dns = mesh.lab.pod(&mesh.a, "dns").namespace("kube-system").mesh("enabled").hidden().create()?;
    let app = dns.app(&mesh.lab)?;
    wait::holds("the cluster's DNS to be let out", || calls(&app))?;
    let late = mesh.lab.pod(&mesh.a, "late").hidden().create()?;
    let held = late.app(&mesh.lab)?;
    marked(&mesh, &late, |mark| mark == Some("pending: it has no address"))?;
    ensure!(!calls(&held), "a pod that is to be meshed got out");
    // The agent of that node may not hear of pods any more.
    let api = mesh.api()?;
    let role = api.get(ROLE)?;
    let mut less = role["rules"].clone();
    for rule in less.as_array_mut().into_iter().flatten() {
        if let Some(resources) = rule["resources"].as_array_mut() {
            resources.retain(|resource| *resource != "pods");
        }
    }
    api.merge(ROLE, &serde_json::json!({"rules": less}))?;
    api.order("cut", &serde_json::Value::Null)?;
    wait::holds("the agent to be deaf", || mesh.agent(&mesh.a).and_then(|agent| stale(&agent)).unwrap_or(false))?;
    let unheard = mesh.lab.pod(&mesh.a, "unheard").namespace("kube-system").create()?;
    let app = unheard.app(&mesh.lab)?;
    ensure!(!calls(&app), "an agent that may yet hear of it lets it go");
    wait::until("the pods of a deaf agent's node to be let out", DEAF, || {
        ensure!(calls(&app) && calls(&held), "held");
        Ok(())
    })?;
    api.merge(ROLE, &serde_json::json!({"rules": role["rules"]}))?;
    wait::until("the agent to hold again", DEAF, || {
        ensure!(!calls(&held), "not held");
        ensure!(calls(&app), "the pod it has heard of is held");
        Ok(())
    })?;
    mesh.lab.finish()
}

/// A sandbox stands before its first container begins, and is found meanwhile: not only at the next look, a second away. Its first
/// connect is let go.
#[test]
fn cluster_closed_finds_sandboxes_before_they_connect() -> Result<()> {
    let options = ["--unclassified", "closed", "--log-level", "info,weft::app=debug"];
    let mesh = Mesh::in_cluster_with("cluster-sought", &options)?;
    mesh.peer.listen(anywhere(8080), "server", Behaviour::Identify)?;
    let (to, agent) = (mesh.server.v4(8080)?, mesh.agent(&mesh.a)?);
    let found = || agent.process().log().matches("known to the kernel as not meshed pod=kube-system/dns").count();
    let sought = || agent.process().log().matches("its sandbox stands, where it was looked for").count();
    let refused = || -> Result<u64> { Ok(agent.verdicts()?["connect_refuse_unclassified"]) };
    let mut dns = mesh.lab.pod(&mesh.a, "dns").namespace("kube-system").create()?;
    wait::holds("the pod to be known", || found() > 0)?;
    let (before, sought_before) = (refused()?, sought());
    for _ in 0..SANDBOXES {
        let known = found();
        mesh.lab.delete_sandbox(&dns)?;
        dns = mesh.lab.pod(&mesh.a, "dns").namespace("kube-system").anew(&dns).create()?;
        wait::holds("the new sandbox to be known", || found() > known)?;
        ensure!(dns.app(&mesh.lab)?.call_once(to)? == "server");
    }
    ensure!(refused()? == before, "first connects were refused");
    let soon = sought() - sought_before;
    ensure!(soon >= SOUGHT, "only {soon} of {SANDBOXES} sandboxes were found by the search for them");
    mesh.lab.finish()
}
