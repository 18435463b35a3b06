//! A secondary index: for each key, the objects that claim it, in the order of their names.
//!
//! The order makes every "first claimant" the same whatever the order of arrival. Lists are short (pods with one
//! address, slices of one service) and copied on change; the map around them is shared between snapshots.

use std::hash::Hash;
use std::sync::Arc;

use imbl::HashMap;

use crate::model::{
    AuthorizationPolicy, EndpointSlice, ObjectName, PeerAuthentication, ReferenceGrant, Service, TcpRoute,
    TrafficPolicy, Workload,
};

/// Something with the name of a Kubernetes object.
pub(super) trait Named {
    /// Its namespace and name.
    fn object(&self) -> &ObjectName;
}

macro_rules! named {
    ($($kind:ty),*) => { $(impl Named for $kind { fn object(&self) -> &ObjectName { &self.name } })* };
}
named!(
    AuthorizationPolicy,
    EndpointSlice,
    PeerAuthentication,
    ReferenceGrant,
    Service,
    TcpRoute,
    TrafficPolicy,
    Workload
);

/// Objects by a key several of them may share.
#[derive(Clone, Debug)]
pub(super) struct Index<K, V> {
    lists: HashMap<K, Arc<Vec<Arc<V>>>>,
}

impl<K: Hash + Eq, V: PartialEq> PartialEq for Index<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.lists == other.lists
    }
}

impl<K, V> Default for Index<K, V> {
    fn default() -> Self {
        Self { lists: HashMap::new() }
    }
}

impl<K: Hash + Eq + Clone, V: Named> Index<K, V> {
    /// Adds `object` under `key`, in place of one of the same name.
    pub(super) fn insert(&mut self, key: K, object: Arc<V>) {
        let list = Arc::make_mut(self.lists.entry(key).or_default());
        match list.binary_search_by(|held| held.object().cmp(object.object())) {
            Ok(at) => list[at] = object,
            Err(at) => list.insert(at, object),
        }
    }

    /// Takes the object called `name` from under `key`.
    pub(super) fn remove(&mut self, key: &K, name: &ObjectName) {
        let Some(list) = self.lists.get_mut(key) else { return };
        let list = Arc::make_mut(list);
        list.retain(|held| held.object() != name);
        if list.is_empty() {
            self.lists.remove(key);
        }
    }

    /// The objects under `key`, by name.
    pub(super) fn at<Q>(&self, key: &Q) -> &[Arc<V>]
    where
        K: std::borrow::Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.lists.get(key).map_or(&[], |list| list.as_slice())
    }
}
