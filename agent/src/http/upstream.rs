//! Connections to endpoints, kept for the next request: for each worker its own, for each pod its own.
//!
//! Requests of one pod to one endpoint share them, and nobody else's: nobody's bytes travel under another's certificate.
//! HTTP/1 connections are lent to one request at a time, the last one used first; an HTTP/2 connection carries many. One
//! that has been idle is let go before the server thinks of it, one that has grown old, or whose tunnel is to close, after
//! its last request.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use weft_core::model::Identity;

use super::wire::{Exclusive, Lent, Multiplexed, Shared};
use crate::workers;

/// How long an HTTP/1 connection may be idle: less than any server in wide use waits (Node.js, 5 s), since a request that
/// meets the server's FIN is lost unless it may be repeated.
const IDLE: Duration = Duration::from_secs(4);
/// The same of HTTP/2, where a server that leaves says which requests it has not seen.
const IDLE_HTTP2: Duration = Duration::from_secs(60);
/// Idle HTTP/1 connections kept to one endpoint.
const IDLE_MAX: usize = 128;

/// Who shares connections.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Place {
    /// The network dialled from.
    pub(super) network: u64,
    /// The address dialled from.
    pub(super) source: IpAddr,
    /// The endpoint.
    pub(super) endpoint: SocketAddr,
}

#[derive(Default)]
struct Shelf {
    /// Who answers there; connections to who answered before are not used again.
    server: Option<Identity>,
    http1: Vec<(Exclusive, Instant)>,
    http2: Vec<Arc<Multiplexed>>,
    dialling: Arc<tokio::sync::Mutex<()>>,
}

/// The connections of one worker, which alone takes its lock but for the moments when pods leave.
#[derive(Default)]
struct Shelves {
    places: HashMap<Place, Shelf>,
    tended: bool,
}

/// All connections to endpoints.
pub(super) struct Upstreams {
    workers: Box<[Mutex<Shelves>]>,
    /// For what looks after idle connections.
    own: Weak<Self>,
}

impl Upstreams {
    pub(super) fn new(workers: usize) -> Arc<Self> {
        let workers = (0..=workers).map(|_| Mutex::default()).collect();
        Arc::new_cyclic(|own| Self { workers, own: own.clone() })
    }

    fn of(&self, worker: usize) -> MutexGuard<'_, Shelves> {
        // A thread that is no worker has number 0, which every instance has.
        let shelves = self.workers.get(worker).unwrap_or(&self.workers[0]);
        shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn here(&self) -> MutexGuard<'_, Shelves> {
        self.of(workers::number())
    }

    /// A connection to `place` that is there already.
    pub(super) fn take(&self, place: &Place, server: Option<&Identity>, http2: bool) -> Option<Lent> {
        let mut shelves = self.here();
        let shelf = shelves.places.get_mut(place)?;
        shelf.answered_by(server);
        if http2 { shelf.share().map(Lent::Http2) } else { shelf.lend().map(Lent::Http1) }
    }

    /// Whose turn it is to make an HTTP/2 connection to `place`: one for all who wait.
    pub(super) fn turn(&self, place: &Place, server: Option<&Identity>) -> Arc<tokio::sync::Mutex<()>> {
        let mut shelves = self.here();
        let shelf = shelves.places.entry(place.clone()).or_default();
        shelf.answered_by(server);
        Arc::clone(&shelf.dialling)
    }

    /// Keeps an HTTP/2 connection just made for all requests; a place in it.
    pub(super) fn keep(&self, place: &Place, server: Option<&Identity>, made: &Arc<Multiplexed>) -> Option<Lent> {
        let mut shelves = self.here();
        let shelf = shelves.places.entry(place.clone()).or_default();
        shelf.answered_by(server);
        shelf.http2.push(Arc::clone(made));
        self.tend(&mut shelves);
        made.share(Instant::now()).map(Lent::Http2)
    }

    /// Keeps an HTTP/1 connection to `server` whose last response is complete for the next request.
    pub(super) fn give_back(&self, place: Place, server: Option<Identity>, mut lent: Exclusive) {
        let now = Instant::now();
        if !lent.is_good(now) {
            return;
        }
        lent.used = true;
        let mut shelves = self.here();
        let shelf = shelves.places.entry(place).or_insert_with(|| Shelf { server: server.clone(), ..Shelf::default() });
        if shelf.server == server && shelf.http1.len() < IDLE_MAX {
            shelf.http1.push((lent, now));
        }
        self.tend(&mut shelves);
    }

    /// Forgets the connections made in a pod's network.
    pub(super) fn leave(&self, network: u64) {
        for worker in 0..self.workers.len() {
            self.of(worker).places.retain(|place, _| place.network != network);
        }
    }

    /// Forgets all connections.
    pub(super) fn close(&self) {
        for worker in 0..self.workers.len() {
            self.of(worker).places.clear();
        }
    }

    /// Has somebody let idle connections go as long as there are any.
    fn tend(&self, shelves: &mut Shelves) {
        if std::mem::replace(&mut shelves.tended, true) {
            return;
        }
        let (own, worker) = (self.own.clone(), workers::number());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let Some(own) = own.upgrade() else { return };
                let mut shelves = own.of(worker);
                shelves.tidy(Instant::now());
                if shelves.places.is_empty() {
                    shelves.tended = false;
                    return;
                }
            }
        });
    }
}

impl Shelves {
    fn tidy(&mut self, now: Instant) {
        self.places.retain(|_, shelf| {
            shelf.http1.retain(|(lent, since)| lent.is_good(now) && now.saturating_duration_since(*since) < IDLE);
            shelf.http2.retain(|shared| shared.is_wanted(now, IDLE_HTTP2));
            !shelf.http1.is_empty() || !shelf.http2.is_empty() || Arc::strong_count(&shelf.dialling) > 1
        });
    }
}

impl Shelf {
    /// Another pod may have the address now.
    fn answered_by(&mut self, server: Option<&Identity>) {
        if self.server.as_ref() != server {
            self.server = server.cloned();
            self.http1.clear();
            self.http2.clear();
        }
    }

    /// The connection that was used last: those before it get old, and are let go.
    fn lend(&mut self) -> Option<Exclusive> {
        let now = Instant::now();
        let fresh =
            |(lent, since): &(Exclusive, Instant)| lent.is_ready(now) && now.saturating_duration_since(*since) < IDLE;
        let at = self.http1.iter().rposition(fresh)?;
        Some(self.http1.remove(at).0)
    }

    fn share(&mut self) -> Option<Shared> {
        let now = Instant::now();
        self.http2.iter().find_map(|shared| shared.share(now))
    }
}
