//! The few requests an installation and its judgements consist of.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::DATE;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::{FIELD_MANAGER, Object, Settings};
use crate::kubernetes::causes;

/// Time for one answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Why an installation cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The manifests inside the program cannot be read.
    #[error("the shipped manifests: {0}")]
    Manifests(String),
    /// There was no answer.
    #[error("{what}: the API server gives no answer: {cause}")]
    Unreachable {
        /// Which request.
        what: String,
        /// What happened to it.
        cause: String,
    },
    /// Somebody else has set fields to other values.
    #[error("{what}: {message}; --force-conflicts takes the fields over")]
    Conflict {
        /// Which request.
        what: String,
        /// Which fields, and whose they are.
        message: String,
    },
    /// It may not be done.
    #[error("{what}: {message}; installing takes the rights of cluster-admin")]
    Forbidden {
        /// Which request.
        what: String,
        /// What the server says.
        message: String,
    },
    /// The server refused it otherwise.
    #[error("{what}: {status} {message}")]
    Refused {
        /// Which request.
        what: String,
        /// The status.
        status: u16,
        /// What the server says.
        message: String,
    },
}

/// Requests of a client.
pub(crate) struct Api<'a>(pub(crate) &'a Client);

impl Api<'_> {
    /// An object or list; `None` if there is none.
    pub(crate) async fn get(&self, path: &str) -> Result<Option<Value>, InstallError> {
        match self.send(Method::GET, path, "application/json", None).await {
            Ok((_, value)) => Ok(Some(value)),
            Err(InstallError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has every item of a list looked at, page by page; a kind nobody serves has none.
    pub(crate) async fn each(&self, path: &str, mut look: impl FnMut(Value)) -> Result<(), InstallError> {
        let mut next = String::new();
        let more = if path.contains('?') { '&' } else { '?' };
        loop {
            let mut page = self.get(&format!("{path}{more}limit=500&continue={next}")).await?.unwrap_or_default();
            if let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) {
                items.into_iter().for_each(&mut look);
            }
            match page["metadata"]["continue"].as_str() {
                Some(token) if !token.is_empty() => next = token.to_owned(),
                _ => return Ok(()),
            }
        }
    }

    /// Asks something that is answered and not kept.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, InstallError> {
        self.send(Method::POST, path, "application/json", Some(body)).await.map(|(_, answer)| answer)
    }

    /// Applies an object; yields it as the server has it then.
    pub(super) async fn apply(&self, object: &Object, settings: &Settings) -> Result<Value, InstallError> {
        let dry_run = if settings.dry_run { "&dryRun=All" } else { "" };
        let path = format!(
            "{}?fieldManager={FIELD_MANAGER}&fieldValidation=Strict&force={}{dry_run}",
            object.path(),
            settings.force
        );
        let (_, after) = self.send(Method::PATCH, &path, "application/apply-patch+yaml", Some(&object.value)).await?;
        Ok(after)
    }

    /// Changes an object by a merge patch.
    pub(crate) async fn merge(&self, path: &str, change: &Value) -> Result<(), InstallError> {
        self.send(Method::PATCH, path, "application/merge-patch+json", Some(change)).await.map(drop)
    }

    /// Deletes an object and what it owns; `false` if there is none.
    pub(super) async fn delete(&self, path: &str, dry_run: bool) -> Result<bool, InstallError> {
        let mut options = json!({"propagationPolicy": "Background"});
        if dry_run {
            options["dryRun"] = json!(["All"]);
        }
        match self.send(Method::DELETE, path, "application/json", Some(&options)).await {
            Ok(_) => Ok(true),
            Err(InstallError::Refused { status: 404, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// An object, and the date of the answer by the server's clock.
    pub(super) async fn dated(&self, path: &str) -> Result<(Option<Value>, Option<SystemTime>), InstallError> {
        let (status, headers, bytes) = self.exchange(Method::GET, path, "application/json", None).await?;
        let date = headers.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        match judged(format!("GET {path}"), status, &bytes) {
            Ok(value) => Ok((Some(value), date)),
            Err(InstallError::Refused { status: 404, .. }) => Ok((None, date)),
            Err(error) => Err(error),
        }
    }

    /// What stands at a path that answers in no language of the API's: the status, and the text.
    pub(super) async fn text(&self, path: &str) -> Result<(StatusCode, String), InstallError> {
        let (status, _, bytes) = self.exchange(Method::GET, path, "text/plain", None).await?;
        Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), InstallError> {
        let what = named(&method, path);
        let (status, _, bytes) = self.exchange(method, path, kind, body).await?;
        judged(what, status, &bytes).map(|value| (status, value))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, HeaderMap, Bytes), InstallError> {
        let what = named(&method, path);
        let lost = |cause: String| InstallError::Unreachable { what: what.clone(), cause };
        let bytes = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
        let request = request.body(Body::from(bytes)).map_err(|error| lost(error.to_string()))?;
        let exchange = async {
            let response = self.0.send(request).await.map_err(|error| causes(&error))?;
            let (parts, body) = response.into_parts();
            let bytes = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
            Ok::<_, String>((parts.status, parts.headers, bytes))
        };
        tokio::time::timeout(ANSWER, exchange)
            .await
            .map_err(|_| lost(format!("within {} s", ANSWER.as_secs())))?
            .map_err(lost)
    }
}

/// A request in the words of an error.
fn named(method: &Method, path: &str) -> String {
    format!("{method} {}", path.split('?').next().unwrap_or(path))
}

/// What an answer says, or why there is none.
fn judged(what: String, status: StatusCode, bytes: &[u8]) -> Result<Value, InstallError> {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    if status.is_success() {
        return Ok(value);
    }
    let said = value["message"].as_str().map(str::to_owned);
    let message = said.unwrap_or_else(|| String::from_utf8_lossy(bytes).trim().to_owned());
    Err(match status.as_u16() {
        409 => InstallError::Conflict { what, message },
        401 | 403 => InstallError::Forbidden { what, message },
        status => InstallError::Refused { what, status, message },
    })
}
