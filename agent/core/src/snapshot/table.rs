//! A table of objects by their names, which are held once: in the objects.

use std::borrow::Borrow;
use std::cmp::Ordering;

use imbl::OrdSet;

use super::index::Named;
use crate::model::ObjectName;

/// Something held under its own name: a table of ten thousand needs no room for their names, of 32 bytes each, beside them.
#[derive(Clone, Debug)]
struct ByName<T>(T);

impl<T: Named<Name = ObjectName>> Borrow<ObjectName> for ByName<T> {
    fn borrow(&self) -> &ObjectName {
        self.0.object()
    }
}

impl<T: Named<Name = ObjectName>> PartialEq for ByName<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0.object() == other.0.object()
    }
}

impl<T: Named<Name = ObjectName>> Eq for ByName<T> {}

impl<T: Named<Name = ObjectName>> PartialOrd for ByName<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Named<Name = ObjectName>> Ord for ByName<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.object().cmp(other.0.object())
    }
}

/// Objects by their names, in order.
#[derive(Clone, Debug)]
pub(super) struct Table<T: Named<Name = ObjectName>> {
    objects: OrdSet<ByName<T>>,
}

impl<T: Named<Name = ObjectName> + Clone> Default for Table<T> {
    fn default() -> Self {
        Self { objects: OrdSet::new() }
    }
}

impl<T: Named<Name = ObjectName> + Clone + PartialEq> PartialEq for Table<T> {
    fn eq(&self, other: &Self) -> bool {
        self.objects.len() == other.objects.len() && self.values().eq(other.values())
    }
}

impl<T: Named<Name = ObjectName> + Clone> Table<T> {
    /// The object of this name.
    pub(super) fn get(&self, name: &ObjectName) -> Option<&T> {
        self.objects.get(name).map(|held| &held.0)
    }

    /// Whether there is one of this name.
    pub(super) fn contains(&self, name: &ObjectName) -> bool {
        self.objects.contains(name)
    }

    /// Puts an object in the place of the one of its name.
    pub(super) fn insert(&mut self, object: T) {
        self.objects.insert(ByName(object));
    }

    /// Takes the object of this name away.
    pub(super) fn remove(&mut self, name: &ObjectName) -> Option<T> {
        self.objects.remove(name).map(|held| held.0)
    }

    /// All, by name.
    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.objects.iter().map(|held| &held.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, PartialEq, Debug)]
    struct Object {
        name: ObjectName,
        says: u32,
    }

    impl Named for Object {
        type Name = ObjectName;

        fn object(&self) -> &ObjectName {
            &self.name
        }
    }

    fn object(name: &str, says: u32) -> Arc<Object> {
        Arc::new(Object { name: ObjectName::new("demo", name).unwrap(), says })
    }

    #[test]
    fn one_of_a_name_replaces_the_other() {
        let mut table = Table::default();
        table.insert(object("b", 1));
        table.insert(object("a", 2));
        let before = table.clone();
        table.insert(object("b", 3));
        let says = |table: &Table<Arc<Object>>| table.values().map(|object| object.says).collect::<Vec<_>>();
        assert_eq!((says(&before), says(&table)), (vec![2, 1], vec![2, 3]));
        assert!(before != table, "they hold the same names");
        let b = object("b", 0).name.clone();
        assert_eq!(table.get(&b).map(|object| object.says), Some(3));
        assert_eq!(table.remove(&b).map(|object| object.says), Some(3));
        assert!(!table.contains(&b) && table.remove(&b).is_none());
    }
}
