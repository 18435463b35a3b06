//! Create, update and patch: what comes in is decoded, defaulted, checked, numbered and kept.

use serde_json::Value;

use super::{Answer, Call, body};
use crate::engine::{now, suffix};
use crate::json::{as_object, at, object, text};
use crate::kinds::{Generation, Resource, Shape, metadata_errors, resources_of};
use crate::patch::owners::{self, Writer};
use crate::patch::{Style, apply, json_patch, merge_patch, strategic_merge};
use crate::request::manager;
use crate::status::{ApiError, FieldError};
use crate::store::{Store, key};
use crate::view::typed;
use crate::{engine::Shared, schema};

mod admit;
mod prepare;

use admit::admit;
use prepare::{decode, settle};

pub(super) fn create(call: &Call, body: Value) -> Result<Answer, ApiError> {
    if !call.target.subresource.is_empty() {
        return Err(ApiError::method_not_allowed());
    }
    let mut warnings = Vec::new();
    let object = decode(call, body, &mut warnings)?;
    let made = make(call, &mut call.shared.store(), object, None)?;
    respond(call, 201, &made, warnings)
}

/// Writes a new object. `name` is what a patch says it is called.
fn make(call: &Call, store: &mut Store, mut new: Value, name: Option<&str>) -> Result<Value, ApiError> {
    let resource = &call.resource;
    let metadata = object(&mut new, "metadata");
    if let Some(name) = name {
        metadata.insert("name".into(), name.into());
    }
    if let (None | Some(""), Some(base)) = (
        metadata.get("name").and_then(Value::as_str),
        metadata.get("generateName").and_then(Value::as_str).filter(|base| !base.is_empty()),
    ) {
        let name = format!("{base}{}", suffix());
        metadata.insert("name".into(), name.into());
    }
    if metadata.get("resourceVersion").and_then(Value::as_str).is_some_and(|version| !version.is_empty()) {
        let message = "resourceVersion should not be set on objects to be created";
        return Err(ApiError::new(500, "", message, None));
    }
    if resource.namespaced {
        metadata.insert("namespace".into(), call.target.namespace.clone().into());
    }
    for field in
        ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"]
    {
        metadata.remove(field);
    }
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), now().into());
    if resource.generation != Generation::Never {
        metadata.insert("generation".into(), 1.into());
    }
    let name = metadata.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    first_status(resource, &mut new);
    settle(resource, &mut new);
    admit(call, store, &mut new, &name)?;
    check(resource, &name, &new, None)?;
    let table = resource.table();
    let key = key(&call.target.namespace, &name);
    if store.get(&table, &key).is_some() {
        return Err(ApiError::already_exists(resource, &name));
    }
    if at(&new, &["metadata", "managedFields"]).is_none() {
        account(call, None, &mut new);
    }
    if is_dry_run(call)? {
        return Ok(new);
    }
    let stored = store.put(&table, &key, resource.to_stored(new), &resource.selectable());
    let value = typed(resource, &stored);
    if resource.is("apiextensions.k8s.io", "customresourcedefinitions") {
        republish(&call.shared, &value);
    }
    Ok(value)
}

pub(super) fn update(call: &Call, body: Value) -> Result<Answer, ApiError> {
    let mut warnings = Vec::new();
    let object = decode(call, body, &mut warnings)?;
    let name = text(&object, &["metadata", "name"]).unwrap_or_default();
    if name != call.target.name {
        let why = format!("the name of the object ({name}) does not match the name on the URL ({})", call.target.name);
        return Err(ApiError::bad_request(why));
    }
    let mut store = call.shared.store();
    let table = call.resource.table();
    let old = store.get(&table, &key(&call.target.namespace, name));
    let old = old.ok_or_else(|| ApiError::not_found(&call.resource, name))?;
    let written = replace(call, &mut store, &typed(&call.resource, &old), object, true)?;
    respond(call, 200, &written, warnings)
}

