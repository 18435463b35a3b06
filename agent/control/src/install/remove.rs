//! Taking the mesh out of a cluster. The agents go first, while everything they need is there: an agent that is ended after
//! its DaemonSet takes the pods of its node out of the mesh, and its mark off them. What is left is said.

use std::time::{Duration, Instant};

use kube::Client;
use serde_json::Value;

use super::api::Api;
use super::{Extent, InstallError, NAMESPACE, Object, Outcome, enrolled, shipped};
use crate::resource::MESH_LABEL;
use weft_core::model::OFF_LABEL;

/// How often is looked whether the agents have gone.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What an uninstallation leaves.
#[derive(Clone, Debug, Default)]
pub struct Left {
    /// Agents that had not ended in time: their nodes may still be steered.
    pub agents: Vec<String>,
    /// Pods that are still marked as meshed.
    pub marked: Vec<String>,
    /// Namespaces that are still labelled into the mesh: they join it when it is installed again.
    pub labelled: Vec<String>,
    /// Nodes on which the mesh is switched off: it stays off there when it is installed again.
    pub off: Vec<String>,
    /// Kinds that stay, with what people wrote in them.
    pub kinds: Vec<String>,
}

/// Deletes the installation; `wait` is how long the agents get to take their pods out of the mesh. The kinds of `weft.dev`
/// stay unless `kinds` says otherwise: with them go all objects of theirs.
///
/// # Errors
/// The first object that cannot be deleted.
pub async fn uninstall(
    client: &Client,
    (dry_run, kinds, wait): (bool, bool, Duration),
    mut tell: impl FnMut(&Object, Outcome),
) -> Result<Left, InstallError> {
    let api = Api(client);
    let mut left = Left::default();
    let mut objects = shipped()?;
    objects.reverse();
    let (agents, rest): (Vec<_>, Vec<_>) = objects.into_iter().partition(|object| object.kind().name == "DaemonSet");
    for object in &agents {
        if api.delete(&object.path(), dry_run).await? {
            tell(object, Outcome::Deleted);
        }
    }
    if !dry_run {
        left.agents = ended(&api, wait).await?;
    }
    for object in rest {
        if object.is_definition() && !kinds {
            if api.get(&object.path()).await?.is_some() {
                left.kinds.push(object.name().to_owned());
            }
        } else if api.delete(&object.path(), dry_run).await? {
            tell(&object, Outcome::Deleted);
        }
    }
    survey(&api, &mut left).await?;
    Ok(left)
}

/// Waits for the agents' pods to go; yields those that do not.
async fn ended(api: &Api<'_>, wait: Duration) -> Result<Vec<String>, InstallError> {
    let selector = "app.kubernetes.io%2Fname%3Dweft%2Capp.kubernetes.io%2Fcomponent%3Dagent";
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods?labelSelector={selector}");
    let deadline = Instant::now() + wait;
    loop {
        let mut names = Vec::new();
        api.each(&path, |pod| names.push(name(&pod))).await?;
        if names.is_empty() || Instant::now() >= deadline {
            return Ok(names);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn survey(api: &Api<'_>, left: &mut Left) -> Result<(), InstallError> {
    let look = |namespace: Value| {
        if namespace["metadata"]["labels"][MESH_LABEL] == "enabled" {
            left.labelled.push(name(&namespace));
        }
    };
    api.each("/api/v1/namespaces", look).await?;
    api.each(&format!("/api/v1/nodes?labelSelector={OFF_LABEL}"), |node| left.off.push(name(&node))).await?;
    left.marked = enrolled(api.0, Extent::All(NAMESPACE)).await?;
    Ok(())
}

pub(super) fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}
