//! Requests against rules; the order of precedence against one worked out from its definition.

mod edits;

use std::cmp::Ordering;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderName, Method, Request};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::model::{BackendRef, ParentRef, Weight};
use crate::snapshot::{Attachment, BranchFault, Delta, Resource, Snapshot};
use crate::testing::{domain, name, object, service};

fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let builder = Request::builder().method(method).uri(uri);
    let builder = headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
    builder.body(()).unwrap().into_parts().0
}

fn exact(path: &str) -> HttpMatch {
    HttpMatch { path: PathMatch::Exact(path.into()), ..HttpMatch::default() }
}

fn prefix(path: &str) -> HttpMatch {
    HttpMatch { path: PathMatch::Prefix(path.trim_end_matches('/').into()), ..HttpMatch::default() }
}

fn to(service: &str, weight: u32) -> HttpBackend {
    let backend = BackendRef { service: object(service), port: 80, weight: Weight(weight) };
    HttpBackend { backend, filters: Filters::default() }
}

fn rule(matches: &[HttpMatch], backends: &[HttpBackend]) -> Arc<HttpRule> {
    Arc::new(HttpRule { matches: matches.to_vec(), backends: backends.to_vec(), ..HttpRule::default() })
}

fn route(kind: HttpKind, named: &str, parent: &str, rules: &[Arc<HttpRule>]) -> HttpRoute {
    let parents = vec![ParentRef::whole(object(parent))];
    HttpRoute { id: HttpRouteId { kind, name: object(named) }, parents, rules: rules.to_vec(), created: 0 }
}

fn router(routes: &[HttpRoute]) -> HttpRouter {
    let routes: Vec<_> = routes.iter().cloned().map(Arc::new).collect();
    HttpRouter::new(routes.iter(), |_, _| None, |_, _| None, |_| None)
}

/// `route/rule` that takes the request.
fn taken(router: &HttpRouter, request: &Parts) -> Option<(String, usize)> {
    router.find(request).map(|chosen| (chosen.routed.id.0.name.to_string(), chosen.routed.id.1))
}

#[test]
fn prefixes_end_at_elements() {
    for (written, path, fits) in [
        ("/", "/", true),
        ("/", "/any/thing", true),
        ("/", "*", true),
        ("/abc", "/abc", true),
        ("/abc", "/abc/", true),
        ("/abc/", "/abc", true),
        ("/abc", "/abc/def", true),
        ("/abc", "/abcdef", false),
        ("/abc", "/ab", false),
        ("/abc/def", "/abc/", false),
    ] {
        assert_eq!(prefix(written).path.fits(path), fits, "{written} {path}");
    }
}

#[test]
fn a_grpc_call_is_a_service_and_a_method() {
    let text = |text: &str| Some(TextMatch::Exact(text.into()));
    let call = |service, method| PathMatch::Grpc { service, method };
    assert!(call(text("a.B"), text("C")).fits("/a.B/C"));
    assert!(call(text("a.B"), None).fits("/a.B/D"));
    assert!(call(None, text("C")).fits("/x.Y/C"));
    assert!(!call(text("a.B"), text("C")).fits("/a.B/D"));
    assert!(!call(None, None).fits("nothing"));
    let like = |pattern| Some(TextMatch::Regex(Pattern::new(pattern).unwrap()));
    assert!(call(like("a\\..*"), None).fits("/a.B/D") && !call(like("a"), None).fits("/a.B/D"));
}

#[test]
fn headers_come_in_lines_and_parameters_are_decoded() {
    let header = |value: &str| HttpMatch {
        headers: vec![HeaderMatch { name: HeaderName::from_static("v"), value: TextMatch::Exact(value.into()) }],
        ..HttpMatch::default()
    };
    assert!(header("one").fits(&request("GET", "/", &[("V", "one")])));
    assert!(!header("one").fits(&request("GET", "/", &[("v", "One")])));
    assert!(header("one,two").fits(&request("GET", "/", &[("v", "one"), ("v", "two")])));
    assert!(!header("one").fits(&request("GET", "/", &[("v", "one"), ("v", "two")])));
    let query = |value: &str| HttpMatch {
        query: vec![QueryMatch { name: "q".into(), value: TextMatch::Exact(value.into()) }],
        ..HttpMatch::default()
    };
    assert!(query("a b").fits(&request("GET", "/?x=1&q=a%20b&q=c", &[])));
    assert!(!query("c").fits(&request("GET", "/?x=1&q=a+b&q=c", &[])));
    assert!(query("").fits(&request("GET", "/?q", &[])) && !query("").fits(&request("GET", "/", &[])));
}

