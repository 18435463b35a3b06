//! From the path of a field to the line it stands on.
//!
//! Typed objects carry no positions, so a document that a conversion complains about is read once more, as a tree that
//! has them. Only documents with something wrong pay for it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A value and the line it begins on.
struct Node {
    line: u64,
    children: Children,
}

enum Children {
    None,
    List(Vec<Node>),
    Map(BTreeMap<String, (u64, Node)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Children>::deserialize(deserializer)?;
        Ok(Self { line: spanned.referenced.line(), children: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Children {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ChildrenVisitor)
    }
}

struct ChildrenVisitor;

impl<'de> Visitor<'de> for ChildrenVisitor {
    type Value = Children;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Children, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Children::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Children, A::Error> {
        let mut map = BTreeMap::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            map.insert(key.value, (key.referenced.line(), entries.next_value()?));
        }
        Ok(Children::Map(map))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Children, E> {
        Ok(Children::None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Children, E> {
        Ok(Children::None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Children, E> {
        Ok(Children::None)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Children, E> {
        Ok(Children::None)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Children, E> {
        Ok(Children::None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Children, E> {
        Ok(Children::None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Children, E> {
        Ok(Children::None)
    }

    fn visit_unit<E>(self) -> Result<Children, E> {
        Ok(Children::None)
    }

    fn visit_none<E>(self) -> Result<Children, E> {
        Ok(Children::None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Children, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Children, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Children::None)
    }
}

/// The lines of a document's fields.
pub(super) struct Lines(Option<Node>);

impl Lines {
    /// Reads `text`; a document that cannot be read has no lines to give.
    pub(super) fn of(text: &str) -> Self {
        Self(super::document::read_leniently(text).ok())
    }

    /// The line of the field at `path`, or of the nearest thing around it that exists. From 1.
    pub(super) fn of_path(&self, path: &str) -> Option<usize> {
        let mut node = self.0.as_ref()?;
        let mut line = node.line;
        for step in steps(path) {
            let next = match &node.children {
                Children::List(items) => step.parse::<usize>().ok().and_then(|i| items.get(i)).map(|n| (n.line, n)),
                Children::Map(entries) => entries.get(step).map(|(line, node)| (*line, node)),
                Children::None => None,
            };
            // What is missing is missing from this, so where this begins is the place to look.
            let Some((at, child)) = next else {
                line = node.line;
                break;
            };
            (line, node) = (at, child);
        }
        usize::try_from(line).ok().filter(|line| *line > 0)
    }
}

/// `spec.rules[0].labels[a.b/c]` as `spec`, `rules`, `0`, `labels`, `a.b/c`.
fn steps(path: &str) -> Vec<&str> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(bracket) = rest.strip_prefix('[') {
            let (inside, after) = bracket.split_once(']').unwrap_or((bracket, ""));
            steps.push(inside);
            rest = after.strip_prefix('.').unwrap_or(after);
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            steps.push(&rest[..end]);
            rest = rest[end..].strip_prefix('.').unwrap_or(&rest[end..]);
        }
    }
    steps.retain(|step| !step.is_empty());
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_lines_and_the_nearest_ones() {
        let text = "kind: X\nmetadata:\n  annotations:\n    a.b/c: \"1\"\nspec:\n  rules:\n  - from:\n    - x: [1,\n        2]\n";
        let lines = Lines::of(text);
        assert_eq!(lines.of_path("kind"), Some(1));
        assert_eq!(lines.of_path("metadata.annotations[a.b/c]"), Some(4));
        assert_eq!(lines.of_path("spec.rules[0].from[0].x[1]"), Some(9));
        assert_eq!(lines.of_path("spec.rules[0].to[3]"), Some(7), "the rule, which has no `to`");
        assert_eq!(lines.of_path("metadata.name"), Some(3), "where the mapping that lacks it begins");
        assert_eq!(Lines::of("a: [").of_path("a"), None);
    }

    #[test]
    fn steps_of_paths() {
        assert_eq!(steps("spec.rules[0].labels[a.b/c]"), ["spec", "rules", "0", "labels", "a.b/c"]);
        assert_eq!(steps("labels[a.b/c].x"), ["labels", "a.b/c", "x"]);
        assert_eq!(steps("a["), ["a"]);
        assert!(steps("").is_empty());
    }
}
