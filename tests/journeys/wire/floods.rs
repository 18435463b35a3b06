//! Clients that send without end, or make others send and do not read: neither node's agent takes more than 64 MiB for it, and
//! nobody else notices.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use weft_tests::app::frames::{self, PREFACE, flag, kind};
use weft_tests::app::{App, Behaviour, Frame, Frames, Options, Payload};
use weft_tests::lab::Process;
use weft_tests::wait;

use super::Wire;
use super::http2::{GET, WHOLE, headers};
use crate::fixture::{anywhere, running_agent};

/// What a flood may cost an agent.
const MOST: u64 = 64 << 20;
/// How long a flood that is not read may take to have had its effect.
const PATIENCE: Duration = Duration::from_secs(1);
/// Connections that flood side by side.
pub(super) const CONNECTIONS: usize = 2;
/// RFC 9113, 7.
const CALM: u32 = 11;

/// The most memory that processes take while it lives, over what they took before.
struct Watch {
    stop: Sender<()>,
    thread: JoinHandle<Result<Vec<u64>>>,
}

/// What the agents take when nothing floods them.
pub(super) struct Rest {
    processes: Vec<Process>,
    bytes: Vec<u64>,
}

fn resident(processes: &[Process]) -> Result<Vec<u64>> {
    processes.iter().map(Process::memory_bytes).collect()
}

impl Rest {
    pub(super) fn of(wire: &Wire) -> Result<Self> {
        let agents = [&wire.web.a, &wire.web.b].map(|node| running_agent(&wire.web.lab, node));
        let processes: Vec<_> = agents.into_iter().map(|agent| Ok(agent?.process().clone())).collect::<Result<_>>()?;
        let bytes = resident(&processes)?;
        Ok(Self { processes, bytes })
    }

    /// Runs a flood and checks what it costs.
    pub(super) fn bears<R>(&self, what: &str, flood: impl FnOnce() -> Result<R>) -> Result<R> {
        let (stop, stopped) = channel();
        let processes = self.processes.clone();
        let thread = std::thread::spawn(move || {
            let mut most = vec![0; processes.len()];
            loop {
                for (most, now) in most.iter_mut().zip(resident(&processes)?) {
                    *most = now.max(*most);
                }
                if stopped.recv_timeout(Duration::from_millis(5)) != Err(RecvTimeoutError::Timeout) {
                    return Ok(most);
                }
            }
        });
        let watch = Watch { stop, thread };
        let result = flood().with_context(|| what.to_owned());
        drop(watch.stop);
        let most = watch.thread.join().map_err(|_| anyhow!("panicked"))??;
        for ((node, most), rest) in ["a", "b"].iter().zip(&most).zip(&self.bytes) {
            let grown = most.saturating_sub(*rest);
            ensure!(grown <= MOST, "{what}: the agent of node {node} grew by {grown} bytes from {rest}");
        }
        result
    }
}

/// Sends in several connections at once; yields what came of each. One that is not read may be held up for ever.
pub(super) fn flood(wire: &Wire, prefix: &[u8], payload: &Payload, read: bool) -> Result<Vec<Option<Frames>>> {
    let app = &wire.web.app;
    let (done, outcomes) = channel();
    for _ in 0..CONNECTIONS {
        let conn =
            app.open_with(wire.web.web.v4(), Options { receive_buffer: Some(65_536), ..Options::default() })?.conn;
        app.write(conn, prefix)?;
        let (writer, payload, done) = (app.clone(), payload.clone(), done.clone());
        if read {
            let (reader, done) = (app.clone(), done.clone());
            std::thread::spawn(move || done.send(reader.frames(conn, &[kind::GOAWAY], u32::MAX).map(Some)));
        }
        // An agent that hangs up is what is hoped for.
        std::thread::spawn(move || {
            let _ = writer.send(conn, payload);
            read || done.send(Ok(None)).is_ok()
        });
    }
    drop(done);
    let deadline = Instant::now() + if read { wait::DEADLINE } else { PATIENCE };
    let mut all = Vec::new();
    while all.len() < CONNECTIONS {
        match outcomes.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(outcome) => all.push(outcome?),
            Err(_) if read => bail!("{} of {CONNECTIONS} connections were ended", all.len()),
            Err(_) => break,
        }
    }
    Ok(all)
}

/// One whose sender is told to go away.
fn ended(wire: &Wire, rest: &Rest, what: &str, prefix: &[Frame], payload: Payload) -> Result<()> {
    let outcomes = rest.bears(what, || flood(wire, &begin(prefix), &payload, true))?;
    for outcome in outcomes.into_iter().flatten() {
        let last = outcome.frames.last();
        // A connection closed with more to be read is reset, and what was said last is lost with it.
        let told =
            last.and_then(Frame::code).map_or(outcome.end.is_some(), |code| code == CALM || code == 1 || code == 9);
        ensure!(told, "{what}: {last:?}, {:?}", outcome.end);
    }
    Ok(())
}

