//! State: every revision of every object since the last compaction, and the order in which they came.
//!
//! One counter numbers all writes, as etcd's revision does. A table keeps, for each key, the versions a reader of an older
//! revision may still ask for, and the log of changes that watches read; compaction takes both away up to a revision.
//! Nothing here knows kinds: a table has a name, a key is `namespace/name` (or `name`), in the order etcd would list them.

mod object;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

pub(crate) use object::{Stored, key};

/// Everything there is, and was since the last compaction.
pub(crate) struct Store {
    revision: u64,
    compacted: u64,
    tables: HashMap<String, Table>,
    /// Changes a table remembers before the oldest are compacted away.
    keep: usize,
}

/// The objects of one plural of one group.
struct Table {
    objects: BTreeMap<String, Vec<Version>>,
    log: VecDeque<Change>,
    /// Says the newest revision to whoever watches.
    news: watch::Sender<u64>,
    /// Revisions before this cannot be read any more.
    forgotten: u64,
    /// The newest change that is in the log no more; at most `forgotten`.
    dropped: u64,
}

struct Version {
    revision: u64,
    /// `None` once deleted.
    object: Option<Arc<Stored>>,
}

/// What happened to a key.
#[derive(Clone)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    /// What there was before.
    pub(crate) before: Option<Arc<Stored>>,
    /// What there is now; of a deletion, the last state with the deletion's revision.
    pub(crate) after: Arc<Stored>,
    pub(crate) deleted: bool,
}

/// One page of a table as it was at a revision.
pub(crate) struct Page {
    pub(crate) objects: Vec<Arc<Stored>>,
    /// The key to go on from, if there is more.
    pub(crate) next: Option<String>,
    /// Objects after this page.
    pub(crate) remaining: usize,
}

impl Store {
    /// Empty. `keep` changes per table are remembered.
    pub(crate) fn new(keep: usize) -> Self {
        Self { revision: 1, compacted: 0, tables: HashMap::new(), keep }
    }

    /// The newest revision.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    fn table(&mut self, name: &str) -> &mut Table {
        let (revision, compacted) = (self.revision, self.compacted);
        self.tables.entry(name.to_owned()).or_insert_with(|| Table {
            objects: BTreeMap::new(),
            log: VecDeque::new(),
            news: watch::Sender::new(revision),
            forgotten: compacted,
            dropped: 0,
        })
    }

    /// The newest state of a key.
    pub(crate) fn get(&self, table: &str, key: &str) -> Option<Arc<Stored>> {
        self.tables.get(table)?.objects.get(key)?.last()?.object.clone()
    }

    /// Writes a new state and returns it with its revision in it.
    pub(crate) fn put(&mut self, table: &str, key: &str, value: Value, fields: &[String]) -> Arc<Stored> {
        self.revision += 1;
        let revision = self.revision;
        let after = Arc::new(Stored::new(value, revision, fields));
        let keep = self.keep;
        let table = self.table(table);
        let versions = table.objects.entry(key.to_owned()).or_default();
        let before = versions.last().and_then(|version| version.object.clone());
        versions.push(Version { revision, object: Some(after.clone()) });
        table.log(Change { revision, before, after: after.clone(), deleted: false }, keep);
        after
    }

    /// Takes a key away and returns its last state, numbered with the deletion.
    pub(crate) fn delete(&mut self, table: &str, key: &str, fields: &[String]) -> Option<Arc<Stored>> {
        let before = self.get(table, key)?;
        self.revision += 1;
        let revision = self.revision;
        let after = Arc::new(Stored::new(before.value(), revision, fields));
        let keep = self.keep;
        let table = self.table(table);
        table.objects.entry(key.to_owned()).or_default().push(Version { revision, object: None });
        table.log(Change { revision, before: Some(before), after: after.clone(), deleted: true }, keep);
        Some(after)
    }

    /// The objects under a prefix at a revision: those from `start` on, as many as `limit` that `wanted` accepts.
    pub(crate) fn page(
        &self,
        table: &str,
        prefix: &str,
        start: &str,
        limit: usize,
        revision: u64,
        mut wanted: impl FnMut(&Stored) -> bool,
    ) -> Page {
        let mut page = Page { objects: Vec::new(), next: None, remaining: 0 };
        let Some(table) = self.tables.get(table) else { return page };
        let from = if start > prefix { start } else { prefix };
        let range = table.objects.range::<str, _>((Bound::Included(from), Bound::Unbounded));
        for (key, versions) in range.take_while(|(key, _)| key.starts_with(prefix)) {
            let known = versions.iter().rev().find(|version| version.revision <= revision);
            let Some(object) = known.and_then(|version| version.object.as_ref()) else { continue };
            if !wanted(object) {
                continue;
            }
            if limit > 0 && page.objects.len() == limit {
                page.next.get_or_insert_with(|| key.clone());
                page.remaining += 1;
            } else {
                page.objects.push(object.clone());
            }
        }
        page
    }

    /// Whether readers may still ask for a revision of a table.
    pub(crate) fn readable(&self, table: &str, revision: u64) -> bool {
        revision >= self.tables.get(table).map_or(self.compacted, |table| table.forgotten)
    }

    /// Changes of a table after a revision, oldest first, at most `most`; `None` if some of them are forgotten. Who follows
    /// a table that compaction found unchanged has missed nothing, and goes on.
    pub(crate) fn since(&self, table: &str, revision: u64, most: usize) -> Option<Vec<Change>> {
        let Some(table) = self.tables.get(table) else { return Some(Vec::new()) };
        if revision < table.dropped {
            return None;
        }
        let from = table.log.partition_point(|change| change.revision <= revision);
        Some(table.log.range(from..).take(most).cloned().collect())
    }

    /// Told whenever a table changes.
    pub(crate) fn news(&mut self, table: &str) -> watch::Receiver<u64> {
        self.table(table).news.subscribe()
    }

    /// Forgets everything but what there is now.
    pub(crate) fn compact(&mut self) {
        self.compacted = self.revision;
        for table in self.tables.values_mut() {
            table.dropped = table.log.back().map_or(table.dropped, |change| change.revision);
            table.log.clear();
            table.forgotten = self.revision;
            table.objects.retain(|_, versions| {
                let last = versions.pop().filter(|version| version.object.is_some());
                versions.clear();
                versions.extend(last);
                !versions.is_empty()
            });
        }
    }
}

