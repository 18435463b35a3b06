//! What the agent writes on the Pods of its node: `weft.dev/status`, and an Event for one that cannot be enrolled.
//!
//! The annotation is how peers learn whom they may reach by mTLS, so it says `enrolled` only of a pod that is served, and
//! is taken back as soon as it is not. A pod that is waiting is left alone for a moment first: after the restart of an
//! agent its pods are served by the held sockets all the while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::json;
use tokio::sync::watch;

use super::live::{Here, Observed};
use crate::resource::STATUS_ANNOTATION;
use crate::standing::{Standing, Standings};

/// How long a pod has to wait before that is written on it.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often waiting pods and failed writes are looked at again.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest pause between attempts while writes fail.
const PAUSE: Duration = Duration::from_secs(15);
/// Time for one write.
const ANSWER: Duration = Duration::from_secs(10);
/// The longest reason that is written.
const REASON_MAX: usize = 512;

/// What stood on a pod when it was written on, and what was written.
struct Written {
    over: Option<Box<str>>,
    text: Option<String>,
}

/// Keeps the Pods of this node marked.
pub(super) struct Writer {
    client: Client,
    node: Arc<str>,
    standings: watch::Receiver<Option<Standings>>,
    here: watch::Receiver<Arc<Here>>,
    /// What was written and is not seen yet.
    written: HashMap<Arc<str>, Written>,
    /// Reasons reported as Events, by pod.
    reported: HashMap<Arc<str>, String>,
    failures: u32,
}

impl Writer {
    pub(super) fn new(
        client: Client,
        node: Arc<str>,
        standings: watch::Receiver<Option<Standings>>,
        here: watch::Receiver<Arc<Here>>,
    ) -> Self {
        Self { client, node, standings, here, written: HashMap::new(), reported: HashMap::new(), failures: 0 }
    }

    /// Runs until nobody publishes any more.
    pub(super) async fn run(mut self) {
        loop {
            let (standings, here) = (self.standings.borrow_and_update().clone(), self.here.borrow_and_update().clone());
            let Some(standings) = standings else {
                if self.standings.changed().await.is_err() {
                    return;
                }
                continue;
            };
            self.written.retain(|uid, _| here.contains_key(uid));
            self.reported.retain(|uid, _| here.contains_key(uid));
            let settled = self.mark_all(&standings, &here).await;
            self.failures = if settled { 0 } else { self.failures + 1 };
            let waiting = standings.values().any(|standing| matches!(standing, Standing::Pending { .. }));
            let pause = if settled { AGAIN } else { (AGAIN * 2_u32.pow(self.failures.min(8) - 1)).min(PAUSE) };
            tokio::select! {
                changed = self.standings.changed(), if settled => if changed.is_err() { return },
                changed = self.here.changed(), if settled => if changed.is_err() { return },
                () = tokio::time::sleep(pause), if waiting || !settled => {}
            }
        }
    }

    /// Writes what is not written yet; `false` if something could not be.
    async fn mark_all(&mut self, standings: &Standings, here: &Here) -> bool {
        let mut settled = true;
        for (uid, observed) in here {
            let seen = &observed.status;
            let now = match self.written.get(uid) {
                Some(Written { over, text }) if over == seen => text.as_deref(),
                _ => seen.as_deref(),
            };
            let Some(wanted) = text(standings.get(uid), now, Instant::now()) else { continue };
            if wanted.as_deref() != now {
                let done = self.mark(uid, observed, wanted.as_deref()).await;
                settled &= done;
                if done {
                    self.written.insert(uid.clone(), Written { over: seen.clone(), text: wanted.clone() });
                }
            }
            match complaint(standings.get(uid), wanted) {
                None => _ = self.reported.remove(uid),
                Some(complaint) if self.reported.get(uid) != Some(&complaint.1) => {
                    settled &= self.report(uid, observed, &complaint).await;
                    self.reported.insert(uid.clone(), complaint.1);
                }
                Some(_) => {}
            }
        }
        settled
    }

    async fn mark(&self, uid: &str, pod: &Observed, status: Option<&str>) -> bool {
        // By its status: whoever may only patch that cannot change what the pod runs.
        let path = format!("/api/v1/namespaces/{}/pods/{}/status", pod.object.namespace, pod.object.name);
        // With another UID it is another pod by now, and the API server refuses.
        let body = json!({"metadata": {"uid": uid, "annotations": {STATUS_ANNOTATION: status}}});
        let request = http::Request::patch(path)
            .header("content-type", "application/merge-patch+json")
            .body(body.to_string().into_bytes());
        self.send(request, &format!("{} {}", STATUS_ANNOTATION, pod.object)).await
    }

