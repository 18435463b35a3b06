//! A request as the API sees it: verb, group, version, resource, namespace, name, subresource, options.

use std::collections::HashMap;

use http::{HeaderMap, Method, Uri};
use percent_encoding::percent_decode_str;

use crate::status::ApiError;

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Path {
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/apps`
    Group(String),
    /// `/api/v1`, `/apis/apps/v1`: group and version.
    Resources(String, String),
    /// An object or a collection.
    Target(Target),
    /// Outside the API.
    Other(String),
}

/// An object or a collection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Target {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    /// Empty: all of them, or the kind has none.
    pub(crate) namespace: String,
    /// Empty: the collection.
    pub(crate) name: String,
    pub(crate) subresource: String,
    /// What stands behind `proxy/`.
    pub(crate) rest: String,
}

/// Options of a request's query, the first of each name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(HashMap<String, String>);

impl Query {
    pub(crate) fn of(uri: &Uri) -> Self {
        let mut options = HashMap::new();
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            options.entry(name.into_owned()).or_insert_with(|| value.into_owned());
        }
        Self(options)
    }

    /// An option; empty if it is not there.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.text(name), "true" | "1" | "t" | "T" | "TRUE" | "True")
    }

    /// A number; 0 if it is not there.
    pub(crate) fn number(&self, name: &str) -> Result<u64, ApiError> {
        match self.text(name) {
            "" => Ok(0),
            text => text.parse().map_err(|_| {
                let message = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
                ApiError::bad_request(message)
            }),
        }
    }
}

impl Path {
    pub(crate) fn parse(uri: &Uri) -> Self {
        let decoded = percent_decode_str(uri.path()).decode_utf8_lossy().into_owned();
        let parts: Vec<&str> = decoded.split('/').filter(|part| !part.is_empty()).collect();
        match parts.as_slice() {
            ["api"] => Self::CoreVersions,
            ["apis"] => Self::Groups,
            ["apis", group] => Self::Group((*group).to_owned()),
            ["api", version] => Self::Resources(String::new(), (*version).to_owned()),
            ["apis", group, version] => Self::Resources((*group).to_owned(), (*version).to_owned()),
            ["api", version, rest @ ..] => Self::target("", version, rest).unwrap_or(Self::Other(decoded.clone())),
            ["apis", group, version, rest @ ..] => {
                Self::target(group, version, rest).unwrap_or(Self::Other(decoded.clone()))
            }
            _ => Self::Other(decoded.clone()),
        }
    }

    fn target(group: &str, version: &str, rest: &[&str]) -> Option<Self> {
        let (namespace, rest) = match rest {
            // `/namespaces/demo` and `/namespaces/demo/status` are about the namespace itself.
            ["namespaces", _] | ["namespaces", _, "status" | "finalize"] if group.is_empty() => ("", rest),
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let (plural, name, subresource, rest) = match rest {
            [plural] => (*plural, "", "", &[][..]),
            [plural, name] => (*plural, *name, "", &[][..]),
            [plural, name, subresource] => (*plural, *name, *subresource, &[][..]),
            [plural, name, "proxy", rest @ ..] => (*plural, *name, "proxy", rest),
            _ => return None,
        };
        Some(Self::Target(Target {
            group: group.to_owned(),
            version: version.to_owned(),
            plural: plural.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            rest: rest.join("/"),
        }))
    }
}

/// The API's verb for a method on a target.
pub(crate) fn verb(method: &Method, target: &Target, query: &Query) -> Option<&'static str> {
    let collection = target.name.is_empty();
    Some(match *method {
        Method::GET | Method::HEAD if query.flag("watch") => "watch",
        Method::GET | Method::HEAD if collection => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST if collection || !target.subresource.is_empty() => "create",
        Method::PUT if !collection => "update",
        Method::PATCH if !collection => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        _ => return None,
    })
}

/// The manager of a write that names none: the client's program.
pub(crate) fn manager(query: &Query, headers: &HeaderMap) -> String {
    match query.text("fieldManager") {
        "" => {
            let agent =
                headers.get(http::header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or("unknown");
            agent.split('/').next().unwrap_or_default().to_owned()
        }
        manager => manager.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> Option<(String, String, String, String)> {
        match Path::parse(&path.parse().unwrap_or_default()) {
            Path::Target(target) => Some((target.plural, target.namespace, target.name, target.subresource)),
            _ => None,
        }
    }

    #[test]
    fn paths_name_collections_objects_and_subresources() {
        let said = |a: &str, b: &str, c: &str, d: &str| Some((a.into(), b.into(), c.into(), d.into()));
        assert_eq!(target("/api/v1/pods"), said("pods", "", "", ""));
        assert_eq!(target("/api/v1/namespaces/a"), said("namespaces", "", "a", ""));
        assert_eq!(target("/api/v1/namespaces/a/status"), said("namespaces", "", "a", "status"));
        assert_eq!(target("/api/v1/namespaces/a/pods"), said("pods", "a", "", ""));
        assert_eq!(target("/api/v1/namespaces/a/pods/b/status"), said("pods", "a", "b", "status"));
        assert_eq!(target("/api/v1/namespaces/a/pods/b:80/proxy/c/d"), said("pods", "a", "b:80", "proxy"));
        assert_eq!(target("/api/v1/namespaces/a/pods/b/status/c"), None);
        assert_eq!(target("/apis/x.dev/v1/things/a"), said("things", "", "a", ""));
        assert_eq!(target("/healthz"), None);
    }
}
