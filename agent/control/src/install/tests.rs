//! The shipped manifests against the API's types, and an installation's life against the API server double.

use std::time::Duration;

use serde_json::{Value, json};
use weft_apiserver::contract::Target;
use weft_apiserver::{Config, Server};

use super::*;

pub(crate) type Tested = anyhow::Result<()>;

pub(crate) struct Rig {
    _server: Server,
    target: Target,
    client: Client,
}

impl Rig {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let server = Server::start("127.0.0.1:0".parse()?, Config::default()).await?;
        let kubeconfig = server.kubeconfig();
        Self::with(server, &kubeconfig).await
    }

    /// Of a service account that may do nothing.
    pub(crate) async fn of_nobody() -> anyhow::Result<Self> {
        let server = Server::start("127.0.0.1:0".parse()?, Config { rbac: true, ..Config::default() }).await?;
        let admin = server.kubeconfig();
        let target = Target::of(&server)?;
        let path = "/api/v1/namespaces/default/serviceaccounts";
        let json_type = [("content-type", "application/json")];
        let account = json!({"metadata": {"name": "nobody"}}).to_string();
        target.send(http::Method::POST, path, &json_type, Some(account)).await?;
        let request = json!({"spec": {"expirationSeconds": 3600}}).to_string();
        let granted =
            target.send(http::Method::POST, &format!("{path}/nobody/token"), &json_type, Some(request)).await?;
        let token = granted.json()["status"]["token"].as_str().unwrap_or_default().to_owned();
        let mine = admin.lines().find_map(|line| line.trim().strip_prefix("token: ")).unwrap_or_default();
        let kubeconfig = admin.replace(mine, &token);
        Self::with(server, &kubeconfig).await
    }

    async fn with(server: Server, kubeconfig: &str) -> anyhow::Result<Self> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), kubeconfig)?;
        let client = crate::kubernetes::connect(Some(file.path()), "weft-test").await?;
        Ok(Self { target: Target::of(&server)?, _server: server, client })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) async fn apply(&self, settings: &Settings) -> Result<Vec<(String, Outcome)>, InstallError> {
        let mut told = Vec::new();
        apply(&self.client, settings, |object, outcome| told.push((object.to_string(), outcome))).await?;
        Ok(told)
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: Value) -> anyhow::Result<(u16, Value)> {
        let kind = if method == "PATCH" { "application/apply-patch+yaml" } else { "application/json" };
        let body = (!body.is_null()).then(|| body.to_string());
        let reply = self.target.send(method.parse()?, path, &[("content-type", kind)], body).await?;
        Ok((reply.status, reply.json()))
    }
}

#[test]
fn every_shipped_manifest_is_one_the_api_knows_wholly() {
    let objects = shipped().unwrap();
    assert!(objects.iter().any(|object| object.kind().name == "DaemonSet"));
    for object in &objects {
        assert_eq!(strict::problems(&object.value), Vec::<String>::new(), "{object}");
    }
}

#[test]
fn a_field_nobody_knows_is_found_at_every_depth() {
    let objects = shipped().unwrap();
    let daemonset = objects.iter().find(|object| object.kind().name == "DaemonSet").unwrap();
    for (at, path) in [
        ("/spec/template/spec", ".spec.template.spec.wrong"),
        ("/spec/template/spec/containers/0/securityContext", ".spec.template.spec.containers[0].securityContext.wrong"),
        ("/spec/updateStrategy/rollingUpdate", ".spec.updateStrategy.rollingUpdate.wrong"),
    ] {
        let mut broken = daemonset.value.clone();
        broken.pointer_mut(at).unwrap()["wrong"] = json!(1);
        assert_eq!(strict::problems(&broken), [format!("{path} is no field of the API")]);
    }
    let mut broken = daemonset.value.clone();
    broken["spec"]["minReadySeconds"] = json!("soon");
    assert_eq!(strict::problems(&broken).len(), 1);
}

