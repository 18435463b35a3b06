//! Who asks, and which pods run where it runs: both the API server's word, asked for each certificate.
//!
//! A list of one node's pods of one service account is an index lookup in the API server's own cache, and a certificate
//! is asked for once in hours: nothing is kept here that could be stale, and a pod scheduled a moment ago is found.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use weft_core::model::Identity;

use super::answer::Refusal;
use crate::settings::IssuerSettings;

/// What the API server says of a token that is bound to a pod (from Kubernetes 1.30 on, in `extra`).
const NODE: &str = "authentication.kubernetes.io/node-name";
const POD: &str = "authentication.kubernetes.io/pod-name";

/// An agent that has shown its token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Caller {
    /// Its service account's user name.
    pub(super) user: String,
    /// The agent's pod.
    pub(super) pod: String,
    /// The node it runs on.
    pub(super) node: String,
}

/// Has the API server say whose token this is.
pub(super) async fn identify(client: &Client, settings: &IssuerSettings, token: &str) -> Result<Caller, Refusal> {
    let spec = TokenReviewSpec { token: token.to_owned(), audiences: Some(vec![settings.audience.clone()]) };
    let review = TokenReview { spec, ..TokenReview::default() };
    let api: Api<TokenReview> = Api::all(client.clone());
    let answer = api.create(&PostParams::default(), &review).await.map_err(|error| Refusal::away(&error))?;
    let status = answer.status.unwrap_or_default();
    let for_us = status.audiences.iter().flatten().any(|audience| *audience == settings.audience);
    if status.authenticated != Some(true) || !for_us {
        let why = status.error.unwrap_or_default();
        return Err(Refusal::Token { audience: settings.audience.clone(), why });
    }
    let user = status.user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    if !settings.callers.contains(&name) {
        return Err(Refusal::NoAgent { user: name });
    }
    let extra: BTreeMap<String, Vec<String>> = user.extra.unwrap_or_default();
    let one = |key: &str| extra.get(key).and_then(|values| values.first()).filter(|value| !value.is_empty()).cloned();
    match (one(NODE), one(POD)) {
        (Some(node), Some(pod)) => Ok(Caller { user: name, pod, node }),
        _ => Err(Refusal::Unbound { user: name }),
    }
}

/// Whether a pod of the identity's service account is scheduled on the caller's node and has not ended.
pub(super) async fn runs_there(client: &Client, caller: &Caller, identity: &Identity) -> Result<bool, Refusal> {
    let api: Api<Pod> = Api::namespaced(client.clone(), identity.namespace.as_str());
    let of_account = format!(
        "spec.nodeName={},spec.serviceAccountName={},status.phase!=Succeeded,status.phase!=Failed",
        caller.node, identity.service_account
    );
    let select = |params: ListParams| params.fields(&of_account).limit(50);
    // From the API server's cache first; what that has not heard of yet is looked for in its store.
    for params in [ListParams::default().match_any(), ListParams::default()] {
        let pods = api.list(&select(params)).await.map_err(|error| Refusal::away(&error))?;
        if pods.items.iter().any(|pod| is_there(pod, caller, identity)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Looked at once more here: a server that does not know a field selector must not decide it.
fn is_there(pod: &Pod, caller: &Caller, identity: &Identity) -> bool {
    let (Some(spec), phase) = (&pod.spec, pod.status.as_ref().and_then(|status| status.phase.as_deref())) else {
        return false;
    };
    spec.node_name.as_deref() == Some(caller.node.as_str())
        && spec.service_account_name.as_deref() == Some(identity.service_account.as_str())
        && !matches!(phase, Some("Succeeded" | "Failed"))
}
