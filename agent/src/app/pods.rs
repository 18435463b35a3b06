//! The pods of this node and their life in the mesh: pending, live, leaving.
//!
//! One task owns this state. It compares what the snapshot wants with what is, takes one step per pod towards it, and
//! keeps the order that lets nothing fall between: a pod is published live after it can be served, and withdrawn before
//! it no longer is. It decides who is enrolled; how a netns is changed and restored is `steer`'s affair.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Semaphore, mpsc};
use weft_core::model::{Identity, Workload};
use weft_core::policy::plaintext_modes;
use weft_core::snapshot::Snapshot;

use super::leave::{self, Leaving};
use super::parts::Parts;
use super::reach::{Reach, Reached};
use super::seek::Seek;
use super::serve::{PodEvent, Served};
use crate::pod::Pod;
use crate::sandbox::is_other;
use crate::steer::InboundModes;
use crate::sys::NetNs;
use crate::telemetry::PodCounts;
use weft_control::standing::{Standing, Standings};

/// Tunnel ports that are looked at at once.
const LOOKS: usize = 16;
/// The namespace of what a cluster cannot do without.
const SYSTEM: &str = "kube-system";

/// A pod that is to be enrolled and is not yet.
pub(super) struct Pending {
    /// Why not.
    pub(super) reason: String,
    pub(super) since: Instant,
    pub(super) attempts: u32,
    pub(super) retry: Instant,
}

/// An enrolled pod.
pub(super) struct Enrolled {
    pub(super) pod: Arc<Pod>,
    pub(super) path: PathBuf,
    pub(super) served: Served,
    pub(super) reached: Reached,
}

/// The node's pods. See the module's words on order.
pub(super) struct Pods {
    pub(super) parts: Arc<Parts>,
    pub(super) enrolled: HashMap<Arc<str>, Enrolled>,
    pub(super) pending: HashMap<Arc<str>, Pending>,
    pub(super) leaving: HashMap<Arc<str>, Leaving>,
    /// Pods known and not enrolled, by UID, with the cookie under which the kernel knows them.
    pub(super) classified: HashMap<Arc<str>, u64>,
    /// Pods that were asked into the mesh and cannot be enrolled.
    refused: BTreeSet<Arc<str>>,
    /// Those that were asked into it and have no address yet, and since when. The kernel is told nothing of them: were they
    /// known as outside the mesh, nothing would hold what they dial before they are in it.
    unaddressed: HashMap<Arc<str>, Instant>,
    /// Those that are known and not found.
    pub(super) seek: Seek,
    /// Changes of the configuration so far that may concern them.
    pub(super) changes: u64,
    published: Option<Standings>,
    /// The generation of the snapshot whose modes for plaintext the kernel has.
    modes_of: Option<u64>,
    pub(super) events: mpsc::UnboundedSender<PodEvent>,
    /// Turns for looks at tunnel ports.
    pub(super) looking: Arc<Semaphore>,
}

impl Pods {
    /// Of nobody yet; `holds` says whether the kernel holds who is not known.
    pub(super) fn new(parts: Arc<Parts>, holds: bool, events: mpsc::UnboundedSender<PodEvent>) -> Self {
        Self {
            parts,
            enrolled: HashMap::new(),
            pending: HashMap::new(),
            leaving: HashMap::new(),
            classified: HashMap::new(),
            refused: BTreeSet::new(),
            unaddressed: HashMap::new(),
            seek: Seek::new(holds, Instant::now()),
            changes: 0,
            published: None,
            modes_of: None,
            events,
            looking: Arc::new(Semaphore::new(LOOKS)),
        }
    }

    /// Takes every pod one step towards what `snapshot` wants; with `disabled`, every one out of the mesh.
    pub(super) async fn reconcile(&mut self, snapshot: &Snapshot, disabled: bool) {
        let local: BTreeMap<_, _> =
            snapshot.workloads_on(&self.parts.node).map(|w| (w.uid.clone(), Arc::clone(w))).collect();
        let wanted = |w: &Workload| !disabled && snapshot.wants_mesh(w);
        let refused = |w: &Workload| !disabled && w.host_network && snapshot.is_labelled(w);
        self.refused = local.values().filter(|w| refused(w)).map(|w| w.uid.clone()).collect();
        let unaddressed =
            |w: &Workload| !disabled && snapshot.is_labelled(w) && !w.host_network && w.addresses.is_empty();
        self.note_unaddressed(local.values().filter(|w| unaddressed(w)).map(|w| w.uid.clone()).collect());
        self.withdraw_unwanted(&local, wanted).await;
        self.pending.retain(|uid, _| local.get(uid).is_some_and(|w| wanted(w)));
        self.keep_identities(local.values().filter(|w| wanted(w)).map(|w| snapshot.identity_of(w)));
        self.seek.clear();
        for workload in local.values() {
            if wanted(workload) {
                if self.is_spared(workload) && !self.enrolled.contains_key(&workload.uid) {
                    self.classify(workload).await;
                }
                self.enrol_if_due(snapshot, workload).await;
            } else if !unaddressed(workload) || self.is_spared(workload) {
                self.classify(workload).await;
            }
        }
        self.forget_classified(&local).await;
        self.set_modes(snapshot);
        self.ask_after_tunnels(snapshot, &local);
        self.publish();
    }

