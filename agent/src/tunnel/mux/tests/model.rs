//! Two sessions joined by pipes, doing anything in any order, against a model that knows only what apps know: bytes that
//! were written must be what is read, ends must follow them, and a reader who stops must stop nobody else.

use std::collections::{BTreeMap, VecDeque};

use proptest::collection::vec;
use proptest::prelude::*;

use super::rules::{hello, open_to};
use crate::tunnel::mux::{Code, Decoder, Event, Frame, HEADER, Session, Side, Windows};

const WINDOWS: Windows = Windows { initial: 16, most: 64 };

/// What an app at one end of a stream has done and seen.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct App {
    wrote: Vec<u8>,
    finished: bool,
    /// Received, the first `taken` of them read.
    got: Vec<u8>,
    taken: usize,
    saw_end: bool,
    reset: bool,
    accepted: bool,
}

struct End {
    session: Session<()>,
    decoder: Decoder,
    apps: BTreeMap<u32, App>,
    /// Bytes towards this end.
    pipe: VecDeque<u8>,
}

impl End {
    fn new(side: Side, streams: u32) -> Self {
        let session = Session::new(side, WINDOWS, hello(streams));
        Self { session, decoder: Decoder::default(), apps: BTreeMap::new(), pipe: VecDeque::new() }
    }

    /// Delivers `count` bytes of the pipe, answers what to send back.
    fn deliver(&mut self, count: usize) {
        let bytes: Vec<u8> = self.pipe.drain(..count.min(self.pipe.len())).collect();
        let mut rest = &bytes[..];
        while let Some(frame) = self.decoder.next(&mut rest).expect("an honest peer") {
            match self.session.apply(frame).expect("an honest peer") {
                Some(Event::Opened(stream, _)) => {
                    self.session.enter(stream, ());
                    self.apps.insert(stream, App::default());
                }
                Some(Event::Accepted(stream)) => self.app(stream).accepted = true,
                Some(Event::Data { stream, bytes, end }) => {
                    let app = self.app(stream);
                    assert!(!app.saw_end, "data behind the end");
                    app.got.extend_from_slice(bytes);
                    app.saw_end = end;
                    assert!(app.got.len() - app.taken <= WINDOWS.most as usize, "more than the largest window is held");
                }
                Some(Event::Reset(stream, _) | Event::Refused(stream, _)) => self.app(stream).reset = true,
                _ => {}
            }
        }
    }

    fn app(&mut self, stream: u32) -> &mut App {
        self.apps.get_mut(&stream).expect("an event of a stream nobody opened")
    }

    fn write(&mut self, stream: u32, bytes: &[u8], end: bool, to: &mut VecDeque<u8>) {
        self.flush(to);
        let credit = self.session.flow(stream).map_or(0, |(outbound, _)| outbound.credit() as usize);
        let bytes = &bytes[..bytes.len().min(credit)];
        let Some(app) = self.apps.get(&stream).filter(|app| app.accepted && !app.finished && !app.reset) else {
            return;
        };
        let _ = app;
        if bytes.is_empty() && !end {
            return;
        }
        let Some(header) = self.session.data(stream, bytes.len(), end) else { return };
        to.extend(header.iter().chain(bytes));
        let app = self.app(stream);
        app.wrote.extend_from_slice(bytes);
        app.finished = end;
    }

    fn take(&mut self, stream: u32, most: usize) {
        let Some(app) = self.apps.get_mut(&stream) else { return };
        let count = most.min(app.got.len() - app.taken);
        app.taken += count;
        if count > 0 {
            self.session.took(stream, u32::try_from(count).unwrap(), |_, _| true);
        }
    }

    fn flush(&mut self, to: &mut VecDeque<u8>) {
        to.extend(self.session.control().drain(..));
    }
}

