//! One request: made fit for the next hop, given an endpoint, sent, answered. As long as nothing of it has gone, or it may be
//! repeated, a failure costs the app only time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use weft_core::route::takes_http2;
use weft_core::snapshot::Snapshot;

use super::answer::{Fault, is_grpc};
use super::body::Download;
use super::bounds::Bounds;
use super::claim::Claim;
use super::endpoint::{Reached, Tries};
use super::ends::{Answering, Ends};
use super::going::Going;
use super::held::{Held, judge};
use super::hop::BadRequest;
use super::limits::{Limits, within};
use super::mirror::mirror;
use super::record::{Known, Seen};
use super::retries::Retries;
use super::routing::{Routing, Way, route};
use super::session::{Given, Recall, Sticky};
use super::stop::Stopped;
use super::unsent::{Next, after, once_more};
use super::upload::Break;
use super::{Client, Http, hop, upgrade};
use crate::dial::{self, Caller, Refused};

/// An app's connection, shared by its requests.
pub(super) struct Session {
    pub(super) http: Arc<Http>,
    pub(super) client: Client,
    /// The agent is about to stop: answers say that no other will follow.
    last: AtomicBool,
    /// What was found out for the metrics, by endpoint.
    known: Mutex<HashMap<SocketAddr, Known>>,
    /// Shared with the app's end of it.
    ends: Arc<Ends>,
    /// Why its requests are not read on, once that is so.
    stopped: Stopped,
}

/// Why an endpoint's answer does not reach the app.
pub(super) enum Ended {
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

impl From<Refused> for Ended {
    fn from(refused: Refused) -> Self {
        Self::Fault(refused.into())
    }
}

/// Marks a response after which the connection is no longer HTTP.
#[derive(Clone, Copy)]
struct Switched;

/// Marks a response that is to be the connection's last.
#[derive(Clone, Copy)]
struct Final;

impl Session {
    pub(super) fn new(http: Arc<Http>, client: Client, (ends, stopped): (Arc<Ends>, Stopped)) -> Self {
        Self { http, client, last: AtomicBool::new(false), known: Mutex::default(), ends, stopped }
    }

    /// From now on each answer over HTTP/1 is the connection's last.
    pub(super) fn last(&self) {
        self.last.store(true, Ordering::Relaxed);
    }

    /// On whose behalf requests are sent.
    pub(super) fn caller<'a>(&'a self, workload: &'a weft_core::model::Workload) -> Caller<'a> {
        Caller { pod: &self.client.pod, workload, client: self.client.address }
    }

