//! Sets of fields, in the form that `managedFields` has: a tree of `f:name`, `k:{keys}`, `v:value`, with `.` for the node
//! itself.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::topology::{Listing, Topology, key_of};

/// A set of fields of an object.
#[derive(Clone, Default, PartialEq, Debug)]
pub(crate) struct Fields {
    /// Whether this node is in the set.
    pub(crate) here: bool,
    /// What is below it, by path element.
    pub(crate) below: BTreeMap<String, Fields>,
}

impl Fields {
    /// From `fieldsV1`.
    pub(crate) fn read(value: &Value) -> Self {
        let Some(map) = value.as_object() else { return Self::default() };
        let below: BTreeMap<_, _> = map
            .iter()
            .filter(|(key, _)| *key != ".")
            .map(|(key, inner)| (key.clone(), Self::read_child(inner)))
            .collect();
        Self { here: map.contains_key("."), below }
    }

    fn read_child(value: &Value) -> Self {
        let leaf = value.as_object().is_none_or(Map::is_empty);
        if leaf { Self { here: true, below: BTreeMap::new() } } else { Self::read(value) }
    }

    /// To `fieldsV1`.
    pub(crate) fn write(&self) -> Value {
        let mut map = Map::new();
        if self.here && !self.below.is_empty() {
            map.insert(".".into(), json!({}));
        }
        map.extend(self.below.iter().map(|(key, inner)| (key.clone(), inner.write())));
        Value::Object(map)
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.here && self.below.values().all(Self::is_empty)
    }

    pub(crate) fn union(&mut self, other: &Self) {
        self.here |= other.here;
        for (key, inner) in &other.below {
            self.below.entry(key.clone()).or_default().union(inner);
        }
    }

    /// Takes away what is in another set.
    pub(crate) fn subtract(&mut self, other: &Self) {
        self.here &= !other.here;
        for (key, inner) in &other.below {
            if let Some(mine) = self.below.get_mut(key) {
                mine.subtract(inner);
            }
        }
        self.below.retain(|_, inner| !inner.is_empty());
    }

    /// Takes away a node and everything below it.
    pub(crate) fn cut(&mut self, path: &[&str]) {
        match path {
            [] => *self = Self::default(),
            [first, rest @ ..] => {
                if let Some(inner) = self.below.get_mut(*first) {
                    inner.cut(rest);
                }
                self.below.retain(|_, inner| !inner.is_empty());
            }
        }
    }

    /// What is in both sets.
    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let both = |(key, inner): (&String, &Self)| {
            let common = inner.intersection(other.below.get(key)?);
            (!common.is_empty()).then(|| (key.clone(), common))
        };
        Self { here: self.here && other.here, below: self.below.iter().filter_map(both).collect() }
    }

    /// Every field of the set as messages name it: `.spec.ports[port=80].name`.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, path: &str, paths: &mut Vec<String>) {
        if self.here {
            paths.push(path.to_owned());
        }
        for (key, inner) in &self.below {
            inner.collect(&format!("{path}{}", shown(key)), paths);
        }
    }
}

fn shown(element: &str) -> String {
    let Some((kind, rest)) = element.split_once(':') else { return element.to_owned() };
    match kind {
        "f" => format!(".{rest}"),
        "k" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let parts: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", parts.join(","))
        }
        _ => format!("[={rest}]"),
    }
}

/// The fields an object has.
pub(crate) fn fields_of(value: &Value, topology: Topology<'_>, path: &mut Vec<String>) -> Fields {
    let steps: Vec<&str> = path.iter().map(String::as_str).collect();
    let mut fields = Fields::default();
    match value {
        Value::Object(map) if !map.is_empty() && !topology.is_atomic_map(&steps) => {
            for (name, inner) in map {
                path.push(name.clone());
                fields.below.insert(format!("f:{name}"), fields_of(inner, topology, path));
                path.pop();
            }
        }
        Value::Array(items) if !items.is_empty() => match topology.listing(&steps) {
            Listing::Atomic => fields.here = true,
            Listing::Set => {
                let member = Fields { here: true, below: BTreeMap::new() };
                fields.below = items.iter().map(|item| (format!("v:{item}"), member.clone())).collect();
            }
            Listing::Map(keys) => {
                for item in items {
                    let mut inner = fields_of(item, topology, path);
                    inner.here = true;
                    fields.below.insert(format!("k:{}", key_of(item, &keys)), inner);
                }
            }
        },
        _ => fields.here = true,
    }
    fields
}

/// What differs between two states: fields set or changed, and fields gone.
pub(crate) fn difference(
    old: Option<&Value>,
    new: Option<&Value>,
    topology: Topology<'_>,
    path: &mut Vec<String>,
) -> (Fields, Fields) {
    let steps: Vec<&str> = path.iter().map(String::as_str).collect();
    let mut changed = (Fields::default(), Fields::default());
    match (old, new) {
        (None, None) => (),
        (None, Some(new)) => changed.0 = with_containers(new, topology, path),
        (Some(old), None) => changed.1 = with_containers(old, topology, path),
        (Some(old), Some(new)) if old == new => (),
        (Some(Value::Object(old)), Some(Value::Object(new))) if !topology.is_atomic_map(&steps) => {
            let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                path.push(name.clone());
                let below = difference(old.get(name), new.get(name), topology, path);
                path.pop();
                hang(&mut changed, format!("f:{name}"), below);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => match topology.listing(&steps) {
            Listing::Atomic => changed.0.here = true,
            Listing::Set => {
                let leaf = || Fields { here: true, below: BTreeMap::new() };
                for item in new.iter().filter(|item| !old.contains(item)) {
                    changed.0.below.insert(format!("v:{item}"), leaf());
                }
                for item in old.iter().filter(|item| !new.contains(item)) {
                    changed.1.below.insert(format!("v:{item}"), leaf());
                }
            }
            Listing::Map(keys) => {
                let by_key = |items: &[Value]| -> BTreeMap<String, Value> {
                    items.iter().map(|item| (format!("k:{}", key_of(item, &keys)), item.clone())).collect()
                };
                let (old, new) = (by_key(old), by_key(new));
                let elements: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
                for element in elements {
                    let below = difference(old.get(element), new.get(element), topology, path);
                    hang(&mut changed, element.clone(), below);
                }
            }
        },
        _ => changed.0.here = true,
    }
    changed
}

fn hang(changed: &mut (Fields, Fields), element: String, below: (Fields, Fields)) {
    for (side, below) in [(&mut changed.0, below.0), (&mut changed.1, below.1)] {
        if !below.is_empty() {
            side.below.insert(element.clone(), below);
        }
    }
}

/// All fields of a value that appeared or went as a whole, containers included: whoever made them owns them too.
fn with_containers(value: &Value, topology: Topology<'_>, path: &mut Vec<String>) -> Fields {
    let mut fields = fields_of(value, topology, path);
    if path.len() > 1 {
        fields.here = true;
    }
    fields
}
