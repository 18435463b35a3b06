//! After: whether what was installed is there, runs, and has made of every pod what its label asks for.

use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use weft_core::model::OFF_LABEL;

use super::super::api::Api;
use super::super::{InstallError, Object, shipped};
use super::{Finding, agents, all, marks, name, some, verdicts};

/// The Lease that replicas of the controller hold in turn, and for how long one that nobody renews is somebody's.
const LEASE: &str = "weft-controller";
const LEASE_LASTS: Duration = Duration::from_secs(60);

pub(super) async fn findings(api: &Api<'_>, namespace: &str) -> Result<Vec<Finding>, InstallError> {
    let (mut findings, mut missing, mut issues) = (Vec::new(), Vec::new(), true);
    for mut object in shipped()? {
        object.set_namespace(namespace);
        match api.get(&object.path()).await? {
            None => missing.push(object),
            Some(found) if object.is_definition() => findings.extend(established(&found)),
            Some(found) => {
                issues &= !hands_out_no_certificates(&found);
                findings.extend(rolled_out(namespace, &object.to_string(), &found));
            }
        }
    }
    findings.extend(absent(&missing, issues));
    if !missing.iter().any(|object| object.name() == LEASE && object.value["kind"] == "Deployment") {
        findings.extend(led(api, namespace).await?);
    }
    let pods = all(api, "/api/v1/pods").await?;
    findings.extend(agents::findings(api, namespace, &pods).await);
    findings.extend(verdicts::findings(api).await?);
    let namespaces = all(api, "/api/v1/namespaces").await?;
    let off = switched_off(api).await?;
    findings.extend(marks::findings(namespace, &pods, &namespaces, &off, SystemTime::now()));
    Ok(findings)
}

/// The nodes on which the mesh is switched off, as far as nodes may be looked at.
async fn switched_off(api: &Api<'_>) -> Result<Vec<String>, InstallError> {
    match all(api, &format!("/api/v1/nodes?labelSelector={OFF_LABEL}%3Dtrue")).await {
        Ok(nodes) => Ok(nodes.iter().map(|node| name(node).to_owned()).collect()),
        Err(InstallError::Forbidden { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Whether a replica of the controller writes, by the API server's clock.
async fn led(api: &Api<'_>, namespace: &str) -> Result<Option<Finding>, InstallError> {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{LEASE}");
    let (lease, now) = api.dated(&path).await?;
    let spec = lease.unwrap_or_default()["spec"].take();
    let holder = spec["holderIdentity"].as_str().unwrap_or_default().to_owned();
    let renewed = spec["renewTime"].as_str().and_then(|time| time.parse::<Timestamp>().ok()).map(SystemTime::from);
    let age = renewed.and_then(|time| now.unwrap_or_else(SystemTime::now).duration_since(time).ok());
    let what = match age {
        _ if holder.is_empty() => "no replica of the controller writes: nodes do not learn of pods".to_owned(),
        Some(age) if age > LEASE_LASTS => {
            format!("no replica of the controller writes: {holder} last did {} s ago", age.as_secs())
        }
        _ => return Ok(None),
    };
    let look = format!("kubectl -n {namespace} get pods,leases; the log of deployment/{LEASE}: 403 is its Role");
    Ok(Some(Finding::wrong(what, look)))
}

/// Whether it is a controller whose issuer is switched off, as where agents have their certificates from another one.
fn hands_out_no_certificates(found: &Value) -> bool {
    let containers = found["spec"]["template"]["spec"]["containers"].as_array();
    let off = |container: &Value| {
        let variables = container["env"].as_array().into_iter().flatten();
        variables.into_iter().any(|v| v["name"] == "WEFT_ISSUER_ADDRESS" && v["value"] == "off")
    };
    found["kind"] == "Deployment" && containers.into_iter().flatten().any(off)
}

/// What of the installation is not there: what the mesh needs, and what an administrator may have left out.
fn absent(missing: &[Object], issues: bool) -> Vec<Finding> {
    let wanted = |object: &&Object| issues || object.name() != "weft-issuer";
    let optional = |object: &&Object| object.value["kind"] == "NetworkPolicy";
    let (left_out, lacking): (Vec<_>, Vec<_>) = missing.iter().filter(wanted).partition(optional);
    let named = |objects: &[&Object]| some(&objects.iter().map(ToString::to_string).collect::<Vec<_>>());
    let mut findings = Vec::new();
    if !lacking.is_empty() {
        let what = format!("of the installation these are missing: {}", named(&lacking));
        findings.push(Finding::wrong(what, "weft install (or helm upgrade --install); --namespace if it is elsewhere"));
    }
    if !left_out.is_empty() {
        let what = format!("nothing limits who dials the controller: {} is missing", named(&left_out));
        findings.push(Finding::remark(what, "nothing, if other policies do (networkPolicy.enabled: false)"));
    }
    findings
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
fn rolled_out(namespace: &str, object: &str, found: &Value) -> Option<Finding> {
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
            format!("kubectl -n {namespace} describe {object}; weft status in the pods that are not ready"),
        )
    } else {
        Finding::well(format!("{object}: all {wanted} are ready"))
    })
}
