//! `gateway.networking.k8s.io HTTPRoute` with a Service as parent (GAMMA).
//!
//! A rule that asks for what cannot be done, or cannot be read, is kept, and its requests are refused (`route`).

use std::str::FromStr as _;
use std::time::Duration;

use gateway_api::apis::experimental::httproutes as api;
use http::StatusCode;
use serde_json::Value;
use weft_core::model::{
    ForeignBackend, HttpBackend, HttpKind, HttpMatch, HttpRoute, HttpRouteId, HttpRule, Retry, Timeouts,
};

use super::http_filter::{self, Place};
use super::{Findings, fields, gateway, http_match, route, session};

/// Converts an HTTPRoute. Parents that are no Service (a Gateway) are somebody else's.
pub fn convert(object: &Value, findings: &mut Findings) -> Option<HttpRoute> {
    route::convert(HttpKind::Http, object, read, findings)
}

fn read(id: &HttpRouteId, path: &str, raw: &Value, findings: &mut Findings) -> HttpRule {
    let mut own = Findings::default();
    let matches = http_match::of_http(path, raw, &mut own);
    let given: api::HttpRouteRules = fields::read(path, &route::without(raw, &["matches"]), &mut own);
    rule(id, path, matches, &given, own, findings)
}

/// A rule of `route` whose conditions are known; `own` is what is wrong with it so far.
pub(super) fn rule(
    route: &HttpRouteId,
    path: &str,
    matches: Vec<HttpMatch>,
    given: &api::HttpRouteRules,
    mut own: Findings,
    findings: &mut Findings,
) -> HttpRule {
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
        findings.refused(finding.path, format!("{}; the rule's requests are refused", finding.reason));
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
    let attempts = findings.keep(format!("{path}.attempts"), attempts);
    let mut statuses = Vec::new();
    for code in given.codes.iter().flatten() {
        let status = u16::try_from(*code).ok().filter(|code| (400..600).contains(code));
        let status = status.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or_else(|| format!("{code} is not the status of a failure: use 400 to 599"));
        statuses.extend(findings.keep(format!("{path}.codes"), status));
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
