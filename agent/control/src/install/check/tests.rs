//! Findings against the API server double: a cluster that fits, and each way in which one does not.

use serde_json::json;

use super::super::tests::{Rig, Tested};
use super::super::{Installed, NAMESPACE, Outcome, Settings, installed, shipped};
use super::*;

fn wrong(findings: &[Finding]) -> Vec<&str> {
    findings.iter().filter(|f| f.grade == Grade::Wrong).map(|f| f.what.as_str()).collect()
}

fn node(name: &str, kernel: &str) -> Value {
    json!({"metadata": {"name": name}, "status": {"nodeInfo": {
        "kernelVersion": kernel, "operatingSystem": "linux", "architecture": "amd64", "bootID": "", "machineID": "",
        "systemUUID": "", "osImage": "", "containerRuntimeVersion": "containerd://2.0.0", "kubeletVersion": "", "kubeProxyVersion": ""
    }}})
}

fn daemonset(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
        "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "i"}]}
    }}})
}

#[tokio::test]
async fn a_cluster_that_fits_has_nothing_wrong_and_every_obstacle_is_named_with_its_remedy() -> Tested {
    let rig = Rig::start().await?;
    rig.send("POST", "/api/v1/nodes", node("new", "6.8.0-45-generic")).await?;
    rig.send("POST", "/apis/apps/v1/namespaces/kube-system/daemonsets", daemonset("kindnet")).await?;
    let fits = before(rig.client()).await?;
    assert_eq!(wrong(&fits), Vec::<&str>::new(), "{fits:?}");
    assert!(fits.iter().any(|f| f.what.contains("kindnet")), "{fits:?}");
    rig.send("POST", "/api/v1/nodes", node("old", "5.15.0-91-generic")).await?;
    rig.send("POST", "/apis/apps/v1/namespaces/kube-system/daemonsets", daemonset("cilium")).await?;
    let config = json!({"metadata": {"name": "cilium-config"}, "data": {"kube-proxy-replacement": "true"}});
    rig.send("POST", "/api/v1/namespaces/kube-system/configmaps", config).await?;
    let labels = json!({"pod-security.kubernetes.io/enforce": "baseline"});
    rig.send("POST", "/api/v1/namespaces", json!({"metadata": {"name": "weft-system", "labels": labels}})).await?;
    let found = before(rig.client()).await?;
    let wrong = wrong(&found);
    assert_eq!(wrong.len(), 3, "{wrong:?}");
    for word in ["old (5.15.0-91-generic)", "Cilium", "baseline"] {
        assert!(wrong.iter().any(|what| what.contains(word)), "{word}: {wrong:?}");
    }
    assert!(found.iter().all(|f| f.grade == Grade::Well || !f.remedy.is_empty()), "{found:?}");
    let mended = json!({"kube-proxy-replacement": "true", "bpf-lb-sock-hostns-only": "true"});
    let config = json!({"metadata": {"name": "cilium-config"}, "data": mended});
    rig.send("PUT", "/api/v1/namespaces/kube-system/configmaps/cilium-config", config).await?;
    assert!(!before(rig.client()).await?.iter().any(|f| f.what.contains("Cilium's socket")));
    Ok(())
}

#[tokio::test]
async fn who_may_not_install_is_told_what_is_lacking() -> Tested {
    let rig = Rig::of_nobody().await?;
    let found = before(rig.client()).await?;
    let wrong = wrong(&found);
    assert!(
        wrong.iter().any(|what| what.contains("you may not") && what.contains("namespace/weft-system")),
        "{found:?}"
    );
    Ok(())
}

#[tokio::test]
async fn an_installation_is_well_when_its_pods_are_and_says_which_pods_wait() -> Tested {
    let rig = Rig::start().await?;
    let nothing = after(rig.client(), NAMESPACE).await?;
    assert!(wrong(&nothing).iter().any(|what| what.contains("missing")), "{nothing:?}");
    let told = rig.apply(&Settings::default()).await?;
    assert!(told.iter().all(|(_, outcome)| *outcome == Outcome::Created));
    let path = "/apis/apps/v1/namespaces/weft-system/daemonsets/weft-agent";
    let (_, mut object) = rig.send("GET", path, Value::Null).await?;
    let generation = object["metadata"]["generation"].clone();
    for (ready, well) in [(1, false), (2, true)] {
        object["status"] = json!({
            "desiredNumberScheduled": 2, "currentNumberScheduled": 2, "numberMisscheduled": 0, "numberReady": ready,
            "updatedNumberScheduled": 2, "observedGeneration": generation
        });
        let (status, said) = rig.send("PUT", &format!("{path}/status"), object).await?;
        assert_eq!(status, 200, "{said}");
        object = said;
        let found = after(rig.client(), NAMESPACE).await?;
        let about: Vec<_> = found.iter().filter(|f| f.what.contains("daemonset.apps/weft-agent")).collect();
        assert_eq!(about.len(), 1, "{found:?}");
        assert_eq!(about[0].grade == Grade::Well, well, "{about:?}");
    }
    let mark = json!({"weft.dev/status": "pending: no process of the pod is found"});
    let pod = json!({
        "metadata": {"name": "slow", "annotations": mark},
        "spec": {"containers": [{"name": "a", "image": "i"}]}
    });
    let (status, said) = rig.send("POST", "/api/v1/namespaces/default/pods", pod).await?;
    assert_eq!(status, 201, "{said}");
    let found = after(rig.client(), NAMESPACE).await?;
    assert!(found.iter().any(|f| f.grade == Grade::Remark && f.what.contains("default/slow")), "{found:?}");
    Ok(())
}