    /// When the next pending pod is due, if one is.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.pending.values().map(|p| p.retry).min()
    }

    pub(super) async fn handle(&mut self, event: PodEvent, snapshot: &Snapshot) {
        match event {
            PodEvent::ListenerLost(uid) => {
                if let Some(enrolled) = self.enrolled.get(&uid) {
                    enrolled.served.recreate_lost().await;
                }
            }
            PodEvent::Left { uid, cookie } => {
                if self.leaving.get(&uid).is_some_and(|l| l.cookie == cookie) {
                    self.leaving.remove(&uid);
                    // A restored pod stays known to the kernel until it is gone.
                    self.classified.insert(uid, cookie);
                }
            }
            PodEvent::Looked { pod, finding } => self.looked(&pod.uid, pod.netns.cookie(), finding, snapshot),
        }
    }

    /// How many pods stand how.
    pub(super) fn counts(&self) -> PodCounts {
        let unpublished = self.enrolled.values().filter(|enrolled| !enrolled.is_published()).count();
        let unreachable = self.enrolled.values().filter(|enrolled| enrolled.unreachable().is_some());
        let (closed, plaintext): (Vec<_>, Vec<_>) = unreachable.partition(|enrolled| enrolled.is_published());
        PodCounts {
            enrolled: self.enrolled.len() - unpublished,
            pending: self.pending.len() + self.unaddressed.len() + unpublished,
            unreachable_plaintext: plaintext.len(),
            unreachable_closed: closed.len(),
        }
    }

    /// Whether no pod is on its way out.
    pub(super) fn all_left(&self) -> bool {
        self.leaving.is_empty()
    }

    /// Ends every accept loop, after it has taken what is queued.
    pub(super) async fn stop_accepting(&self) {
        for enrolled in self.enrolled.values() {
            enrolled.served.stop().await;
        }
    }

    /// Takes back what a predecessor left of pods that are no longer wanted, and forgets what it classified.
    pub(super) async fn settle(&mut self) {
        for entry in self.parts.steering.adopted() {
            let enrolled = self.enrolled.get(&*entry.uid).is_some_and(|e| e.pod.netns.cookie() == entry.cookie);
            if enrolled || self.pending.contains_key(&*entry.uid) && !is_other(&entry.netns, entry.cookie) {
                continue;
            }
            tracing::info!(pod = entry.uid, "taking back what a predecessor left");
            self.parts.take_back(entry.cookie).await;
        }
        if let Err(error) = self.parts.steering.settle(&self.classified.values().copied().collect()) {
            tracing::warn!(%error, "cannot clear what a predecessor left");
        }
    }

    /// Withdraws what should not be enrolled, or is another pod than it was; published first, so that peers stop dialling.
    async fn withdraw_unwanted(
        &mut self,
        local: &BTreeMap<Arc<str>, Arc<Workload>>,
        wanted: impl Fn(&Workload) -> bool,
    ) {
        let parts = Arc::clone(&self.parts);
        let stays = |e: &Enrolled| {
            local.get(&e.pod.uid).is_some_and(|w| wanted(w) && same_pod(e, w, &parts)) && !replaced(e, &parts)
        };
        let gone: Vec<_> = self.enrolled.values().filter(|e| !stays(e)).map(|e| e.pod.uid.clone()).collect();
        if gone.is_empty() {
            return;
        }
        let leavers: Vec<_> = gone.iter().filter_map(|uid| self.enrolled.remove(uid)).collect();
        self.publish();
        for enrolled in leavers {
            // One that is still there has its netns too, though none of its processes may run just now.
            let deleted = !local.contains_key(&enrolled.pod.uid);
            let dead = replaced(&enrolled, &parts) || deleted && deserted(&enrolled, &parts);
            tracing::info!(pod = %enrolled.pod.name, dead, "leaving the mesh");
            let uid = enrolled.pod.uid.clone();
            let leaving =
                leave::begin(Arc::clone(&self.parts), enrolled.pod, enrolled.served, dead, self.events.clone());
            self.leaving.insert(uid, leaving.await);
        }
    }

    /// Whether a pod is one that everything else needs, the mesh included: the cluster's DNS, its network, the mesh's own. Such
    /// a pod is never held because it is not enrolled yet, or what it waits for would wait for it.
    fn is_spared(&self, workload: &Workload) -> bool {
        let namespace = &workload.name.namespace;
        namespace.as_str() == SYSTEM || *namespace == self.parts.namespace
    }

    /// Lets the kernel know a pod that is not meshed, so that it counts as classified.
    async fn classify(&mut self, workload: &Arc<Workload>) {
        if self.leaving.contains_key(&workload.uid) {
            return;
        }
        let Ok(path) = self.parts.finder.path(workload) else { return self.seek.missed(workload) };
        let Ok(netns) = NetNs::open(&path) else { return };
        let cookie = netns.cookie();
        let known = self.classified.insert(workload.uid.clone(), cookie);
        if known == Some(cookie) {
            return;
        }
        if let Some(old) = known {
            self.parts.forget(old).await;
        }
        match self.parts.steering.classify(cookie) {
            Ok(()) => tracing::debug!(pod = %workload.name, "known to the kernel as not meshed"),
            Err(error) => {
                tracing::warn!(pod = %workload.name, %error, "cannot tell the kernel that the pod is not meshed");
            }
        }
    }

    fn note_unaddressed(&mut self, now: BTreeSet<Arc<str>>) {
        self.unaddressed.retain(|uid, _| now.contains(uid));
        for uid in now {
            self.unaddressed.entry(uid).or_insert_with(Instant::now);
        }
    }

    async fn forget_classified(&mut self, local: &BTreeMap<Arc<str>, Arc<Workload>>) {
        let gone: Vec<_> = self.classified.keys().filter(|uid| !local.contains_key(*uid)).cloned().collect();
        for uid in gone {
            if let Some(cookie) = self.classified.remove(&uid) {
                self.parts.forget(cookie).await;
            }
        }
    }

    /// Has the kernel treat plaintext as policy says. A pod is enrolled with what a snapshot says; here another may.
    fn set_modes(&mut self, snapshot: &Snapshot) {
        if self.modes_of == Some(snapshot.generation()) {
            return;
        }
        self.modes_of = Some(snapshot.generation());
        for enrolled in self.enrolled.values() {
            let Some(workload) = enrolled.pod.workload(snapshot) else { continue };
            let modes = InboundModes::new(&plaintext_modes(snapshot, workload), &workload.probe_ports);
            if let Err(error) = self.parts.steering.set_inbound_modes(enrolled.pod.netns.cookie(), &modes) {
                tracing::error!(pod = %enrolled.pod.name, %error, "cannot tell the kernel how to treat plaintext");
                self.modes_of = None;
            }
        }
    }

    /// Publishes who is served here, if that changed.
    fn publish(&mut self) {
        let standings = self.standings();
        if self.published.as_ref() == Some(&standings) {
            return;
        }
        match self.parts.publisher.publish(&self.parts.node, standings.clone()) {
            Ok(()) => self.published = Some(standings),
            Err(error) => {
                tracing::error!(%error, "cannot publish which pods are served; peers will not use mTLS to new ones");
            }
        }
    }

    /// How every pod stands that was asked into the mesh.
    fn standings(&self) -> Standings {
        let refused = || Standing::Refused("it shares the node's network namespace (hostNetwork)".into());
        let mut standings: Standings = self.refused.iter().map(|uid| (uid.clone(), refused())).collect();
        for (uid, since) in &self.unaddressed {
            standings.insert(uid.clone(), Standing::Pending { reason: "it has no address".into(), since: *since });
        }
        for (uid, pending) in &self.pending {
            let (reason, since) = (pending.reason.clone(), pending.since);
            standings.insert(uid.clone(), Standing::Pending { reason, since });
        }
        standings.extend(self.enrolled.iter().map(|(uid, enrolled)| (uid.clone(), enrolled.standing())));
        standings
    }

    /// Keeps certificates for the pods that need one, and for no other; all are asked for before the first is waited for.
    fn keep_identities(&self, wanted: impl Iterator<Item = Identity>) {
        let leaving = self.leaving.values().map(|l| l.identity.clone());
        self.parts.identities.keep_only(&wanted.chain(leaving).collect());
    }
}

