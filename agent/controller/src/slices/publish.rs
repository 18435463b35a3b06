//! Writes of slices, each conditional on the revision it replaces: what another replica, or a person, has written since is
//! never overwritten unseen.

use std::net::IpAddr;
use std::sync::Arc;

use http::{Method, Request};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use weft_control::crd::{GROUP, SliceWorkload, VERSION};
use weft_control::kubernetes::{Facts, Item};
use weft_control::resource::Kind;

use super::book::{Stored, Write};
use crate::lease::WRITE_LIMIT;

/// What has become of a write.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The slice is so now, as it was written.
    Stored(Stored),
    /// The slice is so now: somebody else wrote it first.
    Overtaken(Stored),
    /// There is no such slice.
    Gone,
    /// Nothing is known.
    Failed(String),
}

/// Writes slices.
#[derive(Clone)]
pub(crate) struct Publisher {
    client: Client,
    collection: String,
}

/// What is of interest in the answer to a write.
#[derive(Deserialize)]
struct Written {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    resource_version: String,
}

impl Write {
    /// The slice that is written.
    pub(crate) fn name(&self) -> &Arc<str> {
        match self {
            Self::Create { name, .. } | Self::Update { name, .. } | Self::Delete { name, .. } => name,
        }
    }

    /// What is done to it, as a metric label.
    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Update { .. } => "update",
            Self::Delete { .. } => "delete",
        }
    }
}

impl Publisher {
    pub(crate) fn new(client: Client, namespace: &str) -> Self {
        let plural = Kind::WorkloadSlice.plural();
        Self { client, collection: format!("/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{plural}") }
    }

    /// Makes a write. It is over within [`WRITE_LIMIT`].
    pub(crate) async fn write(&self, write: &Write) -> Outcome {
        match tokio::time::timeout(WRITE_LIMIT, self.attempt(write)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Failed(format!("no answer within {} s", WRITE_LIMIT.as_secs())),
        }
    }

    async fn attempt(&self, write: &Write) -> Outcome {
        let path = format!("{}/{}", self.collection, write.name());
        let sent = match write {
            Write::Create { name, workloads } => {
                self.send::<Written>(Method::POST, &self.collection, slice(name, None, workloads)).await
            }
            Write::Update { name, revision, workloads } => {
                self.send::<Written>(Method::PUT, &path, slice(name, Some(revision), workloads)).await
            }
            Write::Delete { revision, .. } => {
                let precondition = json!({"preconditions": {"resourceVersion": revision}});
                match self.send::<Value>(Method::DELETE, &path, precondition).await {
                    Ok(_) => return Outcome::Gone,
                    Err(error) => Err(error),
                }
            }
        };
        match (sent, write) {
            (Ok(written), Write::Create { workloads, .. } | Write::Update { workloads, .. }) => {
                let workloads = workloads.iter().map(|workload| SliceWorkload::clone(workload)).collect();
                Outcome::Stored(Stored { revision: written.metadata.resource_version, workloads })
            }
            (Err(kube::Error::Api(status)), _) if status.code == 409 => self.look(&path).await,
            (Err(kube::Error::Api(status)), Write::Update { .. } | Write::Delete { .. }) if status.code == 404 => {
                Outcome::Gone
            }
            (Err(error), _) => Outcome::Failed(error.to_string()),
            (Ok(_), Write::Delete { .. }) => Outcome::Gone,
        }
    }

    /// Somebody has written the slice since: how it is now.
    async fn look(&self, path: &str) -> Outcome {
        let bytes = match self.send::<Value>(Method::GET, path, Value::Null).await {
            Ok(object) => object.to_string(),
            Err(kube::Error::Api(status)) if status.code == 404 => return Outcome::Gone,
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        match Item::read(Kind::WorkloadSlice, bytes.as_bytes()) {
            Ok(Item { facts: Facts::Slice(slice), .. }) => {
                Outcome::Overtaken(Stored { revision: slice.revision, workloads: slice.workloads })
            }
            Ok(_) => Outcome::Failed("it is no WorkloadSlice".into()),
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }

    async fn send<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Value,
    ) -> Result<T, kube::Error> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        self.client.request(request.body(body).map_err(kube::Error::HttpError)?).await
    }

    /// Says on each of several pods that they have one address.
    pub(crate) async fn report_contested(&self, ip: IpAddr, pods: &[Arc<SliceWorkload>]) {
        let names: Vec<_> = pods
            .iter()
            .filter_map(|said| said.pod.as_ref())
            .map(|pod| format!("{}/{}", pod.namespace, pod.name))
            .collect();
        let message =
            format!("{ip} is the address of {} at once: connections to it reach one of them", names.join(" and "));
        tracing::warn!(%ip, pods = names.join(" "), "several pods have one address");
        for (uid, pod) in pods.iter().filter_map(|said| Some((&said.uid, said.pod.as_ref()?))) {
            let now = Timestamp::now();
            let event = json!({
                "apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": "AddressContested", "message": message,
                "metadata": {"namespace": pod.namespace,
                    "name": format!("{}.{:x}", pod.name.chars().take(200).collect::<String>(), now.as_nanosecond())},
                "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": uid},
                "source": {"component": "weft-controller"}, "firstTimestamp": now.to_string(), "lastTimestamp": now.to_string(),
                "count": 1,
            });
            let path = format!("/api/v1/namespaces/{}/events", pod.namespace);
            let sent = tokio::time::timeout(WRITE_LIMIT, self.send::<Value>(Method::POST, &path, event)).await;
            if !matches!(sent, Ok(Ok(_))) {
                tracing::debug!(pod = names.join(" "), ?sent, "no Event could be written");
            }
        }
    }
}

fn slice(name: &str, revision: Option<&str>, workloads: &[Arc<SliceWorkload>]) -> Value {
    let mut metadata = json!({"name": name});
    if let Some(revision) = revision {
        metadata["resourceVersion"] = revision.into();
    }
    let version = format!("{GROUP}/{VERSION}");
    json!({"apiVersion": version, "kind": "WorkloadSlice", "metadata": metadata, "spec": {"workloads": workloads}})
}
