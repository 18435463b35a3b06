//! `gateway.networking.k8s.io HTTPRoute` with a Service as parent (GAMMA).
//!
//! A rule that asks for what cannot be done is kept, and its requests are refused: the rest of the route works, and
//! nobody's requests pass by what was meant for them. What makes it unclear which requests a rule is for makes the
//! whole route unusable.

use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use gateway_api::apis::experimental::httproutes as api;
use http::StatusCode;
use weft_core::model::{
    ForeignBackend, HttpBackend, HttpKind, HttpMatch, HttpRoute, HttpRouteId, HttpRule, Retry, Timeouts,
};

use super::http_filter::{self, Place};
use super::{Findings, gateway, http_match, session};

/// Converts an HTTPRoute. Parents that are no Service (a Gateway) are somebody else's.
pub fn convert(object: &api::HttpRoute, findings: &mut Findings) -> Option<HttpRoute> {
    let name = super::object_name(&object.metadata, findings);
    let namespace = super::namespace_of(&object.metadata);
    let parents = gateway::parents(object.spec.parent_refs.as_ref(), namespace, findings);
    if parents.is_empty() && !findings.invalid() {
        return None;
    }
    if object.spec.hostnames.as_ref().is_some_and(|names| !names.is_empty()) {
        findings
            .warning("spec.hostnames", "say nothing about requests to a Service: they are told apart by its address");
    }
    let (id, mut rules) = (HttpRouteId { kind: HttpKind::Http, name: name? }, Vec::new());
    for (index, given) in object.spec.rules.iter().flatten().enumerate() {
        let path = format!("spec.rules[{index}]");
        let matches = http_match::of_http(&path, given.matches.as_ref(), findings);
        rules.push(Arc::new(rule(&id, &path, matches, given, findings)));
    }
    Some(HttpRoute { id, parents, rules, created: super::created(&object.metadata) })
}

/// A rule of `route` whose conditions are known.
pub(super) fn rule(
    route: &HttpRouteId,
    path: &str,
    matches: Vec<HttpMatch>,
    given: &api::HttpRouteRules,
    findings: &mut Findings,
) -> HttpRule {
    let mut own = Findings::default();
    let (namespace, given_name) = (route.name.namespace.as_str(), given.name.as_deref());
    let place = Place { path, namespace, matches: &matches, backend: false };
    let filters = http_filter::convert(&place, given.filters.as_ref(), &mut own);
    let timeouts = timeouts(path, given.timeouts.as_ref(), &mut own);
    let retry = given.retry.as_ref().and_then(|given| retry(&format!("{path}.retry"), given, &mut own));
    let session = given.session_persistence.as_ref().and_then(|given| {
        let owner = format!("{route} {}", given_name.unwrap_or(path));
        session::convert(&format!("{path}.sessionPersistence"), given, &owner, &mut own)
    });
    let (mut backends, mut foreign) = (Vec::new(), Vec::new());
    for (index, given) in given.backend_refs.iter().flatten().enumerate() {
        let path = format!("{path}.backendRefs[{index}]");
        if let Some(what) = gateway::foreign(given) {
            // Its share alone is refused: the spec gives each invalid reference its own.
            findings.warning(
                format!("{path}.kind"),
                format!("{what} is not supported, its share is refused: use a Service"),
            );
            let weight = gateway::weight(&path, given, &mut own);
            foreign.extend(weight.map(|weight| ForeignBackend { what: what.into(), weight }));
            continue;
        }
        let place = Place { path: &path, namespace, matches: &matches, backend: true };
        let filters = http_filter::convert(&place, given.filters.as_ref(), &mut own);
        let backend = gateway::backend(&path, given, namespace, &mut own);
        backends.extend(backend.map(|backend| HttpBackend { backend, filters }));
    }
    let unsupported = own.into_vec().into_iter().fold(None, |said: Option<String>, finding| {
        let text = format!("{}: {}", finding.path, finding.reason);
        findings.warning(finding.path, format!("{}; the rule's requests are refused", finding.reason));
        Some(said.map_or(text.clone(), |said| format!("{said}; {text}")))
    });
    let name = given_name.map(Into::into);
    HttpRule {
        name,
        matches,
        filters,
        backends,
        foreign,
        timeouts,
        retry,
        session,
        unsupported: unsupported.map(Into::into),
    }
}

fn timeouts(path: &str, given: Option<&api::HttpRouteRulesTimeouts>, findings: &mut Findings) -> Timeouts {
    let Some(given) = given else { return Timeouts::default() };
    let path = format!("{path}.timeouts");
    let mut limit = |field: &str, text: Option<&String>| {
        let found = text.and_then(|text| duration(&format!("{path}.{field}"), text, findings));
        // Zero is no limit (GEP-1742).
        found.filter(|limit| !limit.is_zero())
    };
    let request = limit("request", given.request.as_ref());
    let backend_request = limit("backendRequest", given.backend_request.as_ref());
    if let (Some(request), Some(one)) = (request, backend_request)
        && one > request
    {
        findings.error(format!("{path}.backendRequest"), "is longer than the request's, of which it is a part");
    }
    Timeouts { request, backend_request }
}

fn retry(path: &str, given: &api::HttpRouteRulesRetry, findings: &mut Findings) -> Option<Retry> {
    let attempts = given.attempts.unwrap_or(1);
    let attempts = u32::try_from(attempts).map_err(|_| format!("{attempts} is not a number of tries"));
    let attempts = findings.keep(&format!("{path}.attempts"), attempts);
    let mut statuses = Vec::new();
    for code in given.codes.iter().flatten() {
        let status = u16::try_from(*code).ok().filter(|code| (400..600).contains(code));
        let status = status.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or_else(|| format!("{code} is not the status of a failure: use 400 to 599"));
        statuses.extend(findings.keep(&format!("{path}.codes"), status));
    }
    let backoff = match &given.backoff {
        Some(text) => Some(duration(&format!("{path}.backoff"), text, findings)?),
        None => None,
    };
    Some(Retry { attempts: attempts?, statuses, backoff })
}

pub(super) fn duration(path: &str, text: &str, findings: &mut Findings) -> Option<Duration> {
    let parsed = gateway_api::Duration::from_str(text);
    let parsed = parsed.map_err(|error| format!("{text:?} is not a duration as 10s or 1m30s: {error}"));
    findings.keep(path, parsed).map(|parsed| Duration::new(parsed.as_secs(), parsed.subsec_nanos()))
}
