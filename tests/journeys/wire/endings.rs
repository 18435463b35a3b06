//! How streams and connections of HTTP/2 end, frame by frame at both ends of the mesh: why a server ends a stream is told to its
//! client, half a message never passes for a whole one, and who goes away finishes what it has.

use anyhow::{Context, Result, ensure};
use weft_tests::app::frames::{self, PREFACE, flag, kind};
use weft_tests::app::{App, Behaviour, Frame, Frames, Until};
use weft_tests::wait;

use super::http2::{CLOSED, PROTOCOL, WHOLE, data, get, headers, post, settings};
use crate::http::Web;

/// Codes (RFC 9113, 7).
const NO_ERROR: u32 = 0;
const INTERNAL: u32 = 2;
const CANCEL: u32 = 8;
const CALM: u32 = 11;
const HTTP_1_1: u32 = 13;
/// One that nobody has a name for.
const UNKNOWN: u32 = 0xbad;

/// In a row: what two tasks of an agent race for goes well once by chance.
const ROW: usize = 10;

/// A client and a server whose frames the journey writes. Streams have one number at both ends, for there is one connection each.
struct Ends {
    web: Web,
    client: u64,
    stream: u32,
}

impl Ends {
    fn new(name: &str) -> Result<Self> {
        let web = Web::with(name, 1, &Behaviour::Manual, "kubernetes.io/h2c")?;
        let client = wait::until("the Service to be steered", wait::DEADLINE, || {
            let conn = web.steered(1, || web.app.open(web.web.v4()))?.conn;
            ensure!(web.lab.is_live(&web.servers[0].0));
            Ok(conn)
        })?;
        web.app.write(client, &[PREFACE, &settings(&[]).bytes()].concat())?;
        Ok(Self { web, client, stream: 0 })
    }

    fn server(&self) -> &App {
        &self.web.servers[0].1
    }

    /// The number of the next stream.
    fn next(&mut self) -> u32 {
        self.stream = if self.stream == 0 { 1 } else { self.stream + 2 };
        self.stream
    }

    /// The server takes the mesh's next connection.
    fn accept(&self) -> Result<u64> {
        let conn = self.server().accept(self.web.servers[0].2)?.conn;
        let preface = self.server().receive(conn, Until::Bytes(PREFACE.len() as u64))?.text;
        ensure!(preface.as_bytes() == PREFACE, "{preface:?}");
        self.server().write(conn, &settings(&[]).bytes())?;
        Ok(conn)
    }

    /// The client sends these.
    fn say(&self, frames: &[Frame]) -> Result<()> {
        write(&self.web.app, self.client, frames)
    }

    /// The server sends these.
    fn answer(&self, server: u64, frames: &[Frame]) -> Result<()> {
        write(self.server(), server, frames)
    }

    /// Waits until the head of a request has come to the server.
    fn arrives(&self, server: u64, stream: u32) -> Result<()> {
        let came = of(self.server(), server, stream, &[kind::HEADERS])?;
        let last = came.frames.last().filter(|last| (last.kind, last.stream) == (kind::HEADERS, stream));
        ensure!(last.is_some(), "stream {stream} does not arrive: {came:?}");
        Ok(())
    }

    /// Waits until a piece of a body has come to an end of the mesh.
    fn reads(app: &App, conn: u64, stream: u32) -> Result<()> {
        let came = of(app, conn, stream, &[kind::DATA, kind::RST_STREAM])?;
        let last = came.frames.last();
        ensure!(last.is_some_and(|last| last.kind == kind::DATA && !last.ends(stream)), "no part of a body: {came:?}");
        Ok(())
    }

    /// Waits for the end of a stream at an end of the mesh, which must be a reset; its code.
    fn reset(app: &App, conn: u64, stream: u32) -> Result<u32> {
        let came = of(app, conn, stream, &[kind::RST_STREAM])?;
        let code = came.frames.last().filter(|last| last.kind == kind::RST_STREAM).and_then(Frame::code);
        code.with_context(|| format!("stream {stream} ended otherwise than by a reset: {came:?}"))
    }

