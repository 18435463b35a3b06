//! Whether the agent's own DaemonSet is still there: an agent that is told to stop asks once, and where nobody is to come
//! after it, it takes its pods out of the mesh instead of leaving them steered to listeners that nobody serves.
//!
//! Only an installation that was seen once can be found removed. A server that does not answer, or never let this agent
//! look, leaves everything as it stands: a successor finds it so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::Client;
use serde_json::Value;
use weft_core::model::ObjectName;

/// Time for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Pause before the API server is asked again for what it did not answer.
const AGAIN: Duration = Duration::from_secs(10);

/// The DaemonSet an agent belongs to.
#[derive(Clone)]
pub struct Installation {
    client: Client,
    path: Arc<str>,
    seen: Arc<AtomicBool>,
}

impl std::fmt::Debug for Installation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Installation").field("path", &self.path).field("seen", &self.seen).finish_non_exhaustive()
    }
}

/// What an answer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    Stands,
    Going,
    /// The role that allowed it is gone, or there never was one.
    Refused,
    /// None, or one that says nothing about it.
    None,
}

impl Installation {
    /// The DaemonSet of this name; begins to look for it.
    #[must_use]
    pub fn of(client: Client, name: &ObjectName) -> Self {
        let path = format!("/apis/apps/v1/namespaces/{}/daemonsets/{}", name.namespace, name.name);
        let installation = Self { client, path: path.into(), seen: Arc::default() };
        tokio::spawn(installation.clone().find());
        installation
    }

    /// Asks until there is an answer.
    async fn find(self) {
        loop {
            match self.ask().await {
                Answer::Stands => return self.seen.store(true, Ordering::Relaxed),
                Answer::Going => return,
                Answer::Refused => {
                    return tracing::warn!(
                        path = &*self.path,
                        "may not look at its own DaemonSet: once that is deleted, `weft disable` has to be run on every node"
                    );
                }
                Answer::None => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    /// Whether it was there and has been removed, or is being removed now.
    pub async fn is_gone(&self) -> bool {
        self.seen.load(Ordering::Relaxed) && judge(self.ask().await)
    }

    async fn ask(&self) -> Answer {
        let Ok(request) = http::Request::get(&*self.path).body(Vec::new()) else { return Answer::None };
        match tokio::time::timeout(ANSWER, self.client.request::<Value>(request)).await {
            Ok(Ok(object)) if object["metadata"]["deletionTimestamp"].is_null() => Answer::Stands,
            Ok(Ok(_)) => Answer::Going,
            Ok(Err(kube::Error::Api(status))) => match status.code {
                404 => Answer::Going,
                401 | 403 => Answer::Refused,
                _ => Answer::None,
            },
            Ok(Err(_)) | Err(_) => Answer::None,
        }
    }
}

/// Of an installation that was seen. Its roles and accounts are deleted right after it: who may no longer look is looking
/// at a removal.
fn judge(answer: Answer) -> bool {
    matches!(answer, Answer::Going | Answer::Refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_no_removal() {
        assert!(judge(Answer::Going) && judge(Answer::Refused));
        assert!(!judge(Answer::Stands) && !judge(Answer::None));
    }
}
