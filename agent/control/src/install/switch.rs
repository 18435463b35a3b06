//! The mesh switched off and on, from wherever the API server is: a label on the namespace it is in, which every agent
//! follows, or on a Node, which that node's does. Nothing of it is taken away, and what pods and namespaces are labelled stays
//! as it is.

use kube::Client;
use serde_json::{Value, json};
use weft_core::model::OFF_LABEL;

use super::InstallError;
use super::api::Api;
use super::remove::name;
use crate::resource::STATUS_ANNOTATION;
use crate::standing::Standing;

/// How much of the mesh.
#[derive(Clone, Copy, Debug)]
pub enum Extent<'a> {
    /// All of it; its own namespace is this.
    All(&'a str),
    /// The node of this name.
    Node(&'a str),
}

/// Switches so much of the mesh off, or on again.
///
/// # Errors
/// When there is no such namespace or Node, or the API server refuses.
pub async fn switch(client: &Client, extent: Extent<'_>, off: bool) -> Result<(), InstallError> {
    let path = match extent {
        Extent::All(namespace) => format!("/api/v1/namespaces/{namespace}"),
        Extent::Node(node) => format!("/api/v1/nodes/{node}"),
    };
    let value = if off { json!("true") } else { Value::Null };
    Api(client).merge(&path, &json!({"metadata": {"labels": {OFF_LABEL: value}}})).await
}

/// The pods that are marked as enrolled, by namespace and name.
///
/// # Errors
/// When the API server does not say.
pub async fn enrolled(client: &Client, extent: Extent<'_>) -> Result<Vec<String>, InstallError> {
    let path = match extent {
        Extent::All(_) => "/api/v1/pods".to_owned(),
        Extent::Node(node) => format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}"),
    };
    let mut found = Vec::new();
    let look = |pod: Value| {
        if pod["metadata"]["annotations"][STATUS_ANNOTATION] == Standing::ENROLLED {
            found.push(format!("{}/{}", pod["metadata"]["namespace"].as_str().unwrap_or_default(), name(&pod)));
        }
    };
    Api(client).each(&path, look).await?;
    Ok(found)
}
