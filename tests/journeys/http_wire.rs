//! HTTP as bytes: both ends are scripted, so that what the mesh does to a message is seen to the letter.

use anyhow::{Result, ensure};
use weft_tests::app::{Ask, Behaviour, End, Http, Payload, Until};
use weft_tests::wait;

use crate::http::Web;

/// A client and a server whose bytes the journey writes.
struct Wire {
    web: Web,
}

/// A request's way: the client's connection, and the server's that it came by.
struct Way<'w> {
    wire: &'w Wire,
    client: u64,
    server: u64,
}

impl Wire {
    fn new(name: &str) -> Result<Self> {
        let web = Web::with(name, 1, &Behaviour::Manual, "http")?;
        wait::until("the Service to be steered", wait::DEADLINE, || {
            let (pod, ..) = &web.servers[0];
            web.steered(1, || web.app.open(web.web.v4())).and_then(|open| web.app.close(open.conn))?;
            ensure!(web.lab.is_live(pod));
            Ok(())
        })?;
        Ok(Self { web })
    }

    fn open(&self) -> Result<u64> {
        Ok(self.web.steered(1, || self.web.app.open(self.web.web.v4()))?.conn)
    }

    /// Sends a head from the client; yields what the server reads as one.
    fn ask(&self, request: &str) -> Result<(Way<'_>, String)> {
        let client = self.open()?;
        self.web.app.say(client, request)?;
        let server = self.server().accept(self.web.servers[0].2)?.conn;
        let head = self.server().receive(server, Until::Head)?.text;
        Ok((Way { wire: self, client, server }, head))
    }

    /// The same, by a connection to the server that is kept.
    fn ask_again(&self, server: u64, request: &str) -> Result<(Way<'_>, String)> {
        let client = self.open()?;
        self.web.app.say(client, request)?;
        let head = self.server().receive(server, Until::Head)?.text;
        Ok((Way { wire: self, client, server }, head))
    }

    fn server(&self) -> &weft_tests::app::App {
        &self.web.servers[0].1
    }

    fn finish(self) -> Result<()> {
        self.web.lab.finish()
    }
}

impl Way<'_> {
    /// The server says.
    fn answer(&self, text: &str) -> Result<()> {
        self.wire.server().say(self.server, text).map(drop)
    }

    /// The client says.
    fn say(&self, text: &str) -> Result<()> {
        self.wire.web.app.say(self.client, text).map(drop)
    }

    /// The next head at the client.
    fn head(&self) -> Result<String> {
        Ok(self.wire.web.app.receive(self.client, Until::Head)?.text)
    }

    /// The next bytes at the client.
    fn read(&self, size: usize) -> Result<String> {
        Ok(self.wire.web.app.receive(self.client, Until::Bytes(size as u64))?.text)
    }

    /// The next bytes at the server.
    fn read_at_server(&self, size: usize) -> Result<String> {
        Ok(self.wire.server().receive(self.server, Until::Bytes(size as u64))?.text)
    }

    fn rest(&self) -> Result<(String, Option<End>)> {
        let received = self.wire.web.app.receive(self.client, Until::End)?;
        Ok((received.text, received.end))
    }
}

fn lines(head: &str) -> Vec<&str> {
    head.trim_end().split("\r\n").collect()
}

/// Without what the mesh is known to add.
fn without<'a>(head: &'a str, names: &[&str]) -> Vec<&'a str> {
    let added = |line: &&str| !names.iter().any(|name| line.to_lowercase().starts_with(&format!("{name}:")));
    lines(head).into_iter().filter(added).collect()
}

#[test]
fn http10_without_host() -> Result<()> {
    let wire = Wire::new("http10")?;
    let (way, head) = wire.ask("GET /old HTTP/1.0\r\nX-Case: Kept\r\n\r\n")?;
    ensure!(without(&head, &["weft-hops"]) == ["GET /old HTTP/1.0", "X-Case: Kept"], "{head:?}");
    way.answer("HTTP/1.0 200 Fine\r\nX-Mine: Kept\r\nContent-Length: 5\r\n\r\nhello")?;
    let head = way.head()?;
    ensure!(lines(&head)[0].starts_with("HTTP/1.0 200") && head.contains("X-Mine: Kept\r\n"), "{head:?}");
    ensure!(way.rest()? == ("hello".to_owned(), Some(End::Fin)), "HTTP/1.0 ends with its connection");
    wire.finish()
}

#[test]
fn absolute_uri() -> Result<()> {
    let wire = Wire::new("absolute")?;
    let (way, head) = wire.ask("GET http://right.example/x?y HTTP/1.1\r\nHost: wrong.example\r\n\r\n")?;
    // The form is the server's to read; of two hosts the target's counts (RFC 9112, 3.2.2).
    let expected = ["GET http://right.example/x?y HTTP/1.1", "Host: right.example"];
    ensure!(without(&head, &["weft-hops"]) == expected, "{head:?}");
    way.answer("HTTP/1.1 204 No Content\r\n\r\n")?;
    ensure!(way.head()?.starts_with("HTTP/1.1 204"));
    wire.finish()
}

