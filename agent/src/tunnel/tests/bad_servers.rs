//! Servers that break the protocol of the Weft tunnel, or go away in the middle of it: what this node dialled fails cleanly,
//! under a name of its own, and a tunnel to somebody else never notices.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::apps::{echo_app, ping_pong};
use super::hand::{Hand, hello, open, wire};
use super::rig::{Plan, Rig, until, within};
use crate::tunnel::mux::{Code, Frame, Hello};
use crate::tunnel::{Budget, Keepalive, PoolSettings, Stream, TunnelError};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A server on an address of its own and the port everybody dials; `act` does what it likes with each tunnel.
async fn server<F>(rig: &Rig, last: u8, act: impl Fn(Hand) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let ip = Ipv4Addr::new(127, 0, 1, last);
    let listener = TcpListener::bind((ip, rig.port)).await.unwrap();
    let credentials = rig.credentials("server");
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(hand) = Hand::answer(&credentials, tcp).await {
                tokio::spawn(act(hand));
            }
        }
    });
    (ip, 80).into()
}

/// A client's budget, to be seen empty in the end, and what became of its connection.
async fn connect(rig: &Rig, to: SocketAddr) -> (Arc<Budget>, Result<Stream, TunnelError>) {
    let mut request = rig.request(to);
    request.budget = Arc::new(Budget::default());
    let stream = within("an answer", rig.pool.connect(&request)).await;
    (request.budget, stream)
}

fn data(stream: u32) -> Frame<'static> {
    Frame::Data { stream, bytes: b"x", end: false }
}

