//! Security: what is on the wire, who may connect, and what a pod cannot do.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_tests::app::{Behaviour, Calls, End, Options, Payload, Until};
use weft_tests::capture::Capture;
use weft_tests::lab::{AgentOptions, Lab, NAMESPACE};
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere, moves};

/// Puts a `weft.dev/v1alpha1` object of [`NAMESPACE`].
pub(crate) fn policy(lab: &Lab, kind: &str, name: &str, spec: &Value) -> Result<()> {
    lab.manifests().put(json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec
    }))
}

/// Waits until calls of `to` succeed, or until they all fail without a time-out.
fn settles(mesh: &Mesh, to: SocketAddr, allowed: bool) -> Result<()> {
    wait::until(if allowed { "calls to be let in" } else { "calls to be kept out" }, wait::DEADLINE, || {
        let summary = mesh.app.call(Calls::to(to).times(4, 1).deadline_ms(5000))?;
        ensure!(summary.ok == if allowed { 4 } else { 0 }, "{summary:?}");
        ensure!(summary.errors.keys().all(|error| !error.contains("TimedOut")), "kept waiting: {summary:?}");
        Ok(())
    })
}

#[test]
fn plaintext_on_the_wire_is_absent() -> Result<()> {
    let mesh = Mesh::unmeshed("wire")?;
    mesh.peer.listen(anywhere(8080), "server", Behaviour::Echo)?;
    let capture = Capture::start(&mesh.lab)?;
    let transfer = |seed: u64| -> Result<Vec<u8>> {
        let payload = Payload::Noise { seed, length: 400_000 };
        for to in mesh.ways()? {
            let conn = mesh.app.open(to)?.conn;
            let exchanged = mesh.app.exchange(conn, payload.clone())?;
            ensure!(exchanged.received == payload.sum() && exchanged.end == End::Fin, "{exchanged:?}");
        }
        Ok(payload.block()[..500].to_vec())
    };
    let before = transfer(21)?;
    wait::holds("the payload to be seen on the wire", || capture.containing(&before).len() >= 8)?;
    mesh.lab.mesh()?;
    let after = mesh.steered(4, || transfer(22))?;
    // Four times there and back.
    wait::until("its bytes to pass as TLS", wait::DEADLINE, || {
        let bytes = capture.tls_bytes(15008)?;
        ensure!(bytes >= 8 * 400_000, "{bytes} bytes of application data");
        Ok(())
    })?;
    ensure!(capture.containing(&after).is_empty(), "plaintext between nodes: {:?}", capture.containing(&after));
    mesh.lab.finish()
}

#[test]
fn strict_rejects_plaintext() -> Result<()> {
    let (mesh, _) = Mesh::serving("strict", Behaviour::Identify)?;
    mesh.peer.listen(anywhere(8081), "open", Behaviour::Identify)?;
    let outsider = mesh.lab.pod(&mesh.a, "outsider").namespace("outside").create()?.app(&mesh.lab)?;
    let (v4, v6) = (mesh.server.v4(8080)?, mesh.server.v6(8080)?);
    for to in [v4, v6, mesh.echo.v4()] {
        ensure!(outsider.call_once(to)? == "server", "permissive must let {to} in");
    }
    policy(
        &mesh.lab,
        "PeerAuthentication",
        "strict",
        &json!({"mtls": {"mode": "Strict"}, "portLevelMtls": {"8081": {"mode": "Permissive"}}}),
    )?;
    wait::until("plaintext to be refused", wait::DEADLINE, || {
        for to in [v4, v6, mesh.echo.v4()] {
            let refused = outsider.open(to);
            ensure!(refused.is_err_and(|e| format!("{e:#}").contains("ConnectionRefused")), "{to} was let in");
        }
        Ok(())
    })?;
    moves(&mesh.lab, &mesh.b, "lookup_drop_plaintext", 1, || {
        ensure!(outsider.open(v4).is_err());
        Ok(())
    })?;
    ensure!(outsider.call_once(mesh.server.v4(8081)?)? == "open", "the port's own mode must win");
    mesh.steered(4, || mesh.ways()?.into_iter().try_for_each(|to| mesh.app.call_once(to).map(drop)))?;
    mesh.lab.manifests().remove("PeerAuthentication", NAMESPACE, "strict");
    wait::until("plaintext to be let in again", wait::DEADLINE, || outsider.call_once(v4))?;
    mesh.lab.finish()
}

