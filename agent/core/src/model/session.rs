//! `sessionPersistence` (GEP-1619): a client that shows what it was given goes where it went.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

/// How a client keeps its endpoint over many requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionPersistence {
    /// What the session is called: a token of RFC 9110, 5.6.2.
    pub name: Arc<str>,
    /// Where its token is.
    pub carrier: Carrier,
    /// How long it lasts.
    pub absolute: Option<Duration>,
    /// How long it lasts without a request.
    pub idle: Option<Duration>,
}

/// Where the token of a session is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Carrier {
    /// In a cookie of the session's name.
    Cookie {
        /// The client is told how long to keep it; else it does as long as it runs.
        permanent: bool,
    },
    /// In this field of requests and responses.
    Header(HeaderName),
}
