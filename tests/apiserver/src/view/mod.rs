//! How an answer is shown: as objects, as their metadata alone, or as the table a person reads.

mod table;

use http::HeaderMap;
use serde_json::{Value, json};

use crate::kinds::Resource;
use crate::request::Query;
use crate::status::ApiError;
use crate::store::Stored;

/// What the client wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    Objects,
    Metadata,
    Table,
}

impl View {
    /// From `Accept`; the first form that is known wins.
    pub(crate) fn negotiate(headers: &HeaderMap) -> Result<Self, ApiError> {
        let accept = headers.get(http::header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
        for form in accept.split(',') {
            let mut parts = form.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let parameters: Vec<&str> = parts.collect();
            let wanted = parameters.iter().find_map(|parameter| parameter.strip_prefix("as="));
            match (media, wanted) {
                ("application/json", Some("Table")) => return Ok(Self::Table),
                ("application/json", Some("PartialObjectMetadata" | "PartialObjectMetadataList")) => {
                    return Ok(Self::Metadata);
                }
                ("application/json" | "application/*" | "*/*" | "", None) => return Ok(Self::Objects),
                _ => (),
            }
        }
        Err(ApiError::not_acceptable())
    }

    /// One object.
    pub(crate) fn one(self, resource: &Resource, object: &Value, query: &Query) -> Vec<u8> {
        match self {
            Self::Objects => object.to_string().into_bytes(),
            Self::Metadata => partial(object).to_string().into_bytes(),
            Self::Table => {
                let metadata = json!({"resourceVersion": crate::json::text(object, &["metadata", "resourceVersion"])});
                table::table(resource, &[object], metadata, query).to_string().into_bytes()
            }
        }
    }

    /// One stored object.
    pub(crate) fn stored(self, resource: &Resource, object: &Stored, query: &Query) -> Vec<u8> {
        if self == Self::Objects && !resource.is_converted() {
            let mut out = Vec::with_capacity(object.bare().len() + 64);
            object.write(&resource.kind, &resource.api_version(), &mut out);
            return out;
        }
        self.one(resource, &typed(resource, object), query)
    }

    /// A list. Items of built-in kinds do not repeat their kind; custom ones do.
    pub(crate) fn list(
        self,
        resource: &Resource,
        objects: &[std::sync::Arc<Stored>],
        metadata: Value,
        query: &Query,
    ) -> Vec<u8> {
        match self {
            Self::Objects => {
                let mut out = format!(
                    "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
                    resource.list_kind,
                    resource.api_version()
                )
                .into_bytes();
                for (index, object) in objects.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    if resource.is_converted() {
                        out.extend_from_slice(resource.to_served(object.value()).to_string().as_bytes());
                    } else if resource.builtin().is_some() {
                        out.extend_from_slice(object.bare());
                    } else {
                        object.write(&resource.kind, &resource.api_version(), &mut out);
                    }
                }
                out.extend_from_slice(b"]}");
                out
            }
            Self::Metadata => {
                let items: Vec<Value> = objects.iter().map(|object| partial(&typed(resource, object))).collect();
                let version = "meta.k8s.io/v1";
                json!({"kind": "PartialObjectMetadataList", "apiVersion": version, "metadata": metadata, "items": items})
                    .to_string()
                    .into_bytes()
            }
            Self::Table => {
                let values: Vec<Value> = objects.iter().map(|object| typed(resource, object)).collect();
                let values: Vec<&Value> = values.iter().collect();
                table::table(resource, &values, metadata, query).to_string().into_bytes()
            }
        }
    }
}

/// A stored object with its kind and version.
pub(crate) fn typed(resource: &Resource, object: &Stored) -> Value {
    let mut value = resource.to_served(object.value());
    value["kind"] = resource.kind.clone().into();
    value["apiVersion"] = resource.api_version().into();
    value
}

fn partial(object: &Value) -> Value {
    let metadata = object.get("metadata").cloned().unwrap_or_default();
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}
