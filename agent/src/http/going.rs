//! A request between the app and an endpoint: made fit to be sent, and sent again where that is allowed.

use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use http::{Request, StatusCode, Version};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;

use super::answer::Fault;
use super::claim::Claim;
use super::hop;
use super::replay::Reel;
use super::upload::{Gate, Progress, Upload};
use super::wire::Lent;
use crate::tunnel::Budget;

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
        claim: Option<Claim>,
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
        let mut request = Request::from_parts(head, Upload::new(body, Arc::clone(&progress), claim));
        if expects {
            request = await_invitation(request);
        }
        Ok((Self { request, progress, near: near.filter(|_| switches) }, routed))
    }

    /// For an endpoint that speaks HTTP/2, where that can be.
    pub(super) fn raise(&mut self) {
        if hop::raise(&mut self.request) {
            // Who serves the app has invited it already.
            self.request.body_mut().invited();
        }
    }

    pub(super) fn http2(&self) -> bool {
        self.request.version() == Version::HTTP_2
    }

    /// What it takes to send the same once more. Without a `retry` of its rule, only where the connection may turn out to be
    /// gone and the method says that it may be repeated; or of HTTP/2 and without a body, should the endpoint say that it
    /// has not been looked at. A body that is larger than what is kept of it, or than `budget` has room for, turns out not to
    /// be repeatable when it is.
    pub(super) fn again(&mut self, lent: &Lent, retry: bool, budget: &Arc<Budget>) -> Option<Again> {
        let empty = self.request.body().is_end_stream();
        let repeatable = retry || (self.http2() && empty) || (lent.is_used() && self.request.method().is_idempotent());
        if !repeatable || self.near.is_some() {
            return None;
        }
        let reel = if empty { None } else { Some(self.request.body_mut().keep(budget)?) };
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = self.request.method().clone();
        head.uri = self.request.uri().clone();
        head.version = self.request.version();
        head.headers = self.request.headers().clone();
        head.extensions = self.request.extensions().clone();
        Some(Again { head, reel, progress: Arc::clone(&self.progress) })
    }
}

/// A request that has been sent and may be sent again.
pub(super) struct Again {
    head: http::request::Parts,
    /// Its body, if it has one.
    reel: Option<Arc<Reel>>,
    progress: Arc<Progress>,
}

impl Again {
    /// Whether its method says that it may be repeated (RFC 9110, 9.2.2).
    pub(super) fn is_idempotent(&self) -> bool {
        self.head.method.is_idempotent()
    }

    /// Whether all of it is there.
    pub(super) fn is_whole(&self) -> bool {
        self.reel.as_ref().is_none_or(|reel| reel.is_whole())
    }

    /// The request. Nothing more of its body goes to where it was sent first.
    pub(super) fn request(self) -> Request<Upload> {
        let body = match &self.reel {
            None => Upload::empty(Arc::clone(&self.progress)),
            Some(reel) => Upload::again(reel, Arc::clone(&self.progress)),
        };
        Request::from_parts(self.head, body)
    }

    /// It has been answered for good.
    pub(super) fn release(self) {
        if let Some(reel) = &self.reel {
            reel.release();
        }
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
