//! The lab without a mesh: what journeys take for granted must hold before any agent runs.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use weft_tests::app::{Behaviour, Calls, End, Payload, Until};
use weft_tests::capture::Capture;
use weft_tests::lab::{Endpoint, Lab, NetState};
use weft_tests::wait;

use crate::fixture::Mesh;

fn anywhere(port: u16) -> std::net::SocketAddr {
    (std::net::Ipv6Addr::UNSPECIFIED, port).into()
}

#[test]
fn lab_pods_reach_each_other_and_services() -> Result<()> {
    let lab = Lab::new("reach")?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let (client, v1, v2) = (lab.pod(&a, "client").create()?, lab.pod(&b, "v1").create()?, lab.pod(&b, "v2").create()?);
    let echo = lab.service("echo").pods(&[&v1, &v2]).create()?;
    let (app, one, two) = (client.app(&lab)?, v1.app(&lab)?, v2.app(&lab)?);
    let (seen, _) = one.listen(anywhere(8080), "v1", Behaviour::Identify)?;
    two.listen(anywhere(8080), "v2", Behaviour::Identify)?;
    for to in [v1.v4(8080)?, v1.v6(8080)?] {
        ensure!(app.call_once(to)? == "v1", "{to}");
    }
    for vip in [echo.v4(), echo.v6()] {
        let summary = app.call(Calls::to(vip).times(200, 8))?;
        ensure!(summary.ok == 200, "{summary:?}");
        ensure!(summary.names.len() == 2 && summary.names.values().all(|&n| n > 50), "{summary:?}");
        ensure!(
            summary.untruthful == 0 && client.addresses().contains(summary.seen_as.first().unwrap_or(&vip.ip())),
            "{summary:?}"
        );
    }
    ensure!(one.seen(seen)?.peers.iter().all(|peer| client.addresses().contains(peer)));
    lab.set_endpoints(&echo, vec![Endpoint { ready: false, ..Endpoint::from(&v1) }, Endpoint::from(&v2)])?;
    let summary = app.call(Calls::to(echo.v4()).times(50, 4))?;
    ensure!(summary.names.len() == 1 && summary.names.get("v2") == Some(&50), "{summary:?}");
    lab.set_endpoints(&echo, vec![])?;
    let summary = app.call(Calls::to(echo.v6()).times(5, 1))?;
    ensure!(summary.failed() == 5 && summary.errors.keys().all(|e| e.contains("ConnectionRefused")), "{summary:?}");
    lab.finish()
}

#[test]
fn lab_capture_sees_payload_between_nodes() -> Result<()> {
    let lab = Lab::new("capture")?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let (client, server) = (lab.pod(&a, "client").create()?, lab.pod(&b, "server").create()?);
    let (app, peer) = (client.app(&lab)?, server.app(&lab)?);
    peer.listen(anywhere(8080), "server", Behaviour::Echo)?;
    let capture = Capture::start(&lab)?;
    for (seed, to) in [(1, server.v4(8080)?), (2, server.v6(8080)?)] {
        let payload = Payload::Noise { seed, length: 300_000 };
        let conn = app.open(to)?.conn;
        let exchanged = app.exchange(conn, payload.clone())?;
        ensure!(exchanged.received == payload.sum() && exchanged.end == End::Fin, "{exchanged:?}");
        let needle = payload.block();
        wait::holds("the capture to show the payload both ways", || capture.containing(&needle[..1000]).len() >= 2)?;
        ensure!(capture.tls_bytes(8080).is_err(), "plaintext passed for TLS");
        ensure!(capture.containing(b"a text nobody sent").is_empty());
        wait::until("all of it to be captured", wait::DEADLINE, || {
            let carried: u64 = capture.flows().iter().filter(|(flow, _)| flow.to == to).map(|(_, length)| length).sum();
            ensure!(carried >= 300_000, "{carried} of 300000 bytes towards {to}");
            Ok(())
        })?;
    }
    drop(capture);
    lab.finish()
}

#[test]
fn lab_app_speaks_every_part() -> Result<()> {
    let lab = Lab::new("parts")?;
    let node = lab.node("a")?;
    let (client, server) = (lab.pod(&node, "client").create()?, lab.pod(&node, "server").create()?);
    let (app, peer) = (client.app(&lab)?, server.app(&lab)?);
    let (manual, _) = peer.listen(anywhere(1000), "manual", Behaviour::Manual)?;
    let ours = app.open(server.v4(1000)?)?;
    let theirs = peer.accept(manual)?;
    ensure!(theirs.peer.port() == ours.local.port() && ours.peer == server.v4(1000)?);
    app.say(ours.conn, "hello\n")?;
    ensure!(peer.receive(theirs.conn, Until::Line)?.text == "hello\n");
    app.finish(ours.conn)?;
    ensure!(peer.receive(theirs.conn, Until::End)?.end == Some(End::Fin));
    peer.say(theirs.conn, "half-closed")?;
    ensure!(app.receive(ours.conn, Until::Bytes(11))?.text == "half-closed");
    peer.reset(theirs.conn)?;
    ensure!(app.receive(ours.conn, Until::End)?.end == Some(End::Reset));
    peer.listen(anywhere(1001), "digest", Behaviour::Digest)?;
    let conn = app.open(server.v6(1001)?)?.conn;
    let payload = Payload::Noise { seed: 9, length: 3_000_000 };
    app.send(conn, payload.clone())?;
    app.finish(conn)?;
    let said = app.receive(conn, Until::End)?.text;
    ensure!(said == format!("3000000 {:x}\n", payload.sum().value), "{said}");
    peer.listen(anywhere(1002), "rst", Behaviour::Rst)?;
    let conn = app.open(server.v4(1002)?)?.conn;
    app.say(conn, "x")?;
    ensure!(app.receive(conn, Until::End)?.end == Some(End::Reset));
    let refused = app.open(server.v4(999)?);
    ensure!(refused.is_err_and(|e| format!("{e:#}").contains("ConnectionRefused")));
    peer.listen(anywhere(1003), "held", Behaviour::Identify)?;
    let held = app.hold(Calls::to(server.v4(1003)?).times(500, 32))?;
    ensure!(held.opened.ok == 500, "{held:?}");
    ensure!(app.poke(held.group)?.ok == 500);
    let looping = app.start_loop(Calls::to(server.v4(1003)?), std::time::Duration::from_millis(1))?;
    wait::holds("ten rounds of the loop", || app.loop_report(looping).is_ok_and(|report| report.ok >= 10))?;
    ensure!(app.stop_loop(looping)?.failed() == 0);
    app.release(held.group)?;
    let conn = app.open(server.v4(1003)?)?.conn;
    let again = app.reconnect(conn, server.v4(1000)?)?;
    ensure!(again.peer == server.v4(1000)?);
    lab.finish()
}

