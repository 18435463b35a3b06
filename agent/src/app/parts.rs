//! What the node's task works with; made once by [`super::run`].

use std::sync::Arc;
use std::time::Duration;

use crate::direct::Direct;
use crate::identity::Identities;
use crate::inbound::Inbound;
use crate::live::Live;
use crate::outbound::Outbound;
use crate::sandbox::Finder;
use crate::steer::Steering;
use crate::telemetry::Metrics;
use weft_control::standing::Publisher;
use weft_core::model::Name;

pub(super) struct Parts {
    /// This node's name.
    pub(super) node: Arc<str>,
    /// The namespace the mesh itself is in.
    pub(super) namespace: Name,
    pub(super) steering: Steering,
    pub(super) identities: Arc<Identities>,
    pub(super) outbound: Arc<Outbound>,
    pub(super) inbound: Arc<Inbound>,
    pub(super) live: Arc<Live>,
    pub(super) direct: Arc<Direct>,
    pub(super) metrics: Metrics,
    /// Where pods' network namespaces are.
    pub(super) finder: Finder,
    /// Where it is published how the pods of this node stand.
    pub(super) publisher: Publisher,
    /// How long 15008 is served after a pod has left.
    pub(super) grace: Duration,
    /// How often it is looked whether peers can reach the pods' tunnel ports; zero for never.
    pub(super) reach_every: Duration,
}

impl Parts {
    /// New SYNs of the pod are no longer the mesh's.
    pub(super) async fn detach(&self, cookie: u64) {
        if let Err(error) = self.steering.detach(cookie).await {
            tracing::error!(cookie, %error, "cannot stop taking the pod's inbound connections");
        }
    }

    /// A netns that is not enrolled is gone.
    pub(super) async fn forget(&self, cookie: u64) {
        if let Err(error) = self.steering.forget(cookie).await {
            tracing::debug!(cookie, %error, "cannot forget a network namespace");
        }
    }

    /// All stages of un-enrolment at once, for a pod no process of this agent serves.
    pub(super) async fn take_back(&self, cookie: u64) {
        let stages = async {
            self.steering.withdraw(cookie).await?;
            self.steering.detach(cookie).await?;
            self.steering.restore(cookie).await
        };
        if let Err(error) = stages.await {
            tracing::error!(cookie, %error, "cannot restore a network namespace");
        }
    }
}
