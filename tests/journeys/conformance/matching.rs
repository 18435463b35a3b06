//! Which rule takes a request.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{Case, Echo, header, prefix, to};

fn all(matches: &[Value]) -> Value {
    let mut all = json!({});
    for (key, value) in matches.iter().filter_map(Value::as_object).flatten() {
        all[key] = value.clone();
    }
    all
}

#[test]
fn mesh_basic() -> Result<()> {
    let echo = Echo::new("c-basic")?;
    // No route: the Service is what it is.
    for (to, name) in [(&echo.v1, "echo-v1"), (&echo.v2, "echo-v2")] {
        echo.case(&echo.app, to, &Case::get("/").by(name).seen_at("/"))?;
    }
    echo.lab.finish()
}

#[test]
fn mesh_traffic_split() -> Result<()> {
    let echo = Echo::new("c-split")?;
    echo.rules(json!([
        {"matches": [{"path": {"type": "Exact", "value": "/v1"}}], "backendRefs": to("echo-v1")},
        {"matches": [{"path": {"type": "Exact", "value": "/v2"}}], "backendRefs": to("echo-v2")},
    ]))?;
    echo.play(&[
        Case::get("/v1").by("echo-v1").seen_at("/v1"),
        Case::get("/v2").by("echo-v2").seen_at("/v2"),
        Case::get("/v3").refused(404).answered(&[("weft-error", "no_route")]),
        Case::get("/v1/more").refused(404),
    ])?;
    echo.lab.finish()
}

#[test]
fn mesh_http_route_simple_same_namespace() -> Result<()> {
    let echo = Echo::new("c-simple")?;
    echo.rules(json!([{"backendRefs": to("echo-v1")}]))?;
    let before = echo.seen()?;
    echo.play(&[Case::get("/").by("echo-v1"), Case::get("/any?thing=1").by("echo-v1").seen_at("/any?thing=1")])?;
    let after = echo.seen()?;
    ensure!(after[0] - before[0] >= 200, "{before:?} {after:?}");
    echo.lab.finish()
}

#[test]
fn mesh_http_route_matching() -> Result<()> {
    let echo = Echo::new("c-matching")?;
    echo.rules(json!([
        {"matches": [prefix("/"), header("version", "one")], "backendRefs": to("echo-v1")},
        {"matches": [prefix("/v2"), header("version", "two")], "backendRefs": to("echo-v2")},
    ]))?;
    echo.play(&[
        Case::get("/").by("echo-v1"),
        Case::get("/example").by("echo-v1").seen_at("/example"),
        Case::get("/").with(&[("Version", "one")]).by("echo-v1"),
        Case::get("/v2").by("echo-v2"),
        Case::get("/v2/example").by("echo-v2").seen_at("/v2/example"),
        Case::get("/").with(&[("Version", "two")]).by("echo-v2").sees(&[("version", "two")]),
        Case::get("/v2/").by("echo-v2"),
        // No segment of the path.
        Case::get("/v2example").by("echo-v1"),
        Case::get("/foo/v2/example").by("echo-v1"),
        // Beyond the suite: a value is compared whole, a path before its query.
        Case::get("/").with(&[("Version", "twofold")]).by("echo-v1"),
        Case::get("/v2?a=/v1").by("echo-v2").seen_at("/v2?a=/v1"),
    ])?;
    echo.lab.finish()
}

#[test]
fn mesh_http_route_query_param_matching() -> Result<()> {
    let echo = Echo::new("c-query")?;
    let animal = |value: &str| json!({"queryParams": [{"name": "animal", "value": value}]});
    echo.rules(json!([
        {"matches": [animal("whale")], "backendRefs": to("echo-v1")},
        {"matches": [animal("dolphin")], "backendRefs": to("echo-v2")},
        {"matches": [all(&[prefix("/path1"), animal("whale")])], "backendRefs": to("echo-v1")},
        {"matches": [all(&[header("version", "one"), animal("whale")])], "backendRefs": to("echo-v2")},
        {
            "matches": [all(&[prefix("/path3"), animal("shark")]), all(&[prefix("/path4"), animal("kraken"), header("version", "three")])],
            "backendRefs": to("echo-v1")
        },
        {"matches": [all(&[prefix("/path5"), animal("hydra")])], "backendRefs": to("echo-v1")},
        {"matches": [all(&[header("version", "four"), animal("hydra")])], "backendRefs": to("echo-v2")},
    ]))?;
    let version = |value| [("version", value)];
    echo.play(&[
        Case::get("/?animal=whale").by("echo-v1").seen_at("/?animal=whale"),
        Case::get("/?animal=dolphin").by("echo-v2"),
        Case::get("/?animal=whale&otherparam=irrelevant").by("echo-v1"),
        Case::get("/?animal=dolphin&color=yellow").by("echo-v2"),
        Case::get("/?color=blue").refused(404),
        Case::get("/?animal=dog").refused(404),
        Case::get("/?animal=whaledolphin").refused(404),
        Case::get("/").refused(404),
        // With a path, with a field.
        Case::get("/path1?animal=whale").by("echo-v1"),
        Case::get("/?animal=whale").with(&version("one")).by("echo-v2"),
        // Either, and not half of one.
        Case::get("/path3?animal=shark").by("echo-v1"),
        Case::get("/path4?animal=kraken").with(&version("three")).by("echo-v1"),
        Case::get("/?animal=shark").refused(404),
        Case::get("/path4?animal=kraken").refused(404),
        // Of two that fit, the longer path comes first.
        Case::get("/path5?animal=hydra").with(&version("four")).by("echo-v1"),
        Case::get("/?animal=hydra").with(&version("four")).by("echo-v2"),
    ])?;
    echo.lab.finish()
}

#[test]
fn mesh_http_route_named_rule() -> Result<()> {
    let echo = Echo::new("c-named")?;
    echo.rules(json!([
        {"name": "named-rule", "matches": [prefix("/named")], "backendRefs": to("echo-v1")},
        {"matches": [prefix("/unnamed")], "backendRefs": to("echo-v2")},
    ]))?;
    echo.play(&[
        Case::get("/named").by("echo-v1"),
        Case::get("/unnamed").by("echo-v2"),
        Case::get("/neither").refused(404),
    ])?;
    echo.lab.finish()
}
