//! Routes of which the mesh does not understand everything: what a rule of theirs asks for in vain is refused, the other rules
//! go on, and the route's status says which it is.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::app::{Ask, Behaviour, Http, Reply};
use weft_tests::lab::{NAMESPACE, Service};
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere};

const DEFINITION: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/httproutes.gateway.networking.k8s.io";
const ROUTE: &str = "/apis/gateway.networking.k8s.io/v1/namespaces";

/// A mesh with the Service `web`, to which routes are attached, and `v1`, to which they send.
struct Unsupported {
    mesh: Mesh,
    web: Service,
}

impl Unsupported {
    /// In a cluster whose Gateway API is newer than the mesh: its schema takes any HTTPRoute.
    fn new(name: &str) -> Result<Self> {
        let mesh = Mesh::in_cluster(name)?;
        mesh.lab.expect_error("weft::manifests");
        mesh.peer.listen(anywhere(8080), "server", Behaviour::Http)?;
        let web = mesh.lab.service("web").pods(&[&mesh.server]).speaks("http").create()?;
        mesh.lab.service("v1").pods(&[&mesh.server]).create()?;
        mesh.lab.mesh()?;
        let mut definition = mesh.api()?.get(DEFINITION)?;
        for version in definition["spec"]["versions"].as_array_mut().context("no versions")? {
            version["schema"]["openAPIV3Schema"] =
                json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        }
        let (status, said) = mesh.api()?.send("PUT", DEFINITION, "application/json", Some(definition.to_string()))?;
        ensure!(status == 200, "{status} {said}");
        Ok(Self { mesh, web })
    }

    /// Attaches a route to `web`, once the server has forgotten the old schema.
    fn put(&self, name: &str, rules: &Value) -> Result<()> {
        wait::until("the route to be taken", wait::DEADLINE, || {
            self.mesh.lab.manifests().put(json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web"}], "rules": rules}
            }))
        })
    }

    fn get(&self, path: &str) -> Result<Reply> {
        self.mesh.steered(1, || self.mesh.app.fetch(self.web.v4(), Http::One, Ask::get(path)))
    }

    /// Waits until a path is answered so, and checks that it stays.
    fn answers(&self, path: &str, status: u16, error: Option<&str>) -> Result<()> {
        let check = || {
            let reply = self.get(path)?;
            ensure!((reply.status, reply.header("weft-error")) == (status, error), "{path}: {reply:?}");
            Ok(())
        };
        wait::until(&format!("{path} to be answered with {status}"), wait::DEADLINE, check)?;
        (0..10).try_for_each(|_| check())
    }

    fn refused(&self, path: &str) -> Result<()> {
        self.answers(path, 500, Some("rule_unsupported"))
    }

    fn served(&self, path: &str) -> Result<()> {
        self.answers(path, 200, None)
    }

    /// Waits until the route's status has this condition, with this in its message.
    fn says(&self, name: &str, wanted: &str, text: &str) -> Result<()> {
        wait::until(&format!("{name} to be {wanted}"), wait::DEADLINE, || {
            let object = self.mesh.api()?.get(&format!("{ROUTE}/{NAMESPACE}/httproutes/{name}"))?;
            let parent = &object["status"]["parents"][0];
            ensure!(parent["controllerName"] == "weft.dev/controller", "{object}");
            ensure!(parent["parentRef"]["name"] == "web", "{parent}");
            let said = |condition: &&Value| {
                let word = |key: &str| condition[key].as_str().unwrap_or_default();
                format!("{}={} {}", word("type"), word("status"), word("reason")) == wanted
                    && word("message").contains(text)
                    && condition["observedGeneration"] == object["metadata"]["generation"]
            };
            ensure!(parent["conditions"].as_array().into_iter().flatten().any(|c| said(&c)), "{parent}");
            Ok(())
        })
    }
}

