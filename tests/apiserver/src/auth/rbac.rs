//! Role-based access control over the Role and Binding objects that are stored.
//!
//! Rules for resources are judged; `nonResourceURLs` and aggregated ClusterRoles are not: every caller may read discovery,
//! and an aggregating role has the rules written in it.

use serde_json::Value;

use super::User;
use crate::engine::Shared;
use crate::json::{at, text};
use crate::store::{Store, key};

/// What somebody wants to do.
#[derive(Debug, Default)]
pub(crate) struct Ask<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    /// The plural, with its subresource if any: `pods/status`.
    pub(crate) resource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

const GROUP: &str = "rbac.authorization.k8s.io";

/// Whether a user may.
pub(crate) fn allowed(shared: &Shared, user: &User, ask: &Ask<'_>) -> bool {
    if user.groups.iter().any(|group| group == "system:masters") {
        return true;
    }
    // Anybody who is somebody may ask about themselves.
    let own = ["selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"];
    if own.contains(&ask.resource) && user.groups.iter().any(|group| group == "system:authenticated") {
        return true;
    }
    let store = shared.store();
    let everywhere = bindings(&store, &format!("clusterrolebindings.{GROUP}"), "");
    let mut here = Vec::new();
    if !ask.namespace.is_empty() {
        here = bindings(&store, &format!("rolebindings.{GROUP}"), ask.namespace);
    }
    everywhere.iter().chain(&here).any(|binding| {
        let namespace = text(binding, &["metadata", "namespace"]).unwrap_or_default();
        binds(binding, user) && role_of(&store, binding, namespace).is_some_and(|role| grants(&role, ask))
    })
}

fn bindings(store: &Store, table: &str, namespace: &str) -> Vec<Value> {
    let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
    let page = store.page(table, &prefix, "", 0, store.revision(), |_| true);
    page.objects.iter().map(|object| object.value()).collect()
}

fn binds(binding: &Value, user: &User) -> bool {
    let subjects = binding.get("subjects").and_then(Value::as_array).into_iter().flatten();
    subjects.into_iter().any(|subject| {
        let part = |name: &str| text(subject, &[name]).unwrap_or_default();
        match part("kind") {
            "User" => part("name") == user.name,
            "Group" => user.groups.iter().any(|group| group == part("name")),
            "ServiceAccount" => user.name == format!("system:serviceaccount:{}:{}", part("namespace"), part("name")),
            _ => false,
        }
    })
}

fn role_of(store: &Store, binding: &Value, namespace: &str) -> Option<Value> {
    let name = text(binding, &["roleRef", "name"])?;
    let found = match text(binding, &["roleRef", "kind"])? {
        "ClusterRole" => store.get(&format!("clusterroles.{GROUP}"), name),
        _ => store.get(&format!("roles.{GROUP}"), &key(namespace, name)),
    };
    found.map(|role| role.value())
}

fn grants(role: &Value, ask: &Ask<'_>) -> bool {
    let rules = role.get("rules").and_then(Value::as_array).into_iter().flatten();
    rules.into_iter().any(|rule| {
        let names = |list: &str, wanted: &str| {
            let items = at(rule, &[list]).and_then(Value::as_array).into_iter().flatten();
            items.filter_map(Value::as_str).any(|item| item == "*" || item == wanted || any_parent(item, wanted))
        };
        let named = at(rule, &["resourceNames"]).and_then(Value::as_array).is_none_or(Vec::is_empty);
        let named = named || (!ask.name.is_empty() && names("resourceNames", ask.name));
        names("verbs", ask.verb) && names("apiGroups", ask.group) && names("resources", ask.resource) && named
    })
}

/// `*/status` is the status of everything.
fn any_parent(item: &str, wanted: &str) -> bool {
    matches!((item.strip_prefix("*/"), wanted.split_once('/')), (Some(sub), Some((_, wanted))) if sub == wanted)
}
