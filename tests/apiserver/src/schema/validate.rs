//! Validation against a structural schema, in the words of the API server's validator.

use serde_json::Value;

use super::{below, flag, list, property};
use crate::status::FieldError;

/// Complaints about an object of the kind this schema describes.
pub(crate) fn validate(schema: &Value, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let root = object.as_object().cloned().unwrap_or_default();
    let body = root.into_iter().filter(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind" | "metadata"));
    check(schema, &Value::Object(body.collect()), "", &mut errors);
    errors
}

fn check(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if value.is_null() && flag(schema, "nullable") {
        return;
    }
    if let Some(expected) = wrong_type(schema, value) {
        errors.push(FieldError::wrong_type(path, type_of(value), expected));
        return;
    }
    let allowed = list(schema, "enum");
    if !allowed.is_empty() && !allowed.contains(value) {
        errors.push(FieldError::unsupported(path, value, allowed));
    }
    match value {
        Value::Object(_) => object(schema, value, path, errors),
        Value::Array(items) => array(schema, items, value, path, errors),
        Value::String(text) => string(schema, text, value, path, errors),
        Value::Number(_) => number(schema, value, path, errors),
        Value::Bool(_) | Value::Null => (),
    }
    combined(schema, value, path, errors);
}

/// The type a schema asks for, if the value is of another.
fn wrong_type<'s>(schema: &'s Value, value: &Value) -> Option<&'s str> {
    if flag(schema, "x-kubernetes-int-or-string") {
        return (!value.is_string() && !value.is_i64() && !value.is_u64()).then_some("integer,string");
    }
    let expected = schema.get("type").and_then(Value::as_str).filter(|expected| !expected.is_empty())?;
    let fits = match expected {
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        _ => type_of(value) == expected,
    };
    (!fits).then_some(expected)
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn object(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Value::Object(map) = value else { return };
    for name in list(schema, "required").iter().filter_map(Value::as_str) {
        if !map.contains_key(name) {
            errors.push(FieldError::required(&below(path, name), ""));
        }
    }
    count(schema, map.len(), path, ("minProperties", "maxProperties", "properties"), value, errors);
    for (name, inner) in map {
        if let Some(schema) = property(schema, name) {
            check(schema, inner, &below(path, name), errors);
        }
    }
}

fn array(schema: &Value, items: &[Value], value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    count(schema, items.len(), path, ("minItems", "maxItems", "items"), value, errors);
    let keys: Vec<&str> = list(schema, "x-kubernetes-list-map-keys").iter().filter_map(Value::as_str).collect();
    let kind = schema.get("x-kubernetes-list-type").and_then(Value::as_str).unwrap_or("atomic");
    for (index, item) in items.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let same = |other: &Value| match kind {
            "set" => other == item,
            "map" => keys.iter().all(|key| other.get(key) == item.get(key)),
            _ => false,
        };
        if items[..index].iter().any(same) {
            let shown: serde_json::Map<String, Value> =
                keys.iter().filter_map(|&key| Some((key.to_owned(), item.get(key)?.clone()))).collect();
            let shown = if kind == "map" { Value::Object(shown) } else { item.clone() };
            errors.push(FieldError::duplicate(&path, &shown));
        }
        if let Some(schema) = schema.get("items") {
            check(schema, item, &path, errors);
        }
    }
}

fn count(
    schema: &Value,
    count: usize,
    path: &str,
    (least, most, what): (&str, &str, &str),
    value: &Value,
    errors: &mut Vec<FieldError>,
) {
    let bound = |name: &str| schema.get(name).and_then(Value::as_u64);
    if let Some(least) = bound(least).filter(|&least| (count as u64) < least) {
        errors.push(FieldError::invalid(path, value, &format!("{path} in body should have at least {least} {what}")));
    }
    if let Some(most) = bound(most).filter(|&most| (count as u64) > most) {
        let message = format!("Too many: {count}: must have at most {most} items");
        errors.push(FieldError { field: path.into(), reason: "FieldValueTooMany", message });
    }
}

