//! Configuration from a directory of ordinary Kubernetes manifests, read again whenever it changes.
//!
//! The standalone counterpart of watching the API server; past this module nothing knows which of the two it was.
//! It applies what is valid, reports the rest with file and line, and never lets go of the last good state because a
//! file broke (`memory.rs` has the rules). It reads and never writes.

mod check;
mod document;
mod file;
mod kinds;
mod locate;
mod memory;
mod problem;
mod scan;
mod watch;

pub use check::check;
pub use file::{MAX_DOCUMENTS, MAX_FILE_BYTES, Parsed, ParsedFile, parse};
pub use problem::{ObjectRef, Problem, Severity};
pub use watch::{SourceError, SourceSettings, follow};

pub(super) use document::{Body, Header, Unreadable};
pub(super) use kinds::{convert, selector_of, unknown_fields};
pub(super) use problem::{REFUSING_ROUTE, report};

#[cfg(test)]
mod tests;
