//! Field selectors: `metadata.name=a,spec.nodeName!=b`.

use crate::kinds::Resource;
use crate::store::Stored;

/// Terms that must all hold.
#[derive(Clone, Default)]
pub(crate) struct Fields {
    terms: Vec<Term>,
}

#[derive(Clone)]
struct Term {
    field: String,
    value: String,
    equal: bool,
}

impl Fields {
    /// Parses a selector; only fields that the resource says it can select by are allowed.
    pub(crate) fn parse(text: &str, resource: &Resource) -> Result<Self, String> {
        let selectable = resource.selectable();
        let mut terms = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let split = [("!=", false), ("==", true), ("=", true)]
                .into_iter()
                .filter_map(|(operator, equal)| Some((part.find(operator)?, operator, equal)))
                .min_by_key(|(at, operator, _)| (*at, usize::MAX - operator.len()));
            let Some((at, operator, equal)) = split else {
                return Err(format!("invalid selector: '{text}'; can't understand '{part}'"));
            };
            let (field, value) = (part[..at].to_owned(), part[at + operator.len()..].to_owned());
            let known = matches!(field.as_str(), "metadata.name" | "metadata.namespace");
            if !known && !selectable.contains(&field) {
                return Err(format!("field label not supported: {field}"));
            }
            terms.push(Term { field, value, equal });
        }
        Ok(Self { terms })
    }

    pub(crate) fn matches(&self, object: &Stored) -> bool {
        self.terms.iter().all(|term| {
            let found = match term.field.as_str() {
                "metadata.name" => object.name.as_str(),
                "metadata.namespace" => object.namespace.as_str(),
                field => object.fields.get(field).map_or("", String::as_str),
            };
            (found == term.value) == term.equal
        })
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }
}
