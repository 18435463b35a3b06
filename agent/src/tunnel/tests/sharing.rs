//! Who shares a tunnel with whom, and that nobody pays for a neighbour.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::apps::{echo_app, ping_pong, stuck_app};
use super::rig::{Plan, Rig, identity, over_both, until, within};
use crate::tunnel::{PoolSettings, Protocol};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

over_both!(
    stalled_streams_do_not_block_others,
    identities_do_not_share,
    idle_tunnels_close_and_leave_nothing,
    rotation_under_load_disturbs_nobody,
    goaway_moves_new_connections_and_keeps_old_ones,
    closing_the_pool_delivers_what_is_under_way,
);

/// Writes until nothing more fits anywhere on the way.
async fn fill(tcp: &mut TcpStream) {
    let chunk = vec![0; 256 * 1024];
    while timeout(Duration::from_millis(500), tcp.write_all(&chunk)).await.is_ok() {}
}

async fn stalled_streams_do_not_block_others(protocol: Protocol) {
    let rig = Rig::speaking(protocol).await;
    let (echo, stuck) = (echo_app(V4).await, stuck_app(V4).await);
    let mut before = rig.connect(echo).await;
    ping_pong(&mut before, 1).await;
    let mut filling = JoinSet::new();
    for _ in 0..16 {
        let mut client = rig.connect(stuck).await;
        filling.spawn(async move {
            fill(&mut client).await;
            client
        });
    }
    let stalled = within("16 full windows", filling.join_all()).await;
    // The neighbour in the very tunnel that holds all the stuck readers:
    within("200 echoes of an older connection", ping_pong(&mut before, 200)).await;
    let mut after = rig.connect(echo).await;
    within("200 echoes of a newer connection", ping_pong(&mut after, 200)).await;
    assert_eq!(stalled.len(), 16);
}

/// A peer whose connection window is shared and small, as other implementations have it.
async fn shared_window_peer(rig: &Rig) -> u16 {
    let listener = TcpListener::bind((V4, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = rig.credentials("server").server_config();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = TlsAcceptor::from(Arc::clone(&config));
            tokio::spawn(async move {
                let tls = acceptor.accept(tcp).await.unwrap();
                let mut connection = h2::server::Builder::new()
                    .initial_window_size(1 << 20)
                    .initial_connection_window_size(4 << 20)
                    .handshake::<_, bytes::Bytes>(tls)
                    .await
                    .unwrap();
                let mut kept = Vec::new();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let send = respond.send_response(http::Response::new(()), false).unwrap();
                    let port = request.uri().authority().unwrap().port_u16().unwrap();
                    if port == 1 {
                        kept.push((request, send));
                    } else {
                        tokio::spawn(echo(request.into_body(), send));
                    }
                }
            });
        }
    });
    port
}

