//! Copies of requests for whoever a rule says is to get one. What comes of them is nobody's concern, and nobody waits for them:
//! a copy that cannot keep up with its request is broken off, one too many is not made.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use weft_core::route::{ServicePortKey, takes_http2};

use super::endpoint::{Reached, Tries};
use super::exchange::Session;
use super::hop;
use super::record::Seen;
use super::upload::{Progress, Upload};
use super::wire::Lent;

/// Copies of a pod's requests under way at once.
const COPIES_MAX: usize = 256;
/// How long a copy may take: without an app that waits for it, nothing else would end it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Copies under way, by the network of the pod whose requests they are: nobody's take another's place.
#[derive(Debug, Default)]
pub(super) struct Copies(Mutex<HashMap<u64, usize>>);

/// A copy's place among those.
struct Place {
    copies: Arc<Copies>,
    network: u64,
}

impl Copies {
    fn counts(&self) -> MutexGuard<'_, HashMap<u64, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, network: u64) -> Option<Place> {
        let mut counts = self.counts();
        let count = counts.entry(network).or_default();
        (*count < COPIES_MAX).then(|| {
            *count += 1;
            Place { copies: Arc::clone(self), network }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.copies.counts().entry(self.network) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Has a copy of `request` sent to a service port.
pub(super) fn mirror(session: &Arc<Session>, request: &mut Request<Upload>, to: ServicePortKey) {
    let Some(place) = session.http.copies.enter(session.client.pod.netns.cookie()) else { return };
    let progress = Arc::new(Progress::default());
    let body = request.body_mut().copy(Arc::clone(&progress));
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = request.method().clone();
    head.uri = request.uri().clone();
    head.version = request.version();
    head.headers = request.headers().clone();
    let (session, copy) = (Arc::clone(session), Request::from_parts(head, body));
    tokio::spawn(async move {
        let sent = tokio::time::timeout(PATIENCE, send(&session, copy, &to, &progress)).await;
        tracing::debug!(service = %to, answered = matches!(sent, Ok(Some(()))), "a copy of a request");
        drop(place);
    });
}

async fn send(
    session: &Arc<Session>,
    mut request: Request<Upload>,
    to: &ServicePortKey,
    progress: &Progress,
) -> Option<()> {
    let snapshot = (session.http.snapshots)();
    let (mut tries, mut seen) = (Tries::default(), Seen::uncounted(session, &request));
    if takes_http2(&snapshot, to) {
        hop::raise(&mut request);
    }
    let http2 = request.version() == http::Version::HTTP_2;
    let reached = session.reach(&snapshot, to, http2, &mut tries, &mut seen).await.ok()?;
    let Reached { pick, place, mut lent, server } = reached;
    let mut response = lent.send(request).await.ok()?;
    while let Some(frame) = response.body_mut().frame().await {
        frame.ok()?;
    }
    if let Lent::Http1(lent) = lent
        && progress.is_whole()
    {
        session.http.upstreams.give_back(place, server, lent);
    }
    drop(pick);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_copies_take_no_other_pods_place() {
        let copies = Arc::new(Copies::default());
        let mut one: Vec<_> = std::iter::from_fn(|| copies.enter(1)).take(1000).collect();
        assert_eq!(one.len(), COPIES_MAX);
        let other = copies.enter(2);
        assert!(other.is_some() && copies.enter(1).is_none());
        one.pop();
        assert!(copies.enter(1).is_some(), "what is over makes room");
        drop((one, other));
        assert!(copies.counts().is_empty(), "those without copies are forgotten");
    }
}