#[test]
fn expressions_are_held_against_the_whole_and_bounded() {
    let pattern = Pattern::new("a|b").unwrap();
    assert!(pattern.fits("b") && !pattern.fits("ab") && !pattern.fits("xa"));
    for none in ["(", "a)|(?:b"] {
        assert!(Pattern::new(none).unwrap_err().contains("is not a regular expression"), "{none}");
    }
    assert!(Pattern::new(r"\w{1000}{100}").unwrap_err().contains("bytes when compiled"));
}

#[test]
fn the_older_route_then_the_smaller_name_then_the_earlier_rule() {
    let both = [rule(&[prefix("/")], &[]), rule(&[prefix("/")], &[])];
    let (mut a, mut b) = (route(HttpKind::Http, "n/a", "n/s", &both), route(HttpKind::Http, "n/b", "n/s", &both));
    (a.created, b.created) = (2, 1);
    let any = request("GET", "/x", &[]);
    assert_eq!(taken(&router(&[a.clone(), b.clone()]), &any), Some(("n/b".into(), 0)));
    a.created = 1;
    assert_eq!(taken(&router(&[b, a]), &any), Some(("n/a".into(), 0)));
}

#[test]
fn nobody_takes_what_no_rule_fits() {
    let router = router(&[route(HttpKind::Http, "n/a", "n/s", &[rule(&[exact("/only")], &[])])]);
    assert_eq!(taken(&router, &request("GET", "/only", &[])), Some(("n/a".into(), 0)));
    assert_eq!(taken(&router, &request("GET", "/only/", &[])), None);
}

#[test]
fn what_is_understood_in_part_takes_what_no_rule_asks_for_as_closely() {
    let unclear = |condition: HttpMatch| HttpMatch { unclear: true, ..condition };
    let lost = rule(&[unclear(prefix("/")), unclear(prefix("/admin"))], &[]);
    let taken = |rules: &[Arc<HttpRule>], path: &str| {
        let router = router(&[route(HttpKind::Http, "n/a", "n/s", rules)]);
        taken(&router, &request("GET", path, &[])).map(|(_, rule)| rule)
    };
    assert_eq!(taken(std::slice::from_ref(&lost), "/x"), Some(0));
    let all = [lost, rule(&[prefix("/")], &[]), rule(&[exact("/admin/health")], &[])];
    assert_eq!(["/", "/x", "/admin", "/admin/health"].map(|path| taken(&all, path)), [1, 1, 0, 2].map(Some));
}

#[test]
fn shares_are_those_of_the_weights_and_a_missing_backend_keeps_its_own() {
    let shares = [to("n/a", 3), to("n/none", 1), to("n/b", 0), to("n/c", 4)];
    let wrong = [Arc::new(route(HttpKind::Http, "n/r", "n/s", &[rule(&[prefix("/")], &shares)]))];
    let missing =
        |_: &HttpRoute, backend: &BackendRef| (backend.service == object("n/none")).then_some(BranchFault::NoService);
    let router = HttpRouter::new(wrong.iter(), missing, |_, _| None, |_| None);
    let chosen = router.find(&request("GET", "/", &[])).unwrap();
    let mut seen = std::collections::BTreeMap::<String, u32>::new();
    for step in 0..8_000_u64 {
        let random = step * (u64::MAX / 8_000);
        let to = match chosen.routed.target(random) {
            Ok(target) => target.backend.service.to_string(),
            Err(refusal) => refusal.label().to_owned(),
        };
        *seen.entry(to).or_default() += 1;
    }
    let near = |key: &str, wanted: u32| seen.get(key).is_some_and(|got| got.abs_diff(wanted) <= 2);
    assert!(near("n/a", 3_000) && near("backend_missing", 1_000) && near("n/c", 4_000) && seen.len() == 3, "{seen:?}");
    let none = super::router::HttpRouter::new(
        [Arc::new(route(HttpKind::Http, "n/r", "n/s", &[rule(&[prefix("/")], &[to("n/a", 0)])]))].iter(),
        |_, _| None,
        |_, _| None,
        |_| None,
    );
    let refusal = none.find(&request("GET", "/", &[])).unwrap().routed.target(7).unwrap_err();
    assert_eq!(refusal.label(), "all_weights_zero");
}