    /// What the client reads up to the end of a stream, which must be that of a whole answer.
    fn whole(&self, stream: u32) -> Result<Frames> {
        let came = of(&self.web.app, self.client, stream, &[kind::RST_STREAM])?;
        ensure!(
            came.frames.last().is_some_and(|last| last.ends(stream)),
            "stream {stream} has no whole answer: {came:?}"
        );
        Ok(came)
    }
}

/// What comes up to a frame of this stream that is of these kinds or its last, or to the end of the connection.
fn of(app: &App, conn: u64, stream: u32, kinds: &[u8]) -> Result<Frames> {
    let (mut frames, kinds) = (Vec::new(), [kinds, &[kind::GOAWAY]].concat());
    loop {
        let came = app.frames(conn, &kinds, stream)?;
        let found = came.frames.last().is_none_or(|last| last.stream == stream || last.kind == kind::GOAWAY);
        frames.extend(came.frames);
        if found || came.end.is_some() {
            return Ok(Frames { frames, end: came.end });
        }
    }
}

fn write(app: &App, conn: u64, frames: &[Frame]) -> Result<()> {
    app.write(conn, &frames.iter().flat_map(Frame::bytes).collect::<Vec<_>>()).map(drop)
}

fn rst(stream: u32, code: u32) -> Frame {
    Frame::new(kind::RST_STREAM, 0, stream, code.to_be_bytes())
}

/// A whole request that has no body, and may not be made twice.
fn once(stream: u32) -> Frame {
    let fields = [(":method", "POST"), (":scheme", "http"), (":authority", "web"), (":path", "/case")];
    headers(WHOLE, stream, frames::fields(&fields))
}

/// The streams up to `last` are seen to.
fn goaway(last: u32, code: u32) -> Frame {
    Frame::new(kind::GOAWAY, 0, 0, [last.to_be_bytes(), code.to_be_bytes()].concat())
}

/// The head of an answer whose body follows.
fn head(stream: u32) -> Frame {
    headers(flag::END_HEADERS, stream, frames::fields(&[(":status", "200")]))
}

/// A whole answer.
fn answered(stream: u32) -> [Frame; 2] {
    [head(stream), data(flag::END_STREAM, stream, b"whole")]
}

#[test]
fn resets_of_streams_keep_their_code() -> Result<()> {
    let mut ends = Ends::new("resets")?;
    let mut server = None;
    for code in [PROTOCOL, INTERNAL, CLOSED, CANCEL, CALM, HTTP_1_1, UNKNOWN] {
        // In the place of an answer. The server has seen the request: it is not made again, or the next would have another number.
        let stream = ends.next();
        ends.say(&[get(stream)])?;
        let conn = server.map_or_else(|| ends.accept(), Ok)?;
        server = Some(conn);
        ends.arrives(conn, stream)?;
        ends.answer(conn, &[rst(stream, code)])?;
        let told = Ends::reset(&ends.web.app, ends.client, stream)?;
        ensure!(told == code, "in the place of an answer: {code} has become {told}");
        // In the middle of one.
        let stream = ends.next();
        ends.say(&[get(stream)])?;
        ends.arrives(conn, stream)?;
        ends.answer(conn, &[head(stream), data(0, stream, b"ha")])?;
        Ends::reads(&ends.web.app, ends.client, stream)?;
        ends.answer(conn, &[rst(stream, code)])?;
        let told = Ends::reset(&ends.web.app, ends.client, stream)?;
        ensure!(told == code, "in the middle of an answer: {code} has become {told}");
        // A client gives up before there is an answer, in the middle of one, and of its own request: so does the mesh, in the
        // word for that.
        let stream = ends.next();
        ends.say(&[get(stream)])?;
        ends.arrives(conn, stream)?;
        ends.say(&[rst(stream, code)])?;
        let told = Ends::reset(ends.server(), conn, stream)?;
        ensure!(told == CANCEL, "of a request without an answer: {code} has become {told}");
        let stream = ends.next();
        ends.say(&[get(stream)])?;
        ends.arrives(conn, stream)?;
        ends.answer(conn, &[head(stream), data(0, stream, b"ha")])?;
        Ends::reads(&ends.web.app, ends.client, stream)?;
        ends.say(&[rst(stream, code)])?;
        let told = Ends::reset(ends.server(), conn, stream)?;
        ensure!(told == CANCEL, "of a request with half an answer: {code} has become {told}");
    }
    ends.web.lab.finish()
}

