//! How requests are shared out.

use anyhow::Result;
use serde_json::{Value, json};
use weft_tests::app::{Ask, Http};

use super::{Case, Echo, parent};
use weft_tests::lab::NAMESPACE;

/// 70 and 30, and none for who does not exist.
fn backends() -> Value {
    json!([
        {"name": "echo-v1", "port": 80, "weight": 70}, {"name": "echo-v2", "port": 80, "weight": 30},
        {"name": "echo-v3", "port": 80, "weight": 0},
    ])
}

#[test]
fn mesh_http_route_weight() -> Result<()> {
    let echo = Echo::new("c-weight")?;
    echo.rules(json!([
        {"matches": [super::prefix("/there")], "backendRefs": super::to("echo-v2")},
        {"backendRefs": backends()},
    ]))?;
    echo.play(&[Case::get("/there").by("echo-v2")])?;
    for http in [Http::One, Http::Two] {
        echo.shares(http, &Ask::get("/"), &[("echo-v1", 0.7), ("echo-v2", 0.3)])?;
    }
    echo.lab.finish()
}

#[test]
fn mesh_grpc_route_weight() -> Result<()> {
    let echo = Echo::speaking("c-grpcweight", "grpc")?;
    let method = |method: &str| json!({"method": {"service": "lab.Echo", "method": method}});
    echo.put(
        "GRPCRoute",
        NAMESPACE,
        &[parent("echo", Some(80))],
        json!([
            {"matches": [method("There")], "backendRefs": super::to("echo-v2")},
            {"matches": [method("Say")], "backendRefs": backends()},
        ]),
    )?;
    let there = Ask { target: "/lab.Echo/There".into(), ..Ask::grpc("hello") };
    echo.play(&[Case { grpc: true, ..Case::of(there) }.by("echo-v2")])?;
    echo.shares(Http::Two, &Ask::grpc("hello"), &[("echo-v1", 0.7), ("echo-v2", 0.3)])?;
    echo.lab.finish()
}
