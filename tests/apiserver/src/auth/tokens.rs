//! Service account tokens: JWTs signed with a key of this server's, bound to pods as kubelet has them bound.

use anyhow::Context;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::User;
use crate::engine::Shared;
use crate::json::{at, text};
use crate::store::key;

/// Who issues tokens, and the audience of those that name none.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// The signing key, and the one token that is no JWT.
pub(crate) struct Tokens {
    key: EcdsaKeyPair,
    random: SystemRandom,
    admin: String,
}

/// What a token says, once its signature and time have been checked.
#[derive(Debug, Clone)]
pub(crate) struct Claims {
    pub(crate) audiences: Vec<String>,
    pub(crate) id: String,
    pub(crate) namespace: String,
    pub(crate) account: (String, String),
    /// Name and UID of the pod it is bound to.
    pub(crate) pod: Option<(String, String)>,
    pub(crate) node: Option<(String, String)>,
    /// Seconds since 1970.
    pub(crate) expires: i64,
}

impl Tokens {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).context("making a signing key")?;
        Ok(Self { key, random: SystemRandom::new(), admin: uuid::Uuid::new_v4().to_string() })
    }

    /// The token that is `system:admin`'s.
    pub(crate) fn admin(&self) -> &str {
        &self.admin
    }

    /// Signs claims.
    pub(crate) fn sign(&self, claims: &Claims) -> Option<String> {
        let pair = |(name, uid): &(String, String)| {
            if uid.is_empty() { json!({"name": name}) } else { json!({"name": name, "uid": uid}) }
        };
        let mut bound = json!({"namespace": claims.namespace, "serviceaccount": pair(&claims.account)});
        if let Some(pod) = &claims.pod {
            bound["pod"] = pair(pod);
        }
        if let Some(node) = &claims.node {
            bound["node"] = pair(node);
        }
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let body = json!({
            "aud": claims.audiences, "exp": claims.expires, "iat": now, "nbf": now, "iss": ISSUER, "jti": claims.id,
            "kubernetes.io": bound, "sub": subject(&claims.namespace, &claims.account.0),
        });
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encode(&json!({"alg": "ES256", "kid": "weft-apiserver"})), encode(&body));
        let signature = self.key.sign(&self.random, message.as_bytes()).ok()?;
        Some(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// What a token says, if this server signed it and its time is not over.
    pub(crate) fn verify(&self, token: &str) -> Result<Claims, String> {
        let invalid = || "invalid bearer token".to_owned();
        let (message, signature) = token.rsplit_once('.').ok_or_else(invalid)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| invalid())?;
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref());
        public.verify(message.as_bytes(), &signature).map_err(|_| invalid())?;
        let (_, body) = message.split_once('.').ok_or_else(invalid)?;
        let body = URL_SAFE_NO_PAD.decode(body).map_err(|_| invalid())?;
        let body: Value = serde_json::from_slice(&body).map_err(|_| invalid())?;
        let part = |path: &[&str]| text(&body, path).unwrap_or_default().to_owned();
        let pair = |kind: &str| {
            let name = text(&body, &["kubernetes.io", kind, "name"])?.to_owned();
            Some((name, part(&["kubernetes.io", kind, "uid"])))
        };
        let audiences = at(&body, &["aud"]).and_then(Value::as_array).into_iter().flatten();
        let claims = Claims {
            audiences: audiences.filter_map(Value::as_str).map(str::to_owned).collect(),
            id: part(&["jti"]),
            namespace: part(&["kubernetes.io", "namespace"]),
            account: pair("serviceaccount").ok_or_else(invalid)?,
            pod: pair("pod"),
            node: pair("node"),
            expires: at(&body, &["exp"]).and_then(Value::as_i64).unwrap_or_default(),
        };
        if claims.expires <= OffsetDateTime::now_utc().unix_timestamp() {
            return Err("[invalid bearer token, service account token has expired]".into());
        }
        Ok(claims)
    }
}

fn subject(namespace: &str, account: &str) -> String {
    format!("system:serviceaccount:{namespace}:{account}")
}

/// The user a token stands for, if the account and the pod it is bound to are still those they were.
pub(super) fn user_of(shared: &Shared, claims: &Claims) -> Result<User, String> {
    let store = shared.store();
    let same = |table: &str, (name, uid): &(String, String)| {
        let found = store.get(table, &key(&claims.namespace, name));
        let found = found.filter(|found| text(&found.value(), &["metadata", "uid"]) == Some(uid.as_str()));
        found.map(drop).ok_or_else(|| "[invalid bearer token, service account token has been invalidated]".to_owned())
    };
    same("serviceaccounts", &claims.account)?;
    let mut extra = json!({"authentication.kubernetes.io/credential-id": [format!("JTI={}", claims.id)]});
    let mut note = |what: &str, value: &str| {
        if !value.is_empty() {
            extra[format!("authentication.kubernetes.io/{what}")] = json!([value]);
        }
    };
    if let Some(pod) = &claims.pod {
        same("pods", pod)?;
        note("pod-name", &pod.0);
        note("pod-uid", &pod.1);
    }
    if let Some((name, uid)) = &claims.node {
        note("node-name", name);
        note("node-uid", uid);
    }
    Ok(User {
        name: subject(&claims.namespace, &claims.account.0),
        uid: claims.account.1.clone(),
        groups: vec![
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{}", claims.namespace),
            "system:authenticated".into(),
        ],
        extra,
    })
}

/// The `status` of a TokenReview.
pub(super) fn review(shared: &Shared, token: &str, audiences: &[String]) -> Value {
    let judged = shared.tokens.verify(token).and_then(|claims| {
        let default = [ISSUER.to_owned()];
        let wanted = if audiences.is_empty() { &default } else { audiences };
        let common: Vec<&String> = wanted.iter().filter(|audience| claims.audiences.contains(audience)).collect();
        if common.is_empty() {
            let why = format!("token audiences {:?} is invalid for the target audiences {wanted:?}", claims.audiences);
            return Err(format!("[invalid bearer token, {why}]"));
        }
        let user = user_of(shared, &claims)?;
        let user = json!({"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra});
        Ok(json!({"authenticated": true, "user": user, "audiences": common}))
    });
    judged.unwrap_or_else(|error| json!({"user": {}, "error": error}))
}