pub(super) fn patch(call: &Call, body: &[u8]) -> Result<Answer, ApiError> {
    let style = Style::of(&call.headers, &call.resource)?;
    let patch = if style == Style::Apply { body::yaml(body)? } else { body::json(body)? };
    if style == Style::Apply && call.query.text("fieldManager").is_empty() {
        let why = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
        return Err(ApiError::new(422, "Invalid", why, None));
    }
    let mut warnings = Vec::new();
    let mut store = call.shared.store();
    let table = call.resource.table();
    let old = store.get(&table, &key(&call.target.namespace, &call.target.name));
    let old = old.map(|old| typed(&call.resource, &old));
    if style == Style::Apply {
        return apply_patch(call, &mut store, old, patch, warnings);
    }
    let old = old.ok_or_else(|| ApiError::not_found(&call.resource, &call.target.name))?;
    let patched = match style {
        Style::Json => json_patch(&old, &patch)?,
        Style::Merge => merge_patch(&old, &patch)?,
        _ => strategic_merge(&old, &patch)?,
    };
    let object = decode(call, patched, &mut warnings)?;
    let written = replace(call, &mut store, &old, object, true)?;
    respond(call, 200, &written, warnings)
}

fn apply_patch(
    call: &Call,
    store: &mut Store,
    old: Option<Value>,
    patch: Value,
    mut warnings: Vec<String>,
) -> Result<Answer, ApiError> {
    let applied = decode_applied(call, patch, &mut warnings)?;
    let now = now();
    let manager = manager(&call.query, &call.headers);
    let writer = Writer { manager: &manager, subresource: &call.target.subresource, now: &now };
    if let (Some(old), Some(uid)) = (&old, text(&applied, &["metadata", "uid"]))
        && text(old, &["metadata", "uid"]) != Some(uid)
    {
        return Err(ApiError::modified(&call.resource, &call.target.name));
    }
    let merged = apply::apply(&call.resource, old.as_ref(), &applied, &writer, call.query.flag("force"))?;
    let merged = decode(call, merged, &mut Vec::new())?;
    match old {
        Some(old) => respond(call, 200, &replace(call, store, &old, merged, false)?, warnings),
        None if call.target.subresource.is_empty() => {
            respond(call, 201, &make(call, store, merged, Some(&call.target.name))?, warnings)
        }
        None => Err(ApiError::not_found(&call.resource, &call.target.name)),
    }
}

/// An applied configuration: strictly what the manager wrote, so without the fields that decoding would add.
fn decode_applied(call: &Call, mut patch: Value, warnings: &mut Vec<String>) -> Result<Value, ApiError> {
    prepare::check_kind(call, &patch)?;
    let name = text(&patch, &["metadata", "name"]).unwrap_or_default();
    if !name.is_empty() && name != call.target.name {
        return Err(ApiError::bad_request("metadata.name does not match the name on the URL"));
    }
    let known = decode(call, patch.clone(), warnings)?;
    prepare::retain_known(&mut patch, &known);
    Ok(patch)
}

/// Writes a new state of an object. `owned` tells whether the write has yet to be accounted to its manager.
fn replace(call: &Call, store: &mut Store, old: &Value, mut new: Value, owned: bool) -> Result<Value, ApiError> {
    let resource = &call.resource;
    let name = call.target.name.as_str();
    let sent = text(&new, &["metadata", "resourceVersion"]).filter(|version| !version.is_empty() && *version != "0");
    if sent.is_some() && sent != text(old, &["metadata", "resourceVersion"]) {
        return Err(ApiError::modified(resource, name));
    }
    if let (Some(sent), Some(uid)) =
        (text(&new, &["metadata", "uid"]).filter(|uid| !uid.is_empty()), text(old, &["metadata", "uid"]))
        && sent != uid
    {
        let why = format!("Precondition failed: UID in precondition: {sent}, UID in object meta: {uid}");
        return Err(ApiError::precondition(resource, name, &why));
    }
    carry_over(resource, &call.target.subresource, old, &mut new);
    settle(resource, &mut new);
    count_generation(resource, old, &mut new);
    check(resource, name, &new, Some(old))?;
    if owned {
        account(call, Some(old), &mut new);
    }
    if let Some(version) = at(old, &["metadata", "resourceVersion"]) {
        object(&mut new, "metadata").insert("resourceVersion".into(), version.clone());
    }
    owners::keep_times(old, &mut new);
    if is_dry_run(call)? || new == *old {
        return Ok(new);
    }
    let (table, key) = (resource.table(), key(&call.target.namespace, name));
    if super::delete::is_over(resource, &new) {
        // The last finalizer went with this write: the object goes, and is shown as it would have been.
        store.delete(&table, &key, &resource.selectable());
        super::delete::after(&call.shared, store, resource, &new);
        return Ok(new);
    }
    let stored = store.put(&table, &key, resource.to_stored(new), &resource.selectable());
    let value = typed(resource, &stored);
    if resource.is("apiextensions.k8s.io", "customresourcedefinitions") {
        republish(&call.shared, &value);
    }
    Ok(value)
}

