//! Writes of `status.parents`, each conditional on the revision that was judged.

use http::Request;
use kube::Client;
use prometheus_client::metrics::counter::Counter;
use serde_json::{Value, json};
use weft_control::kubernetes::RouteFacts;
use weft_control::manifests::ObjectRef;

use crate::Telemetry;
use crate::lease::WRITE_LIMIT;

/// Writes the status of routes.
pub(super) struct Writer {
    client: Client,
    written: Counter,
}

impl Writer {
    pub(super) fn new(client: Client, telemetry: &Telemetry) -> Self {
        let written = Counter::default();
        telemetry.register(|registry| {
            registry.register(
                "weft_controller_route_status_writes",
                "Routes whose status was written",
                written.clone(),
            );
        });
        Self { client, written }
    }

    /// Writes `status.parents`; `false` if it is to be tried again. A route that has changed since is judged again when
    /// that is heard.
    pub(super) async fn write(&self, object: &ObjectRef, facts: &RouteFacts, parents: &[Value]) -> bool {
        let (group, versions) = object.kind.group();
        let (version, plural) = (versions[0], object.kind.plural());
        let path = format!("/apis/{group}/{version}/namespaces/{}/{plural}/{}/status", object.namespace, object.name);
        let revision = &facts.revision;
        let body = json!({"metadata": {"resourceVersion": revision}, "status": {"parents": parents}});
        let request = Request::patch(path).header("content-type", "application/merge-patch+json");
        let Ok(request) = request.body(body.to_string().into_bytes()) else { return true };
        match tokio::time::timeout(WRITE_LIMIT, self.client.request::<Value>(request)).await {
            Ok(Ok(_)) => {
                self.written.inc();
                true
            }
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => true,
            Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) && status.code != 429 => {
                tracing::warn!(route = %object, %status, "the API server refuses the route's status");
                true
            }
            Ok(Err(error)) => {
                tracing::warn!(route = %object, %error, "the route's status cannot be written; trying again");
                false
            }
            Err(_) => {
                tracing::warn!(route = %object, "the route's status cannot be written: no answer; trying again");
                false
            }
        }
    }
}
