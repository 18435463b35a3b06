//! The part against an API server: what it publishes, what that costs, and what it does to slices others meddle with.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use http::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use weft_apiserver::contract::Target;
use weft_apiserver::{Config, Server};
use weft_control::{crd, kubernetes};

use super::*;
use crate::{Settings, Telemetry};

type Tested = anyhow::Result<()>;

const PATIENCE: Duration = Duration::from_secs(60);
const SLICES: &str = "/apis/weft.dev/v1alpha1/namespaces/weft-system/workloadslices";

#[tokio::test(start_paused = true)]
async fn writes_are_bounded_by_the_burst_and_the_rate() {
    let begun = Instant::now();
    let mut budget = Budget::full(begun);
    let mut made = 0;
    while begun.elapsed() < Duration::from_secs(10) {
        match budget.take(Instant::now()) {
            Ok(()) => made += 1,
            Err(wait) => tokio::time::advance(wait).await,
        }
    }
    assert!((BURST + 9 * RATE..=BURST + 10 * RATE + 1).contains(&made), "{made}");
}

/// An API server with the kinds of `weft.dev`, and a replica that writes.
struct Rig {
    server: Server,
    target: Target,
    common: Common,
    term: watch::Sender<Term>,
}

impl Rig {
    async fn start() -> anyhow::Result<Self> {
        let server = Server::start("127.0.0.1:0".parse()?, Config::default()).await?;
        let target = Target::of(&server)?;
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), server.kubeconfig())?;
        let settings = Settings {
            kubeconfig: None,
            name: "one".into(),
            namespace: "weft-system".into(),
            trust_domain: weft_core::model::TrustDomain::new("cluster.local")?,
            metrics: None,
            issuer: None,
        };
        let common = Common {
            client: kubernetes::connect(Some(file.path()), "weft-test").await?,
            settings: Arc::new(settings),
            telemetry: Telemetry::default(),
            shutdown: CancellationToken::new(),
        };
        let term = watch::Sender::new(Term::until(Instant::now() + Duration::from_secs(3600)));
        let rig = Self { server, target, common, term };
        for name in ["weft-system", "demo"] {
            rig.send(Method::POST, "/api/v1/namespaces", json!({"metadata": {"name": name}})).await?;
        }
        rig.send(Method::POST, "/api/v1/namespaces/demo/serviceaccounts", json!({"metadata": {"name": "cart"}}))
            .await?;
        for definition in crd::definitions() {
            let kinds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
            rig.send(Method::POST, kinds, serde_json::to_value(&definition)?).await?;
        }
        Ok(rig)
    }

    /// The part begins.
    fn run(&self) -> tokio::task::JoinHandle<Result<(), String>> {
        tokio::spawn(run(self.common.clone(), self.term.subscribe()))
    }

    async fn send(&self, method: Method, path: &str, body: Value) -> anyhow::Result<Value> {
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let reply = self.target.send(method, path, &[("content-type", kind)], Some(body.to_string())).await?;
        ensure!(reply.status < 300, "{path}: {} {}", reply.status, reply.text);
        Ok(reply.json())
    }

    /// Pods named as a Deployment's are.
    async fn pods(&self, numbers: std::ops::Range<usize>) -> Tested {
        for number in numbers {
            let name = format!("cart-5d8f7c9b6d-{number:05}");
            let spec = json!({"nodeName": format!("worker-{:03}.example", number % 100), "serviceAccountName": "cart",
                "containers": [{"name": "app", "image": "registry.example/cart:1"}]});
            let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "cart-5d8f7c9b6d", "uid": "r", "controller": true}]);
            let labels = json!({"app": "cart", "pod-template-hash": "5d8f7c9b6d"});
            let pod = json!({"metadata": {"name": name, "labels": labels, "ownerReferences": owner}, "spec": spec});
            self.send(Method::POST, "/api/v1/namespaces/demo/pods", pod).await?;
            let ip = format!("10.244.{}.{}", number / 250, number % 250 + 1);
            let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
            self.send(Method::PATCH, &format!("/api/v1/namespaces/demo/pods/{name}/status"), status).await?;
        }
        Ok(())
    }

    async fn mark(&self, number: usize, status: Option<&str>) -> Tested {
        let path = format!("/api/v1/namespaces/demo/pods/cart-5d8f7c9b6d-{number:05}");
        self.send(Method::PATCH, &path, json!({"metadata": {"annotations": {"weft.dev/status": status}}}))
            .await
            .map(drop)
    }

    /// Slices as they are: the pods of each.
    async fn slices(&self) -> anyhow::Result<BTreeMap<String, Vec<Value>>> {
        let list = self.target.send(Method::GET, SLICES, &[], None).await?.json();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let slice = |slice: &Value| {
            let workloads = slice["spec"]["workloads"].as_array().cloned().unwrap_or_default();
            (text(&slice["metadata"]["name"]), workloads)
        };
        Ok(list["items"].as_array().into_iter().flatten().map(slice).collect())
    }

    /// Waits until the slices are as wanted.
    async fn until(&self, what: &str, wanted: impl Fn(&BTreeMap<String, Vec<Value>>) -> bool) -> Tested {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let slices = self.slices().await?;
            if wanted(&slices) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{what}: {slices:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn writes(&self) -> u64 {
        let counts = self.server.counts();
        ["create", "update", "delete"].iter().map(|verb| counts.requests(verb, "workloadslices.weft.dev")).sum()
    }
}

fn uids(slices: &BTreeMap<String, Vec<Value>>) -> BTreeSet<String> {
    slices.values().flatten().map(|pod| pod["uid"].as_str().unwrap_or_default().to_owned()).collect()
}

fn count(slices: &BTreeMap<String, Vec<Value>>) -> usize {
    slices.values().map(Vec::len).sum()
}

fn live(slices: &BTreeMap<String, Vec<Value>>) -> usize {
    slices.values().flatten().filter(|pod| pod["live"] == true).count()
}

#[tokio::test]
async fn a_change_costs_one_write_and_each_agent_one_slice() -> Tested {
    let rig = Rig::start().await?;
    rig.pods(0..250).await?;
    let running = rig.run();
    rig.until("every pod to be published", |slices| count(slices) == 250 && uids(slices).len() == 250).await?;
    assert_eq!(rig.slices().await?.len(), 3, "no more slices than are needed");
    assert_eq!(rig.writes(), 3);
    // What one agent hears.
    let agent =
        observe(&rig.common.client, [Interest { namespace: Some("weft-system".into()), ..Kind::WorkloadSlice.into() }]);
    let mut news = agent.news;
    let first = loop {
        match news.recv().await.context("no news")? {
            (_, News::Found(_)) => {}
            (_, News::Listed(first)) => break first,
            (_, other) => panic!("{other:?} before all were listed"),
        }
    };
    assert_eq!(first.iter().count(), 3);
    let heard = |rig: &Rig| {
        let counts = rig.server.counts();
        let slices = counts.watches.values().filter(|watch| watch.open && watch.resource == "workloadslices.weft.dev");
        slices.map(|watch| watch.bytes).collect::<Vec<_>>()
    };
    let before = heard(&rig);
    rig.mark(7, Some("enrolled")).await?;
    rig.until("it to be live", |slices| live(slices) == 1).await?;
    let (_, News::Put(_)) = news.recv().await.context("no news")? else { panic!("no change") };
    assert_eq!(rig.writes(), 4, "one change, one write");
    let bytes: Vec<u64> = heard(&rig).iter().zip(&before).map(|(now, before)| now - before).collect();
    let each = *bytes.iter().max().context("no watch")?;
    eprintln!("a change of a pod: {each} bytes to each agent, in a slice of {FILL} pods");
    assert!(each > 0 && each < 300 * FILL as u64, "{bytes:?}");
    // Changes that come together are written together: those of one slice once.
    let before = rig.writes();
    futures_mark(&rig, 0..100).await?;
    rig.until("all of a slice to be live", |slices| live(slices) >= 100).await?;
    let writes = rig.writes() - before;
    eprintln!("100 changes one after another: {writes} writes");
    assert!(writes <= 50, "{writes} writes");
    rig.common.shutdown.cancel();
    running.await?.map_err(anyhow::Error::msg)
}

async fn futures_mark(rig: &Rig, numbers: std::ops::Range<usize>) -> Tested {
    for number in numbers {
        rig.mark(number, Some("enrolled")).await?;
    }
    Ok(())
}

#[tokio::test]
async fn only_the_holder_writes_and_its_successor_finds_nothing_to_do() -> Tested {
    let rig = Rig::start().await?;
    rig.pods(0..5).await?;
    let one = rig.run();
    rig.until("every pod to be published", |slices| count(slices) == 5).await?;
    // The Lease is lost: what changes meanwhile is not written.
    rig.term.send_replace(Term::default());
    rig.mark(1, Some("enrolled")).await?;
    let looking = observe(&rig.common.client, [Kind::Pod.into()]);
    let mut news = looking.news;
    news.recv().await.context("no news")?;
    tokio::time::sleep(GATHER * 5).await;
    assert_eq!((rig.writes(), live(&rig.slices().await?)), (1, 0));
    rig.term.send_replace(Term::until(Instant::now() + Duration::from_secs(3600)));
    rig.until("the change to be published", |slices| live(slices) == 1).await?;
    assert_eq!(rig.writes(), 2, "what was there was not written again");
    rig.common.shutdown.cancel();
    one.await?.map_err(anyhow::Error::msg)
}

#[tokio::test]
async fn what_somebody_else_writes_or_deletes_is_put_right() -> Tested {
    let rig = Rig::start().await?;
    let running = rig.run();
    // Agents wait for one: there is one without pods.
    rig.until("a slice", |slices| slices.len() == 1 && count(slices) == 0).await?;
    rig.pods(0..3).await?;
    rig.until("every pod to be published", |slices| count(slices) == 3).await?;
    let name = rig.slices().await?.into_keys().next().context("no slice")?;
    rig.send(Method::PATCH, &format!("{SLICES}/{name}"), json!({"spec": {"workloads": []}})).await?;
    rig.until("what was written over it to be put right", |slices| count(slices) == 3).await?;
    rig.send(Method::DELETE, &format!("{SLICES}/{name}"), json!({})).await?;
    rig.until("it to be back", |slices| count(slices) == 3).await?;
    let foreign = json!({"apiVersion": "weft.dev/v1alpha1", "kind": "WorkloadSlice", "metadata": {"name": "foreign"},
        "spec": {"workloads": [{"uid": "nobody", "live": true}]}});
    rig.send(Method::POST, SLICES, foreign).await?;
    rig.until("the foreign one to go", |slices| slices.len() == 1 && count(slices) == 3).await?;
    rig.common.shutdown.cancel();
    running.await?.map_err(anyhow::Error::msg)
}
