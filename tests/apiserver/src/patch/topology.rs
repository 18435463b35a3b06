//! What is one value and what has parts: for built-in kinds a table, for custom ones their schema.
//!
//! The table holds what `k8s-openapi`'s types do not say at run time, from the `x-kubernetes-list-type`, `-map-keys` and
//! `-map-type` of Kubernetes' published schema. A list that is not in it is one value. Paths are field names; positions in
//! lists leave no trace in them.

use serde_json::{Value, json};

use crate::kinds::{Resource, Shape};

/// How a list is owned and merged.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Listing {
    /// As one value.
    Atomic,
    /// Each scalar on its own.
    Set,
    /// Each object on its own, told from others by these fields.
    Map(Vec<String>),
}

/// Knows the lists and maps of one kind.
#[derive(Clone, Copy)]
pub(crate) enum Topology<'a> {
    Builtin,
    Schema(&'a Value),
}

/// Lists by the field above them (`*`: any) and their own name.
const LISTS: &[(&str, &str, &[&str])] = &[
    ("metadata", "ownerReferences", &["uid"]),
    ("metadata", "finalizers", &[]),
    ("containers", "ports", &["containerPort", "protocol"]),
    ("initContainers", "ports", &["containerPort", "protocol"]),
    ("spec", "ports", &["port", "protocol"]),
    ("status", "addresses", &["type"]),
    ("status", "podIPs", &["ip"]),
    ("status", "hostIPs", &["ip"]),
    ("status", "images", &["names"]),
    ("spec", "topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("spec", "finalizers", &[]),
    ("*", "conditions", &["type"]),
    ("*", "containers", &["name"]),
    ("*", "initContainers", &["name"]),
    ("*", "ephemeralContainers", &["name"]),
    ("*", "volumes", &["name"]),
    ("*", "volumeMounts", &["mountPath"]),
    ("*", "volumeDevices", &["devicePath"]),
    ("*", "env", &["name"]),
    ("*", "imagePullSecrets", &["name"]),
    ("*", "secrets", &["name"]),
    ("*", "hostAliases", &["ip"]),
    ("*", "resourceClaims", &["name"]),
];

/// Maps that are one value.
const ATOMIC_MAPS: &[&str] = &[
    "selector",
    "nodeSelector",
    "labelSelector",
    "podSelector",
    "namespaceSelector",
    "targetRef",
    "involvedObject",
    "regarding",
    "related",
    "secretKeyRef",
    "configMapKeyRef",
    "fieldRef",
    "resourceFieldRef",
    "roleRef",
    "scopeSelector",
];

impl<'a> Topology<'a> {
    pub(crate) fn of(resource: &'a Resource) -> Self {
        match &resource.shape {
            Shape::Builtin(_) => Self::Builtin,
            Shape::Custom(custom) => Self::Schema(&custom.schema),
        }
    }

    /// How the list at a path is merged.
    pub(crate) fn listing(&self, path: &[&str]) -> Listing {
        match self {
            Self::Schema(schema) if path.first() != Some(&"metadata") => {
                let found = walk(schema, path);
                let keys =
                    found.map_or(&[] as &[Value], |found| crate::schema::list(found, "x-kubernetes-list-map-keys"));
                match found.and_then(|found| found.get("x-kubernetes-list-type")).and_then(Value::as_str) {
                    Some("set") => Listing::Set,
                    Some("map") => Listing::Map(keys.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
                    _ => Listing::Atomic,
                }
            }
            _ => {
                let name = path.last().copied().unwrap_or_default();
                let above = path.len().checked_sub(2).and_then(|at| path.get(at)).copied().unwrap_or_default();
                let fits =
                    |(parent, list, _): &&(&str, &str, &[&str])| *list == name && (*parent == "*" || *parent == above);
                match LISTS.iter().find(fits) {
                    None => Listing::Atomic,
                    Some((_, _, [])) => Listing::Set,
                    Some((_, _, keys)) => Listing::Map(keys.iter().map(|&key| key.to_owned()).collect()),
                }
            }
        }
    }

    /// Whether the map at a path is one value.
    pub(crate) fn is_atomic_map(&self, path: &[&str]) -> bool {
        match self {
            Self::Schema(schema) if path.first() != Some(&"metadata") => {
                let found = walk(schema, path);
                let kind = found.and_then(|found| found.get("x-kubernetes-map-type")).and_then(Value::as_str);
                // What the schema does not describe inside is described by nothing: parts are told apart by name.
                kind == Some("atomic")
            }
            _ => path.len() > 1 && ATOMIC_MAPS.contains(&path[path.len() - 1]),
        }
    }
}

fn walk<'s>(schema: &'s Value, path: &[&str]) -> Option<&'s Value> {
    path.iter().try_fold(schema, |schema, step| {
        let inside = schema.get("items").unwrap_or(schema);
        crate::schema::property(inside, step)
    })
}

/// The keys of an item of a list map, with the defaults that keys have.
pub(crate) fn key_of(item: &Value, keys: &[String]) -> Value {
    let key = |name: &String| {
        let default = || if name == "protocol" { json!("TCP") } else { Value::Null };
        (name.clone(), item.get(name).cloned().unwrap_or_else(default))
    };
    Value::Object(keys.iter().map(key).filter(|(_, value)| !value.is_null()).collect())
}
