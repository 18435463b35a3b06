//! Texts that many objects have in common, each held once: of 50,000 pods the namespaces, nodes, accounts and owners are
//! far fewer, and a copy of each for every pod would be a quarter of what is held of it.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::name::Name;
use super::service::{EndpointSlice, Place, Service};
use super::workload::Workload;

/// Texts held once. Those nobody else holds any more are let go now and then.
#[derive(Debug, Default)]
pub struct Pool {
    held: HashSet<Arc<str>, RandomState>,
    /// How many there may be before it is looked for those to be let go.
    limit: usize,
    /// Where endpoints are: a few for each node.
    places: HashSet<Arc<Place>, RandomState>,
    /// As `limit`, of places.
    places_limit: usize,
}

/// The least [`Pool::limit`].
const LIMIT: usize = 1024;

impl Pool {
    /// Puts the one that is held in the place of an equal one, or holds this one from now on.
    pub fn share(&mut self, text: &mut Arc<str>) {
        if let Some(held) = self.held.get(text) {
            *text = held.clone();
            return;
        }
        if self.held.len() >= self.limit {
            self.held.retain(|held| Arc::strong_count(held) > 1);
            self.limit = (self.held.len() * 2).max(LIMIT);
        }
        self.held.insert(text.clone());
    }
}

impl Pool {
    /// As [`Self::share`], with the texts within.
    fn share_place(&mut self, place: &mut Arc<Place>) {
        if let Some(held) = self.places.get(place) {
            *place = held.clone();
            return;
        }
        let own = Arc::make_mut(place);
        own.node.iter_mut().chain(&mut own.zone).for_each(|text| self.share(text));
        if self.places.len() >= self.places_limit {
            self.places.retain(|held| Arc::strong_count(held) > 1);
            self.places_limit = (self.places.len() * 2).max(LIMIT);
        }
        self.places.insert(place.clone());
    }
}

impl Name {
    /// Shares its text.
    pub fn share(&mut self, pool: &mut Pool) {
        pool.share(self.text_mut());
    }
}

impl Workload {
    /// Shares what it has in common with others.
    pub fn share(&mut self, pool: &mut Pool) {
        self.name.namespace.share(pool);
        self.service_account.share(pool);
        pool.share(&mut self.node);
        pool.share(&mut self.owner);
    }
}

impl Service {
    /// Shares its names with its slices, and those of its ports.
    pub fn share(&mut self, pool: &mut Pool) {
        self.name.namespace.share(pool);
        self.name.name.share(pool);
        for port in &mut self.ports {
            pool.share(&mut port.name);
            port.app_protocol.iter_mut().for_each(|protocol| pool.share(protocol));
        }
    }
}

impl EndpointSlice {
    /// Shares its Service's name, the names of ports, and the places of endpoints.
    pub fn share(&mut self, pool: &mut Pool) {
        for name in [&mut self.name.namespace, &mut self.service.namespace, &mut self.service.name] {
            name.share(pool);
        }
        self.ports.iter_mut().for_each(|port| pool.share(&mut port.name));
        self.endpoints.iter_mut().for_each(|endpoint| pool.share_place(&mut endpoint.place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_become_one_and_those_nobody_holds_go() {
        let mut pool = Pool::default();
        let mut texts: Vec<Arc<str>> = (0..LIMIT * 2).map(|n| format!("n{}", n % LIMIT).into()).collect();
        texts.iter_mut().for_each(|text| pool.share(text));
        assert!(Arc::ptr_eq(&texts[7], &texts[LIMIT + 7]));
        assert_eq!(pool.held.len(), LIMIT);
        texts.truncate(1);
        pool.share(&mut "other".into());
        assert_eq!(pool.held.len(), 2);
    }

    #[test]
    fn endpoints_of_one_place_share_it() {
        let slice = || {
            let place = Place { node: Some("n1".into()), zone: Some("z1".into()), hints: None };
            let mut slice = crate::testing::slice("a/s", &["10.0.0.1", "10.0.0.2"]);
            slice.endpoints.iter_mut().for_each(|endpoint| endpoint.place = Arc::new(place.clone()));
            slice
        };
        let (mut pool, mut one, mut other) = (Pool::default(), slice(), slice());
        one.share(&mut pool);
        other.share(&mut pool);
        assert_eq!(other, slice());
        assert!(Arc::ptr_eq(&one.endpoints[0].place, &other.endpoints[1].place));
        drop((one, other));
        let mut elsewhere = slice();
        elsewhere.endpoints.iter_mut().for_each(|endpoint| Arc::make_mut(&mut endpoint.place).node = Some("n2".into()));
        pool.places_limit = 1;
        elsewhere.share(&mut pool);
        assert_eq!(pool.places.len(), 1, "a place nobody is at any more goes");
    }

    #[test]
    fn an_endpoint_takes_half_a_cache_line() {
        assert!(size_of::<super::super::service::EndpointAddress>() <= 32);
    }
}
