//! Connections between pods of one node past the proxy, from unmodified processes: what they must have in common with
//! those that go through it.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_tests::app::{App, Behaviour, Calls, End, Payload, Until};
use weft_tests::lab::{Lab, Layout, NAMESPACE, Node, Pod, Service};
use weft_tests::wait;

use crate::fixture::{anywhere, moved, moves, running_agent};
use crate::security::policy;

/// The two ways between pods of one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// Past the proxy.
    Direct,
    /// Through it.
    Proxy,
}

impl Way {
    pub(crate) const BOTH: [Self; 2] = [Self::Direct, Self::Proxy];
}

/// One node with `client`, and `server` behind the Service `echo`, meshed.
pub(crate) struct Near {
    pub(crate) lab: Lab,
    pub(crate) node: Node,
    pub(crate) client: Pod,
    pub(crate) server: Pod,
    pub(crate) echo: Service,
    pub(crate) app: App,
    pub(crate) peer: App,
    pub(crate) listener: u64,
}

impl Near {
    /// Everything up, connections going past the proxy.
    pub(crate) fn serving(name: &str, behaviour: Behaviour) -> Result<Self> {
        Self::with(name, Layout::Routed, behaviour)
    }

    /// The same with the pods linked to their node so.
    pub(crate) fn with(name: &str, layout: Layout, behaviour: Behaviour) -> Result<Self> {
        let lab = Lab::new(name)?;
        let node = lab.node_with("a", layout)?;
        let (client, server) = (lab.pod(&node, "client").create()?, lab.pod(&node, "server").create()?);
        let echo = lab.service("echo").pods(&[&server]).create()?;
        let (app, peer) = (client.app(&lab)?, server.app(&lab)?);
        let (listener, _) = peer.listen(anywhere(8080), "server", behaviour)?;
        lab.start_agents()?;
        lab.mesh()?;
        let near = Self { lab, node, client, server, echo, app, peer, listener };
        near.goes(Way::Direct)?;
        Ok(near)
    }

    /// The Service's two addresses.
    pub(crate) fn vips(&self) -> [SocketAddr; 2] {
        [self.echo.v4(), self.echo.v6()]
    }

    /// Sends the Service's connections this way.
    pub(crate) fn send(&self, way: Way) -> Result<()> {
        self.annotate("Service", NAMESPACE, "echo", way)?;
        self.goes(way)
    }

    /// Writes or takes off the annotation that keeps connections off the fast path.
    pub(crate) fn annotate(&self, kind: &str, namespace: &str, name: &str, way: Way) -> Result<()> {
        self.lab.manifests().change(kind, namespace, name, |object| {
            object["metadata"]["annotations"]["weft.dev/fast-path"] = match way {
                Way::Direct => Value::from("enabled"),
                Way::Proxy => Value::from("disabled"),
            };
        })
    }

    /// Waits until connections to the Service go this way.
    pub(crate) fn goes(&self, way: Way) -> Result<()> {
        settles(&self.lab, &self.node, &self.app, self.echo.v4(), way)
    }

    /// Runs a journey of `count` connections and checks that they went this way, and none the other.
    pub(crate) fn by<R>(&self, way: Way, count: u64, journey: impl FnOnce() -> Result<R>) -> Result<R> {
        by(&self.lab, &self.node, way, count, journey)
    }

    /// Lines of the access log that tell of connections by this path, as JSON.
    pub(crate) fn logged(&self, way: Way) -> Result<Vec<String>> {
        let log = running_agent(&self.lab, &self.node)?.process().log();
        let path =
            |line: &&str| line.contains("weft::access") && line.contains("path=\"same_node\"") == (way == Way::Direct);
        Ok(log.lines().filter(path).map(str::to_owned).collect())
    }
}

/// Waits until connections from `app` to `to` go this way.
pub(crate) fn settles(lab: &Lab, node: &Node, app: &App, to: SocketAddr, way: Way) -> Result<()> {
    wait::until(&format!("connections to {to} to go this way: {way:?}"), wait::DEADLINE, || {
        by(lab, node, way, 4, || app.call(Calls::to(to).times(4, 1)))
    })
    .map(drop)
}

