//! One file becomes objects and problems. A pure function of its bytes: the fuzz target calls it.

use std::sync::Arc;

use serde::Deserialize;
use serde_saphyr::Spanned;
use weft_core::model::{ObjectName, Selector};
use weft_core::snapshot::Resource;

use super::document::{self, Body, Document, Header, Unreadable};
use super::kinds::{Named, convert, named, object_ref, selector_of, unknown_fields};
use super::locate::Lines;
use super::problem::{ObjectRef, Problem, Severity};
use crate::resource::{Findings, Kind, authorization_policy};

/// The largest file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// The most documents a file may have, and the most objects.
pub const MAX_DOCUMENTS: usize = 20_000;

/// An object of a file.
#[derive(Clone, PartialEq, Debug)]
pub struct Parsed {
    /// Which one.
    pub object: ObjectRef,
    /// The line it begins on, from 1.
    pub line: usize,
    /// What it became. `None`: nothing the mesh uses, or nothing that can be used.
    pub resource: Option<Resource>,
    /// Whether it was understood. If not, an earlier version that was stays in force, and `resource` is what stands in
    /// where there is none.
    pub valid: bool,
}

/// What a file holds.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ParsedFile {
    /// Its objects, in order.
    pub objects: Vec<Parsed>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
    /// Whether every document could at least be told to be some object. If not, any object that has gone from the
    /// file may be the one that cannot be read.
    pub complete: bool,
}

/// Reads the contents of a manifest file.
#[must_use]
pub fn parse(bytes: &[u8], file: &str) -> ParsedFile {
    let mut reader = Reader { file: file.into(), out: ParsedFile { complete: true, ..ParsedFile::default() } };
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        _ if bytes.len() as u64 > MAX_FILE_BYTES => {
            reader.broken(None, format!("is larger than {} MiB: split it", MAX_FILE_BYTES >> 20));
        }
        Ok(text) => {
            let documents = document::split(text, MAX_DOCUMENTS + 1);
            for document in documents.iter().take(MAX_DOCUMENTS) {
                reader.document(*document);
            }
            if documents.len() > MAX_DOCUMENTS {
                reader.broken(None, format!("has more than {MAX_DOCUMENTS} documents: split it"));
            }
        }
        Err(error) => {
            let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            reader.broken(Some(line), "is not UTF-8 text".to_owned());
        }
    }
    reader.out
}

struct Reader {
    file: Arc<str>,
    out: ParsedFile,
}

/// The items of a `v1 List`.
#[derive(Deserialize)]
struct Items {
    #[serde(default)]
    items: Vec<Spanned<serde_json::Value>>,
}

impl Reader {
    fn broken(&mut self, line: Option<usize>, reason: String) {
        self.out.complete = false;
        self.problem(line, Severity::Error, None, reason);
    }

    fn problem(&mut self, line: Option<usize>, severity: Severity, object: Option<ObjectRef>, reason: String) {
        self.out.problems.push(Problem { file: self.file.clone(), line, severity, object, reason });
    }

    fn document(&mut self, document: Document<'_>) {
        let at = |line: Option<usize>| document.first_line + line.unwrap_or(1) - 1;
        match document::read::<Header>(document.text) {
            Err(unreadable) => self.unreadable(document, &unreadable),
            Ok(header) if matches!(named(&header), Named::List) => match document::read::<Items>(document.text) {
                Ok(list) => {
                    for item in &list.items {
                        let line = at(usize::try_from(item.referenced.line()).ok().filter(|line| *line > 0));
                        if self.out.objects.len() == MAX_DOCUMENTS {
                            return self.broken(Some(line), format!("has more than {MAX_DOCUMENTS} objects: split it"));
                        }
                        match Header::deserialize(&item.value) {
                            Ok(header) => self.object(&header, Body::Value(&item.value), line),
                            Err(error) => self.broken(Some(line), error.to_string()),
                        }
                    }
                }
                Err(unreadable) => self.broken(Some(at(unreadable.line)), unreadable.reason),
            },
            Ok(header) => {
                // The marker, comments and blank lines before it are not the object.
                let skipped = document.text.lines().take_while(|line| is_padding(line)).count();
                self.object(&header, Body::Text(document.text), document.first_line + skipped);
            }
        }
    }