impl Table {
    fn log(&mut self, change: Change, keep: usize) {
        let revision = change.revision;
        self.log.push_back(change);
        while self.log.len() > keep {
            if let Some(oldest) = self.log.pop_front() {
                self.forget(&oldest);
            }
        }
        self.news.send_replace(revision);
    }

    fn forget(&mut self, oldest: &Change) {
        (self.forgotten, self.dropped) = (oldest.revision, oldest.revision);
        let key = oldest.after.key();
        let Some(versions) = self.objects.get_mut(&key) else { return };
        let newest_forgotten = versions.iter().rposition(|version| version.revision <= oldest.revision);
        versions.drain(..newest_forgotten.unwrap_or_default());
        if versions.len() == 1 && versions[0].object.is_none() {
            self.objects.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn named(name: &str, value: u64) -> Value {
        json!({"metadata": {"name": name, "namespace": "n"}, "value": value})
    }

    fn names(store: &Store, revision: u64) -> Vec<String> {
        let page = store.page("t", "n/", "", 0, revision, |_| true);
        page.objects.iter().map(|object| object.key()).collect()
    }

    #[test]
    fn the_past_stays_readable_until_compaction() {
        let mut store = Store::new(100);
        store.put("t", "n/a", named("a", 1), &[]);
        let first = store.revision();
        store.put("t", "n/b", named("b", 1), &[]);
        let second = store.revision();
        let last = store.delete("t", "n/a", &[]).map(|last| last.value()["metadata"]["resourceVersion"].clone());
        assert_eq!(last, Some(json!((second + 1).to_string())));
        assert_eq!(names(&store, first), ["n/a"]);
        assert_eq!(names(&store, second), ["n/a", "n/b"]);
        assert_eq!(names(&store, second + 1), ["n/b"]);
        assert_eq!(store.since("t", first, 10).map(|changes| changes.len()), Some(2));
        store.compact();
        assert!(store.since("t", first, 10).is_none());
        assert!(!store.readable("t", second));
        assert_eq!(names(&store, store.revision()), ["n/b"]);
    }

    #[test]
    fn a_full_log_forgets_its_oldest_changes_and_no_live_object() {
        let mut store = Store::new(3);
        store.put("t", "n/a", named("a", 0), &[]);
        for value in 0..10 {
            store.put("t", "n/b", named("b", value), &[]);
        }
        let newest = store.revision();
        assert_eq!(names(&store, newest), ["n/a", "n/b"]);
        assert!(store.since("t", newest - 4, 10).is_none());
        assert_eq!(store.since("t", newest - 3, 10).map(|changes| changes.len()), Some(3));
    }

    #[test]
    fn pages_go_on_where_they_stopped() {
        let mut store = Store::new(100);
        for name in ["a", "b", "c"] {
            store.put("t", &format!("n/{name}"), named(name, 0), &[]);
        }
        let page = store.page("t", "n/", "", 2, store.revision(), |_| true);
        assert_eq!((page.objects.len(), page.remaining, page.next.as_deref()), (2, 1, Some("n/c")));
        let rest = store.page("t", "n/", "n/b\0", 2, store.revision(), |_| true);
        assert_eq!((rest.objects.len(), rest.next), (1, None));
    }
}
