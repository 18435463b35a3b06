//! Routes of which something is not understood: what of them refuses, and what goes on.

use serde_json::Value;
use weft_core::model::{HttpMatch, HttpRoute, HttpRule, PathMatch, TextMatch};

use super::super::{Finding, Findings, grpc_route, http_route};
use super::http::http;
use super::{PARENT, read};

fn read_http(spec: &str) -> (Option<HttpRoute>, Vec<Finding>, bool) {
    let mut findings = Findings::default();
    let route = http_route::convert(&read(&http(spec)), &mut findings);
    let valid = !findings.invalid();
    (route, findings.into_vec(), valid)
}

fn grpc(matches: &str) -> (HttpRoute, bool) {
    let spec = format!("{PARENT}, rules: [{{matches: [{matches}]}}, {{backendRefs: [{{name: v1, port: 80}}]}}]");
    let text = format!("{{kind: GRPCRoute, metadata: {{name: r, namespace: shop}}, spec: {{{spec}}}}}");
    let mut findings = Findings::default();
    let route = grpc_route::convert(&read(&text), &mut findings);
    (route.unwrap(), !findings.invalid())
}

/// The rule of these fields, beside one that is well.
fn beside(rule: &str) -> HttpRule {
    let (route, findings, valid) =
        read_http(&format!("rules: [{{{rule}}}, {{backendRefs: [{{name: v1, port: 80}}]}}]"));
    let route = route.unwrap();
    assert!(valid && findings.iter().all(|finding| finding.of_rule), "{rule}: {findings:?}");
    assert!(route.rules[1].unsupported.is_none() && route.rules[1].backends.len() == 1, "{rule}");
    HttpRule::clone(&route.rules[0])
}

#[test]
fn what_is_left_of_a_condition_says_whose_requests_are_refused() {
    let prefix = |text: &str| PathMatch::Prefix(text.into());
    for (condition, path, said) in [
        ("path: {type: RegularExpression, value: '/(?!admin).*'}", prefix(""), "matches[0].path.value: "),
        ("path: {type: RegularExpression, value: '('}", prefix(""), "is not a regular expression"),
        ("path: {value: a}", prefix(""), "begin it with a slash"),
        ("path: {type: Glob, value: '/*'}", prefix(""), "matches[0].path: unknown variant"),
        ("path: {value: /a}, header: []", prefix("/a"), "matches[0].header: is no field"),
        ("path: {value: /a}, headers: [{name: 'a b', value: c}]", prefix("/a"), "matches[0].headers[0].name"),
        ("path: {value: /a}, headers: [{name: v, type: Semver, value: '1'}]", prefix("/a"), "matches[0].headers[0]: "),
        ("path: {value: /a}, headers: [{name: v, value: 1}]", prefix("/a"), "matches[0].headers[0]: "),
        (
            "path: {value: /a}, headers: [{name: v, value: '1', invert: true}]",
            prefix("/a"),
            "headers[0].invert: is no field",
        ),
        ("path: {value: /a}, method: QUERY", prefix("/a"), "matches[0].method: unknown variant"),
        (
            "path: {value: /a}, queryParams: [{name: q, type: RegularExpression, value: '(?=a)'}]",
            prefix("/a"),
            "queryParams[0].value",
        ),
    ] {
        let rule = beside(&format!("matches: [{{{condition}}}, {{path: {{value: /well}}}}]"));
        let unsupported = rule.unsupported.as_deref().unwrap_or_default();
        assert!(unsupported.contains(said), "{condition}: {unsupported}");
        let [unclear, well] = &rule.matches[..] else { panic!("{rule:?}") };
        assert_eq!((&unclear.path, unclear.unclear), (&path, true), "{condition}");
        // The rule refuses what is understood of it too.
        assert_eq!((&well.path, well.unclear), (&prefix("/well"), false), "{condition}");
    }
}

