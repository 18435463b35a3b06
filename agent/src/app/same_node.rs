//! Keeps the kernel's part of balancing and policy in step with the snapshot, and decides whether it may have one.
//!
//! It may while every pod of the node is guarded against sending in another's name. What the kernel decides is worked out
//! by `weft_core::same_node`; here it is asked again when something it depends on has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Instant;

use weft_core::model::Workload;
use weft_core::policy::Sources;
use weft_core::same_node::{Local, same_node};
use weft_core::snapshot::Snapshot;

use super::parts::Parts;
use super::pods::Pods;
use crate::direct::Known;
use crate::sandbox::Finder;
use crate::steer::{GuardedPod, SteerError};
use crate::sys::NetNs;

/// Endpoints of one service port that the kernel's table holds.
const CHOICES: usize = weft_abi::Frontend::CHOICES;

/// What the kernel was told last depends on these: the snapshot, balancing, the pods, and whether it is on.
type Basis = (u64, u64, BTreeSet<u64>, bool);

/// The same-node fast path of this node.
pub(super) struct SameNode {
    wanted: bool,
    /// Numbers of pods, by cookie.
    numbers: BTreeMap<u64, u32>,
    told: Option<Basis>,
    /// Why it is off, if it is.
    off: Option<String>,
}

impl SameNode {
    pub(super) fn new(wanted: bool) -> Self {
        Self { wanted, numbers: BTreeMap::new(), told: None, off: None }
    }

    /// `on`, or `off` and why.
    pub(super) fn status(&self) -> String {
        match &self.off {
            None => "on".into(),
            Some(reason) => format!("off: {reason}"),
        }
    }

    /// Has the kernel follow `snapshot`. Cheap when nothing changed.
    pub(super) async fn sync(&mut self, parts: &Parts, pods: &Pods, snapshot: &Snapshot, disabled: bool) {
        if let Err(error) = self.try_sync(parts, pods, snapshot, disabled).await {
            // What it was told stays in force; to tell it nothing new would leave policy behind.
            self.told = None;
            tracing::error!(%error, "the same-node fast path cannot follow the configuration");
        }
    }

    async fn try_sync(
        &mut self,
        parts: &Parts,
        pods: &Pods,
        snapshot: &Snapshot,
        disabled: bool,
    ) -> Result<(), SteerError> {
        let off = self.obstacle(parts, pods, snapshot, disabled).await?;
        if off != self.off || self.told.is_none() {
            match &off {
                None => tracing::info!("the same-node fast path is on"),
                Some(reason) if self.wanted => tracing::warn!(reason, "the same-node fast path is off"),
                Some(_) => {}
            }
        }
        self.off = off;
        let cookies: BTreeSet<u64> = pods.enrolled.values().map(|enrolled| enrolled.pod.netns.cookie()).collect();
        let basis = (snapshot.generation(), parts.outbound.balancers.changes(), cookies, self.off.is_none());
        if self.told.as_ref() == Some(&basis) {
            // Off, and told so before: what follows connections goes with the last of them.
            return if self.off.is_some() { parts.steering.retire_same_node() } else { Ok(()) };
        }
        self.number(parts, &basis.2);
        let locals = self.locals(pods, snapshot);
        let plan = match self.off {
            None => same_node(snapshot, &locals, &parts.outbound.balancers, CHOICES, Instant::now()),
            Some(_) => weft_core::same_node::SameNode::default(),
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
    async fn obstacle(
        &self,
        parts: &Parts,
        pods: &Pods,
        snapshot: &Snapshot,
        disabled: bool,
    ) -> Result<Option<String>, SteerError> {
        if !self.wanted {
            parts.steering.guard(&[]).await?;
            return Ok(Some("it is not asked for (--fast-path)".into()));
        }
        if disabled || pods.enrolled.is_empty() {
            parts.steering.guard(&[]).await?;
            return Ok(Some("no pod of this node is enrolled".into()));
        }
        let (mut guarded, mut unknown) = (Vec::new(), Vec::new());
        for workload in snapshot.workloads_on(&parts.node).filter(|w| !w.host_network && !w.addresses.is_empty()) {
            match netns_of(workload, pods, &parts.finder) {
                Ok(Some((netns, enrolled))) => {
                    let protects = if enrolled { workload.addresses.clone() } else { Vec::new() };
                    guarded.push(GuardedPod { name: workload.name.to_string(), netns, protects });
                }
                // A namespace that is not there sends nothing.
                Ok(None) => {}
                Err(reason) => unknown.push(format!("{}: {reason}", workload.name)),
            }
        }
        unknown.extend(parts.steering.guard(&guarded).await?);
        Ok((!unknown.is_empty()).then(|| format!("pods that cannot be guarded: {}", unknown.join("; "))))
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

/// A pod's namespace and whether it is enrolled; `None` where there is none.
fn netns_of(workload: &Workload, pods: &Pods, finder: &Finder) -> Result<Option<(Arc<NetNs>, bool)>, String> {
    if let Some(enrolled) = pods.enrolled.get(&workload.uid) {
        return Ok(Some((Arc::clone(&enrolled.pod.netns), true)));
    }
    let path = finder.path(workload)?;
    match NetNs::open(&path) {
        Ok(netns) => Ok(Some((netns, false))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{} cannot be opened: {error}", path.display())),
    }
}
