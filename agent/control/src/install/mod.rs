//! The installation of the mesh in a cluster: the shipped manifests, put there, changed and taken away by the API server's own
//! means (server-side apply, field manager `weft`).
//!
//! The manifests are `deploy/weft.yaml`, the chart with its default values: what Helm does with other values is Helm's. This
//! room says what it will do before it does it, and never takes a field from another manager unless told to.

pub(crate) mod api;
#[cfg(test)]
mod charts;
pub mod check;
mod objects;
mod remove;
#[cfg(test)]
mod strict;
mod switch;
#[cfg(test)]
pub(crate) mod tests;

use kube::Client;
use serde_json::Value;

pub use api::InstallError;
pub use objects::{Object, shipped};
pub use remove::{Left, uninstall};
pub use switch::{Extent, enrolled, switch};

use api::Api;

/// Who owns the fields of what is installed.
pub const FIELD_MANAGER: &str = "weft";
/// The namespace of an installation from the shipped manifests.
pub const NAMESPACE: &str = "weft-system";

/// How to install.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Change nothing; the API server only judges.
    pub dry_run: bool,
    /// Take fields over from other managers.
    pub force: bool,
    /// What the containers are made of, in place of what the manifests name.
    pub image: Option<String>,
}

/// What became of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was not there.
    Created,
    /// It was there and differs now.
    Changed,
    /// It was so already.
    Unchanged,
    /// It is gone.
    Deleted,
}

impl Outcome {
    /// The word for it, as kubectl has it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "configured",
            Self::Unchanged => "unchanged",
            Self::Deleted => "deleted",
        }
    }
}

/// Whether the mesh is installed, and by whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Installed {
    /// It is not.
    No,
    /// By this program or by `kubectl apply`.
    Plainly,
    /// By another program, which its label names.
    By(String),
}

/// Looks for an installation, in the shipped manifests' namespace and then in all.
///
/// # Errors
/// When the API server does not say.
pub async fn installed(client: &Client) -> Result<Installed, InstallError> {
    let api = Api(client);
    let manager =
        |object: &Value| object["metadata"]["labels"]["app.kubernetes.io/managed-by"].as_str().map(str::to_owned);
    if let Some(object) = api.get("/apis/apps/v1/namespaces/weft-system/daemonsets/weft-agent").await? {
        return Ok(manager(&object).map_or(Installed::Plainly, Installed::By));
    }
    let mut elsewhere = None;
    api.each("/apis/apps/v1/daemonsets", |object| {
        let labels = &object["metadata"]["labels"];
        if object["metadata"]["name"] == "weft-agent" && labels["app.kubernetes.io/part-of"] == "weft" {
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
            let by = manager(&object).unwrap_or_else(|| "somebody".to_owned());
            elsewhere = Some(Installed::By(format!("{by}, in namespace {namespace}")));
        }
    })
    .await?;
    Ok(elsewhere.unwrap_or(Installed::No))
}

/// Applies the shipped manifests in the order in which they need each other; tells of each object as it is done.
///
/// # Errors
/// The first object the API server refuses. What was applied before stays: applying again goes on from there.
pub async fn apply(
    client: &Client,
    settings: &Settings,
    mut tell: impl FnMut(&Object, Outcome),
) -> Result<(), InstallError> {
    let api = Api(client);
    let mut objects = shipped()?;
    if let Some(image) = &settings.image {
        objects.iter_mut().for_each(|object| object.set_image(image));
    }
    // In a dry run nothing is made, so what lies in a namespace that is not there yet cannot be judged.
    let judged = !settings.dry_run || api.get(&format!("/api/v1/namespaces/{NAMESPACE}")).await?.is_some();
    for object in &objects {
        let before = if judged || !object.is_namespaced() { api.get(&object.path()).await? } else { None };
        let outcome = match &before {
            None if !judged && object.is_namespaced() => Outcome::Created,
            before => {
                let after = api.apply(object, settings).await?;
                let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
                match before {
                    None => Outcome::Created,
                    Some(before) if version(before) == version(&after) && before["spec"] == after["spec"] => {
                        Outcome::Unchanged
                    }
                    Some(_) => Outcome::Changed,
                }
            }
        };
        tell(object, outcome);
    }
    Ok(())
}
