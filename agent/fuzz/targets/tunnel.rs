//! The frames of the Weft tunnel, at both ends: no panic, the same reading however they are split, and no more held than
//! the windows allow.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft::tunnel::mux::{Code, Decoder, Event, Hello, Malformed, Open, Session, Side, Windows};

const WINDOWS: Windows = Windows { initial: 64, most: 256 };

/// One end, fed in pieces of `split` bytes: what it made of them, in words.
fn read(side: Side, mut bytes: &[u8], split: usize, app_reads: bool) -> (String, Result<(), Malformed>) {
    let mut session = Session::new(side, WINDOWS, Hello { streams: 4, baggage: None });
    let open = Open { to: ([10, 0, 0, 2], 80).into(), from: ([10, 0, 0, 1], 4000).into(), host: None };
    for _ in 0..if side == Side::Client { 3 } else { 0 } {
        let _ = session.open(&open, b"hello", 0);
    }
    let (mut decoder, mut said) = (Decoder::default(), String::new());
    while !bytes.is_empty() {
        let (mut piece, rest) = bytes.split_at(split.min(bytes.len()));
        bytes = rest;
        loop {
            let event = match decoder.next(&mut piece) {
                Ok(None) => break,
                Ok(Some(frame)) => session.apply(frame),
                Err(malformed) => Err(malformed),
            };
            match event {
                Ok(Some(event)) => handle(&mut session, &event, app_reads, &mut said),
                Ok(None) => {}
                Err(malformed) => return (said, Err(malformed)),
            }
            assert!(session.open_streams() <= 1000);
        }
    }
    (said, decoder.finish())
}

/// An owner that accepts odd streams, refuses even ones, may take half of what comes, and answers an end with one.
fn handle(session: &mut Session<usize>, event: &Event<'_>, app_reads: bool, said: &mut String) {
    match event {
        Event::Opened(stream, _) => {
            session.enter(*stream, 0);
            if stream % 2 == 1 { assert!(session.accept(*stream)) } else { session.refuse(*stream, Code::Denied) }
        }
        Event::Data { stream, bytes, end } => {
            let (_, inbound) = session.flow(*stream).expect("data of a stream there is");
            assert!(inbound.held() <= inbound.window() && inbound.window() <= WINDOWS.most);
            let half = inbound.held() / 2;
            if app_reads {
                session.took(*stream, half, |_, _| true);
            }
            if *end {
                let _ = session.data(*stream, 0, true);
            }
            // Data comes in parts where it is split; only its sum is the same.
            if let Some(sum) = session.owner(*stream) {
                *sum += bytes.len();
            }
            return;
        }
        Event::Reset(stream, _) | Event::Refused(stream, _) => {
            let sum = session.release(*stream, Code::Cancelled);
            said.push_str(&format!("{sum:?}"));
        }
        _ => {}
    }
    said.push_str(&format!("{event:?};"));
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&side, bytes)) = bytes.split_first() else { return };
    let side = if side % 2 == 0 { Side::Server } else { Side::Client };
    // What an app takes in between decides what may come: only one that takes nothing can be compared.
    let whole = read(side, bytes, usize::MAX, false);
    for split in [1, 7] {
        assert_eq!(read(side, bytes, split, false), whole, "another reading in pieces of {split}");
    }
    let _ = read(side, bytes, 16, true);
});
