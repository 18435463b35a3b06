//! Objects that were there before the server began, as when etcd is restored from a backup: they are taken as they are,
//! with the UIDs, times and owners somebody else gave them. Nothing is defaulted, checked or accounted.

use std::io::BufRead;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::engine::Shared;
use crate::json::text;
use crate::store::key;

/// Takes up objects of built-in kinds, one a line; yields how many there were.
pub(crate) fn restore(shared: &Shared, lines: impl BufRead) -> anyhow::Result<usize> {
    let mut count = 0;
    for (number, line) in lines.lines().enumerate() {
        let object: Value = serde_json::from_str(&line?).with_context(|| format!("line {}", number + 1))?;
        let word = |path: &[&str]| text(&object, path).unwrap_or_default().to_owned();
        let (kind, version) = (word(&["kind"]), word(&["apiVersion"]));
        let resource = shared.registry.read().ok().and_then(|registry| {
            registry.all().find(|resource| resource.kind == kind && resource.api_version() == version).cloned()
        });
        let Some(resource) = resource else { bail!("line {}: {version} {kind} is not served", number + 1) };
        if word(&["metadata", "uid"]).is_empty() || word(&["metadata", "name"]).is_empty() {
            bail!("line {}: an object without a name or a UID is no backup's", number + 1);
        }
        let key = key(&word(&["metadata", "namespace"]), &word(&["metadata", "name"]));
        let stored = resource.to_stored(object);
        shared.store().put(&resource.table(), &key, stored, &resource.selectable());
        count += 1;
    }
    Ok(count)
}
