//! From a request to its answer: who asks, whether they may, which verb, which handler.

mod body;
mod delete;
mod discovery;
mod proxy;
mod read;
mod reviews;
mod steer;
mod watch;
mod write;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::Value;

pub(crate) use delete::{Options as DeleteOptions, finish_namespace, remove};

use crate::auth::{Ask, User, allowed, authenticate};
use crate::engine::Shared;
use crate::kinds::Resource;
use crate::request::{Path, Query, Target, verb};
use crate::status::ApiError;
use crate::view::View;

/// Bodies end, or break off.
pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// What a handler needs to know about its request.
pub(crate) struct Call {
    pub(crate) shared: Arc<Shared>,
    pub(crate) resource: Arc<Resource>,
    pub(crate) target: Target,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) view: View,
}

/// An answer that is not a stream.
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) json: Vec<u8>,
    /// Texts of `Warning` headers.
    pub(crate) warnings: Vec<String>,
}

impl Answer {
    pub(crate) fn ok(json: Vec<u8>) -> Self {
        Self { code: 200, json, warnings: Vec::new() }
    }

    pub(crate) fn value(code: u16, value: &Value) -> Self {
        Self { code, json: value.to_string().into_bytes(), warnings: Vec::new() }
    }
}

/// Answers one request.
pub(crate) async fn handle(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let query = Query::of(request.uri());
    let path = Path::parse(request.uri());
    if let Path::Other(path) = &path
        && path.starts_with(steer::PREFIX)
    {
        let path = path.clone();
        return Ok(steer::handle(&shared, &path, request).await);
    }
    let (verb, resource) = match &path {
        Path::Target(target) => (verb(request.method(), target, &query), full_name(target)),
        _ => (Some("get"), request.uri().path().to_owned()),
    };
    let verb = verb.unwrap_or("other");
    shared.counters.request(verb, &resource);
    if let Some((delay, status)) = shared.faults.strike(verb, &resource) {
        tokio::time::sleep(delay).await;
        if let Some(status) = status {
            shared.counters.answer(verb, &resource, status, 0);
            return Ok(fault(status));
        }
    }
    let response = match route(&shared, path, query, verb, request).await {
        Ok(response) => response,
        Err(error) => answer(Answer::value(error.code, &error.body)),
    };
    let size = hyper::body::Body::size_hint(response.body()).exact().unwrap_or_default();
    shared.counters.answer(verb, &resource, response.status().as_u16(), size);
    Ok(response)
}

/// A resource as RBAC and counters name it: `pods/status`, `leases.coordination.k8s.io`.
fn full_name(target: &Target) -> String {
    let sub = if target.subresource.is_empty() { String::new() } else { format!("/{}", target.subresource) };
    let group = if target.group.is_empty() { String::new() } else { format!(".{}", target.group) };
    format!("{}{sub}{group}", target.plural)
}

async fn route(
    shared: &Arc<Shared>,
    path: Path,
    query: Query,
    verb: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let user = authenticate(shared, request.headers())?;
    let target = match path {
        Path::Target(target) => target,
        other => return discovery::answer_path(shared, &other),
    };
    if !shared.registry.read().is_ok_and(|registry| registry.has(&target.group, &target.version))
        && !reviews::serves(&target)
    {
        return Ok(text(404, "404 page not found\n"));
    }
    authorize(shared, &user, verb, &target)?;
    if proxy::serves(&target) && verb == "get" {
        return proxy::get(shared, &target, request.uri().query()).await;
    }
    let view = View::negotiate(request.headers())?;
    let (parts, body) = request.into_parts();
    if reviews::serves(&target) {
        let body = body::read(&parts.headers, body).await?;
        return reviews::answer_review(shared, &user, &target, &query, body).map(answer);
    }
    let resource =
        shared.find(&target.group, &target.version, &target.plural).ok_or_else(ApiError::no_such_resource)?;
    let known = matches!(target.subresource.as_str(), "") || (target.subresource == "status" && resource.status);
    if !known {
        return Err(ApiError::no_such_resource());
    }
    if resource.namespaced == target.namespace.is_empty() && (!resource.namespaced || !target.name.is_empty()) {
        return Err(ApiError::no_such_resource());
    }
    let call = Call { shared: shared.clone(), resource, target, query, headers: parts.headers, view };
    match verb {
        "get" => read::get(&call).map(answer),
        "list" => read::list(&call).await.map(answer),
        "watch" => watch::watch(call).await,
        _ => {
            let body = body::bytes(body).await?;
            write(&call, verb, &body).map(answer)
        }
    }
}

