//! Server-side apply: the object after a manager has said what it wants of it.

use serde_json::{Value, json};

use super::fields::{Fields, difference, fields_of};
use super::merge::{merge, remove};
use super::owners::{self, Owner, Writer};
use super::topology::Topology;
use crate::json::{at, object};
use crate::kinds::Resource;
use crate::status::ApiError;

/// Applies a configuration to an object (or to none), for a manager. Fields that others own and that differ are a
/// conflict, or with `force` become the manager's; fields it applied before and no longer names go if nobody else owns them.
pub(crate) fn apply(
    resource: &Resource,
    live: Option<&Value>,
    applied: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, ApiError> {
    if at(applied, &["metadata", "managedFields"]).is_some_and(|fields| !fields.is_null()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let topology = Topology::of(resource);
    let mut wanted = fields_of(applied, topology, &mut Vec::new());
    owners::strip(&mut wanted, resource, writer.subresource);

    let mut before = live.cloned().unwrap_or_else(|| json!({"metadata": {}}));
    let mut others = owners::read(&before);
    object(&mut before, "metadata").remove("managedFields");
    let mine = others.iter().position(|owner| owner.is(writer, true, ""));
    let mine = mine.map(|at| others.remove(at));

    let mut merged = before.clone();
    merge(&mut merged, applied, topology, &mut Vec::new());
    let (changed, _) = difference(Some(&before), Some(&merged), topology, &mut Vec::new());
    let conflicts: Vec<(&Owner, Fields)> = others
        .iter()
        .map(|owner| (owner, owner.fields.intersection(&changed).intersection(&wanted)))
        .filter(|(_, fields)| !fields.is_empty())
        .collect();
    if !conflicts.is_empty() && !force {
        return Err(conflict(&conflicts));
    }
    let taken: Vec<Fields> =
        others.iter().map(|owner| owner.fields.intersection(&changed).intersection(&wanted)).collect();
    for (owner, taken) in others.iter_mut().zip(&taken) {
        owner.fields.subtract(taken);
    }

    if let Some(mine) = &mine {
        let mut dropped = mine.fields.clone();
        dropped.subtract(&wanted);
        for owner in &others {
            dropped.subtract(&owner.fields);
        }
        remove(&mut merged, &dropped, topology, &mut Vec::new());
    }
    let unchanged = mine.as_ref().is_some_and(|mine| mine.fields == wanted) && merged == before;
    let time = mine.filter(|_| unchanged).map_or_else(|| writer.now.into(), |mine| mine.time);
    let entry = Owner {
        manager: writer.manager.to_owned(),
        applied: true,
        api_version: resource.api_version(),
        subresource: writer.subresource.to_owned(),
        time,
        fields: wanted,
    };
    // Managers that apply come first.
    others.insert(others.iter().take_while(|owner| owner.applied).count(), entry);
    owners::write(&mut merged, others);
    Ok(merged)
}

fn conflict(conflicts: &[(&Owner, Fields)]) -> ApiError {
    let mut causes = Vec::new();
    let mut told: Vec<String> = Vec::new();
    for (owner, fields) in conflicts {
        let with = match (owner.applied, owner.subresource.as_str()) {
            (true, "") => format!("conflict with \"{}\"", owner.manager),
            (true, sub) => format!("conflict with \"{}\" with subresource \"{sub}\"", owner.manager),
            (false, "") => format!("conflict with \"{}\" using {}", owner.manager, owner.api_version),
            (false, sub) => {
                format!("conflict with \"{}\" with subresource \"{sub}\" using {}", owner.manager, owner.api_version)
            }
        };
        let paths = fields.paths();
        causes.extend(
            paths.iter().map(|field| json!({"reason": "FieldManagerConflict", "message": with, "field": field})),
        );
        told.push(match paths.as_slice() {
            [one] => format!("{with}: {one}"),
            many => format!("{with}:\n- {}", many.join("\n- ")),
        });
    }
    let many = if causes.len() == 1 { "conflict" } else { "conflicts" };
    let separator = if told.len() == 1 { " " } else { "\n" };
    let message = format!("Apply failed with {} {many}:{separator}{}", causes.len(), told.join("\n"));
    ApiError::new(409, "Conflict", message, Some(json!({"causes": causes})))
}
