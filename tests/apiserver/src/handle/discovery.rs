//! Discovery: which groups, versions and resources there are; the server's version and health.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Response;
use serde_json::{Value, json};

use super::{Answer, Body, answer, reviews, text};
use crate::engine::Shared;
use crate::kinds::Resource;
use crate::request::Path;
use crate::status::ApiError;

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// What the recorded server says of its version: a build of Kubernetes 1.36 that was given no number.
fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": "v0.0.0-master+$Format:%H$", "gitCommit": "$Format:%H$", "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "go1.27.3", "compiler": "gc", "platform": "linux/amd64",
    })
}

/// Answers everything that is no object and no collection.
pub(super) fn answer_path(shared: &Shared, path: &Path) -> Result<Response<Body>, ApiError> {
    let value = match path {
        Path::CoreVersions => json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        Path::Groups => {
            let groups: Vec<Value> =
                groups(shared).iter().map(|(name, versions)| group(name, versions, false)).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        Path::Group(name) => match groups(shared).get(name) {
            Some(versions) => group(name, versions, true),
            None => return Ok(text(404, "404 page not found\n")),
        },
        Path::Resources(group, version) => match resources(shared, group, version) {
            Some(resources) => resources,
            None => return Ok(text(404, "404 page not found\n")),
        },
        Path::Other(path) => match path.as_str() {
            "/version" | "/version/" => version(),
            "/healthz" | "/livez" | "/readyz" => return Ok(text(200, "ok")),
            "/" => json!({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/readyz", "/version"]}),
            _ => return Ok(text(404, "404 page not found\n")),
        },
        Path::Target(_) => return Err(ApiError::no_such_resource()),
    };
    Ok(answer(Answer::value(200, &value)))
}

/// Versions of each group but the core one.
fn groups(shared: &Shared) -> BTreeMap<String, Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut add = |group: &str, version: &str| {
        let versions = groups.entry(group.to_owned()).or_default();
        if !versions.iter().any(|known| known == version) {
            versions.push(version.to_owned());
        }
    };
    if let Ok(registry) = shared.registry.read() {
        registry
            .all()
            .filter(|resource| !resource.group.is_empty())
            .for_each(|resource| add(&resource.group, &resource.version));
    }
    reviews::REVIEWS.iter().for_each(|(group, _, _)| add(group, "v1"));
    groups
}

fn group(name: &str, versions: &[String], typed: bool) -> Value {
    let version = |version: &String| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let all: Vec<Value> = versions.iter().map(version).collect();
    let mut group = json!({"name": name, "versions": all, "preferredVersion": all.first()});
    if typed {
        group["kind"] = "APIGroup".into();
        group["apiVersion"] = "v1".into();
    }
    group
}

fn resources(shared: &Shared, group: &str, version: &str) -> Option<Value> {
    let registry = shared.registry.read().ok()?;
    let mut list: Vec<Value> = Vec::new();
    for resource in registry.all().filter(|resource| resource.group == group && resource.version == version) {
        list.push(describe(resource));
        if resource.status {
            list.push(json!({
                "name": format!("{}/status", resource.plural), "singularName": "", "namespaced": resource.namespaced,
                "kind": resource.kind, "verbs": ["get", "patch", "update"],
            }));
        }
        if resource.is("", "serviceaccounts") {
            list.push(json!({
                "name": "serviceaccounts/token", "singularName": "", "namespaced": true, "group": "authentication.k8s.io",
                "version": "v1", "kind": "TokenRequest", "verbs": ["create"],
            }));
        }
    }
    let reviews = reviews::REVIEWS.iter().filter(|(found, _, _)| *found == group && version == "v1");
    list.extend(reviews.map(|(_, plural, kind)| {
        let singular = kind.to_lowercase();
        json!({"name": plural, "singularName": singular, "namespaced": false, "kind": kind, "verbs": ["create"]})
    }));
    let named = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let found = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": named, "resources": list});
    (!list.is_empty()).then_some(found)
}

fn describe(resource: &Resource) -> Value {
    let mut described = json!({
        "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
        "kind": resource.kind, "verbs": VERBS, "storageVersionHash": storage_hash(resource),
    });
    if !resource.short_names.is_empty() {
        described["shortNames"] = resource.short_names.clone().into();
    }
    if !resource.categories.is_empty() {
        described["categories"] = resource.categories.clone().into();
    }
    described
}

/// The first eight bytes of the SHA-256 of `group/version/kind`.
fn storage_hash(resource: &Resource) -> String {
    let name = format!("{}/{}/{}", resource.group, resource.version, resource.kind);
    STANDARD.encode(digest(&SHA256, name.as_bytes()).as_ref().get(..8).unwrap_or_default())
}
