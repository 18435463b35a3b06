//! The judgement of a cluster that an API server has, by those who may see all of it, a part or nothing.

use serde_json::{Value, json};

use super::super::*;
use super::{client, from, network, pod, server, space, strict, trust_domain};
use crate::install::Settings;
use crate::install::check::Grade::Wrong;
use crate::install::tests::{Rig, Tested};

/// Creates an object where the API server has its kind.
async fn create(rig: &Rig, object: Value) -> anyhow::Result<()> {
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let path = match object["kind"].as_str().unwrap() {
        "Namespace" => "/api/v1/namespaces".to_owned(),
        "Pod" => format!("/api/v1/namespaces/{namespace}/pods"),
        "NetworkPolicy" => format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"),
        "PeerAuthentication" => format!("/apis/weft.dev/v1alpha1/namespaces/{namespace}/peerauthentications"),
        "ClusterRole" => "/apis/rbac.authorization.k8s.io/v1/clusterroles".to_owned(),
        "ClusterRoleBinding" => "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings".to_owned(),
        "Role" => format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles"),
        "RoleBinding" => format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings"),
        other => panic!("{other}"),
    };
    let (status, said) = rig.send("POST", &path, object.clone()).await?;
    anyhow::ensure!(status == 201, "{path}: {status} {said}");
    if object["kind"] == "Pod" {
        let at = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap());
        let mut made = said;
        made["status"] = object["status"].clone();
        let (status, said) = rig.send("PUT", &format!("{at}/status"), made).await?;
        anyhow::ensure!(status == 200, "{at}: {status} {said}");
    }
    Ok(())
}

async fn populate(rig: &Rig) -> anyhow::Result<()> {
    let policy =
        network("demo/web", "server", json!({"ingress": [{"from": from("client"), "ports": [{"port": 8080}]}]}));
    let caller = pod("other/caller", "10.0.2.1", json!({}));
    for object in [space("demo", false), space("other", false), client(), server(), caller, policy] {
        create(rig, object).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_namespace_of_an_api_server_is_judged_and_labelled() -> Tested {
    let rig = Rig::start().await?;
    populate(&rig).await?;
    let domain = trust_domain();
    let report = judge(rig.client(), "demo", &domain).await?;
    assert_eq!((report.joining, report.staying, report.breaks()), (2, 0, 1), "{report:?}");
    assert!(report.findings.iter().any(|f| f.what.contains("not installed")), "{report:?}");
    // With the mesh come its kinds.
    rig.apply(&Settings::default()).await?;
    create(&rig, strict()).await?;
    let report = judge(rig.client(), "demo", &domain).await?;
    let wrong: Vec<_> = report.findings.iter().filter(|f| f.grade == Wrong).map(|f| f.what.as_str()).collect();
    assert!(wrong.len() == 2 && wrong.iter().any(|what| what.contains("NetworkPolicy demo/web")), "{wrong:?}");
    assert!(wrong.iter().any(|what| what.contains("PeerAuthentication demo/p is Strict: demo/client")), "{wrong:?}");
    assert!(!report.findings.iter().any(|f| f.what.contains("not installed")), "{report:?}");
    assert!(!report.labelled);
    label(rig.client(), "demo").await?;
    let (_, now) = rig.send("GET", "/api/v1/namespaces/demo", Value::Null).await?;
    assert_eq!(now["metadata"]["labels"]["weft.dev/mesh"], "enabled");
    assert_eq!(now["metadata"]["labels"]["kubernetes.io/metadata.name"], "demo");
    assert!(judge(rig.client(), "demo", &domain).await?.labelled);
    match judge(rig.client(), "nowhere", &domain).await {
        Err(EnrolError::NoNamespace(name)) => assert_eq!(name, "nowhere"),
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[tokio::test]
async fn who_sees_one_namespace_gets_a_judgement_of_that_and_is_told_so() -> Tested {
    let rig = Rig::of_nobody().await?;
    populate(&rig).await?;
    match judge(rig.client(), "demo", &trust_domain()).await {
        Err(error @ EnrolError::Forbidden { .. }) => assert!(error.to_string().contains("right to list"), "{error}"),
        other => panic!("{other:?}"),
    }
    let rules = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}]);
    let nobody = json!([{"kind": "ServiceAccount", "name": "nobody", "namespace": "default"}]);
    for (scope, mut metadata) in
        [("", json!({"name": "look", "namespace": "demo"})), ("Cluster", json!({"name": "look"}))]
    {
        let rules = if scope.is_empty() {
            rules.clone()
        } else {
            json!([{"apiGroups": [""], "resources": ["namespaces"], "resourceNames": ["demo"], "verbs": ["get"]}])
        };
        let (role, group) = (format!("{scope}Role"), "rbac.authorization.k8s.io");
        create(&rig, json!({"apiVersion": format!("{group}/v1"), "kind": role, "metadata": metadata, "rules": rules}))
            .await?;
        metadata["name"] = json!("look");
        create(
            &rig,
            json!({
                "apiVersion": format!("{group}/v1"), "kind": format!("{role}Binding"), "metadata": metadata,
                "subjects": nobody, "roleRef": {"apiGroup": group, "kind": role, "name": "look"}
            }),
        )
        .await?;
    }
    let report = judge(rig.client(), "demo", &trust_domain()).await?;
    assert_eq!((report.joining, report.breaks()), (2, 1), "{report:?}");
    let hidden = report.findings.iter().find(|f| f.what.contains("you may not list"));
    let hidden = hidden.unwrap_or_else(|| panic!("{report:?}"));
    assert!(["Namespaces", "Pods", "NetworkPolicies"].iter().all(|kind| hidden.what.contains(kind)), "{hidden}");
    match label(rig.client(), "demo").await {
        Err(EnrolError::Forbidden { .. }) => Ok(()),
        other => panic!("{other:?}"),
    }
}
