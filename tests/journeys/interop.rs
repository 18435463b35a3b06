//! Interoperation with a peer that shares no code with the mesh, good and hostile, on both sides of a tunnel.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weft_tests::app::{App, Behaviour, Calls};
use weft_tests::lab::{Lab, Node, Pod, Service};
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere, moves, running_agent};
use crate::peer::{self, Peer};
use crate::security::policy;

/// A mesh, and in it an unmeshed pod whose node has no agent: the foreign peer stands in for it.
struct Foreign {
    lab: Lab,
    a: Node,
    client: Pod,
    app: App,
    foreign: Pod,
    service: Service,
    _server: App,
}

impl Foreign {
    fn new(name: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (a, c) = (lab.node("a")?, lab.node("c")?);
        let client = lab.pod(&a, "client").create()?;
        let app = client.app(&lab)?;
        let foreign = lab.pod(&c, "foreign").create()?;
        let server = foreign.app(&lab)?;
        server.listen(anywhere(8080), "foreign", Behaviour::Identify)?;
        let service = lab.service("foreign").pods(&[&foreign]).create()?;
        lab.start_agent(&a, weft_tests::lab::AgentOptions::default())?;
        lab.label_namespace(weft_tests::lab::NAMESPACE, true)?;
        lab.wait_live(&client)?;
        peer::publish_live(&lab, "c", &[&foreign])?;
        lab.wait_live(&foreign)?;
        Ok(Self { lab, a, client, app, foreign, service, _server: server })
    }

    /// Starts the peer on the foreign pod's tunnel port, one process a family.
    fn serve(&self, certificates: &peer::Certificates, mode: &str) -> Result<Vec<Peer>> {
        let serve = |to: SocketAddr| -> Result<Peer> {
            let peer = peer::start(
                &self.lab,
                &self.foreign,
                certificates,
                &["server", "--listen", &to.to_string(), "--mode", mode],
            )?;
            peer.event("listening")?;
            Ok(peer)
        };
        [self.foreign.v4(15008)?, self.foreign.v6(15008)?].into_iter().map(serve).collect()
    }

    fn ways(&self) -> Result<[SocketAddr; 4]> {
        Ok([self.service.v4(), self.service.v6(), self.foreign.v4(8080)?, self.foreign.v6(8080)?])
    }

    /// Calls every way and expects each to fail at once, without a request ever reaching the peer.
    fn refused(&self, certificates: &peer::Certificates, mode: &str) -> Result<()> {
        let peers = self.serve(certificates, mode)?;
        moves(&self.lab, &self.a, "connect_steer", 4, || {
            for to in self.ways()? {
                let summary = self.app.call(Calls::to(to).deadline_ms(15_000))?;
                ensure!(summary.ok == 0, "{mode}: a call of {to} was carried");
                ensure!(
                    summary.errors.keys().all(|error| !error.contains("call: TimedOut")),
                    "{mode}: it hangs: {summary:?}"
                );
            }
            Ok(())
        })?;
        for peer in peers {
            ensure!(
                mode != "echo" || peer.events().iter().all(|event| event["event"] != "request"),
                "{:?}",
                peer.events()
            );
            peer.stop()?;
        }
        Ok(())
    }
}

#[test]
fn hbone_peer_as_server() -> Result<()> {
    let mesh = Foreign::new("peer-server")?;
    let good = peer::signed(&mesh.lab, &mesh.foreign.spiffe(), "1h")?;
    let peers = mesh.serve(&good, "forward")?;
    moves(&mesh.lab, &mesh.a, "connect_steer", 40, || {
        for to in mesh.ways()? {
            let summary = mesh.app.call(Calls::to(to).times(10, 3))?;
            ensure!(summary.ok == 10 && summary.names.contains_key("foreign"), "{to}: {summary:?}");
        }
        Ok(())
    })?;
    for peer in &peers {
        let tunnel = peer.event("tunnel")?;
        ensure!(tunnel["identity"] == json!([mesh.client.spiffe()]), "the peer saw {tunnel}");
        let request = peer.event("request")?;
        let authority = request["headers"][":authority"].as_str().unwrap_or_default();
        ensure!(
            [mesh.foreign.v4(8080)?, mesh.foreign.v6(8080)?].iter().any(|to| to.to_string() == authority),
            "{request}"
        );
        ensure!(request["headers"][":method"] == "CONNECT" && request["headers"][":path"].is_null(), "{request}");
    }
    for peer in peers {
        peer.stop()?;
    }
    // Hostile ones: each a refusal the application sees at once.
    for mode in ["status", "refuse-stream", "reset", "wrong-alpn", "no-tls"] {
        mesh.refused(&good, mode)?;
    }
    let peers = mesh.serve(&good, "forward")?;
    wait::until("the good peer to be used again", wait::DEADLINE, || mesh.app.call_once(mesh.service.v4()))?;
    peers.into_iter().try_for_each(Peer::stop)?;
    mesh.lab.finish()
}

