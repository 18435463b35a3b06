//! HTTPRoutes and GRPCRoutes.

use std::time::Duration;

use serde_json::Value;
use weft_core::model::{Carrier, HttpKind, HttpMatch, HttpRoute, PathEdit, PathMatch, TextMatch};

use super::super::{grpc_route, http_route};
use super::{PARENT, convert, good};

pub(super) fn http(spec: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r, namespace: shop, \
         creationTimestamp: '2026-01-02T03:04:05Z'}}, spec: {{{PARENT}, {spec}}}}}"
    )
}

fn well(spec: &str) -> HttpRoute {
    good::<Value, _>(&http(spec), http_route::convert)
}

fn path(text: &str) -> HttpMatch {
    HttpMatch { path: PathMatch::Prefix(text.into()), ..HttpMatch::default() }
}

#[test]
fn a_rule_without_matches_takes_everything() {
    let route = well("rules: [{name: all, backendRefs: [{name: v1, port: 80, weight: 3}]}]");
    assert_eq!((route.id.kind, route.created), (HttpKind::Http, 1_767_323_045));
    assert_eq!(route.rules[0].matches, [path("")]);
    assert_eq!((route.rules[0].name.as_deref(), route.rules[0].backends[0].backend.weight.0), (Some("all"), 3));
}

#[test]
fn conditions_are_read() {
    let spec = "rules: [{matches: [{path: {type: PathPrefix, value: /a/}, method: GET, \
                headers: [{name: V, value: one}, {name: v, value: two}], \
                queryParams: [{name: q, type: RegularExpression, value: 'x+'}]}, \
                {path: {type: Exact, value: /b/}}, {path: {type: RegularExpression, value: '/c.*'}}]}]";
    let route = well(spec);
    let [first, second, third] = &route.rules[0].matches[..] else { panic!("{route:?}") };
    assert_eq!((&first.path, first.method.as_ref().unwrap().as_str()), (&path("/a").path, "GET"));
    // Of entries with one name the first counts.
    assert_eq!((first.headers.len(), &first.headers[0].value), (1, &TextMatch::Exact("one".into())));
    assert!(first.query[0].value.fits("xx") && !first.query[0].value.fits("y"));
    assert_eq!(second.path, PathMatch::Exact("/b/".into()));
    assert!(third.path.fits("/cd") && !third.path.fits("/d/c"));
}

#[test]
fn filters_limits_and_retries_are_read() {
    let spec = "rules: [{filters: [\
                {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: A, value: b}], remove: [c]}}, \
                {type: URLRewrite, urlRewrite: {hostname: two.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}, \
                {type: RequestMirror, requestMirror: {backendRef: {name: m, port: 81}, fraction: {numerator: 1, denominator: 3}}}, \
                {type: RequestMirror, requestMirror: {backendRef: {name: n, port: 82}, percent: 20}}], \
                timeouts: {request: 10s, backendRequest: 1m30s}, retry: {attempts: 2, codes: [503], backoff: 100ms}, \
                backendRefs: [{name: v1, port: 80, filters: [{type: ResponseHeaderModifier, \
                responseHeaderModifier: {add: [{name: d, value: e}]}}]}]}]";
    let (route, errors, warnings) = convert::<Value, _>(&http(spec), http_route::convert);
    assert_eq!((errors, warnings), (vec!["spec.rules[0].timeouts.backendRequest".to_owned()], vec![]));
    let route: HttpRoute = route.unwrap();
    let rule = &route.rules[0];
    assert!(rule.unsupported.as_deref().unwrap().contains("longer than the request's"));
    assert_eq!(rule.filters.request_headers.set[0].0, "a");
    let rewrite = rule.filters.rewrite.as_ref().unwrap();
    assert_eq!(
        (rewrite.host.as_ref().unwrap(), rewrite.path.as_ref()),
        (&"two.example".parse().unwrap(), Some(&PathEdit::Prefix("/x".into())))
    );
    let fractions: Vec<_> = rule.filters.mirrors.iter().map(|mirror| mirror.fraction).collect();
    assert_eq!(fractions, [(1, 3), (20, 100)]);
    assert_eq!(rule.retry.as_ref().map(|retry| (retry.attempts, retry.statuses[0].as_u16())), Some((2, 503)));
    assert_eq!(rule.backends[0].filters.response_headers.add[0].0, "d");
    assert_eq!(route.backends().map(|backend| backend.port).collect::<Vec<_>>(), [80, 81, 82]);
}

