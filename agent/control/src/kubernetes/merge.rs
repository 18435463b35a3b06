//! The watches' news become one stream of deltas.
//!
//! Nothing is told to be whole before every kind has been read once: the agent acts on nothing before. After that
//! changes go out as soon as the agent takes them, and as one batch if it was busy when they came, or they come one upon
//! another.
//!
//! That includes WorkloadSlices: as long as nobody publishes any, the agent would take every pod of another node for one
//! outside the mesh, and send it plaintext. It waits instead, and says for whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use weft_core::model::Pool;
use weft_core::snapshot::Delta;

use super::item::{Facts, Item};
use super::known::{Known, PLACE};
use super::live::{Here, Live};
use super::news::News;
use super::peers::Peers;
use crate::manifests::{ObjectRef, Problem, Severity, report};
use crate::resource::Kind;
use crate::source::Batch;
use crate::standing::Standings;

/// News taken at once.
const BATCH: usize = 1024;
/// Changes told at once before everything has been read.
const PART: usize = 1024;
/// How long others are waited for that come upon a change: of hundreds a second each would cost a snapshot and all that
/// follows one. They are left where they wait, unless there are many. The connection is read every 20 ms then ([`super::paced`]).
const GATHER: Duration = Duration::from_millis(3);
/// The least time between two batches, where it is not.
const APART: Duration = Duration::from_millis(10);

/// Whether news of a kind can change what is known of this node's pods.
fn tells_of_pods(kind: Kind) -> bool {
    matches!(kind, Kind::Pod | Kind::WorkloadSlice)
}

/// Where the news meet.
pub(super) struct Merge {
    pub(super) news: mpsc::Receiver<(Kind, News)>,
    pub(super) standings: watch::Receiver<Option<Standings>>,
    pub(super) deltas: mpsc::Sender<Batch>,
    pub(super) problems: watch::Sender<Arc<Vec<Problem>>>,
    /// Pods of this node, for who writes on them.
    pub(super) here: watch::Sender<Arc<Here>>,
    pub(super) state: State,
}

/// What has been heard so far.
pub(super) struct State {
    waiting: BTreeSet<Kind>,
    known: BTreeMap<Kind, Known>,
    live: Live,
    peers: Peers,
    /// What is wrong with slices.
    misread: BTreeMap<String, Vec<String>>,
    /// No slice is published, and where none is.
    unpublished: bool,
    namespace: Arc<str>,
    /// Texts that many objects have in common, each held once.
    texts: Pool,
    /// Deltas not yet taken.
    ready: Vec<Delta>,
    first: bool,
    lost: BTreeSet<Kind>,
}

impl State {
    pub(super) fn new(node: Arc<str>, namespace: Arc<str>, kinds: &[Kind]) -> Self {
        Self {
            waiting: kinds.iter().copied().collect(),
            known: kinds.iter().map(|kind| (*kind, Known::default())).collect(),
            live: Live::new(node.clone()),
            peers: Peers::new(node),
            misread: BTreeMap::new(),
            unpublished: false,
            namespace,
            texts: Pool::default(),
            ready: Vec::new(),
            first: true,
            lost: BTreeSet::new(),
        }
    }

