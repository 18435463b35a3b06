//! The filters of HTTPRoutes and GRPCRoutes. Whatever cannot be done is an error of the rule, whose requests are then
//! refused: a filter that is passed over might have been what protects someone.

use gateway_api::apis::experimental::httproutes as api;
use http::uri::{Authority, Scheme};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use weft_core::model::{
    Cors, Filters, HeaderEdits, HttpMatch, Mirror, OriginMatch, PathEdit, PathMatch, Redirect, Rewrite,
};

use super::{Findings, gateway};

/// Where filters stand.
pub(super) struct Place<'a> {
    /// The path of the rule or backendRef they are in.
    pub(super) path: &'a str,
    /// The route's namespace.
    pub(super) namespace: &'a str,
    /// The rule's conditions.
    pub(super) matches: &'a [HttpMatch],
    /// Whether they are those of a backendRef.
    pub(super) backend: bool,
}

/// The filters of a rule or of a backendRef. The types of both, and of both kinds of routes, have the same fields.
pub(super) fn convert<T: Serialize>(place: &Place<'_>, given: Option<&Vec<T>>, findings: &mut Findings) -> Filters {
    let mut filters = Filters::default();
    for (index, given) in given.into_iter().flatten().enumerate() {
        let at = format!("{}.filters[{index}]", place.path);
        if let Some(given) = findings.keep(&at, gateway::same(given)) {
            one(place, &at, &given, &mut filters, findings);
        }
    }
    if filters.redirect.is_some() && filters.rewrite.is_some() {
        findings.error(format!("{}.filters", place.path), "redirects and rewrites: use one of the two");
    }
    filters
}

fn one(
    place: &Place<'_>,
    at: &str,
    given: &api::HttpRouteRulesFilters,
    filters: &mut Filters,
    findings: &mut Findings,
) {
    use api::HttpRouteRulesFiltersType as Type;
    let missing = |findings: &mut Findings| findings.error(at, "does not say what its type says it does");
    let of_rules = |findings: &mut Findings| {
        if place.backend {
            findings.error(at, "is supported in rules only, and not in backendRefs");
        }
    };
    match given.r#type {
        Type::RequestHeaderModifier => match &given.request_header_modifier {
            Some(edits) => filters.request_headers = edit(at, edits, findings),
            None => missing(findings),
        },
        Type::ResponseHeaderModifier => match &given.response_header_modifier {
            Some(edits) => filters.response_headers = edit(at, edits, findings),
            None => missing(findings),
        },
        Type::RequestMirror => {
            of_rules(findings);
            match &given.request_mirror {
                Some(copies) => filters.mirrors.extend(mirror(place, at, copies, findings)),
                None => missing(findings),
            }
        }
        Type::RequestRedirect => {
            of_rules(findings);
            match &given.request_redirect {
                Some(elsewhere) => filters.redirect = redirect(place, at, elsewhere, findings),
                None => missing(findings),
            }
        }
        Type::UrlRewrite => {
            of_rules(findings);
            match &given.url_rewrite {
                Some(other) => filters.rewrite = rewrite(place, at, other, findings),
                None => missing(findings),
            }
        }
        Type::Cors => {
            of_rules(findings);
            match &given.cors {
                Some(rules) => filters.cors = Some(cors(at, rules, findings)),
                None => missing(findings),
            }
        }
        Type::ExtensionRef | Type::ExternalAuth => findings.error(at, "is not supported"),
    }
}

/// Header changes; what sets, adds and removes are three types of two fields in each of eight places.
fn edit<T: Serialize>(at: &str, given: &T, findings: &mut Findings) -> HeaderEdits {
    let given: api::HttpRouteRulesFiltersRequestHeaderModifier = match findings.keep(at, gateway::same(given)) {
        Some(given) => given,
        None => return HeaderEdits::default(),
    };
    let mut edits = HeaderEdits::default();
    for header in given.set.iter().flatten() {
        edits.set.extend(pair(&format!("{at}.set"), &header.name, &header.value, findings));
    }
    for header in given.add.iter().flatten() {
        edits.add.extend(pair(&format!("{at}.add"), &header.name, &header.value, findings));
    }
    for name in given.remove.iter().flatten() {
        edits.remove.extend(self::name(&format!("{at}.remove"), name, findings));
    }
    edits
}

fn pair(at: &str, name: &str, value: &str, findings: &mut Findings) -> Option<(HeaderName, HeaderValue)> {
    let name = self::name(at, name, findings);
    let value = HeaderValue::try_from(value).map_err(|_| format!("{value:?} is not the value of a header"));
    Some((name?, findings.keep(at, value)?))
}

fn name(at: &str, text: &str, findings: &mut Findings) -> Option<HeaderName> {
    findings.keep(at, HeaderName::try_from(text).map_err(|_| format!("{text:?} is not the name of a header")))
}

