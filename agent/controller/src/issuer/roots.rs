//! The root that signs, and what is trusted: followed in a Secret and a ConfigMap, made where there is none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use weft_ca::{Signer, SignerError, certificates, make_root};
use weft_core::model::TrustDomain;

use super::bundle;
use super::metrics::Metrics;
use super::serving::ServingKey;
use super::trust::{Anchor, Terms, may_sign};
use crate::parts::Common;
use crate::settings::IssuerSettings;

/// How often the root is looked at. Two small reads for each replica.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Time for one look.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much longer than the longest leaf an old root is trusted, at most: clocks differ.
const KEEP_LONGER: Duration = Duration::from_secs(15 * 60);

/// Why there is no root to sign with.
#[derive(Debug, thiserror::Error)]
pub(super) enum RootError {
    #[error(
        "the API server does not give or take what the root is kept in: {0}; may the controller read and write it?"
    )]
    Api(#[from] kube::Error),
    #[error("the API server does not answer")]
    Late,
    #[error("there is no Secret {0} yet, and --root-given says that somebody else makes it")]
    Missing(String),
    #[error("the Secret {secret} lacks {key}")]
    Lacks { secret: String, key: &'static str },
    #[error("the Secret {secret} cannot be used: {reason}")]
    Unusable { secret: String, reason: String },
    #[error("a root cannot be made: {0}")]
    Made(String),
    #[error("the new root is not known everywhere yet, and the one before it is not known to this replica")]
    Unsettled,
}

/// What signs, and what goes with its signatures.
pub(super) struct Signing {
    pub(super) signer: Signer,
    /// Sent with every leaf; empty where a root signs.
    pub(super) intermediates: Vec<CertificateDer<'static>>,
    /// What its signatures are verified by.
    own_anchors: Vec<CertificateDer<'static>>,
}

/// What a replica signs with at the moment.
pub(super) struct State {
    pub(super) signing: Arc<Signing>,
    /// All trust anchors of the mesh.
    pub(super) anchors: Vec<CertificateDer<'static>>,
    /// What the issuer serves TLS with.
    pub(super) serving: Arc<CertifiedKey>,
}

/// The authority as requests see it: empty until there is a root.
#[derive(Default)]
pub(super) struct Authority(ArcSwapOption<State>);

impl Authority {
    pub(super) fn now(&self) -> Option<Arc<State>> {
        self.0.load_full()
    }
}

/// Follows the root.
pub(super) struct Roots {
    client: Client,
    namespace: String,
    trust_domain: TrustDomain,
    settings: Arc<IssuerSettings>,
    authority: Arc<Authority>,
    readiness: weft_control::Readiness,
    metrics: Metrics,
    /// What was last seen to be published.
    published: Vec<Anchor>,
    serving: Option<ServingKey>,
    /// What was last complained about.
    problem: String,
}

impl Roots {
    pub(super) fn new(
        common: &Common,
        settings: Arc<IssuerSettings>,
        authority: Arc<Authority>,
        metrics: Metrics,
    ) -> Self {
        Self {
            client: common.client.clone(),
            namespace: common.settings.namespace.clone(),
            trust_domain: common.settings.trust_domain.clone(),
            settings,
            authority,
            readiness: common.telemetry.readiness.clone(),
            metrics,
            published: Vec::new(),
            serving: None,
            problem: String::new(),
        }
    }

    /// Looks at the root for ever. What signs goes on signing while the API server is away.
    pub(super) async fn run(mut self) {
        loop {
            let looked = match tokio::time::timeout(PATIENCE, self.look()).await {
                Ok(looked) => looked,
                Err(_) => Err(RootError::Late),
            };
            self.note(looked.err());
            self.readiness.set("root", self.authority.now().is_some());
            tokio::time::sleep(if self.authority.now().is_some() { LOOK_EVERY } else { LOOK_EVERY / 10 }).await;
        }
    }

    fn note(&mut self, error: Option<RootError>) {
        self.metrics.root_problem(error.is_some());
        let problem = error.map(|error| error.to_string()).unwrap_or_default();
        if problem != self.problem && !problem.is_empty() {
            tracing::warn!(problem, "the root cannot be followed; what is known stays in force");
        }
        self.problem = problem;
    }

    async fn look(&mut self) -> Result<(), RootError> {
        let secret = self.secret().await?;
        let found = self.read(&secret)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        let terms = Terms {
            settle: self.settings.root_settle,
            keep: self.settings.lifetime_max + self.settings.lifetime_max.min(KEEP_LONGER),
        };
        let published =
            bundle::publish(&self.client, &self.namespace, &found.own_anchors, &self.published, (now, terms)).await?;
        if published.len() != self.published.len() {
            tracing::info!(roots = published.len(), "the mesh trusts this many roots");
        }
        self.published = published;
        let held = self.authority.now().map(|state| Arc::clone(&state.signing));
        let same = held.as_ref().is_some_and(|held| held.is_same(&found));
        let signing = match held {
            Some(held) if same => held,
            _ if may_sign(&found.own_anchors, &self.published, now, terms) => {
                tracing::info!("signing with the root of the Secret {}", self.settings.root_secret);
                Arc::new(found)
            }
            Some(held) => held,
            None => return Err(RootError::Unsettled),
        };
        self.adopt(signing)
    }

    fn adopt(&mut self, signing: Arc<Signing>) -> Result<(), RootError> {
        let serving = match self.serving.take().filter(|serving| serving.is_fresh(&signing)) {
            Some(serving) => serving,
            None => ServingKey::make(&signing, &self.settings.names).map_err(RootError::Made)?,
        };
        let anchors: Vec<_> = self.published.iter().map(|anchor| anchor.certificate.clone()).collect();
        self.metrics.root(anchors.len(), signing.signer.not_after());
        let certified = Arc::clone(&serving.certified);
        self.serving = Some(serving);
        self.authority.0.store(Some(Arc::new(State { signing, anchors, serving: certified })));
        Ok(())
    }

    /// The root's Secret. Of replicas that find none the first makes it, and the others read what it made.
    async fn secret(&self) -> Result<Secret, RootError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let name = &self.settings.root_secret;
        if let Some(found) = api.get_opt(name).await? {
            return Ok(found);
        }
        if self.settings.root_given {
            return Err(RootError::Missing(name.clone()));
        }
        let made = make_root(&self.trust_domain).map_err(RootError::Made)?;
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        let data = BTreeMap::from([
            ("tls.crt".to_owned(), bytes(&made.certificate)),
            ("tls.key".to_owned(), bytes(&made.key)),
            ("ca.crt".to_owned(), bytes(&made.certificate)),
        ]);
        let secret = Secret {
            metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
            type_: Some("kubernetes.io/tls".into()),
            data: Some(data),
            ..Secret::default()
        };
        match api.create(&PostParams::default(), &secret).await {
            Ok(made) => {
                tracing::info!(secret = name, "made a root for the mesh");
                Ok(made)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(api.get(name).await?),
            Err(error) => Err(error.into()),
        }
    }

    fn read(&self, secret: &Secret) -> Result<Signing, RootError> {
        let name = &self.settings.root_secret;
        let unusable = |reason: String| RootError::Unusable { secret: name.clone(), reason };
        let part = |key: &'static str| -> Result<&str, RootError> {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key));
            let bytes = bytes.ok_or_else(|| RootError::Lacks { secret: name.clone(), key })?;
            std::str::from_utf8(&bytes.0).map_err(|_| unusable(format!("{key} is no text")))
        };
        let chain = certificates(part("tls.crt")?).map_err(|e| unusable(format!("tls.crt: {e}")))?;
        let first = chain.first().ok_or_else(|| unusable("tls.crt holds no certificate".into()))?;
        let signer = Signer::read(first, part("tls.key")?, &self.trust_domain)
            .map_err(|error: SignerError| unusable(error.to_string()))?;
        let own_anchors = match part("ca.crt") {
            Ok(text) if !text.is_empty() => certificates(text).map_err(|e| unusable(format!("ca.crt: {e}")))?,
            _ if signer.is_root() => vec![first.clone()],
            _ => return Err(unusable("tls.crt is an intermediate's, and there is no ca.crt with its root".into())),
        };
        // Whose certificate is an anchor itself need not show it.
        let intermediates = if own_anchors.contains(first) { Vec::new() } else { chain };
        signer.check(&self.trust_domain, &intermediates, &own_anchors).map_err(|error| unusable(error.to_string()))?;
        Ok(Signing { signer, intermediates, own_anchors })
    }
}

impl Signing {
    /// Whether signatures of both are verified in the same way.
    fn is_same(&self, other: &Self) -> bool {
        self.signer.certificate() == other.signer.certificate()
            && self.intermediates == other.intermediates
            && self.own_anchors == other.own_anchors
    }
}
