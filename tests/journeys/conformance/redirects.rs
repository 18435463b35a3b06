//! Requests that are sent elsewhere: the status, and where to, whole.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{Case, Echo, prefix};

/// A rule that sends what begins with `path` elsewhere.
fn redirect(path: &str, to: Value) -> Value {
    json!({"matches": [prefix(path)], "filters": [{"type": "RequestRedirect", "requestRedirect": to}]})
}

fn onto(kind: &str, path: &str) -> Value {
    let field = if kind == "ReplaceFullPath" { "replaceFullPath" } else { "replacePrefixMatch" };
    json!({"type": kind, field: path})
}

/// Plays cases of redirects; each is for the host `echo`. Nothing of it reaches a backend.
fn play(name: &str, rules: Vec<Value>, cases: Vec<Case>) -> Result<Echo> {
    let echo = Echo::new(name)?;
    echo.rules(rules.into())?;
    let cases: Vec<_> = cases.into_iter().map(|case| case.with(&[("host", "echo")])).collect();
    // Until the route is there the Service answers.
    echo.play(&cases[..1])?;
    let before = echo.seen()?;
    echo.play(&cases)?;
    let after = echo.seen()?;
    ensure!(after == before, "a backend has seen some: {before:?}, {after:?}");
    Ok(echo)
}

#[test]
fn mesh_http_route_redirect_host_and_status() -> Result<()> {
    play(
        "c-rehost",
        vec![
            redirect("/hostname-redirect", json!({"hostname": "example.org"})),
            redirect("/host-and-status", json!({"hostname": "example.org", "statusCode": 301})),
        ],
        vec![
            Case::get("/hostname-redirect").moved(302, "http://example.org/hostname-redirect"),
            Case::get("/hostname-redirect/deeper?a=b").moved(302, "http://example.org/hostname-redirect/deeper?a=b"),
            Case::get("/host-and-status").moved(301, "http://example.org/host-and-status"),
        ],
    )?
    .lab
    .finish()
}

#[test]
fn mesh_http_route_redirect_path() -> Result<()> {
    let (onto_prefix, onto_full) =
        (onto("ReplacePrefixMatch", "/replacement-prefix"), onto("ReplaceFullPath", "/replacement-full"));
    play(
        "c-repath",
        vec![
            redirect("/original-prefix", json!({"path": onto_prefix})),
            redirect("/full", json!({"path": onto("ReplaceFullPath", "/full-path-replacement")})),
            redirect("/path-and-host", json!({"hostname": "example.org", "path": onto_prefix})),
            redirect("/path-and-status", json!({"path": onto_prefix, "statusCode": 301})),
            redirect("/path-and-temporary", json!({"path": onto_prefix, "statusCode": 307})),
            redirect("/path-and-permanent", json!({"path": onto_prefix, "statusCode": 308})),
            redirect("/full-path-and-host", json!({"hostname": "example.org", "path": onto_full})),
            redirect("/full-path-and-status", json!({"path": onto_full, "statusCode": 301})),
            redirect("/full-path-and-temporary", json!({"path": onto_full, "statusCode": 307})),
            redirect("/full-path-and-permanent", json!({"path": onto_full, "statusCode": 308})),
        ],
        vec![
            Case::get("/original-prefix/lemon").moved(302, "http://echo/replacement-prefix/lemon"),
            Case::get("/full/path/original").moved(302, "http://echo/full-path-replacement"),
            Case::get("/path-and-host").moved(302, "http://example.org/replacement-prefix"),
            Case::get("/path-and-status").moved(301, "http://echo/replacement-prefix"),
            Case::get("/path-and-temporary/x").moved(307, "http://echo/replacement-prefix/x"),
            Case::get("/path-and-permanent?y=z").moved(308, "http://echo/replacement-prefix?y=z"),
            Case::get("/full-path-and-host").moved(302, "http://example.org/replacement-full"),
            Case::get("/full-path-and-status").moved(301, "http://echo/replacement-full"),
            Case::get("/full-path-and-temporary").moved(307, "http://echo/replacement-full"),
            Case::get("/full-path-and-permanent").moved(308, "http://echo/replacement-full"),
        ],
    )?
    .lab
    .finish()
}

