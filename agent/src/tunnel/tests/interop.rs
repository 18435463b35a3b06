//! The same tunnels with a peer that shares no code with this one: tests/peers/hbone_peer.py.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::apps::{echo_app, ping_pong};
use super::rig::{Plan, Rig, identity, until, within};
use crate::tunnel::{Keepalive, Pool, PoolSettings, ServerSettings};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const HOUR: Duration = Duration::from_secs(3600);

/// A running peer and its events.
struct Peer {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    _certs: TempDir,
}

impl Peer {
    fn start(rig: &Rig, name: &str, arguments: &[&str]) -> Self {
        let certs = TempDir::new().unwrap();
        rig.ca.mint(&identity(name), HOUR).unwrap().write(certs.path()).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers/hbone_peer.py");
        let mut child = Command::new("/usr/bin/python3")
            .arg(script)
            .args(arguments)
            .arg("--certs")
            .arg(certs.path())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("python3 with h2 is needed: run `cargo xtask setup`");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { _child: child, lines, _certs: certs }
    }

    async fn next(&mut self) -> Value {
        let line = within("an event of the peer", self.lines.next_line()).await.unwrap();
        serde_json::from_str(&line.expect("the peer has ended: does python3 find h2? `cargo xtask setup`")).unwrap()
    }

    async fn event(&mut self, name: &str) -> Value {
        loop {
            let event = self.next().await;
            assert_ne!(event["event"], "done", "no {name} before {event}");
            if event["event"] == name {
                return event;
            }
        }
    }

    /// Everything until the end, which must be a good one.
    async fn finish(mut self) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let event = self.next().await;
            let done = event["event"] == "done";
            events.push(event);
            if done {
                assert_eq!(events.last().unwrap()["ok"], true, "{events:#?}");
                return events;
            }
        }
    }
}

fn client(rig: &Rig, ip: IpAddr, mode: &str, authority: &str, more: &[&str]) -> Peer {
    let connect = std::net::SocketAddr::new(ip, rig.port).to_string();
    let mut arguments = vec!["client", "--connect", &connect, "--mode", mode, "--authority", authority];
    arguments.extend(more);
    Peer::start(rig, "python", &arguments)
}

fn eager() -> Plan {
    let keepalive = Keepalive { every: Duration::from_millis(200), timeout: Duration::from_millis(500) };
    let server = ServerSettings { handshake: Duration::from_secs(1), keepalive, ..ServerSettings::default() };
    Plan { server, ..Plan::default() }
}

#[tokio::test]
async fn good_clients_are_served_in_both_families() {
    for ip in [V4, Ipv6Addr::LOCALHOST.into()] {
        let rig = Rig::with(Plan { ip, ..Plan::default() }).await;
        let echo = echo_app(ip).await.to_string();
        let server = identity("server").to_string();
        for mode in ["echo", "lying-baggage", "goaway"] {
            let more = ["--bytes", "3000000", "--server-identity", &server];
            client(&rig, ip, mode, &echo, &more).finish().await;
        }
        client(&rig, ip, "echo", &echo, &["--no-alpn"]).finish().await;
        assert!(rig.server_seen.rejections().is_empty(), "{:?}", rig.server_seen.rejections());
    }
}

#[tokio::test]
async fn bad_requests_are_answered_and_counted() {
    let rig = Rig::new().await;
    let echo = echo_app(V4).await.to_string();
    for (mode, authority, bytes, status, reason) in [
        ("get", echo.as_str(), "0", "400", "not_connect"),
        ("bad-authority", &echo, "0", "400", "bad_authority"),
        ("echo", "10.9.9.9:80", "10", "400", "not_this_pod"),
        ("echo", "127.0.0.1:15006", "10", "503", "reserved_port"),
        ("big-headers", &echo, "66000", "431", "headers_too_large"),
    ] {
        let before = rig.server_seen.rejections().len();
        client(&rig, V4, mode, authority, &["--bytes", bytes, "--expect-status", status]).finish().await;
        assert_eq!(rig.server_seen.rejections()[before..], [reason], "{mode}");
    }
}

#[tokio::test]
async fn bad_handshakes_are_turned_away_within_the_deadline() {
    let rig = Rig::with(eager()).await;
    for (mode, reason) in [
        ("plaintext", "not_tls"),
        ("plaintext-h2", "not_tls"),
        ("truncated", "handshake_aborted"),
        ("oversized", "not_tls"),
        ("no-cert", "no_client_certificate"),
        ("wrong-alpn", "wrong_alpn"),
        ("slow-handshake", "handshake_timeout"),
    ] {
        let before = rig.server_seen.rejections().len();
        client(&rig, V4, mode, "127.0.0.1:80", &["--timeout", "8"]).finish().await;
        until(reason, || rig.server_seen.rejections().len() > before).await;
        assert_eq!(rig.server_seen.rejections()[before..], [reason], "{mode}");
    }
    client(&rig, V4, "slow-headers", "127.0.0.1:80", &["--timeout", "8"]).finish().await;
}

