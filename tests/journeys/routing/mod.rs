//! HTTPRoutes and GRPCRoutes over real connections: each request goes where its rule says, changed as its filters say.

mod consumers;
mod filters;
mod grpc;
mod limits;
mod matching;
mod shares;

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_tests::app::{App, Ask, Behaviour, Http, Reply, Requests};
use weft_tests::lab::{Lab, NAMESPACE, Node, Pod, Service};
use weft_tests::wait;

use crate::fixture::{anywhere, moves};

/// In a row: what holds once may hold by chance.
const ROW: usize = 50;

/// `web` of the servers `v1` and `v2`, each also a Service of its own; a client on another node.
struct Routes {
    lab: Lab,
    a: Node,
    app: App,
    servers: Vec<(App, u64)>,
    web: Service,
}

impl Routes {
    /// With this `appProtocol`, if any: a route is enough to make a port HTTP.
    fn new(name: &str, app_protocol: Option<&str>) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (a, b) = (lab.node("a")?, lab.node("b")?);
        let app = lab.pod(&a, "client").create()?.app(&lab)?;
        let mut servers = Vec::new();
        let mut pods: Vec<Pod> = Vec::new();
        for name in ["v1", "v2"] {
            let pod = lab.pod(&b, name).create()?;
            let server = pod.app(&lab)?;
            let (listener, _) = server.listen(anywhere(8080), name, Behaviour::Http)?;
            lab.service(name).pods(&[&pod]).create()?;
            servers.push((server, listener));
            pods.push(pod);
        }
        let web = lab.service("web").pods(&pods.iter().collect::<Vec<_>>());
        let web = match app_protocol {
            Some(app_protocol) => web.speaks(app_protocol),
            None => web,
        };
        let web = web.create()?;
        lab.start_agents()?;
        lab.mesh()?;
        Ok(Self { lab, a, app, servers, web })
    }

    /// Attaches a route of these rules to `web`, and of one more, by which it is seen that it is there.
    fn route(&self, kind: &str, namespace: &str, name: &str, mut rules: Value) -> Result<()> {
        let there = json!({
            "matches": [{"path": {"type": "Exact", "value": "/there"}}],
            "filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "there", "statusCode": 302}}]
        });
        if let Some(rules) = rules.as_array_mut().filter(|_| kind == "HTTPRoute") {
            rules.push(there);
        }
        self.lab.manifests().put(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": "web", "namespace": NAMESPACE, "port": 80}],
                "rules": rules
            }
        }))
    }

    fn get(&self, ask: &Ask) -> Result<Reply> {
        self.app.fetch(self.web.v4(), Http::One, ask.clone())
    }

    /// Waits until the route decides.
    fn in_force(&self) -> Result<()> {
        self.settles("the route", &Ask::get("/there"), |reply| reply.status == 302)
    }

    /// Waits until a request is answered so.
    fn settles(&self, what: &str, ask: &Ask, good: impl Fn(&Reply) -> bool) -> Result<()> {
        wait::until(what, wait::DEADLINE, || {
            let reply = self.get(ask)?;
            ensure!(good(&reply), "{reply:?}");
            Ok(())
        })
    }

    /// Checks that every one of many such requests, over both versions, goes to this server.
    fn all_to(&self, name: &str, ask: &Ask) -> Result<()> {
        for http in [Http::One, Http::Two] {
            let answers = moves(&self.lab, &self.a, "connect_steer", 1, || {
                self.app.request(Requests::to(self.web.v4(), http, ask.clone(), ROW as u64))
            })?;
            let expected = BTreeMap::from([(name.to_owned(), ROW as u64)]);
            ensure!(answers.names == expected && answers.with(200) == ROW as u64, "{ask:?}: {answers:?}");
        }
        Ok(())
    }
}

fn to(name: &str) -> Value {
    json!([{"name": name, "port": 80}])
}