/// A meshed server, and a foreign pod on the client's node that dials its tunnel port.
struct Caller {
    mesh: Mesh,
    python: Pod,
    listener: u64,
}

impl Caller {
    fn new(name: &str, behaviour: Behaviour) -> Result<Self> {
        let (mesh, listener) = Mesh::serving(name, behaviour)?;
        let python = mesh.lab.pod(&mesh.a, "python").mesh("disabled").create()?;
        Ok(Self { mesh, python, listener })
    }

    /// Runs the peer towards the server, once a family.
    fn call(&self, certificates: &peer::Certificates, arguments: &[&str]) -> Result<()> {
        let server = &self.mesh.server;
        for (tunnel, app) in [(server.v4(15008)?, server.v4(8080)?), (server.v6(15008)?, server.v6(8080)?)] {
            let (tunnel, app) = (tunnel.to_string(), app.to_string());
            let common = ["--connect", &tunnel, "--authority", &app, "--timeout", "10"];
            let arguments: Vec<&str> = common.iter().chain(arguments).copied().collect();
            peer::client(&self.mesh.lab, &self.python, certificates, &arguments)?;
        }
        Ok(())
    }

    /// What the server's agent has logged about connections since `from`.
    fn access_log(&self, from: usize) -> Result<Vec<String>> {
        let log = self.mesh.agent(&self.mesh.b)?.process().log();
        Ok(log
            .get(from..)
            .unwrap_or_default()
            .lines()
            .filter(|line| line.contains("weft::access"))
            .map(str::to_owned)
            .collect())
    }

    fn log_length(&self) -> Result<usize> {
        Ok(self.mesh.agent(&self.mesh.b)?.process().log().len())
    }

    /// Expects the handshake to be turned away and counted, and the app to see nothing.
    fn turned_away(&self, certificates: &peer::Certificates) -> Result<()> {
        let agent = running_agent(&self.mesh.lab, &self.mesh.b)?;
        let failures = || {
            Ok::<_, anyhow::Error>(agent.metrics()?.sum("weft_handshake_failures_total", &[("direction", "inbound")]))
        };
        let (before, accepted) = (failures()?, self.mesh.peer.seen(self.listener)?.accepted);
        moves(&self.mesh.lab, &self.mesh.b, "lookup_assign_tunnel", 2, || {
            ensure!(self.call(certificates, &["--mode", "echo"]).is_err(), "the tunnel was accepted");
            // The first family's failure ends the attempt; the second must fail as well.
            let server = &self.mesh.server;
            let (tunnel, app) = (server.v6(15008)?.to_string(), server.v6(8080)?.to_string());
            let arguments = ["--connect", &tunnel, "--authority", &app, "--timeout", "10", "--mode", "echo"];
            ensure!(
                peer::client(&self.mesh.lab, &self.python, certificates, &arguments).is_err(),
                "accepted over IPv6"
            );
            Ok(())
        })?;
        wait::until("the failures to be counted", wait::DEADLINE, || {
            let by = failures()? - before;
            ensure!(by >= 2.0, "{by} counted");
            Ok(())
        })?;
        ensure!(self.mesh.peer.seen(self.listener)?.accepted == accepted, "the application was reached");
        Ok(())
    }
}

#[test]
fn hbone_peer_as_client() -> Result<()> {
    let caller = Caller::new("peer-client", Behaviour::Echo)?;
    let good = peer::signed(&caller.mesh.lab, &caller.python.spiffe(), "1h")?;
    let server = caller.mesh.server.spiffe();
    moves(&caller.mesh.lab, &caller.mesh.b, "lookup_assign_tunnel", 4, || {
        for mode in ["echo", "goaway"] {
            caller.call(&good, &["--mode", mode, "--bytes", "2000000", "--server-identity", &server])?;
        }
        Ok(())
    })?;
    let seen = caller.mesh.peer.seen(caller.listener)?;
    ensure!(seen.accepted == 4 && seen.peers.iter().all(|ip| caller.python.addresses().contains(ip)), "{seen:?}");
    for mode in ["reset", "abrupt"] {
        caller.call(&good, &["--mode", mode])?;
    }
    wait::holds("the application to see them end", || {
        caller.mesh.peer.seen(caller.listener).is_ok_and(|seen| seen.accepted == 8 && seen.open == 0)
    })?;
    caller.mesh.lab.finish()
}

