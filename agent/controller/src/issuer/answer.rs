//! From a request to a certificate, or to a refusal that says what to do.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kube::Client;
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use weft_ca::protocol::{CertificateRequest, CertificateResponse, Chain};
use weft_ca::{Leaf, Request, RequestError, SignerError};
use weft_core::model::{Identity, TrustDomain};

use super::caller::{Caller, identify, runs_there};
use super::metrics::Metrics;
use super::roots::Authority;
use crate::settings::IssuerSettings;

/// Time for an answer; the API server is asked twice or three times for it.
const PATIENCE: Duration = Duration::from_secs(8);

/// Why a certificate was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("show a service account token: the header is authorization: Bearer TOKEN")]
    NoToken,
    #[error(
        "the API server does not accept the token for audience {audience:?} ({why}): is it mounted with that audience, and renewed?"
    )]
    Token { audience: String, why: String },
    #[error("{user} is not a node agent: --issuer-callers names those that are")]
    NoAgent { user: String },
    #[error(
        "the token of {user} is not bound to a pod on a node: mount it as a projected serviceAccountToken (Kubernetes 1.30 or newer)"
    )]
    Unbound { user: String },
    #[error("the request is not PEM: {0}")]
    Pem(String),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(
        "{identity} is of another trust domain than this mesh, {own}: do agent and controller have the same --trust-domain?"
    )]
    OtherTrustDomain { identity: Identity, own: TrustDomain },
    #[error("the request is for {signed}, but its metadata names {named}")]
    Names { signed: Identity, named: String },
    #[error("no pod of service account {namespace}/{account} runs on node {node}: an agent gets the identities of its own node's pods only", namespace = identity.namespace, account = identity.service_account)]
    Elsewhere { identity: Identity, node: String },
    #[error(
        "there is no root to sign with yet: the controller's log and its metric weft_controller_root_problem say more"
    )]
    NoRoot,
    #[error("the root cannot sign: {0}")]
    Signer(#[from] SignerError),
    #[error("the API server cannot be asked: {0}")]
    Away(String),
    #[error("the API server refuses what the issuer asks: {0}; does the controller's ClusterRole allow it?")]
    Forbidden(String),
    #[error("it took too long")]
    Late,
}

impl Refusal {
    pub(super) fn away(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 403 => Self::Forbidden(status.message.clone()),
            other => Self::Away(other.to_string()),
        }
    }

    /// What gRPC calls it, and the label it is counted under.
    fn code(&self) -> (Code, &'static str) {
        match self {
            Self::NoToken => (Code::Unauthenticated, "no_token"),
            Self::Token { .. } => (Code::Unauthenticated, "bad_token"),
            Self::NoAgent { .. } => (Code::PermissionDenied, "not_an_agent"),
            Self::Unbound { .. } => (Code::PermissionDenied, "token_not_bound"),
            Self::Elsewhere { .. } => (Code::PermissionDenied, "not_on_this_node"),
            Self::Pem(_) | Self::Request(_) => (Code::InvalidArgument, "bad_request"),
            Self::OtherTrustDomain { .. } => (Code::InvalidArgument, "other_trust_domain"),
            Self::Names { .. } => (Code::InvalidArgument, "names_differ"),
            Self::NoRoot | Self::Signer(_) => (Code::Unavailable, "no_root"),
            Self::Away(_) | Self::Forbidden(_) => (Code::Unavailable, "api_server"),
            Self::Late => (Code::Unavailable, "too_late"),
        }
    }
}

/// What is known of a request, for the audit log.
#[derive(Default)]
struct Audit {
    identity: Option<Identity>,
    caller: Option<Caller>,
}

/// Answers requests.
pub(super) struct Answers {
    pub(super) client: Client,
    pub(super) trust_domain: TrustDomain,
    pub(super) settings: Arc<IssuerSettings>,
    pub(super) authority: Arc<Authority>,
    pub(super) metrics: Metrics,
}

