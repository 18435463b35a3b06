//! Clients that break the protocol of the Weft tunnel: each is cut off under a name of its own, and nobody else notices.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::apps::{echo_app, ping_pong, stuck_app};
use super::hand::{Hand, hello, open, wire};
use super::rig::{Plan, Rig, until};
use crate::tunnel::mux::{Code, Frame};
use crate::tunnel::{Keepalive, ServerSettings};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What a client may send after its handshake, and what is said of it: frames that are none, each by itself, or all right
/// but for the last.
pub(super) fn breaches(port: u16) -> Vec<(Vec<u8>, &'static str)> {
    let data = |end| Frame::Data { stream: 1, bytes: b"x", end };
    let opened = |frames: &[Frame<'_>]| [wire(&[hello(), open(1, port)]), wire(frames)].concat();
    vec![
        (wire(&[data(false)]), "frame_before_hello"),
        (wire(&[hello(), hello()]), "frame_second_hello"),
        (wire(&[hello(), open(2, port)]), "frame_open_out_of_turn"),
        (wire(&[hello(), data(false)]), "frame_unknown_stream"),
        (opened(&[Frame::Accept(1)]), "frame_wrong_side"),
        (opened(&[Frame::Credit(1, u32::MAX)]), "frame_wrong_credit"),
        (opened(&[data(true), data(false)]), "frame_data_after_end"),
        (wire(&[hello(), Frame::Pong(1)]), "frame_unasked_pong"),
        (wire(&[hello(), Frame::GoAway(1, Code::Leaving), Frame::GoAway(2, Code::Leaving)]), "frame_wrong_goaway"),
        (vec![99, 0, 0, 0, 0, 0, 0, 0], "frame_unknown_type"),
        (vec![5, 9, 0, 1, 0, 0, 0, 1, 0], "frame_unknown_flags"),
        (vec![5, 0, 255, 255, 0, 0, 0, 1], "frame_wrong_length"),
        (vec![5, 0, 0, 1, 0, 0, 0, 0, 0], "frame_wrong_stream_number"),
        (vec![5, 0, 0, 0, 0, 0, 0, 1], "frame_empty_data"),
        (vec![4, 0, 0, 1, 0, 0, 0, 1, 77], "frame_unknown_code"),
        (vec![1, 0, 0, 0, 0, 0, 0, 0], "frame_bad_hello"),
        (vec![2, 0, 0, 3, 0, 0, 0, 1, 0, 1, 64], "frame_bad_open"),
    ]
}

#[tokio::test]
async fn malformed_frames_close_the_tunnel_under_a_name_of_their_own() {
    let rig = Rig::new().await;
    for (bytes, reason) in breaches(echo_app(V4).await.port()) {
        let before = rig.server_seen.rejections().len();
        let mut hand = Hand::shake(&rig).await;
        hand.tls.write_all(&bytes).await.unwrap();
        let heard = hand.hear().await;
        assert!(heard.last().is_some_and(|last| last.contains("GoAway") && last.contains("Malformed")), "{heard:?}");
        until(reason, || rig.server_seen.rejections().len() > before).await;
        assert_eq!(rig.server_seen.rejections()[before..], [reason]);
        until(reason, || rig.server_seen.closings().len() > before).await;
        assert_eq!(rig.server_seen.closings()[before..], [reason]);
    }
    ping_pong(&mut rig.connect(echo_app(V4).await).await, 1).await;
}

/// Also right behind its handshake, in whose last flight the goodbye may come.
#[tokio::test]
async fn an_end_in_the_middle_of_a_frame_is_no_end_in_order() {
    let rig = Rig::new().await;
    let opened = wire(&[hello(), open(1, echo_app(V4).await.port())]);
    for (bytes, rejected, closed) in [
        (wire(&[hello()]), None, "done"),
        (opened.clone(), None, "tunnel_closed"),
        ([&opened[..], &[5, 0, 0]].concat(), Some("frame_truncated"), "frame_truncated"),
        ([&opened[..], &[5, 0, 0, 9, 0, 0, 0, 1, 0]].concat(), Some("frame_truncated"), "frame_truncated"),
    ] {
        let before = (rig.server_seen.rejections().len(), rig.server_seen.closings().len());
        let mut hand = Hand::shake(&rig).await;
        hand.tls.write_all(&bytes).await.unwrap();
        hand.tls.shutdown().await.unwrap();
        hand.hear().await;
        until("its end", || rig.server_seen.closings().len() > before.1).await;
        assert_eq!(rig.server_seen.closings()[before.1..], [closed]);
        assert_eq!(rig.server_seen.rejections()[before.0..], *rejected.as_slice());
    }
}

#[tokio::test]
async fn a_client_that_opens_more_streams_than_it_may_is_cut_off() {
    let rig = Rig::new().await;
    let listener = TcpListener::bind((V4, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Apps that never answer, and cost no socket.
    rig.accept_for(listener, ServerSettings::default(), |incoming| async move {
        std::future::pending::<()>().await;
        drop(incoming);
    });
    let mut hand = Hand::shake_at(&rig, port).await;
    hand.say(&[hello()]).await;
    let allowed = 65_536;
    for from in (1..allowed).step_by(4096) {
        hand.say(&(from..from + 4096).map(|stream| open(stream, 80)).collect::<Vec<_>>()).await;
    }
    assert_eq!(rig.server_seen.rejections(), [""; 0], "so many it may");
    hand.say(&[open(allowed + 1, 80)]).await;
    until("its end", || rig.server_seen.rejections() == ["frame_too_many_streams"]).await;
}

#[tokio::test]
async fn a_client_that_is_gone_is_no_breach() {
    let keepalive = Keepalive { every: Duration::from_millis(200), timeout: Duration::from_millis(400) };
    let server = ServerSettings { keepalive, ..ServerSettings::default() };
    let rig = Rig::with(Plan { server, ..Plan::default() }).await;
    let mut hand = Hand::shake(&rig).await;
    hand.say(&[hello(), open(1, stuck_app(V4).await.port())]).await;
    until("its end", || rig.server_seen.closings() == ["peer_silent"]).await;
    assert_eq!(rig.server_seen.rejections(), [""; 0]);
}

/// Every name that metrics may show is provoked by somebody: those of `breaches`, and these that take more than bytes.
#[test]
fn every_reason_is_provoked_from_either_side() {
    let source = include_str!("../mux/malformed.rs");
    let all: BTreeSet<&str> = source.split('"').filter(|text| text.starts_with("frame_")).collect();
    let ours = breaches(80).into_iter().map(|(_, reason)| reason);
    let theirs = super::bad_servers::breaches().into_iter().map(|(.., reason)| reason);
    let more = ["frame_credit_exceeded", "frame_flood", "frame_truncated"];
    let ours: BTreeSet<&str> = ours.chain(more).chain(["frame_too_many_streams"]).collect();
    let theirs: BTreeSet<&str> = theirs.chain(more).collect();
    // Only servers answer, and only clients open.
    assert_eq!(all.difference(&ours).collect::<Vec<_>>(), [&"frame_not_accepted"]);
    assert_eq!(all.difference(&theirs).collect::<Vec<_>>(), [&"frame_open_out_of_turn", &"frame_too_many_streams"]);
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
