//! Transparency: an application cannot tell, except that it works, that the mesh carries its connections.

use anyhow::{Context, Result, ensure};
use weft_tests::app::{Behaviour, Calls, End, Options, Payload, Until};
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere, moves};

#[test]
fn outbound_tcp() -> Result<()> {
    let (mesh, listener) = Mesh::serving("outbound", Behaviour::Identify)?;
    mesh.steered(40, || {
        for to in mesh.ways()? {
            let summary = mesh.app.call(Calls::to(to).times(10, 2))?;
            ensure!(summary.ok == 10 && summary.names.contains_key("server"), "{to}: {summary:?}");
        }
        Ok(())
    })?;
    ensure!(mesh.peer.seen(listener)?.accepted == 40);
    mesh.lab.finish()
}

#[test]
fn tcp_to_unmeshed_destination() -> Result<()> {
    let mesh = Mesh::up("unmeshed")?;
    let outsider = mesh.lab.pod(&mesh.b, "outsider").namespace("outside").create()?;
    let service = mesh.lab.service("legacy").namespace("outside").pods(&[&outsider]).create()?;
    let peer = outsider.app(&mesh.lab)?;
    peer.listen(anywhere(8080), "outsider", Behaviour::Identify)?;
    for to in [outsider.v4(8080)?, outsider.v6(8080)?] {
        moves(&mesh.lab, &mesh.a, "connect_unknown_destination", 1, || {
            ensure!(mesh.app.call_once(to)? == "outsider");
            Ok(())
        })?;
    }
    wait::until("the new Service to be known", wait::DEADLINE, || {
        moves(&mesh.lab, &mesh.a, "connect_steer", 2, || {
            for to in [service.v4(), service.v6()] {
                ensure!(mesh.app.call_once(to)? == "outsider");
            }
            Ok(())
        })
    })?;
    // A port of a node, where nothing of any mesh listens.
    let refused = mesh.app.open((mesh.b.addresses().0, 9).into());
    ensure!(refused.is_err_and(|e| format!("{e:#}").contains("ConnectionRefused")));
    mesh.lab.finish()
}

#[test]
fn own_pod_ip_is_not_captured() -> Result<()> {
    let mesh = Mesh::up("own")?;
    let (listener, _) = mesh.app.listen(anywhere(7000), "self", Behaviour::Identify)?;
    for to in [mesh.client.v4(7000)?, mesh.client.v6(7000)?] {
        moves(&mesh.lab, &mesh.a, "connect_own_address", 1, || {
            ensure!(mesh.app.call_once(to)? == "self");
            Ok(())
        })?;
    }
    let seen = mesh.app.seen(listener)?;
    ensure!(seen.peers.iter().all(|ip| mesh.client.addresses().contains(ip)), "{seen:?}");
    mesh.lab.finish()
}

#[test]
fn localhost_is_not_captured() -> Result<()> {
    let mesh = Mesh::up("localhost")?;
    mesh.app.listen(anywhere(7000), "local", Behaviour::Identify)?;
    for to in ["127.0.0.1:7000", "[::1]:7000", "127.8.9.10:7000"] {
        moves(&mesh.lab, &mesh.a, "connect_local", 1, || {
            ensure!(mesh.app.call_once(to.parse()?)? == "local", "{to}");
            Ok(())
        })?;
    }
    mesh.lab.finish()
}

#[test]
fn loop_rejected() -> Result<()> {
    let (mesh, _) = Mesh::serving("loop", Behaviour::Identify)?;
    let ports = mesh.client.listening_ports()?;
    ensure!(ports.len() == 2, "the agent has not two listeners in the pod: {ports:?}");
    let agent = mesh.agent(&mesh.a)?;
    let refusals = || -> Result<[f64; 2]> {
        let (metrics, own) = (agent.metrics()?, [("reason", "own_listener")]);
        Ok(["weft_tcp_connections_failed_total", "weft_inbound_rejections_total"].map(|name| metrics.sum(name, &own)))
    };
    ensure!(refusals()? == [0.0; 2]);
    for port in ports {
        for to in [("127.0.0.1", port), ("::1", port)] {
            let to = std::net::SocketAddr::new(to.0.parse()?, to.1);
            // Whether it is refused or closed at once, nothing may answer and nothing may wait.
            let Ok(opened) = mesh.app.open(to) else { continue };
            let _ = mesh.app.say(opened.conn, "hello\n");
            let received = mesh.app.receive(opened.conn, Until::End)?;
            ensure!(received.sum.length == 0, "the agent answered its own listener: {received:?}");
        }
    }
    // Each listener knows its own before anything else is asked: once each, by IPv4, and nothing was dialled.
    wait::until("each listener to have refused its own", wait::DEADLINE, || {
        let refusals = refusals()?;
        ensure!(refusals == [1.0; 2], "refused as own_listener: {refusals:?}");
        Ok(())
    })?;
    mesh.steered(1, || mesh.app.call_once(mesh.echo.v4()))?;
    mesh.lab.finish()
}