impl Answers {
    /// `CreateCertificate`.
    pub(super) async fn create(
        &self,
        asked: tonic::Request<CertificateRequest>,
    ) -> Result<CertificateResponse, Status> {
        let began = Instant::now();
        let (metadata, _, request) = asked.into_parts();
        let mut audit = Audit::default();
        let judged = match tokio::time::timeout(PATIENCE, self.judge(&metadata, &request, &mut audit)).await {
            Ok(judged) => judged,
            Err(_) => Err(Refusal::Late),
        };
        let refused = judged.as_ref().err().map(|refusal| refusal.code().1);
        self.metrics.answered(refused, began.elapsed());
        audit.write(judged.as_ref().map(|(_, leaf)| leaf));
        judged.map(|(response, _)| response).map_err(|refusal| Status::new(refusal.code().0, refusal.to_string()))
    }

    async fn judge(
        &self,
        metadata: &MetadataMap,
        asked: &CertificateRequest,
        audit: &mut Audit,
    ) -> Result<(CertificateResponse, Leaf), Refusal> {
        // Who asks comes first: nobody else learns anything about their request.
        let caller = identify(&self.client, &self.settings, bearer(metadata)?).await?;
        audit.caller = Some(caller.clone());
        let csr = CertificateSigningRequestDer::from_pem_slice(asked.csr.as_bytes());
        let request = Request::read(&csr.map_err(|error| Refusal::Pem(error.to_string()))?)?;
        let identity = request.identity();
        audit.identity = Some(identity.clone());
        if identity.trust_domain != self.trust_domain {
            return Err(Refusal::OtherTrustDomain { identity: identity.clone(), own: self.trust_domain.clone() });
        }
        if let Some(named) = asked.impersonated().filter(|named| *named != identity.to_string()) {
            return Err(Refusal::Names { signed: identity.clone(), named: named.to_owned() });
        }
        if !runs_there(&self.client, &caller, identity).await? {
            return Err(Refusal::Elsewhere { identity: identity.clone(), node: caller.node });
        }
        let state = self.authority.now().ok_or(Refusal::NoRoot)?;
        let leaf = state.signing.signer.sign(&request, self.lifetime(asked.validity_duration))?;
        let mut chain = vec![leaf.certificate.clone()];
        chain.extend(state.signing.intermediates.iter().cloned());
        Ok((CertificateResponse::new(&Chain { chain, anchors: state.anchors.clone() }), leaf))
    }

    /// What was asked for, in seconds, up to what is allowed; nothing asked is all of it.
    fn lifetime(&self, asked: i64) -> Duration {
        match u64::try_from(asked) {
            Ok(seconds @ 1..) => Duration::from_secs(seconds).min(self.settings.lifetime_max),
            _ => self.settings.lifetime_max,
        }
    }
}

fn bearer(metadata: &MetadataMap) -> Result<&str, Refusal> {
    let header = metadata.get("authorization").and_then(|value| value.to_str().ok());
    header.and_then(|value| value.strip_prefix("Bearer ")).filter(|token| !token.is_empty()).ok_or(Refusal::NoToken)
}

impl Audit {
    /// One line for each request, whoever it was from and whatever became of it.
    fn write(&self, outcome: Result<&Leaf, &Refusal>) {
        let identity = self.identity.as_ref().map(ToString::to_string).unwrap_or_default();
        let caller = self.caller.as_ref();
        let (user, pod, node) = caller.map(|c| (&*c.user, &*c.pod, &*c.node)).unwrap_or_default();
        match outcome {
            Ok(leaf) => {
                let lifetime = leaf.not_after.duration_since(SystemTime::now()).unwrap_or_default().as_secs();
                tracing::info!(target: "weft::audit", identity, serial = leaf.serial, lifetime, user, pod, node, "certificate issued");
            }
            Err(refusal) => {
                let reason = refusal.to_string();
                tracing::warn!(target: "weft::audit", identity, reason, user, pod, node, "certificate refused");
            }
        }
    }
}