fn by<R>(lab: &Lab, node: &Node, way: Way, count: u64, journey: impl FnOnce() -> Result<R>) -> Result<R> {
    let agent = running_agent(lab, node)?;
    let before = agent.verdicts()?;
    let result = journey()?;
    let after = agent.verdicts()?;
    let by = |verdict: &str| {
        after.get(verdict).copied().unwrap_or_default() - before.get(verdict).copied().unwrap_or_default()
    };
    let (direct, steered) = (by("connect_same_node"), by("connect_steer") + by("connect_steer_rest"));
    let as_asked = match way {
        Way::Direct => direct >= count && steered == 0,
        Way::Proxy => steered >= count && direct == 0,
    };
    ensure!(as_asked, "{direct} went directly, {steered} by the proxy; it is {}", agent.ask("/status")?["fast_path"]);
    Ok(result)
}

#[test]
fn fast_path_keeps_weights() -> Result<()> {
    let lab = Lab::new("near-weights")?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let app = lab.pod(&a, "client").create()?.app(&lab)?;
    let mut pods = Vec::new();
    for (node, name, weight) in [(&a, "one", 4), (&a, "two", 1), (&b, "three", 3), (&b, "four", 2)] {
        let pod = lab.pod(node, name).weight(weight).create()?;
        let server = pod.app(&lab)?;
        server.listen(anywhere(8080), name, Behaviour::Identify)?;
        pods.push((pod, server));
    }
    let echo = lab.service("echo").pods(&pods.iter().map(|(pod, _)| pod).collect::<Vec<_>>()).create()?;
    lab.start_agents()?;
    lab.mesh()?;
    for way in Way::BOTH {
        for algorithm in ["Random", "RoundRobin"] {
            lab.algorithm(&echo, algorithm)?;
            lab.manifests().change("Service", NAMESPACE, "echo", |object| {
                let word = if way == Way::Direct { "enabled" } else { "disabled" };
                object["metadata"]["annotations"]["weft.dev/fast-path"] = word.into();
            })?;
            let counted =
                |count: u64| moves(&lab, &a, "lookup_same_node", count, || app.call(Calls::to(echo.v4()).times(20, 1)));
            wait::until("the way to be taken", wait::DEADLINE, || match way {
                Way::Direct => counted(1).map(drop),
                Way::Proxy => by(&lab, &a, way, 20, || counted(0)).map(drop),
            })?;
            let mut names = std::collections::BTreeMap::<String, u64>::new();
            let direct = if way == Way::Direct { 4_500 } else { 0 };
            let agent = running_agent(&lab, &a)?;
            let before = agent.verdicts()?;
            for to in [echo.v4(), echo.v6()] {
                let summary = app.call(Calls::to(to).times(5_000, 8))?;
                ensure!(summary.ok == 5_000 && summary.untruthful == 0, "{to}: {summary:?}");
                summary.names.into_iter().for_each(|(name, count)| *names.entry(name).or_default() += count);
            }
            moved(&agent, &before, "connect_same_node", direct)?;
            println!("{way:?} {algorithm}: {names:?}");
            for (name, share) in [("one", 0.4), ("two", 0.1), ("three", 0.3), ("four", 0.2)] {
                let off = (names[name] as f64 / 10_000.0 - share).abs();
                ensure!(off <= 0.02, "{way:?} {algorithm}: {names:?}");
            }
        }
    }
    lab.finish()
}

#[test]
fn fast_path_is_truthful() -> Result<()> {
    let near = Near::serving("near-truth", Behaviour::Identify)?;
    for way in Way::BOTH {
        near.send(way)?;
        near.by(way, 42, || {
            for to in near.vips() {
                let ours = near.app.open(to)?;
                ensure!(ours.peer == to, "{way:?}: the client is told {} for {to}", ours.peer);
                ensure!(near.client.addresses().contains(&ours.local.ip()), "{way:?}: the client is {}", ours.local);
                near.app.close(ours.conn)?;
                let summary = near.app.call(Calls::to(to).times(20, 2))?;
                ensure!(summary.ok == 20 && summary.untruthful == 0, "{way:?}: {summary:?}");
                ensure!(summary.seen_as.iter().all(|ip| near.client.addresses().contains(ip)), "{way:?}: {summary:?}");
            }
            Ok(())
        })?;
    }
    near.lab.finish()
}