impl Enrolled {
    fn standing(&self) -> Standing {
        match &self.reached.state {
            Reach::Asked => {
                let reason = "it is being looked whether peers can reach its port 15008".into();
                Standing::Pending { reason, since: self.reached.since }
            }
            Reach::Pending(reason) => Standing::Withheld(reason.clone()),
            Reach::Closed(reason) => Standing::Unreachable(reason.clone()),
            Reach::Assumed | Reach::Proven => Standing::Enrolled,
        }
    }
}

/// Whether the workload is still the pod that was enrolled: same place, addresses and identity.
fn same_pod(enrolled: &Enrolled, workload: &Workload, parts: &Parts) -> bool {
    *enrolled.pod.addresses == *workload.addresses
        && !parts.finder.moved(workload, &enrolled.path)
        && workload.service_account == enrolled.pod.identity.service_account
        && workload.node == parts.node
}

/// Whether the pod has another netns now: its sandbox was made anew.
fn replaced(enrolled: &Enrolled, parts: &Parts) -> bool {
    parts.finder.replaced(&enrolled.pod.uid, &enrolled.path, &enrolled.pod.netns)
}

/// Whether nothing of the pod runs in its netns any more: the pod was deleted, or its sandbox made anew.
fn deserted(enrolled: &Enrolled, parts: &Parts) -> bool {
    parts.finder.deserted(&enrolled.pod.uid, &enrolled.path, &enrolled.pod.netns)
}