#[test]
fn half_a_message_is_never_a_whole_one() -> Result<()> {
    let mut ends = Ends::new("halves")?;
    let mut server = None;
    for _ in 0..ROW {
        // NO_ERROR asks a client to send no more of its request, after a whole answer (RFC 9113, 8.1). Half of one stays a half.
        let stream = ends.next();
        ends.say(&[get(stream)])?;
        let conn = server.map_or_else(|| ends.accept(), Ok)?;
        server = Some(conn);
        ends.arrives(conn, stream)?;
        ends.answer(conn, &[head(stream), data(0, stream, b"ha"), rst(stream, NO_ERROR)])?;
        Ends::reset(&ends.web.app, ends.client, stream)?;
        // So does half a request, whatever its client ends it with.
        for code in [NO_ERROR, INTERNAL, CANCEL] {
            let stream = ends.next();
            ends.say(&[post(stream), data(0, stream, b"ha")])?;
            ends.arrives(conn, stream)?;
            Ends::reads(ends.server(), conn, stream)?;
            ends.say(&[rst(stream, code)])?;
            Ends::reset(ends.server(), conn, stream)?;
        }
        // And a whole answer is one before all of its request has come, with trailers and without.
        let stream = ends.next();
        ends.say(&[post(stream), data(0, stream, b"ha")])?;
        ends.arrives(conn, stream)?;
        ends.answer(conn, &[&answered(stream)[..], &[rst(stream, NO_ERROR)]].concat())?;
        let came = ends.whole(stream)?;
        let body: Vec<u8> =
            came.frames.iter().filter(|f| f.kind == kind::DATA).flat_map(|f| f.payload.clone()).collect();
        ensure!(body == b"whole", "{came:?}");
        let stream = ends.next();
        ends.say(&[post(stream), data(0, stream, b"ha")])?;
        ends.arrives(conn, stream)?;
        let after = headers(flag::END_HEADERS | flag::END_STREAM, stream, frames::fields(&[("x-after", "all")]));
        ends.answer(conn, &[head(stream), data(0, stream, b"whole"), after, rst(stream, NO_ERROR)])?;
        ends.whole(stream)?;
    }
    ends.web.lab.finish()
}

#[test]
fn who_goes_away_finishes_what_it_has() -> Result<()> {
    let mut ends = Ends::new("goaway")?;
    let streams = [ends.next(), ends.next(), ends.next()];
    // The third asks for what nobody may repeat, unless it is known that it has not been done.
    ends.say(&[get(streams[0]), get(streams[1]), once(streams[2])])?;
    let old = ends.accept()?;
    streams.iter().try_for_each(|stream| ends.arrives(old, *stream))?;
    // The server has two of them and goes: the third is made again elsewhere, and so is what is asked from now on.
    ends.answer(old, &[goaway(streams[1], NO_ERROR)])?;
    let new = ends.accept()?;
    ends.arrives(new, 1)?;
    let fourth = ends.next();
    ends.say(&[get(fourth)])?;
    ends.arrives(new, 3)?;
    ends.answer(new, &answered(3))?;
    ends.whole(fourth)?;
    ends.answer(old, &answered(streams[1]))?;
    ends.whole(streams[1])?;
    ends.answer(old, &answered(streams[0]))?;
    ends.whole(streams[0])?;
    // One that goes because it has had enough answers what it has all the same.
    ends.answer(new, &[goaway(3, CALM)])?;
    let last = ends.next();
    ends.say(&[get(last)])?;
    let newest = ends.accept()?;
    ends.arrives(newest, 1)?;
    ends.answer(new, &answered(1))?;
    ends.whole(streams[2])?;
    // A client that goes away waits for its answer, and gets it.
    ends.say(&[goaway(0, NO_ERROR)])?;
    ends.answer(newest, &answered(1))?;
    ends.whole(last)?;
    let rest = ends.web.app.frames(ends.client, &[], u32::MAX)?;
    ensure!(rest.end.is_some(), "nobody asks any more, and the connection stays: {rest:?}");
    ends.web.lab.finish()
}
