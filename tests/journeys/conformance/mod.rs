//! The mesh tests of Gateway API's conformance suite, by their names there: the same routes and requests, and more of each.
//! Every case holds fifty times in a row, over both versions of HTTP; what the backend saw and where a redirect leads is
//! compared whole.

mod filters;
mod frontends;
mod grpc;
mod matching;
mod redirects;
mod weights;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::app::{App, Ask, Behaviour, Http, Reply, Requests};
use weft_tests::lab::{Lab, NAMESPACE, Node, Pod, Service};
use weft_tests::wait;

use crate::fixture::{anywhere, moves};

/// In a row: what holds once may hold by chance.
const ROW: u64 = 50;

/// The suite's mesh: `echo` of the pods `echo-v1` and `echo-v2`, each also a Service of its own; a client on another node.
struct Echo {
    lab: Lab,
    a: Node,
    app: App,
    servers: Vec<(App, u64)>,
    pods: Vec<Pod>,
    echo: Service,
    v1: Service,
    v2: Service,
}

impl Echo {
    fn new(name: &str) -> Result<Self> {
        Self::speaking(name, "http")
    }

    fn speaking(name: &str, app_protocol: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (a, b) = (lab.node("a")?, lab.node("b")?);
        let app = lab.pod(&a, "client").create()?.app(&lab)?;
        let (mut servers, mut pods, mut services) = (Vec::new(), Vec::new(), Vec::new());
        for name in ["echo-v1", "echo-v2"] {
            let pod = lab.pod(&b, name).create()?;
            let server = pod.app(&lab)?;
            let (listener, _) = server.listen(anywhere(8080), name, Behaviour::Http)?;
            services.push(lab.service(name).speaks(app_protocol).pods(&[&pod]).create()?);
            servers.push((server, listener));
            pods.push(pod);
        }
        let echo = lab.service("echo").speaks(app_protocol).pods(&pods.iter().collect::<Vec<_>>()).create()?;
        lab.start_agents()?;
        lab.mesh()?;
        let (v2, v1) = (services.pop().context("two")?, services.pop().context("two")?);
        Ok(Self { lab, a, app, servers, pods, echo, v1, v2 })
    }

    /// An HTTPRoute of this namespace for these parents.
    fn route(&self, namespace: &str, parents: &[Value], rules: Value) -> Result<()> {
        self.put("HTTPRoute", namespace, parents, rules)
    }

    fn put(&self, kind: &str, namespace: &str, parents: &[Value], rules: Value) -> Result<()> {
        self.lab.manifests().put(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
            "metadata": {"name": "conformance", "namespace": namespace},
            "spec": {"parentRefs": parents, "rules": rules}
        }))
    }

    /// Rules for `echo`.
    fn rules(&self, rules: Value) -> Result<()> {
        self.route(NAMESPACE, &[parent("echo", Some(80))], rules)
    }

    /// Plays cases of requests to `echo`.
    fn play(&self, cases: &[Case]) -> Result<()> {
        cases.iter().try_for_each(|case| self.case(&self.app, &self.echo, case))
    }

    /// Plays a case, once until it holds, for routes take effect by and by; then often, and then it must.
    fn case(&self, app: &App, to: &Service, case: &Case) -> Result<()> {
        self.case_at(app, to.v4(), case)
    }

    fn case_at(&self, app: &App, to: SocketAddr, case: &Case) -> Result<()> {
        let what = format!("{:?}", case.ask);
        let versions = if case.grpc { &[Http::Two][..] } else { &[Http::One, Http::Two] };
        // Before it has a route a Service answers at random.
        wait::until(&what, wait::DEADLINE, || {
            let replies = app.row(to, versions[0], case.ask.clone(), 15)?;
            replies.iter().try_for_each(|reply| case.holds(reply))
        })?;
        for http in versions {
            moves(&self.lab, &self.a, "connect_steer", 1, || {
                let replies = app.row(to, *http, case.ask.clone(), ROW)?;
                ensure!(replies.len() as u64 == ROW);
                replies.iter().try_for_each(|reply| case.holds(reply)).with_context(|| format!("{http:?}: {what}"))
            })?;
        }
        Ok(())
    }

    /// Requests of each server so far.
    fn seen(&self) -> Result<Vec<u64>> {
        self.servers.iter().map(|(app, listener)| Ok(app.seen(*listener)?.requests)).collect()
    }

    /// Waits until 500 requests are shared out within five points of this, in three tries: one alone would fail by chance
    /// every seventieth time.
    fn shares(&self, http: Http, ask: &Ask, shares: &[(&str, f64)]) -> Result<()> {
        let mut last = String::new();
        for _ in 0..3 {
            let requests = Requests::to(self.echo.v4(), http, ask.clone(), 500).over(5, 2);
            let answers = moves(&self.lab, &self.a, "connect_steer", 5, || self.app.request(requests))?;
            ensure!(answers.with(200) == 500 && answers.failed() == 0, "{answers:?}");
            let known: BTreeMap<_, _> = shares.iter().copied().collect();
            ensure!(answers.names.keys().all(|name| known.contains_key(name.as_str())), "{answers:?}");
            let share = |name: &str| answers.names.get(name).copied().unwrap_or_default() as f64 / 500.0;
            if shares.iter().all(|(name, wanted)| (share(name) - wanted).abs() <= 0.05) {
                return Ok(());
            }
            last = format!("{answers:?}");
        }
        anyhow::bail!("not {shares:?}: {last}")
    }
}

