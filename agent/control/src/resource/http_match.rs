//! The conditions of HTTPRoutes and GRPCRoutes. What cannot be told of a request, a malformed expression or a field that
//! nobody knows, is an error of the rule, which then refuses; the rest of the condition says which requests may be meant.

use ::http::{HeaderName, Method};
use gateway_api::apis::experimental::grpcroutes as grpc;
use gateway_api::apis::experimental::httproutes as http;
use serde_json::Value;
use weft_core::model::{HeaderMatch, HttpMatch, PathMatch, Pattern, QueryMatch, TextMatch};

use super::{Findings, fields};

/// The conditions of an HTTPRoute's rule, at `path`; the one that takes everything where it has none.
pub(super) fn of_http(path: &str, rule: &Value, findings: &mut Findings) -> Vec<HttpMatch> {
    each(path, rule, &HttpMatch::default(), findings, |path, raw, findings| {
        one(path, &fields::read(path, raw, findings), findings)
    })
}

/// The conditions of a rule, each by itself: one that is not understood whole is what is left of it, and unclear.
fn each(
    path: &str,
    rule: &Value,
    every: &HttpMatch,
    findings: &mut Findings,
    read: impl Fn(&str, &Value, &mut Findings) -> HttpMatch,
) -> Vec<HttpMatch> {
    let unclear = || vec![HttpMatch { unclear: true, ..every.clone() }];
    let given = match rule.get("matches") {
        None | Some(Value::Null) if rule.is_object() => return vec![every.clone()],
        None => return unclear(),
        Some(Value::Array(given)) if given.is_empty() => return vec![every.clone()],
        Some(Value::Array(given)) => given,
        Some(_) => {
            findings.error(format!("{path}.matches"), "is not a list of conditions");
            return unclear();
        }
    };
    let read = |(index, raw)| {
        let mut own = Findings::default();
        let found = read(&format!("{path}.matches[{index}]"), raw, &mut own);
        let unclear = own.invalid();
        findings.append(own);
        HttpMatch { unclear, ..found }
    };
    given.iter().enumerate().map(read).collect()
}

fn one(path: &str, given: &http::HttpRouteRulesMatches, findings: &mut Findings) -> HttpMatch {
    use http::{HttpRouteRulesMatchesHeadersType as OfHeader, HttpRouteRulesMatchesQueryParamsType as OfQuery};
    let condition = self::path(path, given.path.as_ref(), findings);
    let mut headers: Vec<HeaderMatch> = Vec::new();
    for (i, header) in given.headers.iter().flatten().enumerate() {
        let like = matches!(header.r#type, Some(OfHeader::RegularExpression));
        let at = format!("{path}.headers[{i}]");
        let Some(found) = self::header(&at, &header.name, like, &header.value, findings) else { continue };
        // Of entries with one name only the first counts (HTTPHeaderMatch).
        if headers.iter().all(|held| held.name != found.name) {
            headers.push(found);
        }
    }
    let mut query: Vec<QueryMatch> = Vec::new();
    for (i, parameter) in given.query_params.iter().flatten().enumerate() {
        let like = matches!(parameter.r#type, Some(OfQuery::RegularExpression));
        let value = text(&format!("{path}.queryParams[{i}].value"), like, &parameter.value, findings);
        if query.iter().all(|held| *held.name != *parameter.name) {
            query.extend(value.map(|value| QueryMatch { name: parameter.name.as_str().into(), value }));
        }
    }
    HttpMatch {
        path: condition.unwrap_or_default(),
        method: given.method.as_ref().map(method),
        headers,
        query,
        unclear: false,
    }
}

fn path(at: &str, given: Option<&http::HttpRouteRulesMatchesPath>, findings: &mut Findings) -> Option<PathMatch> {
    use http::HttpRouteRulesMatchesPathType as Type;
    let Some(given) = given else { return Some(PathMatch::default()) };
    let (at, value) = (format!("{at}.path.value"), given.value.as_deref().unwrap_or("/"));
    if !value.starts_with('/') && !matches!(given.r#type, Some(Type::RegularExpression)) {
        findings.error(at, format!("{value:?} is no path: begin it with a slash"));
        return None;
    }
    match given.r#type.as_ref().unwrap_or(&Type::PathPrefix) {
        Type::Exact => Some(PathMatch::Exact(value.into())),
        Type::PathPrefix => Some(PathMatch::Prefix(value.trim_end_matches('/').into())),
        Type::RegularExpression => findings.keep(&at, Pattern::new(value)).map(PathMatch::Regex),
    }
}

fn header(at: &str, name: &str, like: bool, value: &str, findings: &mut Findings) -> Option<HeaderMatch> {
    let named = HeaderName::try_from(name).map_err(|_| format!("{name:?} is not the name of a header"));
    let name = findings.keep(format!("{at}.name"), named);
    let value = text(&format!("{at}.value"), like, value, findings);
    Some(HeaderMatch { name: name?, value: value? })
}

fn text(at: &str, like: bool, value: &str, findings: &mut Findings) -> Option<TextMatch> {
    if like {
        findings.keep(at, Pattern::new(value)).map(TextMatch::Regex)
    } else {
        Some(TextMatch::Exact(value.into()))
    }
}

fn method(given: &http::HttpRouteRulesMatchesMethod) -> Method {
    use http::HttpRouteRulesMatchesMethod as Given;
    match given {
        Given::Get => Method::GET,
        Given::Head => Method::HEAD,
        Given::Post => Method::POST,
        Given::Put => Method::PUT,
        Given::Delete => Method::DELETE,
        Given::Connect => Method::CONNECT,
        Given::Options => Method::OPTIONS,
        Given::Trace => Method::TRACE,
        Given::Patch => Method::PATCH,
    }
}

/// The conditions of a GRPCRoute's rule, at `path`; the one that takes every call where it has none.
pub(super) fn of_grpc(path: &str, rule: &Value, findings: &mut Findings) -> Vec<HttpMatch> {
    let every = HttpMatch { path: PathMatch::Grpc { service: None, method: None }, ..HttpMatch::default() };
    each(path, rule, &every, findings, |path, raw, findings| {
        let given: grpc::GrpcRouteRulesMatches = fields::read(path, raw, findings);
        let mut condition = every.clone();
        if let Some(method) = &given.method {
            condition.path = call(&format!("{path}.method"), method, findings);
        }
        for (i, header) in given.headers.iter().flatten().enumerate() {
            let like = matches!(header.r#type, Some(grpc::GrpcRouteRulesMatchesHeadersType::RegularExpression));
            let found = self::header(&format!("{path}.headers[{i}]"), &header.name, like, &header.value, findings);
            if let Some(found) = found.filter(|found| condition.headers.iter().all(|held| held.name != found.name)) {
                condition.headers.push(found);
            }
        }
        condition
    })
}

fn call(at: &str, given: &grpc::GrpcRouteRulesMatchesMethod, findings: &mut Findings) -> PathMatch {
    let like = matches!(given.r#type, Some(grpc::GrpcRouteRulesMatchesMethodType::RegularExpression));
    let mut part = |field: &str, value: Option<&String>| {
        value.and_then(|value| text(&format!("{at}.{field}"), like, value, findings))
    };
    let service = part("service", given.service.as_ref());
    let method = part("method", given.method.as_ref());
    if service.is_none() && method.is_none() {
        findings.error(at, "names neither a service nor a method: give one, or leave it out");
    }
    PathMatch::Grpc { service, method }
}
