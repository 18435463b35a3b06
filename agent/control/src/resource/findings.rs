//! What a conversion has to say about its object, by the paths of fields.

use std::fmt;
use std::net::IpAddr;

/// One thing wrong with an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The field, as `spec.rules[0].from[1].ipBlocks[0]`; a key that holds dots stands in brackets.
    pub path: String,
    /// What is wrong with it and what to write instead.
    pub reason: String,
    /// Whether the object can be used all the same.
    pub warning: bool,
    /// Whether it is the fault of one rule of a route, which refuses for it: the route can be used.
    pub of_rule: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.reason),
            path => write!(f, "{path}: {}", self.reason),
        }
    }
}

/// What a conversion has to say about its object.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Notes that the object cannot be used.
    pub fn error(&mut self, path: impl Into<String>, reason: impl fmt::Display) {
        self.0.push(Finding { path: path.into(), reason: reason.to_string(), warning: false, of_rule: false });
    }

    /// Notes that a rule of a route cannot be followed, and refuses.
    pub fn refused(&mut self, path: impl Into<String>, reason: impl fmt::Display) {
        self.0.push(Finding { path: path.into(), reason: reason.to_string(), warning: false, of_rule: true });
    }

    /// Notes something that probably is not meant, and is used as it stands.
    pub fn warning(&mut self, path: impl Into<String>, reason: impl fmt::Display) {
        self.0.push(Finding { path: path.into(), reason: reason.to_string(), warning: true, of_rule: false });
    }

    /// Whether any finding forbids using the object.
    #[must_use]
    pub fn invalid(&self) -> bool {
        self.of_the_whole().next().is_some()
    }

    fn of_the_whole(&self) -> impl Iterator<Item = &Finding> {
        self.0.iter().filter(|finding| !finding.warning && !finding.of_rule)
    }

    /// What forbids using the object, in one text; `None` where nothing does.
    pub(crate) fn said_of_the_whole(&self) -> Option<String> {
        let all: Vec<_> = self.of_the_whole().map(ToString::to_string).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Notes all that others have found.
    pub(crate) fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }

    /// The findings, in the order they were made.
    #[must_use]
    pub fn into_vec(self) -> Vec<Finding> {
        self.0
    }

    /// `value`, or `None` and a finding.
    pub(crate) fn keep<T, E: fmt::Display>(&mut self, path: impl fmt::Display, value: Result<T, E>) -> Option<T> {
        value.map_err(|error| self.error(path.to_string(), error)).ok()
    }

    /// An IP address. An IPv4-mapped one is understood as the IPv4 address it stands for.
    pub(crate) fn address(&mut self, path: impl fmt::Display, text: &str) -> Option<IpAddr> {
        let parsed = text.parse::<IpAddr>().map_err(|_| format!("{text:?} is not an IP address"));
        self.keep(path, parsed).map(|address| address.to_canonical())
    }

    /// A port number a Kubernetes object holds as a signed integer.
    pub(crate) fn port(&mut self, path: impl fmt::Display, number: i32) -> Option<u16> {
        let port = u16::try_from(number).ok().filter(|port| *port != 0);
        self.keep(path, port.ok_or_else(|| format!("{number} is not a port: use 1 to 65535")))
    }
}
