//! Writes of the status, each conditional on the revision that was judged.

use http::Request;
use kube::Client;
use prometheus_client::metrics::counter::Counter;
use serde_json::{Value, json};
use weft_control::kubernetes::Attached;
use weft_control::manifests::ObjectRef;

use super::judge::list_of;
use crate::Telemetry;
use crate::lease::WRITE_LIMIT;

/// Writes the status of routes and policies.
pub(super) struct Writer {
    client: Client,
    written: Counter,
}

impl Writer {
    pub(super) fn new(client: Client, telemetry: &Telemetry) -> Self {
        let written = Counter::default();
        telemetry.register(|registry| {
            registry.register(
                "weft_controller_status_writes",
                "Routes and policies whose status was written",
                written.clone(),
            );
        });
        Self { client, written }
    }

    /// Writes what the list of its status should be; `false` if it is to be tried again. What has changed since is judged again
    /// when that is heard.
    pub(super) async fn write(&self, object: &ObjectRef, facts: &Attached, entries: &[Value]) -> bool {
        let (group, versions) = object.kind.group();
        let (version, plural) = (versions[0], object.kind.plural());
        let path = format!("/apis/{group}/{version}/namespaces/{}/{plural}/{}/status", object.namespace, object.name);
        let revision = &facts.revision;
        let body = json!({"metadata": {"resourceVersion": revision}, "status": {list_of(object.kind).0: entries}});
        let request = Request::patch(path).header("content-type", "application/merge-patch+json");
        let Ok(request) = request.body(body.to_string().into_bytes()) else { return true };
        match tokio::time::timeout(WRITE_LIMIT, self.client.request::<Value>(request)).await {
            Ok(Ok(_)) => {
                self.written.inc();
                true
            }
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => true,
            Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) && status.code != 429 => {
                tracing::warn!(%object, %status, "the API server refuses the object's status");
                true
            }
            Ok(Err(error)) => {
                tracing::warn!(%object, %error, "the object's status cannot be written; trying again");
                false
            }
            Err(_) => {
                tracing::warn!(%object, "the object's status cannot be written: no answer; trying again");
                false
            }
        }
    }
}
