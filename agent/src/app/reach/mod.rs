//! Whether peers can reach the tunnel port of this node's pods.
//!
//! No client can tell a policy of the network that drops packets to 15008 from an attacker who does, so none ever falls back
//! to plaintext by itself. The pod's own node can: it knows that the port is served, and asks from inside other pods of the
//! node, which the network treats as what they are. A pod that is shut off from the start is not published as enrolled;
//! its connections then are what they were before the mesh, plaintext where its ports take it.
//!
//! A pod that is alone on its node has no witness and counts as reachable.

mod ask;
mod judge;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use weft_core::model::{ObjectName, Workload};
use weft_core::policy::{PlaintextMode, PlaintextModes, plaintext_modes};
use weft_core::snapshot::Snapshot;

use super::pods::{Enrolled, Pods};
use super::serve::PodEvent;
use crate::sys::NetNs;
use ask::{Asked, Witness, ask};
pub(super) use judge::{Finding, Reach};

/// Pods that are asked about one: a policy that lets some of them in and others not is no reason to give up.
const WITNESSES: usize = 3;

/// How long a pod waits for others of its node to be found, before it counts as alone.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is known of a pod's tunnel port, and when it is looked at again.
pub(super) struct Reached {
    pub(super) state: Reach,
    /// When the pod was enrolled.
    pub(super) since: Instant,
    due: Instant,
    asking: bool,
}

impl Reached {
    /// Of a pod just enrolled. One that was published before, by a predecessor, was reachable then.
    pub(super) fn new(published: bool, every: Duration) -> Self {
        let now = Instant::now();
        let (state, due) = if published { (Reach::Proven, now + every) } else { (Reach::Asked, now) };
        Self { state, since: now, due, asking: false }
    }
}

impl Pods {
    /// Looks at the tunnel ports that are due. A look takes a moment; its [`PodEvent::Looked`] brings what it found.
    pub(super) fn ask_after_tunnels(&mut self, snapshot: &Snapshot, local: &BTreeMap<Arc<str>, Arc<Workload>>) {
        let now = Instant::now();
        let every = self.parts.reach_every;
        let due = |e: &Enrolled| !e.reached.asking && e.reached.due <= now;
        let uids: Vec<_> = self.enrolled.values().filter(|e| due(e)).map(|e| e.pod.uid.clone()).collect();
        for uid in uids {
            let (witnesses, more) = if every.is_zero() { (Vec::new(), false) } else { self.witnesses(&uid, local) };
            let (Some(enrolled), Some(workload)) = (self.enrolled.get_mut(&uid), local.get(&uid)) else { continue };
            // Tunnels that carry what is new tell more than any dial.
            if enrolled.pod.reached.swap(false, Ordering::Relaxed) {
                enrolled.reached.due = now + every;
                enrolled.learn(Finding::Reached, snapshot, workload);
            } else if let (Some(address), false) = (workload.addresses.first(), witnesses.is_empty()) {
                enrolled.reached.asking = true;
                let pod = Arc::clone(&enrolled.pod);
                let asked = Asked {
                    netns: Arc::clone(&pod.netns),
                    address: *address,
                    declared: workload.declared_ports.clone(),
                };
                let (events, turns) = (self.events.clone(), Arc::clone(&self.looking));
                tokio::spawn(async move {
                    let _turn = turns.acquire().await;
                    let finding = judge::judge(&ask(asked, witnesses).await);
                    let _ = events.send(PodEvent::Looked { pod, finding });
                });
            } else if !more || enrolled.reached.since.elapsed() > PATIENCE {
                enrolled.learn(Finding::Unknown, snapshot, workload);
            }
        }
    }

    /// What a look has found.
    pub(super) fn looked(&mut self, uid: &str, cookie: u64, finding: Finding, snapshot: &Snapshot) {
        let Some(enrolled) = self.enrolled.get_mut(uid).filter(|e| e.pod.netns.cookie() == cookie) else { return };
        enrolled.reached.asking = false;
        enrolled.reached.due = Instant::now() + self.parts.reach_every;
        // Somebody may have come while it was looked.
        let finding = if enrolled.pod.reached.load(Ordering::Relaxed) { Finding::Reached } else { finding };
        if let Some(workload) = snapshot.workload(uid) {
            enrolled.learn(finding, snapshot, workload);
        }
    }

    /// Other pods of the node that can dial this one, of its own namespace first; and whether there are any that might, once
    /// they are found.
    fn witnesses(&self, uid: &str, local: &BTreeMap<Arc<str>, Arc<Workload>>) -> (Vec<Witness>, bool) {
        let Some(asked) = local.get(uid) else { return (Vec::new(), false) };
        let Some(to) = asked.addresses.first() else { return (Vec::new(), false) };
        let mut others: Vec<_> = local.values().filter(|w| w.uid != asked.uid && !w.host_network).collect();
        others.sort_by_key(|w| (w.name.namespace != asked.name.namespace, &w.name));
        let address = |w: &Workload| w.addresses.iter().find(|ip| ip.is_ipv4() == to.is_ipv4()).copied();
        let witness = |w: &&Arc<Workload>| self.witness(w, address(w)?);
        (others.iter().filter_map(witness).take(WITNESSES).collect(), others.iter().any(|w| address(w).is_some()))
    }

    fn witness(&self, workload: &Workload, address: IpAddr) -> Option<Witness> {
        let netns = match self.enrolled.get(&workload.uid) {
            Some(enrolled) => Arc::clone(&enrolled.pod.netns),
            None => NetNs::open(&self.parts.finder.path(workload).ok()?).ok()?,
        };
        Some(Witness { name: workload.name.clone(), netns, address })
    }
}

impl Enrolled {
    /// Takes note of what was found, and says so if it is new.
    fn learn(&mut self, finding: Finding, snapshot: &Snapshot, workload: &Workload) {
        let before = self.reached.state.clone();
        let takes = takes_plaintext(&plaintext_modes(snapshot, workload));
        self.reached.state = before.clone().after(finding, takes);
        if self.reached.state == before {
            return;
        }
        let pod: &ObjectName = &workload.name;
        match (&before, &self.reached.state) {
            (_, Reach::Pending(reason)) => {
                tracing::warn!(%pod, reason, "not in the mesh: connections to it are plaintext until it can be reached");
            }
            (_, Reach::Closed(reason)) => {
                tracing::warn!(%pod, reason, "peers that try to reach the pod fail");
            }
            (Reach::Pending(_) | Reach::Closed(_), _) => tracing::info!(%pod, "its tunnel port can be reached"),
            _ => {}
        }
    }

    /// Why peers cannot reach it, if so.
    pub(super) fn unreachable(&self) -> Option<&str> {
        match &self.reached.state {
            Reach::Pending(reason) | Reach::Closed(reason) => Some(reason),
            Reach::Asked | Reach::Assumed | Reach::Proven => None,
        }
    }

    /// Whether peers are sent to its tunnel port.
    pub(super) fn is_published(&self) -> bool {
        !matches!(self.reached.state, Reach::Asked | Reach::Pending(_))
    }
}

/// Whether any port takes plaintext.
fn takes_plaintext(modes: &PlaintextModes) -> bool {
    modes.default != PlaintextMode::Refuse || modes.ports.values().any(|mode| *mode != PlaintextMode::Refuse)
}