/// One that is borne, or ended; it is not read.
fn borne(wire: &Wire, rest: &Rest, what: &str, prefix: &[Frame], payload: Payload) -> Result<()> {
    rest.bears(what, || flood(wire, &begin(prefix), &payload, false)).map(drop)
}

pub(super) fn begin(prefix: &[Frame]) -> Vec<u8> {
    let settings = Frame::new(kind::SETTINGS, 0, 0, []);
    [PREFACE.to_vec(), settings.bytes(), prefix.iter().flat_map(Frame::bytes).collect()].concat()
}

fn again(frame: &Frame, times: u64) -> Payload {
    Payload::Bytes { bytes: frame.bytes(), times }
}

/// So many streams of such frames.
fn streams(count: u32, of: impl Fn(u32) -> Vec<Frame>) -> Payload {
    let frames = (0..count).flat_map(|n| of(2 * n + 1));
    Payload::Bytes { bytes: frames.flat_map(|frame| frame.bytes()).collect(), times: 1 }
}

pub(super) fn request(path: &str) -> Vec<u8> {
    frames::fields(&[GET[0], GET[1], GET[2], (":path", path)])
}

fn posting() -> Vec<u8> {
    frames::fields(&[(":method", "POST"), GET[1], GET[2], GET[3]])
}

#[test]
fn http2_floods_are_ended() -> Result<()> {
    let wire = Wire::new("floods")?;
    let rest = Rest::of(&wire)?;
    wire.web.steered(7 * CONNECTIONS as u64, || {
        let cancelled = |stream| {
            vec![headers(WHOLE, stream, request("/wait/1000")), Frame::new(kind::RST_STREAM, 0, stream, [0, 0, 0, 8])]
        };
        ended(&wire, &rest, "rapid reset (CVE-2023-44487)", &[], streams(20_000, cancelled))?;
        let provoked = |stream| {
            vec![headers(flag::END_HEADERS, stream, posting()), Frame::new(kind::WINDOW_UPDATE, 0, stream, [0; 4])]
        };
        ended(&wire, &rest, "resets that are provoked (CVE-2025-8671)", &[], streams(20_000, provoked))?;
        let begun = headers(flag::END_STREAM, 1, request("/"));
        let field = frames::fields(&[("x-flood", &"y".repeat(16_000))]);
        let more = Frame::new(kind::CONTINUATION, 0, 1, field);
        ended(
            &wire,
            &rest,
            "CONTINUATION without end (CVE-2024-27316)",
            std::slice::from_ref(&begun),
            again(&more, 2000),
        )?;
        let empty = Frame::new(kind::CONTINUATION, 0, 1, []);
        ended(&wire, &rest, "empty CONTINUATION without end", &[begun], again(&empty, 200_000))?;
        let post = headers(flag::END_HEADERS, 1, posting());
        let empty = Frame::new(kind::DATA, 0, 1, []);
        ended(&wire, &rest, "empty DATA without end (CVE-2019-9518)", &[post], again(&empty, 200_000))?;
        // Four kilobytes that are remembered, and then a byte for each time they are meant.
        let bomb = [&request("/")[..], &[0x40, 1, b'x', 0x7f, 0xa1, 0x1e], &[b'y'; 4000], &[0xbe; 12_000]].concat();
        ended(
            &wire,
            &rest,
            "a header block that unpacks to 48 MB",
            &[],
            streams(20, |stream| vec![headers(WHOLE, stream, bomb.clone())]),
        )?;
        let open = |stream| vec![headers(flag::END_HEADERS, stream, posting())];
        ended(&wire, &rest, "streams without end", &[], streams(20_000, open))
    })?;
    wire.finish()
}

