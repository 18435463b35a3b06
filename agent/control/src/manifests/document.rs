//! One YAML document: where it stands in its file, what it says it is, and the typed object in it.
//!
//! Files are cut at the document markers before any YAML is parsed, so that a document with a syntax error takes none
//! of its neighbours with it. YAML forbids a line that begins with `---` or `...` inside any scalar, so the cut is
//! exact.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

/// The most nodes a document may have. A `List` of 3,000 pods as kubectl prints it has about two million.
const MAX_NODES: usize = 4_000_000;
/// The deepest nesting. A Pod is 12 deep.
const MAX_DEPTH: usize = 64;
/// How often a document may use an alias.
const MAX_ALIASES: usize = 1_000;
/// How much its aliases may add, in parser events: what stops a "billion laughs".
const MAX_ALIAS_EVENTS: usize = 100_000;

/// A piece of a file that holds one document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Document<'a> {
    /// Its text, markers and directives included.
    pub text: &'a str,
    /// The line of the file its first line is, from 1.
    pub first_line: usize,
}

/// Cuts `text` into documents, leaving out those that hold nothing but comments. Stops after `limit`.
pub(super) fn split(text: &str, limit: usize) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut first_line, mut preamble, mut empty) = (0, 1, true, true);
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let (begins, ends) = (is_marker(line, "---"), is_marker(line, "..."));
        // Directives belong to the document whose marker follows them.
        if begins && !preamble || ends {
            let end = if ends { offset + line.len() } else { offset };
            push(&mut documents, &text[start..end], first_line, empty);
            (start, first_line) = (end, if ends { index + 2 } else { index + 1 });
            (preamble, empty) = (ends, true);
        }
        if begins {
            preamble = false;
            empty &= is_blank(&line[3..]);
        } else if !ends && !is_blank(line) && !line.starts_with('%') {
            (preamble, empty) = (false, false);
        }
        offset += line.len();
        if documents.len() >= limit {
            return documents;
        }
    }
    push(&mut documents, &text[start..], first_line, empty);
    documents
}

fn push<'a>(documents: &mut Vec<Document<'a>>, text: &'a str, first_line: usize, empty: bool) {
    if !empty {
        documents.push(Document { text, first_line });
    }
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn is_blank(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

/// What a document says it is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Header {
    pub api_version: Option<String>,
    pub kind: Option<String>,
    #[serde(default)]
    pub metadata: Option<HeaderMetadata>,
}

/// The part of `metadata` that names an object.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct HeaderMetadata {
    pub name: Option<String>,
    pub namespace: Option<String>,
    /// Whatever else stands there, by name.
    #[serde(flatten)]
    pub others: BTreeMap<String, IgnoredAny>,
}

/// Why a document could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Unreadable {
    /// The line within the document, from 1.
    pub line: Option<usize>,
    /// What the parser says.
    pub reason: String,
}

/// The contents of one object: text of its own, or an item of a `List`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Body<'a> {
    /// A document.
    Text(&'a str),
    /// An item.
    Value(&'a serde_json::Value),
}

impl Body<'_> {
    /// The typed object.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, Unreadable> {
        match self {
            Self::Text(text) => read(text),
            Self::Value(value) => {
                T::deserialize(*value).map_err(|error| Unreadable { line: None, reason: error.to_string() })
            }
        }
    }
}

/// Parses one document as `T`, within the limits and as the API server would: `90` is a number, and not the string an
/// annotation has to be.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Result<T, Unreadable> {
    parse(text, true)
}

/// Parses one document whatever the types of its scalars.
pub(super) fn read_leniently<T: DeserializeOwned>(text: &str) -> Result<T, Unreadable> {
    parse(text, false)
}

fn parse<T: DeserializeOwned>(text: &str, strict: bool) -> Result<T, Unreadable> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: MAX_NODES,
            max_events: 3 * MAX_NODES,
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_aliases: MAX_ALIASES,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_ALIAS_EVENTS,
        },
        emit_comments: false,
        no_schema: strict,
        // A pod named `n` is no boolean; Kubernetes' own YAML library thinks so too.
        strict_booleans: true,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let error = error.without_snippet();
        let line = error.location().and_then(|location| usize::try_from(location.line()).ok());
        Unreadable { line: line.filter(|line| *line > 0), reason: reason(error) }
    })
}

/// The parser's message without the position, which the problem carries in terms of the file.
fn reason(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let end = [" at line ", ": line ", " (line "].iter().filter_map(|mark| text.rfind(mark)).max();
    let text = end.map_or(text.as_str(), |end| &text[..end]);
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// What a document that is not even YAML seems to be, from the lines a person would look at.
///
/// Only ever used to refuse more: a policy that cannot be read must not be mistaken for no policy.
pub(super) fn guess(text: &str) -> Header {
    let mut header = Header::default();
    let mut metadata = HeaderMetadata::default();
    let mut inside = false;
    let value = |line: &str, key: &str| -> Option<String> {
        let rest = line.strip_prefix(key)?.strip_prefix(':')?;
        let rest = rest.split(" #").next().unwrap_or_default().trim().trim_matches(['"', '\'']);
        (!rest.is_empty()).then(|| rest.to_owned())
    };
    for line in text.lines() {
        let trimmed = line.trim_start();
        if trimmed.len() == line.len() && !trimmed.is_empty() {
            inside = trimmed.starts_with("metadata:");
            header.kind = header.kind.take().or_else(|| value(trimmed, "kind"));
            header.api_version = header.api_version.take().or_else(|| value(trimmed, "apiVersion"));
        } else if inside {
            metadata.name = metadata.name.take().or_else(|| value(trimmed, "name"));
            metadata.namespace = metadata.namespace.take().or_else(|| value(trimmed, "namespace"));
        }
    }
    header.metadata = Some(metadata);
    header
}
