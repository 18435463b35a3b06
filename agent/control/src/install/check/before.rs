//! Before: versions, rights, what else is in the cluster that steers sockets.

use serde_json::{Value, json};

use super::super::api::Api;
use super::super::{InstallError, NAMESPACE, shipped};
use super::kernel::two;
use super::{Finding, all, name, nodes, some};

/// Tokens name their pod's node, without which the issuer signs nothing, and containers have an `appArmorProfile`. Sidecar
/// containers are older.
const KUBERNETES: (u64, u64) = (1, 30);
/// Networks by the name of their DaemonSet.
const NETWORKS: [&str; 8] =
    ["antrea-agent", "aws-node", "calico-node", "canal", "cilium", "kindnet", "kube-flannel-ds", "weave-net"];
/// Other meshes' node agents, likewise.
const MESHES: [&str; 4] = ["istio-cni-node", "kmesh", "linkerd-cni", "ztunnel"];

pub(super) async fn findings(api: &Api<'_>) -> Result<Vec<Finding>, InstallError> {
    let mut findings = vec![version(&api.get("/version").await?.unwrap_or_default())];
    findings.extend(rights(api).await?);
    match all(api, "/api/v1/nodes").await {
        Ok(found) => findings.extend(nodes::findings(&found)),
        Err(error) => findings.push(unseen("the nodes", &error)),
    }
    findings.push(nodes::the_rest()?);
    let space = api.get(&format!("/api/v1/namespaces/{NAMESPACE}")).await.unwrap_or_default();
    findings.extend(space.as_ref().and_then(pod_security));
    match all(api, "/apis/apps/v1/daemonsets").await {
        Ok(found) => findings.extend(neighbours(api, &found).await),
        Err(error) => findings.push(unseen("the cluster's DaemonSets", &error)),
    }
    findings.push(match api.get("/apis/gateway.networking.k8s.io").await? {
        Some(_) => Finding::well("Gateway API is installed"),
        None => Finding::remark(
            "Gateway API is not installed: there are no routes, and traffic cannot be split",
            "install its experimental channel: https://gateway-api.sigs.k8s.io/guides/",
        ),
    });
    Ok(findings)
}

fn unseen(what: &str, error: &InstallError) -> Finding {
    Finding::remark(format!("{what} cannot be looked at: {error}"), "check again with the rights of cluster-admin")
}

fn version(answer: &Value) -> Finding {
    // Providers write a suffix behind the minor number ("29+").
    let part = |field: &str| answer[field].as_str().unwrap_or_default();
    let said = format!("{}.{}", part("major"), part("minor"));
    match two(&said) {
        Some(known) if known >= KUBERNETES => Finding::well(format!("Kubernetes is {said}")),
        _ => Finding::wrong(
            format!("Kubernetes is {said}: {}.{} or later is needed", KUBERNETES.0, KUBERNETES.1),
            "upgrade the cluster",
        ),
    }
}

/// Whether the caller may create and change everything that is shipped.
async fn rights(api: &Api<'_>) -> Result<Vec<Finding>, InstallError> {
    let mut lacking = Vec::new();
    for object in shipped()? {
        let (group, plural, namespace) = object.resource();
        for verb in ["create", "patch"] {
            let asked = json!({"verb": verb, "group": group, "resource": plural, "namespace": namespace, "name": object.name()});
            let review = json!({
                "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": asked}
            });
            let answer = api.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await?;
            if answer["status"]["allowed"] != true {
                lacking.push(format!("{verb} {object}"));
            }
        }
    }
    Ok(vec![if lacking.is_empty() {
        Finding::well("you may install everything")
    } else {
        Finding::wrong(
            format!("you may not {}", some(&lacking)),
            "install as cluster-admin: agents get rights you must have yourself",
        )
    }])
}

fn pod_security(space: &Value) -> Option<Finding> {
    let level = space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"].as_str()?;
    (level != "privileged").then(|| {
        Finding::wrong(
            format!("the namespace {NAMESPACE} enforces the pod security level {level:?}: agents need host paths and capabilities"),
            format!("kubectl label --overwrite namespace {NAMESPACE} pod-security.kubernetes.io/enforce=privileged"),
        )
    })
}

async fn neighbours(api: &Api<'_>, daemonsets: &[Value]) -> Vec<Finding> {
    let named = |known: &[&str]| -> Vec<&Value> { daemonsets.iter().filter(|d| known.contains(&name(d))).collect() };
    let names = |found: &[&Value]| found.iter().map(|d| name(d).to_owned()).collect::<Vec<_>>().join(", ");
    let (networks, meshes) = (named(&NETWORKS), named(&MESHES));
    let mut findings = vec![if networks.is_empty() {
        Finding::remark(
            "the cluster's network is none of those known here",
            "pods must have a network namespace each, and TCP 15008 must pass between them",
        )
    } else {
        Finding::well(format!("the cluster's network is {}", names(&networks)))
    }];
    if !meshes.is_empty() {
        let what = format!("another mesh has agents on the nodes: {}", names(&meshes));
        findings.push(Finding::remark(what, "mesh no pod with both: the two take each other's connections"));
    }
    for cilium in networks.iter().filter(|d| name(d) == "cilium") {
        let space = cilium["metadata"]["namespace"].as_str().unwrap_or("kube-system");
        let config = api.get(&format!("/api/v1/namespaces/{space}/configmaps/cilium-config")).await;
        findings.extend(config.ok().flatten().and_then(|config| socket_balancer(&config["data"])));
    }
    findings
}

/// Cilium's socket load balancer writes an endpoint's address over a service's in the hook in which the mesh looks for it.
fn socket_balancer(config: &Value) -> Option<Finding> {
    let is = |key: &str, values: &[&str]| config[key].as_str().is_some_and(|value| values.contains(&value));
    let on = is("bpf-lb-sock", &["true"]) || is("kube-proxy-replacement", &["true", "strict"]);
    (on && !is("bpf-lb-sock-hostns-only", &["true"])).then(|| {
        Finding::wrong(
            "Cilium's socket load balancer chooses endpoints inside pods, before the mesh can",
            "set Cilium's socketLB.hostNamespaceOnly=true (bpf-lb-sock-hostns-only) and restart its agents",
        )
    })
}
