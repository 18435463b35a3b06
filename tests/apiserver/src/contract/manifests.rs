//! Whether a server would take what is shipped: every object sent by server-side apply as a dry run, held to every field it
//! knows. Nothing is changed but that namespaces the objects are in, where missing, are made for as long as that takes:
//! servers look for them also when nothing is to be written.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use http::Method;
use serde_json::{Value, json};

use super::{Target, remove};

/// What is added to the path of each object.
const STRICTLY: &str = "fieldManager=weft-contract&force=true&dryRun=All&fieldValidation=Strict";

/// What a server says of an object.
#[derive(Debug, Clone)]
pub struct Remark {
    /// `Kind namespace/name`.
    pub object: String,
    /// Its answer, or its warning.
    pub text: String,
    /// Whether it would not take the object.
    pub refused: bool,
}

/// Sends the objects of a manifest; yields how many there are, and what was said of those that are refused or warned of.
///
/// # Errors
/// When the text is no manifest, or the server does not answer.
pub async fn accepts(target: &Target, manifest: &str) -> Result<(usize, Vec<Remark>)> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(manifest).context("the manifest")?;
    ensure!(!objects.is_empty(), "the manifest holds no object");
    let made = namespaces(target, &objects).await?;
    let outcome = try_all(target, &objects).await;
    let paths: Vec<&str> = made.iter().map(String::as_str).collect();
    let removed = remove(target, &paths).await;
    let remarks = outcome?;
    removed.map(|()| (objects.len(), remarks))
}

async fn try_all(target: &Target, objects: &[Value]) -> Result<Vec<Remark>> {
    let (mut remarks, mut plurals) = (Vec::new(), BTreeMap::new());
    for object in objects {
        let named = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (version, kind, name) = (named("/apiVersion"), named("/kind"), named("/metadata/name"));
        let (refused, text) = match place_of(target, version, kind, named("/metadata/namespace"), &mut plurals).await? {
            None => (true, format!("{version} has no kind {kind}")),
            Some(place) => {
                let headers = [("content-type", "application/apply-patch+yaml")];
                let path = format!("{place}/{name}?{STRICTLY}");
                let reply = target.send(Method::PATCH, &path, &headers, Some(object.to_string())).await?;
                match reply.headers.get("warning") {
                    _ if reply.status >= 300 => (true, format!("{} {}", reply.status, reply.text)),
                    Some(warning) => (false, format!("{warning:?}")),
                    None => continue,
                }
            }
        };
        let object = format!("{kind} {}/{name}", named("/metadata/namespace"));
        remarks.push(Remark { object, text, refused });
    }
    Ok(remarks)
}

/// The collection of a kind, by the server's own discovery.
async fn place_of(
    target: &Target,
    version: &str,
    kind: &str,
    namespace: &str,
    plurals: &mut BTreeMap<String, Value>,
) -> Result<Option<String>> {
    let root = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let known = match plurals.get(&root) {
        Some(known) => known.clone(),
        None => target.send(Method::GET, &root, &[], None).await?.json(),
    };
    plurals.insert(root.clone(), known.clone());
    let all = known["resources"].as_array().into_iter().flatten();
    let mut found = all.filter(|r| r["kind"] == kind && r["name"].as_str().is_some_and(|name| !name.contains('/')));
    Ok(found.next().map(|resource| {
        let plural = resource["name"].as_str().unwrap_or_default();
        if resource["namespaced"] == true {
            format!("{root}/namespaces/{namespace}/{plural}")
        } else {
            format!("{root}/{plural}")
        }
    }))
}

/// Makes the namespaces that the objects are in and that are missing; yields their paths.
async fn namespaces(target: &Target, objects: &[Value]) -> Result<Vec<String>> {
    let mut made = Vec::new();
    let names = objects.iter().filter_map(|object| object["metadata"]["namespace"].as_str());
    for name in names.collect::<std::collections::BTreeSet<_>>() {
        let path = format!("/api/v1/namespaces/{name}");
        if target.send(Method::GET, &path, &[], None).await?.status != 404 {
            continue;
        }
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).to_string();
        let headers = [("content-type", "application/json")];
        let reply = target.send(Method::POST, "/api/v1/namespaces", &headers, Some(namespace)).await?;
        ensure!(reply.status == 201, "making namespace {name}: {} {}", reply.status, reply.text);
        made.push(path);
    }
    Ok(made)
}
