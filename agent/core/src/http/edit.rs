//! What filters do to the heads of requests and responses.

use http::header::HOST;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Uri};
use http::{HeaderMap, HeaderValue};

use super::fit::below;
use super::{Filters, HeaderEdits, HttpMatch, PathEdit, PathMatch, Rewrite};

/// A rewritten request that nobody could be sent: what the rule puts in makes no URI of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rewritten request has no valid URI ({0}); look at the rule's URLRewrite")]
pub struct EditError(String);

impl HeaderEdits {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// Changes headers.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

impl Filters {
    /// Whether a request and its response pass unchanged and uncopied.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Makes of a request what is sent on: headers, then host and path. `condition` is the one it was matched by.
    ///
    /// # Errors
    /// [`EditError`]: what comes of the path is none.
    pub fn edit_request(&self, condition: &HttpMatch, request: &mut Parts) -> Result<(), EditError> {
        self.request_headers.apply(&mut request.headers);
        match &self.rewrite {
            Some(rewrite) => rewrite.apply(condition, request),
            None => Ok(()),
        }
    }

    /// Makes of a response what the client gets.
    pub fn edit_response(&self, headers: &mut HeaderMap) {
        self.response_headers.apply(headers);
    }
}

impl Rewrite {
    fn apply(&self, condition: &HttpMatch, request: &mut Parts) -> Result<(), EditError> {
        if let Some(path) = &self.path {
            let path = path.of(condition, request.uri.path());
            request.uri = with_path(&request.uri, &path)?;
        }
        if let Some(host) = &self.host {
            // HTTP/2 names the host in the URI, HTTP/1 in a header; one that has both has them alike.
            if request.uri.authority().is_some() {
                request.uri = with_authority(&request.uri, host)?;
            }
            if request.headers.contains_key(HOST) || request.uri.authority().is_none() {
                request.headers.insert(HOST, host.clone());
            }
        }
        Ok(())
    }
}

impl PathEdit {
    /// The path that comes of `path`, which was matched by `condition`.
    ///
    /// What replaces a prefix may end with a slash or not; between it and what follows there is one. (Gateway API,
    /// HTTPPathModifier's table.)
    #[must_use]
    pub fn of(&self, condition: &HttpMatch, path: &str) -> String {
        let (new, rest) = match (self, &condition.path) {
            (Self::Full(path), _) => return path.as_ref().into(),
            (Self::Prefix(new), PathMatch::Prefix(prefix)) => (new, below(prefix, path).unwrap_or_default()),
            // A rule that edits prefixes matches by them; its conversion sees to that.
            (Self::Prefix(new), _) => (new, path),
        };
        let new = new.trim_end_matches('/');
        match (new, rest) {
            ("", "") => "/".to_owned(),
            _ => format!("{new}{rest}"),
        }
    }
}

/// `uri` with another path, and its query.
pub(super) fn with_path(uri: &Uri, path: &str) -> Result<Uri, EditError> {
    let text = match uri.query() {
        Some(query) if !path.contains('?') => format!("{path}?{query}"),
        _ => path.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(text).map_err(|error| EditError(error.to_string()))?);
    Uri::from_parts(parts).map_err(|error| EditError(error.to_string()))
}

fn with_authority(uri: &Uri, host: &HeaderValue) -> Result<Uri, EditError> {
    let mut parts = uri.clone().into_parts();
    let authority = Authority::try_from(host.as_bytes()).map_err(|error| EditError(error.to_string()))?;
    parts.authority = Some(authority);
    Uri::from_parts(parts).map_err(|error| EditError(error.to_string()))
}
