//! Dead peers, refused dials and silence: bounded in time, and told apart.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::apps::{Cable, echo_app, ping_pong, socket_pair};
use super::rig::{Plan, Rig, over_both, until, within};
use crate::tunnel::{Keepalive, PoolSettings, Protocol};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

over_both!(
    a_silent_tunnel_is_replaced_within_the_budget,
    dead_peers_are_noticed_without_traffic,
    dead_peers_are_noticed_as_soon_in_a_tunnel_that_was_idle,
    a_quiet_tunnel_is_not_a_dead_one,
    an_app_that_does_not_answer_costs_the_budget_and_not_the_tunnel,
);
const BUDGET: Duration = Duration::from_secs(3);

async fn behind_a_cable(protocol: Protocol, keepalive: Keepalive) -> (Rig, Cable) {
    let listener = TcpListener::bind((V4, 0)).await.unwrap();
    let cable = Cable::to(listener.local_addr().unwrap()).await;
    let pool = PoolSettings { budget: BUDGET, keepalive, ..PoolSettings::default() };
    let rig = Rig::on(Plan { via: Some(cable.port), pool, ..Plan::speaking(protocol) }, listener).await;
    (rig, cable)
}

async fn a_silent_tunnel_is_replaced_within_the_budget(protocol: Protocol) {
    let patient = Keepalive { every: Duration::from_secs(3600), timeout: Duration::from_secs(3600) };
    let (rig, cable) = behind_a_cable(protocol, patient).await;
    let echo = echo_app(V4).await;
    ping_pong(&mut rig.connect(echo).await, 1).await;
    cable.cut();
    // Past the age at which a tunnel is trusted without having been heard.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let started = Instant::now();
    ping_pong(&mut rig.connect(echo).await, 1).await;
    assert!(started.elapsed() < BUDGET, "took {:?}", started.elapsed());
}

async fn dead_peers_are_noticed_without_traffic(protocol: Protocol) {
    let eager = Keepalive { every: Duration::from_millis(100), timeout: Duration::from_millis(300) };
    let (rig, cable) = behind_a_cable(protocol, eager).await;
    let mut client = rig.connect(echo_app(V4).await).await;
    ping_pong(&mut client, 1).await;
    cable.cut();
    let end = within("the end of the connection", client.read_u8()).await.unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    until("an empty pool", || rig.pool.tunnels() == 0).await;
}

async fn dead_peers_are_noticed_as_soon_in_a_tunnel_that_was_idle(protocol: Protocol) {
    let eager = Keepalive { every: Duration::from_millis(300), timeout: Duration::from_millis(300) };
    let (rig, cable) = behind_a_cable(protocol, eager).await;
    let echo = echo_app(V4).await;
    ping_pong(&mut rig.connect(echo).await, 1).await;
    until("an idle tunnel", || rig.pool.streams() == 0).await;
    // Without a stream it would be asked after three seconds.
    let mut client = rig.connect(echo).await;
    ping_pong(&mut client, 1).await;
    cable.cut();
    let started = Instant::now();
    within("the end of the connection", client.read_u8()).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_millis(1500), "took {:?}", started.elapsed());
}

async fn a_quiet_tunnel_is_not_a_dead_one(protocol: Protocol) {
    let keepalive = Keepalive { every: Duration::from_millis(100), timeout: Duration::from_millis(500) };
    let pool = PoolSettings { budget: BUDGET, keepalive, ..PoolSettings::default() };
    let server = crate::tunnel::ServerSettings { keepalive, ..crate::tunnel::ServerSettings::default() };
    let rig = Rig::with(Plan { pool, server, ..Plan::speaking(protocol) }).await;
    let mut client = rig.connect(echo_app(V4).await).await;
    ping_pong(&mut client, 1).await;
    // Many times what it takes to be declared dead.
    tokio::time::sleep(Duration::from_secs(3)).await;
    ping_pong(&mut client, 1).await;
    assert_eq!(rig.pool.tunnels(), 1);
}

async fn an_app_that_does_not_answer_costs_the_budget_and_not_the_tunnel(protocol: Protocol) {
    let pool = PoolSettings { budget: Duration::from_millis(500), ..PoolSettings::default() };
    let rig = Rig::with(Plan { pool, ..Plan::speaking(protocol) }).await;
    let echo = echo_app(V4).await;
    let keep = connect_patiently(&rig, echo).await;
    // A listener whose backlog is full: SYNs are dropped.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&SocketAddr::new(V4, 0).into()).unwrap();
    full.listen(1).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let mut queue = Vec::new();
    while let Ok(Ok(tcp)) =
        tokio::time::timeout(Duration::from_millis(300), tokio::net::TcpStream::connect(address)).await
    {
        queue.push(tcp);
    }
    let started = Instant::now();
    let error = rig.pool.connect(&rig.request(address)).await.unwrap_err();
    assert_eq!(error.reason(), "connect_timeout", "{error}");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    let again = connect_patiently(&rig, echo).await;
    assert_eq!(rig.pool.tunnels(), 1);
    drop((keep, again));
}

async fn connect_patiently(rig: &Rig, to: SocketAddr) -> crate::tunnel::Stream {
    for _ in 0..20 {
        if let Ok(stream) = rig.pool.connect(&rig.request(to)).await {
            return stream;
        }
    }
    panic!("20 attempts failed");
}

#[tokio::test]
async fn refused_dials_fail_at_once_and_say_where() {
    let nobody = socket_pair(V4).await.0.local_addr().unwrap().port();
    let rig = Rig::with(Plan { via: Some(nobody), ..Plan::default() }).await;
    let started = Instant::now();
    let error = rig.stream((V4, 80).into()).await.unwrap_err();
    assert_eq!(error.reason(), "dial_failed");
    assert!(error.to_string().contains("NetworkPolicy"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(rig.pool.tunnels(), 0);
}

#[tokio::test]
async fn a_dial_that_nobody_answers_ends_with_the_budget() {
    let (mute, _open) = socket_pair(V4).await;
    let listener = TcpListener::bind((V4, 0)).await.unwrap();
    let pool = PoolSettings { budget: Duration::from_millis(300), ..PoolSettings::default() };
    let via = Some(listener.local_addr().unwrap().port());
    let rig = Rig::with(Plan { via, pool, ..Plan::default() }).await;
    let started = Instant::now();
    let error = rig.stream((V4, 80).into()).await.unwrap_err();
    assert_eq!(error.reason(), "connect_timeout");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    drop(mute);
}

#[tokio::test]
async fn without_a_certificate_nothing_is_dialled() {
    let rig = Rig::new().await;
    let mut request = rig.request((V4, 80).into());
    request.source = super::rig::identity("stranger");
    assert_eq!(rig.pool.connect(&request).await.unwrap_err().reason(), "no_certificate");
}