fn string(schema: &Value, text: &str, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let length = text.chars().count() as u64;
    let bound = |name: &str| schema.get(name).and_then(Value::as_u64);
    if let Some(least) = bound("minLength").filter(|&least| length < least) {
        let why = format!("{path} in body should be at least {least} chars long");
        errors.push(FieldError::invalid(path, value, &why));
    }
    if let Some(most) = bound("maxLength").filter(|&most| length > most) {
        let message = format!("Too long: may not be more than {most} bytes");
        errors.push(FieldError { field: path.into(), reason: "FieldValueTooLong", message });
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
        && !regex::Regex::new(pattern).is_ok_and(|regex| regex.is_match(text))
    {
        errors.push(FieldError::invalid(path, value, &format!("{path} in body should match '{pattern}'")));
    }
    let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
    let rfc3339 = time::format_description::well_known::Rfc3339;
    let wrong = match format {
        "date-time" => time::OffsetDateTime::parse(text, &rfc3339).is_err(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_err(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_err(),
        "uuid" => uuid::Uuid::parse_str(text).is_err(),
        _ => false,
    };
    if wrong {
        errors.push(FieldError::invalid(path, value, &format!("{path} in body must be of type {format}: {value}")));
    }
}

fn number(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(number) = value.as_f64() else { return };
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    let shown = |name: &str| schema.get(name).map(Value::to_string).unwrap_or_default();
    if let Some(least) = bound("minimum") {
        let exclusive = flag(schema, "exclusiveMinimum");
        if number < least || (exclusive && number <= least) {
            let or_equal = if exclusive { "" } else { " or equal to" };
            let why = format!("{path} in body should be greater than{or_equal} {}", shown("minimum"));
            errors.push(FieldError::invalid(path, value, &why));
        }
    }
    if let Some(most) = bound("maximum") {
        let exclusive = flag(schema, "exclusiveMaximum");
        if number > most || (exclusive && number >= most) {
            let or_equal = if exclusive { "" } else { " or equal to" };
            let why = format!("{path} in body should be less than{or_equal} {}", shown("maximum"));
            errors.push(FieldError::invalid(path, value, &why));
        }
    }
    if let Some(step) = bound("multipleOf").filter(|&step| step != 0.0 && (number / step).fract() != 0.0) {
        errors.push(FieldError::invalid(path, value, &format!("{path} in body should be a multiple of {step}")));
    }
}

fn combined(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let holds = |schema: &Value| {
        let mut found = Vec::new();
        check(schema, value, path, &mut found);
        found.is_empty()
    };
    let mut fail = |what: &str| {
        errors.push(FieldError::invalid(path, value, &format!("{path} in body must {what}")));
    };
    if schema.get("not").is_some_and(holds) {
        fail("not validate the schema (not)");
    }
    let any = list(schema, "anyOf");
    if !any.is_empty() && !any.iter().any(holds) {
        fail("validate at least one schema (anyOf)");
    }
    let one = list(schema, "oneOf");
    if !one.is_empty() && one.iter().filter(|&schema| holds(schema)).count() != 1 {
        fail("validate one and only one schema (oneOf)");
    }
    if !list(schema, "allOf").iter().all(holds) {
        fail("validate all the schemas (allOf)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn complaints(schema: Value, value: Value) -> Vec<String> {
        validate(&schema, &value).into_iter().map(|error| format!("{}: {}", error.field, error.message)).collect()
    }

    #[test]
    fn complaints_name_field_value_and_bound() {
        let schema = json!({"type": "object", "properties": {
            "size": {"type": "integer", "minimum": 1},
            "name": {"type": "string", "pattern": "^a+$"},
            "list": {"type": "array", "maxItems": 1, "items": {"type": "string"}},
        }, "required": ["size"]});
        assert_eq!(complaints(schema.clone(), json!({})), ["size: Required value"]);
        let wrong = json!({"size": 0, "name": "b", "list": [1]});
        let expected = [
            "list[0]: Invalid value: \"integer\": list[0] in body must be of type string: \"integer\"",
            "name: Invalid value: \"b\": name in body should match '^a+$'",
            "size: Invalid value: 0: size in body should be greater than or equal to 1",
        ];
        assert_eq!(complaints(schema, wrong), expected);
    }

    #[test]
    fn list_maps_have_unique_keys() {
        let schema = json!({"type": "object", "properties": {"l": {
            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}}},
        }}});
        assert_eq!(
            complaints(schema, json!({"l": [{"k": "a"}, {"k": "a"}]})),
            ["l[1]: Duplicate value: {\"k\":\"a\"}"]
        );
    }
}
