//! Every rule of `docs/tunnel.md` that a peer can break in a session, broken once.

use std::net::SocketAddr;

use crate::tunnel::mux::{Code, Event, Frame, Hello, Malformed, NotOpened, Open, Session, Side, Windows};

pub(super) fn hello(streams: u32) -> Hello {
    Hello { streams, baggage: None }
}

pub(super) fn open_to(port: u16) -> Open {
    Open { to: SocketAddr::from(([10, 0, 0, 2], port)), from: SocketAddr::from(([10, 0, 0, 1], 4000)), host: None }
}

const SMALL: Windows = Windows { initial: 8, most: 16 };

/// A server that has streams 1 (accepted) and 2 (not answered yet).
fn server() -> Session<()> {
    let mut server = Session::new(Side::Server, SMALL, hello(200));
    server.apply(Frame::Hello(hello(0))).unwrap();
    for stream in [1, 2] {
        server.apply(Frame::Open(stream, open_to(80))).unwrap();
        server.enter(stream, ());
    }
    assert!(server.accept(1) && !server.accept(1));
    server
}

/// A client that has streams 1 (accepted) and 2 (not answered yet).
fn client() -> Session<()> {
    let mut client = Session::new(Side::Client, SMALL, hello(0));
    client.apply(Frame::Hello(hello(200))).unwrap();
    assert_eq!(client.open(&open_to(80), b"", ()), Ok((1, 0)));
    assert_eq!(client.open(&open_to(80), b"first", ()), Ok((2, 5)));
    assert_eq!(client.apply(Frame::Accept(1)), Ok(Some(Event::Accepted(1))));
    client
}

fn data(stream: u32, bytes: &[u8], end: bool) -> Frame<'_> {
    Frame::Data { stream, bytes, end }
}

#[test]
fn what_a_client_may_not_do() {
    let mut fresh: Session<()> = Session::new(Side::Server, SMALL, hello(200));
    assert_eq!(fresh.apply(Frame::Ping(1)), Err(Malformed::NoHello));
    for (frames, why) in [
        (vec![Frame::Hello(hello(1))], Malformed::RepeatedHello),
        (vec![Frame::Open(4, open_to(1))], Malformed::OpenOrder),
        (vec![Frame::Open(2, open_to(1))], Malformed::OpenOrder),
        (vec![data(3, b"x", false)], Malformed::UnknownStream),
        (vec![Frame::Credit(3, 1)], Malformed::UnknownStream),
        (vec![Frame::Reset(3, Code::Cancelled)], Malformed::UnknownStream),
        (vec![Frame::Accept(1)], Malformed::WrongSide),
        (vec![Frame::Refuse(1, Code::Denied)], Malformed::WrongSide),
        (vec![data(1, b"x", true), data(1, b"y", false)], Malformed::DataAfterEnd),
        (vec![data(1, b"12345678", false), data(1, b"9", false)], Malformed::CreditExceeded),
        (vec![Frame::Credit(1, 0)], Malformed::CreditAmount),
        (vec![Frame::Credit(1, u32::MAX)], Malformed::CreditAmount),
        (vec![Frame::Pong(7)], Malformed::Pong),
        (vec![Frame::GoAway(1, Code::Leaving), Frame::GoAway(2, Code::Leaving)], Malformed::GoAway),
    ] {
        let mut server = server();
        let (last, before) = frames.split_last().unwrap();
        for frame in before {
            server.apply(frame.clone()).unwrap();
        }
        assert_eq!(server.apply(last.clone()), Err(why), "{frames:?}");
    }
    let mut small: Session<()> = Session::new(Side::Server, SMALL, hello(150));
    small.apply(Frame::Hello(hello(0))).unwrap();
    for stream in 1..=Hello::STREAMS_UNTOLD {
        assert!(small.apply(Frame::Open(stream, open_to(1))).is_ok());
        small.enter(stream, ());
    }
    assert_eq!(small.apply(Frame::Open(Hello::STREAMS_UNTOLD + 1, open_to(1))), Err(Malformed::TooManyStreams));
}

#[test]
fn what_a_server_may_not_do() {
    for (frame, why) in [
        (Frame::Open(3, open_to(1)), Malformed::WrongSide),
        (data(2, b"x", false), Malformed::NotOpening),
        (Frame::Accept(1), Malformed::NotOpening),
        (Frame::Refuse(1, Code::Denied), Malformed::NotOpening),
        (Frame::Accept(3), Malformed::UnknownStream),
        (Frame::GoAway(3, Code::Leaving), Malformed::GoAway),
    ] {
        assert_eq!(client().apply(frame.clone()), Err(why), "{frame:?}");
    }
}

