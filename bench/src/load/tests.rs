//! The instrument against servers whose behaviour is known.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::echo::{self, Echo, Pace};
use super::http::{self, At, Requests, Speaks};
use super::pace::Schedule;
use super::protocol::{Ask, HEADER};
use super::{Outcome, Window, bulk, connect, idle, rtt, serve};

const WINDOW: Window = Window { warmup: Duration::from_millis(40), length: Duration::from_millis(300) };

/// A server that answers each message of 64 bytes after a delay, and ends a connection after some.
fn slow_server(delay: Duration, messages: usize) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let answer = move |mut stream: TcpStream| -> std::io::Result<()> {
        stream.read_exact(&mut [0; HEADER])?;
        let mut message = [0; 64];
        for _ in 0..messages {
            stream.read_exact(&mut message)?;
            thread::sleep(delay);
            stream.write_all(&message)?;
        }
        Ok(())
    };
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || drop(answer(stream)));
        }
    });
    address
}

/// The real server.
fn server() -> SocketAddr {
    serving(serve::serve)
}

/// A server on a thread of its own.
fn serving<F: Future<Output = ()>>(serve: impl FnOnce(tokio::net::TcpListener) -> F + Send + 'static) -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = serve::listen((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
            tell.send(listener.local_addr().expect("an address")).expect("somebody waits");
            serve(listener).await;
        });
    });
    told.recv().expect("an address")
}

fn through_relay(upstream: SocketAddr) -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = serve::listen((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
            tell.send(listener.local_addr().expect("an address")).expect("somebody waits");
            crate::relay::serve(listener, upstream).await
        })
    });
    told.recv().expect("an address")
}

fn measure(to: SocketAddr, connections: usize, pace: Pace) -> Outcome {
    echo::run(&Echo { to, connections, size: 64, pace, window: WINDOW }, &[]).expect("connections")
}

/// No latency is below the server's delay, and the least is about it; how far the others are from it is the machine's.
fn has_delay(outcome: &Outcome, delay: f64) {
    let (least, median) = (outcome.values["min_us"], outcome.values["p50_us"]);
    assert!((delay * 0.99..delay * 2.0).contains(&least) && median >= least, "{outcome:?}");
}

#[test]
fn requests_are_due_evenly_whatever_becomes_of_them() {
    let start = Instant::now();
    let mut schedule = Schedule::new(start, start + Duration::from_millis(100), 100);
    assert_eq!(schedule.take(start), Some((0, start)));
    assert_eq!(schedule.take(start + Duration::from_millis(9)), None);
    // Nobody looked for 35 ms: what was due meanwhile is due at its own time.
    let late = start + Duration::from_millis(35);
    let due: Vec<_> = std::iter::from_fn(|| schedule.take(late)).collect();
    assert_eq!(due, [1, 2, 3].map(|n| (n, start + Duration::from_millis(n * 10))));
    let rest = std::iter::from_fn(|| schedule.take(start + Duration::from_secs(9))).count();
    assert_eq!((rest, schedule.due()), (6, None));
}

#[test]
fn what_a_connection_asks_survives_the_wire() {
    for ask in [Ask::Echo, Ask::Once(64), Ask::Source(u32::MAX)] {
        assert_eq!(Ask::decode(ask.encode()), Some(ask));
    }
    assert_eq!(Ask::decode(*b"GET / HT"), None);
}

#[test]
fn latency_is_that_of_a_server_that_keeps_up() {
    let outcome = measure(slow_server(Duration::from_millis(5), usize::MAX), 2, Pace::Open(100));
    has_delay(&outcome, 5_000.0);
    assert!((25.0..=30.0).contains(&outcome.values["operations"]) && outcome.failed() == 0, "{outcome:?}");
}

#[test]
fn latency_counts_the_wait_for_a_server_that_does_not() {
    // It answers 100 a second and is asked 200: the last request waits for about as long as the window.
    let server = slow_server(Duration::from_millis(10), usize::MAX);
    let open = measure(server, 1, Pace::Open(200));
    assert!(open.values["p50_us"] > 60_000.0 && open.values["max_us"] > 150_000.0, "{open:?}");
    assert_eq!(open.values["operations"], 60.0, "{open:?}");
    let closed = measure(server, 1, Pace::Closed);
    has_delay(&closed, 10_000.0);
    assert!(open.values["p50_us"] > 3.0 * closed.values["p50_us"], "{open:?} {closed:?}");
}

