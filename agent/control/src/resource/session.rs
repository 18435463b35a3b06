//! `sessionPersistence`, which rules of routes and policies of backends have in the same words (GEP-1619).

use std::sync::Arc;
use std::time::Duration;

use gateway_api::apis::experimental::httproutes::{
    HttpRouteRulesSessionPersistence as Given, HttpRouteRulesSessionPersistenceCookieConfigLifetimeType as Lifetime,
    HttpRouteRulesSessionPersistenceType as Type,
};
use http::HeaderName;
use serde::Serialize;
use weft_core::balance::hash_of;
use weft_core::model::{Carrier, SessionPersistence};

use super::{Findings, gateway, http_route};

/// What the API server holds names to.
const NAME_MAX: usize = 128;

/// Converts it. Where it has no name it gets one that follows from `owner`, which no other has.
pub(super) fn convert<T: Serialize>(
    at: &str,
    given: &T,
    owner: &str,
    findings: &mut Findings,
) -> Option<Arc<SessionPersistence>> {
    let given: Given = findings.keep(at, gateway::same(given))?;
    let name = given.session_name.clone().filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| format!("weft-session-{:08x}", hash_of(owner.as_bytes()) >> 32));
    // Names of cookies and of fields are both tokens (RFC 6265, 4.1.1; RFC 9110, 5.1).
    let token = HeaderName::try_from(&name).ok().filter(|_| name.len() <= NAME_MAX);
    let token = token.ok_or_else(|| format!("{name:?} is not a name for a cookie or a header"));
    let token = findings.keep(format!("{at}.sessionName"), token)?;
    let absolute = time(&format!("{at}.absoluteTimeout"), given.absolute_timeout.as_ref(), findings);
    let idle = time(&format!("{at}.idleTimeout"), given.idle_timeout.as_ref(), findings);
    let lifetime = given.cookie_config.as_ref().map(|cookie| &cookie.lifetime_type);
    let permanent = matches!(lifetime, Some(Some(Lifetime::Permanent)));
    if permanent && given.absolute_timeout.is_none() {
        findings
            .error(format!("{at}.absoluteTimeout"), "is missing: a permanent cookie has to say how long it is kept");
    }
    let carrier = match given.r#type {
        None | Some(Type::Cookie) => Carrier::Cookie { permanent },
        Some(Type::Header) => {
            if given.cookie_config.is_some() {
                findings.error(format!("{at}.cookieConfig"), "is for sessions of the type Cookie");
            }
            Carrier::Header(token)
        }
    };
    Some(Arc::new(SessionPersistence { name: name.into(), carrier, absolute, idle }))
}

fn time(at: &str, given: Option<&String>, findings: &mut Findings) -> Option<Duration> {
    let time = http_route::duration(at, given?, findings)?;
    findings.keep(at, if time.is_zero() { Err("must be longer than nothing") } else { Ok(time) })
}
