//! Keeps the kernel's part of balancing and policy in step with the snapshot, and decides whether it may have one.
//!
//! It may while every pod of the node is guarded against sending in another's name. What the kernel decides is worked out
//! by `weft_core::same_node`; here it is asked again when something it depends on has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use weft_core::model::Workload;
use weft_core::policy::Sources;
use weft_core::same_node::{self, Local, Near, same_node};
use weft_core::snapshot::{Delta, Snapshot};

use super::parts::Parts;
use super::pods::Pods;
use crate::direct::Known;
use crate::sandbox::Finder;
use crate::steer::{GuardedPod, SteerError, Steering};
use crate::sys::NetNs;
use crate::sys::link::Changes;

/// Endpoints of one service port that the kernel's table holds.
const CHOICES: usize = weft_abi::Frontend::CHOICES;

/// How often it is seen to that all is guarded, when nothing says that it may not be: what a pod adds inside is not reported.
const GUARD_EVERY: Duration = Duration::from_secs(5);

/// How soon it is tried again while a pod cannot be guarded, when something else gives occasion to.
const GUARD_AGAIN: Duration = Duration::from_millis(100);

/// A connection past the proxy has two pods.
const PODS_MIN: usize = 2;

/// How often shares are worked out anew although nothing is known to have changed: some change with time alone.
const SHARES_EVERY: Duration = Duration::from_secs(5);

/// What the kernel was told last depends on these: the snapshot, balancing, the pods, the time, and whether it is on.
type Basis = (u64, u64, BTreeSet<u64>, u64, bool);

/// The same-node fast path of this node.
pub(super) struct SameNode {
    wanted: bool,
    /// Tells when devices of the node come and go, where it is wanted or somebody else asks.
    links: Option<Changes>,
    /// Numbers of pods, by cookie.
    numbers: BTreeMap<u64, u32>,
    guard: Guard,
    /// Some links are to be guarded yet.
    unguarded: bool,
    told: Option<Basis>,
    /// Whom it was told of.
    near: Near,
    started: Instant,
    /// Has what the kernel reports read, once it is known who is who.
    report: Option<oneshot::Sender<()>>,
    /// Why it is off, if it is.
    off: Option<String>,
}

/// What is known of the guard.
enum Guard {
    /// Nothing, or that something has changed since.
    Unknown,
    /// Nobody is guarded.
    Down,
    /// All are but these, seen at that moment, after so many changes that may concern pods and for so many enrolled ones.
    Up { at: Instant, changes: u64, enrolled: usize, open: Vec<String> },
}

impl SameNode {
    /// Nothing is decided before the first [`Self::sync`]; `report` hears of it. Links are watched where it is `wanted`, or for
    /// others (`watched`).
    pub(super) fn new(
        steering: &Steering,
        wanted: bool,
        watched: bool,
        report: oneshot::Sender<()>,
    ) -> std::io::Result<Self> {
        let links = if wanted || watched { Some(steering.link_changes()?) } else { None };
        let off = Some("the agent is starting".into());
        Ok(Self {
            wanted,
            links,
            numbers: BTreeMap::new(),
            guard: Guard::Unknown,
            unguarded: false,
            told: None,
            near: Near::default(),
            started: Instant::now(),
            report: Some(report),
            off,
        })
    }

    /// `on`, or `off` and why.
    pub(super) fn status(&self) -> String {
        match &self.off {
            None => "on".into(),
            Some(reason) => format!("off: {reason}"),
        }
    }

    /// Waits until devices of the node have changed; [`Self::sync`] then looks at them.
    pub(super) async fn links_changed(&mut self) {
        match &mut self.links {
            Some(links) => links.next().await,
            None => std::future::pending().await,
        }
        if matches!(self.guard, Guard::Up { .. }) {
            self.guard = Guard::Unknown;
        }
    }

    /// When to call [`Self::sync`] although nothing has changed, if it is to be.
    pub(super) fn due(&self) -> Option<Instant> {
        self.unguarded.then(Instant::now)
    }