/// A Service as a parent, or one of its ports.
fn parent(name: &str, port: Option<u16>) -> Value {
    let mut parent = json!({"group": "", "kind": "Service", "name": name, "namespace": NAMESPACE});
    if let Some(port) = port {
        parent["port"] = port.into();
    }
    parent
}

/// One backend.
fn to(name: &str) -> Value {
    json!([{"name": name, "port": 80}])
}

fn prefix(path: &str) -> Value {
    json!({"path": {"type": "PathPrefix", "value": path}})
}

fn header(name: &str, value: &str) -> Value {
    json!({"headers": [{"name": name, "value": value}]})
}

/// A request, and what is to become of it.
struct Case {
    ask: Ask,
    grpc: bool,
    status: u16,
    backend: Option<&'static str>,
    /// Its target, as the backend saw it.
    path: Option<&'static str>,
    /// Fields the backend saw, all values of one joined; none that are empty.
    sees: Vec<(&'static str, &'static str)>,
    /// Fields of the response; none that are empty.
    fields: Vec<(&'static str, &'static str)>,
}

impl Case {
    fn of(ask: Ask) -> Self {
        Self { ask, grpc: false, status: 200, backend: None, path: None, sees: Vec::new(), fields: Vec::new() }
    }

    fn get(target: &str) -> Self {
        Self::of(Ask::get(target))
    }

    /// Sent with these fields.
    fn with(self, headers: &[(&str, &str)]) -> Self {
        Self { ask: self.ask.with(headers), ..self }
    }

    /// Answered by this backend.
    fn by(self, backend: &'static str) -> Self {
        Self { backend: Some(backend), ..self }
    }

    /// Answered by nobody, with this status.
    fn refused(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// Sent elsewhere.
    fn moved(self, status: u16, location: &'static str) -> Self {
        Self { status, ..self }.answered(&[("location", location)])
    }

    /// Seen by the backend with this target.
    fn seen_at(self, path: &'static str) -> Self {
        Self { path: Some(path), ..self }
    }

    /// Seen by the backend with these fields.
    fn sees(self, sees: &[(&'static str, &'static str)]) -> Self {
        Self { sees: sees.to_vec(), ..self }
    }

    /// Answered with these fields.
    fn answered(self, fields: &[(&'static str, &'static str)]) -> Self {
        Self { fields: fields.to_vec(), ..self }
    }

    fn holds(&self, reply: &Reply) -> Result<()> {
        ensure!(reply.status == self.status, "{} is not {}: {reply:?}", reply.status, self.status);
        ensure!(
            reply.header("x-name") == self.backend,
            "{:?} is not {:?}: {reply:?}",
            reply.header("x-name"),
            self.backend
        );
        for (name, value) in &self.fields {
            ensure!(joined(&reply.headers, name) == *value, "{name} of the answer is not {value:?}: {reply:?}");
        }
        if self.grpc {
            let status = reply.trailer("grpc-status").or_else(|| reply.header("grpc-status"));
            ensure!(status == Some("0"), "{reply:?}");
        }
        if self.backend.is_none() {
            return Ok(());
        }
        let saw = reply.saw()?;
        if let Some(path) = self.path {
            let seen = saw.target.strip_prefix("http://").and_then(|rest| rest.find('/').map(|at| &rest[at..]));
            ensure!(seen.unwrap_or(&saw.target) == path, "not {path}: {saw:?}");
        }
        for (name, value) in &self.sees {
            ensure!(joined(&saw.headers, name) == *value, "{name} is not {value:?}: {saw:?}");
        }
        Ok(())
    }
}

fn joined(fields: &[(String, String)], name: &str) -> String {
    fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(",")
}
