//! Which requests a route is for at all: by the Service's address and port and by the client's namespace, and by nothing a
//! client says.

use anyhow::Result;
use serde_json::{Value, json};
use weft_tests::lab::NAMESPACE;

use super::{Case, Echo, parent};

/// A rule that leaves the backend as it is and marks the answer.
fn marks(value: &str) -> Value {
    json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "X-Header-Set", "value": value}]}})
}

fn marked(backend: &str, value: &str) -> Value {
    json!([{"filters": [marks(value)], "backendRefs": super::to(backend)}])
}

#[test]
fn mesh_frontend() -> Result<()> {
    let echo = Echo::new("c-frontend")?;
    echo.route(NAMESPACE, &[parent("echo-v2", None)], marked("echo-v2", "set"))?;
    echo.case(&echo.app, &echo.v2, &Case::get("/").by("echo-v2").answered(&[("x-header-set", "set")]))?;
    // A route is its Service's, and no other's that has the same pods; and nobody's who dials a pod.
    echo.case(&echo.app, &echo.v1, &Case::get("/").by("echo-v1").answered(&[("x-header-set", "")]))?;
    let behind =
        echo.app.row(echo.echo.v4(), weft_tests::app::Http::One, weft_tests::app::Ask::get("/"), super::ROW)?;
    anyhow::ensure!(
        behind.iter().all(|reply| reply.status == 200 && reply.header("x-header-set").is_none()),
        "{behind:?}"
    );
    for to in [echo.pods[1].v4(8080)?, echo.pods[1].v6(8080)?] {
        echo.case_at(&echo.app, to, &Case::get("/").by("echo-v2").answered(&[("x-header-set", "")]))?;
    }
    echo.lab.finish()
}

#[test]
fn mesh_frontend_hostname() -> Result<()> {
    let echo = Echo::new("c-hostname")?;
    echo.route(NAMESPACE, &[parent("echo-v2", None)], marked("echo-v2", "set"))?;
    let host = |host| [("host", host)];
    let to_v2 = Case::get("/").with(&host("echo-v1")).by("echo-v2").answered(&[("x-header-set", "set")]);
    echo.case(&echo.app, &echo.v2, &to_v2)?;
    let to_v1 = Case::get("/").with(&host("echo-v2")).by("echo-v1").answered(&[("x-header-set", "")]);
    echo.case(&echo.app, &echo.v1, &to_v1)?;
    echo.lab.finish()
}

#[test]
fn mesh_ports() -> Result<()> {
    let echo = Echo::new("c-ports")?;
    second_ports(&echo)?;
    route(&echo, "explicit-port", parent("echo-v1", Some(80)), marked("echo-v1", "v1"))?;
    route(&echo, "no-port", parent("echo-v2", None), marked("echo-v2", "v2"))?;
    each_port(&echo, [("v1", ""), ("v2", "v2")])?;
    echo.lab.finish()
}

#[test]
fn mesh_ports_by_name() -> Result<()> {
    let echo = Echo::new("c-names")?;
    second_ports(&echo)?;
    let named = |service: &str, port: Option<u16>, name: &str| {
        let mut parent = parent(service, port);
        parent["sectionName"] = json!(name);
        parent
    };
    route(&echo, "named-port", named("echo-v1", None, "tcp"), marked("echo-v1", "v1"))?;
    route(&echo, "both-fit", named("echo-v2", Some(80), "tcp"), marked("echo-v2", "v2"))?;
    // A number and a name of two different ports are those of none.
    route(&echo, "neither-fits", named("echo-v2", Some(8080), "tcp"), marked("echo-v2", "wrong"))?;
    each_port(&echo, [("v1", ""), ("v2", "")])?;
    echo.lab.finish()
}

/// Both Services get a second port, which leads to the same one of their pods.
fn second_ports(echo: &Echo) -> Result<()> {
    for name in ["echo-v1", "echo-v2"] {
        echo.lab.manifests().change("Service", NAMESPACE, name, |service| {
            let ports = service["spec"]["ports"].as_array_mut();
            ports.into_iter().for_each(|ports| {
                ports.push(
                    json!({"name": "alt", "protocol": "TCP", "port": 8080, "targetPort": 8080, "appProtocol": "http"}),
                );
            });
        })?;
        for family in ["ipv4", "ipv6"] {
            echo.lab.manifests().change("EndpointSlice", NAMESPACE, &format!("{name}-{family}"), |slice| {
                slice["ports"] = json!([{"name": "tcp", "protocol": "TCP", "port": 8080}, {"name": "alt", "protocol": "TCP", "port": 8080}]);
            })?;
        }
    }
    Ok(())
}

fn route(echo: &Echo, name: &str, parent: Value, rules: Value) -> Result<()> {
    echo.lab.manifests().put(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"parentRefs": [parent], "rules": rules}
    }))
}

/// Both ports of both Services, each of which is marked: its first port, then its second.
fn each_port(echo: &Echo, [v1, v2]: [(&'static str, &'static str); 2]) -> Result<()> {
    let at = |service: &weft_tests::lab::Service, port: u16| (service.v4().ip(), port).into();
    for (service, port, name, mark) in [
        (&echo.v1, 80, "echo-v1", v1.0),
        (&echo.v1, 8080, "echo-v1", v1.1),
        (&echo.v2, 80, "echo-v2", v2.0),
        (&echo.v2, 8080, "echo-v2", v2.1),
    ] {
        echo.case_at(&echo.app, at(service, port), &Case::get("/").by(name).answered(&[("x-header-set", mark)]))?;
    }
    Ok(())
}

#[test]
fn mesh_consumer_route() -> Result<()> {
    let echo = Echo::new("c-consumer")?;
    let pod = echo.lab.pod(&echo.a, "consumer").namespace("consumers").mesh("enabled").create()?;
    let consumer = pod.app(&echo.lab)?;
    echo.lab.wait_live(&pod)?;
    // No backend of its own: a rule of another namespace may change what it lets through to its parent.
    let backend = json!([{"name": "echo-v1", "namespace": NAMESPACE, "port": 80}]);
    echo.lab.manifests().put(json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
        "metadata": {"name": "consumers", "namespace": NAMESPACE},
        "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "consumers"}],
            "to": [{"group": "", "kind": "Service"}]
        }
    }))?;
    echo.route("consumers", &[parent("echo-v1", None)], json!([{"filters": [marks("set")], "backendRefs": backend}]))?;
    echo.case(&consumer, &echo.v1, &Case::get("/").by("echo-v1").answered(&[("x-header-set", "set")]))?;
    echo.case(&echo.app, &echo.v1, &Case::get("/").by("echo-v1").answered(&[("x-header-set", "")]))?;
    echo.lab.finish()
}
