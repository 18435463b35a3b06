//! Events have two forms, one for each group that serves them, and are the same objects: stored as the core group has them.

use serde_json::{Value, json};

use crate::json::as_object;

/// The group of the newer form.
pub(super) const GROUP: &str = "events.k8s.io";

/// Fields by their names in the core group and in the newer form. All others are called the same.
const NAMES: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// The core group's form of an event of the newer one.
pub(super) fn to_core(event: Value) -> Value {
    rename(event, |core, new| (new, core))
}

/// The newer form of an event of the core group.
pub(super) fn from_core(event: Value) -> Value {
    rename(event, |core, new| (core, new))
}

fn rename(mut event: Value, direction: impl Fn(&'static str, &'static str) -> (&'static str, &'static str)) -> Value {
    let map = as_object(&mut event);
    for (core, new) in NAMES {
        let (from, to) = direction(core, new);
        if let Some(value) = map.remove(from).filter(|value| !value.is_null() && *value != json!({})) {
            map.insert(to.to_owned(), value);
        }
    }
    event
}