#[tokio::test]
async fn a_controller_that_does_not_renew_its_lease_is_missed() -> Tested {
    let rig = Rig::start().await?;
    rig.apply(&Settings::default()).await?;
    let missed = async || -> anyhow::Result<Option<String>> {
        let found = after(rig.client(), NAMESPACE).await?;
        Ok(found.into_iter().map(|finding| finding.what).find(|what| what.starts_with("no replica of the controller")))
    };
    assert!(missed().await?.is_some(), "nobody has ever held it");
    let path = "/apis/coordination.k8s.io/v1/namespaces/weft-system/leases";
    for (renewed, says) in [("2020-01-01T00:00:00.000000Z", Some("weft-controller-0_1 last did")), ("now", None)] {
        let now = k8s_openapi::jiff::Timestamp::now().to_string();
        let time = if renewed == "now" { &now } else { renewed };
        rig.send("DELETE", &format!("{path}/weft-controller"), Value::Null).await?;
        let spec = json!({"holderIdentity": "weft-controller-0_1", "renewTime": time});
        let (status, said) =
            rig.send("POST", path, json!({"metadata": {"name": "weft-controller"}, "spec": spec})).await?;
        assert_eq!(status, 201, "{said}");
        let missed = missed().await?;
        assert_eq!(missed.is_some(), says.is_some(), "{missed:?}");
        assert!(missed.unwrap_or_default().contains(says.unwrap_or_default()));
    }
    Ok(())
}

#[tokio::test]
async fn what_the_controller_says_of_routes_and_policies_is_told() -> Tested {
    let rig = Rig::start().await?;
    rig.apply(&Settings::default()).await?;
    let path = "/apis/weft.dev/v1alpha1/namespaces/default/peerauthentications";
    let policy = json!({"apiVersion": "weft.dev/v1alpha1", "kind": "PeerAuthentication", "metadata": {"name": "strict"},
        "spec": {"mtls": {"mode": "Strict"}}});
    let (status, mut policy) = rig.send("POST", path, policy).await?;
    assert_eq!(status, 201, "{policy}");
    let about = async || -> anyhow::Result<Vec<Finding>> {
        let found = after(rig.client(), NAMESPACE).await?;
        Ok(found.into_iter().filter(|f| f.what.contains("default/strict") || f.what.contains("in force")).collect())
    };
    let found = about().await?;
    assert!(found[0].what.contains("has not said what becomes of PeerAuthentication default/strict"), "{found:?}");
    for (status, grade) in [("False", Grade::Wrong), ("True", Grade::Well)] {
        policy["status"] = json!({"conditions": [{"type": "Accepted", "status": status, "reason": "Invalid", "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}]});
        let (code, said) = rig.send("PUT", &format!("{path}/strict/status"), policy).await?;
        assert_eq!(code, 200, "{said}");
        policy = said;
        let found = about().await?;
        assert_eq!((found.len(), found[0].grade), (1, grade), "{found:?}");
    }
    Ok(())
}

/// The shipped objects as the chart renders them elsewhere, with an issuer of another maker and no network policy.
#[tokio::test]
async fn what_an_administrator_left_out_is_not_missing() -> Tested {
    let rig = Rig::start().await?;
    let (status, said) = rig.send("POST", "/api/v1/namespaces", json!({"metadata": {"name": "elsewhere"}})).await?;
    assert_eq!(status, 201, "{said}");
    for mut object in shipped()? {
        object.set_namespace("elsewhere");
        let left_out = object.name() == "weft-issuer" || matches!(object.kind().name, "NetworkPolicy" | "Namespace");
        if object.kind().name == "Deployment" {
            object.value["spec"]["template"]["spec"]["containers"][0]["env"] =
                json!([{"name": "WEFT_ISSUER_ADDRESS", "value": "off"}]);
        }
        if !left_out {
            let path = object.path();
            let (list, _) = path.rsplit_once('/').unwrap();
            let (status, said) = rig.send("POST", list, object.value.clone()).await?;
            assert_eq!(status, 201, "{object}: {said}");
        }
    }
    let lacking = |found: &[Finding]| found.iter().filter(|f| f.what.contains("missing")).cloned().collect::<Vec<_>>();
    let found = lacking(&after(rig.client(), "elsewhere").await?);
    assert!(
        found.len() == 1 && found[0].grade == Grade::Remark && found[0].what.contains("networkpolicy"),
        "{found:?}"
    );
    let by = Installed::By("somebody, in namespace elsewhere".into());
    assert_eq!(installed(rig.client()).await?, by, "`weft install` would make a second one");
    // Looked for where it is not, much of it is missing, the agents among it.
    let found = lacking(&after(rig.client(), NAMESPACE).await?);
    assert!(found.iter().any(|f| f.grade == Grade::Wrong && f.remedy.contains("--namespace")), "{found:?}");
    Ok(())
}
