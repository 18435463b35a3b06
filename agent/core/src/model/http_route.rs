//! HTTPRoutes and GRPCRoutes with a Service as parent: what of Gateway API's two kinds the mesh decides by.
//!
//! A GRPCRoute is a route over HTTP whose paths are a service and a method; nothing else about it differs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use regex::{Regex, RegexBuilder};

use super::name::ObjectName;
use super::route::{BackendRef, ParentRef};
use super::session::SessionPersistence;
use super::workload::Weight;

/// Which kind a route is of. Of several kinds for one port the one that says most about its requests decides, in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum HttpKind {
    /// `GRPCRoute`.
    Grpc,
    /// `HTTPRoute`.
    Http,
}

impl HttpKind {
    /// The `kind` of a manifest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
        }
    }
}

impl fmt::Display for HttpKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of a route among those of both kinds.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct HttpRouteId {
    /// Its kind.
    pub kind: HttpKind,
    /// Namespace and name.
    pub name: ObjectName,
}

impl fmt::Display for HttpRouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// An HTTPRoute or GRPCRoute.
#[derive(Clone, PartialEq, Debug)]
pub struct HttpRoute {
    /// Kind, namespace and name.
    pub id: HttpRouteId,
    /// The Services it is attached to.
    pub parents: Vec<ParentRef>,
    /// What it does with requests. One without any matches nothing.
    pub rules: Vec<Arc<HttpRule>>,
    /// Seconds since the epoch at which the object was created (0 where the manifest has none); the older of two routes wins.
    pub created: i64,
}

impl HttpRoute {
    /// Every Service port it names, as backend or as mirror.
    pub fn backends(&self) -> impl Iterator<Item = &BackendRef> {
        self.rules.iter().flat_map(|rule| {
            let direct = rule.backends.iter().map(|backend| &backend.backend);
            let filters = std::iter::once(&rule.filters).chain(rule.backends.iter().map(|backend| &backend.filters));
            direct.chain(filters.flat_map(|filters| &filters.mirrors).map(|mirror| &mirror.backend))
        })
    }
}

/// One rule of a route.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct HttpRule {
    /// Its name, for logs.
    pub name: Option<Arc<str>>,
    /// It takes a request that any of these fits; never empty.
    pub matches: Vec<HttpMatch>,
    /// What is done to every request it takes.
    pub filters: Filters,
    /// Where they go, by weight.
    pub backends: Vec<HttpBackend>,
    /// Backends that are no Services: the shares nobody can have.
    pub foreign: Vec<ForeignBackend>,
    /// How long they may take.
    pub timeouts: Timeouts,
    /// Whether they are tried again.
    pub retry: Option<Retry>,
    /// How clients keep their endpoint, where its backends are concerned.
    pub session: Option<Arc<SessionPersistence>>,
    /// Why its requests are refused all: it asks for something that cannot be done here.
    pub unsupported: Option<Arc<str>>,
}

/// Conditions on a request, all of which it must meet.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct HttpMatch {
    /// On its path.
    pub path: PathMatch,
    /// On its method.
    pub method: Option<Method>,
    /// On its headers, each name once.
    pub headers: Vec<HeaderMatch>,
    /// On the parameters of its query, each name once.
    pub query: Vec<QueryMatch>,
}

/// A condition on a path, as it is written in the request: nothing is decoded or resolved.
#[derive(Clone, PartialEq, Debug)]
pub enum PathMatch {
    /// Equal.
    Exact(Arc<str>),
    /// Equal or below, by elements: `/a` has `/a/b` below it and not `/ab`. Without a slash at the end; empty for all paths.
    Prefix(Arc<str>),
    /// As a whole like this.
    Regex(Pattern),
    /// `/service/method`, of which each may be left open.
    Grpc {
        /// The service, with its package.
        service: Option<TextMatch>,
        /// The method.
        method: Option<TextMatch>,
    },
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix("".into())
    }
}

/// A condition on a text.
#[derive(Clone, PartialEq, Debug)]
pub enum TextMatch {
    /// Equal.
    Exact(Arc<str>),
    /// As a whole like this.
    Regex(Pattern),
}

impl TextMatch {
    /// Whether `text` meets the condition.
    #[must_use]
    pub fn fits(&self, text: &str) -> bool {
        match self {
            Self::Exact(wanted) => **wanted == *text,
            Self::Regex(pattern) => pattern.fits(text),
        }
    }

    /// How many characters it is written with.
    #[must_use]
    pub fn length(&self) -> usize {
        match self {
            Self::Exact(text) => text.len(),
            Self::Regex(pattern) => pattern.text.len(),
        }
    }
}

/// A regular expression that a whole text is held against. Time to match is linear in the text's length.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Arc<str>,
    regex: Regex,
}

impl Pattern {
    /// What a compiled expression may take, in bytes: an author of routes is not to fill the node's memory.
    const SIZE: usize = 256 * 1024;

    /// Compiles an expression.
    ///
    /// # Errors
    /// When it is none, or too large.
    pub fn new(text: &str) -> Result<Self, String> {
        let whole = format!("^(?:{text})$");
        let compiled = RegexBuilder::new(&whole).size_limit(Self::SIZE).dfa_size_limit(Self::SIZE).build();
        let regex = compiled.map_err(|error| match error {
            regex::Error::CompiledTooBig(limit) => format!("{text:?} takes more than {limit} bytes when compiled"),
            // Of several lines, the last says what is wrong.
            error => {
                let said = error.to_string();
                format!("{text:?} is not a regular expression: {}", said.lines().last().unwrap_or_default())
            }
        })?;
        Ok(Self { text: text.into(), regex })
    }

    /// The expression as written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the whole of `text` is like it.
    #[must_use]
    pub fn fits(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// A condition on a header. One that comes in several lines is understood as their values with commas between (RFC 9110, 5.3).
#[derive(Clone, PartialEq, Debug)]
pub struct HeaderMatch {
    /// The header.
    pub name: HeaderName,
    /// What its value has to be.
    pub value: TextMatch,
}

/// A condition on a parameter of the query, decoded; where it comes several times, the first counts.
#[derive(Clone, PartialEq, Debug)]
pub struct QueryMatch {
    /// The parameter.
    pub name: Arc<str>,
    /// What its value has to be.
    pub value: TextMatch,
}

/// A Service port that receives a share of a rule's requests.
#[derive(Clone, PartialEq, Debug)]
pub struct HttpBackend {
    /// Which, and its share.
    pub backend: BackendRef,
    /// What is done to the requests that go there, after the rule's own filters.
    pub filters: Filters,
}

/// What a rule names as a backend and is of a kind nothing can be sent to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForeignBackend {
    /// What it is, for the answer to those that fall to it.
    pub what: Arc<str>,
    /// Its share.
    pub weight: Weight,
}

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

/// How long requests may take; without limits where absent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timeouts {
    /// From the request's first byte to the response's last, whatever is tried meanwhile.
    pub request: Option<Duration>,
    /// One try: from its beginning to the response's last byte.
    pub backend_request: Option<Duration>,
}

/// Whether requests are tried again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Retry {
    /// How often at most, besides the first time.
    pub attempts: u32,
    /// Which statuses ask for it, besides failures of the connection.
    pub statuses: Vec<StatusCode>,
    /// The least time between two tries.
    pub backoff: Option<Duration>,
}
