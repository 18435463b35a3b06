//! What controllers do beside an API server that its clients count on: default service accounts, the end of namespaces,
//! conditions of CustomResourceDefinitions. Nothing else: no pod is scheduled, no endpoint listed, no owner's garbage
//! collected.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::engine::{Shared, now};
use crate::handle::{DeleteOptions, finish_namespace, remove};
use crate::json::{at, object, text};
use crate::kinds::Resource;
use crate::store::key;

/// Runs until the server is gone.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut namespaces = shared.store().news("namespaces");
    let mut accounts = shared.store().news("serviceaccounts");
    let mut definitions = shared.store().news("customresourcedefinitions.apiextensions.k8s.io");
    let mut paused = shared.faults.controllers();
    // What was there before this looked.
    namespaces.mark_changed();
    // Contents of a namespace that wait for finalizers tell nobody here when they go.
    let mut again = tokio::time::interval(Duration::from_millis(100));
    let mut ending = false;
    loop {
        let woken = tokio::select! {
            news = namespaces.changed() => news,
            news = accounts.changed() => news,
            news = definitions.changed() => news,
            news = paused.changed() => news,
            _ = again.tick(), if ending => Ok(()),
        };
        if woken.is_err() {
            return;
        }
        if !*paused.borrow_and_update() {
            ending = namespaces_and_accounts(&shared);
            establish(&shared);
        }
    }
}

/// Whether there are namespaces on their way out.
fn namespaces_and_accounts(shared: &Shared) -> bool {
    let (Some(namespaces), Some(accounts)) =
        (shared.find("", "v1", "namespaces"), shared.find("", "v1", "serviceaccounts"))
    else {
        return false;
    };
    let mut store = shared.store();
    let mut any_ending = false;
    let all = store.page("namespaces", "", "", 0, store.revision(), |_| true);
    let contents: Vec<Arc<Resource>> = shared.registry.read().map_or_else(
        |_| Vec::new(),
        |registry| registry.all().filter(|resource| resource.namespaced).cloned().collect(),
    );
    for namespace in all.objects {
        let name = &namespace.name;
        let ending = at(&namespace.value(), &["metadata", "deletionTimestamp"]).is_some();
        if !ending {
            if store.get("serviceaccounts", &key(name, "default")).is_none() {
                let account = json!({"metadata": {
                    "name": "default", "namespace": name, "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": now(),
                }});
                store.put("serviceaccounts", &key(name, "default"), account, &accounts.selectable());
            }
            continue;
        }
        any_ending = true;
        let prefix = format!("{name}/");
        let mut left = 0;
        for resource in &contents {
            let table = resource.table();
            for object in store.page(&table, &prefix, "", 0, store.revision(), |_| true).objects {
                // Nobody's grace outlives the namespace here: there is no kubelet to wait for.
                let _ = remove(shared, &mut store, resource, &object.key(), &DeleteOptions::at_once());
                left += usize::from(store.get(&table, &object.key()).is_some());
            }
        }
        if left == 0 {
            finish_namespace(&mut store, &namespaces, name);
        }
    }
    any_ending
}

/// Accepts the names of definitions that nobody has looked at, and says that they are served.
fn establish(shared: &Shared) {
    let Some(definitions) = shared.find("apiextensions.k8s.io", "v1", "customresourcedefinitions") else { return };
    let table = definitions.table();
    let mut store = shared.store();
    for stored in store.page(&table, "", "", 0, store.revision(), |_| true).objects {
        let mut definition = stored.value();
        let names = at(&definition, &["spec", "names"]).cloned().unwrap_or_default();
        if text(&definition, &["status", "acceptedNames", "plural"]) == text(&names, &["plural"]) {
            continue;
        }
        let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now(), "reason": reason, "message": message});
        let conditions: Value = json!([
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ]);
        let status = object(&mut definition, "status");
        status.insert("acceptedNames".into(), names);
        status.insert("conditions".into(), conditions);
        store.put(&table, &stored.key(), definition, &definitions.selectable());
    }
}
