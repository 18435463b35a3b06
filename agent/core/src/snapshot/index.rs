//! A secondary index: for each key, the objects that claim it, in the order of their names.
//!
//! The order makes every "first claimant" the same whatever the order of arrival. Lists are short (pods with one
//! address, slices of one service) and copied on change; the map around them is shared between snapshots. It is a tree by
//! order: imbl's hash map keeps sparse nodes with room inline, and with it an agent that knew 50,000 pods settled at 136 MB
//! instead of 108.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;

use crate::model::{
    AuthorizationPolicy, EndpointSlice, ObjectName, PeerAuthentication, ReferenceGrant, Service, TcpRoute,
    TrafficPolicy, TrafficPolicyId, Workload,
};

/// Something with the name of a Kubernetes object.
pub(super) trait Named {
    /// Namespace and name, and whatever else it takes.
    type Name: Ord;

    /// Its name.
    fn object(&self) -> &Self::Name;
}

impl Named for TrafficPolicy {
    type Name = TrafficPolicyId;

    fn object(&self) -> &TrafficPolicyId {
        &self.id
    }
}

macro_rules! named {
    ($($kind:ty),*) => {
        $(impl Named for $kind {
            type Name = ObjectName;

            fn object(&self) -> &ObjectName {
                &self.name
            }
        })*
    };
}
named!(AuthorizationPolicy, Backed, EndpointSlice, PeerAuthentication, ReferenceGrant, Service, TcpRoute, Workload);

/// An address as a key: the v6 one, or the v4 one mapped into v6. Two thirds of the size an `IpAddr` takes beside a pointer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Address([u8; 16]);

impl Address {
    pub(super) fn of(ip: IpAddr) -> Self {
        Self(match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        })
    }

    pub(super) fn ip(self) -> IpAddr {
        IpAddr::from(self.0).to_canonical()
    }
}

/// A Service with an endpoint at an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Backed {
    pub(super) name: ObjectName,
}

/// An object, and the generation in which what follows from it last changed. Two are equal if the objects are.
#[derive(Debug)]
pub(super) struct Revised<T> {
    pub(super) object: Arc<T>,
    pub(super) revision: u64,
}

impl<T> Clone for Revised<T> {
    fn clone(&self) -> Self {
        Self { object: self.object.clone(), revision: self.revision }
    }
}

impl<T: PartialEq> PartialEq for Revised<T> {
    fn eq(&self, other: &Self) -> bool {
        self.object == other.object
    }
}

/// Objects by a key several of them may share.
#[derive(Clone, Debug)]
pub(super) struct Index<K: Ord, V> {
    lists: OrdMap<K, List<V>>,
}

/// Nearly every key has one object: a list of its own for each would take three times the memory.
#[derive(Debug)]
enum List<V> {
    One(Arc<V>),
    Many(Arc<Vec<Arc<V>>>),
}

impl<V> Clone for List<V> {
    fn clone(&self) -> Self {
        match self {
            Self::One(only) => Self::One(only.clone()),
            Self::Many(all) => Self::Many(all.clone()),
        }
    }
}

impl<V: PartialEq> PartialEq for List<V> {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl<V> List<V> {
    fn as_slice(&self) -> &[Arc<V>] {
        match self {
            Self::One(only) => std::slice::from_ref(only),
            Self::Many(all) => all,
        }
    }
}

impl<K: Ord, V: PartialEq> PartialEq for Index<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.lists == other.lists
    }
}

impl<K: Ord, V> Default for Index<K, V> {
    fn default() -> Self {
        Self { lists: OrdMap::new() }
    }
}

impl<K: Ord + Clone, V: Named> Index<K, V> {
    /// Adds `object` under `key`, in place of one of the same name.
    pub(super) fn insert(&mut self, key: K, object: Arc<V>) {
        match self.lists.get_mut(&key) {
            None => _ = self.lists.insert(key, List::One(object)),
            Some(List::Many(all)) => place(Arc::make_mut(all), object),
            Some(List::One(only)) if only.object() == object.object() => *only = object,
            Some(list @ List::One(_)) => {
                let mut all = list.as_slice().to_vec();
                place(&mut all, object);
                *list = List::Many(Arc::new(all));
            }
        }
    }

    /// Takes the object called `name` from under `key`.
    pub(super) fn remove(&mut self, key: &K, name: &V::Name) {
        let Some(list) = self.lists.get_mut(key) else { return };
        match list {
            List::One(only) if only.object() == name => _ = self.lists.remove(key),
            List::One(_) => {}
            // Two or more of different names: at least one stays.
            List::Many(all) => {
                let all = Arc::make_mut(all);
                all.retain(|held| held.object() != name);
                if let [only] = &**all {
                    *list = List::One(only.clone());
                }
            }
        }
    }

    /// The objects under `key`, by name.
    pub(super) fn at<Q>(&self, key: &Q) -> &[Arc<V>]
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.lists.get(key).map_or(&[], List::as_slice)
    }

    /// The objects under every key, by key.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &[Arc<V>])> {
        self.lists.iter().map(|(key, list)| (key, list.as_slice()))
    }
}

/// Keeps the order of names.
fn place<V: Named>(list: &mut Vec<Arc<V>>, object: Arc<V>) {
    match list.binary_search_by(|held| held.object().cmp(object.object())) {
        Ok(at) => list[at] = object,
        Err(at) => list.insert(at, object),
    }
}
