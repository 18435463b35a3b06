//! A pod's way into the mesh: when it is tried, and again if it fails; and what is made for a pod on the way.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error};
use tokio::sync::Semaphore;
use weft_abi::ListenerRole;
use weft_core::model::Workload;
use weft_core::policy::plaintext_modes;
use weft_core::snapshot::Snapshot;

use super::pods::{Enrolled, Pending, Pods};
use super::reach::Reached;
use super::serve::Served;
use crate::identity::Unavailable;
use crate::pod::Pod;
use crate::sandbox::{Unfound, is_other};
use crate::steer::{InboundModes, PodNetwork, SteerError};
use crate::tunnel::HANDSHAKES_MAX;
use crate::tunnel::codec::{Claims, format_baggage};

/// First pause before a failed enrolment is tried again; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest pause between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(15);
/// How long an enrolment waits for the pod's first certificate before it is put off. Short: other pods wait meanwhile.
const CERTIFICATE_WAIT: Duration = Duration::from_millis(200);
/// How long a pod that nobody serves yet may keep its node from being ready.
const HOLDS_UP: Duration = Duration::from_secs(10);

impl Pods {
    /// Whether the node is not ready for a pod's sake: one that a predecessor served and this agent does not yet, or one
    /// that has only begun to wait. A pod that cannot be enrolled must not hold up the update of all nodes; that it waits is
    /// said on it, in metrics and in `weft status`.
    pub(super) fn hold_up(&self) -> bool {
        if self.pending.is_empty() {
            return false;
        }
        let adopted = self.parts.steering.adopted();
        let served_before = |uid: &str| adopted.iter().any(|entry| entry.uid == uid);
        self.pending.iter().any(|(uid, pending)| pending.since.elapsed() < HOLDS_UP || served_before(uid))
    }

    /// Enrols a pod that is wanted and is not yet, unless it failed a moment ago.
    pub(super) async fn enrol_if_due(&mut self, snapshot: &Snapshot, workload: &Arc<Workload>) {
        let uid = &workload.uid;
        if self.enrolled.contains_key(uid) || self.pending.get(uid).is_some_and(|p| p.retry > Instant::now()) {
            return;
        }
        match self.enrol(snapshot, workload).await {
            Ok(enrolled) => {
                tracing::info!(pod = %workload.name, identity = %enrolled.pod.identity, "enrolled");
                self.pending.remove(uid);
                let before = self.classified.remove(uid);
                if let Some(old) = before.filter(|old| *old != enrolled.pod.netns.cookie()) {
                    self.parts.forget(old).await;
                }
                self.enrolled.insert(uid.clone(), enrolled);
            }
            Err(error) => self.put_off(workload, &error),
        }
    }

    /// Notes that a pod is to be tried again. One whose namespace nobody has looked for has not failed yet.
    fn put_off(&mut self, workload: &Workload, error: &Error) {
        let before = self.pending.get(&workload.uid);
        let (attempts, since) = before.map_or_else(|| (0, Instant::now()), |pending| (pending.attempts, pending.since));
        let reason = format!("{error:#}");
        let unlooked = error.downcast_ref::<Unfound>().and_then(|unfound| unfound.again);
        let pending = if let Some(retry) = unlooked {
            Pending { reason, since, attempts, retry }
        } else {
            let attempts = attempts + 1;
            self.parts.metrics.enrolment_failed(label(error));
            tracing::warn!(pod = %workload.name, attempts, reason, "cannot enrol yet; trying again");
            let pause = RETRY_MIN.saturating_mul(1 << attempts.min(10)).min(RETRY_MAX);
            Pending { reason, since, attempts, retry: Instant::now() + pause }
        };
        self.pending.insert(workload.uid.clone(), pending);
    }

    async fn enrol(&mut self, snapshot: &Snapshot, workload: &Arc<Workload>) -> anyhow::Result<Enrolled> {
        let path = self.parts.finder.path(workload)?;
        let identity = snapshot.identity_of(workload);
        let deadline = tokio::time::Instant::now() + CERTIFICATE_WAIT;
        self.parts.identities.wait(&identity, deadline).await?;
        if let Some(leaving) = self.leaving.remove(&workload.uid) {
            let (cookie, gone) = (leaving.cookie, is_other(&path, leaving.cookie));
            leaving.cancel(&self.parts).await;
            if gone {
                // Its sandbox was made anew: what the old one still holds would stay for ever.
                self.parts.live.kill_pod(&workload.uid);
                self.parts.forget(cookie).await;
            }
        }
        let network = PodNetwork {
            uid: workload.uid.to_string(),
            netns: path.clone(),
            addresses: workload.addresses.clone(),
            avoid_ports: workload.declared_ports.clone(),
            modes: InboundModes::new(&plaintext_modes(snapshot, workload), &workload.probe_ports),
        };
        let steered = self.parts.steering.enrol(network).await.context("cannot steer the pod's connections")?;
        let pod = Arc::new(Pod {
            uid: workload.uid.clone(),
            name: workload.name.clone(),
            identity,
            netns: steered.netns,
            addresses: workload.addresses.clone().into(),
            baggage: baggage(workload),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            budget: Arc::default(),
            reached: AtomicBool::new(false),
        });
        let served = Served::new(Arc::clone(&self.parts), Arc::clone(&pod), self.events.clone());
        served.accept(ListenerRole::Outbound, steered.outbound)?;
        served.accept(ListenerRole::Inbound, steered.inbound)?;
        let reached = Reached::new(snapshot.is_live(workload), self.parts.reach_every);
        Ok(Enrolled { pod, path, served, reached })
    }
}

/// A failed enrolment as a metric label.
fn label(error: &Error) -> &'static str {
    if error.is::<Unfound>() {
        "no_namespace"
    } else if error.is::<Unavailable>() {
        "no_certificate"
    } else if error.is::<SteerError>() {
        "steering"
    } else {
        "other"
    }
}

/// What is told to peers of a pod, in the words Istio's tunnels use. A claim, for their traces; never believed.
fn baggage(workload: &Workload) -> Option<Arc<str>> {
    let claims = Claims {
        namespace: Some(workload.name.namespace.to_string()),
        workload: Some(("pod".into(), workload.name.name.to_string())),
        service: Some(workload.owner.to_string()),
        ..Claims::default()
    };
    Some(format_baggage(&claims).into())
}
