//! What becomes of an HTTP request: which rule of which route takes it, and what that does to it.
//!
//! Everything here is a function of the request's head; time and randomness come in as arguments, bodies are never seen.
//! `router` says which rule, `routes` which routers a service port has and for whom, `edit` and `cors` what is
//! done to heads on their way, `session` how a client shows where it went before.

mod again;
mod cors;
mod edit;
mod fit;
mod hash;
mod location;
mod router;
mod session;

pub use crate::model::{
    Cors, Filters, ForeignBackend, HeaderEdits, HeaderMatch, HttpBackend, HttpKind, HttpMatch, HttpRoute, HttpRouteId,
    HttpRule, Mirror, OriginMatch, PathEdit, PathMatch, Pattern, QueryMatch, Redirect, Retry, Rewrite, TextMatch,
    Timeouts,
};
pub use cors::Preflight;
pub use edit::EditError;
pub use hash::cookie;
pub use router::{Chosen, HttpRouter, Refusal, Routed, Target};

#[cfg(test)]
mod tests;
