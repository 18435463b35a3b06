//! One request: made fit for the next hop, given an endpoint, sent, answered. As long as nothing of it has gone, or it may be
//! repeated, a failure costs the app only time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Frame, Incoming};
use hyper::upgrade::OnUpgrade;
use weft_core::balance::Pick;
use weft_core::model::Identity;
use weft_core::route::Transport;

use super::answer::{Fault, is_grpc};
use super::body::{Download, Gate, Progress, Upload};
use super::endpoint::{Reached, Tries};
use super::record::{Known, Seen};
use super::upstream::{Lent, Place, Unsent};
use super::{Client, Http, hop, upgrade};
use crate::dial::{Caller, Refused};

/// Says how many proxies of the mesh a request has passed: apps that hand on what they got hand on this, too.
const HOPS: HeaderName = HeaderName::from_static("weft-hops");
/// More than any chain of services is long.
const HOPS_MAX: u32 = 32;
/// How often a request is sent again because a connection was gone before it went.
const AGAIN_MAX: u32 = 3;

/// An app's connection, shared by its requests.
pub(super) struct Session {
    pub(super) http: Arc<Http>,
    pub(super) client: Client,
    /// The agent is about to stop: answers say that no other will follow.
    last: AtomicBool,
    /// What was found out for the metrics, by endpoint.
    pub(super) known: Mutex<HashMap<SocketAddr, Known>>,
}

/// Why an endpoint's answer does not reach the app.
enum Ended {
    /// The mesh answers.
    Fault(Fault),
    /// The stream is reset, as the endpoint has reset its own.
    Reset(hyper::Error),
}

impl From<Fault> for Ended {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What a request holds until the last byte of its response: its place among those in flight, and its connection.
pub(super) struct Held {
    session: Arc<Session>,
    /// Keeps the endpoint's count of what is in flight.
    pick: Pick,
    lent: Option<(Place, Lent)>,
    server: Option<Identity>,
    progress: Arc<Progress>,
    seen: Option<Seen>,
}

/// Marks a response after which the connection is no longer HTTP.
#[derive(Clone, Copy)]
struct Switched;

/// Marks a response that is to be the connection's last.
#[derive(Clone, Copy)]
struct Final;

/// A request on its way.
struct Going {
    request: Request<Upload>,
    progress: Arc<Progress>,
    /// The app's end, if the request asks for another protocol.
    near: Option<OnUpgrade>,
}

impl Session {
    pub(super) fn new(http: Arc<Http>, client: Client) -> Self {
        Self { http, client, last: AtomicBool::new(false), known: Mutex::default() }
    }

    /// From now on each answer over HTTP/1 is the connection's last.
    pub(super) fn last(&self) {
        self.last.store(true, Ordering::Relaxed);
    }

