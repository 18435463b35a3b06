//! From a request to a connection to an endpoint, within the connect budget: one that is kept, or one that is made.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use weft_core::balance::{Pick, Request};
use weft_core::model::Identity;
use weft_core::route::{ServicePortKey, Transport};
use weft_core::snapshot::Snapshot;

use super::exchange::Session;
use super::record::Seen;
use super::upstream::Place;
use super::wire::{self, Lent};
use crate::dial::{Caller, Refused, keep_alive};

/// What a request has tried so far.
#[derive(Default)]
pub(super) struct Tries {
    tried: Vec<SocketAddr>,
    /// What it has in common with those that are to go to the same endpoint.
    hash: Option<u64>,
    /// The endpoint its session is with.
    prefer: Option<SocketAddr>,
    /// Those that were connected to, and did not answer as was hoped: others are better, if there are any.
    answered: Vec<SocketAddr>,
    count: usize,
    last: Option<Refused>,
}

impl Tries {
    /// None yet, of a request of this hash, whose session is with that endpoint.
    pub(super) fn of(hash: Option<u64>, prefer: Option<SocketAddr>) -> Self {
        Self { hash, prefer, ..Self::default() }
    }

    /// It was connected to, and did not answer as was hoped.
    pub(super) fn answered(&mut self, endpoint: SocketAddr) {
        self.answered.push(endpoint);
    }

    /// All that are not to be picked.
    fn all(&self) -> Cow<'_, [SocketAddr]> {
        if self.answered.is_empty() {
            return Cow::Borrowed(&self.tried);
        }
        Cow::Owned(self.tried.iter().chain(&self.answered).copied().collect())
    }
}

/// A connection to an endpoint, and the endpoint.
pub(super) struct Reached {
    pub(super) pick: Pick,
    pub(super) place: Place,
    pub(super) lent: Lent,
    /// Who answers there.
    pub(super) server: Option<Identity>,
}

impl Session {
    /// Picks an endpoint and gets a connection to it; another if that fails. Nothing of the request has been sent yet.
    pub(super) async fn reach(
        &self,
        snapshot: &Snapshot,
        backend: &ServicePortKey,
        http2: bool,
        tries: &mut Tries,
        seen: &mut Seen,
    ) -> Result<Reached, Refused> {
        let workload = self.client.pod.workload(snapshot).ok_or(Refused::UnknownPod)?;
        let caller = self.caller(workload);
        loop {
            let mut pick = self.pick(snapshot, backend, &caller, tries)?;
            seen.attempts += 1;
            seen.picked(&pick.target);
            if pick.is_checked() {
                self.http.checks.used(&pick.backend, &self.client.pod);
            }
            let server = match &pick.target.transport {
                Transport::Hbone { server } if !pick.target.is_own(workload) => Some(server),
                _ => None,
            };
            let endpoint = pick.target.address;
            let source = caller.source_address(endpoint.ip())?;
            let place = Place { network: self.client.pod.netns.cookie(), source, endpoint };
            if let Some(lent) = self.http.upstreams.take(&place, server, http2) {
                let server = server.cloned();
                return Ok(Reached { pick, place, lent, server });
            }
            match Box::pin(self.make(&caller, &pick, &place, server, http2)).await {
                Ok(lent) => {
                    let server = server.cloned();
                    return Ok(Reached { pick, place, lent, server });
                }
                Err(refused) => {
                    if refused.is_endpoints_fault() {
                        pick.failed(Instant::now());
                    }
                    tracing::debug!(service = %backend, %endpoint, error = %refused, "endpoint failed; trying another");
                    tries.tried.push(endpoint);
                    tries.last = Some(refused);
                }
            }
        }
    }

    fn pick(
        &self,
        snapshot: &Snapshot,
        key: &ServicePortKey,
        caller: &Caller<'_>,
        tries: &mut Tries,
    ) -> Result<Pick, Refused> {
        loop {
            if tries.count >= self.http.dialer.budget.attempts {
                return Err(tries.last.take().unwrap_or(Refused::Unroutable(self.client.destination)));
            }
            let mut random = rand::random::<u64>;
            let picked = {
                let tried = tries.all();
                let (client, hash, prefer) = (caller.own_address(), tries.hash, tries.prefer);
                let from = Some(&caller.workload.name.namespace);
                let request = Request { client, from, hash, prefer, besides: None, tried: &tried };
                self.http.balancers.pick_for(snapshot, key, &request, Instant::now(), &mut random)
            };
            match picked {
                Err(_) if !tries.answered.is_empty() => tries.answered.clear(),
                Ok(pick) => {
                    // Those whose connection is there already cost nothing of the budget.
                    tries.count = tries.tried.len() + 1;
                    return Ok(pick);
                }
                Err(none) => match tries.last.take() {
                    None => return Err(Refused::Pick(none)),
                    // No other endpoint is left: one that was only slow to answer gets another chance.
                    Some(error) if error.passes() && !tries.tried.is_empty() => {
                        tries.count += 1;
                        tries.tried.clear();
                        tries.last = Some(error);
                    }
                    // The failure of the endpoint that was there says more than that there is no other.
                    Some(error) => return Err(error),
                },
            }
        }
    }

    /// Connects to what was picked.
    async fn make(
        &self,
        caller: &Caller<'_>,
        pick: &Pick,
        place: &Place,
        server: Option<&Identity>,
        http2: bool,
    ) -> Result<Lent, Refused> {
        let (http, to) = (&self.http, pick.target.address);
        let gone = |error: hyper::Error| Refused::Connect { to, error: std::io::Error::other(error) };
        if !http2 {
            let far = http.dialer.dial(caller, &pick.target).await?;
            keep_alive(&far, pick.keepalive());
            return wire::speak_http1(far, &caller.pod.budget).await.map(Lent::Http1).map_err(gone);
        }
        let turn = http.upstreams.turn(place, server);
        let _turn = Arc::clone(&turn).lock_owned().await;
        if let Some(lent) = http.upstreams.take(place, server, true) {
            return Ok(lent);
        }
        let far = http.dialer.dial(caller, &pick.target).await?;
        keep_alive(&far, pick.keepalive());
        let made = wire::speak_http2(far).await.map_err(gone)?;
        http.upstreams
            .keep(place, server, &made)
            .ok_or(Refused::Connect { to, error: std::io::ErrorKind::ConnectionReset.into() })
    }
}
