//! What a rule or a backend does to a request and its response.

use std::sync::Arc;

use http::uri::Scheme;
use http::{HeaderName, HeaderValue, StatusCode};

use crate::model::route::BackendRef;

/// What is done to requests and to their responses.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Filters {
    /// To the request's headers.
    pub request_headers: HeaderEdits,
    /// To the response's headers.
    pub response_headers: HeaderEdits,
    /// The request is answered with another place.
    pub redirect: Option<Redirect>,
    /// The request is sent on with another host or path.
    pub rewrite: Option<Rewrite>,
    /// Who gets copies of requests.
    pub mirrors: Vec<Mirror>,
    /// What browsers may let pages of other origins do.
    pub cors: Option<Cors>,
}

/// Changes of headers: those to set, then those to add, then those to remove.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HeaderEdits {
    /// In the place of all of the name.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Beside those of the name.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// All of the name.
    pub remove: Vec<HeaderName>,
}

/// Another place for a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redirect {
    /// `http` or `https`; the request's where absent.
    pub scheme: Option<Scheme>,
    /// The request's where absent.
    pub host: Option<Arc<str>>,
    /// Where absent, the scheme's own if a scheme is given, the one that was dialled otherwise.
    pub port: Option<u16>,
    /// The request's where absent.
    pub path: Option<PathEdit>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

/// What a request is sent on with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rewrite {
    /// The host, in the place of the request's.
    pub host: Option<HeaderValue>,
    /// The path.
    pub path: Option<PathEdit>,
}

/// Another path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PathEdit {
    /// This one.
    Full(Arc<str>),
    /// This one in the place of the prefix by which the request was matched.
    Prefix(Arc<str>),
}

/// Who gets copies of requests; what it answers is nobody's concern.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mirror {
    /// Which Service port. Its weight means nothing.
    pub backend: BackendRef,
    /// Of how many requests in how many: `(1, 1)` for all.
    pub fraction: (u32, u32),
}

impl Mirror {
    /// Whether a request is among those that are copied; `random` is uniform over all of `u64`.
    #[must_use]
    pub fn takes(&self, random: u64) -> bool {
        let (part, whole) = self.fraction;
        random % u64::from(whole.max(1)) < u64::from(part)
    }
}

/// What browsers may let pages of other origins do (Fetch standard, CORS protocol).
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Cors {
    /// Which origins; none are any other's business.
    pub origins: Vec<OriginMatch>,
    /// Whether with cookies and the like.
    pub credentials: bool,
    /// With which methods; `*` stands for all.
    pub methods: Vec<Arc<str>>,
    /// With which headers; `*` stands for all.
    pub headers: Vec<Arc<str>>,
    /// Which headers of responses pages may read; `*` stands for all.
    pub exposed: Vec<Arc<str>>,
    /// How long a browser may remember it, in seconds.
    pub max_age: u32,
}

/// An origin, or several.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OriginMatch {
    /// Any.
    Any,
    /// This one, `scheme://host` with `:port` where it is not the scheme's.
    Exact(Arc<str>),
    /// Those that begin and end so, with at least one character between.
    Between(Arc<str>, Arc<str>),
}
