//! A cluster that was there before the lab, on a network of its own: journeys run in it as against the double, touch nothing
//! that is not theirs, and leave nothing behind.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_apiserver::contract::Target;
use weft_tests::app::Behaviour;
use weft_tests::lab::{Lab, Pod, binary};
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere};

/// Where objects are that are in no namespace.
const COLLECTIONS: [&str; 5] = [
    "/api/v1/namespaces",
    "/api/v1/nodes",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
];

/// An API server in a pod of a lab that knows nothing of the mesh.
struct Elsewhere {
    lab: Lab,
    pod: Pod,
    kubeconfig: PathBuf,
}

impl Elsewhere {
    fn start() -> Result<Self> {
        let lab = Lab::new("elsewhere")?;
        let pod = lab.pod(&lab.node("far")?, "apiserver").create()?;
        let kubeconfig = lab.directory().join("kubeconfig-elsewhere");
        let (program, file) = (binary("weft-apiserver")?.display().to_string(), kubeconfig.display().to_string());
        let command = [&program, "serve", "--tls", "--rbac", "--listen", "127.0.0.1:6443", "--kubeconfig", &file];
        pod.spawn(&lab, "apiserver", &command)?;
        let elsewhere = Self { lab, pod, kubeconfig };
        wait::until("the API server to serve", wait::DEADLINE, || elsewhere.ask("GET", "/version", None))?;
        Ok(elsewhere)
    }

    /// Asks it from its own network.
    fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Result<(u16, Value)> {
        let (target, method) = (Target::from_kubeconfig(&self.kubeconfig)?, method.parse()?);
        let (path, body) = (path.to_owned(), body.map(|body| body.to_string()));
        self.pod.netns().run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let reply = runtime.block_on(target.send(method, &path, &[("content-type", "application/json")], body))?;
            Ok((reply.status, reply.json()))
        })
    }

    /// All that is in it and in no namespace.
    fn contents(&self) -> Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        for collection in COLLECTIONS {
            let (_, list) = self.ask("GET", collection, None)?;
            let items = list["items"].as_array().with_context(|| format!("{collection}: {list}"))?;
            found.extend(items.iter().map(|o| format!("{collection}/{}", o["metadata"]["name"])));
        }
        Ok(found)
    }

    fn mesh(&self, name: &str) -> Result<Mesh> {
        Mesh::in_cluster_of(name, &self.kubeconfig, self.pod.netns())
    }
}

#[test]
fn lab_uses_a_cluster_and_leaves_nothing_in_it() -> Result<()> {
    let elsewhere = Elsewhere::start()?;
    let before = elsewhere.contents()?;
    // Somebody's namespace has the name of the lab's: it does not begin.
    let demo = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}});
    ensure!(elsewhere.ask("POST", "/api/v1/namespaces", Some(demo))?.0 == 201);
    let refused = elsewhere.mesh("in-the-way").err().map(|problem| format!("{problem:#}")).unwrap_or_default();
    ensure!(
        refused.contains("Namespace demo is in") && refused.contains("kubectl delete namespace demo"),
        "it is used all the same, or nothing is said: {refused}"
    );
    ensure!(elsewhere.ask("DELETE", "/api/v1/namespaces/demo", None)?.0 < 300);
    wait::until("the namespace to go", wait::DEADLINE, || {
        let now = elsewhere.contents()?;
        ensure!(now == before, "the refused lab has made something: {now:?}");
        Ok(())
    })?;
    let mesh = elsewhere.mesh("used")?;
    mesh.peer.listen(anywhere(8080), "server", Behaviour::Identify)?;
    mesh.lab.mesh()?;
    mesh.steered(4, || {
        for to in mesh.ways()? {
            ensure!(mesh.app.call_once(to)? == "server");
        }
        Ok(())
    })?;
    let meanwhile = elsewhere.contents()?;
    ensure!(meanwhile.len() > before.len() + 5, "what the lab made is not in it: {meanwhile:?}");
    // Orders are for the double, and what the lab has not made is not its to change.
    let ordered = format!("{:#}", mesh.api()?.order("compact", &Value::Null).err().context("the order was given")?);
    ensure!(ordered.contains("is for the double"), "{ordered}");
    let touched = mesh.api()?.send("DELETE", "/api/v1/namespaces/kube-system", "application/json", None);
    ensure!(touched.is_err(), "it would have deleted another's namespace");
    mesh.lab.finish()?;
    let after = elsewhere.contents()?;
    ensure!(after == before, "before: {before:?}\nafter: {after:?}");
    elsewhere.lab.finish()
}
