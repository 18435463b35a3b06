//! Which pod is in which slice, and what has to be written for the API server to say so.
//!
//! A pod stays in its slice for as long as it is there. A new one goes into a slice that has to be written anyway if one
//! has room, else into the fullest that has, so that slices fill up and the emptiest die out. Everything here is a
//! function of what is told; it does no I/O and knows no time.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use weft_control::crd::SliceWorkload;

/// Begins the names of slices; a number follows.
const PREFIX: &str = "pods-";

/// A slice as the API server has it.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// Its revision.
    pub(crate) revision: String,
    /// Its pods.
    pub(crate) workloads: Vec<SliceWorkload>,
}

/// What has to be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Write {
    /// A slice that is not there.
    Create { name: Arc<str>, workloads: Vec<Arc<SliceWorkload>> },
    /// A slice that is, in this revision.
    Update { name: Arc<str>, revision: String, workloads: Vec<Arc<SliceWorkload>> },
    /// One without pods.
    Delete { name: Arc<str>, revision: String },
}

/// What the API server holds of a slice.
#[derive(Debug)]
struct Held {
    revision: String,
    digest: u64,
}

#[derive(Debug, Default)]
struct Slice {
    pods: BTreeMap<Arc<str>, Arc<SliceWorkload>>,
    held: Option<Held>,
    /// It waits in the queue.
    queued: bool,
}

/// The slices.
#[derive(Debug)]
pub(crate) struct Book {
    /// The most pods of a slice.
    fill: usize,
    slices: BTreeMap<Arc<str>, Slice>,
    place: HashMap<Arc<str>, Arc<str>>,
    /// Slices to be written, the one that has waited longest first.
    queue: VecDeque<Arc<str>>,
}

impl Book {
    /// Begins with what is stored and what there is. What the two lead to depends on nothing else: a pod that is in two
    /// slices stays in the one of smaller name, and pods that are in none are placed in the order of `pods`.
    pub(crate) fn recover(
        fill: usize,
        stored: &BTreeMap<Arc<str>, Stored>,
        pods: impl IntoIterator<Item = Arc<SliceWorkload>>,
    ) -> Self {
        let mut book = Self { fill, slices: BTreeMap::new(), place: HashMap::new(), queue: VecDeque::new() };
        let pods: Vec<_> = pods.into_iter().map(|pod| (Arc::<str>::from(pod.uid.as_str()), pod)).collect();
        let there: HashMap<&str, &Arc<SliceWorkload>> = pods.iter().map(|(uid, pod)| (&**uid, pod)).collect();
        for (name, slice) in stored {
            let mut kept = Slice { held: Some(Held::of(slice)), ..Slice::default() };
            for said in &slice.workloads {
                if let Some(pod) = there.get(said.uid.as_str()).filter(|_| kept.pods.len() < fill) {
                    let uid: Arc<str> = said.uid.as_str().into();
                    if !book.place.contains_key(&uid) {
                        book.place.insert(uid.clone(), name.clone());
                        kept.pods.insert(uid, Arc::clone(pod));
                    }
                }
            }
            book.slices.insert(name.clone(), kept);
            book.enqueue(name);
        }
        for (uid, pod) in pods {
            if !book.place.contains_key(&uid) {
                book.put(pod);
            }
        }
        book.keep_one();
        book
    }

    /// A pod is there, or has changed.
    pub(crate) fn put(&mut self, pod: Arc<SliceWorkload>) {
        let uid: Arc<str> = pod.uid.as_str().into();
        let name = match self.place.get(&uid) {
            Some(name) => name.clone(),
            None => self.room(),
        };
        let Some(slice) = self.slices.get_mut(&name) else { return };
        if slice.pods.get(&uid) == Some(&pod) {
            return;
        }
        slice.pods.insert(uid.clone(), pod);
        self.place.insert(uid, name.clone());
        self.enqueue(&name);
    }

    /// A pod has gone.
    pub(crate) fn remove(&mut self, uid: &str) {
        let Some(name) = self.place.remove(uid) else { return };
        if let Some(slice) = self.slices.get_mut(&name) {
            slice.pods.remove(uid);
        }
        self.enqueue(&name);
    }