    /// Carries a request.
    ///
    /// # Errors
    /// When its stream is to be reset.
    pub(super) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> hyper::Result<Response<Download>> {
        let (version, grpc) = (request.version(), is_grpc(request.headers()));
        let may_switch = hop::may_switch(request.method(), request.headers());
        let mut seen = Seen::new(&self, &request, grpc);
        let mut response = match self.carry(request, &mut seen).await {
            Ok(response) => response,
            Err(Ended::Fault(fault)) => {
                let mut response = fault.response(grpc).map(Download::mesh);
                if matches!(fault, Fault::BadRequest(_)) {
                    // Who sends what cannot be read may mean something else by what follows.
                    response.extensions_mut().insert(Final);
                }
                seen.failed(&fault);
                response
            }
            Err(Ended::Reset(error)) => {
                seen.reset(&error);
                return Err(error);
            }
        };
        *response.version_mut() = if version == Version::HTTP_2 { version } else { Version::HTTP_11 };
        let switched = response.extensions().get::<Switched>().is_some();
        // What could have been anything was not looked at: no other request is taken from such a connection.
        let last = self.last.load(Ordering::Relaxed) || may_switch || response.extensions().get::<Final>().is_some();
        if version != Version::HTTP_2 && last && !switched {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }

    async fn carry(self: &Arc<Self>, request: Request<Incoming>, seen: &mut Seen) -> Result<Response<Download>, Ended> {
        let mut going = fit(request)?;
        let (mut tries, mut again) = (Tries::default(), 0);
        loop {
            let Reached { pick, place, mut lent } = self.reach(going.http2(), &mut tries, seen).await?;
            let copy = going.copy(&lent);
            let sent_at = Instant::now();
            let Going { request, progress, near } = going;
            let method = request.method().clone();
            match lent.send(request).await {
                Ok(response) => {
                    let mut held = self.held(pick, (place, lent), progress, seen);
                    held.answered(sent_at, &response);
                    return self.answered(response, &method, near, held);
                }
                Err(unsent) => {
                    again += 1;
                    going = self
                        .after(unsent, &lent, pick, copy.filter(|_| again <= AGAIN_MAX), again)?
                        .with(progress, near);
                }
            }
        }
    }

    /// What to send again, if anything.
    fn after(
        &self,
        unsent: Unsent,
        lent: &Lent,
        mut pick: Pick,
        copy: Option<Request<Upload>>,
        again: u32,
    ) -> Result<Again, Ended> {
        let Unsent { request, error } = unsent;
        tracing::debug!(endpoint = %pick.target.address, %error, "a request was not answered");
        if let Some(request) = request.filter(|_| again <= AGAIN_MAX) {
            return Ok(Again(*request));
        }
        let refused = reset_reason(&error) == Some(h2::Reason::REFUSED_STREAM);
        match copy {
            Some(request) if refused || lent.is_used() => return Ok(Again(request)),
            _ => {}
        }
        if !lent.is_used() {
            pick.failed(Instant::now());
        }
        match (reset_reason(&error), lent) {
            (Some(_), Lent::Http2(_)) => Err(Ended::Reset(error)),
            _ => Err(Fault::Upstream(error).into()),
        }
    }

    fn held(self: &Arc<Self>, pick: Pick, lent: (Place, Lent), progress: Arc<Progress>, seen: &mut Seen) -> Box<Held> {
        let server = match &pick.target.transport {
            Transport::Hbone { server } => Some(server.clone()),
            Transport::Plaintext => None,
        };
        let seen = seen.take();
        Box::new(Held { session: Arc::clone(self), pick, lent: Some(lent), server, progress, seen: Some(seen) })
    }

    fn answered(
        self: &Arc<Self>,
        mut response: Response<Incoming>,
        method: &Method,
        near: Option<OnUpgrade>,
        held: Box<Held>,
    ) -> Result<Response<Download>, Ended> {
        let status = response.status();
        let switched = status == StatusCode::SWITCHING_PROTOCOLS || (method == Method::CONNECT && status.is_success());
        let far = switched.then(|| hyper::upgrade::on(&mut response));
        let (mut head, incoming) = response.into_parts();
        hop::response(&mut head);
        let body = match (near, far) {
            (Some(near), Some(far)) => {
                let kill = self.client.kill.clone();
                self.http.drain.spawn(upgrade::relay(near, far, held, kill));
                head.extensions.insert(Switched);
                Download::mesh(Bytes::new())
            }
            // Nobody asked for that.
            (None, Some(_)) => return Err(Fault::Switched.into()),
            (_, None) => Download::endpoint(incoming, held),
        };
        Ok(Response::from_parts(head, body))
    }

    /// On whose behalf requests are sent.
    pub(super) fn caller<'a>(&'a self, workload: &'a weft_core::model::Workload) -> Caller<'a> {
        Caller { pod: &self.client.pod, workload, client: self.client.address }
    }
}

/// A request that is sent again.
struct Again(Request<Upload>);

impl Again {
    fn with(self, progress: Arc<Progress>, near: Option<OnUpgrade>) -> Going {
        Going { request: self.0, progress, near }
    }
}

impl Going {
    fn http2(&self) -> bool {
        self.request.version() == Version::HTTP_2
    }

