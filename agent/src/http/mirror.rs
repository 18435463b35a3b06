//! Copies of requests for whoever a rule says is to get one. What comes of them is nobody's concern, and nobody waits for them:
//! a copy that cannot keep up with its request is broken off, one too many is not made.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use weft_core::route::ServicePortKey;

use super::endpoint::{Reached, Tries};
use super::exchange::Session;
use super::record::Seen;
use super::upload::{Progress, Upload};
use super::wire::Lent;

/// Copies under way at once on a node.
const COPIES_MAX: usize = 256;
/// How long a copy may take: without an app that waits for it, nothing else would end it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Copies under way.
#[derive(Debug, Default)]
pub(super) struct Copies(AtomicUsize);

/// A copy's place among those.
struct Place(Arc<Copies>);

impl Copies {
    fn enter(self: &Arc<Self>) -> Option<Place> {
        let place = Place(Arc::clone(self));
        (self.0.fetch_add(1, Ordering::Relaxed) < COPIES_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Has a copy of `request` sent to a service port.
pub(super) fn mirror(session: &Arc<Session>, request: &mut Request<Upload>, to: ServicePortKey) {
    let Some(place) = session.http.copies.enter() else { return };
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
    request: Request<Upload>,
    to: &ServicePortKey,
    progress: &Progress,
) -> Option<()> {
    let snapshot = (session.http.snapshots)();
    let (mut tries, mut seen) = (Tries::default(), Seen::uncounted(session, &request));
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