#[test]
fn fast_path_half_close_both_ways() -> Result<()> {
    let near = Near::serving("near-half", Behaviour::Identify)?;
    let (listener, _) = near.peer.listen(anywhere(8081), "manual", Behaviour::Manual)?;
    let manual = near.lab.service("manual").port(80, 8081).pods(&[&near.server]).create()?;
    let payload = Payload::Noise { seed: 5, length: 400_000 };
    for way in Way::BOTH {
        near.annotate("Service", NAMESPACE, "manual", way)?;
        wait::until("the way to be taken", wait::DEADLINE, || {
            near.by(way, 1, || {
                let (ours, theirs) = joined(&near, listener, manual.v4())?;
                near.app.close(ours).and(near.peer.close(theirs))
            })
        })?;
        for to in [manual.v4(), manual.v6()] {
            for client_first in [true, false] {
                let (ours, theirs) = near.by(way, 1, || joined(&near, listener, to))?;
                let ((first, one), (second, two)) = if client_first {
                    ((&near.app, ours), (&near.peer, theirs))
                } else {
                    ((&near.peer, theirs), (&near.app, ours))
                };
                first.finish(one)?;
                let end = second.receive(two, Until::End)?;
                ensure!(end.end == Some(End::Fin) && end.sum.length == 0, "{way:?} {to}: {end:?}");
                let exchange = std::thread::scope(|scope| {
                    let sending = scope.spawn(|| second.exchange(two, payload.clone()));
                    let received = first.receive(one, Until::End);
                    sending.join().map_err(|_| anyhow::anyhow!("panicked"))?.and(received)
                })?;
                ensure!(exchange.sum == payload.sum() && exchange.end == Some(End::Fin), "{way:?} {to}: {exchange:?}");
            }
        }
    }
    // What the kernel counted is what was carried: the half-closed transfers, each way twice for each family.
    let agent = running_agent(&near.lab, &near.node)?;
    wait::until("the bytes to be counted", wait::DEADLINE, || {
        let labels = [("path", "same_node"), ("reporter", "source"), ("destination_service_name", "manual")];
        let metrics = agent.metrics()?;
        let (sent, received) =
            (metrics.sum("weft_tcp_sent_bytes_total", &labels), metrics.sum("weft_tcp_received_bytes_total", &labels));
        // A byte joins the two ends of each, and of those that tried which way is taken.
        ensure!((800_004.0..800_100.0).contains(&sent) && received == 800_000.0, "{sent} and {received}");
        Ok(())
    })?;
    near.lab.finish()
}

/// A connection of which both ends have a byte.
fn joined(near: &Near, listener: u64, to: SocketAddr) -> Result<(u64, u64)> {
    let ours = near.app.open(to)?.conn;
    near.app.say(ours, "x")?;
    let theirs = near.peer.accept(listener)?.conn;
    near.peer.receive(theirs, Until::Bytes(1))?;
    Ok((ours, theirs))
}

#[test]
fn fast_path_denies_as_the_proxy_does() -> Result<()> {
    let near = Near::serving("near-deny", Behaviour::Identify)?;
    let allow = |principal: &str| json!({"action": "Allow", "rules": [{"from": [{"principals": [principal]}]}]});
    let outcome = |ok: u64| {
        wait::until("policy to be followed", wait::DEADLINE, || {
            for to in near.vips() {
                let summary = near.app.call(Calls::to(to).times(4, 1).deadline_ms(5000))?;
                ensure!(summary.ok == ok, "{to}: {summary:?}");
                ensure!(summary.errors.keys().all(|error| !error.contains("TimedOut")), "kept waiting: {summary:?}");
            }
            Ok(())
        })
    };
    let agent = running_agent(&near.lab, &near.node)?;
    let denials = || -> Result<f64> {
        Ok(agent.metrics()?.sum("weft_policy_denials_total", &[("destination_workload", "server")]))
    };
    for way in Way::BOTH {
        near.send(way)?;
        policy(&near.lab, "AuthorizationPolicy", "callers", &allow("spiffe://cluster.local/ns/demo/sa/somebody-else"))?;
        // One that got in a moment before is ended, and not counted as denied.
        outcome(0)?;
        let before = denials()?;
        near.by(way, 8, || outcome(0))?;
        wait::until("the denials to be counted and logged", wait::DEADLINE, || {
            let counted = denials()? - before;
            ensure!(counted >= 8.0, "{counted} denials counted");
            let lines = near.logged(way)?;
            let said = lines
                .iter()
                .filter(|line| line.contains(&near.client.spiffe()) && line.contains("not_allowed"))
                .count();
            ensure!(said >= 8, "{said} of {} lines tell of it: {:?}", lines.len(), lines.last());
            Ok(())
        })?;
        if way == Way::Direct {
            moves(&near.lab, &near.node, "lookup_drop_same_node", 4, || outcome(0))?;
        }
        // By the identity alone, and that is the client's own.
        policy(&near.lab, "AuthorizationPolicy", "callers", &allow(&near.client.spiffe()))?;
        near.by(way, 8, || outcome(4))?;
        near.lab.manifests().remove("AuthorizationPolicy", NAMESPACE, "callers");
        near.goes(way)?;
    }
    near.lab.finish()
}

