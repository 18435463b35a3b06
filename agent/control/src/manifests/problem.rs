//! What is wrong with a manifest, and where.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use crate::resource::Kind;

/// Problems logged after one look; `weft status` and `weft check` have all of them.
const LOGGED: usize = 100;

/// What becomes of a route that cannot be understood and never was.
pub(crate) const REFUSING_ROUTE: &str =
    "; until it is mended, requests to its parents that no other route takes are refused";

/// Which object a manifest is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for what lives outside namespaces.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind.as_str(), self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind.as_str(), self.name),
        }
    }
}

/// How bad a problem is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Severity {
    /// Something was not applied.
    Error,
    /// Applied as it stands, but it probably does not do what was meant.
    Warning,
}

impl Severity {
    /// The word in messages and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One problem, shown as `file:line: severity: object: reason`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Problem {
    /// The file or directory, as it was named or found; `kubernetes` for an object of a cluster.
    pub file: Arc<str>,
    /// The line in it, from 1; `None` if the problem is with the file as a whole.
    pub line: Option<usize>,
    /// How bad it is.
    pub severity: Severity,
    /// The object, if the document could be told to be one.
    pub object: Option<ObjectRef>,
    /// What is wrong, what to do about it, and what stays in force meanwhile.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}: ", self.severity.as_str())?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        f.write_str(&self.reason)
    }
}

/// Logs what is newly wrong and what is no longer, and publishes the list.
pub(crate) fn report(published: &watch::Sender<Arc<Vec<Problem>>>, problems: Vec<Problem>) {
    published.send_if_modified(|current| {
        if **current == problems {
            return false;
        }
        let (old, new): (BTreeSet<_>, BTreeSet<_>) = (current.iter().collect(), problems.iter().collect());
        for problem in new.difference(&old).take(LOGGED) {
            match problem.severity {
                Severity::Error => tracing::error!(target: "weft::manifests", "{problem}"),
                Severity::Warning => tracing::warn!(target: "weft::manifests", "{problem}"),
            }
        }
        for problem in old.difference(&new).take(LOGGED) {
            tracing::info!(target: "weft::manifests", "resolved: {problem}");
        }
        *current = Arc::new(problems);
        true
    });
}