    /// What is known of endpoints for the metrics.
    pub(super) fn known(&self) -> MutexGuard<'_, HashMap<SocketAddr, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries a request. `answering` is held until the last byte of the response.
    ///
    /// # Errors
    /// When its stream is to be reset.
    pub(super) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        answering: Option<Answering>,
    ) -> hyper::Result<Response<Download>> {
        let (version, grpc) = (request.version(), is_grpc(request.headers()));
        let may_switch = hop::may_switch(request.method(), request.headers());
        let mut seen = Seen::new(&self, &request, grpc);
        let mut response = match self.carry(request, &mut seen).await {
            Ok(response) => response,
            Err(Ended::Fault(fault)) => {
                let mut response = fault.response(grpc).map(Download::mesh);
                if matches!(fault, Fault::BadRequest(_)) || self.stopped.any().is_some() {
                    // Who sends what cannot be read may mean something else by what follows.
                    response.extensions_mut().insert(Final);
                }
                seen.failed(&fault);
                response
            }
            Err(Ended::Reset(error)) => {
                seen.broke("upstream_reset", error.to_string());
                return Err(error);
            }
        };
        *response.version_mut() = if version == Version::HTTP_2 { version } else { Version::HTTP_11 };
        let switched = response.extensions().get::<Switched>().is_some();
        // What could have been anything was not looked at: no other request is taken from such a connection.
        let last = self.last.load(Ordering::Relaxed) || may_switch || response.extensions().get::<Final>().is_some();
        let last = last || answering.as_ref().is_some_and(Answering::is_last);
        if version != Version::HTTP_2 && last && !switched {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response.body_mut().hold(answering);
        Ok(response)
    }

    /// What a body may hold that nobody reads.
    fn claim(&self, version: Version, body: &Incoming) -> Result<Option<Claim>, Fault> {
        if version != Version::HTTP_2 || body.is_end_stream() {
            return Ok(None);
        }
        Claim::new(&self.client.pod.budget).ok_or(Fault::Budget).map(Some)
    }

    async fn carry(self: &Arc<Self>, request: Request<Incoming>, seen: &mut Seen) -> Result<Response<Download>, Ended> {
        if let Some(stop) = self.stopped.of(request.headers()) {
            return Err(Fault::from(stop).into());
        }
        let (begun, snapshot) = (Instant::now(), (self.http.snapshots)());
        let client = &self.client;
        let claim = self.claim(request.version(), request.body())?;
        let recall = Recall { snapshot: &snapshot, balancers: &self.http.balancers };
        let (mut going, way) = Going::fit(request, claim, |head| {
            route(&recall, &client.pod.name.namespace, &client.service, head, rand::random())
        })?;
        match way {
            Way::Answered(response) => {
                seen.answered(response.status(), response.headers());
                seen.end("", None);
                Ok(response.map(Download::mesh))
            }
            Way::To(routing) => {
                let (limits, bounds) = (Limits::of(&routing, begun), Bounds::of(self, &snapshot, &routing));
                let place = within(limits.whole, pin!(self.admit(&bounds, &routing))).await??;
                // Only of what goes on to a backend.
                for copy in routing.copies(rand::random) {
                    mirror(self, &mut going.request, copy);
                }
                if takes_http2(&snapshot, &routing.backend) {
                    going.raise();
                }
                let mut response = self.send(&snapshot, going, &routing, (limits, bounds, place), seen).await?;
                routing.edit_response(response.headers_mut());
                if let Some(given) = response.extensions_mut().remove::<Given>() {
                    given.add_to(response.headers_mut());
                }
                Ok(response)
            }
        }
    }

    /// Sends a request until it is answered, or may not be sent again.
    async fn send(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        mut going: Going,
        routing: &Routing,
        (limits, bounds, mut open): (Limits, Bounds, Option<dial::Place>),
        seen: &mut Seen,
    ) -> Result<Response<Download>, Ended> {
        let budget = || (self.http.ledgers.of(&routing.backend), bounds.retry_budget());
        let mut retries = Retries::new(routing.retry().or_else(|| bounds.retry()), budget);
        let session = routing.session.as_ref();
        let mut tries = Tries::of(bounds.hash(&going.request), session.and_then(Sticky::endpoint));
        let budget = &self.client.pod.budget;
        loop {
            let http2 = going.http2();
            let Reached { mut pick, place, mut lent, server } =
                within(limits.whole, pin!(self.reach(snapshot, &routing.backend, http2, &mut tries, seen))).await??;
            let again = going.again(&lent, retries.left(), budget);
            let (sent_at, limit) = (Instant::now(), limits.of_try());
            let Going { request, progress, near } = going;
            let method = request.method().clone();
            let sent = within(limit, pin!(lent.send(request))).await;
            let request = match sent {
                Ok(Ok(response)) => match once_more(&response, again, &mut retries) {
                    Some(request) => {
                        judge(&mut pick, sent_at, response.status());
                        tries.answered(pick.target.address);
                        request
                    }
                    None => {
                        let deadline = limit.map(|(at, _)| at);
                        let given = session.and_then(|session| session.give(&pick));
                        let mut held = Held::new(self, pick, ((place, lent), server), progress, seen.take(), deadline);
                        held.keep(open.take());
                        held.answered(sent_at, &response);
                        let mut response = self.answered(response, &method, near, held)?;
                        given.map(|given| response.extensions_mut().insert(given));
                        return Ok(response);
                    }
                },
                // The endpoint is not to be blamed, and nobody else to be asked.
                Ok(Err(_)) if progress.broken() == Some(Break::App) => {
                    return Err(self.stopped.any().map_or(BadRequest::Body.into(), Fault::from).into());
                }
                Ok(Err(_)) if progress.broken() == Some(Break::Budget) || lent.is_over_budget() => {
                    return Err(Fault::Budget.into());
                }
                Ok(Err(unsent)) => match after(unsent, &lent, pick, again, &mut retries)? {
                    Next::AtOnce(request) => {
                        going = Going { request, progress, near };
                        continue;
                    }
                    Next::Later(request) => request,
                },
                Err(late) => {
                    pick.failed(Instant::now());
                    tries.answered(pick.target.address);
                    again
                        .filter(|_| limits.whole.is_none_or(|(at, _)| Instant::now() < at))
                        .and_then(|again| retries.repeat(again))
                        .ok_or(late)?
                }
            };
            let wait = pin!(tokio::time::sleep(retries.make(rand::random())));
            within(limits.whole, wait).await?;
            going = Going { request, progress, near };
        }
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
        if hop::response(&mut head).is_err() {
            return Err(instead(held, Fault::Framing));
        }
        if !self.ends.tell(head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()) {
            return Err(instead(held, Fault::Budget));
        }
        let body = match (near, far) {
            (Some(near), Some(far)) => {
                let (kill, app) = (self.client.kill.clone(), Arc::clone(self));
                self.http.drain.spawn(upgrade::relay(near, far, held, kill, app));
                head.extensions.insert(Switched);
                Download::mesh(Bytes::new())
            }
            // Nobody asked for that.
            (None, Some(_)) => return Err(instead(held, Fault::Switched)),
            (_, None) => match self.claim(head.version, &incoming) {
                Ok(claim) => Download::endpoint(incoming, held, claim),
                Err(fault) => return Err(instead(held, fault)),
            },
        };
        Ok(Response::from_parts(head, body))
    }
}

/// The mesh answers in the place of the endpoint. What holds the request is what counts it from here on.
fn instead(held: Box<Held>, fault: Fault) -> Ended {
    held.failed(&fault);
    fault.into()
}