#[test]
fn deny_wins() -> Result<()> {
    let (mesh, _) = Mesh::serving("deny", Behaviour::Identify)?;
    let client = mesh.client.spiffe();
    let allow = |principal: &str| json!({"action": "Allow", "rules": [{"from": [{"principals": [principal]}]}]});
    policy(&mesh.lab, "AuthorizationPolicy", "callers", &allow("spiffe://cluster.local/ns/demo/sa/somebody-else"))?;
    settles(&mesh, mesh.echo.v4(), false)?;
    policy(&mesh.lab, "AuthorizationPolicy", "callers", &allow(&client))?;
    settles(&mesh, mesh.echo.v4(), true)?;
    let deny = json!({"action": "Deny", "rules": [{"from": [{"namespaces": [NAMESPACE]}], "to": [{"ports": [8080]}]}]});
    policy(&mesh.lab, "AuthorizationPolicy", "never", &deny)?;
    mesh.steered(8, || {
        settles(&mesh, mesh.echo.v4(), false)?;
        settles(&mesh, mesh.server.v6(8080)?, false)
    })?;
    mesh.peer.listen(anywhere(8081), "elsewhere", Behaviour::Identify)?;
    settles(&mesh, mesh.server.v4(8081)?, true)?;
    mesh.lab.manifests().remove("AuthorizationPolicy", NAMESPACE, "never");
    settles(&mesh, mesh.echo.v6(), true)?;
    mesh.lab.finish()
}

#[test]
fn invalid_policy_fails_closed() -> Result<()> {
    let (mesh, _) = Mesh::serving("invalid", Behaviour::Identify)?;
    mesh.lab.expect_error("weft::manifests");
    let outsider = mesh.lab.pod(&mesh.a, "outsider").namespace("outside").create()?.app(&mesh.lab)?;
    let plain = mesh.server.v4(8080)?;
    outsider.call_once(plain)?;
    settles(&mesh, mesh.echo.v4(), true)?;
    // Whatever was meant by it, nobody gets in until somebody says what.
    policy(&mesh.lab, "AuthorizationPolicy", "meant-well", &json!({"action": "Permit"}))?;
    settles(&mesh, mesh.echo.v4(), false)?;
    settles(&mesh, mesh.server.v6(8080)?, false)?;
    wait::until("plaintext to be kept out as well", wait::DEADLINE, || {
        ensure!(outsider.call_once(plain).is_err(), "plaintext is let in");
        Ok(())
    })?;
    let allow = json!({"action": "Allow", "rules": [{"from": [{"namespaces": [NAMESPACE]}]}]});
    policy(&mesh.lab, "AuthorizationPolicy", "meant-well", &allow)?;
    settles(&mesh, mesh.echo.v6(), true)?;
    // Once it was right, a mistake in it leaves the last good version in force.
    let (agent, problem) = (mesh.agent(&mesh.b)?, [("severity", "error")]);
    policy(&mesh.lab, "AuthorizationPolicy", "meant-well", &json!({"action": "Allow", "rules": [{"from": []}]}))?;
    wait::until("the mistake to be counted", wait::DEADLINE, || {
        ensure!(agent.metrics()?.sum("weft_config_problems", &problem) > 0.0, "no problem is counted");
        Ok(())
    })?;
    settles(&mesh, mesh.echo.v4(), true)?;
    ensure!(outsider.call_once(plain).is_err(), "the last good version lets no stranger in");
    mesh.lab.finish()
}

