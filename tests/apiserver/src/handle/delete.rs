//! Deletion: preconditions, grace, finalizers, and many at once.

use std::sync::Arc;

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::{Answer, Call, read, write};
use crate::engine::{Shared, timestamp};
use crate::json::{at, object, text};
use crate::kinds::Resource;
use crate::status::{ApiError, success};
use crate::store::{Store, Stored, key};
use crate::view::typed;

/// What became of an object that was to be deleted.
pub(crate) enum Removal {
    /// It is gone; this was its last state.
    Gone(Arc<Stored>),
    /// It waits for its finalizers, or for its time to be over.
    Waiting(Value),
}

/// How to delete.
#[derive(Default)]
pub(crate) struct Options {
    grace: Option<i64>,
    uid: Option<String>,
    resource_version: Option<String>,
    dry_run: bool,
}

impl Options {
    /// Without grace.
    pub(crate) fn at_once() -> Self {
        Self { grace: Some(0), ..Self::default() }
    }

    fn of(call: &Call, body: &Value) -> Result<Self, ApiError> {
        let part = |path: &[&str]| text(body, path).map(str::to_owned);
        let from_query = call.query.text("gracePeriodSeconds").parse().ok();
        let dry_in_body =
            at(body, &["dryRun"]).and_then(Value::as_array).is_some_and(|list| list.contains(&json!("All")));
        Ok(Self {
            grace: at(body, &["gracePeriodSeconds"]).and_then(Value::as_i64).or(from_query),
            uid: part(&["preconditions", "uid"]),
            resource_version: part(&["preconditions", "resourceVersion"]),
            dry_run: dry_in_body || write::is_dry_run(call)?,
        })
    }
}

pub(super) fn delete(call: &Call, body: Value) -> Result<Answer, ApiError> {
    let options = Options::of(call, &body)?;
    let (resource, target) = (&call.resource, &call.target);
    let mut store = call.shared.store();
    let removal = remove(&call.shared, &mut store, resource, &key(&target.namespace, &target.name), &options)?;
    drop(store);
    let last = match &removal {
        Removal::Waiting(value) => return Ok(Answer::ok(call.view.one(resource, value, &call.query))),
        Removal::Gone(last) => last,
    };
    if resource.builtin().is_some_and(|builtin| builtin.returns_deleted) {
        return Ok(Answer::ok(call.view.stored(resource, last, &call.query)));
    }
    let uid = text(&last.value(), &["metadata", "uid"]).unwrap_or_default().to_owned();
    Ok(Answer::value(200, &success(&target.name, &resource.group, &resource.plural, &uid)))
}

pub(super) fn delete_collection(call: &Call, body: Value) -> Result<Answer, ApiError> {
    let options = Options::of(call, &body)?;
    let selection = read::selection(call)?;
    let mut store = call.shared.store();
    let revision = store.revision();
    let table = call.resource.table();
    let page = store.page(&table, &read::prefix(call), "", 0, revision, |object| selection.matches(object));
    for object in &page.objects {
        remove(&call.shared, &mut store, &call.resource, &object.key(), &options)?;
    }
    let metadata = json!({"resourceVersion": store.revision().to_string()});
    drop(store);
    Ok(Answer::ok(call.view.list(&call.resource, &page.objects, metadata, &call.query)))
}

/// Deletes one object, or marks it as to be deleted.
pub(crate) fn remove(
    shared: &Shared,
    store: &mut Store,
    resource: &Resource,
    key: &str,
    options: &Options,
) -> Result<Removal, ApiError> {
    let table = resource.table();
    let name = key.rsplit('/').next().unwrap_or(key);
    let stored = store.get(&table, key).ok_or_else(|| ApiError::not_found(resource, name))?;
    let mut value = typed(resource, &stored);
    check_preconditions(resource, name, &value, options)?;
    let grace = grace(resource, &value, options);
    let held = at(&value, &["metadata", "finalizers"]).and_then(Value::as_array).is_some_and(|list| !list.is_empty())
        || is_held_namespace(resource, &value);
    if grace == 0 && !held {
        if options.dry_run {
            return Ok(Removal::Gone(stored));
        }
        let last =
            store.delete(&table, key, &resource.selectable()).ok_or_else(|| ApiError::not_found(resource, name))?;
        after(shared, store, resource, &value);
        return Ok(Removal::Gone(last));
    }
    let marked = at(&value, &["metadata", "deletionTimestamp"]).is_some();
    let before = at(&value, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64);
    if marked && before.is_some_and(|before| before <= grace) {
        return Ok(Removal::Waiting(value));
    }
    mark(resource, &mut value, grace, marked);
    if options.dry_run {
        return Ok(Removal::Waiting(value));
    }
    let stored = store.put(&table, key, resource.to_stored(value), &resource.selectable());
    Ok(Removal::Waiting(typed(resource, &stored)))
}