/// What a server may send after the client's first OPEN, and what is said of it; whether the stream is accepted before that.
pub(super) fn breaches() -> Vec<(bool, Vec<u8>, &'static str)> {
    let end = Frame::Data { stream: 1, bytes: b"", end: true };
    let greeted = |frame: Frame<'_>| (false, wire(&[hello(), frame]));
    let accepted = |frames: &[Frame<'_>]| (true, [wire(&[hello(), Frame::Accept(1)]), wire(frames)].concat());
    let raw = |bytes: &[u8]| (true, [wire(&[hello(), Frame::Accept(1)]), bytes.to_vec()].concat());
    let breaches = [
        ((false, wire(&[Frame::Ping(1)])), "frame_before_hello"),
        ((false, wire(&[Frame::Accept(1)])), "frame_before_hello"),
        (greeted(hello()), "frame_second_hello"),
        (greeted(open(2, 80)), "frame_wrong_side"),
        (greeted(data(1)), "frame_not_accepted"),
        (greeted(data(9)), "frame_unknown_stream"),
        (greeted(Frame::Accept(2)), "frame_unknown_stream"),
        (greeted(Frame::Refuse(2, Code::Denied)), "frame_unknown_stream"),
        (greeted(Frame::Credit(2, 1)), "frame_unknown_stream"),
        (greeted(Frame::Reset(2, Code::Cancelled)), "frame_unknown_stream"),
        (greeted(Frame::Credit(1, 0)), "frame_wrong_credit"),
        (greeted(Frame::Pong(7)), "frame_unasked_pong"),
        (greeted(Frame::GoAway(2, Code::Leaving)), "frame_wrong_goaway"),
        (accepted(&[Frame::Accept(1)]), "frame_not_accepted"),
        (accepted(&[Frame::Refuse(1, Code::Denied)]), "frame_not_accepted"),
        (accepted(&[Frame::Credit(1, u32::MAX)]), "frame_wrong_credit"),
        (accepted(&[end, data(1)]), "frame_data_after_end"),
        (raw(&[99, 0, 0, 0, 0, 0, 0, 0]), "frame_unknown_type"),
        (raw(&[5, 9, 0, 1, 0, 0, 0, 1, 0]), "frame_unknown_flags"),
        (raw(&[5, 0, 255, 255, 0, 0, 0, 1]), "frame_wrong_length"),
        (raw(&[5, 0, 0, 1, 0, 0, 0, 0, 0]), "frame_wrong_stream_number"),
        (raw(&[5, 0, 0, 0, 0, 0, 0, 1]), "frame_empty_data"),
        (raw(&[7, 0, 0, 1, 0, 0, 0, 1, 77]), "frame_unknown_code"),
        (raw(&[2, 0, 0, 3, 0, 0, 0, 1, 0, 1, 64]), "frame_bad_open"),
        ((false, vec![1, 0, 0, 0, 0, 0, 0, 0]), "frame_bad_hello"),
    ];
    breaches.into_iter().map(|((accepted, bytes), reason)| (accepted, bytes, reason)).collect()
}

/// The same for a server that then says goodbye, in the middle of a header and of a payload.
fn unfinished() -> [(bool, Vec<u8>, &'static str); 2] {
    [&[5, 0, 0][..], &[5, 0, 0, 9, 0, 0, 0, 1, 0]]
        .map(|part| (true, [wire(&[hello(), Frame::Accept(1)]), part.to_vec()].concat(), "frame_truncated"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_break_the_protocol_are_left_under_a_name_of_their_own() {
    let rig = Rig::new().await;
    let mut beside = rig.connect(echo_app(V4).await).await;
    for (last, (accepted, bytes, reason)) in (1..).zip(breaches().into_iter().chain(unfinished())) {
        let (tell, mut told) = mpsc::unbounded_channel();
        let said = bytes.clone();
        let to = server(&rig, last, move |mut hand| {
            let (tell, said) = (tell.clone(), said.clone());
            async move {
                hand.asked().await;
                let _ = hand.tls.write_all(&said).await;
                if reason == "frame_truncated" {
                    let _ = hand.tls.shutdown().await;
                }
                let _ = tell.send(hand.hear().await);
            }
        });
        let (before, (budget, answer)) = (rig.client_seen.closings().len(), connect(&rig, to.await).await);
        match answer {
            Err(error) => assert!(!accepted && error.reason() == reason, "{error} for {reason}"),
            Ok(stream) => {
                assert!(accepted, "{reason}: the stream was taken for accepted");
                let mut rest = Vec::new();
                let mut app = rig.relay(stream).await;
                let end = within("the app's end", app.read_to_end(&mut rest)).await;
                assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset, "{reason}");
            }
        }
        until(reason, || rig.client_seen.closings().len() > before).await;
        assert_eq!(rig.client_seen.closings()[before..], [reason], "and dialled again");
        let heard = within("what the server heard", told.recv()).await.unwrap();
        assert!(heard.last().is_some_and(|last| last.contains("GoAway") && last.contains("Malformed")), "{heard:?}");
        until("all is given back", || budget.held() == 0 && rig.pool.tunnels() == 1).await;
        ping_pong(&mut beside, 1).await;
    }
    assert_eq!(rig.client_seen.rejections(), [""; 0], "nobody was turned away by a server's fault");
}

/// What it costs the client when a server does something that is allowed, or goes away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_refuse_or_go_away_are_told_apart() {
    let keepalive = Keepalive { every: Duration::from_millis(200), timeout: Duration::from_millis(400) };
    let pool = PoolSettings { budget: Duration::from_secs(3), keepalive, ..PoolSettings::default() };
    let rig = Rig::with(Plan { pool, ..Plan::default() }).await;
    let mut beside = rig.connect(echo_app(V4).await).await;
    let said = |frame: Frame<'_>| wire(&[hello(), frame]);
    // A record that cannot be opened: not what TLS would seal.
    let junk: &[u8] = &[
        23, 3, 3, 0, 32, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8,
    ];
    for (last, (bytes, then, reason)) in (1..).zip([
        (said(Frame::Refuse(1, Code::Leaving)), Then::Stay, "stream_not_taken"),
        (said(Frame::Refuse(1, Code::BadRequest)), Then::Stay, "refused_bad_request"),
        (said(Frame::Refuse(1, Code::Denied)), Then::Stay, "refused_by_policy"),
        (said(Frame::Refuse(1, Code::Unreachable)), Then::Stay, "refused_unreachable"),
        (said(Frame::Refuse(1, Code::ReservedPort)), Then::Stay, "refused_unreachable"),
        (said(Frame::Refuse(1, Code::OverBudget)), Then::Stay, "refused"),
        (said(Frame::Reset(1, Code::Cancelled)), Then::Stay, "stream_reset"),
        (said(Frame::GoAway(0, Code::Leaving)), Then::Stay, "stream_not_taken"),
        (said(Frame::GoAway(0, Code::Malformed)), Then::Stay, "stream_not_taken"),
        (wire(&[hello()]), Then::SayGoodbye, "tunnel_closed"),
        (wire(&[hello()]), Then::HangUp, "tunnel_closed"),
        (wire(&[hello()]), Then::Write(junk), "tls_failed"),
        (vec![], Then::Stay, "tunnel_closed"),
        (wire(&[hello()]), Then::Chatter, "connect_timeout"),
    ]) {
        let to = server(&rig, last, move |mut hand| {
            let bytes = bytes.clone();
            async move {
                hand.asked().await;
                let _ = hand.tls.write_all(&bytes).await;
                then.follow(hand).await;
            }
        });
        let (budget, answer) = connect(&rig, to.await).await;
        let error = answer.expect_err(reason);
        assert_eq!(error.reason(), reason, "{error}");
        until("its streams are gone", || budget.held() == 0 && rig.pool.streams() == 1).await;
        ping_pong(&mut beside, 1).await;
    }
}

/// What a server does after it has said what it had to say.
#[derive(Clone, Copy)]
enum Then {
    /// Listens to nobody, and keeps the connection.
    Stay,
    /// Ends TLS in order.
    SayGoodbye,
    /// Ends TCP without a word.
    HangUp,
    /// Writes this below TLS.
    Write(&'static [u8]),
    /// Sends PINGs, so that it is heard, and never an answer.
    Chatter,
}

impl Then {
    async fn follow(self, mut hand: Hand) {
        match self {
            Self::Stay => {}
            Self::SayGoodbye => drop(hand.tls.shutdown().await),
            Self::HangUp => return,
            Self::Write(bytes) => drop(hand.tls.get_mut().0.write_all(bytes).await),
            Self::Chatter => {
                for token in 0.. {
                    if hand.tls.write_all(&wire(&[Frame::Ping(token)])).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        hand.hear().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_never_shakes_hands_costs_the_budget() {
    let pool = PoolSettings { budget: Duration::from_secs(1), ..PoolSettings::default() };
    let rig = Rig::with(Plan { pool, ..Plan::default() }).await;
    let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 1, 1), rig.port)).await.unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((tcp, _)) = listener.accept().await {
            kept.push(tcp);
        }
    });
    let (_, answer) = connect(&rig, ([127, 0, 1, 1], 80).into()).await;
    assert_eq!(answer.unwrap_err().reason(), "connect_timeout");
    assert_eq!(rig.pool.tunnels(), 0);
}

/// It accepts, and sends a hundred times the window.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_sends_without_credit_costs_one_window() {
    let rig = Rig::new().await;
    let to = server(&rig, 1, |mut hand| async move {
        hand.asked().await;
        hand.say(&[hello(), Frame::Accept(1)]).await;
        let chunk = wire(&[Frame::Data { stream: 1, bytes: &[7; 1000], end: false }]);
        while hand.tls.write_all(&chunk).await.is_ok() {}
        hand.hear().await;
    })
    .await;
    let (budget, stream) = connect(&rig, to).await;
    let mut most = 0;
    until("its end", || {
        most = most.max(budget.held());
        rig.client_seen.closings() == ["frame_credit_exceeded"]
    })
    .await;
    let most = most.max(budget.held());
    assert!(most > 200 * 1024 && most <= 256 * 1024, "{most} bytes were held");
    drop(stream);
    assert_eq!(budget.held(), 0);
}

/// It never reads an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_floods_with_pings_is_cut_off() {
    let rig = Rig::new().await;
    let to = server(&rig, 1, |mut hand| async move {
        hand.asked().await;
        hand.say(&[hello(), Frame::Accept(1)]).await;
        let pings = wire(&(0..4096).map(Frame::Ping).collect::<Vec<_>>());
        while hand.tls.write_all(&pings).await.is_ok() {}
    })
    .await;
    let (_, stream) = connect(&rig, to).await;
    let mut app = rig.relay(stream.unwrap()).await;
    let end = within("the app's end", app.read_u8()).await.unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    until("its count", || rig.client_seen.closings() == ["frame_flood"]).await;
}

/// Every connection needs a tunnel of its own then; none of them may stay for the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_allows_no_streams_leaves_no_tunnels_behind() {
    let rig = Rig::new().await;
    let to = server(&rig, 1, |mut hand| async move {
        hand.asked().await;
        hand.say(&[Frame::Hello(Hello { streams: 0, baggage: None }), Frame::Accept(1)]).await;
        hand.hear().await;
    })
    .await;
    for _ in 0..20 {
        drop(connect(&rig, to).await.1.unwrap());
        assert!(rig.pool.tunnels() <= 1, "{} tunnels are kept that take nothing", rig.pool.tunnels());
    }
    until("all closed in order", || rig.client_seen.closings().len() >= 19).await;
    assert!(rig.client_seen.closings().iter().all(|reason| *reason == "done"), "{:?}", rig.client_seen.closings());
}
