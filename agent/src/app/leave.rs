//! A pod's way out of the mesh, in the order that leaves its open connections alone.
//!
//! First no new connection of its own is taken; 15008 is still served until peers can know, and for a grace period more;
//! then the lookup program and the listeners go; and when its last proxied connection has ended, the rule, the route and
//! the sysctls are as they were. A pod that is dead skips the waiting.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use weft_core::model::Identity;

use super::parts::Parts;
use super::serve::{PodEvent, Served};
use crate::pod::Pod;

/// How often a leaving pod's open connections are counted.
const COUNT_EVERY: Duration = Duration::from_millis(50);

/// A pod on its way out.
pub(super) struct Leaving {
    pub(super) cookie: u64,
    pub(super) identity: Identity,
    dead: bool,
    task: JoinHandle<()>,
}

impl Leaving {
    /// The pod is wanted again: stop where it is. What is still open of it keeps running. But of a netns that is gone
    /// nothing can be kept, and all of it must be let go before another takes its place.
    pub(super) async fn cancel(self, parts: &Parts) {
        if self.dead {
            let _ = self.task.await;
            return;
        }
        self.task.abort();
        let _ = self.task.await;
        parts.detach(self.cookie).await;
    }
}

/// Takes `pod` out of the mesh in a task of its own, which reports [`PodEvent::Left`].
pub(super) async fn begin(
    parts: Arc<Parts>,
    pod: Arc<Pod>,
    served: Served,
    dead: bool,
    events: mpsc::UnboundedSender<PodEvent>,
) -> Leaving {
    let (cookie, identity) = (pod.netns.cookie(), pod.identity.clone());
    // Before the task runs: from here on, no new connection is the mesh's.
    if let Err(error) = parts.steering.withdraw(cookie).await {
        tracing::error!(pod = %pod.name, %error, "cannot stop steering the pod");
    }
    let task = tokio::spawn(async move {
        leave(&parts, &pod, &served, dead).await;
        let uid = pod.uid.clone();
        drop((pod, served));
        // What is gone needs no restoring, and must not stay known: the map of namespaces would fill up.
        let restored = if dead { parts.steering.forget(cookie).await } else { parts.steering.restore(cookie).await };
        if let Err(error) = restored {
            tracing::error!(pod = %uid, %error, "cannot restore the pod's network namespace");
        }
        let _ = events.send(PodEvent::Left { uid, cookie });
    });
    Leaving { cookie, identity, dead, task }
}

async fn leave(parts: &Parts, pod: &Pod, served: &Served, dead: bool) {
    let cookie = pod.netns.cookie();
    if !dead {
        parts.publisher.withdrawn(&pod.uid).await;
        tokio::time::sleep(parts.grace).await;
    }
    parts.detach(cookie).await;
    served.stop().await;
    served.drain_tunnels();
    parts.outbound.http.leave(cookie);
    parts.outbound.dialer.pool.leave(cookie);
    if dead {
        parts.live.kill_pod(&pod.uid);
    }
    while parts.live.count(&pod.uid) > 0 {
        tokio::time::sleep(COUNT_EVERY).await;
    }
}