fn known(routes: &[HttpRoute]) -> Snapshot {
    let services = ["n/s", "n/v1", "m/v2"].map(|named| Delta::Put(Resource::Service(service(named, "10.96.0.1", 80))));
    let routes = routes.iter().cloned().map(|route| Delta::Put(Resource::HttpRoute(route)));
    Snapshot::new(domain()).apply(services.into_iter().chain(routes))
}

#[test]
fn a_consumer_decides_for_its_own_clients_and_the_producer_for_all_others() {
    let any = [rule(&[prefix("/")], &[to("n/v1", 1)])];
    let producer = route(HttpKind::Http, "n/p", "n/s", &any);
    let consumer = route(HttpKind::Http, "c/c", "n/s", &any);
    let all = known(&[producer.clone(), consumer.clone()]);
    let of = |snapshot: &Snapshot, client: &str| {
        let routes = snapshot.http_routes(&object("n/s"), 80)?;
        taken(routes.for_client(&name(client))?, &request("GET", "/", &[])).map(|(route, _)| route)
    };
    assert_eq!(
        (of(&all, "c"), of(&all, "n"), of(&all, "d")),
        (Some("c/c".into()), Some("n/p".into()), Some("n/p".into()))
    );
    let only = known(std::slice::from_ref(&consumer));
    assert_eq!((of(&only, "c"), of(&only, "n")), (Some("c/c".into()), None));
    assert_eq!(all.http_attachments(&consumer), [Attachment::Accepted]);
    let gone = all.apply([Delta::Remove(crate::snapshot::Key::HttpRoute(producer.id.clone()))]);
    assert_eq!(gone, only);
    assert!(of(&gone.apply([Delta::Remove(crate::snapshot::Key::HttpRoute(consumer.id))]), "c").is_none());
}

#[test]
fn calls_before_requests_and_grants_by_kind() {
    let any = [rule(&[prefix("/")], &[to("m/v2", 1)])];
    let http = route(HttpKind::Http, "n/h", "n/s", &any);
    let grpc = route(HttpKind::Grpc, "n/g", "n/s", &any);
    let both = known(&[http.clone(), grpc.clone()]);
    assert_eq!(both.http_attachments(&http), [Attachment::Superseded(object("n/g"))]);
    assert_eq!(both.http_attachments(&grpc), [Attachment::Accepted]);
    let refusal = |snapshot: &Snapshot| {
        let routes = snapshot.http_routes(&object("n/s"), 80).unwrap();
        let router = routes.for_client(&name("n")).unwrap();
        router.find(&request("POST", "/a/b", &[])).unwrap().routed.target(0).err().map(|refusal| refusal.label())
    };
    assert_eq!(refusal(&both), Some("backend_not_granted"));
    let grant = |kind| {
        let from = vec![(kind, name("n"))];
        Delta::Put(Resource::ReferenceGrant(crate::model::ReferenceGrant { name: object("m/g"), from, to: vec![] }))
    };
    use crate::model::GrantKind;
    assert_eq!(refusal(&both.apply([grant(GrantKind::Http)])), Some("backend_not_granted"));
    assert_eq!(refusal(&both.apply([grant(GrantKind::Grpc)])), None);
    let without = both.apply([Delta::Remove(crate::snapshot::Key::Service(object("m/v2")))]);
    assert_eq!(refusal(&without.apply([grant(GrantKind::Grpc)])), Some("backend_missing"));
}

