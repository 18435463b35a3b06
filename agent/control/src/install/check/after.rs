//! After: whether what was installed is there, runs, and has made of every pod what its label asks for.

use serde_json::Value;

use super::super::api::Api;
use super::super::{InstallError, shipped};
use super::{Finding, all, name, some};
use crate::resource::STATUS_ANNOTATION;
use crate::standing::Standing;

pub(super) async fn findings(api: &Api<'_>) -> Result<Vec<Finding>, InstallError> {
    let (mut findings, mut missing) = (Vec::new(), Vec::new());
    for object in shipped()? {
        match api.get(&object.path()).await? {
            None => missing.push(object.to_string()),
            Some(found) if object.is_definition() => findings.extend(established(&found)),
            Some(found) => findings.extend(rolled_out(&object.to_string(), &found)),
        }
    }
    if !missing.is_empty() {
        let what = format!("of the installation these are missing: {}", some(&missing));
        findings.push(Finding::wrong(what, "weft install (or helm upgrade --install)"));
    }
    let pods = all(api, "/api/v1/pods").await?;
    findings.extend(agents(&pods));
    findings.extend(marks(&pods));
    Ok(findings)
}

fn established(definition: &Value) -> Option<Finding> {
    let conditions = definition["status"]["conditions"].as_array()?;
    let served = conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True");
    (!served).then(|| {
        Finding::wrong(
            format!("the kind {} is not served", name(definition)),
            format!("kubectl describe crd {}: its conditions say why", name(definition)),
        )
    })
}

/// A workload whose pods are not all there, new and ready.
fn rolled_out(object: &str, found: &Value) -> Option<Finding> {
    let count = |field: &str| found["status"][field].as_u64().unwrap_or_default();
    let (wanted, ready, new) = match found["kind"].as_str()? {
        "DaemonSet" => (count("desiredNumberScheduled"), count("numberReady"), count("updatedNumberScheduled")),
        "Deployment" => {
            (found["spec"]["replicas"].as_u64().unwrap_or(1), count("readyReplicas"), count("updatedReplicas"))
        }
        _ => return None,
    };
    let seen = found["status"]["observedGeneration"].as_u64() >= found["metadata"]["generation"].as_u64();
    Some(if wanted == 0 {
        Finding::wrong(format!("{object} runs nowhere"), "no node fits its nodeSelector, affinity and tolerations")
    } else if ready < wanted || new < wanted || !seen {
        let what = format!("{object}: {ready} of {wanted} are ready, {new} of this version");
        Finding::wrong(
            what,
            format!("kubectl -n weft-system describe {object}; weft status in the pods that are not ready"),
        )
    } else {
        Finding::well(format!("{object}: all {wanted} are ready"))
    })
}

/// Agents that have started again and again.
fn agents(pods: &[Value]) -> Option<Finding> {
    const MANY: u64 = 3;
    let restarts = |pod: &Value| -> u64 {
        let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
        statuses.map(|s| s["restartCount"].as_u64().unwrap_or_default()).sum()
    };
    let ours = pods.iter().filter(|pod| pod["metadata"]["labels"]["app.kubernetes.io/part-of"] == "weft");
    let again: Vec<String> = ours.filter(|pod| restarts(pod) > MANY).map(|pod| name(pod).to_owned()).collect();
    (!again.is_empty()).then(|| {
        let what = format!("containers have started again more than {MANY} times: {}", some(&again));
        Finding::remark(what, "kubectl -n weft-system logs --previous POD")
    })
}

/// What agents have written on pods.
fn marks(pods: &[Value]) -> Vec<Finding> {
    let (mut enrolled, mut waiting) = (0, Vec::new());
    for pod in pods {
        match pod["metadata"]["annotations"][STATUS_ANNOTATION].as_str() {
            Some(Standing::ENROLLED) => enrolled += 1,
            Some(why) => {
                let space = pod["metadata"]["namespace"].as_str().unwrap_or_default();
                waiting.push(format!("{space}/{} ({why})", name(pod)));
            }
            None => {}
        }
    }
    let mut findings = vec![Finding::well(format!("{enrolled} pods are meshed"))];
    if !waiting.is_empty() {
        let what = format!("{} pods are labelled and not meshed: {}", waiting.len(), some(&waiting));
        findings.push(Finding::remark(what, "kubectl get events --field-selector reason=NotEnrolled -A"));
    }
    findings
}
