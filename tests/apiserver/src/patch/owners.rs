//! `metadata.managedFields`: who set what, kept over every write.

use serde_json::{Value, json};

use super::fields::{Fields, difference};
use super::topology::Topology;
use crate::json::{at, object, text};
use crate::kinds::Resource;

/// Metadata that nobody owns, because the server sets it.
const UNOWNED: &[&str] = &[
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
];

/// One entry of `managedFields`.
#[derive(Clone)]
pub(crate) struct Owner {
    pub(crate) manager: String,
    pub(crate) applied: bool,
    pub(crate) api_version: String,
    pub(crate) subresource: String,
    pub(crate) time: Value,
    pub(crate) fields: Fields,
}

/// Who writes, and where.
pub(crate) struct Writer<'a> {
    pub(crate) manager: &'a str,
    pub(crate) subresource: &'a str,
    /// RFC 3339.
    pub(crate) now: &'a str,
}

impl Owner {
    /// Whether it is the entry of this writer, for the version it writes.
    pub(crate) fn is(&self, writer: &Writer<'_>, applied: bool, api_version: &str) -> bool {
        let same_version = applied || self.api_version == api_version;
        self.manager == writer.manager
            && self.applied == applied
            && self.subresource == writer.subresource
            && same_version
    }
}

/// The owners an object names.
pub(crate) fn read(object: &Value) -> Vec<Owner> {
    let entries = at(object, &["metadata", "managedFields"]).and_then(Value::as_array).into_iter().flatten();
    entries
        .map(|entry| {
            let part = |name: &str| text(entry, &[name]).unwrap_or_default().to_owned();
            Owner {
                manager: part("manager"),
                applied: part("operation") == "Apply",
                api_version: part("apiVersion"),
                subresource: part("subresource"),
                time: entry.get("time").cloned().unwrap_or_default(),
                fields: Fields::read(entry.get("fieldsV1").unwrap_or(&Value::Null)),
            }
        })
        .collect()
}

/// Writes owners into an object; those who own nothing any more are gone.
pub(crate) fn write(target: &mut Value, owners: Vec<Owner>) {
    let entry = |owner: &Owner| {
        let mut entry = json!({
            "manager": owner.manager,
            "operation": if owner.applied { "Apply" } else { "Update" },
            "apiVersion": owner.api_version,
            "time": owner.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": owner.fields.write(),
        });
        if !owner.subresource.is_empty() {
            entry["subresource"] = owner.subresource.clone().into();
        }
        entry
    };
    let entries: Vec<Value> = owners.iter().filter(|owner| !owner.fields.is_empty()).map(entry).collect();
    let metadata = object(target, "metadata");
    if entries.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".into(), entries.into());
    }
}

/// Gives a write that changes nothing but the times of its owners the times it found, so that it is none: what an atomic
/// list is given by default is no part of what is applied, and would otherwise be a change at every apply. (The API server's
/// `IgnoreManagedFieldsTimestampsTransformer`.)
pub(crate) fn keep_times(old: &Value, new: &mut Value) {
    let (before, mut after) = (read(old), read(new));
    if before.len() != after.len() {
        return;
    }
    for (before, after) in before.iter().zip(&mut after) {
        after.time = before.time.clone();
    }
    let mut kept = new.clone();
    write(&mut kept, after);
    if kept == *old {
        *new = kept;
    }
}

/// Takes away what is never owned, and what this subresource does not write.
pub(crate) fn strip(fields: &mut Fields, resource: &Resource, subresource: &str) {
    for name in ["f:apiVersion", "f:kind"] {
        fields.cut(&[name]);
    }
    for name in UNOWNED {
        fields.cut(&["f:metadata", &format!("f:{name}")]);
    }
    if subresource == "status" {
        fields.below.retain(|name, _| name == "f:status" || (name == "f:metadata" && resource.builtin().is_some()));
    } else if resource.status {
        fields.cut(&["f:status"]);
    }
}

/// Accounts for an ordinary write: what changed is the writer's now, what went is nobody's. `new` is updated in place.
pub(crate) fn account(resource: &Resource, old: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    // A client may hand ownership on, or with an empty list give all of it up; saying nothing keeps it.
    let mut owners = match at(new, &["metadata", "managedFields"]).and_then(Value::as_array) {
        None => old.map(read).unwrap_or_default(),
        Some(list) if list.iter().all(|entry| entry.as_object().is_none_or(serde_json::Map::is_empty)) => Vec::new(),
        Some(_) => read(new),
    };
    let bare = |value: &Value| {
        let mut value = value.clone();
        object(&mut value, "metadata").remove("managedFields");
        value
    };
    let before = old.map_or_else(|| json!({"metadata": {}}), bare);
    let after = bare(new);
    let (mut changed, mut removed) = difference(Some(&before), Some(&after), Topology::of(resource), &mut Vec::new());
    strip(&mut changed, resource, writer.subresource);
    strip(&mut removed, resource, writer.subresource);
    for owner in &mut owners {
        owner.fields.subtract(&removed);
        if !owner.is(writer, false, &resource.api_version()) {
            owner.fields.subtract(&changed);
        }
    }
    if !changed.is_empty() {
        credit(&mut owners, resource, writer, changed);
    }
    write(new, owners);
}

fn credit(owners: &mut Vec<Owner>, resource: &Resource, writer: &Writer<'_>, changed: Fields) {
    let version = resource.api_version();
    match owners.iter_mut().find(|owner| owner.is(writer, false, &version)) {
        Some(owner) => {
            owner.fields.union(&changed);
            owner.time = writer.now.into();
        }
        None => owners.push(Owner {
            manager: writer.manager.to_owned(),
            applied: false,
            api_version: version,
            subresource: writer.subresource.to_owned(),
            time: writer.now.into(),
            fields: changed,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_of_nothing_but_times_is_none() {
        let object = |time: &str, value: u8| {
            let fields = json!({"f:data": {"f:k": {}}});
            let entry = json!({"manager": "m", "operation": "Apply", "apiVersion": "v1", "time": time,
                "fieldsType": "FieldsV1", "fieldsV1": fields});
            json!({"metadata": {"name": "a", "managedFields": [entry]}, "data": {"k": value}})
        };
        let old = object("2026-01-01T00:00:00Z", 1);
        let mut same = object("2026-01-01T00:00:01Z", 1);
        keep_times(&old, &mut same);
        assert_eq!(same, old);
        let other = object("2026-01-01T00:00:01Z", 2);
        let mut changed = other.clone();
        keep_times(&old, &mut changed);
        assert_eq!(changed, other, "a change has its own time");
    }
}
