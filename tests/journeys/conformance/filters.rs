//! What rules make of requests, as the backend saw them, and of what browsers ask.

use anyhow::Result;
use serde_json::{Value, json};
use weft_tests::app::Ask;

use super::{Case, Echo, prefix, to};

fn modifier(edits: Value) -> Value {
    json!({"type": "RequestHeaderModifier", "requestHeaderModifier": edits})
}

fn field(name: &str, value: &str) -> Value {
    json!({"name": name, "value": value})
}

/// The suite's edits, by the paths they are for.
fn edits() -> [(&'static str, Value); 5] {
    [
        ("/set", json!({"set": [field("X-Header-Set", "set-overwrites-values")]})),
        ("/add", json!({"add": [field("X-Header-Add", "add-appends-values")]})),
        ("/remove", json!({"remove": ["X-Header-Remove"]})),
        (
            "/multiple",
            json!({
                "set": [field("X-Header-Set-1", "header-set-1"), field("X-Header-Set-2", "header-set-2")],
                "add": [field("X-Header-Add-1", "header-add-1"), field("X-Header-Add-2", "header-add-2"), field("X-Header-Add-3", "header-add-3")],
                "remove": ["X-Header-Remove-1", "X-Header-Remove-2"]
            }),
        ),
        (
            "/case-insensitivity",
            json!({
                "set": [field("X-Header-Set", "header-set")], "add": [field("X-Header-Add", "header-add")],
                "remove": ["X-Header-Remove"]
            }),
        ),
    ]
}

fn cases() -> Vec<Case> {
    let other = ("some-other-header", "val");
    let set = ("x-header-set", "set-overwrites-values");
    vec![
        Case::get("/set").with(&[other]).by("echo-v1").seen_at("/set").sees(&[other, set]),
        Case::get("/set").with(&[other, ("x-header-set", "some-other-value")]).by("echo-v1").sees(&[other, set]),
        Case::get("/add").with(&[other]).by("echo-v1").sees(&[other, ("x-header-add", "add-appends-values")]),
        Case::get("/add")
            .with(&[other, ("x-header-add", "some-other-value")])
            .by("echo-v1")
            .sees(&[other, ("x-header-add", "some-other-value,add-appends-values")]),
        Case::get("/remove").with(&[("x-header-remove", "val")]).by("echo-v1").sees(&[("x-header-remove", "")]),
        Case::get("/multiple")
            .with(&[
                ("x-header-set-2", "set-val-2"),
                ("x-header-add-2", "add-val-2"),
                ("x-header-remove-2", "remove-val-2"),
                ("another-header", "another-header-val"),
            ])
            .by("echo-v1")
            .sees(&[
                ("x-header-set-1", "header-set-1"),
                ("x-header-set-2", "header-set-2"),
                ("x-header-add-1", "header-add-1"),
                ("x-header-add-2", "add-val-2,header-add-2"),
                ("x-header-add-3", "header-add-3"),
                ("x-header-remove-1", ""),
                ("x-header-remove-2", ""),
                ("another-header", "another-header-val"),
            ]),
        Case::get("/case-insensitivity")
            .with(&[
                ("x-header-set", "original-val-set"),
                ("x-header-add", "original-val-add"),
                ("x-header-remove", "original-val-remove"),
                ("another-header", "another-header-val"),
            ])
            .by("echo-v1")
            .sees(&[
                ("x-header-set", "header-set"),
                ("x-header-add", "original-val-add,header-add"),
                ("x-header-remove", ""),
                ("another-header", "another-header-val"),
            ]),
    ]
}

#[test]
fn mesh_http_route_request_header_modifier() -> Result<()> {
    let echo = Echo::new("c-reqhead")?;
    let rule =
        |(path, edits)| json!({"matches": [prefix(path)], "filters": [modifier(edits)], "backendRefs": to("echo-v1")});
    echo.rules(edits().into_iter().map(rule).collect())?;
    echo.play(&cases())?;
    echo.lab.finish()
}

#[test]
fn mesh_http_route_backend_request_header_modifier() -> Result<()> {
    let echo = Echo::new("c-backhead")?;
    let rule = |(path, edits)| json!({"matches": [prefix(path)], "backendRefs": [{"name": "echo-v1", "port": 80, "filters": [modifier(edits)]}]});
    echo.rules(edits().into_iter().map(rule).collect())?;
    echo.play(&cases())?;
    echo.lab.finish()
}

#[test]
fn mesh_http_route_rewrite_path() -> Result<()> {
    let echo = Echo::new("c-rewrite")?;
    let rewrite = |kind: &str, path: &str| {
        let name = if kind == "ReplaceFullPath" { "replaceFullPath" } else { "replacePrefixMatch" };
        json!({"type": "URLRewrite", "urlRewrite": {"path": {"type": kind, name: path}}})
    };
    let modify = modifier(json!({
        "set": [field("X-Header-Set", "set-overwrites-values")],
        "add": [field("X-Header-Add", "header-val-1"), field("X-Header-Add-Append", "header-val-2")],
        "remove": ["X-Header-Remove"]
    }));
    let rule = |path: &str, filters: Value| json!({"matches": [prefix(path)], "filters": filters, "backendRefs": to("echo-v1")});
    echo.rules(json!([
        rule("/prefix/one", json!([rewrite("ReplacePrefixMatch", "/one")])),
        rule("/strip-prefix", json!([rewrite("ReplacePrefixMatch", "/")])),
        rule("/full/one", json!([rewrite("ReplaceFullPath", "/one")])),
        rule("/full/rewrite-path-and-modify-headers", json!([rewrite("ReplaceFullPath", "/test"), modify])),
        rule("/prefix/rewrite-path-and-modify-headers", json!([rewrite("ReplacePrefixMatch", "/prefix"), modify])),
    ]))?;
    let sent =
        [("x-header-remove", "remove-val"), ("x-header-add-append", "append-val-1"), ("x-header-set", "set-val")];
    let seen = [
        ("x-header-add", "header-val-1"),
        ("x-header-add-append", "append-val-1,header-val-2"),
        ("x-header-set", "set-overwrites-values"),
        ("x-header-remove", ""),
    ];
    echo.play(&[
        Case::get("/prefix/one/two").by("echo-v1").seen_at("/one/two"),
        Case::get("/prefix/one/two?a=b").by("echo-v1").seen_at("/one/two?a=b"),
        Case::get("/strip-prefix/three").by("echo-v1").seen_at("/three"),
        Case::get("/strip-prefix").by("echo-v1").seen_at("/"),
        Case::get("/strip-prefix/").by("echo-v1").seen_at("/"),
        Case::get("/full/one/two").by("echo-v1").seen_at("/one"),
        Case::get("/full/rewrite-path-and-modify-headers/test").with(&sent).by("echo-v1").seen_at("/test").sees(&seen),
        Case::get("/prefix/rewrite-path-and-modify-headers/one")
            .with(&sent)
            .by("echo-v1")
            .seen_at("/prefix/one")
            .sees(&seen),
    ])?;
    echo.lab.finish()
}

#[test]
fn http_route_cors() -> Result<()> {
    let echo = Echo::new("c-cors")?;
    let cors = |settings: Value| json!([{"type": "CORS", "cors": settings}]);
    echo.rules(json!([
        {
            "matches": [prefix("/listed")], "backendRefs": to("echo-v1"),
            "filters": cors(json!({
                "allowOrigins": ["https://www.foo.com", "https://*.bar.com"], "allowMethods": ["GET", "PUT"],
                "allowHeaders": ["x-custom", "x-other"], "exposeHeaders": ["x-name"], "maxAge": 3600, "allowCredentials": true
            }))
        },
        {"matches": [prefix("/any")], "backendRefs": to("echo-v1"), "filters": cors(json!({"allowOrigins": ["*"], "allowMethods": ["*"]}))},
        {"backendRefs": to("echo-v2")},
    ]))?;
    let before = echo.seen()?;
    let preflight = |path: &str, origin: &str| {
        let asks = [
            ("origin", origin),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-custom"),
        ];
        Case::of(Ask::get(path).method("OPTIONS").with(&asks)).refused(204)
    };
    let permitted = |origin| {
        [
            ("access-control-allow-origin", origin),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "GET, PUT"),
            ("access-control-allow-headers", "x-custom, x-other"),
            ("access-control-max-age", "3600"),
        ]
    };
    let nothing = [
        ("access-control-allow-origin", ""),
        ("access-control-allow-methods", ""),
        ("access-control-allow-credentials", ""),
    ];
    let (foo, sub) = ("https://www.foo.com", "https://deep.sub.bar.com");
    let preflights = [
        preflight("/listed", foo).answered(&permitted(foo)),
        preflight("/listed", sub).answered(&permitted(sub)),
        preflight("/listed", "https://bar.com").answered(&nothing),
        preflight("/listed", "http://www.foo.com").answered(&nothing),
        preflight("/listed", "https://www.foo.com.evil.example").answered(&nothing),
        preflight("/any", "https://whoever.example")
            .answered(&[("access-control-allow-origin", "*"), ("access-control-allow-methods", "*")]),
    ];
    echo.play(&preflights[..1])?;
    let settled = echo.seen()?;
    echo.play(&preflights)?;
    anyhow::ensure!(echo.seen()? == settled && settled[0] - before[0] < 200, "preflights reach the backend");
    // What is no preflight goes on, and its response says who may read it.
    let origin = |origin| [("origin", origin)];
    echo.play(&[
        Case::get("/listed").with(&origin(foo)).by("echo-v1").sees(&origin(foo)).answered(&[
            ("access-control-allow-origin", foo),
            ("access-control-expose-headers", "x-name"),
            ("vary", "origin"),
        ]),
        Case::get("/listed").with(&origin("https://evil.example")).by("echo-v1").answered(&nothing),
        Case::get("/listed").by("echo-v1").answered(&nothing),
        Case::of(Ask::get("/listed").method("OPTIONS")).with(&origin(foo)).by("echo-v1"),
        Case::get("/elsewhere").with(&origin(foo)).by("echo-v2").answered(&nothing),
    ])?;
    echo.lab.finish()
}