#[derive(Debug, Clone)]
enum Step {
    Open(Vec<u8>),
    Accept(bool, u8),
    Write(bool, u8, Vec<u8>, bool),
    Take(bool, u8, usize),
    Deliver(bool, usize),
    Reset(bool, u8),
    Ping(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let (client, stream) = (any::<bool>(), 1..6u8);
    prop_oneof![
        1 => vec(any::<u8>(), 0..10).prop_map(Step::Open),
        2 => (prop::bool::weighted(0.9), stream.clone()).prop_map(|(yes, stream)| Step::Accept(yes, stream)),
        6 => (client, stream.clone(), vec(any::<u8>(), 0..30), prop::bool::weighted(0.1))
            .prop_map(|(client, stream, bytes, end)| Step::Write(client, stream, bytes, end)),
        6 => (client, stream.clone(), 1..40usize).prop_map(|(client, stream, most)| Step::Take(client, stream, most)),
        8 => (client, 1..(4 * HEADER)).prop_map(|(client, count)| Step::Deliver(client, count)),
        1 => (client, stream).prop_map(|(client, stream)| Step::Reset(client, stream)),
        1 => client.prop_map(Step::Ping),
    ]
}

fn run(step: &Step, client: &mut End, server: &mut End) {
    match step {
        Step::Open(first) => {
            if let Ok((stream, taken)) = client.session.open(&open_to(80), &first[..first.len().min(16)], ()) {
                client.apps.insert(stream, App { wrote: first[..taken].to_vec(), ..App::default() });
            }
        }
        Step::Accept(true, stream) => {
            let stream = u32::from(*stream);
            if server.session.accept(stream) {
                server.app(stream).accepted = true;
            }
        }
        Step::Accept(false, stream) => server.session.refuse(u32::from(*stream), Code::Denied),
        Step::Write(from_client, stream, bytes, end) => {
            let (from, to) = if *from_client { (client, &mut server.pipe) } else { (server, &mut client.pipe) };
            from.write(u32::from(*stream), bytes, *end, to);
        }
        Step::Take(at_client, stream, most) => {
            let end = if *at_client { client } else { server };
            end.take(u32::from(*stream), *most);
        }
        Step::Deliver(to_client, count) => {
            if *to_client {
                client.deliver(*count)
            } else {
                server.deliver(*count)
            }
        }
        Step::Reset(at_client, stream) => {
            let (end, stream) = (if *at_client { client } else { server }, u32::from(*stream));
            if end.apps.get(&stream).is_some_and(|app| app.accepted) {
                end.session.release(stream, Code::Cancelled);
                end.app(stream).reset = true;
            }
        }
        Step::Ping(from_client) => {
            let end = if *from_client { client } else { server };
            let _ = end.session.ping(7);
        }
    }
}

/// Moves everything that is under way, both ways, until nothing is.
fn settle(client: &mut End, server: &mut End) {
    loop {
        client.flush(&mut server.pipe);
        server.flush(&mut client.pipe);
        if client.pipe.is_empty() && server.pipe.is_empty() {
            return;
        }
        client.deliver(usize::MAX);
        server.deliver(usize::MAX);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_delivers_what_was_written(steps in vec(step(), 1..200)) {
        let (mut client, mut server) = (End::new(Side::Client, 0), End::new(Side::Server, 1000));
        for step in &steps {
            run(step, &mut client, &mut server);
            client.flush(&mut server.pipe);
            server.flush(&mut client.pipe);
        }
        settle(&mut client, &mut server);
        for (stream, app) in &client.apps {
            let Some(other) = server.apps.get(stream) else { continue };
            if app.reset || other.reset {
                prop_assert!(app.wrote.starts_with(&other.got) && other.wrote.starts_with(&app.got));
                continue;
            }
            prop_assert_eq!(&app.wrote, &other.got, "stream {} up", stream);
            prop_assert_eq!(&other.wrote, &app.got, "stream {} down", stream);
            prop_assert_eq!((app.finished, other.finished), (other.saw_end, app.saw_end));
        }
    }

    #[test]
    fn one_who_does_not_read_stops_nobody_else(sizes in vec(1..64usize, 1..60)) {
        let (mut client, mut server) = (End::new(Side::Client, 0), End::new(Side::Server, 1000));
        for _ in 0..2 {
            run(&Step::Open(Vec::new()), &mut client, &mut server);
        }
        settle(&mut client, &mut server);
        for stream in [1, 2] {
            run(&Step::Accept(true, stream), &mut client, &mut server);
        }
        settle(&mut client, &mut server);
        for size in sizes {
            // Stream 1 is written to and never read; stream 2 is written to and read.
            client.write(1, &vec![1; size], false, &mut server.pipe);
            let before = server.apps[&2].taken;
            let mut left = size;
            while left > 0 {
                let credit = client.session.flow(2).unwrap().0.credit() as usize;
                prop_assert!(credit > 0, "stream 2 has to wait for stream 1");
                let now = left.min(credit);
                client.write(2, &vec![2; now], false, &mut server.pipe);
                left -= now;
                settle(&mut client, &mut server);
                server.take(2, usize::MAX);
                settle(&mut client, &mut server);
            }
            prop_assert_eq!(server.apps[&2].taken - before, size);
        }
        prop_assert!(server.apps[&1].got.len() <= WINDOWS.initial as usize);
    }
}

#[test]
fn frames_are_written_as_specified() {
    let mut out = Vec::new();
    Frame::Credit(5, 0x0001_0000).write(&mut out);
    assert_eq!(out, [6, 0, 0, 4, 0, 0, 0, 5, 0, 1, 0, 0]);
    out.clear();
    Frame::Data { stream: 0x0102_0304, bytes: b"hi", end: true }.write(&mut out);
    assert_eq!(out, [5, 1, 0, 2, 1, 2, 3, 4, b'h', b'i']);
    out.clear();
    Frame::Open(1, open_to(80)).write(&mut out);
    assert_eq!(out, [2, 0, 0, 15, 0, 0, 0, 1, 0, 13, 0, 10, 0, 0, 2, 0, 80, 10, 0, 0, 1, 0x0f, 0xa0]);
}
