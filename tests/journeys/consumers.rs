//! TCPRoutes of consumers: what a namespace decides for its own clients, and for nobody else's.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::json;
use weft_tests::app::{App, Behaviour, Calls};
use weft_tests::lab::{Lab, NAMESPACE, Node, Service};
use weft_tests::wait;

use crate::fixture::anywhere;
use crate::same_node::{Way, settles};

/// The namespace of the consumer.
const ELSEWHERE: &str = "elsewhere";
/// Calls of which every backend that has a share gets some: one in 2^39 times not.
const MANY: u64 = 40;

/// A client of the Service's own namespace and one of another's on node `a`, and `v1` and `v2` behind the Service `echo`.
struct Sides {
    lab: Lab,
    a: Node,
    own: App,
    theirs: App,
    echo: Service,
    /// Held for their drop.
    _servers: Vec<App>,
}

impl Sides {
    /// With the backends on that node; everything meshed.
    fn new(name: &str, node: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let a = lab.node("a")?;
        let far = if node == "a" { a.clone() } else { lab.node(node)? };
        let own = lab.pod(&a, "client").create()?.app(&lab)?;
        let other = lab.pod(&a, "other").namespace(ELSEWHERE).mesh("enabled").create()?;
        let theirs = other.app(&lab)?;
        let (mut pods, mut servers) = (Vec::new(), Vec::new());
        for name in ["v1", "v2"] {
            let pod = lab.pod(&far, name).ports(&[8080]).create()?;
            let server = pod.app(&lab)?;
            server.listen(anywhere(8080), name, Behaviour::Identify)?;
            lab.service(name).pods(&[&pod]).create()?;
            pods.push(pod);
            servers.push(server);
        }
        let echo = lab.service("echo").pods(&pods.iter().collect::<Vec<_>>()).create()?;
        lab.start_agents()?;
        lab.mesh()?;
        lab.wait_live(&other)?;
        // In turns: what is counted here is who is concerned, not which endpoint is faster on a busy machine.
        lab.algorithm(&echo, "RoundRobin")?;
        Ok(Self { lab, a, own, theirs, echo, _servers: servers })
    }

    /// Has the other namespace send its clients to `v2` alone.
    fn route(&self) -> Result<()> {
        self.lab.manifests().put(json!({
            "apiVersion": "gateway.networking.k8s.io/v1alpha2", "kind": "TCPRoute",
            "metadata": {"name": "echo", "namespace": ELSEWHERE},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": "echo", "namespace": NAMESPACE}],
                "rules": [{"backendRefs": [{"name": "v2", "namespace": NAMESPACE, "port": 80}]}]
            }
        }))
    }

    /// Lets it name Services of the other's.
    fn grant(&self) -> Result<()> {
        self.lab.manifests().put(json!({
            "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
            "metadata": {"name": "routes", "namespace": NAMESPACE},
            "spec": {
                "from": [{"group": "gateway.networking.k8s.io", "kind": "TCPRoute", "namespace": ELSEWHERE}],
                "to": [{"group": "", "kind": "Service"}]
            }
        }))
    }

    /// Who answers a client, of many calls by each family; none fails.
    fn answers(&self, app: &App) -> Result<Vec<String>> {
        let mut names = BTreeMap::new();
        for to in [self.echo.v4(), self.echo.v6()] {
            let summary = app.call(Calls::to(to).times(MANY, 4))?;
            ensure!(summary.ok == MANY && summary.failed() == 0, "{to}: {summary:?}");
            names.extend(summary.names);
        }
        Ok(names.into_keys().collect())
    }

    /// Waits until the consumer's clients are answered by `v2` alone; those of the Service's namespace are by both.
    fn divided(&self) -> Result<()> {
        wait::until("the consumer's route", wait::DEADLINE, || {
            let names = self.answers(&self.theirs)?;
            ensure!(names == ["v2"], "{names:?} answered its clients");
            Ok(())
        })?;
        let names = self.answers(&self.own)?;
        ensure!(names == ["v1", "v2"], "others are not concerned, and {names:?} answered them");
        Ok(())
    }

    /// Waits until both are answered by both.
    fn undivided(&self) -> Result<()> {
        wait::until("no route", wait::DEADLINE, || {
            for app in [&self.own, &self.theirs] {
                let names = self.answers(app)?;
                ensure!(names == ["v1", "v2"], "{names:?}");
            }
            Ok(())
        })
    }
}

#[test]
fn tcp_consumer_routes_are_their_namespaces_own() -> Result<()> {
    let sides = Sides::new("tcp-consumer", "b")?;
    sides.undivided()?;
    sides.route()?;
    wait::until("what was not granted to be refused", wait::DEADLINE, || {
        let summary = sides.theirs.call(Calls::to(sides.echo.v4()).times(4, 2).deadline_ms(3000))?;
        ensure!(summary.ok == 0 && summary.failed() == 4, "{summary:?}");
        Ok(())
    })?;
    let names = sides.answers(&sides.own)?;
    ensure!(names == ["v1", "v2"], "others are not concerned, and {names:?} answered them");
    sides.grant()?;
    sides.divided()?;
    sides.lab.manifests().remove("TCPRoute", ELSEWHERE, "echo");
    sides.undivided()?;
    sides.lab.finish()
}

#[test]
fn tcp_consumer_routes_decide_on_the_node_too() -> Result<()> {
    let sides = Sides::new("tcp-consumer-near", "a")?;
    let goes = |way: Way| {
        [&sides.own, &sides.theirs]
            .into_iter()
            .try_for_each(|app| settles(&sides.lab, &sides.a, app, sides.echo.v4(), way))
    };
    goes(Way::Direct)?;
    sides.undivided()?;
    sides.grant()?;
    sides.route()?;
    // The kernel draws for nobody what some are to get otherwise.
    sides.divided()?;
    goes(Way::Proxy)?;
    sides.lab.manifests().remove("TCPRoute", ELSEWHERE, "echo");
    goes(Way::Direct)?;
    sides.undivided()?;
    sides.lab.finish()
}
