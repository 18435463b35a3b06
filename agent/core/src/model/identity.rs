//! SPIFFE identities: who a workload is, in words both ends of a connection agree on.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::name::Name;

/// The longest SPIFFE ID accepted, in bytes (SPIFFE-ID, section 2.3).
const SPIFFE_ID_MAX: usize = 2048;

/// A SPIFFE trust domain: lower-case letters, digits, `.`, `-` and `_`, at most 255 bytes (SPIFFE-ID, section 2.1).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Checks `text`.
    ///
    /// # Errors
    /// [`IdentityError::TrustDomain`] names the text.
    pub fn new(text: &str) -> Result<Self, IdentityError> {
        let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > 255 || !text.bytes().all(ok) {
            return Err(IdentityError::TrustDomain(text.chars().take(256).collect()));
        }
        Ok(Self(text.into()))
    }

    /// The domain as text, e.g. `cluster.local`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The identity of a service account, `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Identity {
    /// The mesh the identity belongs to.
    pub trust_domain: TrustDomain,
    /// The service account's namespace.
    pub namespace: Name,
    /// The service account's name.
    pub service_account: Name,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

/// Why a string is not an identity of this form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The trust domain is malformed.
    #[error("{0:?} is not a trust domain: use 1 to 255 of a-z, 0-9, '.', '-' and '_', e.g. cluster.local")]
    TrustDomain(String),
    /// The whole is malformed.
    #[error("{0:?} is not an identity: expected spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Form(String),
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let form = || IdentityError::Form(text.chars().take(256).collect());
        if text.len() > SPIFFE_ID_MAX {
            return Err(form());
        }
        let rest = text.strip_prefix("spiffe://").ok_or_else(form)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [domain, "ns", namespace, "sa", service_account] = parts[..] else { return Err(form()) };
        Ok(Self {
            trust_domain: TrustDomain::new(domain)?,
            namespace: Name::new(namespace).map_err(|_| form())?,
            service_account: Name::new(service_account).map_err(|_| form())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let text = "spiffe://cluster.local/ns/shop/sa/cart";
        assert_eq!(text.parse::<Identity>().unwrap().to_string(), text);
    }

    #[test]
    fn refuses_other_forms() {
        for text in [
            "",
            "https://cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe://cluster.local/ns//sa/b",
            "spiffe://Cluster/ns/a/sa/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://c/ns/a/sa/b?x=1",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text}");
        }
    }
}
