//! The source against the API server double: what reaches the agent, and what does not, whatever happens to the server.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use weft_apiserver::contract::Target;
use weft_apiserver::{Config, Server};
use weft_core::model::{ObjectName, TrustDomain};
use weft_core::snapshot::{Delta, Here, Resource, Snapshot};

use super::*;
use crate::standing::{Standing, Standings};

mod kinds;
mod marks;
mod outages;
mod traffic;

type Tested = anyhow::Result<()>;

const PATIENCE: Duration = Duration::from_secs(20);

/// A cluster, and an agent's view of it.
struct Rig {
    server: Server,
    target: Target,
    cluster: Cluster,
    snapshot: Snapshot,
    batches: Vec<Vec<Delta>>,
}

impl Rig {
    /// With the kinds of `weft.dev`, and a slice without pods.
    async fn start(config: Config) -> anyhow::Result<Self> {
        let rig = Self::bare(config).await?;
        rig.install_kinds().await?;
        rig.publish().await?;
        Ok(rig)
    }

    async fn bare(config: Config) -> anyhow::Result<Self> {
        let server = Server::start("127.0.0.1:0".parse()?, config).await?;
        let target = Target::of(&server)?;
        let namespace = json!({"metadata": {"name": "weft-system"}}).to_string();
        let kind = [("content-type", "application/json")];
        target.send(Method::POST, "/api/v1/namespaces", &kind, Some(namespace)).await?;
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), server.kubeconfig())?;
        let cluster = follow(&connect(Some(file.path()), "weft-test").await?, "n1", "weft-system");
        let here = Here { node: "n1".into(), zone: None };
        let snapshot = Snapshot::on(TrustDomain::new("cluster.local")?, here);
        Ok(Self { server, target, cluster, snapshot, batches: Vec::new() })
    }

    /// With a namespace and two pods, one of each of two nodes, all of it known to the agent.
    async fn populated(config: Config) -> anyhow::Result<Self> {
        let mut rig = Self::start(config).await?;
        rig.create("/api/v1/namespaces", json!({"metadata": {"name": "demo"}})).await?;
        rig.until(|s| s.namespaces().any(|n| n.name.as_str() == "demo")).await?;
        rig.create("/api/v1/namespaces/demo/serviceaccounts", json!({"metadata": {"name": "app"}})).await?;
        rig.pod("here", "n1").await?;
        rig.pod("there", "n2").await?;
        rig.until(|s| s.workloads().count() == 2).await?;
        Ok(rig)
    }

    async fn send(&self, method: Method, path: &str, kind: &str, body: Value) -> anyhow::Result<Value> {
        let reply = self.target.send(method, path, &[("content-type", kind)], Some(body.to_string())).await?;
        anyhow::ensure!(reply.status < 300, "{path}: {} {}", reply.status, reply.text);
        Ok(reply.json())
    }

    async fn create(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.send(Method::POST, path, "application/json", body).await
    }

    async fn merge(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.send(Method::PATCH, path, "application/merge-patch+json", body).await
    }

    async fn delete(&self, path: &str) -> anyhow::Result<()> {
        self.send(Method::DELETE, path, "application/json", json!({"gracePeriodSeconds": 0})).await?;
        self.publish().await
    }

    async fn pod(&self, name: &str, node: &str) -> anyhow::Result<Value> {
        let spec = json!({"nodeName": node, "serviceAccountName": "app", "containers": [{"name": "c", "image": "i"}]});
        let pod =
            self.create("/api/v1/namespaces/demo/pods", json!({"metadata": {"name": name}, "spec": spec})).await?;
        let ip = format!("10.9.{}.{}", name.len(), name.bytes().map(u32::from).sum::<u32>() % 250 + 1);
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
        self.merge(&format!("/api/v1/namespaces/demo/pods/{name}/status"), status).await?;
        self.publish().await?;
        Ok(pod)
    }

    /// What the controller does, all at once: every Pod, in one slice.
    async fn publish(&self) -> anyhow::Result<()> {
        let pods = self.target.send(Method::GET, "/api/v1/pods", &[], None).await?.json();
        let entry = |pod: &Value| {
            let live = pod["metadata"]["annotations"]["weft.dev/status"] == "enrolled";
            let pod = serde_json::from_value(pod.clone()).ok()?;
            let workload = crate::resource::pod::convert(&pod, &mut crate::resource::Findings::default())?;
            crate::resource::workload_slice::entry(&workload, live)
        };
        let workloads: Vec<_> = pods["items"].as_array().into_iter().flatten().filter_map(entry).collect();
        let slice = json!({"apiVersion": "weft.dev/v1alpha1", "kind": "WorkloadSlice", "metadata": {"name": "pods-0"},
            "spec": {"workloads": workloads}});
        let path = "/apis/weft.dev/v1alpha1/namespaces/weft-system/workloadslices/pods-0?fieldManager=test&force=true";
        self.send(Method::PATCH, path, "application/apply-patch+yaml", slice).await.map(drop)
    }

    async fn install_kinds(&self) -> anyhow::Result<()> {
        for definition in crate::crd::definitions() {
            self.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", serde_json::to_value(&definition)?)
                .await?;
        }
        Ok(())
    }

    /// Whether the API server takes an object of `weft.dev`; what it says if not.
    async fn takes(&self, kind: &str, plural: &str, spec: Value) -> anyhow::Result<Result<(), String>> {
        let path = format!("/apis/weft.dev/v1alpha1/namespaces/demo/{plural}?dryRun=All");
        let object = json!({"apiVersion": "weft.dev/v1alpha1", "kind": kind, "metadata": {"name": "x"}, "spec": spec})
            .to_string();
        let reply =
            self.target.send(Method::POST, &path, &[("content-type", "application/json")], Some(object)).await?;
        Ok(if reply.status == 201 { Ok(()) } else { Err(reply.text) })
    }

    async fn annotation(&self, pod: &str) -> anyhow::Result<Value> {
        let pod = self.target.send(Method::GET, &format!("/api/v1/namespaces/demo/pods/{pod}"), &[], None).await?;
        Ok(pod.json()["metadata"]["annotations"]["weft.dev/status"].clone())
    }

    /// Applies what comes until the snapshot is as wanted.
    async fn until(&mut self, wanted: impl Fn(&Snapshot) -> bool) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !wanted(&self.snapshot) {
            let batch = tokio::time::timeout_at(deadline, self.cluster.source.deltas.recv()).await;
            let batch = batch.map_err(|_| anyhow::anyhow!("it did not come: {:?}", self.cluster.health.watches()))?;
            let batch = batch.ok_or_else(|| anyhow::anyhow!("the source ended"))?;
            self.snapshot = self.snapshot.apply(batch.deltas.clone());
            self.batches.push(batch.deltas);
        }
        Ok(())
    }

    /// Waits for something the source does not tell as a delta, applying what comes meanwhile.
    async fn holds(
        &mut self,
        what: &str,
        condition: impl AsyncFn(&Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self).await? {
            anyhow::ensure!(Instant::now() < deadline, "{what}: {:?}", self.cluster.health.watches());
            if let Ok(Some(batch)) =
                tokio::time::timeout(Duration::from_millis(20), self.cluster.source.deltas.recv()).await
            {
                self.snapshot = self.snapshot.apply(batch.deltas.clone());
                self.batches.push(batch.deltas);
            }
        }
        Ok(())
    }

    fn lists(&self) -> u64 {
        self.cluster.health.watches()[&Kind::Pod].lists
    }

    fn uid(&self, pod: &str) -> Arc<str> {
        let name = ObjectName::new("demo", pod).unwrap();
        self.snapshot.workloads().find(|w| w.name == name).unwrap().uid.clone()
    }

    /// What the agent says of its pods.
    fn say(&self, standings: Standings) {
        self.cluster.publisher.publish("n1", standings).unwrap();
    }
}