fn conditions() -> impl Strategy<Value = HttpMatch> {
    const PATHS: [&str; 6] = ["/", "/a", "/a/", "/a/b", "/ab", "/c"];
    let path = prop_oneof![
        select(&PATHS[..]).prop_map(|path| PathMatch::Exact(path.into())),
        select(&PATHS[..]).prop_map(|path| PathMatch::Prefix(path.trim_end_matches('/').into())),
        select(&["/a.*", "/[ab]+", ".*"][..]).prop_map(|pattern| PathMatch::Regex(Pattern::new(pattern).unwrap())),
    ];
    let method = option::of(select(&[Method::GET, Method::PUT][..]));
    let pair = || (select(&["k", "l"][..]), select(&["1", "2"][..]));
    let headers = option::of(pair()).prop_map(|pair| {
        let header = |(name, value): (&'static str, &str)| HeaderMatch {
            name: HeaderName::from_static(name),
            value: TextMatch::Exact(value.into()),
        };
        pair.map(header).into_iter().collect()
    });
    let query = option::of(pair()).prop_map(|pair| {
        let parameter =
            |(name, value): (&str, &str)| QueryMatch { name: name.into(), value: TextMatch::Exact(value.into()) };
        pair.map(parameter).into_iter().collect()
    });
    (path, method, headers, query, any::<bool>()).prop_map(|(path, method, headers, query, unclear)| HttpMatch {
        path,
        method,
        headers,
        query,
        unclear,
    })
}

fn requests() -> impl Strategy<Value = Parts> {
    let path = select(&["/", "/a", "/a/b", "/ab", "/a/", "/abb", "/c/d"][..]);
    let pair = || option::of((select(&["k", "l"][..]), select(&["1", "2"][..])));
    (select(&["GET", "PUT"][..]), path, pair(), pair()).prop_map(|(method, path, header, query)| {
        let query = query.map(|(k, v)| format!("?{k}={v}")).unwrap_or_default();
        request(method, &format!("{path}{query}"), header.as_slice())
    })
}

/// Gateway API's criteria one after the other, as its text has them.
fn precedence(a: &HttpMatch, b: &HttpMatch) -> Ordering {
    let is_exact = |m: &HttpMatch| matches!(m.path, PathMatch::Exact(_));
    let is_regex = |m: &HttpMatch| matches!(m.path, PathMatch::Regex(_));
    let length = |m: &HttpMatch| match &m.path {
        PathMatch::Prefix(text) | PathMatch::Exact(text) => text.len(),
        PathMatch::Regex(pattern) => pattern.text().len(),
        PathMatch::Grpc { .. } => 0,
    };
    (is_exact(b).cmp(&is_exact(a)))
        .then(is_regex(b).cmp(&is_regex(a)))
        .then(length(b).cmp(&length(a)))
        .then(b.method.is_some().cmp(&a.method.is_some()))
        .then(b.headers.len().cmp(&a.headers.len()))
        .then(b.query.len().cmp(&a.query.len()))
        .then(a.unclear.cmp(&b.unclear))
}

proptest! {
    #[test]
    fn the_router_finds_what_the_definition_says(
        rules in vec((vec(conditions(), 1..3), 0..3_i64, 0..3_usize), 1..8),
        request in requests(),
    ) {
        let names = ["n/a", "n/b", "m/a"];
        let routes: Vec<HttpRoute> = names.iter().enumerate().map(|(at, named)| {
            let own = rules.iter().filter(|(.., of)| *of == at);
            let own: Vec<_> = own.map(|(matches, ..)| rule(matches, &[])).collect();
            let created = rules.iter().find(|(.., of)| *of == at).map_or(0, |(_, created, _)| *created);
            HttpRoute { created, ..route(HttpKind::Http, named, "n/s", &own) }
        }).collect();
        let mut all: Vec<(&HttpRoute, usize, &HttpMatch)> = Vec::new();
        for route in &routes {
            for (index, rule) in route.rules.iter().enumerate() {
                all.extend(rule.matches.iter().map(|condition| (route, index, condition)));
            }
        }
        let fitting = all.into_iter().filter(|(.., condition)| condition.fits(&request));
        let best = fitting.min_by(|(r1, i1, c1), (r2, i2, c2)| {
            precedence(c1, c2)
                .then(r1.created.cmp(&r2.created))
                .then(r1.id.name.to_string().cmp(&r2.id.name.to_string()))
                .then(i1.cmp(i2))
        });
        let expected = best.map(|(route, index, _)| (route.id.name.to_string(), index));
        prop_assert_eq!(taken(&router(&routes), &request), expected);
    }
}