#[test]
fn late_frames_of_a_stream_that_is_gone_are_no_crime() {
    let mut server = server();
    server.control().clear();
    server.release(1, Code::Cancelled);
    let mut reset = Vec::new();
    Frame::Reset(1, Code::Cancelled).write(&mut reset);
    assert_eq!(*server.control(), reset, "an end that is no end in order is told");
    for frame in [data(1, b"late", false), Frame::Credit(1, 3), Frame::Reset(1, Code::Cancelled)] {
        assert_eq!(server.apply(frame), Ok(None));
    }
    let mut client = client();
    client.apply(Frame::Reset(1, Code::Cancelled)).unwrap();
    assert_eq!(client.data(1, 1, false), None, "nothing is sent on a stream that was reset");
    assert_eq!(client.apply(data(1, b"late", false)), Ok(None));
    client.control().clear();
    client.release(1, Code::Cancelled);
    assert!(client.control().is_empty(), "a reset is not answered with a reset");
}

#[test]
fn streams_end_when_both_ways_have_ended_and_not_before() {
    let (mut client, mut server) = (client(), server());
    assert_eq!((client.open_streams(), server.open_streams()), (2, 2));
    assert!(client.data(1, 8, true).is_some() && client.data(1, 0, true).is_none());
    server.apply(data(1, b"12345678", true)).unwrap();
    assert_eq!((client.open_streams(), server.open_streams()), (2, 2));
    assert!(server.data(1, 0, true).is_some());
    client.apply(data(1, b"", true)).unwrap();
    assert_eq!((client.open_streams(), server.open_streams()), (1, 1));
    client.control().clear();
    client.release(1, Code::Cancelled);
    assert!(client.control().is_empty(), "an end in order needs no reset");
    assert_eq!(client.open_streams(), 1);
}

#[test]
fn leaving_takes_what_was_opened_and_nothing_more() {
    let (mut client, mut server) = (client(), server());
    server.leave(Code::Leaving);
    server.leave(Code::Leaving);
    // Under way when the client had not heard of it.
    assert_eq!(server.apply(Frame::Open(3, open_to(80))), Ok(None));
    assert_eq!(server.apply(data(3, b"x", false)), Ok(None));
    assert!(matches!(server.apply(data(1, b"x", false)), Ok(Some(Event::Data { .. }))), "old streams go on");
    let told = client.apply(Frame::GoAway(2, Code::Leaving));
    assert_eq!(told, Ok(Some(Event::GoingAway(2, Code::Leaving))));
    assert_eq!(client.open(&open_to(80), b"", ()), Err(NotOpened::Leaving));
    assert!(client.data(1, 1, false).is_some());
}

#[test]
fn the_limit_is_the_servers() {
    let mut client: Session<()> = Session::new(Side::Client, SMALL, hello(0));
    for _ in 0..Hello::STREAMS_UNTOLD {
        assert!(client.open(&open_to(80), b"", ()).is_ok(), "before the server's HELLO");
    }
    assert_eq!(client.open(&open_to(80), b"", ()), Err(NotOpened::Full));
    client.apply(Frame::Hello(hello(Hello::STREAMS_UNTOLD + 1))).unwrap();
    assert!(client.open(&open_to(80), b"", ()).is_ok());
    assert_eq!(client.open(&open_to(80), b"", ()), Err(NotOpened::Full));
    client.apply(Frame::Refuse(7, Code::Denied)).unwrap();
    assert!(client.open(&open_to(80), b"", ()).is_ok(), "a refused stream makes room");
}

#[test]
fn a_server_that_allows_no_streams_is_leaving() {
    let mut client: Session<()> = Session::new(Side::Client, SMALL, hello(0));
    assert!(client.open(&open_to(80), b"", ()).is_ok(), "before the server's HELLO");
    client.apply(Frame::Hello(hello(0))).unwrap();
    assert_eq!(client.open(&open_to(80), b"", ()), Err(NotOpened::Leaving));
    assert_eq!(client.apply(Frame::Accept(1)), Ok(Some(Event::Accepted(1))), "what was under way goes on");
    assert!(matches!(client.apply(Frame::GoAway(1, Code::Leaving)), Ok(Some(Event::GoingAway(1, Code::Leaving)))));
}

#[test]
fn pings_are_answered_once() {
    let (mut client, mut server) = (client(), server());
    assert!(client.ping(9) && !client.ping(10));
    server.control().clear();
    assert_eq!(server.apply(Frame::Ping(9)), Ok(None));
    let mut pong = Vec::new();
    Frame::Pong(9).write(&mut pong);
    assert_eq!(*server.control(), pong);
    assert_eq!(client.apply(Frame::Pong(8)), Err(Malformed::Pong));
    assert_eq!(client.apply(Frame::Pong(9)), Ok(Some(Event::Pong(9))));
    assert!(client.ping(10));
}
