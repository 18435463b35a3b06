//! Clients that break the protocol of the Weft tunnel: each is cut off under a name of its own, and nobody else notices.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::hand::{Hand, hello, open};
use super::rig::{Rig, echo_app, ping_pong, stuck_app, until};
use crate::tunnel::mux::{Code, Frame};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

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
