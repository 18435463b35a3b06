//! Names, labels and selectors of Kubernetes objects.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The longest name Kubernetes allows (RFC 1123 subdomain), in bytes.
const NAME_MAX: usize = 253;

/// A Kubernetes object name: lower-case letters, digits, `-` and `.`, at most 253 bytes (RFC 1123 subdomain).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Why a string is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a Kubernetes name: use 1 to 253 of a-z, 0-9, '-' and '.', beginning and ending with a letter or digit"
)]
pub struct NameError(pub String);

impl Name {
    /// Checks `text` against RFC 1123.
    ///
    /// # Errors
    /// [`NameError`] names the text and the rule.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = text.as_bytes();
        let inner = bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-' || *b == b'.');
        if bytes.len() > NAME_MAX || !inner || !edge(bytes.first()) || !edge(bytes.last()) {
            return Err(NameError(text.chars().take(NAME_MAX + 1).collect()));
        }
        Ok(Self(text.into()))
    }

    /// A name that was checked before it was taken apart.
    pub(super) fn checked(text: &str) -> Self {
        Self(text.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// To be replaced by an equal one.
    pub(super) fn text_mut(&mut self) -> &mut Arc<str> {
        &mut self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// A namespaced object's name, shown as `namespace/name`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectName {
    /// The namespace.
    pub namespace: Name,
    /// The name within it.
    pub name: Name,
}

impl ObjectName {
    /// Checks both parts.
    ///
    /// # Errors
    /// [`NameError`] for the first part that is not a name.
    pub fn new(namespace: &str, name: &str) -> Result<Self, NameError> {
        Ok(Self { namespace: Name::new(namespace)?, name: Name::new(name)? })
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One label, `key=value`.
pub type Label = (Arc<str>, Arc<str>);

/// The labels of an object.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// `matchLabels`: selects an object that carries every one of these. Empty selects all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(pub Vec<Label>);

impl Selector {
    /// Whether every label of the selector is among `labels`.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