    /// Whether the kernel is to hear of a change to what is `known` at once. Of others it hears at the next look.
    pub(super) fn is_concerned(&self, delta: &Delta, known: &Snapshot) -> bool {
        self.off.is_none() && self.near.is_concerned(delta, known)
    }

    /// Has the kernel follow `snapshot`. Cheap when nothing changed. Not to be called before what a predecessor left has
    /// been taken over or back: until then what that one told the kernel stays in force.
    pub(super) async fn sync(&mut self, parts: &Parts, pods: &Pods, snapshot: &Snapshot, disabled: bool) {
        let off = self.obstacle(parts, pods, snapshot, disabled).await;
        if let Err(error) = self.tell(parts, pods, snapshot, off) {
            // What is let in must not be what policy was once.
            let nothing = same_node::SameNode::default();
            let stopped = parts.steering.set_same_node(&nothing, false).is_ok();
            tracing::error!(%error, stopped, "the same-node fast path cannot follow the configuration");
            self.told = None;
            self.off = Some(error.to_string());
        }
        if let Some(report) = self.report.take() {
            let _ = report.send(());
        }
    }

    fn tell(&mut self, parts: &Parts, pods: &Pods, snapshot: &Snapshot, off: Option<String>) -> Result<(), SteerError> {
        if off != self.off {
            match &off {
                None => tracing::info!("the same-node fast path is on"),
                Some(reason) => tracing::info!(reason, "the same-node fast path is off"),
            }
        }
        self.off = off;
        let cookies: BTreeSet<u64> = pods.enrolled.values().map(|enrolled| enrolled.pod.netns.cookie()).collect();
        let period = self.started.elapsed().as_secs() / SHARES_EVERY.as_secs();
        let changes = parts.outbound.balancers.changes();
        let basis = (snapshot.generation(), changes, cookies, period, self.off.is_none());
        if self.told.as_ref() == Some(&basis) {
            // Off, and told so before: what follows connections goes with the last of them.
            return if self.off.is_some() { parts.steering.retire_same_node() } else { Ok(()) };
        }
        self.number(parts, &basis.2);
        let locals = self.locals(pods, snapshot);
        self.near = Near::of(snapshot, &locals);
        let plan = match self.off {
            None => same_node(snapshot, &locals, &parts.outbound.balancers, CHOICES, Instant::now()),
            Some(_) => same_node::SameNode::default(),
        };
        for local in &locals {
            parts.direct.known.learn(local.cookie, Known::of(snapshot, &local.workload));
        }
        parts.outbound.drawn.store(Arc::new(plan.drawn.clone()));
        parts.steering.set_same_node(&plan, self.off.is_none())?;
        parts.direct.known.forget(|cookie| basis.2.contains(&cookie) || parts.steering.has_flows(cookie));
        self.told = Some(basis);
        Ok(())
    }

    /// What keeps the fast path off, after every pod that can be guarded is.
    async fn obstacle(&mut self, parts: &Parts, pods: &Pods, snapshot: &Snapshot, disabled: bool) -> Option<String> {
        self.unguarded = false;
        let reason = match () {
            () if !self.wanted => "it is not wanted (--fast-path off)",
            () if disabled => "the mesh is off on this node",
            () if pods.enrolled.len() < PODS_MIN => "fewer than two pods of this node are enrolled",
            () => return self.guard(parts, pods, snapshot).await,
        };
        if !matches!(self.guard, Guard::Down) {
            match parts.steering.guard(&[]).await {
                Ok(_) => self.guard = Guard::Down,
                Err(error) => tracing::warn!(%error, "the guard of pods' links cannot be taken off"),
            }
        }
        Some(reason.into())
    }

