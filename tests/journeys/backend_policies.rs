//! XBackendTrafficPolicy in a cluster: nothing of it until its definition is there, and from then on its status says what the
//! agents do.

use anyhow::{Context, Result, bail, ensure};
use gateway_api::apis::experimental::xbackendtrafficpolicies::XBackendTrafficPolicy;
use kube::CustomResourceExt;
use serde_json::{Value, json};
use weft_tests::app::{Ask, Behaviour, Http};
use weft_tests::lab::{NAMESPACE, Service};
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere, running_agent};

/// Time in which a kind is noticed that was not there: looked for again after a minute at the most.
const NOTICED: std::time::Duration = std::time::Duration::from_secs(90);

fn put(mesh: &Mesh, name: &str, targets: &[&str]) -> Result<()> {
    let targets: Vec<_> = targets.iter().map(|name| json!({"group": "", "kind": "Service", "name": name})).collect();
    mesh.lab.manifests().put(json!({
        "apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XBackendTrafficPolicy",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"targetRefs": targets, "sessionPersistence": {"sessionName": name}}
    }))
}

/// Waits until the controller says this of a policy: `Service=Status Reason` for each of its targets.
fn becomes(mesh: &Mesh, policy: &str, wanted: &[&str]) -> Result<()> {
    let path =
        format!("/apis/gateway.networking.x-k8s.io/v1alpha1/namespaces/{NAMESPACE}/xbackendtrafficpolicies/{policy}");
    wait::until(&format!("the status of {policy}"), NOTICED, || {
        let object = mesh.api()?.get(&path)?;
        let ancestors = object["status"]["ancestors"].as_array().cloned().unwrap_or_default();
        let said = ancestors.iter().map(|ancestor| {
            ensure!(ancestor["controllerName"] == "weft.dev/controller", "{ancestor}");
            let condition = &ancestor["conditions"][0];
            ensure!(condition["type"] == "Accepted", "{condition}");
            ensure!(condition["observedGeneration"] == object["metadata"]["generation"], "{condition}");
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let service = text(&ancestor["ancestorRef"]["name"]);
            Ok(format!("{service}={} {}", text(&condition["status"]), text(&condition["reason"])))
        });
        let said = said.collect::<Result<Vec<_>>>()?;
        if said == wanted { Ok(()) } else { bail!("{said:?}, not {wanted:?}") }
    })
}

/// Waits until clients of `web` are given a cookie of this name, or none.
fn gives(mesh: &Mesh, web: &Service, cookie: Option<&str>) -> Result<()> {
    wait::until(&format!("the cookie {cookie:?}"), NOTICED, || {
        let reply = mesh.steered(1, || mesh.app.fetch(web.v4(), Http::One, Ask::get("/")))?;
        ensure!(reply.status == 200, "{reply:?}");
        let given = reply.header("set-cookie").and_then(|given| given.split('=').next());
        if given == cookie { Ok(()) } else { bail!("{given:?}") }
    })
}

#[test]
fn backend_traffic_policy_status_is_written() -> Result<()> {
    let mesh = Mesh::serving_in_cluster("backendstatus")?;
    let pods = ["w1", "w2"].map(|name| mesh.lab.pod(&mesh.b, name).ports(&[8080]).create());
    let pods = pods.into_iter().collect::<Result<Vec<_>>>()?;
    let apps = pods.iter().map(|pod| pod.app(&mesh.lab)).collect::<Result<Vec<_>>>()?;
    for (pod, app) in pods.iter().zip(&apps) {
        app.listen(anywhere(8080), pod.name(), Behaviour::Http)?;
    }
    let web = mesh.lab.service("web").speaks("http").pods(&pods.iter().collect::<Vec<_>>()).create()?;
    pods.iter().try_for_each(|pod| mesh.lab.wait_live(pod))?;
    gives(&mesh, &web, None)?;
    // The kind is not there: the agents say so where they are asked, and nowhere else.
    let agent = running_agent(&mesh.lab, &mesh.a)?;
    let status = agent.ask("/status")?;
    let watches = status["kubernetes"]["watches"].as_array().context("no watches")?;
    let ours = watches.iter().find(|watch| watch["kind"] == "XBackendTrafficPolicy").context("not looked for")?;
    ensure!(ours["state"] == "absent" && status["problems"] == json!([]), "{status}");
    for log in [agent.process().log(), mesh.lab.leader()?.process().log()] {
        ensure!(!log.to_lowercase().contains("xbackendtrafficpolic"), "{log}");
    }
    mesh.api()?.define(&serde_json::to_value(XBackendTrafficPolicy::crd())?)?;
    put(&mesh, "first", &["web", "none"])?;
    becomes(&mesh, "first", &["web=True Accepted", "none=False TargetNotFound"])?;
    gives(&mesh, &web, Some("first"))?;
    // Younger, or of greater name if it is of the same second.
    put(&mesh, "second", &["web"])?;
    becomes(&mesh, "second", &["web=False Conflicted"])?;
    gives(&mesh, &web, Some("first"))?;
    let affinity = |which: &str| {
        let set = |service: &mut Value| service["spec"]["sessionAffinity"] = which.into();
        mesh.lab.manifests().change("Service", NAMESPACE, "web", set)
    };
    affinity("ClientIP")?;
    becomes(&mesh, "first", &["web=False IncompatibleSessionAffinity", "none=False TargetNotFound"])?;
    gives(&mesh, &web, None)?;
    affinity("None")?;
    becomes(&mesh, "first", &["web=True Accepted", "none=False TargetNotFound"])?;
    mesh.lab.manifests().remove("XBackendTrafficPolicy", NAMESPACE, "first");
    becomes(&mesh, "second", &["web=True Accepted"])?;
    gives(&mesh, &web, Some("second"))?;
    mesh.lab.finish()
}