/// No batch took anything away.
fn nothing_removed(batches: &[Vec<Delta>]) -> bool {
    batches.iter().flatten().all(|delta| matches!(delta, Delta::Put(_)))
}

#[tokio::test]
async fn changes_come_one_by_one_and_are_trimmed() -> Tested {
    let mut rig = Rig::populated(Config::default()).await?;
    let ip = json!({"status": {"phase": "Running", "podIP": "10.1.0.7", "podIPs": [{"ip": "10.1.0.7"}]}});
    rig.merge("/api/v1/namespaces/demo/pods/here/status", ip).await?;
    // Whoever may write a Pod must not choose which namespace is entered.
    let netns = json!({"metadata": {"annotations": {"weft.dev/netns": "/proc/1/ns/net"}}});
    rig.merge("/api/v1/namespaces/demo/pods/here", netns).await?;
    rig.until(|s| s.workload_at("10.1.0.7".parse().unwrap()).is_some()).await?;
    let pod = rig.snapshot.workload_at("10.1.0.7".parse()?).unwrap().clone();
    assert_eq!((&*pod.node, pod.service_account.as_str(), &pod.netns), ("n1", "app", &None));
    rig.delete("/api/v1/namespaces/demo/pods/here").await?;
    rig.until(|s| s.workloads().count() == 1).await
}

#[tokio::test]
async fn of_nodes_an_agent_follows_its_own() -> Tested {
    let mut rig = Rig::populated(Config::default()).await?;
    for (node, zone) in [("n2", "z2"), ("n1", "z1")] {
        let labels = json!({"topology.kubernetes.io/zone": zone});
        rig.create("/api/v1/nodes", json!({"metadata": {"name": node, "labels": labels}})).await?;
    }
    rig.until(|snapshot| snapshot.zone().is_some_and(|zone| &**zone == "z1")).await?;
    let moved = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z3"}}});
    rig.merge("/api/v1/nodes/n1", moved).await?;
    rig.until(|snapshot| snapshot.zone().is_some_and(|zone| &**zone == "z3")).await?;
    let others =
        rig.batches.iter().flatten().filter(|delta| matches!(delta, Delta::Put(Resource::Node(n)) if &*n.name == "n2"));
    assert_eq!(others.count(), 0);
    Ok(())
}
