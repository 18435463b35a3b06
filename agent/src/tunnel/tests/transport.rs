//! Bytes arrive as they were sent, and endings as they happened.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::apps::{app, echo_app, ping_pong};
use super::rig::{Rig, identity, over_both, until, within};
use crate::relay::{End, Side};
use crate::tunnel::Protocol;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

over_both!(
    both_families_know_their_peer,
    half_close_both_ways_64_at_once,
    large_transfers_both_ways_at_once,
    one_byte_segments_arrive,
    client_reset_reaches_the_server,
    server_reset_reaches_the_client_after_its_bytes,
    close_with_unread_input_is_a_reset_not_a_fin,
    killed_connections_are_reset_on_both_sides,
    refused_apps_are_told_apart,
);

fn reset(tcp: TcpStream) {
    SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap();
    drop(tcp);
}

/// A cheap checksum that notices order and loss (FNV-1a over words).
fn checksum(state: u64, data: &[u8]) -> u64 {
    data.iter().fold(state, |state, byte| (state ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

async fn write_pattern(tcp: &mut (impl AsyncWriteExt + Unpin), seed: u64, total: usize) -> u64 {
    let (mut left, mut word, mut sum) = (total, seed, 0);
    let mut chunk = vec![0; 48 * 1024];
    while left > 0 {
        let size = chunk.len().min(left);
        for byte in &mut chunk[..size] {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (word >> 56) as u8;
        }
        sum = checksum(sum, &chunk[..size]);
        tcp.write_all(&chunk[..size]).await.unwrap();
        left -= size;
    }
    sum
}

async fn read_sum(tcp: &mut (impl AsyncReadExt + Unpin)) -> (usize, u64) {
    let (mut total, mut sum) = (0, 0);
    let mut chunk = vec![0; 48 * 1024];
    loop {
        match tcp.read(&mut chunk).await.unwrap() {
            0 => return (total, sum),
            size => {
                sum = checksum(sum, &chunk[..size]);
                total += size;
            }
        }
    }
}

async fn both_families_know_their_peer(protocol: Protocol) {
    for ip in [V4, Ipv6Addr::LOCALHOST.into()] {
        let rig = Rig::with(super::rig::Plan { ip, ..super::rig::Plan::speaking(protocol) }).await;
        let echo = echo_app(ip).await;
        let stream = rig.stream(echo).await.unwrap();
        assert_eq!(stream.peer.identity, identity("server"));
        drop(stream);
        ping_pong(&mut rig.connect(echo).await, 10).await;
    }
}

async fn half_close_both_ways_64_at_once(protocol: Protocol) {
    // Each server answers only after the client's FIN, so a FIN that is lost or early shows.
    let server = app(V4, |mut tcp| async move {
        let (total, sum) = read_sum(&mut tcp).await;
        tcp.write_u64(total as u64).await.unwrap();
        tcp.write_u64(sum).await.unwrap();
        write_pattern(&mut tcp, sum, 100_000).await;
        tcp.shutdown().await.unwrap();
    })
    .await;
    let rig = Rig::speaking(protocol).await;
    let mut transfers = JoinSet::new();
    for seed in 0..64_u64 {
        let mut client = rig.connect(server).await;
        transfers.spawn(async move {
            let sum = write_pattern(&mut client, seed, 200_000).await;
            client.shutdown().await.unwrap();
            assert_eq!(client.read_u64().await.unwrap(), 200_000);
            assert_eq!(client.read_u64().await.unwrap(), sum);
            assert_eq!(read_sum(&mut client).await.0, 100_000);
        });
    }
    within("64 transfers", transfers.join_all()).await;
    until("64 outcomes", || rig.outcomes.lock().unwrap().len() == 64).await;
    for outcome in rig.outcomes.lock().unwrap().iter() {
        assert_eq!((outcome.end, outcome.received, outcome.sent), (End::Fin, 200_000, 100_016));
    }
}

async fn large_transfers_both_ways_at_once(protocol: Protocol) {
    const SIZE: usize = 32 << 20;
    let server = app(V4, |tcp| async move {
        let (mut read, mut write) = tcp.into_split();
        let sender = tokio::spawn(async move {
            let sum = write_pattern(&mut write, 7, SIZE).await;
            write.write_u64(sum).await.unwrap();
            write
        });
        let (total, sum) = read_sum(&mut read).await;
        let mut write = sender.await.unwrap();
        write.write_u64(total as u64).await.unwrap();
        write.write_u64(sum).await.unwrap();
    })
    .await;
    let rig = Rig::speaking(protocol).await;
    let (mut read, mut write) = rig.connect(server).await.into_split();
    let sender = tokio::spawn(async move {
        let sum = write_pattern(&mut write, 9, SIZE).await;
        write.shutdown().await.unwrap();
        sum
    });
    let mut body = (&mut read).take(SIZE as u64);
    let (total, sum) = within("the download", read_sum(&mut body)).await;
    assert_eq!(total, SIZE);
    assert_eq!(read.read_u64().await.unwrap(), sum);
    let sent = sender.await.unwrap();
    assert_eq!(read.read_u64().await.unwrap(), SIZE as u64);
    assert_eq!(read.read_u64().await.unwrap(), sent);
}

async fn one_byte_segments_arrive(protocol: Protocol) {
    let rig = Rig::speaking(protocol).await;
    let mut client = rig.connect(echo_app(V4).await).await;
    client.set_nodelay(true).unwrap();
    for byte in 0..=255_u8 {
        client.write_u8(byte).await.unwrap();
    }
    for byte in 0..=255_u8 {
        assert_eq!(client.read_u8().await.unwrap(), byte);
    }
}

async fn client_reset_reaches_the_server(protocol: Protocol) {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let server = app(V4, move |mut tcp| {
        let tell = tell.clone();
        async move {
            tcp.write_u8(1).await.unwrap();
            let mut rest = Vec::new();
            tell.send(tcp.read_to_end(&mut rest).await.map_err(|e| e.kind())).unwrap();
        }
    })
    .await;
    let rig = Rig::speaking(protocol).await;
    let mut client = rig.connect(server).await;
    client.read_u8().await.unwrap();
    reset(client);
    assert_eq!(within("the reset", told.recv()).await, Some(Err(ErrorKind::ConnectionReset)));
    until("an outcome", || !rig.outcomes.lock().unwrap().is_empty()).await;
    assert_eq!(rig.outcomes.lock().unwrap()[0].end, End::Reset(Side::Far));

    // After a half-close nobody reads from the client any more; its reset must still arrive.
    let server = app(V4, move |mut tcp| async move {
        let mut rest = Vec::new();
        tcp.read_to_end(&mut rest).await.unwrap();
        tcp.write_u8(1).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let mut client = rig.connect(server).await;
    client.shutdown().await.unwrap();
    client.read_u8().await.unwrap();
    reset(client);
    until("a second outcome", || rig.outcomes.lock().unwrap().len() == 2).await;
    assert_eq!(rig.outcomes.lock().unwrap()[1].end, End::Reset(Side::Far));
}

async fn server_reset_reaches_the_client_after_its_bytes(protocol: Protocol) {
    let server = app(V4, |mut tcp| async move {
        tcp.write_all(&[7; 50_000]).await.unwrap();
        // The client acknowledges, so that nothing is under way when the reset overtakes.
        tcp.read_u8().await.unwrap();
        reset(tcp);
    })
    .await;
    let rig = Rig::speaking(protocol).await;
    let mut client = rig.connect(server).await;
    let mut bytes = vec![0; 50_000];
    client.read_exact(&mut bytes).await.unwrap();
    client.write_u8(1).await.unwrap();
    let end = within("the reset", client.read_u8()).await.unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
}

async fn close_with_unread_input_is_a_reset_not_a_fin(protocol: Protocol) {
    let server = app(V4, |mut tcp| async move {
        tcp.read_u8().await.unwrap();
        drop(tcp);
    })
    .await;
    let rig = Rig::speaking(protocol).await;
    let mut client = rig.connect(server).await;
    client.write_all(&[1; 10_000]).await.unwrap();
    let mut rest = Vec::new();
    let end = within("the reset", client.read_to_end(&mut rest)).await.unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
}

async fn killed_connections_are_reset_on_both_sides(protocol: Protocol) {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let server = app(V4, move |mut tcp| {
        let tell = tell.clone();
        async move {
            tcp.write_u8(1).await.unwrap();
            let mut rest = Vec::new();
            tell.send(tcp.read_to_end(&mut rest).await.map_err(|e| e.kind())).unwrap();
        }
    })
    .await;
    let rig = Rig::speaking(protocol).await;
    let mut client = rig.connect(server).await;
    client.read_u8().await.unwrap();
    rig.flows.kill();
    assert_eq!(within("the kill", told.recv()).await, Some(Err(ErrorKind::ConnectionReset)));
    assert_eq!(within("the kill", client.read_u8()).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

async fn refused_apps_are_told_apart(protocol: Protocol) {
    let rig = Rig::speaking(protocol).await;
    let closed = {
        let (socket, _) = super::apps::socket_pair(V4).await;
        SocketAddr::new(V4, socket.local_addr().unwrap().port())
    };
    let error = rig.stream(closed).await.unwrap_err();
    assert_eq!(error.reason(), "refused_unreachable", "{error}");
    ping_pong(&mut rig.connect(echo_app(V4).await).await, 1).await;
    assert_eq!(rig.pool.tunnels(), 1, "a refused stream does not cost the tunnel");
}
