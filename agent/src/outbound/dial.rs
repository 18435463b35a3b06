//! From a plan to a connected upstream, within the connect budget.

use std::net::SocketAddr;
use std::time::Instant;

use weft_core::balance::{Pick, Request};
use weft_core::route::{Plan, ServicePortKey, Target, Transport};
use weft_core::snapshot::Snapshot;

use super::Outbound;
use crate::dial::{Caller, Dialer, Kind, Place, Refused, keep_alive};
use crate::observe::Observed;
use crate::relay::Far;

/// A connected upstream.
pub(super) struct Dialled {
    pub(super) upstream: Far,
    /// What was dialled, for the log.
    pub(super) target: Target,
    /// Keeps the endpoint's in-flight count while the connection lives.
    pub(super) pick: Option<Pick>,
    /// The service port whose app has said nothing so far, where it is to be found out what it speaks.
    pub(super) silent: Option<ServicePortKey>,
    /// The same of its place among those that are open.
    pub(super) place: Option<Place>,
}

/// The connection being made.
pub(super) struct Dial<'a> {
    pub(super) outbound: &'a Outbound,
    pub(super) caller: Caller<'a>,
    pub(super) destination: SocketAddr,
    /// The kernel has drawn, and on none of the endpoints it sends to by itself.
    pub(super) drawn: bool,
}

impl Dial<'_> {
    /// Does as planned. Nothing of the app's bytes has been read yet, so a failed endpoint costs the app only time.
    pub(super) async fn run(&self, snapshot: &Snapshot, plan: Plan, seen: &mut Observed) -> Result<Dialled, Refused> {
        match plan {
            Plan::Refuse(reason) => Err(Refused::Plan(reason)),
            Plan::PassThrough(_) => {
                let target = Target { address: self.destination, transport: Transport::Plaintext, workload: None };
                self.once(target, seen).await
            }
            Plan::Direct(target) => self.once(target, seen).await,
            Plan::Balanced(key) => {
                seen.record.service = Some(key.service.clone());
                let limits = snapshot.traffic(&key.service, key.port).and_then(|traffic| traffic.limits);
                let dialer = self.dialer();
                let entering = dialer.gates.enter(&key, Kind::Connections, limits.as_ref(), dialer.budget.each);
                let place = entering.await?;
                Ok(Dialled { place, ..self.balanced(snapshot, &key, seen).await? })
            }
        }
    }

    /// Dials the one target there is, again if it failed for a reason that passes.
    async fn once(&self, target: Target, seen: &mut Observed) -> Result<Dialled, Refused> {
        loop {
            seen.record.attempts += 1;
            match self.dialer().dial(&self.caller, &target).await {
                Ok(upstream) => return Ok(Dialled { upstream, target, pick: None, silent: None, place: None }),
                Err(error) if error.passes() && self.may_try_again(seen) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn dialer(&self) -> &Dialer {
        &self.outbound.dialer
    }

    fn may_try_again(&self, seen: &Observed) -> bool {
        (seen.record.attempts as usize) < self.dialer().budget.attempts
    }

    async fn balanced(
        &self,
        snapshot: &Snapshot,
        key: &ServicePortKey,
        seen: &mut Observed,
    ) -> Result<Dialled, Refused> {
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut last: Option<Refused> = None;
        let besides = self.drawn.then(|| self.outbound.drawn.load().get(key).cloned()).flatten();
        while self.may_try_again(seen) {
            let mut random = rand::random::<u64>;
            let balancers = &self.outbound.balancers;
            let client = self.caller.own_address();
            let from = Some(&self.caller.workload.name.namespace);
            let request = Request { client, from, besides: besides.as_ref(), tried: &tried, ..Request::default() };
            let picked = balancers.pick_for(snapshot, key, &request, Instant::now(), &mut random);
            let mut pick = match picked {
                Ok(pick) => pick,
                Err(none) => match last.take() {
                    None => return Err(Refused::Pick(none)),
                    // No other endpoint is left: one that was only slow to answer gets another chance.
                    Some(error) if error.passes() && !tried.is_empty() => {
                        tried.clear();
                        last = Some(error);
                        continue;
                    }
                    // The failure of the endpoint that was there says more than that there is no other.
                    Some(error) => return Err(error),
                },
            };
            let begun = Instant::now();
            seen.record.attempts += 1;
            match self.dialer().dial(&self.caller, &pick.target).await {
                Ok(upstream) => {
                    pick.connected(begun.elapsed(), Instant::now());
                    keep_alive(&upstream, pick.keepalive());
                    let target = pick.target.clone();
                    return Ok(Dialled { upstream, target, pick: Some(pick), silent: None, place: None });
                }
                Err(error) => {
                    if error.is_endpoints_fault() {
                        pick.failed(Instant::now());
                    }
                    tracing::debug!(service = %key, endpoint = %pick.target.address, %error, "endpoint failed; trying another");
                    tried.push(pick.target.address);
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or(Refused::Unroutable(self.destination)))
    }
}