/// Every rule that asks for what is not there is kept, and refuses.
#[test]
fn what_cannot_be_done_refuses_its_own_requests_only() {
    for (rule, said) in [
        ("sessionPersistence: {sessionName: 'a b'}", "is not a name for a cookie"),
        ("sessionPersistence: {idleTimeout: 0s}", "must be longer than nothing"),
        ("sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}", "has to say how long"),
        (
            "sessionPersistence: {type: Header, cookieConfig: {lifetimeType: Session}}",
            "is for sessions of the type Cookie",
        ),
        ("filters: [{type: ExtensionRef, extensionRef: {group: g, kind: K, name: n}}]", "filters[0]: is not supported"),
        ("filters: [{type: RequestRedirect}]", "does not say what its type says"),
        ("filters: [{type: RequestRedirect, requestRedirect: {statusCode: 305}}]", "305 redirects nobody"),
        (
            "backendRefs: [{name: a, port: 1, filters: [{type: URLRewrite, urlRewrite: {hostname: h}}]}]",
            "in rules only",
        ),
        ("timeouts: {request: 1 day}", "is not a duration"),
        ("retry: {codes: [200]}", "200 is not the status of a failure"),
        (
            "matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, \
             urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]",
            "not all of the rule's matches are by prefix",
        ),
    ] {
        let spec = format!("rules: [{{{rule}}}, {{backendRefs: [{{name: v1, port: 80}}]}}]");
        let (route, errors, warnings) = convert::<Value, _>(&http(&spec), http_route::convert);
        let route: HttpRoute = route.unwrap();
        let unsupported = route.rules[0].unsupported.as_deref().unwrap_or_default();
        assert!(unsupported.contains(said), "{rule}: {unsupported}");
        assert!(!errors.is_empty() && warnings.is_empty() && route.rules[1].unsupported.is_none(), "{rule}");
    }
}

#[test]
fn sessions_are_read_and_those_without_a_name_get_one_of_their_own() {
    let spec = "rules: [{sessionPersistence: {sessionName: cart, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}}, \
                {sessionPersistence: {type: Header, sessionName: X-Cart, idleTimeout: 5m}}, {sessionPersistence: {}}, \
                {name: named, sessionPersistence: {}}]";
    let route: HttpRoute = good::<Value, _>(&http(spec), http_route::convert);
    let read: Vec<_> = route.rules.iter().map(|rule| rule.session.clone().unwrap()).collect();
    assert_eq!((&*read[0].name, &read[0].carrier), ("cart", &Carrier::Cookie { permanent: true }));
    assert_eq!((read[0].absolute, read[0].idle), (Some(Duration::from_secs(3600)), None));
    assert_eq!(read[1].carrier, Carrier::Header("x-cart".parse().unwrap()));
    assert_eq!(read[1].idle, Some(Duration::from_secs(300)));
    assert!(read[2].name.starts_with("weft-session-") && read[2].carrier == Carrier::Cookie { permanent: false });
    assert_ne!(read[2].name, read[3].name);
}

#[test]
fn a_backend_of_another_kind_costs_its_share_only() {
    let spec = "rules: [{backendRefs: [{name: v1, port: 80, weight: 3}, {name: b, kind: Bucket, group: s3.example, weight: 2}]}]";
    let (route, errors, warnings) = convert::<Value, _>(&http(spec), http_route::convert);
    let route: HttpRoute = route.unwrap();
    assert_eq!((errors, warnings), (vec![], vec!["spec.rules[0].backendRefs[1].kind".to_owned()]));
    let rule = &route.rules[0];
    assert_eq!((rule.backends.len(), rule.foreign[0].weight.0, rule.unsupported.as_ref()), (1, 2, None));
}

#[test]
fn calls_are_read() {
    let text = format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {{name: r, namespace: shop}}, spec: {{{PARENT}, \
         rules: [{{matches: [{{method: {{service: a.B, method: C}}, headers: [{{name: v, value: '1'}}]}}, \
         {{method: {{type: RegularExpression, service: 'a[.].*'}}}}], backendRefs: [{{name: v1, port: 80}}]}}, \
         {{filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{add: [{{name: x, value: y}}]}}}}]}}]}}}}"
    );
    let route: HttpRoute = good::<Value, _>(&text, grpc_route::convert);
    let [first, second] = &route.rules[0].matches[..] else { panic!("{route:?}") };
    assert!(first.path.fits("/a.B/C") && !first.path.fits("/a.B/D") && first.headers.len() == 1);
    assert!(second.path.fits("/a.X/Any") && !second.path.fits("/b.X/Any"));
    assert_eq!(route.rules[1].filters.request_headers.add.len(), 1);
    assert_eq!((route.id.kind, route.rules[0].backends.len()), (HttpKind::Grpc, 1));
}
