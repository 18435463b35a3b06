//! Enrolment of a pod and its exact reversal.
//!
//! There: journal, rule and route, sysctls, listeners, lookup hook, and the netns cookie last, so that nothing is steered
//! before it can be served. Back: the same, in the other direction, in three stages. Every step may meet its own traces,
//! because an agent may have died after any of them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, TcpListener},
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

use weft_abi::{ListenerKey, ListenerRole, PodEntry};

use super::{
    EnrolledPod, Entry, Listeners, Pod, PodNetwork, Shared, SteerError, Steering,
    listeners::{self, Avoid},
    lock, pins,
    tables::Modes,
};
use crate::sys::{NetNs, route, sysctl};

/// What the pod's namespace needs, per family: replies of the application carry the mark of the SYN they answer and so
/// return to the agent, and so do resets; without the second, a dial to a port where nobody listens times out here and
/// the reset leaks to the client.
const SYSCTLS: [(&str, Family); 3] = [
    ("net.ipv4.tcp_fwmark_accept", Family::Either),
    ("net.ipv4.fwmark_reflect", Family::V4),
    ("net.ipv6.fwmark_reflect", Family::V6),
];

const SET: &str = "1";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Either,
    V4,
    V6,
}

impl Family {
    fn concerns(self, addresses: &[IpAddr]) -> bool {
        match self {
            Self::Either => true,
            Self::V4 => addresses.iter().any(IpAddr::is_ipv4),
            Self::V6 => addresses.iter().any(IpAddr::is_ipv6),
        }
    }
}

impl Listeners {
    pub(super) fn by_role(&self) -> [(ListenerRole, &TcpListener); 2] {
        [(ListenerRole::Outbound, &self.outbound), (ListenerRole::Inbound, &self.inbound)]
    }
}

impl Steering {
    /// Steers a pod, or takes over one that a predecessor steered. If any step fails, those before it are taken back.
    pub async fn enrol(&self, pod: PodNetwork) -> Result<EnrolledPod, SteerError> {
        let _turn = self.turn.lock().await;
        self.shared.check_owner()?;
        let (cookie, uid) = self
            .blocking({
                let pod = pod.clone();
                move |shared| shared.note(&pod)
            })
            .await?;
        let result = self.enrol_noted(cookie, pod).await;
        if result.is_err() {
            tracing::warn!(pod = uid, "enrolment failed; taking back what was done");
            if let Err(error) = self.leave(cookie).await {
                tracing::error!(pod = uid, %error, "a failed enrolment could not be taken back; its journal stays");
            }
        }
        result
    }

    async fn enrol_noted(&self, cookie: u64, pod: PodNetwork) -> Result<EnrolledPod, SteerError> {
        let (ns, entry) = self.shared.known(cookie)?;
        route::add(&ns, &entry.addresses).await.map_err(SteerError::pod(&pod.uid, "add rule and route to"))?;
        self.blocking(move |shared| shared.attach(cookie, &pod)).await
    }

    /// First stage of un-enrolment: the pod's new connects go out as if it had never been enrolled. What comes to it is
    /// still served.
    pub async fn withdraw(&self, cookie: u64) -> Result<(), SteerError> {
        let _turn = self.turn.lock().await;
        self.shared.withdraw(cookie)
    }

    /// Second stage: SYNs to the pod go to its applications. The caller's listeners stay open until it drops them; it
    /// should accept what had queued first, for closing them resets it.
    pub async fn detach(&self, cookie: u64) -> Result<(), SteerError> {
        let _turn = self.turn.lock().await;
        self.shared.detach(cookie)
    }

    /// Last stage, once no proxied connection of the pod is open: rule, route, sysctls and journal go.
    pub async fn restore(&self, cookie: u64) -> Result<(), SteerError> {
        let _turn = self.turn.lock().await;
        self.restore_now(cookie).await
    }

    /// The namespace is gone, or about to be: forgets it, enrolled or not, without going there.
    pub async fn forget(&self, cookie: u64) -> Result<(), SteerError> {
        let _turn = self.turn.lock().await;
        self.shared.check_owner()?;
        self.shared.erase(cookie)
    }

