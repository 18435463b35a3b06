//! Orders over HTTP: faults, compaction and counters, for tests that run in another process.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::{Answer, Body, answer, body};
use crate::engine::Shared;
use crate::faults::Rule;
use crate::status::ApiError;

/// Paths of orders start with this. Kubernetes serves nothing there.
pub(super) const PREFIX: &str = "/test/";

pub(super) async fn handle(shared: &Arc<Shared>, path: &str, request: Request<Incoming>) -> Response<Body> {
    let method = request.method().clone();
    let read = match body::bytes(request.into_body()).await {
        Ok(bytes) if bytes.is_empty() => Ok(Value::Null),
        Ok(bytes) => body::json(&bytes),
        Err(error) => Err(error),
    };
    let obeyed = read.and_then(|order| obey(shared, &method, path.trim_start_matches(PREFIX), order));
    match obeyed {
        Ok(value) => answer(Answer::value(200, &value)),
        Err(error) => answer(Answer::value(error.code, &error.body)),
    }
}

fn obey(shared: &Arc<Shared>, method: &Method, what: &str, order: Value) -> Result<Value, ApiError> {
    let faults = &shared.faults;
    let on = |name: &str| order.get(name) == Some(&Value::Bool(true));
    match (method, what) {
        (&Method::GET, "counters") => return Ok(serde_json::to_value(shared.counters.snapshot()).unwrap_or_default()),
        (&Method::DELETE, "counters") => shared.counters.reset(),
        (&Method::POST, "faults") => {
            let rule: Rule =
                serde_json::from_value(order).map_err(|problem| ApiError::bad_request(problem.to_string()))?;
            faults.add(rule);
        }
        (&Method::DELETE, "faults") => faults.clear(),
        (&Method::POST, "compact") => shared.store().compact(),
        (&Method::POST, "cut") => faults.cut_watches(),
        (&Method::POST, "close") => faults.close_connections(),
        (&Method::POST, "refuse") => faults.refuse_connections(on("refuse")),
        (&Method::POST, "controllers") => faults.pause_controllers(on("paused")),
        (&Method::POST, "gone-as-status") => faults.answer_gone_as_status(on("status")),
        // Who is away cannot be called back: the order says for how long.
        (&Method::POST, "away") => {
            let seconds = order.get("seconds").and_then(Value::as_f64).unwrap_or(1.0).clamp(0.0, 3600.0);
            let shared = shared.clone();
            tokio::spawn(async move {
                shared.faults.go_away(true);
                tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
                shared.faults.go_away(false);
            });
        }
        _ => return Err(ApiError::no_such_resource()),
    }
    Ok(json!({}))
}
