//! HTTP/2, frame by frame: what a connection or a stream is to be ended for, with which code, and what is to be borne.

use anyhow::{Context, Result, bail, ensure};
use weft_tests::app::frames::{self, PREFACE, flag, kind};
use weft_tests::app::{Frame, Frames};

use super::{Wire, frame_cases, malformed, state_cases};

/// Codes (RFC 9113, 7).
pub(super) const PROTOCOL: u32 = 1;
pub(super) const FLOW_CONTROL: u32 = 3;
pub(super) const CLOSED: u32 = 5;
pub(super) const FRAME_SIZE: u32 = 6;
pub(super) const COMPRESSION: u32 = 9;

/// A conversation's beginning, and what is to come of it.
pub(super) struct Case {
    /// Where it says so.
    pub(super) section: &'static str,
    pub(super) what: &'static str,
    /// After the preface and empty SETTINGS.
    pub(super) send: Vec<u8>,
    pub(super) expect: Expect,
}

/// What is to come.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expect {
    /// GOAWAY, and the end. RFC 9113, 5.4.1: "endpoints MAY choose to use a generic code", PROTOCOL_ERROR.
    Connection(u32),
    /// RST_STREAM of stream 1, or what is more than that: the end of the connection (RFC 9113, 5.4.2).
    Stream(u32),
    /// An answer on stream 1.
    Served,
}
use Expect::{Connection, Served, Stream};

pub(super) fn case(expect: Expect, section: &'static str, what: &'static str, send: &[Frame]) -> Case {
    Case { section, what, send: send.iter().flat_map(Frame::bytes).collect(), expect }
}

/// The fields of an ordinary request.
pub(super) const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "web"), (":path", "/case")];
/// Of one that takes its time, so that its stream is half closed and no more.
const SLOW: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "web"), (":path", "/wait/500")];
const POST: [(&str, &str); 4] = [(":method", "POST"), (":scheme", "http"), (":authority", "web"), (":path", "/case")];

pub(super) const WHOLE: u8 = flag::END_STREAM | flag::END_HEADERS;

pub(super) fn headers(flags: u8, stream: u32, block: impl Into<Vec<u8>>) -> Frame {
    Frame::new(kind::HEADERS, flags, stream, block)
}

pub(super) fn get(stream: u32) -> Frame {
    headers(WHOLE, stream, frames::fields(&GET))
}

pub(super) fn slow(stream: u32) -> Frame {
    headers(WHOLE, stream, frames::fields(&SLOW))
}

/// A request whose body is to follow.
pub(super) fn post(stream: u32) -> Frame {
    headers(flag::END_HEADERS, stream, frames::fields(&POST))
}

pub(super) fn data(flags: u8, stream: u32, bytes: &[u8]) -> Frame {
    Frame::new(kind::DATA, flags, stream, bytes)
}

pub(super) fn settings(pairs: &[(u16, u32)]) -> Frame {
    let pair = |(name, value): &(u16, u32)| [&name.to_be_bytes()[..], &value.to_be_bytes()[..]].concat();
    Frame::new(kind::SETTINGS, 0, 0, pairs.iter().flat_map(pair).collect::<Vec<_>>())
}

pub(super) fn update(stream: u32, by: u32) -> Frame {
    Frame::new(kind::WINDOW_UPDATE, 0, stream, by.to_be_bytes())
}

pub(super) fn reset(stream: u32) -> Frame {
    Frame::new(kind::RST_STREAM, 0, stream, 8u32.to_be_bytes())
}

pub(super) fn ping() -> Frame {
    Frame::new(kind::PING, 0, 0, *b"weft-lab")
}

pub(super) fn continuation(flags: u8, stream: u32, block: &[u8]) -> Frame {
    Frame::new(kind::CONTINUATION, flags, stream, block)
}

#[test]
fn http2_frames_and_streams() -> Result<()> {
    let wire = Wire::new("frames")?;
    let cases: Vec<_> = frame_cases::cases().into_iter().chain(state_cases::cases()).collect();
    ensure!(cases.len() >= 70, "{} cases", cases.len());
    run(&wire, &cases)?;
    wire.finish()
}

#[test]
fn http2_messages() -> Result<()> {
    let wire = Wire::new("messages")?;
    let cases = malformed::cases();
    ensure!(cases.len() >= 35, "{} cases", cases.len());
    let answered = wire.requests_counted(&[("response_code", "200")])?;
    let served = cases.iter().filter(|case| matches!(case.expect, Served)).count() as u64;
    let streams = cases.iter().filter(|case| matches!(case.expect, Stream(_))).count() as u64;
    run(&wire, &cases)?;
    // None of what was refused has been answered by the server; each that cost only its stream was followed by a good one.
    let by = wire.requests_counted(&[("response_code", "200")])? - answered;
    ensure!(
        (served..=served + streams).contains(&by),
        "{by} were answered, of {served} good ones and {streams} after bad ones"
    );
    wire.finish()
}

/// Plays all cases, and says of every one that went otherwise what came.
fn run(wire: &Wire, cases: &[Case]) -> Result<()> {
    let mut problems = Vec::new();
    wire.web.steered(cases.len() as u64, || {
        for case in cases {
            let Case { section, what, expect, .. } = case;
            if let Err(problem) = play(wire, case).with_context(|| format!("{section}: {what}: not {expect:?}")) {
                problems.push(format!("{problem:#}"));
            }
        }
        Ok(())
    })?;
    if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("\n")) }
}

fn play(wire: &Wire, case: &Case) -> Result<()> {
    let conn = wire.open()?;
    let app = &wire.web.app;
    app.write(conn, &[PREFACE, &settings(&[]).bytes(), &case.send].concat())?;
    let came = app.frames(conn, &[kind::GOAWAY, kind::RST_STREAM], 1)?;
    match case.expect {
        Connection(code) => {
            ends(&came, code)?;
            // Nothing more is to be had of it.
            let rest = app.frames(conn, &[], u32::MAX)?;
            ensure!(came.end.is_some() || rest.end.is_some());
        }
        Stream(code) => match came.frames.last() {
            Some(last) if last.kind == kind::RST_STREAM && last.stream == 1 => {
                let codes = [code, PROTOCOL, CLOSED];
                ensure!(last.code().is_some_and(|code| codes.contains(&code)), "{came:?}");
                // The connection is as good as before.
                app.write(conn, &get(101).bytes())?;
                let next = app.frames(conn, &[kind::GOAWAY, kind::RST_STREAM], 101)?;
                ensure!(next.frames.last().is_some_and(|frame| frame.ends(101)), "the next request: {next:?}");
                app.close(conn)?;
            }
            _ => ends(&came, code)?,
        },
        Served => {
            ensure!(came.frames.last().is_some_and(|frame| frame.ends(1)), "{came:?}");
            // An indexed `:status` of 200 (RFC 7541, appendix A), after what the table's size may be changed to (6.3).
            let status = came.frames.iter().find(|frame| frame.kind == kind::HEADERS && frame.stream == 1);
            let first = status.and_then(|frame| frame.payload.iter().find(|byte| **byte & 0xe0 != 0x20));
            ensure!(first == Some(&0x88), "{came:?}");
            app.close(conn)?;
        }
    }
    Ok(())
}

/// GOAWAY with this code, or the generic one (RFC 9113, 5.4.1).
fn ends(came: &Frames, code: u32) -> Result<()> {
    let said = came.frames.last().filter(|frame| frame.kind == kind::GOAWAY).and_then(Frame::code);
    ensure!(said.is_some_and(|said| said == code || said == PROTOCOL), "{came:?}");
    Ok(())
}
