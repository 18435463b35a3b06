//! The way from a connection to a pick: the client's session where the service has such, a branch where a route divides,
//! and an endpoint of what is left.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pool::{Ask, Pool};
use super::session::Sessions;
use super::splitter::{self, Splitter};
use super::{Balancers, Pick, PickError, Random, Request, entry, rendezvous, weights};
use crate::model::Algorithm;
use crate::route::ServicePortKey;
use crate::snapshot::{EndpointSet, Snapshot, Split};

/// What one pick is made with.
struct Draw<'a, 'r> {
    snapshot: &'a Snapshot,
    client: Option<IpAddr>,
    /// The same, where the service dialled has its clients keep their endpoints.
    kept: Option<IpAddr>,
    besides: Option<&'a Arc<[SocketAddr]>>,
    hash: Option<u64>,
    tried: &'a [SocketAddr],
    /// A service that stands in for another has nobody standing in for it: two could stand in for each other.
    stands_in: bool,
    now: Instant,
    random: Random<'r>,
}

/// A client that is to keep its endpoint of a service port, and for how long after its last connection.
struct Kept<'a> {
    key: &'a ServicePortKey,
    client: IpAddr,
    keep: Duration,
}

impl<'a> Draw<'a, '_> {
    /// What a pool is asked.
    fn ask(&self, key: &ServicePortKey, algorithm: Algorithm) -> Ask<'a> {
        let traffic = self.snapshot.traffic(&key.service, key.port);
        let (besides, hash, tried, now) = (self.besides, self.hash, self.tried, self.now);
        Ask { algorithm, traffic, client: None, hash, besides, tried, now }
    }
}

impl Balancers {
    /// Picks an endpoint for a connection to `key` that is not among `tried`.
    ///
    /// # Errors
    /// [`PickError`] says why there is none. With nothing tried yet the connection is to be refused, as Gateway API
    /// asks for the share of a missing backend; a retry goes to whichever backend still has an endpoint.
    pub fn pick(
        &self,
        snapshot: &Snapshot,
        key: &ServicePortKey,
        tried: &[SocketAddr],
        now: Instant,
        random: Random<'_>,
    ) -> Result<Pick, PickError> {
        self.pick_for(snapshot, key, &Request { tried, ..Request::default() }, now, random)
    }

    /// Picks an endpoint for a connection to `key`, given what is known of it.
    ///
    /// # Errors
    /// As [`Self::pick`].
    pub fn pick_for(
        &self,
        snapshot: &Snapshot,
        key: &ServicePortKey,
        request: &Request<'_>,
        now: Instant,
        random: Random<'_>,
    ) -> Result<Pick, PickError> {
        let Request { client, from, besides, hash, tried, prefer } = *request;
        let mut draw = Draw { snapshot, client, kept: None, besides, hash, tried, stands_in: false, now, random };
        let prefer = prefer.filter(|address| !tried.contains(address));
        if let Some(pick) = prefer.and_then(|address| self.pick_again_at(&mut draw, key, (address, true))) {
            return Ok(pick);
        }
        let algorithm = snapshot.algorithm(&key.service, key.port);
        let Some(split) = snapshot.split(key, from) else {
            return self.pick_endpoint(&mut draw, key, algorithm.unwrap_or_default());
        };
        match (split.affinity, client) {
            (Some(keep), Some(client)) => {
                let kept = Kept { key, client, keep };
                draw.kept = Some(client);
                self.pick_kept(
                    &mut draw,
                    &kept,
                    |backend| split.sends_to(backend),
                    |draw| self.pick_branches(draw, key, split, algorithm),
                )
            }
            _ => self.pick_branches(&mut draw, key, split, algorithm),
        }
    }

    fn pick_branches(
        &self,
        draw: &mut Draw<'_, '_>,
        key: &ServicePortKey,
        split: &Arc<Split>,
        algorithm: Option<Algorithm>,
    ) -> Result<Pick, PickError> {
        if draw.tried.is_empty() {
            self.pick_first(draw, key, split, algorithm)
        } else {
            self.pick_again(draw, key, split, algorithm)
        }
    }

    /// Where the client was sent last, as long as that may be: else what `fresh` picks, which is remembered.
    fn pick_kept<'a, 'r>(
        &self,
        draw: &mut Draw<'a, 'r>,
        kept: &Kept<'_>,
        sends_to: impl FnOnce(&ServicePortKey) -> bool,
        fresh: impl FnOnce(&mut Draw<'a, 'r>) -> Result<Pick, PickError>,
    ) -> Result<Pick, PickError> {
        let Kept { key, client, keep } = *kept;
        let sessions = entry(&self.sessions, key, Sessions::default);
        let held = sessions.recall(client, keep, draw.now);
        let pick = match held.filter(|(backend, address)| !draw.tried.contains(address) && sends_to(backend)) {
            Some((backend, address)) => self.pick_again_at(draw, &backend, (address, false)),
            None => None,
        };
        let pick = match pick {
            Some(pick) => pick,
            None => fresh(draw)?,
        };
        sessions.note(client, &pick.backend, pick.target.address, keep, draw.now);
        Ok(pick)
    }