fn check_preconditions(resource: &Resource, name: &str, value: &Value, options: &Options) -> Result<(), ApiError> {
    let found = |field: &str| text(value, &["metadata", field]).unwrap_or_default();
    let tail = "The object might have been deleted and then recreated";
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != found("uid")) {
        let record = found("uid");
        let why = format!("the UID in the precondition ({uid}) does not match the UID in record ({record}). {tail}");
        return Err(ApiError::precondition(resource, name, &why));
    }
    if let Some(version) = options.resource_version.as_deref().filter(|version| *version != found("resourceVersion")) {
        let record = found("resourceVersion");
        let why = format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({record}). \
             The object might have been modified"
        );
        return Err(ApiError::precondition(resource, name, &why));
    }
    Ok(())
}

/// No grace is longer, in seconds: times have to stay times.
const MOST_GRACE: i64 = 10 * 365 * 86_400;

/// Seconds a pod on a node has to end; 0 for whatever ends at once.
fn grace(resource: &Resource, value: &Value, options: &Options) -> i64 {
    let placed = text(value, &["spec", "nodeName"]).is_some_and(|node| !node.is_empty());
    let over = matches!(text(value, &["status", "phase"]), Some("Succeeded" | "Failed"));
    if !resource.is("", "pods") || !placed || over {
        return 0;
    }
    let own = at(value, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(30);
    options.grace.unwrap_or(own).clamp(0, MOST_GRACE)
}

/// A namespace's own finalizer is in its spec.
fn is_held_namespace(resource: &Resource, value: &Value) -> bool {
    resource.is("", "namespaces")
        && at(value, &["spec", "finalizers"]).and_then(Value::as_array).is_some_and(|list| !list.is_empty())
}

fn mark(resource: &Resource, value: &mut Value, grace: i64, marked: bool) {
    let generation = at(value, &["metadata", "generation"]).and_then(Value::as_u64);
    let metadata = object(value, "metadata");
    let end = OffsetDateTime::now_utc() + Duration::seconds(grace);
    metadata.insert("deletionTimestamp".into(), timestamp(end).into());
    if !resource.is("", "namespaces") {
        metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
    }
    if let Some(generation) = generation.filter(|_| !marked) {
        metadata.insert("generation".into(), (generation + 1).into());
    }
    if resource.is("", "namespaces") {
        object(value, "status").insert("phase".into(), "Terminating".into());
    }
}

/// Whether an object that was to be deleted has nothing left to wait for.
pub(super) fn is_over(resource: &Resource, value: &Value) -> bool {
    let empty = |list: Option<&Value>| list.and_then(Value::as_array).is_none_or(Vec::is_empty);
    at(value, &["metadata", "deletionTimestamp"]).is_some()
        && at(value, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or_default() == 0
        && empty(at(value, &["metadata", "finalizers"]))
        && !is_held_namespace(resource, value)
}

/// What follows from a deletion: with its definition a custom kind goes, and all of its objects.
pub(super) fn after(shared: &Shared, store: &mut Store, resource: &Resource, gone: &Value) {
    if !resource.is("apiextensions.k8s.io", "customresourcedefinitions") {
        return;
    }
    let part = |path: &[&str]| text(gone, path).unwrap_or_default();
    let (group, plural) = (part(&["spec", "group"]), part(&["spec", "names", "plural"]));
    let Ok(mut registry) = shared.registry.write() else { return };
    if let Some(custom) = registry.any_version(group, plural) {
        let table = custom.table();
        let page = store.page(&table, "", "", 0, store.revision(), |_| true);
        for object in page.objects {
            store.delete(&table, &object.key(), &custom.selectable());
        }
    }
    registry.remove(group, plural);
}

/// Ends a namespace whose contents are gone.
pub(crate) fn finish_namespace(store: &mut Store, resource: &Resource, name: &str) {
    let Some(found) = store.get("namespaces", name) else { return };
    let mut value = found.value();
    let held = at(&value, &["metadata", "finalizers"]).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if held {
        if at(&value, &["spec", "finalizers"]).is_some() {
            object(&mut value, "spec").remove("finalizers");
            store.put("namespaces", name, value, &resource.selectable());
        }
        return;
    }
    store.delete("namespaces", name, &resource.selectable());
}