#[test]
fn http11_upgrade_websocket() -> Result<()> {
    let wire = Wire::new("websocket")?;
    let request = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let (way, head) = wire.ask(request)?;
    ensure!(
        head.to_lowercase().contains("\r\nconnection: upgrade\r\n")
            && head.to_lowercase().contains("\r\nupgrade: websocket\r\n"),
        "{head:?}"
    );
    // The first frame comes with the answer, as servers send it.
    way.answer("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst")?;
    let head = way.head()?;
    ensure!(head.starts_with("HTTP/1.1 101") && head.to_lowercase().contains("\r\nupgrade: websocket\r\n"), "{head:?}");
    ensure!(way.read(5)? == "first");
    for text in ["no request at all\n\n", "GET / HTTP/1.1\r\nBad : field\r\n\r\n"] {
        way.say(text)?;
        ensure!(way.read_at_server(text.len())? == text);
        way.answer(text)?;
        ensure!(way.read(text.len())? == text);
    }
    wire.server().finish(way.server)?;
    ensure!(way.rest()? == (String::new(), Some(End::Fin)));
    way.say("after the server's FIN")?;
    ensure!(way.read_at_server(22)? == "after the server's FIN");
    wire.finish()
}

#[test]
fn http11_connect() -> Result<()> {
    let wire = Wire::new("connect")?;
    let (way, head) = wire.ask("CONNECT db.example:5432 HTTP/1.1\r\nHost: db.example:5432\r\n\r\n")?;
    ensure!(head.starts_with("CONNECT db.example:5432 HTTP/1.1\r\n"), "{head:?}");
    way.answer("HTTP/1.1 200 OK\r\n\r\n\u{1}binary")?;
    ensure!(way.head()?.starts_with("HTTP/1.1 200"));
    ensure!(way.read(7)? == "\u{1}binary");
    way.say("and back\n\n")?;
    ensure!(way.read_at_server(10)? == "and back\n\n");
    wire.finish()
}

#[test]
fn chunked() -> Result<()> {
    let wire = Wire::new("chunked")?;
    let (way, head) = wire.ask("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")?;
    ensure!(head.to_lowercase().contains("\r\ntransfer-encoding: chunked\r\n"), "{head:?}");
    // The first chunk is there before the client has sent the second.
    ensure!(way.read_at_server(10)? == "5\r\nhello\r\n");
    way.say("6\r\n world\r\n0\r\n\r\n")?;
    ensure!(way.read_at_server(16)? == "6\r\n world\r\n0\r\n\r\n");
    way.answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")?;
    let head = way.head()?;
    ensure!(head.to_lowercase().contains("\r\ntransfer-encoding: chunked\r\n"), "{head:?}");
    ensure!(way.read(8)? == "3\r\none\r\n");
    way.answer("3\r\ntwo\r\n0\r\n\r\n")?;
    ensure!(way.read(13)? == "3\r\ntwo\r\n0\r\n\r\n");
    // A GET with a chunked body keeps it, too.
    way.say("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")?;
    let head = wire.server().receive(way.server, Until::Head)?.text;
    ensure!(head.to_lowercase().contains("\r\ntransfer-encoding: chunked\r\n"), "{head:?}");
    ensure!(way.read_at_server(11)? == "1\r\nx\r\n0\r\n\r\n");
    wire.finish()
}

#[test]
fn head_responses() -> Result<()> {
    let wire = Wire::new("head")?;
    let (way, head) = wire.ask("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")?;
    ensure!(head.starts_with("HEAD / HTTP/1.1\r\n"), "{head:?}");
    way.answer("HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n")?;
    let head = way.head()?;
    ensure!(head.to_lowercase().contains("\r\ncontent-length: 12345\r\n"), "{head:?}");
    // No body follows: the connection is ready for the next request, at both ends.
    way.say("GET /next HTTP/1.1\r\nHost: a\r\n\r\n")?;
    let head = wire.server().receive(way.server, Until::Head)?.text;
    ensure!(head.starts_with("GET /next HTTP/1.1\r\n"), "{head:?}");
    way.answer("HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: \"x\"\r\n\r\n")?;
    let head = way.head()?;
    ensure!(head.starts_with("HTTP/1.1 304") && head.contains("ETag: \"x\"\r\n"), "{head:?}");
    wire.finish()
}

