//! Endpoints whose responses can be read in two ways, or in none: nobody is given what the next reader may take for something else.

use anyhow::{Result, ensure};
use weft_tests::app::{App, Behaviour, Until};
use weft_tests::lab::{Endpoint, Pod};
use weft_tests::wait;

use crate::fixture::{anywhere, running_agent};
use crate::http::Web;

/// An endpoint that says what the journey has it say; the only one behind `web`.
struct Odd {
    web: Web,
    app: App,
    listener: u64,
    /// Held for its processes.
    _pod: Pod,
}

impl Odd {
    fn new(name: &str) -> Result<Self> {
        let web = Web::serving(name, 1, "http")?;
        let pod = web.lab.pod(&web.b, "odd").create()?;
        let app = pod.app(&web.lab)?;
        let (listener, _) = app.listen(anywhere(8080), "odd", Behaviour::Manual)?;
        web.lab.wait_live(&pod)?;
        web.lab.set_endpoints(&web.web, vec![Endpoint::from(&pod)])?;
        wait::until("the other endpoint to be gone", wait::DEADLINE, || {
            let services = running_agent(&web.lab, &web.a)?.ask("/services")?.to_string();
            let known = |pod: &Pod| pod.addresses().iter().any(|ip| services.contains(&ip.to_string()));
            ensure!(known(&pod) && !known(&web.servers[0].0), "{services}");
            Ok(())
        })?;
        Ok(Self { web, app, listener, _pod: pod })
    }
}

/// No way, or more than one, to tell where they end and what they are.
const MALFORMED: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 99\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhelloworld\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nX: a\rContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nX: a\r\n Content-Length: 5\r\n\r\nhello",
    "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nX Y: z\r\nContent-Length: 0\r\n\r\n",
    "hello, this is no HTTP\r\n\r\n",
];

/// What stands behind an answer, at once or a little later, is not the answer to whatever is asked next.
fn what_nobody_asked_for_reaches_nobody(odd: &Odd) -> Result<()> {
    let (web, server) = (&odd.web, &odd.app);
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    for late in [false, true] {
        let client = web.steered(1, || web.app.open(web.web.v4()))?.conn;
        web.app.say(client, "GET /first HTTP/1.1\r\nHost: a\r\n\r\n")?;
        let far = server.accept(odd.listener)?.conn;
        server.receive(far, Until::Head)?;
        let more = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nwrong!";
        if late {
            server.say(far, ok)?;
            ensure!(web.app.receive(client, Until::Head)?.text.starts_with("HTTP/1.1 200"));
            ensure!(web.app.receive(client, Until::Bytes(2))?.text == "ok");
            server.say(far, more)?;
        } else {
            server.say(far, &(ok.to_owned() + more))?;
            ensure!(web.app.receive(client, Until::Head)?.text.starts_with("HTTP/1.1 200"));
            ensure!(web.app.receive(client, Until::Bytes(2))?.text == "ok");
        }
        ensure!(server.receive(far, Until::End)?.end.is_some(), "the connection is kept");
        web.app.say(client, "GET /second HTTP/1.1\r\nHost: a\r\n\r\n")?;
        let next = server.accept(odd.listener)?.conn;
        ensure!(server.receive(next, Until::Head)?.text.starts_with("GET /second "));
        server.say(next, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright")?;
        let head = web.app.receive(client, Until::Head)?.text;
        let body = web.app.receive(client, Until::Bytes(5))?.text;
        ensure!(head.starts_with("HTTP/1.1 200") && body == "right", "{head}{body}");
        for (app, conn) in [(&web.app, client), (server, far), (server, next)] {
            app.close(conn)?;
        }
    }
    Ok(())
}

#[test]
fn malformed_responses_are_not_passed_on() -> Result<()> {
    let odd = Odd::new("malformed")?;
    let (web, server) = (&odd.web, &odd.app);
    let labels = [("request_protocol", "http1"), ("response_code", "502"), ("error", "malformed_response")];
    what_nobody_asked_for_reaches_nobody(&odd)?;
    let mut passed = Vec::new();
    for response in MALFORMED {
        let before = web.counted(&labels)?;
        let conn = web.steered(1, || web.app.open(web.web.v4()))?.conn;
        web.app.say(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
        let far = server.accept(odd.listener)?.conn;
        server.receive(far, Until::Head)?;
        server.say(far, response)?;
        server.finish(far)?;
        let said = web.app.receive(conn, Until::End)?;
        let counted = web.counted(&labels)? - before;
        let told = said.text.starts_with("HTTP/1.1 502") && said.text.contains("weft-error: malformed_response");
        if !told || counted != 1 {
            passed.push(format!("{response:?} was answered with {said:?}, counted {counted} times"));
        }
        // Nothing else is asked over such a connection.
        ensure!(server.receive(far, Until::End)?.text.is_empty(), "{response:?}: it was used again");
        web.app.close(conn)?;
        server.close(far)?;
    }
    ensure!(passed.is_empty(), "{}", passed.join("\n"));
    odd.web.lab.finish()
}
