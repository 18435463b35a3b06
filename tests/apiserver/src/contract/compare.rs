//! Comparing an answer with the recorded one, and learning what took the place of what was recorded.

use std::collections::BTreeMap;

use serde_json::Value;

use super::RECORDED_TOKEN_SOURCE;

/// Fields whose values every server makes up for itself.
const GENERATED: &[&str] = &[
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "expirationTimestamp",
    "token",
    "continue",
    "clusterIP",
    "clusterIPs",
];
/// Fields of `/version` that tell one build from another.
const BUILD: &[&str] = &[
    "gitVersion",
    "gitCommit",
    "gitTreeState",
    "buildDate",
    "goVersion",
    "platform",
    "minor",
    "emulationMinor",
    "minCompatibilityMinor",
];

/// What takes the place of recorded values on this server.
pub(super) struct Learned {
    values: BTreeMap<String, String>,
    /// The double is held to more than a cluster in use can be: its revisions move only by what is replayed.
    double: bool,
}

impl Learned {
    pub(super) fn new(double: bool) -> Self {
        Self { values: BTreeMap::new(), double }
    }

    fn own(&self, recorded: &str) -> String {
        self.values.get(recorded).cloned().unwrap_or_else(|| recorded.to_owned())
    }

    /// A recorded path with this server's revisions and continue tokens.
    pub(super) fn path(&self, recorded: &str) -> String {
        let Some((path, query)) = recorded.split_once('?') else { return recorded.to_owned() };
        let options = query.split('&').map(|option| match option.split_once('=') {
            Some((name @ ("resourceVersion" | "continue"), value)) => format!("{name}={}", self.own(value)),
            _ => option.to_owned(),
        });
        format!("{path}?{}", options.collect::<Vec<_>>().join("&"))
    }

    /// A recorded body with this server's values.
    pub(super) fn body(&self, recorded: Value) -> Value {
        match recorded {
            Value::Object(map) => {
                let own = |(name, value): (String, Value)| {
                    let value = match value {
                        Value::String(text) if GENERATED.contains(&name.as_str()) => self.own(&text).into(),
                        Value::Array(items) if name == "clusterIPs" => {
                            items.iter().map(|ip| self.own(ip.as_str().unwrap_or_default())).collect()
                        }
                        other => self.body(other),
                    };
                    (name, value)
                };
                Value::Object(map.into_iter().map(own).collect())
            }
            Value::Array(items) => items.into_iter().map(|item| self.body(item)).collect(),
            other => other,
        }
    }

    /// Adds what differs between a recorded answer and one found, and learns from it.
    pub(super) fn compare(&mut self, recorded: &Value, found: &Value, differences: &mut Vec<String>) {
        self.descend(recorded, found, "", differences);
    }

    fn descend(&mut self, recorded: &Value, found: &Value, path: &str, differences: &mut Vec<String>) {
        match (recorded, found) {
            (Value::Object(recorded), Value::Object(found)) => {
                let names: std::collections::BTreeSet<&String> = recorded.keys().chain(found.keys()).collect();
                for name in names.into_iter().filter(|name| *name != "managedFields") {
                    let path = format!("{path}.{name}");
                    match (recorded.get(name), found.get(name)) {
                        (Some(recorded), Some(found)) => self.field(name, recorded, found, &path, differences),
                        (Some(recorded), None) => differences.push(format!("{path}: missing, recorded {recorded}")),
                        (None, Some(found)) => differences.push(format!("{path}: not recorded, found {found}")),
                        (None, None) => (),
                    }
                }
            }
            (Value::Array(recorded), Value::Array(found)) => {
                let recorded: Vec<&Value> =
                    recorded.iter().filter(|item| self.double || !is_distribution_s(item)).collect();
                if recorded.len() != found.len() {
                    differences.push(format!("{path}: recorded {} items, found {}", recorded.len(), found.len()));
                }
                for (index, (recorded, found)) in recorded.iter().zip(found).enumerate() {
                    self.descend(recorded, found, &format!("{path}[{index}]"), differences);
                }
            }
            (Value::String(recorded), Value::String(found)) => {
                if self.normal(recorded) != self.normal(found) && !(is_age(recorded) && is_age(found)) {
                    differences.push(format!("{path}: recorded {recorded:?}, found {found:?}"));
                }
            }
            _ if recorded == found => (),
            _ => differences.push(format!("{path}: recorded {recorded}, found {found}")),
        }
    }

