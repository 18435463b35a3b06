//! What routes of requests say of themselves in a cluster, parent by parent, and that what their requests meet is just that.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::app::{App, Ask, Behaviour, Http};
use weft_tests::lab::{NAMESPACE, Pod, Service};
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere};

const WELL: &str = "Accepted=True Accepted, ResolvedRefs=True ResolvedRefs";
const ELSEWHERE: &str = "elsewhere";

/// A route of this kind on the Service `web`, whose own pod is `server`; behind `v1` is `second`, and behind `far`, in another
/// namespace, `third`.
struct Told {
    mesh: Mesh,
    web: Service,
    second: Pod,
    kind: &'static str,
    plural: &'static str,
    /// Held for their processes.
    _others: Vec<App>,
}

impl Told {
    fn new(name: &str, kind: &'static str, plural: &'static str) -> Result<Self> {
        let mesh = Mesh::in_cluster(name)?;
        mesh.lab.expect_error("weft::manifests");
        mesh.lab.namespace(ELSEWHERE)?;
        mesh.peer.listen(anywhere(8080), "server", Behaviour::Http)?;
        let second = mesh.lab.pod(&mesh.b, "second").ports(&[8080]).create()?;
        let third = mesh.lab.pod(&mesh.b, "third").namespace(ELSEWHERE).mesh("enabled").ports(&[8080]).create()?;
        let others = [&second, &third].map(|pod| pod.app(&mesh.lab)).into_iter().collect::<Result<Vec<_>>>()?;
        for (app, name) in others.iter().zip(["second", "third"]) {
            app.listen(anywhere(8080), name, Behaviour::Http)?;
        }
        let service = |name: &str| mesh.lab.service(name).speaks("grpc");
        let web = service("web").pods(&[&mesh.server]).create()?;
        service("v1").pods(&[&second]).create()?;
        service("far").namespace(ELSEWHERE).pods(&[&third]).create()?;
        mesh.lab.mesh()?;
        mesh.lab.wait_live(&third)?;
        Ok(Self { mesh, web, second, kind, plural, _others: others })
    }