fn on(condition: &Value) -> Value {
    json!({"matches": [condition], "backendRefs": [{"name": "v1", "port": 80}]})
}

fn below(path: &str) -> Value {
    on(&json!({"path": {"type": "PathPrefix", "value": path}}))
}

#[test]
fn routes_refuse_what_they_cannot_do() -> Result<()> {
    let unsupported = Unsupported::new("unsupported")?;
    unsupported.served("/")?;
    // Of each rule something is newer than the mesh, or cannot be told of a request.
    let mut filtered = below("/filter");
    filtered["filters"] = json!([{"type": "Teleport", "teleport": {"to": "elsewhere"}}]);
    let mut narrow = below("/narrow");
    narrow["matches"][0]["clientCertificate"] = json!({"issuer": "corporate"});
    let mut partly = on(&json!({"path": {"type": "RegularExpression", "value": "/(?!public).*"}}));
    partly["matches"].as_array_mut().context("no list")?.push(json!({"path": {"type": "Exact", "value": "/partly"}}));
    let glob = on(&json!({"path": {"type": "Glob", "value": "/*/admin"}}));
    unsupported.put("newer", &json!([filtered, narrow, partly, glob, below("/well")]))?;
    ["/filter/a", "/narrow", "/partly"].iter().try_for_each(|path| unsupported.refused(path))?;
    unsupported.served("/well/a")?;
    // What no other rule asks for may be meant by the conditions that nobody can tell: it does not pass by them.
    ["/", "/x/admin", "/public"].iter().try_for_each(|path| unsupported.refused(path))?;
    unsupported.says("newer", "Accepted=True Accepted", "decides")?;
    for text in [
        "Dropped Rule: ",
        "filters[0]: unknown variant `Teleport`",
        "clientCertificate: is no field",
        "matches[0].path.value",
    ] {
        unsupported.says("newer", "PartiallyInvalid=True UnsupportedValue", text)?;
    }
    // A rule for everything takes what nobody can tell to be another's, and no more.
    let all = below("/");
    unsupported.put("newer", &json!([glob, narrow, all]))?;
    unsupported.served("/")?;
    unsupported.served("/x/admin")?;
    unsupported.refused("/narrow/a")?;
    unsupported.put("newer", &json!([glob]))?;
    unsupported.says("newer", "Accepted=False UnsupportedValue", "matches[0].path: unknown variant `Glob`")?;
    unsupported.refused("/any")?;
    unsupported.mesh.lab.manifests().remove("HTTPRoute", NAMESPACE, "newer");
    unsupported.served("/any")?;
    unsupported.mesh.lab.finish()
}

#[test]
fn routes_that_cannot_be_read_are_refused_and_told() -> Result<()> {
    let unsupported = Unsupported::new("unreadable")?;
    unsupported.served("/")?;
    unsupported.put("odd", &json!({"first": below("/")}))?;
    unsupported.says("odd", "Accepted=False UnsupportedValue", "spec.rules: is not a list of rules")?;
    unsupported.refused("/")?;
    // Another route of the Service goes on.
    unsupported.put("well", &json!([below("/well")]))?;
    unsupported.served("/well")?;
    unsupported.refused("/")?;
    // Once it was right, that is what stays.
    unsupported.put("odd", &json!([below("/odd")]))?;
    unsupported.says("odd", "Accepted=True Accepted", "decides")?;
    unsupported.served("/odd")?;
    unsupported.answers("/", 404, Some("no_route"))?;
    unsupported.put("odd", &json!(7))?;
    unsupported.says("odd", "Accepted=False UnsupportedValue", "the last good version, if any, stays in force")?;
    unsupported.served("/odd")?;
    let agent = unsupported.mesh.agent(&unsupported.mesh.a)?;
    let problems = agent.ask("/status")?["problems"].to_string();
    ensure!(problems.contains("spec.rules: is not a list") && problems.contains("last good version"), "{problems}");
    unsupported.mesh.lab.finish()
}
