//! What agents have written on pods, and pods on which they should have written something.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use weft_core::model::OFF_LABEL;

use super::agents::{is_agent, is_ready, node};
use super::{Finding, name, some};
use crate::resource::{MESH_LABEL, STATUS_ANNOTATION};
use crate::standing::Standing;

/// How long a pod may run before an agent says something of it.
const SOON: Duration = Duration::from_secs(60);

pub(super) fn findings(
    namespace: &str,
    pods: &[Value],
    namespaces: &[Value],
    off_nodes: &[String],
    now: SystemTime,
) -> Vec<Finding> {
    let off =
        namespaces.iter().find(|space| name(space) == namespace && space["metadata"]["labels"][OFF_LABEL] == "true");
    let (mut enrolled, mut waiting, mut refused) = (0, Vec::new(), Vec::new());
    for pod in pods {
        match pod["metadata"]["annotations"][STATUS_ANNOTATION].as_str() {
            Some(Standing::ENROLLED) => enrolled += 1,
            Some(why) if why.starts_with("pending") => waiting.push(format!("{} ({why})", full(pod))),
            Some(why) => refused.push(format!("{} ({why})", full(pod))),
            None => {}
        }
    }
    let mut findings = vec![Finding::well(format!("{enrolled} pods are meshed"))];
    if !waiting.is_empty() {
        let what = format!("{} pods are labelled and not meshed yet: {}", waiting.len(), some(&waiting));
        findings.push(Finding::remark(what, "kubectl get events --field-selector reason=NotEnrolled -A"));
    }
    if !refused.is_empty() {
        let what = format!("{} pods are labelled and cannot be meshed: {}", refused.len(), some(&refused));
        findings.push(Finding::remark(what, "label them weft.dev/mesh=disabled, so that nobody counts on it"));
    }
    if off.is_some() {
        findings.push(Finding::remark("the mesh is switched off on every node", "weft enable --all"));
    } else {
        if !off_nodes.is_empty() {
            let what = format!("the mesh is switched off on nodes: {}", some(off_nodes));
            findings.push(Finding::remark(what, "weft enable --node NAME"));
        }
        let pods: Vec<&Value> =
            pods.iter().filter(|pod| !node(pod).is_some_and(|on| off_nodes.iter().any(|off| off == on))).collect();
        findings.extend(unmarked(namespace, &pods, namespaces, now));
    }
    findings
}

/// Pods that run, are labelled, and of which nobody says anything: what an agent that is not there looks like, or one that
/// does not follow the API server.
fn unmarked(namespace: &str, pods: &[&Value], namespaces: &[Value], now: SystemTime) -> Vec<Finding> {
    let labels: BTreeMap<&str, &Value> =
        namespaces.iter().map(|space| (name(space), &space["metadata"]["labels"][MESH_LABEL])).collect();
    let served: BTreeSet<&str> =
        pods.iter().filter(|pod| is_agent(namespace, pod) && is_ready(pod)).filter_map(|pod| node(pod)).collect();
    let wanted = |pod: &&Value| {
        let own = &pod["metadata"]["labels"][MESH_LABEL];
        let space = pod["metadata"]["namespace"].as_str().and_then(|space| labels.get(space));
        if own.is_null() { space.is_some_and(|label| *label == "enabled") } else { own == "enabled" }
    };
    let silent = pods.iter().copied().filter(wanted).filter(|pod| {
        pod["metadata"]["annotations"][STATUS_ANNOTATION].is_null()
            && pod["status"]["phase"] == "Running"
            && !fresh(pod, now)
    });
    let (told, alone): (Vec<_>, Vec<_>) = silent.partition(|pod| node(pod).is_some_and(|node| served.contains(node)));
    let named = |pods: &[&Value]| {
        some(&pods.iter().map(|pod| format!("{} (on {})", full(pod), node(pod).unwrap_or("?"))).collect::<Vec<_>>())
    };
    let mut findings = Vec::new();
    if !alone.is_empty() {
        let what = format!("pods are labelled on nodes where no agent is ready: {}", named(&alone));
        let how = format!(
            "kubectl -n {namespace} get pods -o wide; which nodes get one: agent.nodeSelector, .affinity, .tolerations"
        );
        findings.push(Finding::remark(what, how));
    }
    if !told.is_empty() {
        let what = format!("pods are labelled and their node's agent says nothing of them: {}", named(&told));
        let how =
            format!("see whether it follows the API server: kubectl -n {namespace} exec POD -c agent -- weft status");
        findings.push(Finding::remark(what, how));
    }
    findings
}