#[test]
fn fast_path_policy_change_kills_live_connection() -> Result<()> {
    let near = Near::serving("near-kill", Behaviour::Identify)?;
    let bystander = near.lab.pod(&near.node, "bystander").create()?;
    let other = bystander.app(&near.lab)?;
    near.lab.wait_live(&bystander)?;
    settles(&near.lab, &near.node, &other, near.echo.v4(), Way::Direct)?;
    let doomed = near.by(Way::Direct, 4, || {
        let held = near.vips().map(|to| near.app.hold(Calls::to(to).times(2, 1)));
        held.into_iter().collect::<Result<Vec<_>>>()
    })?;
    let spared = near.by(Way::Direct, 4, || other.hold(Calls::to(near.echo.v4()).times(4, 1)))?;
    ensure!(spared.opened.ok == 4 && doomed.iter().all(|held| held.opened.ok == 2));
    let deny = json!({"action": "Deny", "rules": [{"from": [{"principals": [near.client.spiffe()]}]}]});
    policy(&near.lab, "AuthorizationPolicy", "never", &deny)?;
    for held in &doomed {
        wait::until("a denied connection to end", wait::DEADLINE, || {
            let poked = near.app.poke(held.group)?;
            ensure!(poked.ok == 0, "{poked:?}");
            Ok(())
        })?;
    }
    ensure!(other.poke(spared.group)?.ok == 4, "connections the policy does not concern were cut");
    wait::until("the log to say who ended them", wait::DEADLINE, || {
        let killed = near.logged(Way::Direct)?.iter().filter(|line| line.contains("end=\"killed\"")).count();
        ensure!(killed == 4, "{killed} lines");
        Ok(())
    })?;
    near.lab.finish()
}

#[test]
fn fast_path_on_a_shared_bridge() -> Result<()> {
    let near = Near::with("near-bridge", Layout::Bridged, Behaviour::Identify)?;
    // Not meshed, with NET_RAW, on the bridge with the others: it sends frames in the server's name and from its device.
    let outsider = near.lab.pod(&near.node, "outsider").namespace("outside").create()?;
    let forge = format!(
        "import socket, struct\nmac = lambda text: bytes.fromhex(text.replace(':', ''))\n\
         s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('eth0', 0))\n\
         own = s.getsockname()[4]; ip = socket.inet_aton('{0}')\n\
         packet = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20, 7, 0, 64, 6, 0, ip, socket.inet_aton('{1}'))\n\
         s.send(b'\\xff' * 6 + own + b'\\x08\\x00' + packet)\n\
         s.send(b'\\xff' * 6 + own + b'\\x08\\x06' + struct.pack('!HHBBH', 1, 0x800, 6, 4, 2) + own + ip + own + ip)\n\
         s.send(b'\\xff' * 6 + mac('{2}') + b'\\x88\\xb5' + bytes(46))\n",
        near.server.addresses()[0],
        near.client.addresses()[0],
        near.server.hardware_address()?
    );
    let agent = running_agent(&near.lab, &near.node)?;
    wait::until("the outsider's link to be guarded", wait::DEADLINE, || {
        ensure!(outsider.is_guarded()?, "nothing looks at its packets");
        Ok(())
    })?;
    wait::until("what is forged to be dropped at the outsider's link", wait::DEADLINE, || {
        let before = agent.verdicts()?;
        let forging = outsider.spawn(&near.lab, "forge", &["/usr/bin/python3", "-c", &forge])?;
        let status = forging.wait(wait::DEADLINE)?;
        ensure!(status.success(), "{}", forging.log());
        ["guard_drop_source", "guard_drop_neighbour", "guard_drop_station"]
            .iter()
            .try_for_each(|verdict| moved(&agent, &before, verdict, 1))
    })?;
    // And everybody's own goes as ever.
    near.by(Way::Direct, 400, || {
        for to in near.vips() {
            let summary = near.app.call(Calls::to(to).times(200, 4))?;
            ensure!(summary.ok == 200 && summary.untruthful == 0, "{summary:?}");
        }
        Ok(())
    })?;
    let plain = outsider.app(&near.lab)?.call(Calls::to(near.server.v4(8080)?).times(10, 1))?;
    ensure!(plain.ok == 10, "{plain:?}");
    near.lab.finish()
}
