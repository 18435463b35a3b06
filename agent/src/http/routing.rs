//! Which rule of which route takes a request, and what becomes of it by that: the answers are [`weft_core::http`]'s.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{LOCATION, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use weft_core::http::{Filters, Preflight, Retry, Routed, Timeouts};
use weft_core::model::{Name, Traffic};
use weft_core::route::ServicePortKey;
use weft_core::traffic::RuleKey;

use super::answer::Fault;
use super::hop::BadRequest;
use super::session::{Recall, Sticky};

/// What becomes of a request.
pub(super) enum Way {
    /// An endpoint of a service port gets it.
    To(Routing),
    /// The rule itself answers.
    Answered(Response<Bytes>),
}

/// Where a request goes, and by which rule.
pub(super) struct Routing {
    /// The service port that gets it.
    pub(super) backend: ServicePortKey,
    rule: Option<Rule>,
    /// How its client keeps its endpoint, if it does.
    pub(super) session: Option<Sticky>,
}

struct Rule {
    routed: Arc<Routed>,
    /// Which of the rule's backends.
    backend: usize,
    /// The page that asks, by its browser's word.
    origin: Option<HeaderValue>,
}

/// Decides, and makes of the head what is sent on. `random` is uniform over all of `u64`.
///
/// # Errors
/// [`Fault`] where a request goes to nobody.
pub(super) fn route(
    recall: &Recall<'_>,
    client: &Name,
    dialled: &ServicePortKey,
    head: &mut Parts,
    random: u64,
) -> Result<Way, Fault> {
    let routes = recall.snapshot.http_routes(&dialled.service, dialled.port);
    let Some(router) = routes.and_then(|routes| routes.for_client(client)) else {
        let session = recall.of_port(dialled, &head.headers);
        return Ok(Way::To(Routing { backend: dialled.clone(), rule: None, session }));
    };
    let chosen = router.find(head).ok_or(Fault::NoRoute)?;
    let (routed, rule) = (chosen.routed, &chosen.routed.rule);
    if routed.refused.is_none()
        && let Some(answer) = answer(&rule.filters, chosen.condition, head, dialled.port)?
    {
        return Ok(Way::Answered(answer));
    }
    let place = (dialled.family, chosen.condition.path.cookie_path());
    let (target, session) = match recall.of_rule(routed, place, &head.headers) {
        Some((target, session)) => (target, Some(session)),
        None => {
            let target = routed.target(random)?;
            (target, recall.of_target(routed, &target, place, &head.headers))
        }
    };
    let origin = rule.filters.cors.as_ref().and_then(|_| head.headers.get(ORIGIN).cloned());
    for filters in [&rule.filters, target.filters] {
        filters.edit_request(chosen.condition, head)?;
    }
    let key =
        ServicePortKey { service: target.backend.service.clone(), port: target.backend.port, family: dialled.family };
    let rule = Rule { routed: Arc::clone(routed), backend: target.index, origin };
    Ok(Way::To(Routing { backend: key, rule: Some(rule), session }))
}

/// What a rule answers itself: a preflight, or another place to go.
fn answer(
    filters: &Filters,
    condition: &weft_core::http::HttpMatch,
    head: &Parts,
    port: u16,
) -> Result<Option<Response<Bytes>>, Fault> {
    let mut response = Response::new(Bytes::new());
    if let Some(Preflight(headers)) = filters.cors.as_ref().and_then(|cors| cors.preflight(head)) {
        *response.status_mut() = StatusCode::NO_CONTENT;
        *response.headers_mut() = headers;
        return Ok(Some(response));
    }
    let Some(redirect) = &filters.redirect else { return Ok(None) };
    let location = redirect.location(condition, head, port).ok_or(Fault::BadRequest(BadRequest::Host))?;
    *response.status_mut() = redirect.status;
    response.headers_mut().insert(LOCATION, location);
    filters.edit_response(response.headers_mut());
    Ok(Some(response))
}

impl Routing {
    /// Who gets a copy of the request.
    pub(super) fn copies(&self, random: impl FnMut() -> u64) -> Vec<ServicePortKey> {
        let Some(rule) = &self.rule else { return Vec::new() };
        let key = |to: &weft_core::model::BackendRef| ServicePortKey {
            service: to.service.clone(),
            port: to.port,
            family: self.backend.family,
        };
        rule.routed.copies(random).map(key).collect()
    }

    /// Makes of a response's head what the client gets.
    pub(super) fn edit_response(&self, headers: &mut HeaderMap) {
        let Some(Rule { routed, backend, origin }) = &self.rule else { return };
        let filters = &routed.rule.filters;
        if let Some(backend) = routed.rule.backends.get(*backend) {
            backend.filters.edit_response(headers);
        }
        filters.edit_response(headers);
        if let (Some(cors), Some(origin)) = (&filters.cors, origin) {
            cors.decorate(origin, headers);
        }
    }

    /// What TrafficPolicies set for the rule.
    pub(super) fn traffic(&self) -> Option<&Arc<Traffic>> {
        self.rule.as_ref()?.routed.traffic.as_ref()
    }

    /// Which rule that is.
    pub(super) fn rule(&self) -> Option<&RuleKey> {
        Some(&self.rule.as_ref()?.routed.id)
    }

    /// How long the request may take.
    pub(super) fn timeouts(&self) -> Timeouts {
        self.rule.as_ref().map(|rule| rule.routed.rule.timeouts).unwrap_or_default()
    }

    /// Whether it is tried again.
    pub(super) fn retry(&self) -> Option<&Retry> {
        self.rule.as_ref()?.routed.rule.retry.as_ref()
    }
}
