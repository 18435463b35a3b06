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
async fn the_first_batch_is_everything_and_kinds_that_are_not_installed_do_not_hold_it_up() -> Tested {
    let mut rig = Rig::start(Config { tls: true, ..Config::default() }).await?;
    rig.until(|s| s.namespaces().count() == 3).await?;
    assert_eq!(rig.batches.len(), 1, "default, kube-system and weft-system come at once");
    let watches = rig.cluster.health.watches();
    assert_eq!(watches[&Kind::Pod].state, WatchState::Current);
    assert_eq!(watches[&Kind::TcpRoute].state, WatchState::Absent);
    Ok(())
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
async fn a_forgotten_past_is_read_anew_and_takes_nothing_away() -> Tested {
    for as_status in [false, true] {
        let mut rig = Rig::populated(Config::default()).await?;
        rig.server.faults().answer_gone_as_status(as_status);
        let lists = rig.lists();
        rig.batches.clear();
        // While it cannot watch, one pod goes and another comes, and the server forgets how.
        let refuse =
            weft_apiserver::Rule { verb: Some("watch".into()), status: Some(503), ..weft_apiserver::Rule::default() };
        rig.server.faults().add(refuse);
        rig.server.faults().close_connections();
        // Each watch: one that still stood would be told how, and have nothing to read anew.
        let broken = |watch: &WatchHealth| matches!(watch.state, WatchState::Stale(_) | WatchState::Absent);
        rig.holds("staleness", async |rig| Ok(rig.cluster.health.watches().values().all(broken))).await?;
        rig.delete("/api/v1/namespaces/demo/pods/there").await?;
        rig.pod("new", "n2").await?;
        rig.server.compact();
        rig.server.faults().clear();
        rig.until(|s| s.workloads().any(|w| w.name.name.as_str() == "new")).await?;
        rig.until(|s| s.workloads().all(|w| w.name.name.as_str() != "there")).await?;
        // A watch stands as soon as it is answered; that the past is forgotten may be said in it only then.
        rig.holds("Pods to be read anew", async |rig| Ok(rig.lists() > lists)).await?;
        rig.holds("all watches to stand", async |rig| Ok(rig.cluster.health.stale(Instant::now()).is_none())).await?;
        assert!(nothing_removed(&rig.batches), "what went was in a slice that is there still: {:?}", rig.batches);
        let slices = rig.batches.iter().flatten().filter_map(|delta| match delta {
            Delta::Put(Resource::Peers(slice)) => Some(slice.pods().count()),
            _ => None,
        });
        assert!(slices.into_iter().all(|pods| pods > 0), "only what went: {:?}", rig.batches);
    }
    Ok(())
}

#[tokio::test]
async fn broken_watches_go_on_where_they_were() -> Tested {
    let mut rig = Rig::populated(Config::default()).await?;
    let lists = rig.lists();
    rig.batches.clear();
    for _ in 0..3 {
        rig.server.faults().cut_watches();
        rig.pod(&format!("p{}", rig.snapshot.workloads().count()), "n2").await?;
        let count = rig.snapshot.workloads().count();
        rig.until(|s| s.workloads().count() > count).await?;
    }
    assert!(nothing_removed(&rig.batches), "{:?}", rig.batches);
    assert_eq!(rig.lists(), lists, "nothing had to be read anew");
    Ok(())
}

#[tokio::test]
async fn a_list_that_breaks_off_is_not_taken_for_whole() -> Tested {
    let mut rig = Rig::populated(Config::default()).await?;
    rig.batches.clear();
    // Every watch has to begin anew, and cannot: what was known stays.
    rig.server.compact();
    for verb in ["watch", "list"] {
        let rule =
            weft_apiserver::Rule { verb: Some(verb.into()), status: Some(503), ..weft_apiserver::Rule::default() };
        rig.server.faults().add(rule);
    }
    rig.server.faults().close_connections();
    rig.holds("staleness", async |rig| Ok(rig.cluster.health.stale(Instant::now()).is_some())).await?;
    assert!(nothing_removed(&rig.batches) && rig.snapshot.workloads().count() == 2);
    rig.server.faults().clear();
    rig.holds("all watches to stand", async |rig| Ok(rig.cluster.health.stale(Instant::now()).is_none())).await?;
    assert!(nothing_removed(&rig.batches) && rig.snapshot.workloads().count() == 2);
    Ok(())
}

#[tokio::test]
async fn servers_without_streaming_lists_are_read_in_pages() -> Tested {
    let config = Config { streaming_lists: false, ..Config::default() };
    let mut rig = Rig::populated(config).await?;
    assert!(rig.server.counts().requests("list", "pods") >= 1);
    rig.pod("more", "n2").await?;
    rig.until(|s| s.workloads().count() == 3).await
}

#[tokio::test]
async fn without_slices_nothing_is_told_and_the_remedy_is_and_a_kind_installed_later_is_found() -> Tested {
    let mut rig = Rig::bare(Config::default()).await?;
    rig.create("/api/v1/namespaces", json!({"metadata": {"name": "demo"}})).await?;
    let said = |rig: &Rig| format!("{:?}", rig.cluster.source.problems.borrow());
    rig.holds("the remedy", async |rig| Ok(said(rig).contains("Is weft controller running"))).await?;
    assert!(rig.batches.is_empty(), "{:?}", rig.batches);
    rig.install_kinds().await?;
    rig.publish().await?;
    rig.until(|s| s.namespaces().any(|n| n.name.as_str() == "demo")).await?;
    assert!(!said(&rig).contains("Is weft controller running"), "{}", said(&rig));
    let policy = json!({"apiVersion": "weft.dev/v1alpha1", "kind": "AuthorizationPolicy", "metadata": {"name": "p"},
        "spec": {"action": "Deny", "rules": [{"to": [{"ports": [22]}]}]}});
    rig.create("/apis/weft.dev/v1alpha1/namespaces/demo/authorizationpolicies", policy).await?;
    let held = |batches: &[Vec<Delta>]| format!("{batches:?}").contains("AuthorizationPolicy");
    rig.holds("the policy", async |rig| Ok(held(&rig.batches))).await
}

#[tokio::test]
async fn pods_are_marked_as_the_agent_says_and_peers_believe_the_mark() -> Tested {
    let mut rig = Rig::populated(Config::default()).await?;
    let uid = rig.uid("here");
    rig.say(Standings::from([(uid.clone(), Standing::Enrolled)]));
    rig.holds("the mark", async |rig| Ok(rig.annotation("here").await? == "enrolled")).await?;
    // The agent knows its own without the API server.
    rig.until(|s| s.liveness().any(|node| *node.node == *"n1" && node.live == BTreeSet::from([uid.clone()]))).await?;
    // What another node's agent writes makes its pod live here.
    let there = rig.uid("there");
    rig.merge(
        "/api/v1/namespaces/demo/pods/there",
        json!({"metadata": {"annotations": {"weft.dev/status": "enrolled"}}}),
    )
    .await?;
    rig.publish().await?;
    rig.until(|s| s.workloads().any(|w| w.uid == there && s.is_live(&w))).await?;
    // Withdrawn: the mark goes, and so does the liveness.
    rig.say(Standings::new());
    rig.holds("no mark", async |rig| Ok(rig.annotation("here").await?.is_null())).await?;
    rig.until(|s| s.liveness().all(|node| *node.node != *"n1" || node.live.is_empty())).await
}

#[tokio::test]
async fn a_pod_is_withdrawn_only_when_no_slice_calls_it_live() -> Tested {
    let mut rig = Rig::populated(Config::default()).await?;
    let uid = rig.uid("here");
    rig.say(Standings::from([(uid.clone(), Standing::Enrolled)]));
    rig.holds("the mark", async |rig| Ok(rig.annotation("here").await? == "enrolled")).await?;
    rig.publish().await?;
    let Publisher::Cluster { marks, .. } = &rig.cluster.publisher else { panic!() };
    let marks = marks.clone();
    marks.0.clone().wait_for(|here| here[&uid].published).await?;
    rig.say(Standings::new());
    rig.holds("no mark", async |rig| Ok(rig.annotation("here").await?.is_null())).await?;
    marks.0.clone().wait_for(|here| here[&uid].status.is_none()).await?;
    let gone = tokio::spawn(async move { marks.gone(&uid).await });
    // Several times what it takes to be told: the controller has not taken its word back.
    assert!(
        tokio::time::timeout(Duration::from_millis(300), async {
            while !gone.is_finished() {
                tokio::task::yield_now().await
            }
        })
        .await
        .is_err()
    );
    rig.publish().await?;
    tokio::time::timeout(PATIENCE, gone).await??;
    Ok(())
}

#[tokio::test]
async fn what_a_slice_said_stays_when_it_is_deleted_with_pods_in_it() -> Tested {
    let mut rig = Rig::populated(Config::default()).await?;
    rig.batches.clear();
    let slices = "/apis/weft.dev/v1alpha1/namespaces/weft-system/workloadslices/pods-0";
    rig.send(Method::DELETE, slices, "application/json", json!({})).await?;
    rig.create("/api/v1/namespaces", json!({"metadata": {"name": "later"}})).await?;
    rig.until(|s| s.namespaces().any(|n| n.name.as_str() == "later")).await?;
    assert!(nothing_removed(&rig.batches) && rig.snapshot.workloads().count() == 2);
    rig.delete("/api/v1/namespaces/demo/pods/there").await?;
    rig.until(|s| s.workloads().count() == 1).await
}

#[tokio::test]
async fn a_pod_that_cannot_be_enrolled_says_why_and_an_event_does() -> Tested {
    let mut rig = Rig::populated(Config::default()).await?;
    let uid = rig.uid("here");
    let since = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
    rig.say(Standings::from([(uid, Standing::Pending { reason: "no sandbox".into(), since })]));
    rig.holds("the mark", async |rig| Ok(rig.annotation("here").await? == "pending: no sandbox")).await?;
    let events = async |rig: &Rig| -> anyhow::Result<Vec<Value>> {
        let reply = rig.target.send(Method::GET, "/api/v1/namespaces/demo/events", &[], None).await?;
        Ok(reply.json()["items"].as_array().cloned().unwrap_or_default())
    };
    rig.holds("the event", async |rig| Ok(!events(rig).await?.is_empty())).await?;
    let event = &events(&rig).await?[0];
    assert_eq!((&event["involvedObject"]["name"], &event["message"]), (&json!("here"), &json!("pending: no sandbox")));
    assert_eq!(event["type"], "Warning");
    Ok(())
}

#[tokio::test]
async fn marks_are_written_when_the_api_server_is_back() -> Tested {
    let mut rig = Rig::populated(Config::default()).await?;
    rig.server.faults().go_away(true);
    rig.say(Standings::from([(rig.uid("here"), Standing::Enrolled)]));
    rig.holds("staleness", async |rig| Ok(rig.cluster.health.stale(Instant::now()).is_some())).await?;
    rig.server.faults().go_away(false);
    let marked = async |rig: &Rig| Ok(rig.annotation("here").await.is_ok_and(|mark| mark == "enrolled"));
    rig.holds("the mark", marked).await
}

#[tokio::test]
async fn the_api_server_refuses_what_the_agent_would() -> Tested {
    let rig = Rig::populated(Config::default()).await?;
    let policy = async |spec: Value| rig.takes("AuthorizationPolicy", "authorizationpolicies", spec).await;
    let rule = |rule: Value| json!({"action": "Allow", "rules": [rule]});
    let everything = json!({"selector": {"matchLabels": {"app": "cart"}}, "action": "Deny", "audit": true, "rules": [{
        "from": [{"principals": ["spiffe://cluster.local/ns/demo/sa/a"], "notNamespaces": ["b"], "serviceAccounts": ["c", "d/e"],
                  "ipBlocks": ["10.0.0.0/8", "fd00::1"]}],
        "to": [{"ports": [80], "notPorts": [8080]}]}]});
    assert_eq!(policy(everything).await?, Ok(()));
    assert_eq!(policy(json!({"action": "Allow"})).await?, Ok(()), "nobody may connect");
    for wrong in [
        json!({"action": "Deny"}),
        json!({"action": "Permit"}),
        rule(json!({})),
        // Pruned to an empty rule, which would let everybody in.
        rule(json!({"form": [{"namespaces": ["a"]}]})),
        rule(json!({"from": []})),
        rule(json!({"from": [{}]})),
        rule(json!({"from": [{"principal": ["spiffe://cluster.local/ns/demo/sa/a"]}]})),
        rule(json!({"from": [{"principals": ["cluster.local/ns/demo/sa/a"]}]})),
        rule(json!({"from": [{"namespaces": ["Upper"]}]})),
        rule(json!({"from": [{"ipBlocks": ["10.0.0.0-10.1.0.0"]}]})),
        rule(json!({"to": [{"ports": [0]}]})),
        rule(json!({"to": [{"ports": [70000]}]})),
    ] {
        assert!(policy(wrong.clone()).await?.is_err(), "{wrong}");
    }
    let said = policy(json!({"action": "Deny"})).await?.unwrap_err();
    assert!(said.contains("without any it denies nothing"), "{said}");
    let authentication = async |spec: Value| rig.takes("PeerAuthentication", "peerauthentications", spec).await;
    assert_eq!(authentication(json!({"portLevelMtls": {"8080": {"mode": "Permissive"}}})).await?, Ok(()));
    for wrong in
        [json!({}), json!({"portLevelMtls": {"http": {"mode": "Strict"}}}), json!({"mtls": {"mode": "STRICT"}})]
    {
        assert!(authentication(wrong.clone()).await?.is_err(), "{wrong}");
    }
    let traffic = async |spec: Value| rig.takes("TrafficPolicy", "trafficpolicies", spec).await;
    let targeting = |targets: Value| json!({"targetRefs": targets, "loadBalancer": {"algorithm": "Random"}});
    assert_eq!(traffic(targeting(json!([{"name": "cart"}]))).await?, Ok(()));
    for wrong in [json!([]), json!([{"name": "cart", "kind": "Pod"}]), json!([{"name": "c", "group": "apps"}])] {
        assert!(traffic(targeting(wrong.clone())).await?.is_err(), "{wrong}");
    }
    Ok(())
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
