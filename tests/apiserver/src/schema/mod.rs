//! Structural schemas: what a custom resource is held to on its way in.
//!
//! Pruning first (unknown fields go, and are named), then defaults, then validation, then rules in CEL. Schemas are read as
//! the JSON they are written in; what is not understood of them constrains nothing.

mod cel;
mod fill;
mod prune;
mod validate;

use serde_json::{Value, json};

pub(crate) use fill::fill;
pub(crate) use prune::prune;
pub(crate) use validate::validate;

use crate::status::FieldError;

pub(crate) use self::cel::rules;

/// Complaints about a schema itself: no type where one is needed, rules that are no CEL, patterns that are none.
pub(crate) fn check(schema: &Value, field: &str, errors: &mut Vec<FieldError>) {
    let free = flag(schema, "x-kubernetes-preserve-unknown-fields") || flag(schema, "x-kubernetes-int-or-string");
    if schema.get("type").and_then(Value::as_str).is_none_or(str::is_empty) && !free {
        errors.push(FieldError::required(&format!("{field}.type"), "must not be empty for specified object fields"));
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
        && let Err(problem) = regex::Regex::new(pattern)
    {
        let why = format!("must be a valid regular expression, but isn't: {problem}");
        errors.push(FieldError::invalid(&format!("{field}.pattern"), &json!(pattern), &why));
    }
    for (index, rule) in list(schema, "x-kubernetes-validations").iter().enumerate() {
        let text = rule.get("rule").and_then(Value::as_str).unwrap_or_default();
        if let Err(problem) = cel::compile(text) {
            let rule = format!("{field}.x-kubernetes-validations[{index}].rule");
            errors.push(FieldError::invalid(&rule, &json!(text), &format!("compilation failed: {problem}")));
        }
    }
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        check(property, &format!("{field}.properties[{name}]"), errors);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner_schema) = schema.get(inner).filter(|inner| inner.is_object()) {
            check(inner_schema, &format!("{field}.{inner}"), errors);
        }
    }
}

/// Whether a schema sets a flag.
pub(crate) fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name) == Some(&Value::Bool(true))
}

/// A list in a schema, empty if there is none.
pub(crate) fn list<'s>(schema: &'s Value, name: &str) -> &'s [Value] {
    schema.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The schema of a field of an object.
pub(crate) fn property<'s>(schema: &'s Value, name: &str) -> Option<&'s Value> {
    let named = schema.get("properties").and_then(|properties| properties.get(name));
    named.or_else(|| schema.get("additionalProperties").filter(|inner| inner.is_object()))
}

/// The path of a field below another.
pub(crate) fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
