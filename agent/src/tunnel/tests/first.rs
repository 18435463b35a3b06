//! A client's first bytes go with the OPEN: once, to one server, and only to one that was heard lately.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::rig::{Plan, Rig, echo_app, ping_pong, socket_pair, within};
use crate::relay::tcp_to_stream;
use crate::tunnel::{FirstBytes, PoolSettings, Stream, TunnelError};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A client that has said something: the app's end and the agent's.
async fn client(says: &[u8]) -> (TcpStream, TcpStream) {
    let (mut app, near) = socket_pair(V4).await;
    app.write_all(says).await.unwrap();
    near.readable().await.unwrap();
    (app, near)
}

async fn connect(rig: &Rig, to: SocketAddr, first: &FirstBytes<'_>) -> Result<Stream, TunnelError> {
    let request = rig.request(to);
    let request = crate::tunnel::ConnectRequest { first: Some(first), ..request };
    within("connect", rig.pool.connect(&request)).await
}

/// Has the app hear its own words, and nothing but those.
async fn hears_itself(mut app: TcpStream, near: TcpStream, stream: Stream, said: &[u8]) {
    let (kill, traffic) = (tokio_util::sync::CancellationToken::new(), Arc::default());
    let counted = Arc::clone(&traffic);
    let relay = tokio::spawn(async move { tcp_to_stream(near, stream, &counted, &kill).await });
    app.write_all(b" and more").await.unwrap();
    app.shutdown().await.unwrap();
    let mut heard = Vec::new();
    within("the echo", app.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard, [said, b" and more"].concat());
    let outcome = within("the relay", relay).await.unwrap();
    assert_eq!((outcome.sent, outcome.received), (heard.len() as u64, heard.len() as u64));
}

#[tokio::test]
async fn they_arrive_once() {
    let rig = Rig::new().await;
    let echo = echo_app(V4).await;
    ping_pong(&mut rig.connect(echo).await, 1).await;
    // Short, and longer than goes along.
    for size in [5, 100_000] {
        let said = vec![b'h'; size];
        let (app, near) = client(&said).await;
        let first = FirstBytes::of(&near);
        let stream = connect(&rig, echo, &first).await.unwrap();
        assert_eq!(stream.first, size.min(4096));
        assert!(!first.under_way(), "the server has answered");
        hears_itself(app, near, stream, &said).await;
    }
}

#[tokio::test]
async fn a_server_that_refuses_has_delivered_nothing() {
    let rig = Rig::new().await;
    let echo = echo_app(V4).await;
    ping_pong(&mut rig.connect(echo).await, 1).await;
    let nobody = socket_pair(V4).await.0.local_addr().unwrap();
    let (app, near) = client(b"hello").await;
    let first = FirstBytes::of(&near);
    let error = connect(&rig, nobody, &first).await.unwrap_err();
    assert_eq!(error.reason(), "refused_unreachable");
    assert!(!first.under_way(), "another endpoint may be asked");
    let stream = connect(&rig, echo, &first).await.unwrap();
    assert_eq!(stream.first, 5);
    hears_itself(app, near, stream, b"hello").await;
}

#[tokio::test]
async fn a_tunnel_lost_before_the_answer_is_final() {
    let pool = PoolSettings { budget: Duration::from_millis(500), ..PoolSettings::default() };
    let rig = Rig::with(Plan { pool, ..Plan::default() }).await;
    ping_pong(&mut rig.connect(echo_app(V4).await).await, 1).await;
    // A listener whose backlog is full: SYNs are dropped, and the server has no answer.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&SocketAddr::new(V4, 0).into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let mut queue = Vec::new();
    while let Ok(Ok(tcp)) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        queue.push(tcp);
    }
    ping_pong(&mut rig.connect(echo_app(V4).await).await, 1).await;
    let (_app, near) = client(b"hello").await;
    let first = FirstBytes::of(&near);
    let error = connect(&rig, address, &first).await.unwrap_err();
    assert_eq!(error.reason(), "unanswered", "{error}");
    assert!(first.under_way());
}

#[tokio::test]
async fn a_tunnel_that_was_silent_gets_none() {
    let rig = Rig::new().await;
    let echo = echo_app(V4).await;
    ping_pong(&mut rig.connect(echo).await, 1).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let (app, near) = client(b"hello").await;
    let first = FirstBytes::of(&near);
    let stream = connect(&rig, echo, &first).await.unwrap();
    assert_eq!(stream.first, 0);
    hears_itself(app, near, stream, b"hello").await;
}