    /// The same once more, should the connection turn out to be gone: only of a request without a body, and only if its
    /// method says that it may be repeated, or the endpoint that it has not been looked at.
    fn copy(&self, lent: &Lent) -> Option<Request<Upload>> {
        let repeatable = self.http2() || (lent.is_used() && self.request.method().is_idempotent());
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

/// Makes a request fit to be sent.
fn fit(request: Request<Incoming>) -> Result<Going, Fault> {
    let (mut head, body) = request.into_parts();
    let near = head.extensions.remove::<OnUpgrade>();
    let switches = hop::request(&mut head)?;
    let hops = head.headers.get(HOPS).and_then(|hops| hops.to_str().ok()?.parse::<u32>().ok()).unwrap_or(0) + 1;
    if hops > HOPS_MAX {
        return Err(Fault::Loop(hops));
    }
    head.headers.insert(HOPS, HeaderValue::from(hops));
    let progress = Arc::new(Progress::default());
    let expects = hop::expects(&head) && !body.is_end_stream();
    let mut request = Request::from_parts(head, Upload::new(body, Arc::clone(&progress)));
    if expects {
        let gate = Arc::new(Gate::default());
        request = request.map(|body| body.behind(Arc::clone(&gate)));
        hyper::ext::on_informational(&mut request, move |response| {
            if response.status() == StatusCode::CONTINUE {
                gate.open();
            }
        });
    }
    Ok(Going { request, progress, near: near.filter(|_| switches) })
}

/// The code of an HTTP/2 stream's reset, if that is what happened.
fn reset_reason(error: &hyper::Error) -> Option<h2::Reason> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.reason().filter(|_| error.is_reset() && error.is_remote());
        }
        cause = error.source();
    }
    None
}

impl Held {
    /// The response's head has come.
    fn answered<B>(&mut self, sent_at: Instant, response: &Response<B>) {
        let (now, status) = (Instant::now(), response.status());
        // What a gateway says of somebody behind it.
        if matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT) {
            self.pick.failed(now);
        } else {
            self.pick.connected(now.saturating_duration_since(sent_at), now);
        }
        if let Some(seen) = &mut self.seen {
            seen.answered(status, response.headers());
        }
    }

    /// A part of the response has come.
    pub(super) fn received(&mut self, frame: &Frame<Bytes>) {
        if let Some(seen) = &mut self.seen {
            seen.received(frame);
        }
    }

    /// So much went each way after the protocol was switched.
    pub(super) fn carried(&mut self, sent: u64, received: u64) {
        if let Some(seen) = &mut self.seen {
            (seen.sent, seen.received) = (sent, received);
        }
    }

    /// It broke off.
    pub(super) fn broke(&mut self, error: &dyn std::fmt::Display) {
        self.lent = None;
        if let Some(mut seen) = self.seen.take() {
            seen.sent += self.progress.bytes();
            seen.broke(error.to_string());
        }
    }

    /// All of it has come: the connection is free for the next.
    pub(super) fn ended(mut self: Box<Self>) {
        if let Some((place, Lent::Http1(lent))) = self.lent.take()
            && self.progress.is_whole()
        {
            self.session.http.upstreams.give_back(place, self.server.take(), lent);
        }
        if let Some(mut seen) = self.seen.take() {
            seen.sent += self.progress.bytes();
            seen.done();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(mut seen) = self.seen.take() {
            seen.sent += self.progress.bytes();
            drop(seen);
        }
    }
}

impl Session {
    /// What is known of an endpoint for the metrics.
    pub(super) fn known(&self) -> std::sync::MutexGuard<'_, HashMap<SocketAddr, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Refused> for Ended {
    fn from(refused: Refused) -> Self {
        Self::Fault(refused.into())
    }
}