#[test]
fn a_connection_that_breaks_is_counted() {
    // The first message is the one that proves the connection.
    let outcome = measure(slow_server(Duration::ZERO, 3), 1, Pace::Open(100));
    assert!(outcome.failed() >= 27, "{outcome:?}");
    let outcome = rtt::run(slow_server(Duration::from_millis(2), 40), 64, WINDOW, &[]).expect("a connection");
    assert_eq!(outcome.failed(), 1, "{outcome:?}");
}

#[test]
fn round_trips_have_the_servers_delay() {
    let outcome = rtt::run(slow_server(Duration::from_millis(5), usize::MAX), 64, WINDOW, &[]).expect("a connection");
    has_delay(&outcome, 5_000.0);
}

#[test]
fn connections_are_made_and_refusals_counted() {
    let made = connect::run(server(), 4, WINDOW, &[]).expect("threads");
    assert!(made.values["operations"] > 50.0 && made.failed() == 0, "{made:?}");
    let closed =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a port");
    let refused = connect::run(closed, 1, WINDOW, &[]).expect("threads");
    assert!(refused.failed() > 10 && refused.values["operations"] == 0.0, "{refused:?}");
}

#[test]
fn flows_are_counted_and_compared() {
    let outcome = bulk::run(server(), 3, WINDOW, &[]).expect("flows");
    assert!(outcome.values["gbit_s"] > 0.1 && outcome.failed() == 0, "{outcome:?}");
    let mut outcome = Outcome::default();
    bulk::summarise(&mut outcome, &[0, 100], &[500_000_000, 1_000_000_100], 2.0);
    assert_eq!((outcome.values["gbit_s"], outcome.values["fairness"]), (6.0, 0.5));
    bulk::summarise(&mut outcome, &[7], &[7], 2.0);
    assert_eq!(outcome.failed(), 1);
}

#[test]
fn idle_connections_are_held() {
    let (held, outcome) = idle::open(server(), 50).expect("connections");
    assert!(held.len() == 50 && outcome.failed() == 0, "{outcome:?}");
    let to = serving(http::serve);
    for speaks in [Speaks::Http1, Speaks::Http2, Speaks::Grpc] {
        let (opened, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            http::hold(At { to, speaks, connections: 50 }, |outcome| opened.send(outcome.clone()).expect("a listener"))
        });
        let outcome = told.recv_timeout(Duration::from_secs(10)).expect("connections");
        assert!(outcome.values["open"] == 50.0 && outcome.failed() == 0, "{speaks:?}: {outcome:?}");
    }
}

#[test]
fn requests_are_answered_in_every_version() {
    let to = serving(http::serve);
    for speaks in [Speaks::Http1, Speaks::Http2, Speaks::Grpc] {
        let at = At { to, speaks, connections: 2 };
        let requests = Requests { at, streams: 4, pace: Pace::Closed, window: WINDOW };
        let outcome = http::run(&requests, &[]).expect("connections");
        assert!(outcome.values["per_second"] > 100.0 && outcome.failed() == 0, "{speaks:?}: {outcome:?}");
        let outcome = http::run(&Requests { pace: Pace::Open(200), ..requests }, &[]).expect("connections");
        // 60 are due in the window.
        let answered = outcome.values["operations"];
        assert!((58.0..=62.0).contains(&answered) && outcome.failed() == 0, "{speaks:?}: {outcome:?}");
    }
}

#[test]
fn requests_that_wait_for_a_lane_count_from_when_they_were_due() {
    // One lane at 100/s where each answer takes 20 ms: the queue grows, and with it latency.
    let to = serving(async |listener: tokio::net::TcpListener| {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut tcp, _) = listener.accept().await.expect("a client");
        let mut request = [0; 4096];
        while tcp.read(&mut request).await.is_ok_and(|size| size > 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                return;
            }
        }
    });
    let (speaks, pace) = (Speaks::Http1, Pace::Open(100));
    let at = At { to, speaks, connections: 1 };
    let requests = Requests { at, streams: 1, pace, window: WINDOW };
    let outcome = http::run(&requests, &[]).expect("a connection");
    assert!(outcome.values["max_us"] > 100_000.0, "{outcome:?}");
    let dead = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    assert!(http::run(&Requests { at: At { to: dead, ..at }, ..requests }, &[]).is_err());
}

#[test]
fn the_relay_carries_every_byte_and_both_ends() {
    let mut stream = super::socket::open(through_relay(through_relay(server())), Ask::Echo).expect("a connection");
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[(n % 3) as usize]).collect();
    let mut writer = stream.try_clone().expect("a clone");
    let copy = sent.clone();
    let writing = thread::spawn(move || {
        writer.write_all(&copy).expect("room");
        writer.shutdown(Shutdown::Write).expect("a half-close");
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).expect("the echo and its end");
    writing.join().expect("no panic");
    assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
}
