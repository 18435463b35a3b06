//! What only the Weft tunnel does: who speaks it with whom, tunnels lost mid-stream, budgets.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::apps::{Cable, app, echo_app, ping_pong, stuck_app};
use super::rig::{Plan, Rig, until, within};
use crate::tunnel::{Budget, Keepalive, PoolSettings, Protocol, Protocols, ServerSettings};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[tokio::test]
async fn agents_speak_weft_and_everyone_else_hbone() {
    for (offered, accepted, spoken) in [
        (Protocols::Both, Protocols::Both, Some(Protocol::Weft)),
        (Protocols::Both, Protocols::Only(Protocol::Hbone), Some(Protocol::Hbone)),
        (Protocols::Only(Protocol::Hbone), Protocols::Both, Some(Protocol::Hbone)),
        (Protocols::Only(Protocol::Weft), Protocols::Both, Some(Protocol::Weft)),
        (Protocols::Only(Protocol::Weft), Protocols::Only(Protocol::Hbone), None),
        (Protocols::Only(Protocol::Hbone), Protocols::Only(Protocol::Weft), None),
    ] {
        let server = ServerSettings { protocols: accepted, ..ServerSettings::default() };
        let rig = Rig::with(Plan { protocols: offered, server, ..Plan::default() }).await;
        let stream = rig.stream(echo_app(V4).await).await;
        match spoken {
            Some(spoken) => {
                assert_eq!(stream.unwrap().protocol(), spoken);
                assert_eq!(*rig.server_seen.protocols.lock().unwrap(), [spoken]);
            }
            None => {
                assert_eq!(stream.unwrap_err().reason(), "wrong_alpn");
                until("the server's count", || rig.server_seen.rejections() == ["wrong_alpn"]).await;
            }
        }
    }
}

#[tokio::test]
async fn a_tunnel_cut_in_the_middle_resets_both_apps_and_never_ends_them() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let server = app(V4, move |mut tcp| {
        let tell = tell.clone();
        async move {
            tcp.write_all(&[7; 1000]).await.unwrap();
            let mut rest = Vec::new();
            tell.send(tcp.read_to_end(&mut rest).await.map_err(|error| error.kind())).unwrap();
            // Its own direction stays open.
            std::future::pending::<()>().await;
        }
    })
    .await;
    let listener = TcpListener::bind((V4, 0)).await.unwrap();
    let cable = Cable::to(listener.local_addr().unwrap()).await;
    let keepalive = Keepalive::default();
    let pool = PoolSettings { keepalive, budget: Duration::from_secs(15), ..PoolSettings::default() };
    let rig = Rig::on(Plan { via: Some(cable.port), pool, ..Plan::speaking(Protocol::Weft) }, listener).await;
    let mut client = rig.connect(server).await;
    let mut half_closed = rig.connect(server).await;
    for tcp in [&mut client, &mut half_closed] {
        tcp.read_exact(&mut [0; 1000]).await.unwrap();
    }
    half_closed.shutdown().await.unwrap();
    assert_eq!(within("the half that ended in order", told.recv()).await, Some(Ok(0)));
    cable.cut();
    let cut = tokio::time::Instant::now();
    for tcp in [&mut client, &mut half_closed] {
        let end = within("the end of the client", tcp.read_u8()).await.unwrap_err();
        assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!(within("the end of the server", told.recv()).await, Some(Err(ErrorKind::ConnectionReset)));
    // PING after one second of silence, death after two more; the rest is the machine's.
    assert!(cut.elapsed() < Duration::from_secs(5), "noticed after {:?}", cut.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_hold_no_more_than_their_pods_budget() {
    const LIMIT: usize = 1 << 20;
    let rig = Rig::with(Plan { budget: LIMIT, ..Plan::speaking(Protocol::Weft) }).await;
    let (stuck, echo) = (stuck_app(V4).await, echo_app(V4).await);
    let mut beside = rig.connect(echo).await;
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let mut client = rig.connect(stuck).await;
        writers.spawn(async move {
            let chunk = vec![0; 256 * 1024];
            loop {
                match tokio::time::timeout(Duration::from_secs(2), client.write_all(&chunk)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return true,
                    Err(_) => return false,
                }
            }
        });
    }
    let mut most = 0;
    while !writers.is_empty() {
        ping_pong(&mut beside, 5).await;
        most = most.max(rig.budget.held());
        let _ = tokio::time::timeout(Duration::from_millis(10), writers.join_next()).await;
    }
    // Beyond the limit each stream may keep its share, so that nobody is cut off for a moment's delay.
    assert!(most <= LIMIT + 13 * Budget::SHARE, "{most} bytes were held");
    assert!(most > LIMIT / 2, "the test did not fill it: {most}");
    rig.flows.kill();
    until("everything given back", || rig.budget.held() == 0).await;
}