    /// Takes all steering off the node: every pod restored, every pin removed. Nothing can be enrolled afterwards.
    pub async fn remove_all(&self) -> Result<(), SteerError> {
        let _turn = self.turn.lock().await;
        self.shared.check_owner()?;
        // Connects first: nothing may be steered into a pod whose listeners go next.
        self.shared.programs.pins.remove_links(|name| name.starts_with("connect"))?;
        for cookie in self.cookies() {
            self.leave(cookie).await?;
        }
        self.shared.programs.pins.remove_all()?;
        self.shared.journal.close()?;
        self.release();
        Ok(())
    }

    /// Makes a new listener for a pod, after the old one failed for good: a process with NET_ADMIN in the pod can destroy
    /// it, and then accept fails for ever.
    pub async fn recreate_listener(&self, cookie: u64, role: ListenerRole) -> Result<TcpListener, SteerError> {
        let _turn = self.turn.lock().await;
        self.blocking(move |shared| shared.recreate(cookie, role)).await
    }

    async fn leave(&self, cookie: u64) -> Result<(), SteerError> {
        self.shared.withdraw(cookie)?;
        self.shared.detach(cookie)?;
        self.restore_now(cookie).await
    }

    async fn restore_now(&self, cookie: u64) -> Result<(), SteerError> {
        self.shared.check_owner()?;
        let Ok((ns, entry)) = self.shared.known(cookie) else { return Ok(()) };
        route::remove(&ns, &entry.addresses)
            .await
            .map_err(SteerError::pod(&entry.uid, "remove rule and route from"))?;
        reset_sysctls(&ns, &entry)?;
        self.shared.erase(cookie)?;
        // The namespace lives on, and is known.
        self.classify(cookie)
    }

    async fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<R, SteerError> + Send + 'static,
    ) -> Result<R, SteerError> {
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || work(&shared)).await;
        done.unwrap_or_else(|failure| std::panic::resume_unwind(failure.into_panic()))
    }
}

impl Shared {
    /// Finds the pod's namespace and journals what is about to be changed there.
    fn note(&self, pod: &PodNetwork) -> Result<(u64, String), SteerError> {
        let families = pod.addresses.iter().filter(|ip| ip.is_ipv4()).count();
        if pod.addresses.is_empty() || families > 1 || pod.addresses.len() - families > 1 {
            return Err(SteerError::Addresses { uid: pod.uid.clone() });
        }
        let ns = NetNs::open(&pod.netns).map_err(SteerError::pod(&pod.uid, "open the network namespace of"))?;
        let cookie = ns.cookie();
        if cookie == self.host.cookie() {
            return Err(SteerError::HostNetwork { uid: pod.uid.clone() });
        }
        let before = self.journal.read(cookie)?;
        let mut sysctls = before.map(|entry| entry.sysctls).unwrap_or_default();
        for (key, _) in SYSCTLS.iter().filter(|(_, family)| family.concerns(&pod.addresses)) {
            let value = sysctl::read(&ns, key).map_err(SteerError::pod(&pod.uid, "read the sysctls of"))?;
            if let (Some(value), false) = (value, sysctls.contains_key(*key)) {
                sysctls.insert((*key).to_owned(), value);
            }
        }
        let entry =
            Entry { uid: pod.uid.clone(), cookie, netns: pod.netns.clone(), addresses: pod.addresses.clone(), sysctls };
        self.journal.write(&entry)?;
        let mut pods = lock(&self.pods);
        match pods.get_mut(&cookie) {
            Some(known) => known.entry = entry,
            None => {
                pods.insert(cookie, Pod { ns, entry, modes: Modes::new(), listeners: None });
            }
        }
        Ok((cookie, pod.uid.clone()))
    }

    fn known(&self, cookie: u64) -> Result<(Arc<NetNs>, Entry), SteerError> {
        let pods = lock(&self.pods);
        let pod = pods.get(&cookie).ok_or(SteerError::UnknownPod { cookie })?;
        Ok((Arc::clone(&pod.ns), pod.entry.clone()))
    }

