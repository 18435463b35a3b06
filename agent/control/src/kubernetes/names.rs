//! Names of the objects of one list.

use std::collections::HashSet;

use crate::manifests::ObjectRef;

/// Ends a namespace and a name: neither has it in it.
const END: &str = "/";

/// Names of objects of one kind, in one piece of memory: tens of thousands are kept while a big cluster is read, when an agent's
/// memory is greatest, and two pieces for each would lie between those that stay.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Names(String);

impl Names {
    /// Adds an object's, whether or not it is there already.
    pub fn add(&mut self, object: &ObjectRef) {
        for part in [&object.namespace, &object.name] {
            self.0.push_str(part);
            self.0.push_str(END);
        }
    }

    /// Takes an object's away, each time it is there.
    pub fn remove(&mut self, object: &ObjectRef) {
        let (namespace, name) = (&*object.namespace, &*object.name);
        let rest = self.iter().filter(|place| *place != (namespace, name));
        self.0 = rest.flat_map(|(namespace, name)| [namespace, END, name, END]).collect();
    }

    /// Namespace and name of each; no namespace where the kind has none.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut parts = self.0.split_terminator(END);
        std::iter::from_fn(move || Some((parts.next()?, parts.next()?)))
    }

    /// The same, to be looked up in.
    #[must_use]
    pub fn places(&self) -> HashSet<(&str, &str)> {
        self.iter().collect()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> FromIterator<&'a ObjectRef> for Names {
    fn from_iter<I: IntoIterator<Item = &'a ObjectRef>>(objects: I) -> Self {
        let mut names = Self::default();
        objects.into_iter().for_each(|object| names.add(object));
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Kind;

    #[test]
    fn names_are_told_apart_with_and_without_a_namespace() {
        let object = |namespace: &str, name: &str| ObjectRef {
            kind: Kind::Service,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let (a, b, c) = (object("ns", "a"), object("", "ns"), object("ns", "c"));
        let mut names: Names = [&a, &b, &c, &a].into_iter().collect();
        assert_eq!(names.iter().collect::<Vec<_>>(), [("ns", "a"), ("", "ns"), ("ns", "c"), ("ns", "a")]);
        names.remove(&object("", "a"));
        assert!(names.places().contains(&("ns", "a")), "another namespace's");
        names.remove(&a);
        assert_eq!(names.iter().collect::<Vec<_>>(), [("", "ns"), ("ns", "c")]);
        names.remove(&c);
        names.remove(&b);
        assert!(names.is_empty() && names.places().is_empty());
    }
}