#[test]
fn policy_change_kills_live_connection() -> Result<()> {
    let (mesh, _) = Mesh::serving("kill", Behaviour::Identify)?;
    let bystander = mesh.lab.pod(&mesh.a, "bystander").create()?;
    let outsider = mesh.lab.pod(&mesh.a, "outsider").namespace("outside").create()?.app(&mesh.lab)?;
    let other = bystander.app(&mesh.lab)?;
    mesh.lab.wait_live(&bystander)?;
    let doomed = mesh.steered(8, || {
        let opened = mesh.ways()?.into_iter().map(|to| mesh.app.hold(Calls::to(to).times(2, 1)));
        opened.collect::<Result<Vec<_>>>()
    })?;
    let plain = outsider.hold(Calls::to(mesh.server.v4(8080)?).times(2, 1))?;
    let spared = other.hold(Calls::to(mesh.echo.v4()).times(4, 1))?;
    ensure!(spared.opened.ok == 4 && plain.opened.ok == 2);
    let deny = json!({"action": "Deny", "rules": [{"from": [{"principals": [mesh.client.spiffe()]}]}]});
    policy(&mesh.lab, "AuthorizationPolicy", "never", &deny)?;
    for held in &doomed {
        wait::until("a denied connection to end", wait::DEADLINE, || {
            let poked = mesh.app.poke(held.group)?;
            ensure!(poked.ok == 0, "{poked:?}");
            Ok(())
        })?;
    }
    ensure!(other.poke(spared.group)?.ok == 4, "connections the policy does not concern were cut");
    ensure!(outsider.poke(plain.group)?.ok == 2, "plaintext has no principal to deny");
    mesh.lab.manifests().remove("AuthorizationPolicy", NAMESPACE, "never");
    // Plaintext that the kernel had let pass is judged as well, once a policy is about addresses.
    policy(&mesh.lab, "PeerAuthentication", "strict", &json!({"mtls": {"mode": "Strict"}}))?;
    wait::until("standing plaintext to end", wait::DEADLINE, || {
        let poked = outsider.poke(plain.group)?;
        ensure!(poked.ok == 0, "{poked:?}");
        Ok(())
    })?;
    mesh.lab.finish()
}

#[test]
fn rotation_under_load() -> Result<()> {
    let lab = Lab::new("rotation")?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let (client, server) = (lab.pod(&a, "client").create()?, lab.pod(&b, "server").create()?);
    let echo = lab.service("echo").pods(&[&server]).create()?;
    let (app, peer) = (client.app(&lab)?, server.app(&lab)?);
    peer.listen(anywhere(8080), "server", Behaviour::Identify)?;
    for node in [&a, &b] {
        lab.start_agent(node, AgentOptions::with(&["--certificate-lifetime", "12s"]))?;
    }
    lab.mesh()?;
    let held = app.hold(Calls::to(echo.v4()).times(10, 2))?;
    ensure!(held.opened.ok == 10, "{held:?}");
    let looping = app.start_loop(Calls::to(echo.v6()).times(0, 4), Duration::from_millis(5))?;
    let expiry = || -> Result<f64> {
        let agent = lab.agent_on(&a).ok_or_else(|| anyhow::anyhow!("no agent"))?;
        Ok(agent.metrics()?.sum("weft_certificate_expiry_timestamp_seconds", &[("identity", &client.spiffe())]))
    };
    let mut last = wait::until("an expiry to be reported", wait::DEADLINE, || match expiry()? {
        none if none <= 0.0 => anyhow::bail!("none for {}", client.spiffe()),
        some => Ok(some),
    })?;
    for _ in 0..3 {
        wait::until("the certificate to be renewed", Duration::from_secs(30), || {
            let now = expiry()?;
            ensure!(now > last, "it still expires at {now}");
            last = now;
            Ok(())
        })?;
    }
    moves(&lab, &a, "connect_steer", 1, || app.call_once(echo.v4()))?;
    let report = app.stop_loop(looping)?;
    ensure!(report.failed() == 0 && report.ok > 100, "{report:?}");
    let poked = app.poke(held.group)?;
    ensure!(poked.ok == 10, "connections did not outlive the certificate they began with: {poked:?}");
    lab.finish()
}

