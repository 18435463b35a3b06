//! Whether a request meets the conditions of a rule.

use std::borrow::Cow;

use http::HeaderMap;
use http::request::Parts;

use super::{HeaderMatch, HttpMatch, PathMatch, QueryMatch};

impl HttpMatch {
    /// Whether a request meets all conditions.
    #[must_use]
    pub fn fits(&self, request: &Parts) -> bool {
        self.path.fits(request.uri.path())
            && self.method.as_ref().is_none_or(|method| *method == request.method)
            && self.headers.iter().all(|header| header.fits(&request.headers))
            && self.query.iter().all(|parameter| parameter.fits(request.uri.query().unwrap_or_default()))
    }
}

impl PathMatch {
    /// Whether a path meets the condition.
    #[must_use]
    pub fn fits(&self, path: &str) -> bool {
        match self {
            Self::Exact(wanted) => **wanted == *path,
            Self::Prefix(prefix) => below(prefix, path).is_some(),
            Self::Regex(pattern) => pattern.fits(path),
            Self::Grpc { service, method } => {
                let Some((called, of)) = path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) else {
                    return false;
                };
                service.as_ref().is_none_or(|service| service.fits(called))
                    && method.as_ref().is_none_or(|method| method.fits(of))
            }
        }
    }
}

/// What of `path` lies below `prefix`: nothing, or a slash and what follows it. `None` where the path is elsewhere.
pub(super) fn below<'a>(prefix: &str, path: &'a str) -> Option<&'a str> {
    path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/') || prefix.is_empty())
}

impl HeaderMatch {
    fn fits(&self, headers: &HeaderMap) -> bool {
        let mut lines = headers.get_all(&self.name).iter();
        let Some(first) = lines.next() else { return false };
        let Ok(first) = first.to_str() else { return false };
        match lines.next() {
            None => self.value.fits(first),
            Some(second) => {
                let mut joined = first.to_owned();
                for line in std::iter::once(second).chain(lines) {
                    let Ok(line) = line.to_str() else { return false };
                    joined.push(',');
                    joined.push_str(line);
                }
                self.value.fits(&joined)
            }
        }
    }
}

impl QueryMatch {
    fn fits(&self, query: &str) -> bool {
        let mut all = form_urlencoded::parse(query.as_bytes());
        let found: Option<Cow<'_, str>> = all.find(|(name, _)| **name == *self.name).map(|(_, value)| value);
        found.is_some_and(|value| self.value.fits(&value))
    }
}
