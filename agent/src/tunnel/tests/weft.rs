//! What only the Weft tunnel does: who speaks it with whom, malformed frames, tunnels lost mid-stream, keys renewed,
//! budgets.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::rig::{Cable, Plan, Rig, app, echo_app, identity, ping_pong, stuck_app, until, within};
use crate::tunnel::mux::{Code, Decoder, Frame, Hello, Open};
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

/// A client of its own making: real TLS, frames by hand.
struct Hand {
    tls: TlsStream<TcpStream>,
    decoder: Decoder,
}

impl Hand {
    async fn shake(rig: &Rig) -> Self {
        let mut config = (*rig.credentials("client").client_config(&identity("server")).unwrap()).clone();
        config.alpn_protocols = vec![b"weft/1".to_vec()];
        let tcp = TcpStream::connect((V4, rig.port)).await.unwrap();
        let tls = TlsConnector::from(Arc::new(config)).connect(ServerName::IpAddress(V4.into()), tcp).await.unwrap();
        Self { tls, decoder: Decoder::default() }
    }

    async fn say(&mut self, frames: &[Frame<'_>]) {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut bytes));
        self.tls.write_all(&bytes).await.unwrap();
        self.tls.flush().await.unwrap();
    }

    /// Everything the server says until it closes, in words; data is left out.
    async fn hear(&mut self) -> Vec<String> {
        let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let size = within("the server's words", self.tls.read(&mut buffer)).await.unwrap_or(0);
            if size == 0 {
                return heard;
            }
            let mut rest = &buffer[..size];
            while let Some(frame) = self.decoder.next(&mut rest).unwrap() {
                if !matches!(frame, Frame::Data { .. } | Frame::Credit(..)) {
                    heard.push(format!("{frame:?}"));
                }
            }
        }
    }
}

fn hello() -> Frame<'static> {
    Frame::Hello(Hello { streams: 0, baggage: None })
}

fn open(stream: u32, port: u16) -> Frame<'static> {
    let to = (V4, port).into();
    Frame::Open(stream, Open { to, from: (V4, 4711).into(), host: None })
}

#[tokio::test]
async fn malformed_frames_close_the_tunnel_under_a_name_of_their_own() {
    let rig = Rig::new().await;
    let port = echo_app(V4).await.port();
    let data = |stream| Frame::Data { stream, bytes: b"x", end: false };
    for (frames, reason) in [
        (vec![data(1)], "frame_before_hello"),
        (vec![hello(), hello()], "frame_second_hello"),
        (vec![hello(), open(2, port)], "frame_open_out_of_turn"),
        (vec![hello(), data(1)], "frame_unknown_stream"),
        (vec![hello(), open(1, port), Frame::Accept(1)], "frame_wrong_side"),
        (vec![hello(), open(1, port), Frame::Credit(1, u32::MAX)], "frame_wrong_credit"),
        (vec![hello(), Frame::Pong(1)], "frame_unasked_pong"),
        (vec![hello(), Frame::GoAway(1, Code::Leaving), Frame::GoAway(2, Code::Leaving)], "frame_wrong_goaway"),
    ] {
        let before = rig.server_seen.rejections().len();
        let mut hand = Hand::shake(&rig).await;
        hand.say(&frames).await;
        let heard = hand.hear().await;
        assert!(heard.last().is_some_and(|last| last.contains("GoAway") && last.contains("Malformed")), "{heard:?}");
        until(reason, || rig.server_seen.rejections().len() > before).await;
        assert_eq!(rig.server_seen.rejections()[before..], [reason]);
    }
    // What the codec itself finds: raw bytes.
    for (bytes, reason) in [
        (&[99_u8, 0, 0, 0, 0, 0, 0, 0][..], "frame_unknown_type"),
        (&[5, 9, 0, 1, 0, 0, 0, 1, 0], "frame_unknown_flags"),
        (&[5, 0, 255, 255, 0, 0, 0, 1], "frame_wrong_length"),
        (&[5, 0, 0, 1, 0, 0, 0, 0, 0], "frame_wrong_stream_number"),
        (&[5, 0, 0, 0, 0, 0, 0, 1], "frame_empty_data"),
        (&[4, 0, 0, 1, 0, 0, 0, 1, 77], "frame_unknown_code"),
        (&[1, 0, 0, 0, 0, 0, 0, 0], "frame_bad_hello"),
        (&[2, 0, 0, 3, 0, 0, 0, 1, 0, 1, 64], "frame_bad_open"),
    ] {
        let before = rig.server_seen.rejections().len();
        let mut hand = Hand::shake(&rig).await;
        hand.tls.write_all(bytes).await.unwrap();
        hand.hear().await;
        until(reason, || rig.server_seen.rejections().len() > before).await;
        assert_eq!(rig.server_seen.rejections()[before..], [reason]);
    }
    ping_pong(&mut rig.connect(echo_app(V4).await).await, 1).await;
}

#[tokio::test]
async fn a_sender_without_credit_and_a_flood_of_pings_are_cut_off() {
    let rig = Rig::new().await;
    let stuck = stuck_app(V4).await.port();
    let mut greedy = Hand::shake(&rig).await;
    greedy.say(&[hello(), open(1, stuck)]).await;
    let chunk = vec![0; 16_000];
    for _ in 0..2000 {
        let mut bytes = Vec::new();
        Frame::Data { stream: 1, bytes: &chunk, end: false }.write(&mut bytes);
        if greedy.tls.write_all(&bytes).await.is_err() {
            break;
        }
    }
    until("its end", || rig.server_seen.rejections() == ["frame_credit_exceeded"]).await;

    let mut flood = Hand::shake(&rig).await;
    flood.say(&[hello()]).await;
    let mut pings = Vec::new();
    for token in 0..4096 {
        Frame::Ping(token).write(&mut pings);
    }
    // It never reads an answer.
    for _ in 0..2000 {
        if tokio::time::timeout(Duration::from_secs(5), flood.tls.write_all(&pings)).await.is_ok_and(|r| r.is_err()) {
            break;
        }
    }
    until("its end", || rig.server_seen.rejections().last() == Some(&"frame_flood")).await;
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