#[test]
fn pod_cannot_unenrol_itself() -> Result<()> {
    let (mesh, _) = Mesh::serving("escape", Behaviour::Identify)?;
    // An ordinary container's process: no capability, no root.
    let app = mesh.client.unprivileged_app(&mesh.lab)?;
    mesh.steered(1, || app.call_once(mesh.echo.v4()))?;
    moves(&mesh.lab, &mesh.a, "connect_refuse_bound_device", 4, || {
        for to in mesh.ways()? {
            let bound = Options { device: Some("eth0".into()), ..Options::default() };
            let refused = app.open_with(to, bound);
            ensure!(
                refused.is_err_and(|e| format!("{e:#}").contains("PermissionDenied")),
                "{to}: left on its own device"
            );
        }
        Ok(())
    })?;
    // A socket that was steered once, dissolved and sent elsewhere, is judged anew both ways.
    let own = app.listen(anywhere(7000), "self", Behaviour::Identify)?.1.port();
    mesh.steered(2, || {
        let conn = app.open(mesh.echo.v4())?.conn;
        app.reconnect(conn, mesh.client.v4(own)?)?;
        app.say(conn, "who\n")?;
        let answer = app.receive(conn, Until::Line)?.text;
        ensure!(answer.contains("self"), "a mark outlived its connection: {answer}");
        app.reconnect(conn, mesh.server.v4(8080)?)?;
        app.say(conn, "who\n")?;
        ensure!(app.receive(conn, Until::Line)?.text.contains("server"));
        Ok(())
    })?;
    for command in [
        &["ip", "rule", "del", "priority", "98"][..],
        &["ip", "route", "flush", "table", "15008"],
        &["sh", "-c", "echo 0 >/proc/sys/net/ipv4/tcp_fwmark_accept"],
        &["nft", "add", "table", "inet", "escape"],
    ] {
        ensure!(!mesh.client.try_unprivileged(&mesh.lab, command)?, "{command:?} was allowed");
    }
    mesh.steered(1, || app.call_once(mesh.echo.v4()))?;
    mesh.lab.finish()
}

#[test]
fn pod_cannot_reach_admin() -> Result<()> {
    let (mesh, _) = Mesh::serving("admin", Behaviour::Identify)?;
    let agent = mesh.agent(&mesh.a)?;
    mesh.steered(1, || mesh.app.call_once(mesh.echo.v4()))?;
    let socket = agent.admin_socket().display().to_string();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket)?.permissions()) & 0o777;
    ensure!(mode == 0o600, "the admin socket has mode {mode:o}");
    let connect = format!("import socket; socket.socket(socket.AF_UNIX).connect('{socket}')");
    ensure!(
        !mesh.client.try_unprivileged(&mesh.lab, &["/usr/bin/python3", "-c", &connect])?,
        "a pod's process connected to it"
    );
    // Every TCP port of the agent that a pod can reach: metrics and readiness, and no orders.
    let app = mesh.client.unprivileged_app(&mesh.lab)?;
    let node = mesh.a.addresses();
    let mut reached = 0;
    for port in mesh.a.listening_ports()? {
        for to in [SocketAddr::from((node.0, port)), SocketAddr::from((node.1, port))] {
            for order in
                ["GET /dump", "GET /workloads", "GET /connections", "POST /disable", "PUT /log-level", "POST /handover"]
            {
                let Ok(opened) = app.open(to) else { continue };
                app.say(opened.conn, &format!("{order} HTTP/1.0\r\n\r\n"))?;
                let answer = app.receive(opened.conn, Until::End)?.text;
                let status = answer.split(' ').nth(1).unwrap_or_default().to_owned();
                ensure!(status == "404" || status == "405", "{order} at {to}: {answer}");
                reached += 1;
            }
        }
    }
    ensure!(reached > 0, "not even metrics were reached: the probe proves nothing");
    mesh.steered(1, || mesh.app.call_once(mesh.echo.v4()))?;
    mesh.lab.finish()
}
