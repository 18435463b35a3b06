//! Where new pods are held until they are known (`--unclassified closed`): pods whose sandbox is about to stand are looked for at
//! once, and not at the next look. A sandbox has its link, and then its first process, before a container of it begins, so one
//! that is to stay outside the mesh is mostly known when it connects for the first time.
//!
//! Nobody reports a process, so this can only look, and for a while only: a pod may wait for its sandbox as long as it likes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_core::model::Workload;

use crate::sandbox::Finder;

/// How often is looked. All processes are looked at for a tenth of the time at the most, see [`crate::sandbox::Processes`].
const EVERY: Duration = Duration::from_millis(25);
/// For how long after a link or a pod of the node has changed. A runtime takes some hundred milliseconds from the one to the other.
const FOR: Duration = Duration::from_secs(3);

/// The search for pods that are known and not found.
pub(super) struct Seek {
    wanted: bool,
    until: Instant,
    next: Instant,
    unfound: HashMap<Arc<str>, Arc<Workload>>,
}

impl Seek {
    /// One that looks for nobody, if it is not `wanted`.
    pub(super) fn new(wanted: bool, now: Instant) -> Self {
        Self { wanted, until: now, next: now, unfound: HashMap::new() }
    }

    /// Something has changed that may be a sandbox; whether that is to be looked into.
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        self.until = now + FOR;
        self.wanted
    }

    /// Forgets whom it has missed: all pods are looked for anew.
    pub(super) fn clear(&mut self) {
        self.unfound.clear();
    }

    /// A pod was not found.
    pub(super) fn missed(&mut self, pod: &Arc<Workload>) {
        // On the node's network there is nothing to find, and nothing held.
        if self.wanted && !pod.host_network {
            self.unfound.insert(pod.uid.clone(), Arc::clone(pod));
        }
    }

    /// When to look, if at all.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.next < self.until && !self.unfound.is_empty()).then_some(self.next)
    }

    /// Whether a pod is there that was missed.
    pub(super) fn look(&mut self, finder: &Finder, now: Instant) -> bool {
        self.next = now + EVERY;
        let found = self.unfound.values().find(|pod| finder.path(pod).is_ok());
        if let Some(pod) = found {
            tracing::debug!(pod = %pod.name, "its sandbox stands, where it was looked for");
        }
        found.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_core::model::{Labels, Name, ObjectName, Weight};

    fn pod(netns: Option<&str>, host_network: bool) -> Arc<Workload> {
        Arc::new(Workload {
            name: ObjectName::new("kube-system", "dns").unwrap(),
            uid: "u1".into(),
            addresses: Vec::new(),
            service_account: Name::new("dns").unwrap(),
            node: "n1".into(),
            owner: "dns".into(),
            labels: Labels::new(),
            weight: Weight(1),
            mesh: None,
            netns: netns.map(Into::into),
            host_network,
            declared_ports: Vec::new(),
            probe_ports: Vec::new(),
        })
    }

    #[test]
    fn pods_are_looked_for_a_while_after_a_change_and_no_longer() {
        let start = Instant::now();
        let mut seek = Seek::new(true, start);
        seek.missed(&pod(None, false));
        assert_eq!(seek.due(), None, "nothing has changed");
        assert!(seek.begin(start));
        assert_eq!(seek.due(), Some(start));
        let mut now = start;
        let mut looks = 0;
        while let Some(due) = seek.due() {
            now = due;
            assert!(!seek.look(&Finder::Annotation, now));
            looks += 1;
        }
        assert_eq!((looks, now), (120, start + FOR - EVERY));
        seek.begin(now);
        seek.clear();
        assert_eq!(seek.due(), None, "nobody is missed");
        seek.missed(&pod(Some("/run/netns/x"), false));
        assert!(seek.look(&Finder::Annotation, now));
    }

    #[test]
    fn nobody_is_looked_for_where_nobody_is_held_or_nothing_can_be_found() {
        let now = Instant::now();
        for (wanted, host_network) in [(false, false), (true, true)] {
            let mut seek = Seek::new(wanted, now);
            assert_eq!(seek.begin(now), wanted);
            seek.missed(&pod(None, host_network));
            assert_eq!(seek.due(), None);
        }
    }
}
