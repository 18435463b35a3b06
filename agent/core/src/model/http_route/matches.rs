//! Which requests a rule is for.

use std::sync::Arc;

use http::{HeaderName, Method};
use regex::{Regex, RegexBuilder};

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
    /// Something more was asked for that cannot be told of a request: who meets the rest may be meant, or may not. Its rule
    /// refuses, and is asked after those that ask for as much and are understood.
    pub unclear: bool,
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
        let compile = |text: &str| RegexBuilder::new(text).size_limit(Self::SIZE).dfa_size_limit(Self::SIZE).build();
        // By itself first: `a)|(?:b` is an expression between the brackets only, and would match parts there.
        let compiled = compile(text).and_then(|_| compile(&format!("^(?:{text})$")));
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