#[tokio::test]
async fn resets_and_broken_tunnels_reach_the_app() {
    let rig = Rig::new().await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let app = super::apps::app(V4, move |mut tcp| {
        let tell = tell.clone();
        async move {
            let mut all = Vec::new();
            let end = tcp.read_to_end(&mut all).await.map_err(|error| error.kind());
            tell.send((end, all.len())).unwrap();
        }
    })
    .await
    .to_string();
    for mode in ["reset", "abrupt"] {
        client(&rig, V4, mode, &app, &["--bytes", "50000"]).finish().await;
        let (end, _) = within("the end of the connection", told.recv()).await.unwrap();
        assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset), "{mode}");
    }
}

#[tokio::test]
async fn clients_that_never_open_their_window_hold_one_window() {
    let rig = Rig::with(eager()).await;
    let flood = super::apps::app(V4, |mut tcp| async move { while tcp.write_all(&[0; 65536]).await.is_ok() {} }).await;
    let greedy = client(&rig, V4, "no-window-update", &flood.to_string(), &["--linger", "3", "--bytes", "0"]);
    let mut beside = rig.connect(echo_app(V4).await).await;
    ping_pong(&mut beside, 100).await;
    let events = greedy.finish().await;
    let received = events.iter().find(|event| event["event"] == "received").unwrap()["bytes"].as_u64().unwrap();
    assert!(received <= 4 << 20, "{received} bytes are more than the window");
}

/// A pool whose peer is the Python server.
async fn pool_towards(rig: &Rig, mode: &str, more: &[&str]) -> (Pool, Peer) {
    let mut arguments = vec!["server", "--listen", "127.0.0.1:0", "--mode", mode];
    arguments.extend(more);
    let mut peer = Peer::start(rig, "server", &arguments);
    let port = peer.event("listening").await["port"].as_u64().and_then(|port| port.try_into().ok()).unwrap();
    let settings = PoolSettings { port, budget: Duration::from_secs(3), ..PoolSettings::default() };
    (Pool::new(Arc::clone(&rig.store), settings, Arc::clone(&rig.client_seen) as _), peer)
}

#[tokio::test]
async fn good_servers_are_used() {
    for mode in ["echo", "forward", "goaway"] {
        let rig = Rig::new().await;
        let (pool, mut peer) = pool_towards(&rig, mode, &[]).await;
        let rig = Rig { pool, ..rig };
        let echo = echo_app(V4).await;
        for _ in 0..3 {
            let mut tcp = rig.connect(echo).await;
            ping_pong(&mut tcp, 20).await;
            tcp.shutdown().await.unwrap();
            assert_eq!(tcp.read(&mut [0; 8]).await.unwrap(), 0, "the end comes back");
        }
        if mode == "forward" {
            // Apps that speak first and hang up first.
            let banner = super::apps::app(V4, |mut tcp| async move { tcp.write_all(b"hello").await.unwrap() }).await;
            for _ in 0..10 {
                let mut text = String::new();
                rig.connect(banner).await.read_to_string(&mut text).await.unwrap();
                assert_eq!(text, "hello");
            }
        }
        let tunnel = peer.event("tunnel").await;
        assert_eq!(tunnel["identity"][0], identity("client").to_string());
        let request = peer.event("request").await;
        assert_eq!(request["headers"][":authority"], echo.to_string());
        assert_eq!(request["headers"][":method"], "CONNECT");
        assert_eq!(request["headers"]["forwarded"], "for=\"127.0.0.1:4711\"");
        assert!(request["headers"].get(":path").is_none() && request["headers"].get(":scheme").is_none());
    }
}

#[tokio::test]
async fn bad_servers_are_told_apart() {
    for (mode, more, reason) in [
        ("status", &["--status", "401"][..], "refused_by_policy"),
        ("status", &["--status", "503"], "refused_unreachable"),
        ("refuse-stream", &[], "stream_not_taken"),
        ("silent", &[], "connect_timeout"),
        ("wrong-alpn", &[], "wrong_alpn"),
        ("no-tls", &[], "not_tls"),
    ] {
        let rig = Rig::new().await;
        let (pool, _peer) = pool_towards(&rig, mode, more).await;
        let error = pool.connect(&rig.request((V4, 80).into())).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{mode}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_never_open_their_window_stall_only_their_tunnel() {
    let rig = Rig::new().await;
    let (pool, _peer) = pool_towards(&rig, "no-window-update", &[]).await;
    let rig = Rig { pool, ..rig };
    let mut stuck = rig.connect((V4, 80).into()).await;
    let flood = async { while stuck.write_all(&[0; 65536]).await.is_ok() {} };
    assert!(tokio::time::timeout(Duration::from_secs(2), flood).await.is_err());
    let before = rig.pool.tunnels();
    let _other = rig.connect((V4, 81).into()).await;
    assert_eq!((before, rig.pool.tunnels()), (1, 2));
}
