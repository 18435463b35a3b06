//! Texts that many objects have in common, each held once: of 50,000 pods the namespaces, nodes, accounts and owners are
//! far fewer, and a copy of each for every pod would be a quarter of what is held of it.

use std::collections::HashSet;
use std::sync::Arc;

use super::name::Name;
use super::service::{EndpointSlice, Service};
use super::workload::Workload;

/// Texts held once. Those nobody else holds any more are let go now and then.
#[derive(Debug, Default)]
pub struct Pool {
    held: HashSet<Arc<str>>,
    /// How many there may be before it is looked for those to be let go.
    limit: usize,
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
    /// Shares its Service's name, and the names of ports, nodes and zones.
    pub fn share(&mut self, pool: &mut Pool) {
        for name in [&mut self.name.namespace, &mut self.service.namespace, &mut self.service.name] {
            name.share(pool);
        }
        self.ports.iter_mut().for_each(|port| pool.share(&mut port.name));
        for endpoint in &mut self.endpoints {
            endpoint.node.iter_mut().chain(&mut endpoint.zone).for_each(|text| pool.share(text));
        }
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
}
