//! What nobody reports, and is looked for once a second.

use std::time::{Duration, Instant};

use weft_control::kubernetes::{Health, WatchState};
use weft_control::manifests::{Problem, Severity};
use weft_control::resource::Kind;

use super::node::Node;
use crate::{config, sys};

/// Every so many looks the pages of code are let go that were used since: takes some milliseconds. While everything is read
/// for the first time, at every look. More often gains nothing: what is used is back within 10 ms.
const LET_CODE_GO_EVERY: u32 = 15;
/// Every so many looks series of workloads that are gone are looked for, which takes a look at all workloads.
const SWEEP_EVERY: u32 = 30;
/// How long the watch of pods may be broken off until the agent counts as deaf to new ones.
const DEAF: Duration = Duration::from_secs(30);

impl Node {
    /// What the source says of single objects, and the review of all of them together.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let alone = self.source.problems.borrow().clone();
        let clock = self.clock.clone().map(|reason| Problem {
            file: self.config.source.name().into(),
            line: None,
            severity: Severity::Warning,
            object: None,
            reason,
        });
        alone.iter().chain(&*self.reviewer.problems()).cloned().chain(clock).collect()
    }

    pub(super) fn count_problems(&self) {
        self.parts.metrics.config_problems(&self.problems());
    }

    pub(super) async fn look(&mut self) {
        if self.settled && self.reviewer.look(&self.store.snapshot(), Instant::now()) {
            self.count_problems();
        }
        self.look_at_clock();
        self.look_for_deafness(Instant::now());
        self.parts.live.flush();
        self.looks = self.looks.wrapping_add(1);
        if self.looks.is_multiple_of(SWEEP_EVERY) {
            self.parts.metrics.sweep(&self.store.snapshot(), Instant::now());
        }
        let late = std::mem::take(&mut self.judged_lately);
        self.judge_kernel(&self.store.snapshot(), &late);
        self.reconcile().await;
        self.remark_staleness();
        self.give_memory_back();
    }

    /// An agent that does not hear of new pods holds none: it would hold those that replace the cluster's DNS, too.
    fn look_for_deafness(&mut self, now: Instant) {
        let Some(health) = &self.cluster else { return };
        let broken =
            matches!(health.watches().get(&Kind::Pod), Some(watch) if matches!(watch.state, WatchState::Stale(_)));
        self.deaf_since = broken.then(|| self.deaf_since.unwrap_or(now));
        let deaf = self.deaf_since.is_some_and(|since| now.saturating_duration_since(since) >= DEAF);
        let closed = self.config.unclassified == config::Unclassified::Closed;
        if self.parts.steering.set_hearing(!deaf) && deaf && closed {
            tracing::warn!("new pods are not heard of: none is held before it is in the mesh until they are");
        }
    }

    /// Says so when this node's clock and the API server's are far apart, and when they no longer are.
    fn look_at_clock(&mut self) {
        let complaint = self.cluster.as_ref().and_then(Health::clock_complaint);
        if complaint.is_some() == self.clock.is_some() {
            return;
        }
        match &complaint {
            Some(complaint) => tracing::warn!("{complaint}"),
            None => tracing::info!("this node's clock and the API server's agree again"),
        }
        self.clock = complaint;
        self.count_problems();
    }

    /// An API server that is away makes nothing unready: what is known is served. But before anything is known, whoever asks
    /// why is to read it.
    fn remark_staleness(&self) {
        let stale = self.cluster.as_ref().and_then(|health| health.stale(Instant::now()));
        let remark = match stale {
            _ if !self.settled => self.problems().first().map(ToString::to_string),
            Some(stale) => Some(format!("kubernetes: changes of the last {} s may be missing", stale.as_secs())),
            None => self.clock.clone(),
        };
        self.readiness.remark(remark);
    }

    /// Enrolling pods takes far more memory than serving them. Given back when it is done, and again when what follows it is.
    fn give_memory_back(&mut self) {
        const AGAIN_AFTER: u32 = 3;
        if !self.settled || self.looks.is_multiple_of(LET_CODE_GO_EVERY) {
            sys::memory::let_code_go();
        }
        if !self.settled || !self.pods.pending.is_empty() {
            return;
        }
        let enrolled = self.pods.enrolled.len();
        let looks = match self.trimmed {
            Some((pods, looks)) if pods == enrolled => looks.saturating_add(1),
            _ => 0,
        };
        self.trimmed = Some((enrolled, looks));
        if matches!(looks, 0 | AGAIN_AFTER) {
            sys::memory::let_go();
        }
    }
}