fn write(call: &Call, verb: &str, body: &[u8]) -> Result<Answer, ApiError> {
    match verb {
        "create" if call.resource.namespaced && call.target.namespace.is_empty() => Err(ApiError::method_not_allowed()),
        "create" => write::create(call, body::parse(&call.headers, body)?),
        "update" => write::update(call, body::parse(&call.headers, body)?),
        "patch" => write::patch(call, body),
        "delete" => delete::delete(call, body::parse_optional(&call.headers, body)?),
        "deletecollection" => delete::delete_collection(call, body::parse_optional(&call.headers, body)?),
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn authorize(shared: &Shared, user: &User, verb: &str, target: &Target) -> Result<(), ApiError> {
    if !shared.config.rbac {
        return Ok(());
    }
    let sub = &target.subresource;
    let resource = if sub.is_empty() { target.plural.clone() } else { format!("{}/{sub}", target.plural) };
    let (group, namespace, name) = (target.group.as_str(), target.namespace.as_str(), target.name.as_str());
    if allowed(shared, user, &Ask { verb, group, resource: &resource, namespace, name }) {
        return Ok(());
    }
    let scope =
        if namespace.is_empty() { "at the cluster scope".into() } else { format!("in the namespace \"{namespace}\"") };
    let why = format!("User \"{}\" cannot {verb} resource \"{resource}\" in API group \"{group}\" {scope}", user.name);
    let named = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
    let qualified = if group.is_empty() { target.plural.clone() } else { format!("{}.{group}", target.plural) };
    let mut details = serde_json::json!({"kind": target.plural});
    for (field, value) in [("name", name), ("group", group)] {
        if !value.is_empty() {
            details[field] = value.into();
        }
    }
    Err(ApiError::new(403, "Forbidden", format!("{qualified}{named} is forbidden: {why}"), Some(details)))
}

/// A namespace that is there from the start.
pub(crate) fn plant_namespace(shared: &Shared, name: &str) {
    let mut namespace = serde_json::json!({
        "metadata": {"name": name, "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": crate::engine::now()},
        "status": {"phase": "Active"},
    });
    if let Some(builtin) = shared.find("", "v1", "namespaces").as_ref().and_then(|resource| resource.builtin()) {
        (builtin.default)(&mut namespace);
        let fields: Vec<String> = builtin.fields.iter().map(|&field| field.to_owned()).collect();
        shared.store().put("namespaces", name, namespace, &fields);
    }
}

/// The answer of a server in trouble.
fn fault(status: u16) -> Response<Body> {
    let error = match status {
        429 => {
            let details = serde_json::json!({"retryAfterSeconds": 1});
            let message = "the server has received too many requests and has asked us to try again later";
            ApiError::new(429, "TooManyRequests", message, Some(details))
        }
        503 => ApiError::new(503, "ServiceUnavailable", "the server is currently unable to handle the request", None),
        504 => ApiError::new(504, "Timeout", "Timeout: request did not complete within the allotted timeout", None),
        other => ApiError { code: other, ..ApiError::internal("ordered by a test") },
    };
    let mut response = answer(Answer::value(error.code, &error.body));
    if status == 429 {
        response.headers_mut().insert(http::header::RETRY_AFTER, http::HeaderValue::from_static("1"));
    }
    response
}

/// A JSON answer.
fn answer(answer: Answer) -> Response<Body> {
    let mut response = Response::new(full(answer.json));
    *response.status_mut() = StatusCode::from_u16(answer.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    headers.insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-cache, private"));
    for warning in answer.warnings {
        let escaped = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = http::HeaderValue::from_str(&format!("299 - \"{escaped}\"")) {
            headers.append(http::header::WARNING, value);
        }
    }
    response
}

/// A plain text answer.
fn text(code: u16, said: &str) -> Response<Body> {
    let mut response = Response::new(full(said.as_bytes().to_vec()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

fn full(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed()
}
