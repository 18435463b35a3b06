//! Defaults of a structural schema.

use serde_json::Value;

use super::property;

/// Writes defaults where nothing stands, or a null that the schema does not allow.
pub(crate) fn fill(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                let Some(default) = property.get("default") else { continue };
                let nullable = super::flag(property, "nullable");
                if map.get(name).is_none_or(|found| found.is_null() && !nullable) {
                    map.insert(name.clone(), default.clone());
                }
            }
            for (name, inner) in map.iter_mut() {
                if let Some(schema) = property(schema, name) {
                    fill(schema, inner);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                items.iter_mut().for_each(|item| fill(schema, item));
            }
        }
        _ => (),
    }
}
