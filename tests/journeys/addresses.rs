//! Addresses as applications see them: whom they dialled, from where, by which family.

use anyhow::{Result, bail, ensure};
use weft_tests::app::{Behaviour, Calls, Options, Until};
use weft_tests::lab::Lab;
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere, moves};

#[test]
fn getpeername_is_truthful() -> Result<()> {
    let (mesh, _) = Mesh::serving("peername", Behaviour::Identify)?;
    mesh.steered(4, || {
        for to in mesh.ways()? {
            let opened = mesh.app.open(to)?;
            ensure!(opened.peer == to, "dialled {to}, getpeername says {}", opened.peer);
            ensure!(mesh.client.addresses().contains(&opened.local.ip()), "getsockname says {}", opened.local);
        }
        Ok(())
    })?;
    mesh.lab.finish()
}

#[test]
fn source_ip_preserved() -> Result<()> {
    let (mesh, listener) = Mesh::serving("source", Behaviour::Identify)?;
    mesh.steered(4, || mesh.ways()?.into_iter().try_for_each(|to| mesh.app.call_once(to).map(drop)))?;
    wait::holds("the server to have seen four connections end", || {
        mesh.peer.seen(listener).is_ok_and(|seen| seen.records.len() == 4)
    })?;
    for record in mesh.peer.seen(listener)?.records {
        ensure!(mesh.client.addresses().contains(&record.peer.ip()), "the server saw {}", record.peer);
        ensure!(
            mesh.server.addresses().contains(&record.local.ip()) && record.local.port() == 8080,
            "reached at {}",
            record.local
        );
        ensure!(record.peer.is_ipv4() == record.local.is_ipv4());
    }
    mesh.lab.finish()
}

#[test]
fn ipv6() -> Result<()> {
    let lab = Lab::new("ipv6")?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let (client, server) = (lab.pod(&a, "client").v6_only().create()?, lab.pod(&b, "server").v6_only().create()?);
    let echo = lab.service("echo").pods(&[&server]).create()?;
    let (app, peer) = (client.app(&lab)?, server.app(&lab)?);
    peer.listen((server.addresses()[0], 8080).into(), "server", Behaviour::Identify)?;
    lab.start_agents()?;
    lab.mesh()?;
    moves(&lab, &a, "connect_steer", 4, || {
        for to in [echo.v6(), server.v6(8080)?] {
            let opened = app.open(to)?;
            ensure!(opened.peer == to, "{opened:?}");
            ensure!(client.addresses() == [opened.local.ip()], "{} is not the pod's address", opened.local);
            let summary = app.call(Calls::to(to))?;
            ensure!(summary.ok == 1 && summary.untruthful == 0, "{to}: {summary:?}");
            ensure!(summary.seen_as.iter().all(|ip| client.addresses().contains(ip)), "{summary:?}");
        }
        Ok(())
    })?;
    lab.finish()
}

#[test]
fn dual_stack() -> Result<()> {
    let mesh = Mesh::up("dual")?;
    // A listener of each family only, and one of both: whichever the app has must be reached by its own family.
    mesh.peer.listen((mesh.server.v4(0)?.ip(), 8080).into(), "four", Behaviour::Identify)?;
    mesh.peer.listen((mesh.server.v6(0)?.ip(), 8080).into(), "six", Behaviour::Identify)?;
    mesh.peer.listen(anywhere(8081), "both", Behaviour::Identify)?;
    mesh.steered(6, || {
        for (to, name) in mesh.ways()?.into_iter().zip(["four", "six", "four", "six"]) {
            ensure!(mesh.app.call_once(to)? == name, "{to}");
        }
        for to in [mesh.server.v4(8081)?, mesh.server.v6(8081)?] {
            ensure!(mesh.app.call_once(to)? == "both", "{to}");
        }
        Ok(())
    })?;
    mesh.lab.finish()
}

#[test]
fn source_port_reuse() -> Result<()> {
    let (mesh, _) = Mesh::serving("reuse", Behaviour::Identify)?;
    mesh.peer.listen(anywhere(8081), "second", Behaviour::Identify)?;
    for family in [0, 1] {
        let from = std::net::SocketAddr::new(mesh.client.addresses()[family], 40_000);
        let second = std::net::SocketAddr::new(mesh.server.addresses()[family], 8081);
        let options = Options { bind: Some(from), reuse_address: true, ..Options::default() };
        mesh.steered(2, || {
            // One port, two destinations, both open at once.
            let one = mesh.app.open_with(mesh.ways()?[family], options.clone())?;
            let two = mesh.app.open_with(second, options.clone())?;
            for (opened, name) in [(one, "server"), (two, "second")] {
                ensure!(opened.local == from, "bound to {from}, got {}", opened.local);
                mesh.app.say(opened.conn, "who\n")?;
                let answer = mesh.app.receive(opened.conn, Until::Line)?.text;
                ensure!(answer.contains(name), "{answer}");
                mesh.app.reset(opened.conn)?;
            }
            Ok(())
        })?;
        // And again at once, while the mesh may still be closing what the first pair used.
        wait::until("the port to be free again", wait::DEADLINE, || {
            match mesh.app.open_with(mesh.ways()?[family], options.clone()) {
                Ok(opened) => mesh.app.reset(opened.conn),
                Err(problem) if format!("{problem:#}").contains("AddrInUse") => bail!("still in use"),
                Err(problem) => Err(problem),
            }
        })?;
    }
    mesh.lab.finish()
}