#[test]
fn http2_floods_are_borne() -> Result<()> {
    let wire = Wire::new("borne")?;
    let rest = Rest::of(&wire)?;
    wire.web.steered(7 * CONNECTIONS as u64, || {
        let settings = Frame::new(kind::SETTINGS, 0, 0, [0, 3, 0, 0, 0, 100]);
        borne(&wire, &rest, "SETTINGS without end (CVE-2019-9515)", &[], again(&settings, 200_000))?;
        borne(
            &wire,
            &rest,
            "PING without end (CVE-2019-9512)",
            &[],
            again(&Frame::new(kind::PING, 0, 0, [7; 8]), 200_000),
        )?;
        borne(
            &wire,
            &rest,
            "PRIORITY without end",
            &[],
            again(&Frame::new(kind::PRIORITY, 0, 3, [0, 0, 0, 1, 9]), 200_000),
        )?;
        borne(
            &wire,
            &rest,
            "WINDOW_UPDATE without end",
            &[],
            again(&Frame::new(kind::WINDOW_UPDATE, 0, 0, [0, 0, 0, 1]), 200_000),
        )?;
        borne(
            &wire,
            &rest,
            "frames nobody knows, without end",
            &[],
            again(&Frame::new(0x42, 0, 0, vec![7; 16_000]), 4000),
        )?;
        let large = frames::fields(&[GET[0], GET[1], GET[2], GET[3], ("x-large", &"y".repeat(15_900))]);
        let rests: Vec<_> = (1..=6).map(|n| frames::fields(&[("x-more", &n.to_string().repeat(15_900))])).collect();
        let too_large = |stream| {
            let mut all = vec![headers(flag::END_STREAM, stream, large.clone())];
            all.extend(rests.iter().enumerate().map(|(n, rest)| {
                let flags = if n + 1 == rests.len() { flag::END_HEADERS } else { 0 };
                Frame::new(kind::CONTINUATION, flags, stream, rest.clone())
            }));
            all
        };
        let refused = || wire.requests_counted(&[("response_code", "431"), ("error", "bad_request")]);
        let before = refused()?;
        rest.bears("field lists of 110 KB", || flood(&wire, &begin(&[]), &streams(60, too_large), false))?;
        wait::until("the refusals to be counted", wait::DEADLINE, || {
            let by = refused()? - before;
            ensure!(by == 60 * CONNECTIONS as u64, "{by}");
            Ok(())
        })?;
        // Everything asked for, and nothing taken: no window, then a window and no reader.
        for (what, window) in [("no window", 0u32), ("a window that nobody empties", 1 << 20)] {
            let window = Frame::new(kind::SETTINGS, 0, 0, [&[0, 4][..], &window.to_be_bytes()].concat());
            let asked = streams(250, |stream| vec![headers(WHOLE, stream, request("/bytes/50000000"))]);
            stalls(&wire, &rest, what, &[window], &asked)?;
        }
        Ok(())
    })?;
    wire.finish()
}

/// One whose effect is what is held for it: until that grows no more.
fn stalls(wire: &Wire, rest: &Rest, what: &str, prefix: &[Frame], asked: &Payload) -> Result<()> {
    rest.bears(what, || {
        flood(wire, &begin(prefix), asked, false)?;
        still(rest)
    })
}

pub(super) fn still(rest: &Rest) -> Result<()> {
    let (mut last, mut since) = (resident(&rest.processes)?, Instant::now());
    wait::until("memory to grow no more", wait::DEADLINE, || {
        let now = resident(&rest.processes)?;
        if now.iter().zip(&last).any(|(now, last)| *now > last + (256 << 10)) {
            (last, since) = (now, Instant::now());
        }
        ensure!(since.elapsed() > Duration::from_millis(400), "it grows");
        Ok(())
    })
}

#[test]
fn http2_uploads_nobody_reads_are_bounded() -> Result<()> {
    let wire = Wire::new("uploads")?;
    // A server that never reads, behind the same Service in the place of the one that does.
    let pod = wire.web.lab.pod(&wire.web.b, "deaf").create()?;
    let server = pod.app(&wire.web.lab)?;
    server.listen(anywhere(8080), "deaf", Behaviour::Stall)?;
    let deaf = wire.web.lab.service("deaf").speaks("http").pods(&[&pod]).create()?;
    wire.web.lab.wait_live(&pod)?;
    let rest = Rest::of(&wire)?;
    let body = Frame::new(kind::DATA, 0, 1, vec![7; 16_000]);
    let upload = |stream| {
        let begun = headers(flag::END_HEADERS, stream, posting());
        std::iter::once(begun).chain((0..4).map(|_| Frame { stream, ..body.clone() })).collect()
    };
    let all = streams(200, upload);
    wire.web.steered(24, || {
        rest.bears("uploads to a server that does not read", || {
            let (done, sent) = channel();
            for _ in 0..24 {
                let conn = wire.web.app.open(deaf.v4())?.conn;
                let (app, all, done): (App, _, _) = (wire.web.app.clone(), all.clone(), done.clone());
                app.write(conn, &begin(&[]))?;
                std::thread::spawn(move || done.send(app.send(conn, all).map(drop)));
            }
            drop(done);
            let _ = sent.recv_timeout(PATIENCE);
            still(&rest)
        })
    })?;
    wire.finish()
}