#[test]
fn server_first_protocol() -> Result<()> {
    let (mesh, _) = Mesh::serving("greet", Behaviour::Greet)?;
    mesh.steered(4, || {
        for to in mesh.ways()? {
            let opened = mesh.app.open(to)?;
            let greeting = mesh.app.receive(opened.conn, Until::Line)?;
            ensure!(greeting.text == "server\n", "{to}: {greeting:?}");
            mesh.app.say(opened.conn, "and back\n")?;
            ensure!(mesh.app.receive(opened.conn, Until::Line)?.text == "and back\n");
        }
        Ok(())
    })?;
    mesh.lab.finish()
}

#[test]
fn half_close_both_ways() -> Result<()> {
    let (mesh, listener) = Mesh::serving("half", Behaviour::Manual)?;
    let payload = Payload::Noise { seed: 3, length: 400_000 };
    mesh.steered(8, || {
        for to in mesh.ways()? {
            for client_first in [true, false] {
                let ours = mesh.app.open(to)?.conn;
                mesh.app.say(ours, "x")?;
                let theirs = mesh.peer.accept(listener)?.conn;
                mesh.peer.receive(theirs, Until::Bytes(1))?;
                let ((first, first_conn), (second, second_conn)) = if client_first {
                    ((&mesh.app, ours), (&mesh.peer, theirs))
                } else {
                    ((&mesh.peer, theirs), (&mesh.app, ours))
                };
                first.finish(first_conn)?;
                let end = second.receive(second_conn, Until::End)?;
                ensure!(end.end == Some(End::Fin) && end.sum.length == 0, "{to}: {end:?}");
                let exchange = std::thread::scope(|scope| {
                    let sending = scope.spawn(|| second.exchange(second_conn, payload.clone()));
                    let received = first.receive(first_conn, Until::End);
                    sending.join().map_err(|_| anyhow::anyhow!("panicked"))?.and(received)
                })?;
                ensure!(exchange.sum == payload.sum() && exchange.end == Some(End::Fin), "{to}: {exchange:?}");
            }
        }
        Ok(())
    })?;
    mesh.lab.finish()
}

/// Opens a connection and says a byte so that both ends have it; yields both numbers.
fn pair(mesh: &Mesh, listener: u64, to: std::net::SocketAddr) -> Result<(u64, u64)> {
    let ours = mesh.app.open(to)?.conn;
    mesh.app.say(ours, "x")?;
    let theirs = mesh.peer.accept(listener)?.conn;
    mesh.peer.receive(theirs, Until::Bytes(1))?;
    Ok((ours, theirs))
}

#[test]
fn client_closes_first() -> Result<()> {
    let (mesh, listener) = Mesh::serving("client-closes", Behaviour::Manual)?;
    mesh.steered(4, || {
        for to in mesh.ways()? {
            let (ours, theirs) = pair(&mesh, listener, to)?;
            mesh.app.close(ours)?;
            ensure!(mesh.peer.receive(theirs, Until::End)?.end == Some(End::Fin), "{to}");
            mesh.peer.close(theirs)?;
        }
        Ok(())
    })?;
    mesh.lab.finish()
}

#[test]
fn server_closes_first() -> Result<()> {
    let (mesh, listener) = Mesh::serving("server-closes", Behaviour::Manual)?;
    mesh.steered(4, || {
        for to in mesh.ways()? {
            let (ours, theirs) = pair(&mesh, listener, to)?;
            mesh.peer.say(theirs, "last words")?;
            mesh.peer.close(theirs)?;
            let received = mesh.app.receive(ours, Until::End)?;
            ensure!(received.text == "last words" && received.end == Some(End::Fin), "{to}: {received:?}");
            mesh.app.close(ours)?;
        }
        Ok(())
    })?;
    mesh.lab.finish()
}

#[test]
fn resets_both_ways() -> Result<()> {
    let (mesh, listener) = Mesh::serving("resets", Behaviour::Manual)?;
    mesh.steered(8, || {
        for to in mesh.ways()? {
            let (ours, theirs) = pair(&mesh, listener, to)?;
            mesh.app.reset(ours)?;
            let end = mesh.peer.receive(theirs, Until::End)?.end;
            ensure!(end == Some(End::Reset), "{to}: the server saw {end:?}");
            let (ours, theirs) = pair(&mesh, listener, to)?;
            mesh.peer.reset(theirs)?;
            let end = mesh.app.receive(ours, Until::End)?.end;
            ensure!(end == Some(End::Reset), "{to}: the client saw {end:?}");
        }
        Ok(())
    })?;
    mesh.lab.finish()
}

