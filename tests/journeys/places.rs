//! Backends wherever they are wanted, and what they count: where journeys start that are about which of them is chosen.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use weft_tests::app::{App, Behaviour, Calls};
use weft_tests::lab::{Endpoint, Lab, NAMESPACE, Node, Pod, Service};
use weft_tests::wait;

use crate::fixture::{anywhere, running_agent};

/// Far less than any timeout of the mesh, far more than a reset takes.
const FAST: Duration = Duration::from_secs(1);
/// How the hooks take connections to a Service.
const TAKEN: [&str; 3] = ["connect_same_node", "connect_steer", "connect_steer_rest"];

/// A client on node `a` and backends wherever they are wanted, behind the Service `echo`.
pub(crate) struct Places {
    pub(crate) lab: Lab,
    pub(crate) nodes: BTreeMap<&'static str, Node>,
    pub(crate) app: App,
    pub(crate) backends: Vec<(Pod, App, u64)>,
    pub(crate) echo: Service,
}

impl Places {
    /// Backends by name and node; everything meshed.
    pub(crate) fn new(lab: Lab, backends: &[(&str, &'static str)]) -> Result<Self> {
        let mut nodes = BTreeMap::from([("a", lab.node("a")?)]);
        for (_, node) in backends {
            if !nodes.contains_key(node) {
                nodes.insert(*node, lab.node(node)?);
            }
        }
        let app = lab.pod(&nodes["a"], "client").create()?.app(&lab)?;
        let mut made = Vec::new();
        for (name, node) in backends {
            let pod = lab.pod(&nodes[node], name).ports(&[8080]).create()?;
            let server = pod.app(&lab)?;
            let (listener, _) = server.listen(anywhere(8080), name, Behaviour::Identify)?;
            made.push((pod, server, listener));
        }
        let pods: Vec<&Pod> = made.iter().map(|(pod, ..)| pod).collect();
        let echo = lab.service("echo").pods(&pods).create()?;
        lab.start_agents()?;
        lab.mesh()?;
        Ok(Self { lab, nodes, app, backends: made, echo })
    }

    /// Every backend as an endpoint, those named not ready.
    pub(crate) fn endpoints(&self, unready: &[&str]) -> Vec<Endpoint> {
        let endpoint = |pod: &Pod| Endpoint { ready: !unready.contains(&pod.name()), ..Endpoint::from(pod) };
        self.backends.iter().map(|(pod, ..)| endpoint(pod)).collect()
    }

    /// Sets fields of the Service.
    pub(crate) fn spec(&self, fields: &Value) -> Result<()> {
        self.lab.manifests().change("Service", NAMESPACE, "echo", |service| {
            for (key, value) in fields.as_object().into_iter().flatten() {
                service["spec"][key] = value.clone();
            }
        })
    }

    /// What each backend counts of so many calls, half by each family. None fails.
    pub(crate) fn spread(&self, count: u64) -> Result<BTreeMap<String, u64>> {
        let before = self.counts()?;
        for to in [self.echo.v4(), self.echo.v6()] {
            let summary = self.app.call(Calls::to(to).times(count / 2, 8))?;
            ensure!(summary.ok == count / 2 && summary.failed() == 0, "{to}: {summary:?}");
        }
        let after = self.counts()?;
        let gained = after.into_iter().map(|(name, count)| (name.clone(), count - before[&name]));
        Ok(gained.filter(|(_, count)| *count > 0).collect())
    }

    /// Connections each backend has accepted so far.
    pub(crate) fn counts(&self) -> Result<BTreeMap<String, u64>> {
        let seen = |(pod, app, listener): &(Pod, App, u64)| Ok((pod.name().to_owned(), app.seen(*listener)?.accepted));
        self.backends.iter().map(seen).collect()
    }

    /// Waits until exactly these get connections, all of them taken by the mesh.
    pub(crate) fn only(&self, what: &str, names: &[&str]) -> Result<()> {
        wait::until(what, wait::DEADLINE, || {
            let spread = self.taken(40, || self.spread(40))?;
            let got: Vec<&str> = spread.keys().map(String::as_str).collect();
            ensure!(got == names, "{spread:?}");
            Ok(())
        })
    }

    /// Runs a journey of so many connections and checks that the hooks took each, one way or another.
    pub(crate) fn taken<R>(&self, count: u64, journey: impl FnOnce() -> Result<R>) -> Result<R> {
        let agent = running_agent(&self.lab, &self.nodes["a"])?;
        let sum = |verdicts: &BTreeMap<String, u64>| -> u64 { TAKEN.iter().filter_map(|v| verdicts.get(*v)).sum() };
        let before = sum(&agent.verdicts()?);
        let result = journey()?;
        let by = sum(&agent.verdicts()?) - before;
        ensure!(by >= count, "the hooks took {by} connections, not {count}");
        Ok(result)
    }

    /// The Service's first port, as the agent of `a` tells it.
    pub(crate) fn told(&self) -> Result<Value> {
        let services = running_agent(&self.lab, &self.nodes["a"])?.ask("/services")?;
        let echo = services.as_array().into_iter().flatten().find(|service| service["name"] == "echo");
        Ok(echo.context("the Service is not known")?["ports"][0].clone())
    }

    /// Waits until the Service refuses, at once and without a word to any backend.
    pub(crate) fn refused(&self) -> Result<()> {
        wait::until("the Service to refuse", wait::DEADLINE, || {
            let before = self.counts()?;
            for to in [self.echo.v4(), self.echo.v6()] {
                let begun = Instant::now();
                if let Ok(name) = self.app.call_once(to) {
                    bail!("{name} answered at {to}");
                }
                ensure!(begun.elapsed() < FAST, "a refusal took {:?}", begun.elapsed());
            }
            ensure!(self.counts()? == before);
            Ok(())
        })
    }
}