    /// A document that is not YAML. What it seems to be matters for one kind only: a policy is never left out.
    fn unreadable(&mut self, document: Document<'_>, unreadable: &Unreadable) {
        let line = document.first_line + unreadable.line.unwrap_or(1) - 1;
        let header = document::guess(document.text);
        if !matches!(named(&header), Named::Known(Kind::AuthorizationPolicy)) {
            return self.broken(Some(line), format!("cannot be read: {}", unreadable.reason));
        }
        self.out.complete = false;
        let mut metadata = header.metadata.unwrap_or_default();
        metadata.name = metadata.name.or_else(|| Some(format!("unreadable-at-line-{}", document.first_line)));
        let metadata = Some(metadata);
        let header = Header { metadata, ..header };
        let Some(object) = object_ref(&header, Kind::AuthorizationPolicy) else {
            return self.broken(Some(line), format!("cannot be read: {}", unreadable.reason));
        };
        self.refuse(object, Selector::default(), document.first_line);
        let object = self.out.objects.last().map(|parsed| parsed.object.clone());
        self.problem(Some(line), Severity::Error, object, format!("cannot be read: {}", unreadable.reason));
    }

    /// The policy that refuses, for one that could not be understood.
    fn refuse(&mut self, object: ObjectRef, selector: Selector, line: usize) {
        let name = ObjectName::new(&object.namespace, &object.name).ok();
        let policy = name.map(|name| authorization_policy::refusing(name, selector));
        let resource = policy.map(Resource::AuthorizationPolicy);
        self.out.objects.push(Parsed { object, line, resource, valid: false });
    }

    fn object(&mut self, header: &Header, body: Body<'_>, line: usize) {
        let kind = match named(header) {
            Named::Known(kind) => kind,
            Named::Foreign => {
                let kind = header.kind.as_deref().unwrap_or_default();
                return tracing::debug!(file = %self.file, line, kind, "the mesh has no use for this object");
            }
            Named::List => return self.broken(Some(line), "is a List within a List".to_owned()),
            Named::Wrong(reason) => return self.broken(Some(line), reason),
        };
        let Some(object) = object_ref(header, kind) else {
            let reason = format!("is a {} without a valid metadata.name and namespace", kind.as_str());
            let at = match body {
                Body::Text(text) => Lines::of(text).of_path("metadata.name").map(|at| self.absolute(text, line, at)),
                Body::Value(_) => None,
            };
            return self.broken(at.or(Some(line)), reason);
        };
        let mut findings = Findings::default();
        unknown_fields(kind, header, body, &mut findings);
        match convert(kind, body, &mut findings) {
            Ok(resource) => {
                let valid = !findings.invalid();
                let resource = resource.filter(|_| valid || kind.fails_closed());
                self.report(&object, findings, body, line);
                self.out.objects.push(Parsed { object, line, resource, valid });
            }
            Err(unreadable) => {
                let at = match (body, unreadable.line) {
                    (Body::Text(text), Some(within)) => self.absolute(text, line, within),
                    _ => line,
                };
                self.problem(Some(at), Severity::Error, Some(object.clone()), unreadable.reason);
                if kind == Kind::AuthorizationPolicy {
                    self.refuse(object, selector_of(body), line);
                } else {
                    self.out.objects.push(Parsed { object, line, resource: None, valid: false });
                }
            }
        }
    }

    fn report(&mut self, object: &ObjectRef, findings: Findings, body: Body<'_>, line: usize) {
        let findings = findings.into_vec();
        let lines = match body {
            Body::Text(text) if !findings.is_empty() => Some((text, Lines::of(text))),
            _ => None,
        };
        for finding in findings {
            let within = lines.as_ref().and_then(|(text, lines)| Some((*text, lines.of_path(&finding.path)?)));
            let at = within.map_or(line, |(text, within)| self.absolute(text, line, within));
            let severity = if finding.warning { Severity::Warning } else { Severity::Error };
            let reason = format!("{}: {}", finding.path, finding.reason);
            self.problem(Some(at), severity, Some(object.clone()), reason);
        }
    }

    /// A line within `text`, whose first line that is not padding is `line` of the file, as a line of the file.
    fn absolute(&self, text: &str, line: usize, within: usize) -> usize {
        let skipped = text.lines().take_while(|line| is_padding(line)).count();
        (line + within).saturating_sub(skipped + 1)
    }
}

fn is_padding(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with(['#', '%']) || line == "---"
}

#[cfg(test)]
mod tests;
