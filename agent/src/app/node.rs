//! The node's one task: whatever changes, it sees to it that the kernel, the pods and what is published follow.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use weft_core::snapshot::{Delta, Key, Resource, Snapshot};

use super::addresses::NodeAddresses;
use super::orders::Waiting;
use super::parts::Parts;
use super::pods::Pods;
use super::same_node::SameNode;
use super::serve::PodEvent;
use crate::admin::{AdminRequest, Reply, Transition};
use crate::config::Config;
use crate::steer::Events;
use crate::sys;
use crate::telemetry::Readiness;
use weft_control::kubernetes::Health;
use weft_control::review::Reviewer;
use weft_control::{Batch, Source, Store};

/// How often is looked for what nobody reports: a netns made anew, a certificate renewed, bytes to be counted.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why the task ended.
pub(super) enum Stop {
    /// SIGTERM or SIGINT.
    Signal,
    /// A successor has taken over; it is answered once steering is released.
    Handover(Reply<Transition>),
    /// A source or socket the agent cannot work without has gone.
    Broken(&'static str),
}

pub(super) struct Node {
    pub(super) config: Config,
    pub(super) parts: Arc<Parts>,
    pub(super) store: Arc<Store>,
    pub(super) source: Source,
    /// How fresh what is known of the cluster is, if there is one.
    pub(super) cluster: Option<Health>,
    /// Sees how objects fit together.
    pub(super) reviewer: Reviewer,
    pub(super) readiness: Readiness,
    pub(super) pods: Pods,
    pub(super) pod_events: mpsc::UnboundedReceiver<PodEvent>,
    pub(super) hook_events: Events,
    pub(super) addresses: NodeAddresses,
    pub(super) requests: mpsc::Receiver<AdminRequest>,
    /// The mesh is switched off on this node.
    pub(super) disabled: bool,
    /// The kernel holds the destinations of the snapshot in force, all of them.
    pub(super) told: bool,
    /// How often it has been looked for what nobody reports.
    pub(super) looks: u32,
    /// The configuration has been read once.
    pub(super) settled: bool,
    /// What a predecessor left has been taken over or back.
    pub(super) cleared: bool,
    /// How many pods were enrolled when memory was last given back, and how many looks ago.
    pub(super) trimmed: Option<(usize, u32)>,
    /// Since when the watch of pods is broken off.
    pub(super) deaf_since: Option<Instant>,
    /// What was last said of the node's clock.
    pub(super) clock: Option<String>,
    pub(super) same_node: SameNode,
    /// Pods whose connections the kernel passed are judged once more, a moment after policy changed: handshakes that
    /// were under way have become connections by then.
    pub(super) judged_lately: BTreeSet<Arc<str>>,
    /// Who waits for the last pod to have left.
    pub(super) waiting: Vec<Waiting>,
    pub(super) started: Instant,
}

impl Node {
    /// Runs until something ends it.
    pub(super) async fn run(&mut self) -> Stop {
        let (Ok(mut term), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return Stop::Broken("signals cannot be received");
        };
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let unguarded = self.same_node.due();
            tokio::select! {
                batch = self.source.deltas.recv() => match batch {
                    Some(batch) => self.changed(batch).await,
                    None => return Stop::Broken("the configuration is no longer followed"),
                },
                Ok(()) = self.source.problems.changed() => {
                    self.count_problems();
                }
                Some(event) = self.pod_events.recv() => {
                    self.heard(event).await;
                    self.reconcile().await;
                }
                Some(_) = self.hook_events.next() => self.reconcile().await,
                () = self.addresses.changed() => self.addresses.read(&self.parts.steering).await,
                () = self.same_node.links_changed() => match self.pods.seek.begin(Instant::now()) {
                    true => self.reconcile().await,
                    false => self.sync_same_node().await,
                },
                () = until(unguarded) => self.sync_same_node().await,
                () = until(self.pods.seek.due()) => if self.pods.seek.look(&self.parts.finder, Instant::now()) {
                    self.reconcile().await;
                },
                _ = look.tick() => self.look().await,
                () = until(self.pods.next_retry()) => self.reconcile().await,
                request = self.requests.recv() => match request {
                    Some(AdminRequest::Handover(reply)) => return Stop::Handover(reply),
                    Some(request) => self.answer(request).await,
                    None => return Stop::Broken("the admin socket is gone"),
                },
                _ = received(&mut term, &mut interrupt) => return Stop::Signal,
            }
        }
    }

    /// Of a pod's tasks, and of all that wait to be heard: when a node's pods are enrolled each of them has something to say.
    async fn heard(&mut self, event: PodEvent) {
        let snapshot = self.store.snapshot();
        self.pods.handle(event, &snapshot).await;
        for _ in 0..self.pod_events.len() {
            if let Ok(event) = self.pod_events.try_recv() {
                self.pods.handle(event, &snapshot).await;
            }
        }
    }

