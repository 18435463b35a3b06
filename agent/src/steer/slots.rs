//! Which listener fills which slot: the one a pod has, the one the holder kept, or a new one.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    os::fd::{AsFd as _, OwnedFd},
};

use weft_abi::{ListenerKey, ListenerRole};

use super::{
    Entry, Listeners, Shared, SteerError,
    listeners::{self, Avoid},
    lock,
};
use crate::sys::NetNs;

impl Listeners {
    pub(super) fn by_role(&self) -> [(ListenerRole, &TcpListener); 2] {
        [(ListenerRole::Outbound, &self.outbound), (ListenerRole::Inbound, &self.inbound)]
    }
}

impl Shared {
    /// The pod's listeners: those it has, those the holder kept, or new ones.
    pub(super) fn listen(&self, ns: &NetNs, entry: &Entry, declared: &[u16]) -> Result<Listeners, SteerError> {
        let avoid = Avoid::of(ns, declared).map_err(SteerError::pod(&entry.uid, "read the sysctls of"))?;
        let mut current = BTreeMap::new();
        if let Some(listeners) = lock(&self.pods).get(&entry.cookie).and_then(|pod| pod.listeners.as_ref()) {
            for (role, listener) in listeners.by_role() {
                current.insert(
                    role,
                    listener.try_clone().map_err(SteerError::pod(&entry.uid, "duplicate a listener of"))?,
                );
            }
        }
        let mut take = |role: ListenerRole| {
            let key = ListenerKey { cookie: entry.cookie, role: role as u64 };
            let kept = current.remove(&role).or_else(|| self.take_usable(key));
            let usable = kept.filter(|kept| listeners::port(kept).is_some_and(|port| !avoid.forbids(port)));
            self.place(key, usable, ns, &avoid, &entry.uid)
        };
        Ok(Listeners { outbound: take(ListenerRole::Outbound)?, inbound: take(ListenerRole::Inbound)? })
    }

    /// A listener the holder kept, if it is one of this very namespace.
    fn take_usable(&self, key: ListenerKey) -> Option<TcpListener> {
        let held: OwnedFd = lock(&self.held).remove(&key)?;
        let same = crate::sys::socket::netns_cookie(held.as_fd()).is_ok_and(|cookie| cookie == key.cookie);
        let listener = same.then(|| TcpListener::from(held))?;
        listener.set_nonblocking(true).ok()?;
        Some(listener)
    }

    /// Fills a slot with a listener, a new one if there is none, and gives it to the holder.
    fn place(
        &self,
        key: ListenerKey,
        listener: Option<TcpListener>,
        ns: &NetNs,
        avoid: &Avoid<'_>,
        uid: &str,
    ) -> Result<TcpListener, SteerError> {
        let listener = match listener {
            Some(listener) => listener,
            None => listeners::open(ns, avoid).map_err(SteerError::pod(uid, "listen in"))?,
        };
        self.writable()?.set_listener(key, listener.as_fd())?;
        if let Some(Err(error)) = self.holder.as_ref().map(|holder| holder.put(key, listener.as_fd())) {
            tracing::debug!(%error, pod = uid, "the holder did not take a listener; it is asked again every second");
        }
        Ok(listener)
    }

    pub(super) fn recreate(&self, cookie: u64, role: ListenerRole) -> Result<TcpListener, SteerError> {
        let (ns, entry) = self.known(cookie)?;
        let avoid = Avoid::of(&ns, &[]).map_err(SteerError::pod(&entry.uid, "read the sysctls of"))?;
        let key = ListenerKey { cookie, role: role as u64 };
        let fresh = self.place(key, None, &ns, &avoid, &entry.uid)?;
        let handed = fresh.try_clone().map_err(SteerError::pod(&entry.uid, "duplicate a listener of"))?;
        if let Some(listeners) = lock(&self.pods).get_mut(&cookie).and_then(|pod| pod.listeners.as_mut()) {
            match role {
                ListenerRole::Outbound => listeners.outbound = fresh,
                ListenerRole::Inbound => listeners.inbound = fresh,
            }
        }
        Ok(handed)
    }
}