#[test]
fn what_else_of_a_rule_is_not_known_refuses_its_requests() {
    for (rule, said) in [
        ("filters: [{type: Teleport}]", "filters[0]: unknown variant"),
        (
            "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {unset: [a]}}]",
            "requestHeaderModifier.unset: is no field",
        ),
        ("backendRefs: [{name: a, port: 1, filters: [{type: Teleport}]}]", "backendRefs[0]: unknown variant"),
        ("timeout: {request: 1s}", "rules[0].timeout: is no field"),
        ("retry: {attempts: many}", "rules[0].retry: invalid type"),
    ] {
        let rule = beside(rule);
        let unsupported = rule.unsupported.as_deref().unwrap_or_default();
        assert!(unsupported.contains(said), "{rule:?}: {unsupported}");
        assert_eq!(rule.matches, [HttpMatch::default()], "whose requests those are is well known");
    }
    for rule in ["matches: 7", "matches: {path: {value: /a}}"] {
        assert!(beside(rule).matches[0].unclear && beside(rule).unsupported.is_some(), "{rule}");
    }
}

#[test]
fn calls_that_cannot_be_told_are_refused_as_far_as_they_can() {
    let text = |text: &str| Some(TextMatch::Exact(text.into()));
    for (condition, service) in [
        ("{method: {}}", None),
        ("{method: {service: a.B, verb: C}}", text("a.B")),
        ("{method: {type: Glob, service: a.B}}", None),
        ("{method: {service: a.B}, headers: [{name: v, type: RegularExpression, value: '(?!a)'}]}", text("a.B")),
    ] {
        let (route, valid) = grpc(condition);
        let rule = &route.rules[0];
        assert!(valid && rule.unsupported.is_some() && route.rules[1].unsupported.is_none(), "{condition}");
        assert_eq!(rule.matches[0].path, PathMatch::Grpc { service, method: None }, "{condition}");
        assert!(rule.matches[0].unclear, "{condition}");
    }
}

#[test]
fn a_route_that_is_wrong_as_a_whole_refuses_all_that_is_its_parents() {
    let rules = "rules: [{matches: [{path: {value: /a}}], backendRefs: [{name: v1, port: 80}]}]";
    let service = "{group: '', kind: Service, name: echo";
    for (spec, port, count) in [
        (format!("parentRefs: [{service}, port: http}}], {rules}"), None, 2),
        (format!("parentRefs: [{service}, port: 70000}}], {rules}"), None, 2),
        (format!("parentRefs: [{service}, port: 80, sectionName: [web]}}], {rules}"), Some(80), 2),
        (format!("parentRefs: [{service}, port: 80, only: v4}}], {rules}"), Some(80), 2),
        (format!("{PARENT}, rules: {{}}"), Some(80), 1),
    ] {
        let text = http("").replace(&format!("{PARENT}, "), &spec);
        let mut findings = Findings::default();
        let route = http_route::convert(&read(&text), &mut findings).unwrap();
        assert!(findings.invalid(), "{spec}");
        assert_eq!((route.parents[0].port, route.rules.len()), (port, count), "{spec}");
        assert!(route.rules.iter().all(|rule| rule.unsupported.is_some()), "{spec}");
        let last = &route.rules[count - 1].matches;
        assert_eq!(*last, [HttpMatch { unclear: true, ..HttpMatch::default() }], "{spec}");
    }
}

#[test]
fn what_says_nothing_about_requests_is_passed_over_and_told() {
    let (route, findings, valid) = read_http("hostname: a.example, rules: []");
    assert!(route.is_some() && valid);
    assert!(findings[0].warning && findings[0].to_string().starts_with("spec.hostname: is no field"), "{findings:?}");
    // Another controller's parents are its own affair, however they are written.
    let gateway: Value = read("{metadata: {name: r}, spec: {parentRefs: [{name: gw, port: http, new: 1}], rules: 7}}");
    let mut findings = Findings::default();
    assert_eq!(http_route::convert(&gateway, &mut findings), None);
    assert!(!findings.invalid());
}