#[test]
fn mesh_http_route_redirect_port() -> Result<()> {
    play(
        "c-report",
        vec![
            redirect("/port", json!({"port": 8083})),
            redirect("/port-and-host", json!({"hostname": "example.org", "port": 8083})),
            redirect("/port-and-status", json!({"port": 8083, "statusCode": 301})),
            redirect("/port-and-temporary", json!({"port": 8083, "statusCode": 307})),
            redirect("/port-and-permanent", json!({"port": 8083, "statusCode": 308})),
            redirect("/port-and-host-and-status", json!({"hostname": "example.org", "port": 8083, "statusCode": 302})),
        ],
        vec![
            Case::get("/port").moved(302, "http://echo:8083/port"),
            Case::get("/port-and-host").moved(302, "http://example.org:8083/port-and-host"),
            Case::get("/port-and-status").moved(301, "http://echo:8083/port-and-status"),
            Case::get("/port-and-temporary").moved(307, "http://echo:8083/port-and-temporary"),
            Case::get("/port-and-permanent").moved(308, "http://echo:8083/port-and-permanent"),
            Case::get("/port-and-host-and-status").moved(302, "http://example.org:8083/port-and-host-and-status"),
        ],
    )?
    .lab
    .finish()
}

#[test]
fn mesh_http_route_scheme_redirect() -> Result<()> {
    play(
        "c-rescheme",
        vec![
            redirect("/scheme", json!({"scheme": "https"})),
            redirect("/scheme-and-host", json!({"hostname": "example.org", "scheme": "https"})),
            redirect("/scheme-and-status", json!({"scheme": "https", "statusCode": 301})),
            redirect("/scheme-and-temporary", json!({"scheme": "https", "statusCode": 307})),
            redirect("/scheme-and-permanent", json!({"scheme": "https", "statusCode": 308})),
            redirect(
                "/scheme-and-host-and-status",
                json!({"scheme": "https", "hostname": "example.org", "statusCode": 302}),
            ),
        ],
        vec![
            Case::get("/scheme").moved(302, "https://echo/scheme"),
            Case::get("/scheme-and-host").moved(302, "https://example.org/scheme-and-host"),
            Case::get("/scheme-and-status").moved(301, "https://echo/scheme-and-status"),
            Case::get("/scheme-and-temporary").moved(307, "https://echo/scheme-and-temporary"),
            Case::get("/scheme-and-permanent").moved(308, "https://echo/scheme-and-permanent"),
            Case::get("/scheme-and-host-and-status").moved(302, "https://example.org/scheme-and-host-and-status"),
        ],
    )?
    .lab
    .finish()
}

/// The statuses that were added later: alone, with a host, with a path.
fn status(name: &str, status: u16) -> Result<Echo> {
    let locations = ["http://echo/plain", "http://example.org/host", "http://example.org/else/where?a=b"];
    play(
        name,
        vec![
            redirect("/plain", json!({"statusCode": status})),
            redirect("/host", json!({"hostname": "example.org", "statusCode": status})),
            redirect(
                "/path",
                json!({"hostname": "example.org", "path": onto("ReplacePrefixMatch", "/else"), "statusCode": status}),
            ),
        ],
        vec![
            Case::get("/plain").moved(status, locations[0]),
            Case::get("/host").moved(status, locations[1]),
            Case::get("/path/where?a=b").moved(status, locations[2]),
        ],
    )
}

#[test]
fn mesh_http_route_303_redirect() -> Result<()> {
    status("c-303", 303)?.lab.finish()
}

#[test]
fn mesh_http_route_307_redirect() -> Result<()> {
    status("c-307", 307)?.lab.finish()
}

#[test]
fn mesh_http_route_308_redirect() -> Result<()> {
    status("c-308", 308)?.lab.finish()
}