    async fn report(&self, uid: &str, pod: &Observed, (reason, message): &Complaint) -> bool {
        let now = Timestamp::now();
        let object = &pod.object;
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", object.name.chars().take(200).collect::<String>(), now.as_nanosecond())),
                namespace: Some(object.namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(object.name.clone()),
                namespace: Some(object.namespace.clone()),
                uid: Some(uid.to_owned()),
                ..ObjectReference::default()
            },
            type_: Some("Warning".into()),
            reason: Some((*reason).into()),
            message: Some(message.clone()),
            source: Some(EventSource { component: Some("weft-agent".into()), host: Some(self.node.to_string()) }),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..Event::default()
        };
        let Ok(mut body) = serde_json::to_value(&event) else { return true };
        (body["apiVersion"], body["kind"]) = ("v1".into(), "Event".into());
        let request = http::Request::post(format!("/api/v1/namespaces/{}/events", object.namespace))
            .header("content-type", "application/json")
            .body(body.to_string().into_bytes());
        self.send(request, &format!("an Event about {object}")).await
    }

    /// Sends a write. One that was refused for good (the pod has gone, or is another) counts as done.
    async fn send(&self, request: Result<http::Request<Vec<u8>>, http::Error>, what: &str) -> bool {
        let Ok(request) = request else { return true };
        let answer = tokio::time::timeout(ANSWER, self.client.request::<serde_json::Value>(request)).await;
        let error = match answer {
            Ok(Ok(_)) => return true,
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409 | 422) => {
                tracing::debug!(what, %status, "not written: the pod is no longer what it was");
                return true;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", ANSWER.as_secs()),
        };
        if self.failures == 0 {
            tracing::warn!(what, error, "cannot be written; trying again");
        }
        false
    }
}

/// The reason of an Event, in one word, and its message.
type Complaint = (&'static str, String);

/// What is to be told of a pod on which `wanted` is written, if anything is wrong with it.
fn complaint(standing: Option<&Standing>, wanted: Option<String>) -> Option<Complaint> {
    match standing {
        Some(Standing::Unreachable(reason)) => Some(("Unreachable", reason.chars().take(REASON_MAX).collect())),
        _ => wanted.filter(|text| text != Standing::ENROLLED).map(|text| ("NotEnrolled", text)),
    }
}

/// What is to be written on a pod: nothing (`Some(None)`), a text, or what stands there (`None`), for now.
fn text(standing: Option<&Standing>, now: Option<&str>, at: Instant) -> Option<Option<String>> {
    let short = |text: String| text.chars().take(REASON_MAX).collect::<String>();
    match standing {
        None => now.is_some().then_some(None),
        Some(Standing::Enrolled | Standing::Unreachable(_)) => Some(Some(Standing::ENROLLED.to_owned())),
        Some(Standing::Pending { since, .. }) if at.saturating_duration_since(*since) < PATIENCE => None,
        Some(Standing::Pending { reason, .. } | Standing::Withheld(reason)) => {
            Some(Some(short(format!("pending: {reason}"))))
        }
        Some(Standing::Refused(reason)) => Some(Some(short(format!("not enrolled: {reason}")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_left_alone_for_a_moment_before_it_is_said_to_wait() {
        let since = Instant::now();
        let pending = Standing::Pending { reason: "no certificate".into(), since };
        assert_eq!(text(Some(&pending), Some("enrolled"), since), None);
        let later = since + PATIENCE;
        assert_eq!(text(Some(&pending), Some("enrolled"), later), Some(Some("pending: no certificate".into())));
    }

    #[test]
    fn what_is_not_asked_into_the_mesh_carries_no_word_of_it() {
        let now = Instant::now();
        assert_eq!(text(None, None, now), None);
        assert_eq!(text(None, Some("enrolled"), now), Some(None));
        assert_eq!(text(Some(&Standing::Enrolled), None, now), Some(Some("enrolled".into())));
        let refused = Standing::Refused("hostNetwork".into());
        assert_eq!(text(Some(&refused), None, now), Some(Some("not enrolled: hostNetwork".into())));
    }
}