#[test]
fn large_transfer_checksums() -> Result<()> {
    let (mesh, _) = Mesh::serving("large", Behaviour::Echo)?;
    mesh.steered(4, || {
        for (seed, to) in (1..).zip(mesh.ways()?) {
            let payload = Payload::Noise { seed, length: 24 << 20 };
            let conn = mesh.app.open(to)?.conn;
            let exchanged = mesh.app.exchange(conn, payload.clone())?;
            ensure!(exchanged.received == payload.sum() && exchanged.end == End::Fin, "{to}: {exchanged:?}");
        }
        Ok(())
    })?;
    mesh.lab.finish()
}

#[test]
fn one_byte_segments() -> Result<()> {
    let (mesh, listener) = Mesh::serving("bytes", Behaviour::Digest)?;
    let payload = Payload::Noise { seed: 4, length: 3000 };
    // Each waits for the one before it to come back: none can share a read with another.
    mesh.peer.listen(anywhere(8081), "echo", Behaviour::Echo)?;
    mesh.steered(2, || {
        for to in [mesh.server.v4(8081)?, mesh.server.v6(8081)?] {
            let conn = mesh.app.open(to)?.conn;
            for byte in "one by one".chars().cycle().take(100).map(String::from) {
                mesh.app.say(conn, &byte)?;
                let back = mesh.app.receive(conn, Until::Bytes(1)).context("a byte did not come back")?.text;
                ensure!(back == byte, "{byte:?} came back as {back:?}");
            }
        }
        Ok(())
    })?;
    // As many as fit are under way at once.
    mesh.steered(2, || {
        for to in [mesh.echo.v4(), mesh.echo.v6()] {
            let conn = mesh.app.open(to)?.conn;
            mesh.app.send_chunked(conn, payload.clone(), 1)?;
            mesh.app.finish(conn)?;
            let said = mesh.app.receive(conn, Until::End)?.text;
            ensure!(
                said == format!("3000 {:x}\n", payload.sum().value),
                "the server got something else: {to}: {said:?}"
            );
        }
        Ok(())
    })?;
    ensure!(mesh.peer.seen(listener)?.accepted == 2);
    mesh.lab.finish()
}

#[test]
fn mptcp_client() -> Result<()> {
    let (mesh, _) = Mesh::serving("mptcp", Behaviour::Echo)?;
    let options = Options { mptcp: true, ..Options::default() };
    let payload = Payload::Noise { seed: 5, length: 300_000 };
    mesh.steered(4, || {
        for to in mesh.ways()? {
            let opened = mesh.app.open_with(to, options.clone())?;
            ensure!(opened.peer == to);
            let exchanged = mesh.app.exchange(opened.conn, payload.clone())?;
            ensure!(exchanged.received == payload.sum() && exchanged.end == End::Fin, "{to}: {exchanged:?}");
        }
        Ok(())
    })?;
    mesh.lab.finish()
}

#[test]
fn tcp_fast_open_client() -> Result<()> {
    let (mesh, _) = Mesh::serving("tfo", Behaviour::Echo)?;
    mesh.client.netns().sysctl("net/ipv4/tcp_fastopen", "3")?;
    let options = Options { fast_open: true, ..Options::default() };
    mesh.steered(8, || {
        // Twice each: the first connection fetches the cookie, if anything along the way gives one.
        for to in mesh.ways()?.into_iter().flat_map(|to| [to, to]) {
            let opened = mesh.app.open_with(to, options.clone())?;
            mesh.app.say(opened.conn, "with the SYN\n")?;
            ensure!(mesh.app.receive(opened.conn, Until::Line)?.text == "with the SYN\n", "{to}");
        }
        Ok(())
    })?;
    mesh.client.netns().sysctl("net/ipv4/tcp_fastopen", "1")?;
    mesh.lab.finish()
}

#[test]
fn tcp_urgent_data() -> Result<()> {
    let (mesh, listener) = Mesh::serving("urgent", Behaviour::Manual)?;
    mesh.steered(2, || {
        for to in [mesh.echo.v4(), mesh.echo.v6()] {
            let (ours, theirs) = pair(&mesh, listener, to)?;
            mesh.app.send_urgent(ours, Payload::Text("urgent!".into()))?;
            mesh.app.say(ours, " and after")?;
            mesh.app.finish(ours)?;
            let received = mesh.peer.receive(theirs, Until::End)?;
            // A tunnel has no urgent pointer: the byte must arrive in its place, neither lost nor twice.
            ensure!(received.text == "urgent! and after", "{to}: {received:?}");
        }
        Ok(())
    })?;
    mesh.lab.finish()
}