    /// Puts the route: attached to these, of these rules.
    fn put(&self, parents: &Value, rules: &Value) -> Result<()> {
        self.mesh.lab.manifests().put(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": self.kind,
            "metadata": {"name": "told", "namespace": NAMESPACE},
            "spec": {"parentRefs": parents, "rules": rules}
        }))
    }

    /// The same, attached to `web` and sending to this.
    fn sends(&self, to: &Value) -> Result<()> {
        self.put(&json!([web()]), &json!([{"backendRefs": [to]}]))
    }

    /// Waits until the status says this of each parent, in their order; all of it about what the route is now.
    fn says(&self, wanted: &[&str]) -> Result<()> {
        wait::until(&format!("the status to be {wanted:?}"), wait::DEADLINE, || {
            let path = format!("/apis/gateway.networking.k8s.io/v1/namespaces/{NAMESPACE}/{}/told", self.plural);
            let object = self.mesh.api()?.get(&path)?;
            let entries = object["status"]["parents"].as_array().context("no status")?;
            let about: Vec<_> = entries.iter().map(|entry| &entry["parentRef"]).collect();
            let parents = object["spec"]["parentRefs"].as_array().context("no parents")?;
            ensure!(about == parents.iter().collect::<Vec<_>>(), "about {about:?}");
            let said = entries.iter().map(|entry| conditions(entry, &object["metadata"]["generation"]));
            let said = said.collect::<Result<Vec<_>>>()?;
            ensure!(said == wanted, "{said:?}");
            Ok(())
        })
    }

    /// Waits until requests are answered by this one, or by the mesh with this reason.
    fn meets(&self, who: Result<&str, &str>) -> Result<()> {
        let ask = if self.kind == "GRPCRoute" { Ask::grpc("hello") } else { Ask::get("/") };
        wait::until(&format!("requests to meet {who:?}"), wait::DEADLINE, || {
            self.mesh.steered(3, || {
                for _ in 0..3 {
                    let reply = self.mesh.app.fetch(self.web.v4(), Http::Two, ask.clone())?;
                    let met = reply.header("weft-error").map_or(reply.header("x-name").map(Ok), |why| Some(Err(why)));
                    ensure!(met == Some(who), "{reply:?}");
                }
                Ok(())
            })
        })
    }

    fn every_fate(&self) -> Result<()> {
        let to = |name: &str, port: u16| json!({"name": name, "port": port});
        self.sends(&to("v1", 80))?;
        self.says(&[WELL])?;
        self.meets(Ok("second"))?;
        // A backend comes, and goes again.
        let absent = "Accepted=True Accepted, ResolvedRefs=False BackendNotFound";
        self.sends(&to("late", 80))?;
        self.says(&[absent])?;
        self.meets(Err("backend_missing"))?;
        self.mesh.lab.service("late").speaks("grpc").pods(&[&self.second]).create()?;
        self.says(&[WELL])?;
        self.meets(Ok("second"))?;
        self.mesh.lab.manifests().remove("Service", NAMESPACE, "late");
        self.says(&[absent])?;
        self.meets(Err("backend_missing"))?;
        self.sends(&to("v1", 81))?;
        self.says(&[absent])?;
        self.meets(Err("backend_port_missing"))?;
        self.sends(&json!({"group": "storage.example", "kind": "Bucket", "name": "b"}))?;
        self.says(&["Accepted=True Accepted, ResolvedRefs=False InvalidKind"])?;
        self.meets(Err("backend_kind"))
    }

    /// Grants what is in the other namespace to routes of this kind.
    fn grant(&self, kind: &str, name: &str) -> Result<()> {
        self.mesh.lab.manifests().put(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant",
            "metadata": {"name": "routes", "namespace": ELSEWHERE},
            "spec": {
                "from": [{"group": "gateway.networking.k8s.io", "kind": kind, "namespace": NAMESPACE}],
                "to": [{"group": "", "kind": "Service", "name": name}]
            }
        }))
    }

    fn grants(&self) -> Result<()> {
        let refused = "Accepted=True Accepted, ResolvedRefs=False RefNotPermitted";
        let follows = |granted: bool| {
            self.says(&[if granted { WELL } else { refused }])?;
            self.meets(if granted { Ok("third") } else { Err("backend_not_granted") })
        };
        // Another kind's grant is there already, and is none.
        self.grant("TCPRoute", "far")?;
        self.sends(&json!({"name": "far", "namespace": ELSEWHERE, "port": 80}))?;
        follows(false)?;
        self.grant(self.kind, "far")?;
        follows(true)?;
        self.grant(self.kind, "other")?;
        follows(false)?;
        self.grant(self.kind, "far")?;
        follows(true)?;
        self.mesh.lab.manifests().remove("ReferenceGrant", ELSEWHERE, "routes");
        follows(false)
    }

    fn parents(&self) -> Result<()> {
        let of = |field: &str, value: Value| {
            let mut parent = web();
            parent[field] = value;
            parent
        };
        let nobody = "Accepted=False NoMatchingParent, ResolvedRefs=True ResolvedRefs";
        let rules = json!([{"backendRefs": [{"name": "v1", "port": 80}]}]);
        let one = of("sectionName", "tcp".into());
        let absent = [of("name", "none".into()), of("port", 81.into()), of("sectionName", "none".into())];
        self.put(&json!([one, absent[0], absent[1], absent[2]]), &rules)?;
        self.says(&[WELL, nobody, nobody, nobody])?;
        self.meets(Ok("second"))?;
        // Of those that are not there nothing follows for the Service.
        self.put(&json!(absent), &rules)?;
        self.says(&[nobody; 3])?;
        self.meets(Ok("server"))
    }

    fn unsupported(&self) -> Result<()> {
        let field = |name: &str| json!([{"headers": [{"name": name, "value": "1"}]}]);
        let well = json!({"matches": field("x-well"), "backendRefs": [{"name": "v1", "port": 80}]});
        let mut odd = json!({"backendRefs": [{"name": "v1", "port": 80}]});
        odd["filters"] = json!([{"type": "ExtensionRef", "extensionRef": {"group": "example.com", "kind": "Guard", "name": "door"}}]);
        self.put(&json!([web()]), &json!([well, odd]))?;
        self.says(&[&format!("{WELL}, PartiallyInvalid=True UnsupportedValue")])?;
        self.meets(Err("rule_unsupported"))?;
        self.put(&json!([web()]), &json!([odd]))?;
        self.says(&["Accepted=False UnsupportedValue, ResolvedRefs=True ResolvedRefs"])?;
        self.meets(Err("rule_unsupported"))?;
        self.sends(&json!({"name": "v1", "port": 80}))?;
        self.says(&[WELL])?;
        self.meets(Ok("second"))
    }

    fn every_status(self) -> Result<()> {
        self.meets(Ok("server"))?;
        self.every_fate()?;
        self.grants()?;
        self.parents()?;
        self.unsupported()?;
        self.mesh.lab.finish()
    }
}

/// The parent that is there.
fn web() -> Value {
    json!({"group": "", "kind": "Service", "name": "web", "port": 80})
}

/// The conditions of an entry, which must be the mesh's and of this generation.
fn conditions(entry: &Value, generation: &Value) -> Result<String> {
    ensure!(entry["controllerName"] == "weft.dev/controller", "{entry}");
    let said = entry["conditions"].as_array().into_iter().flatten().map(|condition| {
        ensure!(condition["observedGeneration"] == *generation, "{condition} is not about generation {generation}");
        ensure!(condition["message"].as_str().is_some_and(|message| !message.is_empty()), "{condition}");
        let text = |key: &str| condition[key].as_str().unwrap_or_default();
        Ok(format!("{}={} {}", text("type"), text("status"), text("reason")))
    });
    Ok(said.collect::<Result<Vec<_>>>()?.join(", "))
}

#[test]
fn http_route_status_is_written() -> Result<()> {
    Told::new("httpstatus", "HTTPRoute", "httproutes")?.every_status()
}

#[test]
fn grpc_route_status_is_written() -> Result<()> {
    Told::new("grpcstatus", "GRPCRoute", "grpcroutes")?.every_status()
}