#[test]
fn lab_teardown_finds_what_was_left() -> Result<()> {
    let lab = Lab::new("leaks")?;
    let node = lab.node("a")?;
    let pod = lab.pod(&node, "pod").create()?;
    ensure!(pod.before().difference(&NetState::of(pod.netns())?).is_empty());
    pod.netns().ip(&["rule add fwmark 7 lookup 77".into(), "route add local default dev lo table 77".into()])?;
    pod.netns().sysctl("net/ipv4/tcp_fwmark_accept", "1")?;
    let left = pod.before().difference(&NetState::of(pod.netns())?);
    ensure!(left.len() == 3, "{left:?}");
    let path = lab.directory().to_owned();
    // A process outside the lab's cgroup that keeps a namespace open must be reported.
    let held = std::fs::File::open(pod.netns().path())?;
    let outcome = std::thread::spawn(move || lab.finish()).join();
    drop(held);
    let problem = outcome.map_err(|_| anyhow::anyhow!("teardown panicked"))?;
    ensure!(
        problem.is_err_and(|p| format!("{p:#}").contains("holds a namespace")),
        "the held namespace went unnoticed"
    );
    ensure!(!path.exists());
    finds_a_left_map_entry()
}

/// An entry nobody owns, put into an agent's pinned map, must be reported.
fn finds_a_left_map_entry() -> Result<()> {
    let (mesh, _) = Mesh::serving("entries", Behaviour::Identify)?;
    mesh.steered(1, || mesh.app.call_once(mesh.echo.v4()))?;
    let maps = mesh.lab.pinned_maps();
    let data = aya::maps::MapData::from_pin(maps.first().context("no pins")?.join(weft_abi::map::INBOUND_MODES))?;
    let mut modes: aya::maps::HashMap<_, weft_abi::PortKey, u32> = aya::maps::Map::HashMap(data).try_into()?;
    modes.insert(weft_abi::PortKey { cookie: u64::MAX, port: 1 }, 0, 0)?;
    let problem = mesh.lab.finish();
    ensure!(problem.as_ref().is_err_and(|p| format!("{p:#}").contains("INBOUND_MODES still has")), "{problem:?}");
    Ok(())
}

/// Journeys of which only the last has no end.
const SAMPLE: &str = "
#[test]
fn a() {
    lab.finish()
}
#[test]
fn b() {
    rest(lab)
}
fn rest(lab: Lab) {
    end(lab)
}
fn end(lab: Lab) {
    lab.finish()
}
#[test]
fn c() {
    send(lab)
}
";

/// The journeys of a file that finish no lab, neither themselves nor by a function of the file.
fn without_end(text: &str) -> Vec<&str> {
    let mut functions: Vec<(&str, bool, String)> = Vec::new();
    let mut is_test = false;
    for line in text.lines() {
        if let Some((_, name)) =
            line.split_once("fn ").filter(|(before, _)| before.trim().is_empty() || line.contains("pub"))
        {
            functions.push((name.split(['(', '<']).next().unwrap_or_default(), is_test, String::new()));
        } else if let Some((.., body)) = functions.last_mut() {
            body.push_str(line);
        }
        is_test = line == "#[test]";
    }
    let mut ends: Vec<&str> = Vec::new();
    let calls = |body: &str, name: &str| {
        let inside = |c: char| c.is_alphanumeric() || c == '_';
        body.match_indices(&format!("{name}(")).any(|(at, _)| !body[..at].ends_with(inside))
    };
    loop {
        let finishing = |body: &str| body.contains(".finish()") || ends.iter().any(|end| calls(body, end));
        let (found, left): (Vec<_>, Vec<_>) = functions.into_iter().partition(|(.., body)| finishing(body));
        if found.is_empty() {
            return left.into_iter().filter(|(_, is_test, _)| *is_test).map(|(name, ..)| name).collect();
        }
        ends.extend(found.into_iter().map(|(name, ..)| name));
        functions = left;
    }
}

/// A journey that forgets to finish its lab would pass whatever the mesh left behind.
#[test]
fn lab_is_finished_by_every_journey() -> Result<()> {
    // What is looked for is found.
    ensure!(without_end(SAMPLE) == ["c"], "{:?}", without_end(SAMPLE));
    let mut directories = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/journeys"))];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path)?;
            let mut left = without_end(&text);
            if path.ends_with("lab_itself.rs") {
                // The sample above, and this one, which has no lab.
                left.retain(|name| !["c", "lab_is_finished_by_every_journey"].contains(name));
            }
            ensure!(left.is_empty(), "{}: these do not finish their labs: {left:?}", path.display());
        }
    }
    Ok(())
}
