//! The accept loops of one enrolled pod.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_abi::ListenerRole;

use super::parts::Parts;
use super::reach::Finding;
use crate::accept::{Ended, accept};
use crate::pod::Pod;

/// What happens to pods between two reconciles.
#[derive(Debug)]
pub(super) enum PodEvent {
    /// A listener was destroyed under the agent.
    ListenerLost(Arc<str>),
    /// The last connection of a leaving pod has ended and its netns is as it was.
    Left { uid: Arc<str>, cookie: u64 },
    /// It was looked whether peers can reach the pod's tunnel port.
    Looked { pod: Arc<Pod>, finding: Finding },
}

/// A pod's accept loops.
pub(super) struct Served {
    /// Ends the loops.
    stop: CancellationToken,
    /// Tells the pod's tunnels to take no more connections.
    leaving: CancellationToken,
    loops: TaskTracker,
    pod: Arc<Pod>,
    parts: Arc<Parts>,
    events: mpsc::UnboundedSender<PodEvent>,
    /// Roles whose listener was lost and not yet replaced; one report each is enough.
    lost: Arc<Mutex<Vec<ListenerRole>>>,
}

impl Served {
    pub(super) fn new(parts: Arc<Parts>, pod: Arc<Pod>, events: mpsc::UnboundedSender<PodEvent>) -> Self {
        // Draining the agent drains every tunnel, but goes on accepting for a moment: two tokens.
        let leaving = parts.inbound.drain.draining().child_token();
        let stop = parts.inbound.drain.stopped().child_token();
        Self { stop, leaving, loops: TaskTracker::new(), pod, parts, events, lost: Arc::default() }
    }

    /// Accepts from `listener` until told to stop.
    pub(super) fn accept(&self, role: ListenerRole, listener: std::net::TcpListener) -> std::io::Result<()> {
        let home = self.parts.outbound.workers.home();
        let listener = {
            let _home = home.enter();
            TcpListener::from_std(listener)?
        };
        let (parts, pod) = (Arc::clone(&self.parts), Arc::clone(&self.pod));
        let (stop, leaving) = (self.stop.clone(), self.leaving.clone());
        let (events, lost) = (self.events.clone(), Arc::clone(&self.lost));
        let accepting = async move {
            let ended = match role {
                ListenerRole::Outbound => {
                    accept(&listener, &stop, |tcp, from| parts.outbound.serve(&pod, tcp, from)).await
                }
                ListenerRole::Inbound => {
                    accept(&listener, &stop, |tcp, from| parts.inbound.serve(&pod, tcp, from, &leaving)).await
                }
            };
            if let Ended::Lost(error) = ended {
                tracing::warn!(pod = %pod.name, ?role, %error, "a listening socket was destroyed from inside the pod; making another");
                lost.lock().unwrap_or_else(PoisonError::into_inner).push(role);
                let _ = events.send(PodEvent::ListenerLost(pod.uid.clone()));
            }
        };
        self.loops.spawn_on(accepting, home);
        Ok(())
    }

    /// Makes new listeners for those that were destroyed.
    pub(super) async fn recreate_lost(&self) {
        let lost = std::mem::take(&mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner));
        for role in lost {
            let made = self.parts.steering.recreate_listener(self.pod.netns.cookie(), role).await;
            let accepting =
                made.map_err(|e| e.to_string()).and_then(|l| self.accept(role, l).map_err(|e| e.to_string()));
            if let Err(error) = accepting {
                tracing::error!(pod = %self.pod.name, ?role, error, "cannot replace a destroyed listener");
                self.lost.lock().unwrap_or_else(PoisonError::into_inner).push(role);
            }
        }
    }

    /// Ends the loops, after they have taken what is queued, and waits for them.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.loops.close();
        self.loops.wait().await;
    }

    /// Has the pod's tunnels take no more connections and close after the last one.
    pub(super) fn drain_tunnels(&self) {
        self.leaving.cancel();
    }
}

/// A pod that is enrolled anew, before it had left, gets new loops: the old ones must not go on holding listeners.
impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
