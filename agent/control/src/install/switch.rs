//! The whole mesh switched off and on: a label on the namespace it is in, which every agent follows. Nothing of it is
//! taken away, and what pods and namespaces are labelled stays as it is.

use kube::Client;
use serde_json::{Value, json};
use weft_core::model::OFF_LABEL;

use super::InstallError;
use super::api::Api;
use super::remove::name;
use crate::resource::STATUS_ANNOTATION;
use crate::standing::Standing;

/// Switches the mesh whose own namespace this is off, or on again.
///
/// # Errors
/// When there is no such namespace, or the API server refuses.
pub async fn switch(client: &Client, namespace: &str, off: bool) -> Result<(), InstallError> {
    let value = if off { json!("true") } else { Value::Null };
    let change = json!({"metadata": {"labels": {OFF_LABEL: value}}});
    Api(client).merge(&format!("/api/v1/namespaces/{namespace}"), &change).await
}

/// The pods that are marked as enrolled, by namespace and name.
///
/// # Errors
/// When the API server does not say.
pub async fn enrolled(client: &Client) -> Result<Vec<String>, InstallError> {
    let mut found = Vec::new();
    let look = |pod: Value| {
        if pod["metadata"]["annotations"][STATUS_ANNOTATION] == Standing::ENROLLED {
            found.push(format!("{}/{}", pod["metadata"]["namespace"].as_str().unwrap_or_default(), name(&pod)));
        }
    };
    Api(client).each("/api/v1/pods", look).await?;
    Ok(found)
}
