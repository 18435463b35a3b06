//! GRPCRoutes.

use anyhow::Result;
use serde_json::{Value, json};
use weft_tests::app::Ask;
use weft_tests::lab::NAMESPACE;

use super::{Case, Echo, parent, to};

#[test]
fn mesh_grpc_route_request_header_modifier() -> Result<()> {
    let echo = Echo::speaking("c-grpchead", "grpc")?;
    let field = |name: &str, value: &str| json!({"name": name, "value": value});
    let rule = |case: &str, edits: Value, backend: &str| {
        json!({
            "matches": [{"method": {"service": "lab.Echo", "method": "Say"}, "headers": [field("x-test-case", case)]}],
            "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": edits}],
            "backendRefs": to(backend)
        })
    };
    echo.put(
        "GRPCRoute",
        NAMESPACE,
        &[parent("echo", Some(80))],
        json!([
            rule("set", json!({"set": [field("X-Header-Set", "set-overwrites-values")]}), "echo-v1"),
            rule("add", json!({"add": [field("X-Header-Add", "add-appends-values")]}), "echo-v1"),
            rule("remove", json!({"remove": ["X-Header-Remove"]}), "echo-v1"),
            rule(
                "multi",
                json!({
                    "set": [field("X-Header-Set-1", "header-set-1"), field("X-Header-Set-2", "header-set-2")],
                    "add": [field("X-Header-Add-1", "header-add-1"), field("X-Header-Add-2", "header-add-2")],
                    "remove": ["X-Header-Remove-1", "X-Header-Remove-2"]
                }),
                "echo-v2"
            ),
        ]),
    )?;
    let call = |case: &str| Case { grpc: true, ..Case::of(Ask::grpc("hello")).with(&[("x-test-case", case)]) };
    let other = ("some-other-header", "this-header-should-be-set");
    echo.play(&[
        call("set")
            .with(&[other, ("x-header-set", "this-value-should-be-overwritten")])
            .by("echo-v1")
            .seen_at("/lab.Echo/Say")
            .sees(&[("x-test-case", "set"), other, ("x-header-set", "set-overwrites-values")]),
        call("add")
            .with(&[("x-header-add", "this-value-should-be-appended")])
            .by("echo-v1")
            .sees(&[("x-header-add", "this-value-should-be-appended,add-appends-values")]),
        call("remove")
            .with(&[("x-header-remove", "this-should-be-removed")])
            .by("echo-v1")
            .sees(&[("x-test-case", "remove"), ("x-header-remove", "")]),
        call("multi")
            .with(&[
                ("x-header-set-2", "set-header-2"),
                ("x-header-add-2", "add-header-2"),
                ("x-header-remove-2", "should-be-removed-2"),
            ])
            .by("echo-v2")
            .sees(&[
                ("x-header-set-1", "header-set-1"),
                ("x-header-set-2", "header-set-2"),
                ("x-header-add-1", "header-add-1"),
                ("x-header-add-2", "add-header-2,header-add-2"),
                ("x-header-remove-1", ""),
                ("x-header-remove-2", ""),
            ]),
    ])?;
    // No rule: said as gRPC says it.
    let nobody = echo.app.fetch(echo.echo.v4(), weft_tests::app::Http::Two, call("none").ask)?;
    anyhow::ensure!((nobody.status, nobody.header("grpc-status")) == (200, Some("12")), "{nobody:?}");
    echo.lab.finish()
}
