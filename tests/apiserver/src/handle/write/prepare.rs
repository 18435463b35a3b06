//! Decoding: a body becomes an object of its kind. What the kind does not know goes, and is told as the client wishes.

use serde_json::Value;

use super::super::Call;
use crate::json::{object, text};
use crate::kinds::{Resource, Shape};
use crate::schema;
use crate::status::ApiError;

/// Checks that a body says what it is, and that it is what the path says.
pub(super) fn check_kind(call: &Call, body: &Value) -> Result<(), ApiError> {
    let resource = &call.resource;
    let (kind, version) = (text(body, &["kind"]).unwrap_or_default(), text(body, &["apiVersion"]).unwrap_or_default());
    if !body.is_object() {
        return Err(ApiError::bad_request("the object provided is unrecognized: it is no JSON object"));
    }
    let expected = resource.api_version();
    if (!version.is_empty() && version != expected) || (!kind.is_empty() && kind != resource.kind) {
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let number = version.rsplit('/').next().unwrap_or_default();
        let found = format!("{group}/{number}, Kind={kind}");
        let wanted = format!("{}/{}, Kind={}", resource.group, resource.version, resource.kind);
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            found.trim_start_matches('/'),
            wanted.trim_start_matches('/')
        )));
    }
    if resource.custom().is_some() && (kind.is_empty() || version.is_empty()) {
        return Err(ApiError::bad_request("Object 'Kind' or 'apiVersion' is missing in the object"));
    }
    let namespace = text(body, &["metadata", "namespace"]).unwrap_or_default();
    if !namespace.is_empty() && namespace != call.target.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// The object in a body, with its kind and version, without unknown fields.
pub(super) fn decode(call: &Call, mut body: Value, warnings: &mut Vec<String>) -> Result<Value, ApiError> {
    check_kind(call, &body)?;
    let resource = &call.resource;
    body["kind"] = resource.kind.clone().into();
    body["apiVersion"] = resource.api_version().into();
    let (decoded, unknown) = match &resource.shape {
        Shape::Builtin(builtin) => {
            let decoded = (builtin.decode)(&body).map_err(|problem| cannot(resource, &format!("json: {problem}")))?;
            let mut unknown = Vec::new();
            missing(&body, &decoded, "", &mut unknown);
            (decoded, unknown)
        }
        Shape::Custom(custom) => {
            let unknown = schema::prune(&custom.schema, &mut body);
            (body, unknown)
        }
    };
    let told: Vec<String> = unknown.iter().map(|field| format!("unknown field \"{field}\"")).collect();
    match call.query.text("fieldValidation") {
        "Ignore" => (),
        "" | "Warn" => warnings.extend(told),
        "Strict" if told.is_empty() => (),
        "Strict" => return Err(cannot(resource, &format!("strict decoding error: {}", told.join(", ")))),
        other => {
            let why = format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            );
            return Err(ApiError::new(
                422,
                "Invalid",
                format!("CreateOptions.meta.k8s.io \"\" is invalid: {why}"),
                None,
            ));
        }
    }
    Ok(decoded)
}

fn cannot(resource: &Resource, why: &str) -> ApiError {
    let (kind, version) = (&resource.kind, &resource.version);
    ApiError::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"))
}

/// Fields of a body that its decoded form does not have.
fn missing(body: &Value, decoded: &Value, path: &str, unknown: &mut Vec<String>) {
    match (body, decoded) {
        (Value::Object(body), Value::Object(decoded)) => {
            for (name, value) in body.iter().filter(|(_, value)| !value.is_null()) {
                let path = schema::below(path, name);
                match decoded.get(name) {
                    Some(decoded) => missing(value, decoded, &path, unknown),
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(body), Value::Array(decoded)) => {
            for (index, (body, decoded)) in body.iter().zip(decoded).enumerate() {
                missing(body, decoded, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => (),
    }
}

/// Drops from a configuration what its decoded form does not have.
pub(super) fn retain_known(applied: &mut Value, known: &Value) {
    match (applied, known) {
        (Value::Object(applied), Value::Object(known)) => {
            applied.retain(|name, value| {
                let Some(known) = known.get(name) else { return false };
                retain_known(value, known);
                true
            });
        }
        (Value::Array(applied), Value::Array(known)) => {
            applied.iter_mut().zip(known).for_each(|(applied, known)| retain_known(applied, known));
        }
        _ => (),
    }
}

/// Defaults of an object's kind.
pub(super) fn settle(resource: &Resource, new: &mut Value) {
    object(new, "metadata");
    match &resource.shape {
        Shape::Builtin(builtin) => (builtin.default)(new),
        Shape::Custom(custom) => schema::fill(&custom.schema, new),
    }
}
