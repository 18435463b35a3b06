//! The conditions of a rule: path, method, header fields and query parameters.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_tests::app::Ask;
use weft_tests::lab::NAMESPACE;

use super::{Routes, to};

/// A rule of one condition.
fn rule(condition: &Value, backend: &str) -> Value {
    json!({"matches": [condition], "backendRefs": to(backend)})
}

fn at_path(kind: &str, value: &str) -> Value {
    json!({"path": {"type": kind, "value": value}})
}

/// One client's route of these rules, in force.
fn routed(name: &str, rules: &[Value]) -> Result<Routes> {
    // No appProtocol: the route makes the port HTTP.
    let routes = Routes::new(name, None)?;
    routes.route("HTTPRoute", NAMESPACE, "web", rules.into())?;
    routes.in_force()?;
    Ok(routes)
}

impl Routes {
    /// Checks that no rule takes such a request.
    fn nobody_takes(&self, ask: &Ask) -> Result<()> {
        let reply = self.get(ask)?;
        ensure!((reply.status, reply.header("weft-error")) == (404, Some("no_route")), "{ask:?}: {reply:?}");
        Ok(())
    }
}

#[test]
fn path() -> Result<()> {
    let routes = routed(
        "path",
        &[
            rule(&at_path("PathPrefix", "/two"), "v2"),
            rule(&at_path("Exact", "/exact"), "v2"),
            rule(&at_path("RegularExpression", "/n[0-9]+"), "v2"),
            rule(&at_path("PathPrefix", "/one"), "v1"),
            rule(&at_path("PathPrefix", "/one/but/two/"), "v2"),
            rule(&at_path("Exact", "/two/but/one"), "v1"),
        ],
    )?;
    for two in ["/two", "/two/", "/two/deeper", "/exact", "/exact?a=b", "/n42", "/one/but/two", "/one/but/two/x"] {
        routes.all_to("v2", &Ask::get(two))?;
    }
    for one in ["/one", "/one/but", "/one/but/twofold", "/two/but/one"] {
        routes.all_to("v1", &Ask::get(one))?;
    }
    // Elements, not letters; expressions take the whole path; and what no rule takes is nobody's.
    for nobody in ["/twofold", "/exact/", "/n", "/n42/", "/", "/Two", "/?two"] {
        routes.nobody_takes(&Ask::get(nobody))?;
    }
    // A route that is gone decides nothing: the port is what it was.
    routes.lab.manifests().remove("HTTPRoute", NAMESPACE, "web");
    routes.settles("the route to be gone", &Ask::get("/"), |reply| reply.status == 200)?;
    routes.lab.finish()
}

#[test]
fn method() -> Result<()> {
    let routes = routed(
        "method",
        &[
            rule(&json!({"method": "DELETE"}), "v2"),
            rule(&json!({"path": {"type": "PathPrefix", "value": "/only"}, "method": "PUT"}), "v2"),
            rule(&json!({"method": "GET"}), "v1"),
        ],
    )?;
    let empty = |method: &str, target: &str| Ask::get(target).method(method).with(&[("content-length", "0")]);
    routes.all_to("v2", &empty("DELETE", "/any"))?;
    routes.all_to("v2", &empty("PUT", "/only/there"))?;
    routes.all_to("v1", &Ask::get("/only/there"))?;
    // Methods are case-sensitive (RFC 9110, 9.1), and a HEAD is no GET.
    for nobody in ["POST", "PUT", "delete"] {
        routes.nobody_takes(&empty(nobody, "/any"))?;
    }
    let head = routes.get(&Ask::get("/any").method("HEAD"))?;
    ensure!(head.status == 404, "{head:?}");
    routes.lab.finish()
}

#[test]
fn header() -> Result<()> {
    let named = |kind: &str, name: &str, value: &str| json!({"type": kind, "name": name, "value": value});
    let routes = routed(
        "header",
        &[
            rule(&json!({"headers": [named("Exact", "X-Version", "two")]}), "v2"),
            rule(&json!({"headers": [named("RegularExpression", "x-user", "a[a-z]+")]}), "v2"),
            rule(&json!({"headers": [named("Exact", "x-a", "1"), named("Exact", "x-b", "1")]}), "v2"),
            // Of entries with one name, in whatever case, only the first counts.
            rule(&json!({"headers": [named("Exact", "x-twice", "1"), named("Exact", "X-Twice", "2")]}), "v1"),
            rule(&at_path("PathPrefix", "/one"), "v1"),
        ],
    )?;
    let ask = |headers: &[(&str, &str)]| Ask::get("/any").with(headers);
    for two in [&[("x-version", "two")][..], &[("X-USER", "ann")], &[("x-b", "1"), ("x-a", "1"), ("x-c", "1")]] {
        routes.all_to("v2", &ask(two))?;
    }
    routes.all_to("v1", &ask(&[("x-twice", "1")]))?;
    // A longer path comes before any condition on anything else.
    routes.all_to("v1", &Ask::get("/one").with(&[("x-version", "two")]))?;
    let others: [&[(&str, &str)]; 7] = [
        &[],
        &[("x-version", "Two")],
        &[("x-version", "two2")],
        &[("x-user", "Ann")],
        &[("x-user", "ann2")],
        &[("x-a", "1")],
        &[("x-twice", "2")],
    ];
    for nobody in others {
        routes.nobody_takes(&ask(nobody))?;
    }
    routes.lab.finish()
}

#[test]
fn query() -> Result<()> {
    let named = |kind: &str, name: &str, value: &str| json!({"type": kind, "name": name, "value": value});
    let routes = routed(
        "query",
        &[
            rule(&json!({"queryParams": [named("Exact", "v", "2")]}), "v2"),
            rule(&json!({"queryParams": [named("RegularExpression", "n", "[0-9]+")]}), "v2"),
            rule(&json!({"queryParams": [named("Exact", "a", "1"), named("Exact", "b", "1")]}), "v2"),
            rule(&json!({"queryParams": [named("Exact", "who", "a b&c")]}), "v2"),
            rule(&at_path("PathPrefix", "/one"), "v1"),
        ],
    )?;
    for two in ["/any?v=2", "/any?a=b&v=2", "/any?n=42", "/any?b=1&a=1&c", "/any?who=a%20b%26c", "/any?who=a+b%26c"] {
        routes.all_to("v2", &Ask::get(two))?;
    }
    routes.all_to("v1", &Ask::get("/one/more?v=2"))?;
    for nobody in ["/any", "/v=2", "/any?v=22", "/any?V=2", "/any?v", "/any?n=4x", "/any?a=1", "/any?who=a%20b&c"] {
        routes.nobody_takes(&Ask::get(nobody))?;
    }
    routes.lab.finish()
}
