//! Peers that are gone without a word: TCP's keepalive finds out, where a policy says how soon, for connections and for requests
//! that wait.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use weft_tests::app::{Ask, Behaviour, Http, Payload, Until};
use weft_tests::wait;

use crate::fixture::{Mesh, anywhere};
use crate::http_policy::{policy, service};

/// A peer that says nothing is asked after a second, every second, and given up after the third time.
const FOUND: std::ops::Range<Duration> = Duration::from_secs(2)..Duration::from_secs(9);

#[test]
fn keepalive_finds_peers_that_are_gone() -> Result<()> {
    let mesh = Mesh::up("keepalive")?;
    // Outside the mesh: in a tunnel it is the tunnel that finds out.
    let gone = mesh.lab.pod(&mesh.b, "gone").mesh("disabled").create()?;
    let peer = gone.app(&mesh.lab)?;
    let (listener, _) = peer.listen(anywhere(8080), "gone", Behaviour::Http)?;
    peer.listen(anywhere(9090), "gone", Behaviour::Echo)?;
    let web = mesh.lab.service("web").speaks("http").pods(&[&gone]).create()?;
    let bytes = mesh.lab.service("bytes").port(80, 9090).pods(&[&gone]).create()?;
    let settings = json!({"tcpKeepalive": {"time": "1s", "interval": "1s", "probes": 3}, "idleTimeout": "1h"});
    policy(&mesh.lab, "web", &service("web"), &settings)?;
    policy(&mesh.lab, "bytes", &service("bytes"), &settings)?;
    // A connection it is set for, as the kernel shows it where the agent has dialled: its timer is that of a keepalive.
    let conn = wait::until("a connection that is kept alive", wait::DEADLINE, || {
        let conn = mesh.steered(1, || mesh.app.open(bytes.v4()))?.conn;
        mesh.app.say(conn, "hello")?;
        ensure!(mesh.app.receive(conn, Until::Bytes(5))?.text == "hello");
        let sockets = mesh.client.netns().output(&["ss", "-tnoH", "state", "established", "dport = :9090"])?;
        ensure!(sockets.contains("timer:(keepalive,"), "{sockets:?}");
        Ok(conn)
    })?;
    let reply = mesh.steered(1, || mesh.app.fetch(web.v4(), Http::One, Ask::get("/")))?;
    ensure!(reply.status == 200, "{reply:?}");
    // One that is there has its time, however little it says.
    let reply = mesh.app.fetch(web.v4(), Http::One, Ask::get("/wait/4500"))?;
    ensure!(reply.status == 200, "{reply:?}");
    let before = peer.seen(listener)?.requests;
    let (app, to) = (mesh.app.clone(), web.v4());
    // One that is not made again elsewhere.
    let ask = Ask::post("/wait/600000", Payload::Text("hello".into()));
    let waiting = std::thread::spawn(move || app.fetch_within(to, Http::One, ask, 60_000));
    wait::until("the request to be there", wait::DEADLINE, || {
        ensure!(peer.seen(listener)?.requests > before);
        Ok(())
    })?;
    gone.netns().ip(&["link set eth0 down".into()])?;
    let begun = Instant::now();
    let ended = mesh.app.receive(conn, Until::End)?;
    ensure!(ended.end.is_some() && FOUND.contains(&begun.elapsed()), "{ended:?} after {:?}", begun.elapsed());
    let answer = waiting.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    ensure!((answer.status, answer.header("weft-error")) == (502, Some("upstream_reset")), "{answer:?}");
    ensure!(FOUND.contains(&begun.elapsed()), "answered after {:?}", begun.elapsed());
    gone.reconnect()?;
    mesh.lab.finish()
}