    /// Everything from the sysctls on; the cookie comes last.
    fn attach(&self, cookie: u64, wanted: &PodNetwork) -> Result<EnrolledPod, SteerError> {
        let (ns, entry) = self.known(cookie)?;
        for key in entry.sysctls.keys() {
            sysctl::write(&ns, key, SET).map_err(SteerError::pod(&entry.uid, "set the sysctls of"))?;
        }
        let listeners = self.listen(&ns, &entry, &wanted.avoid_ports)?;
        let modes = Modes::from(&wanted.modes);
        {
            let mut pods = lock(&self.pods);
            let pod = pods.get_mut(&cookie).ok_or(SteerError::UnknownPod { cookie })?;
            self.writable()?.set_modes(cookie, &pod.modes, &modes)?;
            pod.modes = modes;
        }
        self.programs.install_lookup(&ns, entry.identity(), *lock(&self.log_level))?;
        self.writable()?.set_pod(cookie, PodEntry { flags: PodEntry::ENROLLED, own: entry.own() })?;
        let duplicate = |listener: &TcpListener| {
            listener.try_clone().map_err(SteerError::pod(&entry.uid, "duplicate a listener of"))
        };
        let enrolled = EnrolledPod {
            cookie,
            netns: ns,
            outbound: duplicate(&listeners.outbound)?,
            inbound: duplicate(&listeners.inbound)?,
        };
        if let Some(pod) = lock(&self.pods).get_mut(&cookie) {
            pod.listeners = Some(listeners);
        }
        Ok(enrolled)
    }

    /// The pod's listeners: those it has, those the holder kept, or new ones.
    fn listen(&self, ns: &NetNs, entry: &Entry, declared: &[u16]) -> Result<Listeners, SteerError> {
        let current = lock(&self.pods).get_mut(&entry.cookie).and_then(|pod| pod.listeners.take());
        let avoid = Avoid::of(ns, declared).map_err(SteerError::pod(&entry.uid, "read the sysctls of"))?;
        let mut current: BTreeMap<ListenerRole, TcpListener> = current
            .map(|listeners| [(ListenerRole::Outbound, listeners.outbound), (ListenerRole::Inbound, listeners.inbound)])
            .into_iter()
            .flatten()
            .collect();
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
            tracing::warn!(%error, pod = uid, "the holder does not have this listener; it is asked again later");
        }
        Ok(listener)
    }

    fn recreate(&self, cookie: u64, role: ListenerRole) -> Result<TcpListener, SteerError> {
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

    fn withdraw(&self, cookie: u64) -> Result<(), SteerError> {
        let Ok((_, entry)) = self.known(cookie) else { return Ok(()) };
        self.writable()?.set_pod(cookie, PodEntry { flags: PodEntry::LEAVING, own: entry.own() })
    }

    fn detach(&self, cookie: u64) -> Result<(), SteerError> {
        self.check_owner()?;
        pins::remove(&self.programs.pins.lookup(cookie))?;
        let mut tables = self.writable()?;
        for role in ListenerRole::ALL {
            tables.remove_listener(ListenerKey { cookie, role: role as u64 })?;
        }
        drop(tables);
        if let Some(pod) = lock(&self.pods).get_mut(&cookie) {
            pod.listeners = None;
        }
        lock(&self.held).retain(|key, _| key.cookie != cookie);
        if let Some(Err(error)) = self.holder.as_ref().map(|holder| holder.drop(cookie)) {
            tracing::warn!(%error, cookie, "the holder may keep a listener that nobody needs");
        }
        Ok(())
    }

    /// Removes every trace of a namespace outside of it.
    pub(super) fn erase(&self, cookie: u64) -> Result<(), SteerError> {
        self.detach(cookie)?;
        let mut pods = lock(&self.pods);
        let mut tables = self.writable()?;
        tables.remove_pod(cookie)?;
        let modes = match pods.get(&cookie) {
            Some(pod) => pod.modes.clone(),
            None => tables.modes(cookie)?,
        };
        tables.set_modes(cookie, &modes, &Modes::new())?;
        drop(tables);
        pods.remove(&cookie);
        self.journal.remove(cookie)
    }
}

/// Puts back what was there, unless somebody has changed it since.
fn reset_sysctls(ns: &NetNs, entry: &Entry) -> Result<(), SteerError> {
    for (key, before) in &entry.sysctls {
        let now = sysctl::read(ns, key).map_err(SteerError::pod(&entry.uid, "read the sysctls of"))?;
        if now.as_deref() == Some(SET) {
            sysctl::write(ns, key, before).map_err(SteerError::pod(&entry.uid, "restore the sysctls of"))?;
        }
    }
    Ok(())
}
