//! Tables, as `kubectl get` shows them: pods, services, namespaces and nodes in full, custom kinds by their printer columns,
//! every other kind by name and age.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::partial;
use crate::json::{at, shown, text};
use crate::kinds::Resource;
use crate::request::Query;

/// Columns of pods, with the descriptions of their type.
const PODS: &str = include_str!("pods.columns.json");

/// A table of some objects.
pub(super) fn table(resource: &Resource, objects: &[&Value], metadata: Value, query: &Query) -> Value {
    let columns = columns(resource);
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let included = match query.text("includeObject") {
                "None" => Value::Null,
                "Object" => (*object).clone(),
                _ => partial(object),
            };
            json!({"cells": cells(resource, object), "object": included})
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns, "rows": rows,
    })
}

fn columns(resource: &Resource) -> Value {
    let column = |name: &str, format: &str, priority: u8| json!({"name": name, "type": "string", "format": format, "description": "", "priority": priority});
    if let Some(custom) = resource.custom().filter(|custom| !custom.columns.is_empty()) {
        let printed = custom.columns.iter().map(|printed| {
            let part = |name: &str| text(printed, &[name]).unwrap_or_default();
            let description = match part("description") {
                "" => format!("Custom resource definition column (in JSONPath format): {}", part("jsonPath")),
                said => said.to_owned(),
            };
            json!({
                "name": part("name"), "type": part("type"), "format": part("format"), "description": description,
                "priority": printed.get("priority").cloned().unwrap_or(json!(0)),
            })
        });
        return std::iter::once(column("Name", "name", 0)).chain(printed).collect();
    }
    let names: &[(&str, u8)] = match builtin(resource) {
        "pods" => return serde_json::from_str(PODS).unwrap_or_default(),
        "services" => {
            &[("Type", 0), ("Cluster-IP", 0), ("External-IP", 0), ("Port(s)", 0), ("Age", 0), ("Selector", 1)]
        }
        "namespaces" => &[("Status", 0), ("Age", 0)],
        "nodes" => &[("Status", 0), ("Roles", 0), ("Age", 0), ("Version", 0), ("Internal-IP", 1)],
        _ => &[("Age", 0)],
    };
    std::iter::once(column("Name", "name", 0))
        .chain(names.iter().map(|(name, priority)| column(name, "", *priority)))
        .collect()
}

fn builtin(resource: &Resource) -> &str {
    if resource.group.is_empty() { &resource.plural } else { "" }
}

fn cells(resource: &Resource, object: &Value) -> Vec<Value> {
    let name = text(object, &["metadata", "name"]).unwrap_or_default();
    let mut cells: Vec<Value> = vec![name.into()];
    let or = |path: &[&str], other: &str| Value::from(at(object, path).and_then(shown).unwrap_or_else(|| other.into()));
    let age = age(text(object, &["metadata", "creationTimestamp"]));
    if let Some(custom) = resource.custom().filter(|custom| !custom.columns.is_empty()) {
        cells.extend(custom.columns.iter().map(|column| {
            let found = json_path(object, text(column, &["jsonPath"]).unwrap_or_default());
            match (text(column, &["type"]), found) {
                (Some("date"), Some(date)) => self::age(date.as_str()).into(),
                (Some("string"), Some(found)) => shown(&found).unwrap_or_else(|| found.to_string()).into(),
                (_, found) => found.unwrap_or_default(),
            }
        }));
        return cells;
    }
    match builtin(resource) {
        "pods" => cells.extend(pod_cells(object, &age)),
        "services" => cells.extend([
            or(&["spec", "type"], ""),
            or(&["spec", "clusterIP"], "<none>"),
            or(&["spec", "externalName"], "<none>"),
            ports(object).into(),
            age.into(),
            selector(object).into(),
        ]),
        "namespaces" => cells.extend([or(&["status", "phase"], ""), age.into()]),
        "nodes" => {
            let ready = condition(object, "Ready");
            let status = match ready.as_deref() {
                Some("True") => "Ready",
                Some(_) => "NotReady",
                None => "Unknown",
            };
            let version = or(&["status", "nodeInfo", "kubeletVersion"], "");
            cells.extend([status.into(), "<none>".into(), age.into(), version, "<none>".into()]);
        }
        _ => cells.push(age.into()),
    }
    cells
}

