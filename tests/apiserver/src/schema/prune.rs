//! Pruning: a field that the schema does not know is dropped, and named for those who asked to be told.

use serde_json::Value;

use super::{below, flag, property};

/// Drops unknown fields of an object of the kind this schema describes, and returns their paths.
pub(crate) fn prune(schema: &Value, object: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    descend(schema, object, "", true, &mut unknown);
    unknown
}

fn descend(schema: &Value, value: &mut Value, path: &str, whole: bool, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let whole = whole || flag(schema, "x-kubernetes-embedded-resource");
            let kept = |name: &str| whole && matches!(name, "apiVersion" | "kind" | "metadata");
            let keeps_all = flag(schema, "x-kubernetes-preserve-unknown-fields")
                || schema.get("additionalProperties") == Some(&Value::Bool(true));
            map.retain(|name, _| {
                let known = kept(name) || keeps_all || property(schema, name).is_some();
                if !known {
                    unknown.push(below(path, name));
                }
                known
            });
            for (name, inner) in map.iter_mut().filter(|(name, _)| !kept(name)) {
                if let Some(schema) = property(schema, name) {
                    descend(schema, inner, &below(path, name), false, unknown);
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return };
            for (index, item) in items.iter_mut().enumerate() {
                descend(schema, item, &format!("{path}[{index}]"), false, unknown);
            }
        }
        _ => (),
    }
}