    /// Whether everything has been read.
    fn is_whole(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether there is something to tell: a part at a time until everything has been read, so that it is never in memory
    /// twice.
    fn is_due(&self) -> bool {
        if self.is_whole() { self.first || !self.ready.is_empty() } else { self.ready.len() >= PART }
    }

    /// When a batch goes out that has something to tell now, the last one having been sent then. Nothing is gathered before
    /// everything has been told once.
    fn next(&self, sent: Instant) -> Instant {
        let now = Instant::now();
        if self.is_whole() && !self.first { (now + GATHER).max(sent + APART) } else { now }
    }

    fn hear(&mut self, kind: Kind, news: News) {
        if kind == Kind::WorkloadSlice {
            self.hear_of_peers(news);
        } else {
            self.hear_objects(kind, news);
        }
    }

    /// Something was said of pods: what follows for those of this node.
    fn heard_of_pods(&mut self) {
        self.live.changes(&mut self.ready);
        for (uid, observed) in &mut self.live.here {
            observed.published = self.peers.tells_live(uid);
        }
    }

    fn hear_objects(&mut self, kind: Kind, news: News) {
        let Some(known) = self.known.get_mut(&kind) else { return };
        let deltas = &mut self.ready;
        match news {
            News::Listed(names) => {
                if kind == Kind::Pod {
                    self.live.keep_only(&names);
                }
                known.keep_only(&names, deltas);
                self.waiting.remove(&kind);
                self.lost.remove(&kind);
            }
            News::Found(mut item) | News::Put(mut item) => {
                item.resource.iter_mut().for_each(|resource| resource.share(&mut self.texts));
                if kind == Kind::Pod {
                    self.live.put(&item);
                }
                known.put(*item, deltas);
            }
            News::Deleted(object) => {
                if kind == Kind::Pod {
                    self.live.forget(&object);
                }
                known.remove(&object, deltas);
            }
            // The API server deletes a kind's objects before the kind: that it is gone with its objects in force is an
            // accident, and policy must not go with it.
            News::Absent => {
                self.waiting.remove(&kind);
                if !known.is_empty() {
                    self.lost.insert(kind);
                }
            }
        }
    }

    fn hear_of_peers(&mut self, news: News) {
        match news {
            // The controller always has one, if an empty one.
            News::Listed(names) if names.is_empty() => self.unpublished = true,
            News::Absent => self.unpublished = true,
            News::Listed(names) => {
                let names: BTreeSet<&str> = names.iter().map(|(_, name)| name).collect();
                self.peers.keep_only(&names, &mut self.ready);
                self.misread.retain(|slice, _| names.contains(slice.as_str()));
                self.published();
            }
            // Some of the slices say nothing of the pods in the others.
            News::Found(item) => self.hear_slice(&item),
            News::Put(item) => {
                self.hear_slice(&item);
                self.published();
            }
            News::Deleted(object) => {
                self.misread.remove(&object.name);
                self.peers.remove(&object.name, &mut self.ready);
            }
        }
    }

    fn hear_slice(&mut self, item: &Item) {
        let Facts::Slice(slice) = &item.facts else { return };
        let wrong = self.peers.put(&item.object.name, &slice.workloads, &mut self.ready);
        self.misread.remove(&item.object.name);
        if !wrong.is_empty() {
            self.misread.insert(item.object.name.clone(), wrong);
        }
    }

    fn published(&mut self) {
        self.unpublished = false;
        self.waiting.remove(&Kind::WorkloadSlice);
    }

    fn problems(&self) -> Vec<Problem> {
        let lost = self.lost.iter().map(|kind| Problem {
            file: PLACE.into(),
            line: None,
            severity: Severity::Error,
            object: None,
            reason: format!("the cluster no longer has the kind {}; its objects stay in force", kind.as_str()),
        });
        let unpublished = self.unpublished.then(|| self.unpublished());
        let misread =
            self.misread.iter().flat_map(|(slice, wrong)| wrong.iter().map(|wrong| self.misread(slice, wrong)));
        let known = self.known.values().flat_map(Known::problems).cloned();
        lost.chain(unpublished).chain(misread).chain(known).collect()
    }
}

impl State {
    fn unpublished(&self) -> Problem {
        let namespace = &self.namespace;
        let consequence = match self.waiting.contains(&Kind::WorkloadSlice) {
            true => "it is not known which pods of other nodes are in the mesh, so none of this node's is served",
            false => "what was known of other nodes' pods stays in force",
        };
        let reason = format!(
            "no WorkloadSlice is published in the namespace {namespace}: {consequence}. Is weft controller running, and \
             does one of its replicas hold the Lease? kubectl -n {namespace} get pods,leases"
        );
        Problem { file: PLACE.into(), line: None, severity: Severity::Error, object: None, reason }
    }

    fn misread(&self, slice: &str, wrong: &str) -> Problem {
        let object =
            ObjectRef { kind: Kind::WorkloadSlice, namespace: self.namespace.to_string(), name: slice.to_owned() };
        let reason = format!("{wrong}; it is left out");
        Problem { file: PLACE.into(), line: None, severity: Severity::Error, object: Some(object), reason }
    }
}

impl Merge {
    /// Runs until nobody takes the deltas, or all watches have ended.
    pub(super) async fn run(mut self) {
        let mut heard = Vec::new();
        let deltas = self.deltas.clone();
        let (mut sent, mut next, mut many) = (Instant::now(), None, false);
        loop {
            let due = self.state.is_due();
            next = due.then(|| next.unwrap_or_else(|| self.state.next(sent)));
            let early = next.is_some_and(|next| Instant::now() < next);
            tokio::select! {
                count = self.news.recv_many(&mut heard, BATCH), if !early || many => {
                    if count == 0 {
                        return;
                    }
                    many = count >= super::NEWS / 2;
                    self.hear(&mut heard);
                }
                Ok(()) = self.standings.changed() => self.own_pods_stand(),
                () = tokio::time::sleep_until(next.unwrap_or(sent)), if early => {
                    heard.extend(std::iter::from_fn(|| self.news.try_recv().ok()).take(BATCH));
                    self.hear(&mut heard);
                }
                slot = deltas.reserve(), if due && !early => {
                    let Ok(slot) = slot else { return };
                    (sent, next) = (Instant::now(), None);
                    let whole = self.state.is_whole();
                    slot.send(Batch { deltas: std::mem::take(&mut self.state.ready), whole });
                    self.state.first &= !whole;
                }
            }
        }
    }

    fn hear(&mut self, heard: &mut Vec<(Kind, News)>) {
        let of_pods = heard.iter().any(|(kind, _)| tells_of_pods(*kind));
        for (kind, news) in heard.drain(..) {
            self.state.hear(kind, news);
        }
        if of_pods {
            self.state.heard_of_pods();
            self.show_own_pods();
        }
        report(&self.problems, self.state.problems());
    }

    /// What this agent serves it knows by itself, also while the API server is away.
    fn own_pods_stand(&mut self) {
        let standings = self.standings.borrow_and_update();
        let live = standings.iter().flatten().filter(|(_, standing)| standing.is_served());
        let live: BTreeSet<_> = live.map(|(uid, _)| uid.clone()).collect();
        drop(standings);
        let delta = self.state.live.tell(live);
        self.state.ready.push(delta);
    }

    fn show_own_pods(&self) {
        self.here.send_if_modified(|here| {
            let changed = **here != self.state.live.here;
            if changed {
                *here = Arc::new(self.state.live.here.clone());
            }
            changed
        });
    }
}
