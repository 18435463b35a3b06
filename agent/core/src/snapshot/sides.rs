//! Whose routes decide for whom (Gateway API, GAMMA): the same for connections and for requests.
//!
//! A route in the namespace of the Service it is attached to is a producer's and decides for every client; one elsewhere
//! is a consumer's and decides for the clients of its own namespace. For those it stands in the place of the producer's:
//! a consumer says what becomes of its own connections.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::http::HttpRouter;
use crate::model::{Name, ObjectName, ParentRef, Service};

/// What decides for one service port, by who its client is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sides<T> {
    producer: Option<Arc<T>>,
    consumers: BTreeMap<Name, Arc<T>>,
}

/// What decides for the requests to one service port.
pub type HttpRoutes = Sides<HttpRouter>;

impl<T> Default for Sides<T> {
    fn default() -> Self {
        Self { producer: None, consumers: BTreeMap::new() }
    }
}

impl<T> Sides<T> {
    /// What decides for the clients of a namespace, if anything does.
    #[must_use]
    pub fn for_client(&self, namespace: &Name) -> Option<&Arc<T>> {
        self.consumers.get(namespace).or(self.producer.as_ref())
    }

    /// What decides for every client that no consumer's routes are for, if anything does.
    #[must_use]
    pub fn for_others(&self) -> Option<&Arc<T>> {
        self.producer.as_ref()
    }

    /// All that decides: the producer's, then the consumers', by namespace.
    pub fn all(&self) -> impl Iterator<Item = &Arc<T>> {
        self.producer.iter().chain(self.consumers.values())
    }

    /// Notes what the routes of a namespace decide for a port of `service`.
    pub(super) fn set(&mut self, service: &ObjectName, namespace: &Name, decides: T) {
        let decides = Arc::new(decides);
        if *namespace == service.namespace {
            self.producer = Some(decides);
        } else {
            self.consumers.insert(namespace.clone(), decides);
        }
    }

    /// The same, if anything decides.
    pub(super) fn if_any(self) -> Option<Self> {
        (self.producer.is_some() || !self.consumers.is_empty()).then_some(self)
    }
}

impl<T: PartialEq> Sides<T> {
    /// Keeps of `held` what is the same, so that what is counted under it goes on.
    pub(super) fn keep(&mut self, held: &Self) {
        let keep = |new: &mut Arc<T>, held: Option<&Arc<T>>| {
            if let Some(held) = held.filter(|held| ***held == **new) {
                *new = held.clone();
            }
        };
        self.producer.iter_mut().for_each(|new| keep(new, held.producer.as_ref()));
        self.consumers.iter_mut().for_each(|(namespace, new)| keep(new, held.consumers.get(namespace)));
    }
}

/// Whether a route with these parents is attached to a port of a Service.
pub(super) fn covers(parents: &[ParentRef], service: &Service, port: u16) -> bool {
    let mut ports = service.ports.iter().filter(|of| of.port == port);
    ports.any(|port| parents.iter().any(|parent| parent.service == service.name && parent.takes(port)))
}

/// Routes by their namespaces, each in the order they come in.
pub(super) fn by_namespace<'a, R>(
    routes: impl Iterator<Item = &'a R>,
    name: impl Fn(&'a R) -> &'a ObjectName,
) -> BTreeMap<&'a Name, Vec<&'a R>> {
    let mut sides: BTreeMap<&'a Name, Vec<&'a R>> = BTreeMap::new();
    for route in routes {
        sides.entry(&name(route).namespace).or_default().push(route);
    }
    sides
}