    /// The endpoint at an address, if it may be picked, be it `far` away or not.
    fn pick_again_at(
        &self,
        draw: &mut Draw<'_, '_>,
        backend: &ServicePortKey,
        (address, far): (SocketAddr, bool),
    ) -> Option<Pick> {
        let (pool, set) = self.endpoints(draw.snapshot, backend)?;
        let ask = draw.ask(backend, Algorithm::default());
        let chosen = pool.take(&set, draw.snapshot.generation(), (address, far), &ask, &mut *draw.random)?;
        Some(Pick::new(chosen.member.target(draw.snapshot), backend.clone(), pool, chosen))
    }

    /// The first try of a connection that a route divides.
    fn pick_first(
        &self,
        draw: &mut Draw<'_, '_>,
        key: &ServicePortKey,
        split: &Arc<Split>,
        algorithm: Option<Algorithm>,
    ) -> Result<Pick, PickError> {
        let chosen = match draw.kept {
            Some(client) => splitter::choose_for(client, split),
            None => entry(&self.splitters, key, Splitter::default).choose(
                split,
                draw.snapshot.generation(),
                algorithm.unwrap_or_default(),
                &mut *draw.random,
            ),
        };
        let branch =
            chosen.and_then(|at| split.branches.get(at)).ok_or_else(|| PickError::AllWeightsZero(key.clone()))?;
        if let Some(fault) = branch.fault {
            return Err(PickError::Branch { route: split.route.clone(), backend: branch.backend.clone(), fault });
        }
        self.pick_branch(draw, &branch.backend, algorithm)
    }

    /// A further try: any branch with an endpoint that was not tried, by weight.
    fn pick_again(
        &self,
        draw: &mut Draw<'_, '_>,
        key: &ServicePortKey,
        split: &Split,
        algorithm: Option<Algorithm>,
    ) -> Result<Pick, PickError> {
        let weights = splitter::weights(split);
        let mut closed: Vec<usize> =
            (0..split.branches.len()).filter(|at| split.branches[*at].fault.is_some()).collect();
        while let Some(at) = weights.draw(&closed, &mut *draw.random) {
            if let Ok(pick) = self.pick_branch(draw, &split.branches[at].backend, algorithm) {
                return Ok(pick);
            }
            weights::exclude(&mut closed, at);
        }
        Err(PickError::Exhausted(key.clone()))
    }

    fn pick_branch(
        &self,
        draw: &mut Draw<'_, '_>,
        backend: &ServicePortKey,
        dialled: Option<Algorithm>,
    ) -> Result<Pick, PickError> {
        let algorithm = draw.snapshot.algorithm(&backend.service, backend.port).or(dialled).unwrap_or_default();
        self.pick_endpoint(draw, backend, algorithm)
    }

    fn pick_endpoint(
        &self,
        draw: &mut Draw<'_, '_>,
        key: &ServicePortKey,
        algorithm: Algorithm,
    ) -> Result<Pick, PickError> {
        let unknown = || PickError::UnknownService(key.clone());
        let (pool, set) = self.endpoints(draw.snapshot, key).ok_or_else(unknown)?;
        let Some(fallback) = self.fallback(draw, key) else { return self.pick_own(draw, key, (pool, set), algorithm) };
        let ask = draw.ask(key, algorithm);
        let own = if pool.is_any_well(&set, draw.snapshot.generation(), &ask) {
            self.pick_own(draw, key, (pool.clone(), set.clone()), algorithm)
        } else {
            Err(PickError::NoEndpoints(key.clone()))
        };
        own.or_else(|_| {
            draw.stands_in = true;
            let stands_in = self.pick_endpoint(draw, &fallback, algorithm);
            // Nobody stands in: better an endpoint that is not well than none.
            stands_in.or_else(|_| self.pick_own(draw, key, (pool, set), algorithm))
        })
    }

    /// Who stands in for a service port, where that is set.
    fn fallback(&self, draw: &Draw<'_, '_>, key: &ServicePortKey) -> Option<ServicePortKey> {
        let traffic = draw.snapshot.traffic(&key.service, key.port)?;
        let to = traffic.fallback.as_ref().filter(|_| !draw.stands_in)?;
        Some(ServicePortKey { service: to.service.clone(), port: to.port, family: key.family })
    }

    fn pick_own(
        &self,
        draw: &mut Draw<'_, '_>,
        key: &ServicePortKey,
        (pool, set): (Arc<Pool>, Arc<EndpointSet>),
        algorithm: Algorithm,
    ) -> Result<Pick, PickError> {
        match (set.affinity, draw.client) {
            (Some(keep), Some(client)) => {
                let kept = Kept { key, client, keep };
                self.pick_kept(
                    draw,
                    &kept,
                    |backend| backend == key,
                    |draw| pick_of(draw, key, (pool, &set), algorithm, Some(client)),
                )
            }
            _ => pick_of(draw, key, (pool, &set), algorithm, draw.kept),
        }
    }
}

fn pick_of(
    draw: &mut Draw<'_, '_>,
    key: &ServicePortKey,
    (pool, set): (Arc<Pool>, &Arc<EndpointSet>),
    algorithm: Algorithm,
    client: Option<IpAddr>,
) -> Result<Pick, PickError> {
    let hash = draw.hash.or_else(|| draw.client.filter(|_| algorithm.is_hash()).map(rendezvous::of_client));
    let ask = Ask { client, hash, ..draw.ask(key, algorithm) };
    let chosen = pool.pick(set, draw.snapshot.generation(), &ask, &mut *draw.random);
    let chosen = chosen.map_err(|why| why.of(key, set))?;
    let target = chosen.member.target(draw.snapshot);
    Ok(Pick::new(target, key.clone(), pool, chosen))
}