/// What a write through this door cannot change stays as it is.
fn carry_over(resource: &Resource, subresource: &str, old: &Value, new: &mut Value) {
    let fixed = [
        "name",
        "generateName",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "selfLink",
    ];
    if subresource == "status" {
        let (status, metadata) = (new.get("status").cloned(), new.get("metadata").cloned());
        let owners = at(new, &["metadata", "managedFields"]).cloned();
        *new = old.clone();
        match status {
            Some(status) => drop(as_object(new).insert("status".into(), status)),
            None => drop(as_object(new).remove("status")),
        }
        if let (Some(metadata), Shape::Builtin(_)) = (metadata, &resource.shape) {
            as_object(new).insert("metadata".into(), metadata);
        }
        if let Some(owners) = owners {
            object(new, "metadata").insert("managedFields".into(), owners);
        }
    } else if resource.status {
        match old.get("status") {
            Some(status) => drop(as_object(new).insert("status".into(), status.clone())),
            None => drop(as_object(new).remove("status")),
        }
    }
    let metadata = object(new, "metadata");
    for field in fixed {
        match at(old, &["metadata", field]) {
            Some(value) => drop(metadata.insert(field.into(), value.clone())),
            None => drop(metadata.remove(field)),
        }
    }
}

fn count_generation(resource: &Resource, old: &Value, new: &mut Value) {
    let changed = match resource.generation {
        Generation::Never => return,
        Generation::Spec => old.get("spec") != new.get("spec"),
        Generation::Body => {
            let body = |value: &Value| {
                let mut body = value.as_object().cloned().unwrap_or_default();
                body.remove("metadata");
                if resource.status {
                    body.remove("status");
                }
                body
            };
            body(old) != body(new)
        }
    };
    if changed {
        let generation = at(old, &["metadata", "generation"]).and_then(Value::as_u64).unwrap_or_default();
        object(new, "metadata").insert("generation".into(), (generation + 1).into());
    }
}

fn first_status(resource: &Resource, new: &mut Value) {
    let kept = resource.builtin().is_some_and(|builtin| builtin.keeps_status);
    if resource.status && !kept {
        as_object(new).remove("status");
    }
    if let Some(status) = resource.builtin().and_then(|builtin| (builtin.first_status)(new)) {
        as_object(new).entry("status").or_insert(status);
    }
}

/// Everything that is wrong with an object, or nothing.
fn check(resource: &Resource, name: &str, new: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let mut errors: Vec<FieldError> = metadata_errors(resource, new);
    match &resource.shape {
        Shape::Builtin(builtin) => errors.extend((builtin.validate)(new)),
        Shape::Custom(custom) => {
            errors.extend(schema::validate(&custom.schema, new));
            // Rules may count on what the schema promises.
            if errors.is_empty() {
                errors.extend(schema::rules(&custom.schema, new, old));
            }
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(resource, name, &errors)) }
}

fn account(call: &Call, old: Option<&Value>, new: &mut Value) {
    let now = now();
    let manager = manager(&call.query, &call.headers);
    let writer = Writer { manager: &manager, subresource: &call.target.subresource, now: &now };
    owners::account(&call.resource, old, new, &writer);
}

pub(super) fn is_dry_run(call: &Call) -> Result<bool, ApiError> {
    match call.query.text("dryRun") {
        "" => Ok(false),
        "All" => Ok(true),
        other => {
            let why = format!("dryRun: Unsupported value: {other:?}: supported values: \"All\"");
            Err(ApiError::new(422, "Invalid", format!("PatchOptions.meta.k8s.io \"\" is invalid: {why}"), None))
        }
    }
}

fn respond(call: &Call, code: u16, object: &Value, warnings: Vec<String>) -> Result<Answer, ApiError> {
    Ok(Answer { code, json: call.view.one(&call.resource, object, &call.query), warnings })
}

/// Serves what a definition says from now on, and nothing it no longer says.
fn republish(shared: &Shared, definition: &Value) {
    let part = |path: &[&str]| text(definition, path).unwrap_or_default();
    let (group, plural) = (part(&["spec", "group"]), part(&["spec", "names", "plural"]));
    if let Ok(mut registry) = shared.registry.write() {
        registry.remove(group, plural);
        resources_of(definition).into_iter().for_each(|resource| registry.add(resource));
    }
}