#[test]
fn the_charts_definitions_are_those_of_this_release() {
    let shipped = include_str!("../../../../deploy/chart/weft/files/crds.yaml");
    let made = crate::crd::definitions_yaml().unwrap();
    assert_eq!(shipped.trim(), made.trim_start_matches("---\n").trim(), "run `cargo xtask render`");
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_installing_twice_changes_nothing_more() -> Tested {
    let rig = Rig::start().await?;
    let dry = rig.apply(&Settings { dry_run: true, ..Settings::default() }).await?;
    assert!(dry.iter().all(|(_, outcome)| *outcome == Outcome::Created), "{dry:?}");
    assert_eq!(installed(&rig.client).await?, Installed::No);
    let (status, _) = rig.send("GET", "/api/v1/namespaces/weft-system", Value::Null).await?;
    assert_eq!(status, 404);
    let first = rig.apply(&Settings::default()).await?;
    assert_eq!(first, dry, "what was said is what was done");
    assert_eq!(installed(&rig.client).await?, Installed::Plainly);
    for object in shipped()? {
        let (_, found) = rig.send("GET", &object.path(), Value::Null).await?;
        let manager = &found["metadata"]["managedFields"][0];
        assert_eq!((&manager["manager"], &manager["operation"]), (&json!("weft"), &json!("Apply")), "{object}");
    }
    let again = rig.apply(&Settings::default()).await?;
    assert!(again.iter().all(|(_, outcome)| *outcome == Outcome::Unchanged), "{again:?}");
    let image = Some("example.org/weft:2".to_owned());
    let upgraded = rig.apply(&Settings { image, ..Settings::default() }).await?;
    let changed: Vec<_> = upgraded.iter().filter(|(_, outcome)| *outcome == Outcome::Changed).collect();
    assert!(changed.iter().any(|(name, _)| name == "daemonset.apps/weft-agent"), "{upgraded:?}");
    assert!(changed.iter().all(|(name, _)| name.contains(".apps/")), "{upgraded:?}");
    Ok(())
}

#[tokio::test]
async fn fields_of_another_manager_are_taken_only_when_told_to() -> Tested {
    let rig = Rig::start().await?;
    rig.apply(&Settings::default()).await?;
    let path = "/apis/apps/v1/namespaces/weft-system/daemonsets/weft-agent";
    let theirs = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "weft-agent"},
        "spec": {"template": {"spec": {"containers": [{"name": "agent", "image": "theirs:1"}]}}}
    });
    let (status, said) = rig.send("PATCH", &format!("{path}?fieldManager=them&force=true"), theirs).await?;
    assert_eq!(status, 200, "{said}");
    match rig.apply(&Settings::default()).await {
        Err(InstallError::Conflict { message, .. }) => assert!(message.contains("them"), "{message}"),
        other => panic!("{other:?}"),
    }
    rig.apply(&Settings { force: true, ..Settings::default() }).await?;
    let (_, now) = rig.send("GET", path, Value::Null).await?;
    assert_ne!(now["spec"]["template"]["spec"]["containers"][0]["image"], "theirs:1");
    Ok(())
}

#[tokio::test]
async fn agents_go_before_what_they_need() -> Tested {
    let rig = Rig::start().await?;
    rig.apply(&Settings::default()).await?;
    let labels = json!({"app.kubernetes.io/name": "weft", "app.kubernetes.io/component": "agent"});
    let pod = json!({
        "metadata": {"name": "weft-agent-x", "labels": labels},
        "spec": {"containers": [{"name": "agent", "image": "i"}], "serviceAccountName": "weft-agent"}
    });
    let (status, said) = rig.send("POST", "/api/v1/namespaces/weft-system/pods", pod).await?;
    assert_eq!(status, 201, "{said}");
    let space = json!({"metadata": {"name": "demo", "labels": {"weft.dev/mesh": "enabled"}}});
    rig.send("POST", "/api/v1/namespaces", space).await?;
    let dry = uninstall(&rig.client, (true, true, Duration::ZERO), |_, _| {}).await?;
    assert_eq!(dry.labelled, ["demo"]);
    assert_eq!(installed(&rig.client).await?, Installed::Plainly, "a dry run deletes nothing");
    // What kubelet does once the DaemonSet is gone, and what the agent still finds then.
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/weft-agent";
    let ending = async {
        while installed(&rig.client).await? != Installed::No {
            tokio::task::yield_now().await;
        }
        let found = rig.send("GET", role, Value::Null).await?.0;
        let now = json!({"gracePeriodSeconds": 0});
        rig.send("DELETE", "/api/v1/namespaces/weft-system/pods/weft-agent-x", now).await?;
        anyhow::Ok(found)
    };
    let mut told = Vec::new();
    let removing = uninstall(&rig.client, (false, false, Duration::from_secs(30)), |object, _| {
        told.push(object.to_string());
    });
    let (left, found) = tokio::join!(removing, ending);
    let (left, found) = (left?, found?);
    assert_eq!(found, 200, "the agents' role went before they did");
    assert_eq!(told.first().map(String::as_str), Some("daemonset.apps/weft-agent"));
    assert_eq!(told.last().map(String::as_str), Some("namespace/weft-system"));
    assert!(left.agents.is_empty() && left.marked.is_empty(), "{left:?}");
    assert_eq!((left.labelled.len(), left.kinds.len()), (1, 4), "{left:?}");
    assert_eq!(rig.send("GET", role, Value::Null).await?.0, 404);
    Ok(())
}

#[tokio::test]
async fn an_agent_that_stays_is_named() -> Tested {
    let rig = Rig::start().await?;
    rig.apply(&Settings::default()).await?;
    let labels = json!({"app.kubernetes.io/name": "weft", "app.kubernetes.io/component": "agent"});
    let pod = json!({
        "metadata": {"name": "stuck", "labels": labels, "finalizers": ["example.org/stuck"]},
        "spec": {"containers": [{"name": "agent", "image": "i"}], "serviceAccountName": "weft-agent"}
    });
    rig.send("POST", "/api/v1/namespaces/weft-system/pods", pod).await?;
    let left = uninstall(&rig.client, (false, true, Duration::from_millis(10)), |_, _| {}).await?;
    assert_eq!(left.agents, ["stuck"]);
    assert!(left.kinds.is_empty());
    Ok(())
}
