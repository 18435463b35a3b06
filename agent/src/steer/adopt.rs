//! Coming after another agent: what it enrolled and journalled, what its listeners are, and what of it is dead.

use std::{io, os::fd::AsFd as _, sync::Arc};

use weft_abi::{ListenerKey, ListenerRole};

use super::{Entry, Listeners, Pod, Shared, SteerError, lock};
use crate::sys::NetNs;

impl Shared {
    /// Takes the holder's listeners and the journal; forgets pods whose namespace is gone. Runs once, before anything
    /// is enrolled.
    pub(super) fn adopt(&self) -> Result<(), SteerError> {
        self.take_held();
        let entries = self.journal.all()?;
        let journalled: Vec<u64> = entries.iter().map(|entry| entry.cookie).collect();
        // A hook of a namespace that nobody remembers would hand its SYNs to nobody.
        self.programs.pins.remove_links(|name| {
            let cookie = name.strip_prefix("lookup-").and_then(|cookie| cookie.parse().ok());
            cookie.is_some_and(|cookie: u64| !journalled.contains(&cookie))
        })?;
        for entry in entries {
            match self.find(&entry) {
                Some(ns) => {
                    let modes = lock(&self.tables).modes(entry.cookie)?;
                    let pod = Pod { ns, modes, listeners: None, entry };
                    lock(&self.pods).insert(pod.entry.cookie, pod);
                }
                None => {
                    tracing::info!(pod = entry.uid, cookie = entry.cookie, "a pod's namespace went while no agent ran");
                    self.erase(entry.cookie)?;
                }
            }
        }
        lock(&self.held).retain(|key, _| journalled.contains(&key.cookie));
        Ok(())
    }

    fn take_held(&self) {
        let Some(holder) = &self.holder else { return };
        match holder.take_all() {
            Ok(taken) => lock(&self.held).extend(taken),
            Err(error) => tracing::debug!(%error, "no holder to take listeners from"),
        }
    }

    /// The namespace of an entry, if it is still the same: by its path, or through a listener that was made inside it,
    /// which helps where the path named a process that has ended since.
    fn find(&self, entry: &Entry) -> Option<Arc<NetNs>> {
        let same = |ns: &Arc<NetNs>| ns.cookie() == entry.cookie;
        if let Some(ns) = NetNs::open(&entry.netns).ok().filter(same) {
            return Some(ns);
        }
        let held = lock(&self.held);
        ListenerRole::ALL.iter().find_map(|role| {
            let listener = held.get(&ListenerKey { cookie: entry.cookie, role: *role as u64 })?;
            NetNs::of_socket(listener.as_fd()).ok().filter(same)
        })
    }

    /// Gives the holder what it lacks: it was restarted, or was not there at enrolment. No lock is held while it is
    /// asked, since a holder that hangs must not hold up an enrolment.
    pub(super) fn remind_holder(&self) -> io::Result<()> {
        let Some(holder) = &self.holder else { return Ok(()) };
        let expected =
            lock(&self.pods).values().filter(|pod| pod.listeners.is_some()).count() * ListenerRole::ALL.len();
        // More than expected is a predecessor's that waits to be adopted.
        if expected == 0 || holder.count()? >= expected {
            return Ok(());
        }
        let mut duplicates = Vec::new();
        for pod in lock(&self.pods).values() {
            for (role, listener) in pod.listeners.iter().flat_map(Listeners::by_role) {
                let key = ListenerKey { cookie: pod.entry.cookie, role: role as u64 };
                duplicates.push((key, listener.try_clone()?));
            }
        }
        duplicates.iter().try_for_each(|(key, listener)| holder.put(*key, listener.as_fd()))
    }
}