/// Whether a pod has begun just now, or is about to end.
fn fresh(pod: &Value, now: SystemTime) -> bool {
    let started = pod["status"]["startTime"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
    let age = started.and_then(|time| now.duration_since(time.into()).ok());
    !pod["metadata"]["deletionTimestamp"].is_null() || age.is_none_or(|age| age < SOON)
}

fn full(pod: &Value) -> String {
    format!("{}/{}", pod["metadata"]["namespace"].as_str().unwrap_or_default(), name(pod))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: &str, change: impl FnOnce(&mut Value)) -> Value {
        let mut pod = json!({"metadata": {"name": name, "namespace": "demo"}, "spec": {"nodeName": node},
            "status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z"}});
        change(&mut pod);
        pod
    }

    fn said(pods: &[Value], namespaces: &[Value]) -> String {
        said_with(pods, namespaces, &[])
    }

    fn said_with(pods: &[Value], namespaces: &[Value], off: &[String]) -> String {
        let now = "2026-01-01T00:02:00Z".parse::<Timestamp>().unwrap();
        findings("weft-system", pods, namespaces, off, now.into())
            .iter()
            .map(|finding| format!("{finding}\n"))
            .collect()
    }

    #[test]
    fn pods_nobody_says_anything_of_are_told_by_whether_an_agent_is_there() {
        let agent = json!({
            "metadata": {"name": "weft-agent-a", "namespace": "weft-system", "labels": {
                "app.kubernetes.io/part-of": "weft", "app.kubernetes.io/component": "agent"}},
            "spec": {"nodeName": "a"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let space = json!({"metadata": {"name": "demo", "labels": {"weft.dev/mesh": "enabled"}}});
        let pods = [
            agent,
            pod("silent", "a", |_| {}),
            pod("alone", "b", |_| {}),
            pod("outside", "b", |pod| pod["metadata"]["labels"] = json!({"weft.dev/mesh": "disabled"})),
            pod("new", "b", |pod| pod["status"]["startTime"] = json!("2026-01-01T00:01:30Z")),
            pod("done", "b", |pod| pod["status"]["phase"] = json!("Succeeded")),
            pod("meshed", "a", |pod| pod["metadata"]["annotations"] = json!({"weft.dev/status": "enrolled"})),
            pod("late", "a", |pod| pod["metadata"]["annotations"] = json!({"weft.dev/status": "pending: no address"})),
            pod("host", "a", |pod| {
                pod["metadata"]["annotations"] = json!({"weft.dev/status": "not enrolled: hostNetwork"})
            }),
        ];
        let text = said(&pods, std::slice::from_ref(&space));
        for line in [
            "ok      1 pods are meshed\n",
            "note    1 pods are labelled and not meshed yet: demo/late (pending: no address)\n",
            "note    1 pods are labelled and cannot be meshed: demo/host (not enrolled: hostNetwork)\n",
            "note    pods are labelled on nodes where no agent is ready: demo/alone (on b)\n",
            "note    pods are labelled and their node's agent says nothing of them: demo/silent (on a)\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        // Where the mesh is switched off, nobody is missed.
        let text = said_with(&pods, std::slice::from_ref(&space), &["b".into()]);
        assert!(text.contains("switched off on nodes: b") && !text.contains("demo/alone"), "{text}");
        assert!(text.contains("demo/silent"), "another node's: {text}");
        let off = json!({"metadata": {"name": "weft-system", "labels": {"weft.dev/disabled": "true"}}});
        let text = said(&pods, &[space, off]);
        assert!(text.contains("switched off") && !text.contains("demo/silent"), "{text}");
        assert!(!said(&pods, &[]).contains("demo/silent"), "a namespace without the label");
    }
}
