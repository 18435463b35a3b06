//! The text of an HBONE request, without any I/O: `:authority`, `forwarded` and `baggage`.
//!
//! These bytes come from a peer that has a certificate and may still lie. Parsing is strict and bounded, has one
//! canonical form per value and never panics; each parser has a fuzz target. What is parsed from `forwarded` and
//! `baggage` stays a claim: identity comes from the certificate alone.

mod authority;
mod baggage;
mod forwarded;

pub use authority::{AuthorityError, format_authority, parse_authority};
pub use baggage::{BAGGAGE_MAX, BaggageError, Claims, format_baggage, parse_baggage};
pub use forwarded::{Forwarded, ForwardedError, format_forwarded, parse_forwarded};

#[cfg(test)]
mod tests;