fn pod_cells(pod: &Value, age: &str) -> Vec<Value> {
    let or = |path: &[&str]| Value::from(text(pod, path).unwrap_or("<none>"));
    let list = |path: &[&str]| at(pod, path).and_then(Value::as_array).map_or(&[] as &[Value], Vec::as_slice);
    let statuses = list(&["status", "containerStatuses"]);
    let ready = statuses.iter().filter(|status| status.get("ready") == Some(&Value::Bool(true))).count();
    let restarts: u64 = statuses.iter().filter_map(|status| status.get("restartCount")?.as_u64()).sum();
    let going = at(pod, &["metadata", "deletionTimestamp"]).is_some();
    let phase = text(pod, &["status", "reason"]).or(text(pod, &["status", "phase"])).unwrap_or("Unknown");
    let gates = list(&["spec", "readinessGates"]);
    let open = gates.iter().filter(|gate| {
        let kind = text(gate, &["conditionType"]).unwrap_or_default();
        condition(pod, kind).as_deref() == Some("True")
    });
    let gates = if gates.is_empty() { "<none>".to_owned() } else { format!("{}/{}", open.count(), gates.len()) };
    vec![
        format!("{ready}/{}", list(&["spec", "containers"]).len()).into(),
        if going { "Terminating".into() } else { phase.into() },
        restarts.to_string().into(),
        age.into(),
        or(&["status", "podIP"]),
        or(&["spec", "nodeName"]),
        or(&["status", "nominatedNodeName"]),
        gates.into(),
    ]
}

fn condition(object: &Value, kind: &str) -> Option<String> {
    let conditions = at(object, &["status", "conditions"])?.as_array()?;
    let found = conditions.iter().find(|condition| text(condition, &["type"]) == Some(kind))?;
    text(found, &["status"]).map(str::to_owned)
}

fn ports(service: &Value) -> String {
    let ports = at(service, &["spec", "ports"]).and_then(Value::as_array).into_iter().flatten();
    let shown = ports.map(|port| {
        let number = |name: &str| port.get(name).and_then(Value::as_u64).unwrap_or_default();
        let node = if number("nodePort") > 0 { format!(":{}", number("nodePort")) } else { String::new() };
        format!("{}{node}/{}", number("port"), text(port, &["protocol"]).unwrap_or("TCP"))
    });
    let shown: Vec<String> = shown.collect();
    if shown.is_empty() { "<none>".into() } else { shown.join(",") }
}

fn selector(service: &Value) -> String {
    let pairs = at(service, &["spec", "selector"]).and_then(Value::as_object).into_iter().flatten();
    let shown: Vec<String> =
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    if shown.is_empty() { "<none>".into() } else { shown.join(",") }
}

/// Time since, in the one or two units that matter: `3s`, `5m12s`, `4h`, `2d`.
fn age(since: Option<&str>) -> String {
    let Some(since) = since.and_then(|since| OffsetDateTime::parse(since, &Rfc3339).ok()) else {
        return "<unknown>".into();
    };
    let seconds = (OffsetDateTime::now_utc() - since).whole_seconds().max(0);
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        _ => format!("{days}d"),
    }
}

/// The paths that printer columns are written with: `.a.b`, `.a[0]`, `.a[?(@.type=="Ready")].status`.
fn json_path(value: &Value, path: &str) -> Option<Value> {
    let mut found = value;
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('[') {
            let (index, after) = inside.split_once(']')?;
            rest = after;
            found = match index.strip_prefix("?(@.").and_then(|test| test.strip_suffix(')')) {
                Some(test) => {
                    let (field, wanted) = test.split_once("==")?;
                    let wanted = wanted.trim().trim_matches(['"', '\'']);
                    found.as_array()?.iter().find(|item| text(item, &[field.trim()]) == Some(wanted))?
                }
                None => found.get(index.trim_matches(['"', '\'']).parse::<usize>().ok()?)?,
            };
        } else {
            let step = rest.trim_start_matches('.');
            let end = step.find(['.', '[']).unwrap_or(step.len());
            found = found.get(&step[..end])?;
            rest = &step[end..];
        }
    }
    Some(found.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printer_columns_find_fields_items_and_conditions() {
        let object =
            json!({"spec": {"list": [{"a": 1}]}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(json_path(&object, ".spec.list[0].a"), Some(json!(1)));
        assert_eq!(json_path(&object, ".status.conditions[?(@.type==\"Ready\")].status"), Some(json!("True")));
        assert_eq!(json_path(&object, ".spec.none"), None);
        assert_eq!(json_path(&object, ".spec.list[x"), None);
    }
}
