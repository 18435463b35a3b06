//! Patches: JSON patch, merge patch, strategic merge of built-in kinds, and server-side apply.
//!
//! The first two are `json-patch`'s. The others need to know what a list is (one value, a set, a map by keys): see
//! [`topology`].

pub(crate) mod apply;
pub(crate) mod fields;
mod merge;
pub(crate) mod owners;
mod strategic;
pub(crate) mod topology;

use http::HeaderMap;
use serde_json::Value;

use crate::kinds::Resource;
use crate::status::ApiError;

pub(crate) use strategic::strategic_merge;

/// How a patch is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Style {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl Style {
    /// From the request's content type; a custom kind has no strategic merge.
    pub(crate) fn of(headers: &HeaderMap, resource: &Resource) -> Result<Self, ApiError> {
        let kind = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let style = match kind.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Self::Json,
            "application/merge-patch+json" => Self::Merge,
            "application/strategic-merge-patch+json" if resource.builtin().is_some() => Self::Strategic,
            "application/apply-patch+yaml" => Self::Apply,
            _ => {
                let json = "application/json-patch+json, application/merge-patch+json";
                let strategic = resource.builtin().map_or("", |_| ", application/strategic-merge-patch+json");
                return Err(ApiError::unsupported_media(&format!("{json}{strategic}, application/apply-patch+yaml")));
            }
        };
        Ok(style)
    }
}

/// The object after an RFC 6902 patch.
pub(crate) fn json_patch(object: &Value, patch: &Value) -> Result<Value, ApiError> {
    let patch: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|problem| ApiError::bad_request(format!("error decoding patch: {problem}")))?;
    let mut patched = object.clone();
    json_patch::patch(&mut patched, &patch).map_err(|problem| {
        let message = format!("the server rejected our request due to an error in our request: {problem}");
        ApiError::new(422, "Invalid", message, Some(serde_json::json!({})))
    })?;
    Ok(patched)
}

/// The object after an RFC 7396 patch.
pub(crate) fn merge_patch(object: &Value, patch: &Value) -> Result<Value, ApiError> {
    if !patch.is_object() {
        return Err(ApiError::bad_request("error decoding patch: a merge patch is an object"));
    }
    let mut patched = object.clone();
    json_patch::merge(&mut patched, patch);
    Ok(patched)
}