    fn field(&mut self, name: &str, recorded: &Value, found: &Value, path: &str, differences: &mut Vec<String>) {
        if BUILD.contains(&name) && path.matches('.').count() == 1 && !self.double {
            return;
        }
        match (recorded, found) {
            (Value::String(old), Value::String(new)) if GENERATED.contains(&name) => {
                if new.is_empty() {
                    differences.push(format!("{path}: empty"));
                }
                let known = self.values.get(old).filter(|_| self.double || name == "uid");
                if let Some(known) = known.filter(|known| *known != new && !name.ends_with("Timestamp")) {
                    differences.push(format!("{path}: was {known} where the recording had {old} before, found {new}"));
                }
                self.values.insert(old.clone(), new.clone());
            }
            (Value::Array(old), Value::Array(new)) if name == "clusterIPs" && old.len() == new.len() => (),
            _ => self.descend(recorded, found, path, differences),
        }
    }

    /// A text with what is made up in it replaced: names, revisions, and this server's UIDs in place of recorded ones.
    fn normal(&self, text: &str) -> String {
        if text.starts_with("kube-api-access-") {
            return format!("kube-api-access- and {} characters", text.len() - "kube-api-access-".len());
        }
        if let Some(id) = text.strip_prefix("JTI=") {
            return format!("JTI= and a UUID: {}", uuid::Uuid::parse_str(id).is_ok());
        }
        if let Some((before, number)) =
            text.rsplit_once("current: ").filter(|(_, number)| number.parse::<u64>().is_ok())
        {
            return format!("{before}current: {}", if number.is_empty() { "" } else { "N" });
        }
        let known = self.values.iter().filter(|(old, _)| uuid::Uuid::parse_str(old).is_ok());
        known.fold(text.to_owned(), |text, (old, new)| text.replace(old.as_str(), new))
    }
}

fn is_distribution_s(item: &Value) -> bool {
    item["configMap"]["name"] == RECORDED_TOKEN_SOURCE.0
}

/// `3s`, `5m12s`.
fn is_age(text: &str) -> bool {
    text.ends_with(['s', 'm', 'h', 'd'])
        && text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_digit() || "smhd".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn differences(learned: &mut Learned, recorded: Value, found: Value) -> Vec<String> {
        let mut differences = Vec::new();
        learned.compare(&recorded, &found, &mut differences);
        differences
    }

    #[test]
    fn what_is_made_up_is_learned_and_everything_else_compared() {
        let mut learned = Learned::new(true);
        let recorded = json!({"metadata": {"resourceVersion": "281", "managedFields": []}, "a": [1, {"b": "x"}]});
        let found = json!({"metadata": {"resourceVersion": "7"}, "a": [1, {"b": "x"}]});
        assert!(differences(&mut learned, recorded.clone(), found).is_empty());
        assert_eq!(learned.path("/pods?watch=1&resourceVersion=281"), "/pods?watch=1&resourceVersion=7");
        let other = json!({"metadata": {"resourceVersion": "8"}, "a": [1, {"b": "y"}], "c": 1});
        assert_eq!(differences(&mut learned, recorded, other).len(), 3);
    }

    #[test]
    fn missing_and_additional_items_differ() {
        let mut learned = Learned::new(true);
        assert_eq!(differences(&mut learned, json!([1]), json!([1, 2])).len(), 1);
        assert_eq!(differences(&mut learned, json!({"a": null}), json!({})).len(), 1);
        assert_eq!(differences(&mut learned, json!("3s"), json!("4m2s")).len(), 0);
        assert_eq!(differences(&mut learned, json!("3s"), json!("soon")).len(), 1);
    }
}