async fn echo(mut recv: h2::RecvStream, mut send: h2::SendStream<bytes::Bytes>) {
    while let Some(Ok(data)) = recv.data().await {
        let _ = recv.flow_control().release_capacity(data.len());
        let _ = send.send_data(data, false);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_joins_a_stalled_tunnel_of_a_peer_with_shared_windows() {
    let rig = Rig::new().await;
    let port = shared_window_peer(&rig).await;
    let settings = PoolSettings { port, budget: Duration::from_secs(15), ..PoolSettings::default() };
    let pool = crate::tunnel::Pool::new(Arc::clone(&rig.store), settings, Arc::new(()));
    let rig = Rig { pool, ..rig };
    let stuck = (V4, 1).into();
    let mut filling = JoinSet::new();
    for _ in 0..6 {
        let mut client = rig.connect(stuck).await;
        filling.spawn(async move {
            fill(&mut client).await;
            client
        });
    }
    let stalled = within("an exhausted connection window", filling.join_all()).await;
    let mut after = rig.connect((V4, 2).into()).await;
    within("echoes beside an exhausted tunnel", ping_pong(&mut after, 200)).await;
    assert_eq!(rig.pool.tunnels(), 2);
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_dial_serves_all_who_wait_and_full_tunnels_get_company() {
    let rig = Rig::speaking(Protocol::Hbone).await;
    let echo = echo_app(V4).await;
    let connect = |count: usize| {
        let streams = (0..count).map(|_| rig.connect(echo));
        futures_util::future::join_all(streams)
    };
    let first = within("100 connections", connect(100)).await;
    assert_eq!(rig.pool.tunnels(), 1);
    let more = within("150 more", connect(150)).await;
    assert_eq!(rig.pool.tunnels(), 3);
    for mut client in first.into_iter().chain(more) {
        ping_pong(&mut client, 1).await;
    }
}

async fn identities_do_not_share(protocol: Protocol) {
    let rig = Rig::speaking(protocol).await;
    let echo = echo_app(V4).await;
    rig.store.ensure(&identity("other"));
    let one = rig.stream(echo).await.unwrap();
    let mut request = rig.request(echo);
    request.source = identity("other");
    let two = rig.pool.connect(&request).await.unwrap();
    assert_eq!(rig.pool.tunnels(), 2);
    drop((one, two));
}

async fn idle_tunnels_close_and_leave_nothing(protocol: Protocol) {
    let pool =
        PoolSettings { idle: Duration::from_millis(200), budget: Duration::from_secs(15), ..PoolSettings::default() };
    let rig = Rig::with(Plan { pool, ..Plan::speaking(protocol) }).await;
    let mut client = rig.connect(echo_app(V4).await).await;
    ping_pong(&mut client, 1).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    ping_pong(&mut client, 1).await;
    assert_eq!(rig.pool.tunnels(), 1, "a tunnel with a stream is not idle");
    drop(client);
    until("no tunnel", || rig.pool.tunnels() == 0).await;
    until("the server's end closed", || rig.server_seen.closed.load(Ordering::SeqCst) == 1).await;
    until("the client's end closed", || rig.client_seen.closed.load(Ordering::SeqCst) == 1).await;
    assert!(rig.server_seen.rejections().is_empty(), "an orderly close is not a rejection");
}

async fn rotation_under_load_disturbs_nobody(protocol: Protocol) {
    let rig = Rig::with(Plan { lifetime: Duration::from_secs(4), ..Plan::speaking(protocol) }).await;
    let echo = echo_app(V4).await;
    let mut long = rig.connect(echo).await;
    let first = rig.credentials("client").leaf().serial.clone();
    let mut serials = std::collections::BTreeSet::new();
    let mut connections = 0;
    while serials.len() < 3 {
        serials.insert(rig.credentials("client").leaf().serial.clone());
        ping_pong(&mut rig.connect(echo).await, 1).await;
        ping_pong(&mut long, 1).await;
        connections += 1;
    }
    assert!(serials.contains(&first) && connections > 10);
    drop(long);
    // Whatever the old certificates carried has gone with its last stream.
    until("retired tunnels closed", || {
        rig.server_seen.opened.load(Ordering::SeqCst)
            == rig.server_seen.closed.load(Ordering::SeqCst) + rig.pool.tunnels()
    })
    .await;
}

async fn goaway_moves_new_connections_and_keeps_old_ones(protocol: Protocol) {
    let rig = Rig::speaking(protocol).await;
    let echo = echo_app(V4).await;
    let mut old = rig.connect(echo).await;
    ping_pong(&mut old, 1).await;
    let leaving = std::mem::replace(&mut *rig.drain.lock().unwrap(), CancellationToken::new());
    leaving.cancel();
    for _ in 0..20 {
        let mut new = rig.connect(echo).await;
        ping_pong(&mut new, 1).await;
        ping_pong(&mut old, 1).await;
    }
    drop(old);
    until("the drained tunnel closed", || rig.server_seen.closed.load(Ordering::SeqCst) == 1).await;
}

async fn closing_the_pool_delivers_what_is_under_way(protocol: Protocol) {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let server = super::apps::app(V4, move |mut tcp| {
        let tell = tell.clone();
        async move {
            let mut all = Vec::new();
            tcp.read_to_end(&mut all).await.unwrap();
            tell.send(all.len()).unwrap();
        }
    })
    .await;
    let rig = Rig::speaking(protocol).await;
    let mut client = rig.connect(server).await;
    client.write_all(&[7; 300_000]).await.unwrap();
    client.shutdown().await.unwrap();
    within("closed tunnels", rig.pool.close()).await;
    assert_eq!(rig.pool.tunnels(), 0);
    assert_eq!(told.recv().await, Some(300_000));
    let mut again = rig.connect(echo_app(V4).await).await;
    ping_pong(&mut again, 1).await;
}

#[tokio::test]
async fn no_stream_joins_a_tunnel_whose_certificate_has_expired() {
    let rig = Rig::with(Plan { lifetime: Duration::from_secs(2), ..Plan::default() }).await;
    let echo = echo_app(V4).await;
    let config = rig.credentials("client").client_config(&identity("server")).unwrap();
    let tcp = TcpStream::connect((V4, rig.port)).await.unwrap();
    let name = rustls::pki_types::ServerName::IpAddress(V4.into());
    let tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.unwrap();
    let (sender, connection) = h2::client::handshake(tls).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = || http::Request::builder().method(http::Method::CONNECT).uri(echo.to_string()).body(()).unwrap();
    let mut sender = sender.ready().await.unwrap();
    let (response, mut old) = sender.send_request(request(), false).unwrap();
    let mut echoed = response.await.unwrap().into_body();
    // Asks until it is told to go away; the stream it has stays.
    let told_to_go = async {
        loop {
            let Ok(mut ready) = sender.clone().ready().await else { break };
            let Ok((response, _send)) = ready.send_request(request(), false) else { break };
            if response.await.is_err() {
                break;
            }
        }
    };
    within("GOAWAY", told_to_go).await;
    old.send_data(bytes::Bytes::from_static(b"still here"), false).unwrap();
    assert_eq!(within("the echo", echoed.data()).await.unwrap().unwrap(), "still here");
    drop((old, echoed, sender));
    let _ = within("the end of the tunnel", driver).await;
}
