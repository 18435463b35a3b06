//! Heads before and after a hop.

use http::{Request, Response};

use super::*;

fn head(text: &str) -> request::Parts {
    let mut lines = text.lines();
    let mut words = lines.next().unwrap().split(' ');
    let mut request = Request::builder().method(words.next().unwrap()).uri(words.next().unwrap());
    request = request.version(match words.next().unwrap() {
        "HTTP/1.0" => Version::HTTP_10,
        "HTTP/1.1" => Version::HTTP_11,
        _ => Version::HTTP_2,
    });
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        request = request.header(name, value);
    }
    request.body(()).unwrap().into_parts().0
}

fn field<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

#[test]
fn what_concerns_the_hop_goes_no_further() {
    let mut head = head(
        "GET / HTTP/1.1\nhost: a\nconnection: close, x-one\nconnection: x-two, host\nkeep-alive: timeout=5\nx-one: 1\n\
         x-two: 2\nx-three: 3\nte: gzip, trailers\nproxy-connection: keep-alive\nupgrade: websocket\nauthorization: b",
    );
    assert_eq!(request(&mut head), Ok(false), "an upgrade that Connection does not name is none");
    let mut left: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["authorization", "host", "te", "x-three"]);
    assert_eq!(field(&head.headers, "te"), ["trailers"]);
}

#[test]
fn an_upgrade_is_carried_unless_it_is_to_http2() {
    let mut websocket = head("GET / HTTP/1.1\nhost: a\nconnection: Upgrade, x\nupgrade: websocket\nx: y");
    assert_eq!(request(&mut websocket), Ok(true));
    assert_eq!(field(&websocket.headers, "connection"), ["upgrade"]);
    assert_eq!(field(&websocket.headers, "upgrade"), ["websocket"]);
    assert!(!websocket.headers.contains_key("x"));
    for to in ["h2c", "foo, h2c", "H2C"] {
        let text =
            format!("GET / HTTP/1.1\nhost: a\nconnection: upgrade, http2-settings\nupgrade: {to}\nhttp2-settings: AA");
        let mut smuggled = head(&text);
        assert_eq!(request(&mut smuggled), Ok(false), "{to}");
        assert_eq!(smuggled.headers.len(), 1, "{:?}", smuggled.headers);
    }
    let mut old = head("GET / HTTP/1.0\nconnection: upgrade\nupgrade: websocket");
    assert_eq!(request(&mut old), Ok(false));
    assert_eq!(request(&mut head("CONNECT a:1 HTTP/1.1\nhost: a:1")), Ok(true));
}

#[test]
fn what_http2_can_say_is_said_in_it() {
    let raised = |text: &str| {
        let mut head = head(text);
        super::request(&mut head).unwrap();
        let mut request = Request::from_parts(head, ());
        let said = raise(&mut request);
        (said, request)
    };
    let (said, request) =
        raised("POST /a?b HTTP/1.1\nhost: c:1\ntransfer-encoding: chunked\nexpect: 100-continue\nd: e");
    assert!(said && request.version() == Version::HTTP_2);
    assert_eq!(request.uri(), "http://c:1/a?b");
    assert_eq!(request.headers().keys().collect::<Vec<_>>(), ["d"]);
    let (said, request) = raised("GET http://other/x HTTP/1.1\nhost: other");
    assert!(said && request.uri() == "http://other/x");
    for kept in [
        "GET / HTTP/1.0",
        "OPTIONS * HTTP/1.1\nhost: a",
        "CONNECT a:1 HTTP/1.1\nhost: a:1",
        "GET / HTTP/1.1\nhost: a\nconnection: upgrade\nupgrade: websocket",
    ] {
        let (said, request) = raised(kept);
        assert!(!said && request.version() != Version::HTTP_2 && request.uri().scheme().is_none(), "{kept}");
    }
}

#[test]
fn a_length_that_can_be_read_in_two_ways_is_refused() {
    for (fields, refused) in [
        ("content-length: 5", None),
        ("transfer-encoding: chunked", None),
        ("transfer-encoding: Chunked", None),
        ("content-length: 5\ntransfer-encoding: chunked", Some(BadRequest::Framing)),
        ("content-length: 5\ncontent-length: 5", Some(BadRequest::Framing)),
        ("transfer-encoding: chunked\ntransfer-encoding: chunked", Some(BadRequest::Framing)),
        ("transfer-encoding: gzip, chunked", Some(BadRequest::TransferCoding)),
        ("transfer-encoding: identity", Some(BadRequest::TransferCoding)),
    ] {
        let judged = request(&mut head(&format!("POST / HTTP/1.1\nhost: a\n{fields}")));
        assert_eq!(judged.err(), refused, "{fields}");
    }
}

#[test]
fn one_host_and_the_targets_own() {
    assert_eq!(request(&mut head("GET / HTTP/1.1")), Err(BadRequest::Host));
    assert_eq!(request(&mut head("GET / HTTP/1.1\nhost: a\nhost: b")), Err(BadRequest::Host));
    assert_eq!(request(&mut head("GET / HTTP/1.0")), Ok(false), "HTTP/1.0 had none");
    let mut absolute = head("GET http://right/x HTTP/1.1\nhost: wrong");
    assert_eq!(request(&mut absolute), Ok(false));
    assert_eq!(field(&absolute.headers, "host"), ["right"]);
    assert_eq!(absolute.uri, "http://right/x", "the form of the target is the server's to read");
    let mut http2 = head("GET /x HTTP/2\nhost: right");
    assert_eq!(request(&mut http2), Ok(false));
    assert_eq!(http2.uri, "http://right/x");
    assert_eq!(request(&mut head("GET /x HTTP/2")), Err(BadRequest::Authority));
}

#[test]
fn responses_lose_their_hop_and_keep_an_upgrade() {
    let response_of = |status: u16, fields: &[(&str, &str)]| {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        let mut head = response.body(()).unwrap().into_parts().0;
        response_fit(&mut head);
        head.headers
    };
    let plain =
        response_of(200, &[("connection", "close, x"), ("x", "1"), ("transfer-encoding", "chunked"), ("y", "2")]);
    assert_eq!(plain.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["y"]);
    let switched = response_of(101, &[("connection", "Upgrade"), ("upgrade", "websocket")]);
    assert_eq!((field(&switched, "connection"), field(&switched, "upgrade")), (vec!["upgrade"], vec!["websocket"]));
}

fn response_fit(head: &mut response::Parts) {
    super::response(head).unwrap();
}

#[test]
fn a_response_without_one_length_is_refused() {
    for fields in [
        &[("content-length", "5"), ("transfer-encoding", "chunked")][..],
        &[("content-length", "5"), ("content-length", "5")],
        &[("transfer-encoding", "gzip, chunked")],
        &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
    ] {
        let response =
            fields.iter().fold(Response::builder(), |response, (name, value)| response.header(*name, *value));
        assert!(super::response(&mut response.body(()).unwrap().into_parts().0).is_err(), "{fields:?}");
    }
}