fn mirror(
    place: &Place<'_>,
    at: &str,
    given: &api::HttpRouteRulesFiltersRequestMirror,
    findings: &mut Findings,
) -> Option<Mirror> {
    let at = format!("{at}.requestMirror");
    let backend = findings.keep(&at, gateway::same(&given.backend_ref))?;
    let backend = gateway::backend(&format!("{at}.backendRef"), &backend, place.namespace, findings)?;
    let fraction = match (&given.fraction, given.percent) {
        (Some(_), Some(_)) => return findings.keep(&at, Err("has a fraction and a percent: use one")),
        (Some(fraction), None) => (fraction.numerator, fraction.denominator.unwrap_or(100)),
        (None, percent) => (percent.unwrap_or(100), 100),
    };
    let (part, whole) = fraction;
    let checked = match (u32::try_from(part), u32::try_from(whole)) {
        (Ok(part), Ok(whole)) if part <= whole && whole > 0 => Ok((part, whole)),
        _ => Err(format!("{part} of {whole} is not a share")),
    };
    Some(Mirror { backend, fraction: findings.keep(&at, checked)? })
}

fn redirect(
    place: &Place<'_>,
    at: &str,
    given: &api::HttpRouteRulesFiltersRequestRedirect,
    findings: &mut Findings,
) -> Option<Redirect> {
    use api::HttpRouteRulesFiltersRequestRedirectScheme as Given;
    let at = format!("{at}.requestRedirect");
    let code = given.status_code.unwrap_or(302);
    let status = match code {
        301 | 302 | 303 | 307 | 308 => u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok()),
        _ => None,
    };
    let status = findings.keep(format!("{at}.statusCode"), status.ok_or(format!("{code} redirects nobody")));
    let port = match given.port {
        Some(port) => Some(findings.port(format!("{at}.port"), port)?),
        None => None,
    };
    let path = match &given.path {
        Some(path) => Some(edit_path(place, &format!("{at}.path"), path, findings)?),
        None => None,
    };
    let scheme = given.scheme.as_ref().map(|scheme| match scheme {
        Given::Http => Scheme::HTTP,
        Given::Https => Scheme::HTTPS,
    });
    let host = match &given.hostname {
        Some(host) => Some(self::host(&format!("{at}.hostname"), host, findings)?.as_str().into()),
        None => None,
    };
    Some(Redirect { scheme, host, port, path, status: status? })
}

fn rewrite(
    place: &Place<'_>,
    at: &str,
    given: &api::HttpRouteRulesFiltersUrlRewrite,
    findings: &mut Findings,
) -> Option<Rewrite> {
    let at = format!("{at}.urlRewrite");
    let path = match &given.path {
        Some(path) => Some(edit_path(place, &format!("{at}.path"), path, findings)?),
        None => None,
    };
    let host = match &given.hostname {
        Some(host) => {
            let host = self::host(&format!("{at}.hostname"), host, findings)?;
            Some(HeaderValue::try_from(host.as_str()).ok()?)
        }
        None => None,
    };
    Some(Rewrite { host, path })
}

fn host(at: &str, text: &str, findings: &mut Findings) -> Option<Authority> {
    findings.keep(at, text.parse::<Authority>().map_err(|_| format!("{text:?} is not the name of a host")))
}

/// A changed path; redirects and rewrites have a type of their own for it, with the same fields.
fn edit_path<T: Serialize>(place: &Place<'_>, at: &str, given: &T, findings: &mut Findings) -> Option<PathEdit> {
    use api::HttpRouteRulesFiltersUrlRewritePathType as Type;
    let given: api::HttpRouteRulesFiltersUrlRewritePath = findings.keep(at, gateway::same(given))?;
    match (&given.r#type, given.replace_full_path, given.replace_prefix_match) {
        (Type::ReplaceFullPath, Some(path), _) => {
            findings.keep(at, absolute(&path))?;
            Some(PathEdit::Full(if path.is_empty() { "/".into() } else { path.into() }))
        }
        (Type::ReplacePrefixMatch, _, Some(prefix)) => {
            if !place.matches.iter().all(|condition| matches!(condition.path, PathMatch::Prefix(_))) {
                findings.error(at, "replaces a prefix, and not all of the rule's matches are by prefix");
                return None;
            }
            findings.keep(at, absolute(&prefix))?;
            Some(PathEdit::Prefix(prefix.into()))
        }
        _ => findings.keep(at, Err("does not say what its type says it does")),
    }
}

fn absolute(path: &str) -> Result<(), String> {
    if path.is_empty() || path.starts_with('/') { Ok(()) } else { Err(format!("{path:?} does not begin with a slash")) }
}

fn cors(at: &str, given: &api::HttpRouteRulesFiltersCors, findings: &mut Findings) -> Cors {
    let texts = |all: &Option<Vec<String>>| all.iter().flatten().map(|text| text.as_str().into()).collect();
    let age = given.max_age.unwrap_or(5);
    let max_age = u32::try_from(age).map_err(|_| format!("{age} is not a number of seconds"));
    let mut origins = Vec::new();
    for origin in given.allow_origins.iter().flatten() {
        origins.push(match origin.split_once('*') {
            _ if origin == "*" => OriginMatch::Any,
            None => OriginMatch::Exact(origin.as_str().into()),
            Some((before, after)) => OriginMatch::Between(before.into(), after.into()),
        });
    }
    Cors {
        origins,
        credentials: given.allow_credentials.unwrap_or_default(),
        methods: texts(&given.allow_methods),
        headers: texts(&given.allow_headers),
        exposed: texts(&given.expose_headers),
        max_age: findings.keep(format!("{at}.cors.maxAge"), max_age).unwrap_or_default(),
    }
}