#[test]
fn baggage_is_not_believed() -> Result<()> {
    let caller = Caller::new("baggage", Behaviour::Echo)?;
    let good = peer::signed(&caller.mesh.lab, &caller.python.spiffe(), "1h")?;
    let from = caller.log_length()?;
    moves(&caller.mesh.lab, &caller.mesh.b, "lookup_assign_tunnel", 2, || {
        caller.call(&good, &["--mode", "lying-baggage"])
    })?;
    wait::until("two access log lines", wait::DEADLINE, || {
        let lines = caller.access_log(from)?;
        ensure!(lines.len() >= 2, "{lines:?}");
        for line in lines {
            ensure!(line.contains(&caller.python.spiffe()), "the identity of the certificate is missing: {line}");
            ensure!(!line.contains("kube-system") && !line.contains("192.0.2.66"), "a claim was believed: {line}");
        }
        Ok(())
    })?;
    let metrics = caller.mesh.agent(&caller.mesh.b)?.metrics()?;
    ensure!(metrics.sum("weft_tcp_connections_opened_total", &[("source_principal", &caller.python.spiffe())]) >= 2.0);
    for sample in metrics.samples() {
        ensure!(
            !sample.labels.values().any(|value| value == "admin" || value == "kube-system"),
            "believed: {sample:?}"
        );
    }
    // A policy that would let the claim in lets nobody in.
    let allow = json!({"action": "Allow", "rules": [{"from": [{"namespaces": ["kube-system"]}, {"ipBlocks": ["192.0.2.66/32"]}]}]});
    policy(&caller.mesh.lab, "AuthorizationPolicy", "kube-system-only", &allow)?;
    wait::until("the claim to be denied", wait::DEADLINE, || {
        caller.call(&good, &["--mode", "lying-baggage", "--expect-status", "401"])
    })?;
    caller.mesh.lab.finish()
}

#[test]
fn wrong_identity_rejected() -> Result<()> {
    // A server that holds a good certificate of another workload: the client's agent must not send it a byte.
    let mesh = Foreign::new("wrong-identity")?;
    for impostor in ["spiffe://cluster.local/ns/demo/sa/impostor", "spiffe://cluster.local/ns/other/sa/foreign"] {
        mesh.refused(&peer::signed(&mesh.lab, impostor, "1h")?, "echo")?;
    }
    let metrics = running_agent(&mesh.lab, &mesh.a)?.metrics()?;
    let failed = metrics.by_label("weft_tcp_connections_failed_total", "reason");
    ensure!(failed.values().sum::<u64>() >= 8, "counted as failed: {failed:?}");
    mesh.lab.finish()?;
    // A client whose identity policy does not name.
    let caller = Caller::new("wrong-caller", Behaviour::Echo)?;
    let allow = json!({"action": "Allow", "rules": [{"from": [{"principals": [caller.mesh.client.spiffe()]}]}]});
    policy(&caller.mesh.lab, "AuthorizationPolicy", "callers", &allow)?;
    let other = peer::signed(&caller.mesh.lab, &caller.python.spiffe(), "1h")?;
    wait::until("the policy to hold", wait::DEADLINE, || {
        caller.call(&other, &["--mode", "echo", "--expect-status", "401"])
    })?;
    caller.mesh.lab.finish()
}

#[test]
fn expired_cert_rejected() -> Result<()> {
    let mesh = Foreign::new("expired")?;
    mesh.refused(&peer::expired(&mesh.lab, &mesh.foreign.spiffe())?, "echo")?;
    mesh.lab.finish()?;
    let caller = Caller::new("expired-caller", Behaviour::Echo)?;
    caller.turned_away(&peer::expired(&caller.mesh.lab, &caller.python.spiffe())?)?;
    caller.mesh.lab.finish()
}

#[test]
fn other_trust_domain_rejected() -> Result<()> {
    // Of another domain and root, of our domain's name by another root, and of another domain by our root.
    let mesh = Foreign::new("domain")?;
    for identity in ["spiffe://elsewhere.example/ns/demo/sa/foreign".to_owned(), mesh.foreign.spiffe()] {
        mesh.refused(&peer::stranger(&mesh.lab, &identity)?, "echo")?;
    }
    let identity = "spiffe://elsewhere.example/ns/demo/sa/foreign";
    mesh.refused(&peer::of_other_domain(&mesh.lab, identity)?, "echo")?;
    mesh.lab.finish()?;
    let caller = Caller::new("domain-caller", Behaviour::Echo)?;
    for identity in ["spiffe://elsewhere.example/ns/demo/sa/python".to_owned(), caller.python.spiffe()] {
        caller.turned_away(&peer::stranger(&caller.mesh.lab, &identity)?).with_context(|| identity)?;
    }
    let identity = "spiffe://elsewhere.example/ns/demo/sa/python";
    caller.turned_away(&peer::of_other_domain(&caller.mesh.lab, identity)?).context("another domain by our root")?;
    caller.mesh.lab.finish()
}
