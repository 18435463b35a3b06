//! Strategic merge, as built-in kinds have it: merge patch, but lists with keys merge item by item.
//!
//! Understood: `$patch: delete`, `replace` and `merge`, `$deleteFromPrimitiveList/…` and `$retainKeys`;
//! `$setElementOrder/…` is accepted and the order left as it is.

use serde_json::{Map, Value};

use super::topology::{Listing, Topology};
use crate::json::as_object;
use crate::status::ApiError;

/// The object after a strategic merge patch.
pub(crate) fn strategic_merge(object: &Value, patch: &Value) -> Result<Value, ApiError> {
    if !patch.is_object() {
        return Err(ApiError::bad_request("error decoding patch: a strategic merge patch is an object"));
    }
    let mut patched = object.clone();
    merge_map(&mut patched, patch, &mut Vec::new());
    Ok(patched)
}

fn merge_map(live: &mut Value, patch: &Value, path: &mut Vec<String>) {
    let Some(patch) = patch.as_object() else { return };
    if patch.get("$patch").and_then(Value::as_str) == Some("replace") {
        *live = Value::Object(without_directives(patch));
        return;
    }
    let live = as_object(live);
    if let Some(kept) = patch.get("$retainKeys").and_then(Value::as_array) {
        live.retain(|name, _| kept.iter().any(|key| key == name));
    }
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = value.as_array().cloned().unwrap_or_default();
            if let Some(items) = live.get_mut(list).and_then(Value::as_array_mut) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if name.starts_with('$') {
            continue;
        }
        path.push(name.clone());
        merge_field(live, name, value, path);
        path.pop();
    }
}

fn merge_field(live: &mut Map<String, Value>, name: &str, value: &Value, path: &mut Vec<String>) {
    match value {
        Value::Null => drop(live.remove(name)),
        Value::Object(map) if map.get("$patch").and_then(Value::as_str) == Some("delete") => drop(live.remove(name)),
        Value::Object(_) => merge_map(live.entry(name).or_insert_with(|| Value::Object(Map::new())), value, path),
        Value::Array(items) => {
            let steps: Vec<&str> = path.iter().map(String::as_str).collect();
            let listing = Topology::Builtin.listing(&steps);
            let slot = live.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            match (slot, listing) {
                (Value::Array(live), Listing::Set) => {
                    live.extend(items.iter().filter(|item| !live.contains(item)).cloned().collect::<Vec<_>>());
                }
                (Value::Array(live), Listing::Map(keys)) => merge_items(live, items, &keys, path),
                (slot, _) => slot.clone_from(value),
            }
        }
        _ => drop(live.insert(name.to_owned(), value.clone())),
    }
}

/// The first key is the merge key: strategic merge knows only one.
fn merge_items(live: &mut Vec<Value>, items: &[Value], keys: &[String], path: &mut Vec<String>) {
    let Some(key) = keys.first() else { return };
    let directive = |item: &Value| item.get("$patch").and_then(Value::as_str).map(str::to_owned);
    if items.iter().any(|item| directive(item).as_deref() == Some("replace")) {
        live.clear();
    }
    for item in items {
        let same = |found: &Value| found.get(key).is_some() && found.get(key) == item.get(key);
        match directive(item).as_deref() {
            Some("delete") => live.retain(|found| !same(found)),
            Some("replace") if item.get(key).is_none() => (),
            _ => match live.iter_mut().find(|found| same(found)) {
                Some(found) => merge_map(found, item, path),
                None => live
                    .push(item.as_object().map_or_else(|| item.clone(), |map| Value::Object(without_directives(map)))),
            },
        }
    }
}

fn without_directives(map: &Map<String, Value>) -> Map<String, Value> {
    map.iter().filter(|(name, _)| !name.starts_with('$')).map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn items_merge_by_key_and_directives_are_obeyed() {
        let pod = json!({"metadata": {"labels": {"a": "1", "b": "2"}, "finalizers": ["x", "y"]},
            "spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}});
        let patch = json!({"metadata": {"labels": {"a": null}, "$deleteFromPrimitiveList/finalizers": ["x"]},
            "spec": {"containers": [{"name": "a", "image": "2"}, {"name": "b", "$patch": "delete"}, {"name": "c"}]}});
        let expected = json!({"metadata": {"labels": {"b": "2"}, "finalizers": ["y"]},
            "spec": {"containers": [{"name": "a", "image": "2"}, {"name": "c"}]}});
        assert_eq!(strategic_merge(&pod, &patch).ok(), Some(expected));
    }
}
