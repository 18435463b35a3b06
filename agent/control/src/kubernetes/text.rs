//! Texts of objects read into the memory they stay in, or into none.

use std::fmt;
use std::sync::Arc;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A text that many objects have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text(pub(super) Arc<str>);

/// The first of a list of texts; the others are passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct First(pub(super) Option<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.into()))
            }
        }
        deserializer.deserialize_str(Read)
    }
}

impl<'de> Deserialize<'de> for First {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = First;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of strings")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<First, A::Error> {
                let first = list.next_element()?;
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(First(first))
            }
        }
        deserializer.deserialize_seq(Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_and_what_is_none_is_refused() {
        let read = |json| serde_json::from_str::<(Option<Text>, Option<First>)>(json);
        let text = |text: &str| Some(Text(text.into()));
        assert_eq!(read(r#"["a\"b", ["1", "2"]]"#).unwrap(), (text("a\"b"), Some(First(Some("1".into())))));
        assert_eq!(read(r#"["", []]"#).unwrap(), (text(""), Some(First(None))));
        assert_eq!(read("[null, null]").unwrap(), (None, None));
        for wrong in ["[1, []]", "[\"a\", {}]", "[\"a\", [1]]"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