    /// Applies a batch of changes: first what lets traffic through safely, then who is enrolled, last who must be cut off.
    async fn changed(&mut self, Batch { deltas: mut batch, whole }: Batch) {
        let known = self.store.snapshot();
        batch.retain(|delta| !known.knows(delta));
        if batch.is_empty() && (self.settled || !whole) {
            return;
        }
        if !whole {
            self.store.apply(batch);
            return;
        }
        let first = !std::mem::replace(&mut self.settled, true);
        if first {
            // Memory is at its height: what read everything is not needed while pods are enrolled, which takes other code, nor
            // what enrolled them after that.
            sys::memory::let_go();
        }
        let own = first || batch.iter().any(|delta| concerns(delta, &known, &self.parts.node));
        let near = own || batch.iter().any(|delta| self.same_node.is_concerned(delta, &known));
        let (before, after) = self.store.apply(batch);
        self.parts.outbound.balancers.sync(&after);
        self.parts.outbound.http.sync(&after);
        self.parts.outbound.detected.sync(&after);
        self.parts.outbound.checks.sync();
        self.parts.metrics.snapshot_generation(after.generation());
        self.tell_destinations(&before, &after);
        if first {
            sys::memory::let_go();
        }
        if own {
            self.pods.changes += 1;
            self.pods.seek.begin(Instant::now());
            self.reconcile().await;
        } else if near {
            self.sync_same_node().await;
        }
        if first {
            sys::memory::let_go();
            // What a predecessor let in was judged by what it knew.
            self.judge_again(&Snapshot::new(after.trust_domain().clone()), &after);
            self.readiness.set(self.config.source.name(), true);
        } else {
            self.judge_again(&before, &after);
        }
    }

    /// Costs what has changed, except at first and as long as not all destinations fit.
    fn tell_destinations(&mut self, before: &Snapshot, after: &Snapshot) {
        let steering = &self.parts.steering;
        let told = if self.told {
            let (added, removed) = after.destination_changes(before);
            steering.change_destinations(added, removed)
        } else {
            steering.set_destinations(&after.destinations().collect())
        };
        self.told = told.unwrap_or_else(|error| {
            tracing::error!(%error, "cannot tell the kernel which destinations are the mesh's");
            false
        });
    }

    /// Takes every pod out of the mesh for good: nobody is to come after this agent. What is open may end until the drain
    /// deadline; what is left then is cut with everything else.
    pub(super) async fn retire(&mut self) {
        tracing::info!("its DaemonSet is gone: taking the node's pods out of the mesh");
        let deadline = Instant::now() + self.config.drain_deadline;
        self.disabled = true;
        self.reconcile().await;
        let mut look = tokio::time::interval(LOOK_EVERY);
        while !(self.pods.enrolled.is_empty() && self.pods.all_left()) {
            tokio::select! {
                Some(event) = self.pod_events.recv() => {
                    self.heard(event).await;
                    self.reconcile().await;
                }
                _ = look.tick() => self.look().await,
                () = tokio::time::sleep_until(deadline.into()) => break,
            }
        }
        self.config.drain_deadline = deadline.saturating_duration_since(Instant::now());
    }

    pub(super) async fn reconcile(&mut self) {
        if !self.settled {
            // Nothing is known yet: what a predecessor enrolled and published holds, unless the mesh is switched off.
            if self.disabled {
                self.pods.settle().await;
                self.answer_waiting(Instant::now());
            }
            return;
        }
        let snapshot = self.store.snapshot();
        self.pods.reconcile(&snapshot, self.is_off()).await;
        if !std::mem::replace(&mut self.cleared, true) {
            self.pods.settle().await;
        }
        self.sync_same_node().await;
        self.parts.metrics.pods(&self.pods.counts());
        for state in self.parts.identities.states() {
            if let Some(expiry) = state.not_after {
                self.parts.metrics.certificate(&state.identity, expiry);
            }
        }
        self.readiness.set("enrolment", !self.pods.hold_up());
        self.answer_waiting(Instant::now());
    }

    /// Has the kernel follow what concerns connections past the proxy, once what a predecessor left is dealt with.
    async fn sync_same_node(&mut self) {
        if self.cleared {
            self.same_node.sync(&self.parts, &self.pods, &self.store.snapshot(), self.is_off()).await;
        }
    }
}

/// Whether a change can concern who of this node's pods is enrolled, and how. Of a big cluster's changes few can.
fn concerns(delta: &Delta, known: &Snapshot, node: &str) -> bool {
    let was_here = |name| known.workload_named(name).is_some_and(|workload| *workload.node == *node);
    match delta {
        Delta::Put(Resource::Workload(workload)) => *workload.node == *node || was_here(&workload.name),
        Delta::Remove(Key::Workload(name)) => was_here(name),
        // Whether the mesh is on there.
        Delta::Put(Resource::Node(changed)) => *changed.name == *node,
        Delta::Remove(Key::Node(name)) => **name == *node,
        Delta::Put(Resource::Namespace(_) | Resource::AuthorizationPolicy(_) | Resource::PeerAuthentication(_))
        | Delta::Remove(Key::Namespace(_) | Key::AuthorizationPolicy(_) | Key::PeerAuthentication(_)) => true,
        // Where connections may go, which is looked up when they begin.
        Delta::Put(
            Resource::Liveness(_)
            | Resource::Peers(_)
            | Resource::Service(_)
            | Resource::EndpointSlice(_)
            | Resource::TcpRoute(_)
            | Resource::HttpRoute(_)
            | Resource::ReferenceGrant(_)
            | Resource::TrafficPolicy(_),
        )
        | Delta::Remove(
            Key::Liveness(_)
            | Key::Peers(_)
            | Key::Service(_)
            | Key::EndpointSlice(_)
            | Key::TcpRoute(_)
            | Key::HttpRoute(_)
            | Key::ReferenceGrant(_)
            | Key::TrafficPolicy(_),
        ) => false,
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

async fn received(term: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
}
