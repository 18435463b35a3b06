//! Merging an applied configuration into an object, and taking fields out of one.

use serde_json::Value;

use super::fields::Fields;
use super::topology::{Listing, Topology, key_of};

/// Writes what is applied over what is there, part by part.
pub(super) fn merge(live: &mut Value, applied: &Value, topology: Topology<'_>, path: &mut Vec<String>) {
    let steps: Vec<&str> = path.iter().map(String::as_str).collect();
    match (&mut *live, applied) {
        (Value::Object(live), Value::Object(applied)) if !topology.is_atomic_map(&steps) => {
            for (name, value) in applied {
                path.push(name.clone());
                match live.get_mut(name) {
                    Some(found) => merge(found, value, topology, path),
                    None => drop(live.insert(name.clone(), value.clone())),
                }
                path.pop();
            }
        }
        (Value::Array(live), Value::Array(applied)) => match topology.listing(&steps) {
            Listing::Atomic => live.clone_from(applied),
            Listing::Set => {
                for item in applied {
                    if !live.contains(item) {
                        live.push(item.clone());
                    }
                }
            }
            Listing::Map(keys) => {
                for item in applied {
                    let key = key_of(item, &keys);
                    match live.iter_mut().find(|found| key_of(found, &keys) == key) {
                        Some(found) => merge(found, item, topology, path),
                        None => live.push(item.clone()),
                    }
                }
            }
        },
        _ => live.clone_from(applied),
    }
}

/// Takes out the fields of a set. An item or a map goes as a whole if it is in the set itself and nothing of it stays.
pub(super) fn remove(live: &mut Value, fields: &Fields, topology: Topology<'_>, path: &mut Vec<String>) {
    let steps: Vec<&str> = path.iter().map(String::as_str).collect();
    match live {
        Value::Object(map) => {
            for (element, inner) in &fields.below {
                let Some(name) = element.strip_prefix("f:") else { continue };
                let Some(found) = map.get_mut(name) else { continue };
                path.push(name.to_owned());
                remove(found, inner, topology, path);
                path.pop();
                let hollow = match &*found {
                    Value::Object(map) => map.is_empty(),
                    Value::Array(items) => items.is_empty(),
                    _ => false,
                };
                if (inner.here && inner.below.is_empty()) || hollow {
                    map.remove(name);
                }
            }
        }
        Value::Array(items) => match topology.listing(&steps) {
            Listing::Atomic => (),
            Listing::Set => items.retain(|item| !fields.below.contains_key(&format!("v:{item}"))),
            Listing::Map(keys) => items.retain_mut(|item| {
                let key = key_of(item, &keys);
                let Some(inner) = fields.below.get(&format!("k:{key}")) else { return true };
                remove(item, inner, topology, path);
                let only_keys = item.as_object().is_none_or(|item| item.keys().all(|name| keys.contains(name)));
                !(inner.here || item.as_object().is_none_or(serde_json::Map::is_empty)) || !only_keys
            }),
        },
        _ => (),
    }
}
