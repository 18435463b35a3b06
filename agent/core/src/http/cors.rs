//! The CORS protocol (Fetch standard): which pages of other origins a browser may let in.
//!
//! A preflight (`OPTIONS` with `Origin` and `Access-Control-Request-Method`) is answered here and reaches no backend;
//! every other request goes on, and its response is told who may read it. Nothing is refused: an origin that is not
//! listed gets no permission, and the browser does the rest.

use std::fmt::Write as _;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{Cors, OriginMatch};
use std::sync::Arc;

/// The headers of the answer to a preflight; its status is 204.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Preflight(pub HeaderMap);

impl Cors {
    /// The answer to a preflight; `None` for every other request.
    #[must_use]
    pub fn preflight(&self, request: &Parts) -> Option<Preflight> {
        let asked = request.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        if request.method != Method::OPTIONS {
            return None;
        }
        let origin = request.headers.get(ORIGIN)?;
        let mut answer = HeaderMap::new();
        if !self.permit(origin, &mut answer) {
            return Some(Preflight(answer));
        }
        set(&mut answer, ACCESS_CONTROL_ALLOW_METHODS, self.list(&self.methods, Some(asked)));
        let headers = request.headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
        set(&mut answer, ACCESS_CONTROL_ALLOW_HEADERS, self.list(&self.headers, headers));
        answer.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.into());
        Some(Preflight(answer))
    }

    /// Tells the browser whether the page at `origin` may read a response; what the backend says about it gives way.
    pub fn decorate(&self, origin: &HeaderValue, response: &mut HeaderMap) {
        let ours = [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_EXPOSE_HEADERS];
        for name in ours {
            response.remove(name);
        }
        if self.permit(origin, response) {
            set(response, ACCESS_CONTROL_EXPOSE_HEADERS, self.list(&self.exposed, None));
        }
    }

    /// Names the origin as permitted, if it is.
    fn permit(&self, origin: &HeaderValue, answer: &mut HeaderMap) -> bool {
        let any = self.origins.contains(&OriginMatch::Any);
        if !any || self.credentials {
            answer.append(VARY, HeaderValue::from_static("origin"));
        }
        let listed = origin.to_str().is_ok_and(|text| self.origins.iter().any(|listed| listed.fits(text)));
        if !listed {
            return false;
        }
        // With credentials browsers take no `*`.
        let named = if any && !self.credentials { HeaderValue::from_static("*") } else { origin.clone() };
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, named);
        if self.credentials {
            answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        true
    }

    /// A list as it is said to the browser. `*` means nothing beside credentials: then it is what was asked for.
    fn list(&self, all: &[Arc<str>], asked: Option<&HeaderValue>) -> Option<HeaderValue> {
        if all.iter().any(|one| &**one == "*") {
            return match asked {
                Some(asked) if self.credentials => Some(asked.clone()),
                _ => Some(HeaderValue::from_static("*")),
            };
        }
        let mut text = String::new();
        for one in all {
            let comma = if text.is_empty() { "" } else { ", " };
            let _ = write!(text, "{comma}{one}");
        }
        HeaderValue::try_from(text).ok().filter(|text| !text.is_empty())
    }
}

impl OriginMatch {
    /// Whether an origin is this one or among these.
    #[must_use]
    pub fn fits(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(one) => **one == *origin,
            Self::Between(before, after) => {
                origin.len() > before.len() + after.len() && origin.starts_with(&**before) && origin.ends_with(&**after)
            }
        }
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    if let Some(value) = value {
        headers.insert(name, value);
    }
}
