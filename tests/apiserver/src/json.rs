//! Walks through JSON values that nobody vouches for: a missing step is `None`, never a panic.

use serde_json::{Map, Value};

/// What stands at a path of field names.
pub(crate) fn at<'v>(value: &'v Value, path: &[&str]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, step| value.get(step))
}

/// A string at a path.
pub(crate) fn text<'v>(value: &'v Value, path: &[&str]) -> Option<&'v str> {
    at(value, path)?.as_str()
}

/// A field as an object to write to; whatever else stood there gives way.
pub(crate) fn object<'v>(value: &'v mut Value, field: &str) -> &'v mut Map<String, Value> {
    let parent = as_object(value);
    as_object(parent.entry(field).or_insert_with(|| Value::Object(Map::new())))
}

/// A value as an object to write to; whatever else stood there gives way.
pub(crate) fn as_object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

/// Sets a field that is absent or null.
pub(crate) fn default(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    if map.get(field).is_none_or(Value::is_null) {
        map.insert(field.to_owned(), value.into());
    }
}

/// The elements of a list at a path, to write to; none if there is no list.
pub(crate) fn items<'v>(value: &'v mut Value, path: &[&str]) -> impl Iterator<Item = &'v mut Value> {
    let found = path.iter().try_fold(value, |value, step| value.get_mut(step));
    found.and_then(Value::as_array_mut).into_iter().flatten()
}

/// The string form of a scalar, as selectors and columns compare and show it.
pub(crate) fn shown(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        _ => None,
    }
}