#[test]
fn response_until_eof() -> Result<()> {
    let wire = Wire::new("eof")?;
    let (way, _) = wire.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
    way.answer("HTTP/1.1 200 OK\r\n\r\nuntil")?;
    ensure!(way.head()?.to_lowercase().contains("\r\ntransfer-encoding: chunked\r\n"));
    ensure!(way.read(10)? == "5\r\nuntil\r\n");
    way.answer(" the end")?;
    wire.server().close(way.server)?;
    ensure!(way.read(18)? == "8\r\n the end\r\n0\r\n\r\n");
    // To HTTP/1.0, which knows no chunks, it ends with the connection.
    let (way, _) = wire.ask("GET / HTTP/1.0\r\n\r\n")?;
    way.answer("HTTP/1.0 200 OK\r\n\r\nuntil the end")?;
    wire.server().close(way.server)?;
    way.head()?;
    ensure!(way.rest()? == ("until the end".to_owned(), Some(End::Fin)));
    // A connection that breaks off is no end: the client is not told that all has come.
    let (way, _) = wire.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
    way.answer("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")?;
    way.head()?;
    ensure!(way.read(4)? == "half");
    wire.server().reset(way.server)?;
    let (rest, end) = way.rest()?;
    ensure!(rest.is_empty() && end.is_some(), "{rest:?}");
    wire.finish()
}

#[test]
fn expect_100_continue() -> Result<()> {
    let wire = Wire::new("expect")?;
    let request = "PUT /big HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    let (way, head) = wire.ask(request)?;
    ensure!(head.to_lowercase().contains("\r\nexpect: 100-continue\r\n"), "{head:?}");
    way.answer("HTTP/1.1 100 Continue\r\n\r\n")?;
    ensure!(way.head()?.starts_with("HTTP/1.1 100"), "the server's word reaches the client");
    way.say("body")?;
    ensure!(way.read_at_server(4)? == "body");
    way.answer("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")?;
    ensure!(way.head()?.starts_with("HTTP/1.1 201"));
    // A server that says no at once is heard, and the client is not asked for what nobody wants.
    let (way, _) = wire.ask_again(way.server, request)?;
    way.answer("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")?;
    let head = way.head()?;
    ensure!(head.starts_with("HTTP/1.1 417"), "{head:?}");
    // One that says nothing gets the body all the same, as from any client.
    let (way, _) = wire.ask(request)?;
    ensure!(way.head()?.starts_with("HTTP/1.1 100"));
    way.say("body")?;
    ensure!(way.read_at_server(4)? == "body");
    wire.finish()
}

#[test]
fn trailers() -> Result<()> {
    let wire = Wire::new("trailers")?;
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 7\r\n\r\n";
    let (way, head) = wire.ask(request)?;
    ensure!(head.to_lowercase().contains("\r\nte: trailers\r\n"), "{head:?}");
    ensure!(way.read_at_server(21)?.to_lowercase() == "1\r\nx\r\n0\r\nx-sum: 7\r\n\r\n");
    way.answer(
        "HTTP/1.1 200 OK\r\nTrailer: X-After\r\nTransfer-Encoding: chunked\r\n\r\n1\r\ny\r\n0\r\nX-After: 8\r\n\r\n",
    )?;
    ensure!(way.head()?.to_lowercase().contains("\r\ntrailer: x-after\r\n"));
    ensure!(way.read(23)?.to_lowercase() == "1\r\ny\r\n0\r\nx-after: 8\r\n\r\n");
    wire.finish()
}

#[test]
fn rst_stream_propagates() -> Result<()> {
    let web = Web::serving("rst", 1, "http2")?;
    // The server's reset reaches the client as a reset, in the middle of a body.
    let broken = web.steered(1, || Ok(web.app.fetch(web.web.v4(), Http::Two, Ask::get("/break"))))?;
    ensure!(broken.as_ref().is_err_and(|e| format!("{e:#}").contains("stream error received")), "{broken:?}");
    // The client's reset reaches the server: a request it gives up is given up there.
    let counted = || web.counted(&[("request_protocol", "http2"), ("error", "cancelled")]);
    let before = counted()?;
    let impatient = web.app.fetch_within(web.web.v4(), Http::Two, Ask::get("/wait/60000"), 300);
    ensure!(impatient.is_err_and(|e| format!("{e:#}").contains("TimedOut")));
    wait::until("the request to be given up", wait::DEADLINE, || {
        ensure!(counted()? > before);
        let (_, server, listener) = &web.servers[0];
        ensure!(server.seen(*listener)?.cancelled > 0, "the server still works for nobody");
        Ok(())
    })?;
    // Neither has hurt the connection for others.
    let body = Ask::post("/", Payload::Noise { seed: 5, length: 3 << 20 });
    let reply = web.app.fetch(web.web.v4(), Http::Two, body)?;
    ensure!(reply.saw()?.body == Payload::Noise { seed: 5, length: 3 << 20 }.sum(), "{reply:?}");
    web.lab.finish()
}
