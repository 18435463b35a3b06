//! A request between the app and an endpoint: made fit to be sent, and sent again where that is allowed.

use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use http::{Request, StatusCode, Version};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;

use super::answer::Fault;
use super::hop;
use super::upload::{Gate, Progress, Upload};
use super::wire::Lent;

/// Says how many proxies of the mesh a request has passed: apps that hand on what they got hand on this, too.
const HOPS: HeaderName = HeaderName::from_static("weft-hops");
/// More than any chain of services is long.
const HOPS_MAX: u32 = 32;

/// See the module.
pub(super) struct Going {
    pub(super) request: Request<Upload>,
    pub(super) progress: Arc<Progress>,
    /// The app's end, if the request asks for another protocol.
    pub(super) near: Option<OnUpgrade>,
}

impl Going {
    /// Makes a request fit to be sent. `route` decides where, and may change the head.
    ///
    /// # Errors
    /// [`Fault`].
    pub(super) fn fit<R>(
        request: Request<Incoming>,
        route: impl FnOnce(&mut http::request::Parts) -> Result<R, Fault>,
    ) -> Result<(Self, R), Fault> {
        let (mut head, body) = request.into_parts();
        let near = head.extensions.remove::<OnUpgrade>();
        let switches = hop::request(&mut head)?;
        let hops = head.headers.get(HOPS).and_then(|hops| hops.to_str().ok()?.parse::<u32>().ok()).unwrap_or(0);
        let hops = hops.saturating_add(1);
        if hops > HOPS_MAX {
            return Err(Fault::Loop(hops));
        }
        let routed = route(&mut head)?;
        head.headers.insert(HOPS, HeaderValue::from(hops));
        let progress = Arc::new(Progress::default());
        let expects = hop::expects(&head) && !body.is_end_stream();
        let mut request = Request::from_parts(head, Upload::new(body, Arc::clone(&progress)));
        if expects {
            request = await_invitation(request);
        }
        Ok((Self { request, progress, near: near.filter(|_| switches) }, routed))
    }

    pub(super) fn http2(&self) -> bool {
        self.request.version() == Version::HTTP_2
    }

    /// The same once more, should it be needed: only of a request without a body. Without a `retry` of its rule, only over
    /// a connection that may turn out to be gone, if the method says that it may be repeated, or the endpoint that it has
    /// not been looked at.
    pub(super) fn copy(&self, lent: &Lent, retry: bool) -> Option<Request<Upload>> {
        let repeatable = retry || self.http2() || (lent.is_used() && self.request.method().is_idempotent());
        if !repeatable || !self.request.body().is_end_stream() || self.near.is_some() {
            return None;
        }
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = self.request.method().clone();
        head.uri = self.request.uri().clone();
        head.version = self.request.version();
        head.headers = self.request.headers().clone();
        head.extensions = self.request.extensions().clone();
        Some(Request::from_parts(head, Upload::empty(Arc::clone(&self.progress))))
    }
}

/// Holds the body back until the endpoint asks for it.
fn await_invitation(request: Request<Upload>) -> Request<Upload> {
    let gate = Arc::new(Gate::default());
    let mut request = request.map(|body| body.behind(Arc::clone(&gate)));
    hyper::ext::on_informational(&mut request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            gate.open();
        }
    });
    request
}