    /// The API server has a slice in this state, whoever wrote it. An older state than what is known says nothing: it is
    /// what a watch tells late of what was written since.
    pub(crate) fn observe(&mut self, name: &str, stored: &Stored) {
        let name = self.slices.get_key_value(name).map_or_else(|| name.into(), |(name, _)| name.clone());
        let slice = self.slices.entry(name.clone()).or_default();
        let number = |revision: &str| revision.parse::<u64>().ok();
        let late = slice.held.as_ref().is_some_and(|held| number(&held.revision) > number(&stored.revision));
        if !late {
            slice.held = Some(Held::of(stored));
            self.enqueue(&name);
        }
    }

    /// The API server does not have a slice.
    pub(crate) fn vanished(&mut self, name: &str) {
        let Some((name, slice)) = self.slices.get_key_value(name) else { return };
        let (name, empty) = (name.clone(), slice.pods.is_empty());
        if empty {
            self.slices.remove(&name);
            self.keep_one();
        } else if let Some(slice) = self.slices.get_mut(&name) {
            slice.held = None;
            self.enqueue(&name);
        }
    }

    /// The next write, which is then to be told by [`Self::observe`] or [`Self::vanished`], or asked for once more by
    /// [`Self::again`].
    pub(crate) fn next(&mut self) -> Option<Write> {
        while let Some(name) = self.queue.pop_front() {
            let only = self.slices.len() == 1;
            let Some(slice) = self.slices.get_mut(&name) else { continue };
            slice.queued = false;
            let workloads = || slice.pods.values().cloned().collect::<Vec<_>>();
            match &slice.held {
                None if slice.pods.is_empty() && !only => {
                    self.slices.remove(&name);
                }
                None => return Some(Write::Create { workloads: workloads(), name }),
                Some(held) if held.digest != digest(slice.pods.values().map(Arc::as_ref)) => {
                    return Some(Write::Update { revision: held.revision.clone(), workloads: workloads(), name });
                }
                // It was written empty before: agents keep what a slice says that disappears with pods in it.
                Some(held) if slice.pods.is_empty() && !only => {
                    return Some(Write::Delete { revision: held.revision.clone(), name });
                }
                Some(_) => {}
            }
        }
        None
    }

    /// A write has failed, and nothing is known of the slice that was not known before.
    pub(crate) fn again(&mut self, name: &Arc<str>) {
        self.enqueue(name);
    }

    /// Their names.
    pub(crate) fn names(&self) -> impl Iterator<Item = Arc<str>> + '_ {
        self.slices.keys().cloned()
    }

    /// Slices, and how many of them wait to be written.
    pub(crate) fn count(&self) -> (usize, usize) {
        (self.slices.len(), self.queue.len())
    }

    fn enqueue(&mut self, name: &Arc<str>) {
        if let Some(slice) = self.slices.get_mut(name).filter(|slice| !slice.queued) {
            slice.queued = true;
            self.queue.push_back(name.clone());
        }
    }

    /// Agents wait for slices before they serve anybody: there always is one.
    fn keep_one(&mut self) {
        if self.slices.is_empty() {
            let name = self.fresh();
            self.enqueue(&name);
        }
    }

    /// The slice a new pod goes into.
    fn room(&mut self) -> Arc<str> {
        let free = self.slices.iter().filter(|(_, slice)| slice.pods.len() < self.fill);
        let best = free.max_by_key(|(name, slice)| (slice.queued, slice.pods.len(), std::cmp::Reverse(number(name))));
        match best {
            Some((name, _)) => name.clone(),
            None => self.fresh(),
        }
    }

    /// A new slice, by the smallest number that is free.
    fn fresh(&mut self) -> Arc<str> {
        let mut number = self.slices.len();
        while number > 0 && !self.slices.contains_key(&*format!("{PREFIX}{}", number - 1)) {
            number -= 1;
        }
        let name = loop {
            let name = format!("{PREFIX}{number}");
            if !self.slices.contains_key(name.as_str()) {
                break Arc::<str>::from(name);
            }
            number += 1;
        };
        self.slices.insert(name.clone(), Slice::default());
        name
    }
}

impl Held {
    fn of(stored: &Stored) -> Self {
        Self { revision: stored.revision.clone(), digest: digest(stored.workloads.iter()) }
    }
}

/// What tells two contents apart. In the order of the pods' UIDs, in which they are written.
fn digest<'a>(workloads: impl Iterator<Item = &'a SliceWorkload>) -> u64 {
    let mut hasher = DefaultHasher::new();
    workloads.for_each(|workload| workload.hash(&mut hasher));
    hasher.finish()
}

fn number(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

#[cfg(test)]
mod tests;
