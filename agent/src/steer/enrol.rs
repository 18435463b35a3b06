//! Enrolment of a pod and its exact reversal.
//!
//! There: journal, rule and route, sysctls, listeners, lookup hook, and the netns cookie last, so that nothing is steered
//! before it can be served. Back: the same, in the other direction, in three stages. Every step may meet its own traces,
//! because an agent may have died after any of them.

use std::{
    net::{IpAddr, TcpListener},
    path::Path,
    sync::Arc,
};

use weft_abi::{ListenerKey, ListenerRole, PodEntry};

use super::{EnrolledPod, Entry, Pod, PodNetwork, Shared, SteerError, Steering, lock, pins, tables::Modes};
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

/// A pod whose enrolment is journalled.
struct Noted {
    ns: Arc<NetNs>,
    entry: Entry,
    /// Addresses that were routed before and are no longer the pod's.
    stale: Vec<IpAddr>,
    /// There was no journal: nothing has been changed in the pod yet.
    fresh: bool,
}

impl Steering {
    /// Steers a pod, or takes over one that a predecessor steered. If a step fails for a pod that was not steered before,
    /// those before it are taken back; one that was keeps what it had.
    pub async fn enrol(&self, pod: PodNetwork) -> Result<EnrolledPod, SteerError> {
        let _turn = self.turn.lock().await;
        self.shared.check_owner()?;
        let request = pod.clone();
        let noted = self.blocking(move |shared| shared.note(&request)).await?;
        let result = self.enrol_noted(&noted, pod).await;
        if let (Err(error), true) = (&result, noted.fresh) {
            tracing::warn!(pod = noted.entry.uid, %error, "enrolment failed; taking back what was done");
            if let Err(error) = self.leave(noted.entry.cookie).await {
                tracing::error!(pod = noted.entry.uid, %error, "it could not be taken back; the journal stays");
            }
        }
        result
    }

    async fn enrol_noted(&self, noted: &Noted, pod: PodNetwork) -> Result<EnrolledPod, SteerError> {
        let Noted { ns, entry, stale, .. } = noted;
        // A route with another source is in the way of the new one, and counts as being there.
        route::remove(ns, stale).await.map_err(SteerError::pod(&pod.uid, "remove rule and route from"))?;
        route::add(ns, &entry.addresses).await.map_err(SteerError::pod(&pod.uid, "add rule and route to"))?;
        let cookie = entry.cookie;
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
        reset_sysctls(&self.shared.proc_sys, &ns, &entry)?;
        self.shared.erase(cookie)?;
        // The namespace lives on, and is known.
        self.classify(cookie)
    }

    pub(super) async fn blocking<R: Send + 'static>(
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
    fn note(&self, pod: &PodNetwork) -> Result<Noted, SteerError> {
        let v4 = pod.addresses.iter().filter(|ip| ip.is_ipv4()).count();
        if pod.addresses.is_empty() || v4 > 1 || pod.addresses.len() - v4 > 1 {
            return Err(SteerError::Addresses { uid: pod.uid.clone() });
        }
        let ns = NetNs::open(&pod.netns).map_err(SteerError::pod(&pod.uid, "open the network namespace of"))?;
        let cookie = ns.cookie();
        if cookie == self.host.cookie() {
            return Err(SteerError::HostNetwork { uid: pod.uid.clone() });
        }
        let before = self.journal.read(cookie)?;
        let fresh = before.is_none();
        let (mut sysctls, routed) = before.map(|entry| (entry.sysctls, entry.addresses)).unwrap_or_default();
        for (key, _) in SYSCTLS.iter().filter(|(_, family)| family.concerns(&pod.addresses)) {
            let value = sysctl::read(&ns, key).map_err(SteerError::pod(&pod.uid, "read the sysctls of"))?;
            if let (Some(value), false) = (value, sysctls.contains_key(*key)) {
                sysctls.insert((*key).to_owned(), value);
            }
        }
        let entry =
            Entry { uid: pod.uid.clone(), cookie, netns: pod.netns.clone(), addresses: pod.addresses.clone(), sysctls };
        self.journal.write(&entry)?;
        let stale = routed.into_iter().filter(|ip| !entry.addresses.contains(ip)).collect();
        let mut pods = lock(&self.pods);
        let known = pods.entry(cookie).or_insert_with(|| Pod {
            ns: Arc::clone(&ns),
            entry: entry.clone(),
            modes: Modes::new(),
            listeners: None,
        });
        known.entry = entry.clone();
        Ok(Noted { ns, entry, stale, fresh })
    }

    pub(super) fn known(&self, cookie: u64) -> Result<(Arc<NetNs>, Entry), SteerError> {
        let pods = lock(&self.pods);
        let pod = pods.get(&cookie).ok_or(SteerError::UnknownPod { cookie })?;
        Ok((Arc::clone(&pod.ns), pod.entry.clone()))
    }

    /// Everything from the sysctls on; the cookie comes last.
    fn attach(&self, cookie: u64, wanted: &PodNetwork) -> Result<EnrolledPod, SteerError> {
        let (ns, entry) = self.known(cookie)?;
        for key in entry.sysctls.keys() {
            sysctl::write(&self.proc_sys, &ns, key, SET).map_err(SteerError::pod(&entry.uid, "set the sysctls of"))?;
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
        self.writable()?.enrol(cookie, entry.own())?;
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

    fn withdraw(&self, cookie: u64) -> Result<(), SteerError> {
        let Ok((_, entry)) = self.known(cookie) else { return Ok(()) };
        self.writable()?.set_pod(cookie, PodEntry { flags: PodEntry::LEAVING, slot: 0, own: entry.own() })
    }

    fn detach(&self, cookie: u64) -> Result<(), SteerError> {
        self.check_owner()?;
        // Unpinned only, it would run a moment longer, find no listener below and refuse what was meant for the app.
        pins::detach(&self.programs.pins.lookup(cookie))?;
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
        lock(&self.direct).erase(cookie)?;
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
fn reset_sysctls(proc_sys: &Path, ns: &NetNs, entry: &Entry) -> Result<(), SteerError> {
    for (key, before) in &entry.sysctls {
        let now = sysctl::read(ns, key).map_err(SteerError::pod(&entry.uid, "read the sysctls of"))?;
        if now.as_deref() == Some(SET) {
            sysctl::write(proc_sys, ns, key, before).map_err(SteerError::pod(&entry.uid, "restore the sysctls of"))?;
        }
    }
    Ok(())
}
