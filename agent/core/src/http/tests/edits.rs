//! What rules do to requests and answers.

use http::header::{HOST, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::*;

fn edited(filters: &Filters, condition: &HttpMatch, mut request: Parts) -> Parts {
    filters.edit_request(condition, &mut request).unwrap();
    request
}

/// The table of Gateway API's HTTPPathModifier.
#[test]
fn a_prefix_is_replaced_by_elements() {
    for (path, matched, new, expected) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/foo/bar", "/", "/xyz", "/xyz/foo/bar"),
    ] {
        let rewrite = Rewrite { host: None, path: Some(PathEdit::Prefix(new.into())) };
        let filters = Filters { rewrite: Some(rewrite), ..Filters::default() };
        let sent = edited(&filters, &prefix(matched), request("GET", &format!("{path}?q=1"), &[]));
        assert_eq!(sent.uri.to_string(), format!("{expected}?q=1"), "{path} {matched} {new}");
    }
}

#[test]
fn a_host_is_rewritten_where_it_stands() {
    let rewrite = Rewrite { host: Some(HeaderValue::from_static("two.example")), path: None };
    let filters = Filters { rewrite: Some(rewrite), ..Filters::default() };
    let h1 = edited(&filters, &prefix("/"), request("GET", "/a", &[("host", "one.example:8080")]));
    assert_eq!((h1.headers[HOST].to_str().unwrap(), h1.uri.to_string().as_str()), ("two.example", "/a"));
    let h2 = edited(&filters, &prefix("/"), request("GET", "http://one.example/a?b", &[]));
    assert_eq!((h2.uri.to_string().as_str(), h2.headers.contains_key(HOST)), ("http://two.example/a?b", false));
}

#[test]
fn headers_are_set_then_added_then_removed() {
    let value = HeaderValue::from_static;
    let edits = HeaderEdits {
        set: vec![(HeaderName::from_static("a"), value("new"))],
        add: vec![(HeaderName::from_static("a"), value("more")), (HeaderName::from_static("b"), value("1"))],
        remove: vec![HeaderName::from_static("c")],
    };
    let mut headers = request("GET", "/", &[("a", "1"), ("a", "2"), ("c", "x"), ("d", "y")]).headers;
    edits.apply(&mut headers);
    let all = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(
        (all("a"), all("b"), all("c"), all("d")),
        (vec!["new".into(), "more".into()], vec!["1".into()], vec![], vec!["y".into()])
    );
}

#[test]
fn a_redirect_leaves_what_it_does_not_name() {
    let plain = Redirect { scheme: None, host: None, port: None, path: None, status: StatusCode::FOUND };
    let asked = request("GET", "/foo/bar?q=1", &[("host", "one.example:8080")]);
    let said = |redirect: &Redirect, port| {
        let location = redirect.location(&prefix("/foo"), &asked, port);
        location.map(|location| location.to_str().unwrap().to_owned()).unwrap()
    };
    let scheme = |scheme: &str| Some(scheme.parse().unwrap());
    assert_eq!(said(&plain, 8080), "http://one.example:8080/foo/bar?q=1");
    assert_eq!(said(&plain, 80), "http://one.example/foo/bar?q=1");
    assert_eq!(said(&Redirect { scheme: scheme("https"), ..plain.clone() }, 80), "https://one.example/foo/bar?q=1");
    let both = Redirect { scheme: scheme("https"), port: Some(8443), ..plain.clone() };
    assert_eq!(said(&both, 80), "https://one.example:8443/foo/bar?q=1");
    let host = Redirect { host: Some("two.example".into()), ..plain.clone() };
    assert_eq!(said(&host, 80), "http://two.example/foo/bar?q=1");
    let path = Redirect { path: Some(PathEdit::Prefix("/x".into())), ..plain.clone() };
    assert_eq!(said(&path, 80), "http://one.example/x/bar?q=1");
    let full = Redirect { path: Some(PathEdit::Full("/y".into())), ..plain.clone() };
    assert_eq!(said(&full, 80), "http://one.example/y?q=1");
    assert!(plain.location(&prefix("/"), &request("GET", "/", &[]), 80).is_none());
    assert_eq!(LOCATION.as_str(), "location");
}

#[test]
fn pages_of_listed_origins_are_let_in() {
    let cors = Cors {
        origins: vec![
            OriginMatch::Exact("https://a.example".into()),
            OriginMatch::Between("https://".into(), ".b.example".into()),
        ],
        methods: vec!["GET".into(), "PUT".into()],
        headers: vec!["*".into()],
        exposed: vec!["x-one".into()],
        max_age: 60,
        ..Cors::default()
    };
    let ask = |origin: &str| request("OPTIONS", "/", &[("origin", origin), ("access-control-request-method", "PUT")]);
    let answer = cors.preflight(&ask("https://x.b.example")).unwrap().0;
    assert_eq!(answer["access-control-allow-origin"], "https://x.b.example");
    assert_eq!(answer["access-control-allow-methods"], "GET, PUT");
    assert_eq!(
        (&answer["access-control-allow-headers"], &answer["access-control-max-age"]),
        (&HeaderValue::from_static("*"), &HeaderValue::from_static("60"))
    );
    let refused = cors.preflight(&ask("https://.b.example")).unwrap().0;
    assert!(!refused.contains_key("access-control-allow-origin") && refused.contains_key("vary"));
    assert!(cors.preflight(&request("GET", "/", &[("origin", "https://a.example")])).is_none());
    let mut response = HeaderMap::new();
    response.insert("access-control-allow-origin", HeaderValue::from_static("*"));
    cors.decorate(&HeaderValue::from_static("https://evil.example"), &mut response);
    assert!(!response.contains_key("access-control-allow-origin"));
    cors.decorate(&HeaderValue::from_static("https://a.example"), &mut response);
    assert_eq!(
        (&response["access-control-allow-origin"], &response["access-control-expose-headers"]),
        (&HeaderValue::from_static("https://a.example"), &HeaderValue::from_static("x-one"))
    );
}

#[test]
fn copies_are_a_fraction() {
    let backend = BackendRef { service: object("n/m"), port: 80, weight: Weight(1) };
    let mirror = Mirror { backend, fraction: (1, 4) };
    assert_eq!((0..400).filter(|random| mirror.takes(*random)).count(), 100);
    assert!((0..9).all(|random| Mirror { fraction: (1, 1), ..mirror.clone() }.takes(random)));
    assert!(!(0..9).any(|random| Mirror { fraction: (0, 1), ..mirror.clone() }.takes(random)));
}
