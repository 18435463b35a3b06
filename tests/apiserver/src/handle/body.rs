//! Bodies of requests: JSON, or YAML where the API takes it.

use http::HeaderMap;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use crate::status::ApiError;

/// The API server's own limit.
const LIMIT: usize = 3 * 1024 * 1024;

/// All of a body.
pub(super) async fn bytes(body: Incoming) -> Result<Vec<u8>, ApiError> {
    let whole = Limited::new(body, LIMIT).collect().await;
    let whole = whole.map_err(|problem| {
        let message = format!("Request entity too large: limit is {LIMIT}: {problem}");
        ApiError::new(413, "RequestEntityTooLarge", message, None)
    })?;
    Ok(whole.to_bytes().to_vec())
}

/// A body that has to be an object.
pub(super) async fn read(headers: &HeaderMap, body: Incoming) -> Result<Value, ApiError> {
    parse(headers, &bytes(body).await?)
}

/// Bytes that have to be an object.
pub(super) fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Value, ApiError> {
    let kind = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match kind.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" => json(body),
        "application/yaml" => yaml(body),
        _ => Err(ApiError::unsupported_media("application/json, application/yaml")),
    }
}

/// Bytes that have to be an object, if there are any.
pub(super) fn parse_optional(headers: &HeaderMap, body: &[u8]) -> Result<Value, ApiError> {
    if body.is_empty() { Ok(Value::Null) } else { parse(headers, body) }
}

/// JSON.
pub(super) fn json(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|problem| {
        ApiError::bad_request(format!("the object provided is unrecognized (must be of type JSON): {problem}"))
    })
}

/// JSON or YAML.
pub(super) fn yaml(body: &[u8]) -> Result<Value, ApiError> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    let text = String::from_utf8_lossy(body);
    serde_saphyr::from_str(&text).map_err(|problem| ApiError::bad_request(format!("error decoding YAML: {problem}")))
}
