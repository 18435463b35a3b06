//! Enrolment of a namespace by its label, judged beforehand: what its pods and those who talk to them can do now and could
//! not once it is in the mesh.
//!
//! Judgement is by the agents' own evaluator where the mesh decides (`weft_core::policy`), and by NetworkPolicy's rules
//! where the cluster's network does; what it needs of a cluster is read once, and judged without asking anything more.
//! Nobody here knows who really calls whom: what could be reached and no longer can counts as broken.

mod clients;
mod cluster;
mod fetch;
mod judge;
mod network;
mod paths;
mod plaintext;
mod pod;
mod standing;

#[cfg(test)]
mod tests;

use kube::Client;
use serde_json::json;
use weft_core::model::{Name, TrustDomain};

use crate::install::api::Api;
use crate::install::{FIELD_MANAGER, InstallError, Installed, check::Finding, installed};
use crate::resource::MESH_LABEL;

pub use judge::Report;

/// Why a namespace cannot be judged or labelled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// It is not there.
    #[error("there is no namespace {0:?}")]
    NoNamespace(String),
    /// It may not be done.
    #[error(
        "{what}: {message}; judging takes the right to list the namespace's Pods, Services, NetworkPolicies and policies of \
         weft.dev, labelling the right to patch it"
    )]
    Forbidden {
        /// Which request.
        what: String,
        /// What the server says.
        message: String,
    },
    /// The API server does not answer, or refuses otherwise.
    #[error(transparent)]
    Request(InstallError),
}

impl From<InstallError> for EnrolError {
    fn from(error: InstallError) -> Self {
        match error {
            InstallError::Forbidden { what, message } => Self::Forbidden { what, message },
            other => Self::Request(other),
        }
    }
}

/// What the label would do to a namespace, in a mesh of this trust domain.
///
/// # Errors
/// When there is no such namespace, or it may not be looked at.
pub async fn judge(client: &Client, namespace: &str, trust_domain: &TrustDomain) -> Result<Report, EnrolError> {
    let name = Name::new(namespace).map_err(|_| EnrolError::NoNamespace(namespace.to_owned()))?;
    let cluster = fetch::cluster(&Api(client), &name, trust_domain).await?;
    let mut report = judge::judge(&cluster, &name);
    // Who may not look there learns it from somebody else.
    if matches!(installed(client).await, Ok(Installed::No)) {
        report.findings.push(Finding::remark(
            "the mesh is not installed in this cluster: the label takes effect once it is",
            "weft check --pre; weft install",
        ));
    }
    Ok(report)
}

/// Labels a namespace into the mesh, as `kubectl label` does.
///
/// # Errors
/// When the API server does not do it.
pub async fn label(client: &Client, namespace: &str) -> Result<(), EnrolError> {
    let path = format!("/api/v1/namespaces/{namespace}?fieldManager={FIELD_MANAGER}");
    Api(client).merge(&path, &json!({"metadata": {"labels": {MESH_LABEL: "enabled"}}})).await?;
    Ok(())
}
