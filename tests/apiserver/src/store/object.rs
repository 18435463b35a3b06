//! One state of one object: its JSON, written once, and what selectors look at, read once.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::json::{at, object, shown, text};

/// One state of one object, as it was committed.
pub(crate) struct Stored {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// What field selectors compare, by path.
    pub(crate) fields: BTreeMap<String, String>,
    /// The object without `apiVersion` and `kind`, which depend on how it is asked for. An object of JSON, with `metadata`.
    json: Bytes,
}

impl Stored {
    /// Numbers and freezes an object. `fields` are the paths its kind's selectors may name.
    pub(crate) fn new(mut value: Value, revision: u64, fields: &[String]) -> Self {
        if let Value::Object(map) = &mut value {
            map.remove("apiVersion");
            map.remove("kind");
        }
        object(&mut value, "metadata").insert("resourceVersion".into(), revision.to_string().into());
        let label = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        let labels = at(&value, &["metadata", "labels"]).and_then(Value::as_object).into_iter().flatten();
        let field = |path: &String| {
            let steps: Vec<&str> = path.split('.').collect();
            // Fields that are absent compare as their type's zero: the empty string, or false.
            let zero = if matches!(path.as_str(), "spec.hostNetwork" | "spec.unschedulable") { "false" } else { "" };
            (path.clone(), at(&value, &steps).and_then(shown).unwrap_or_else(|| zero.to_owned()))
        };
        Self {
            namespace: text(&value, &["metadata", "namespace"]).unwrap_or_default().to_owned(),
            name: text(&value, &["metadata", "name"]).unwrap_or_default().to_owned(),
            labels: labels.filter_map(label).collect(),
            fields: fields.iter().map(field).collect(),
            json: serde_json::to_vec(&value).unwrap_or_default().into(),
        }
    }

    /// The key in its table.
    pub(crate) fn key(&self) -> String {
        key(&self.namespace, &self.name)
    }

    /// The object without `apiVersion` and `kind`.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.json).unwrap_or_else(|_| json!({}))
    }

    /// The object without `apiVersion` and `kind`, as JSON.
    pub(crate) fn bare(&self) -> &[u8] {
        &self.json
    }

    /// The object as JSON, of this kind and version.
    pub(crate) fn write(&self, kind: &str, api_version: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",").as_bytes());
        out.extend_from_slice(self.json.get(1..).unwrap_or_default());
    }
}

/// The key of an object in its table; the namespace is empty for cluster-wide kinds.
pub(crate) fn key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}