    /// Guards every pod of the node; yields who cannot be guarded, if that is anybody.
    async fn guard(&mut self, parts: &Parts, pods: &Pods, snapshot: &Snapshot) -> Option<String> {
        let basis = (pods.changes, pods.enrolled.len());
        let open = match &self.guard {
            Guard::Up { at, changes, enrolled, open }
                if at.elapsed() < (if open.is_empty() { GUARD_EVERY } else { GUARD_AGAIN })
                    && (*changes, *enrolled) == basis =>
            {
                open.clone()
            }
            _ => {
                let (pods, mut open) = candidates(parts, pods, snapshot);
                match parts.steering.guard(&pods).await {
                    Ok(guarded) if guarded.waiting > 0 => {
                        (self.guard, self.unguarded) = (Guard::Unknown, true);
                        return Some("links of pods are being guarded".into());
                    }
                    Ok(guarded) => open.extend(guarded.open),
                    Err(error) => open.push(error.to_string()),
                }
                let (changes, enrolled) = basis;
                self.guard = Guard::Up { at: Instant::now(), changes, enrolled, open: open.clone() };
                open
            }
        };
        (!open.is_empty()).then(|| format!("pods that cannot be guarded: {}", open.join("; ")))
    }

    /// Gives every enrolled pod a number, the one it had if it had one.
    fn number(&mut self, parts: &Parts, cookies: &BTreeSet<u64>) {
        self.numbers.retain(|cookie, _| cookies.contains(cookie));
        for cookie in cookies {
            if let (false, Some(number)) = (self.numbers.contains_key(cookie), parts.steering.number_of(*cookie)) {
                self.numbers.insert(*cookie, number);
            }
        }
        let mut taken: BTreeSet<u32> = self.numbers.values().copied().collect();
        for cookie in cookies {
            if self.numbers.contains_key(cookie) {
                continue;
            }
            if let Some(free) = (0..Sources::PODS).find(|number| !taken.contains(number)) {
                taken.insert(free);
                self.numbers.insert(*cookie, free);
            }
        }
    }

    fn locals(&self, pods: &Pods, snapshot: &Snapshot) -> Vec<Local> {
        let local = |pod: &crate::pod::Pod| {
            let cookie = pod.netns.cookie();
            let workload = Arc::clone(pod.workload(snapshot)?);
            Some(Local { cookie, number: self.numbers.get(&cookie).copied(), workload })
        };
        pods.enrolled.values().filter_map(|enrolled| local(&enrolled.pod)).collect()
    }
}

/// The pods of the node that have a link of their own, and those of which is not known where.
fn candidates(parts: &Parts, pods: &Pods, snapshot: &Snapshot) -> (Vec<GuardedPod>, Vec<String>) {
    let (mut guarded, mut unknown) = (Vec::new(), Vec::new());
    for workload in snapshot.workloads_on(&parts.node).filter(|w| !w.host_network) {
        match netns_of(workload, pods, &parts.finder) {
            Ok(Some((netns, enrolled))) => {
                let protects = if enrolled { workload.addresses.clone() } else { Vec::new() };
                guarded.push(GuardedPod { name: workload.name.to_string(), netns, protects });
            }
            // A namespace that is not there sends nothing.
            Ok(None) => {}
            // One that has no address yet has not begun.
            Err(_) if workload.addresses.is_empty() => {}
            Err(reason) => unknown.push(format!("{}: {reason}", workload.name)),
        }
    }
    (guarded, unknown)
}

/// A pod's namespace and whether it is enrolled; `None` where there is none.
fn netns_of(workload: &Workload, pods: &Pods, finder: &Finder) -> Result<Option<(Arc<NetNs>, bool)>, String> {
    if let Some(enrolled) = pods.enrolled.get(&workload.uid) {
        return Ok(Some((Arc::clone(&enrolled.pod.netns), true)));
    }
    let path = finder.path(workload).map_err(|unfound| unfound.to_string())?;
    match NetNs::open(&path) {
        Ok(netns) => Ok(Some((netns, false))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{} cannot be opened: {error}", path.display())),
    }
}
