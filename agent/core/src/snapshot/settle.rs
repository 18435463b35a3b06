//! The second half of applying deltas: whatever depends on what changed is computed anew from the primary tables.
//!
//! Nothing derived is ever adjusted, which is what makes the order and the grouping of deltas irrelevant.

use std::net::IpAddr;
use std::sync::Arc;

use super::batch::Batch;
use super::index::Revised;
use super::policies::NamespacePolicies;
use super::{Family, ServicePortKey, http, routes, traffic};
use crate::model::{Name, ObjectName};

impl Batch {
    /// Computes what is marked.
    pub(super) fn settle(&mut self) {
        let marks = std::mem::take(&mut self.marks);
        let mut services = marks.services;
        for ip in marks.addresses {
            self.settle_address(ip);
            services.extend(self.next.primary.backed_at.at(ip).iter().map(|backed| backed.name.clone()));
        }
        for service in services {
            self.revise(&service);
        }
        for service in marks.splits {
            self.settle_traffic(&service);
            self.settle_http(&service);
            self.settle_splits(&service);
        }
        for namespace in marks.policies {
            self.settle_policies(namespace);
        }
    }

    fn settle_address(&mut self, ip: IpAddr) {
        let virtual_address = !self.next.services_at(ip).is_empty();
        let live = || self.next.pod_at(ip).is_some_and(|pod| self.next.is_known_live(pod));
        let there = virtual_address || live();
        self.next.derived.destinations.set(ip, there);
    }

    /// A service's endpoints may be others from this generation on. What they are is worked out for who asks.
    fn revise(&mut self, name: &ObjectName) {
        let services = &mut self.next.primary.services;
        if let Some(object) = services.get(name).map(|held| held.object.clone()) {
            services.insert(Revised { object, revision: self.next.generation + 1 });
        }
    }

    /// Replaces only what differs: requests under way keep their rule's counters and budgets.
    fn settle_http(&mut self, name: &ObjectName) {
        let Some(service) = self.next.service(name) else { return };
        let ports = service.ports.iter().map(|port| port.port);
        let mut ports: http::Ports =
            ports.filter_map(|port| Some((port, Arc::new(http::resolve(&self.next, name, port)?)))).collect();
        for (port, held) in self.next.derived.http.get(name).into_iter().flatten() {
            ports.entry(*port).and_modify(|new| {
                if **new == **held {
                    *new = held.clone()
                }
            });
        }
        if ports.is_empty() {
            self.next.derived.http.remove(name);
        } else {
            self.next.derived.http.insert(name.clone(), ports);
        }
    }

    /// Replaces only what differs: what is measured under a setting goes on under the same.
    fn settle_traffic(&mut self, name: &ObjectName) {
        let Some(service) = self.next.service(name) else { return };
        let held = self.next.derived.traffic.get(name);
        let mut ports = traffic::Ports::new();
        for port in &service.ports {
            let Some(new) = traffic::of_port(&self.next, service, port) else { continue };
            let held = held.and_then(|held| held.get(&port.port)).filter(|held| ***held == new);
            ports.insert(port.port, held.cloned().unwrap_or_else(|| Arc::new(new)));
        }
        if ports.is_empty() {
            self.next.derived.traffic.remove(name);
        } else {
            self.next.derived.traffic.insert(name.clone(), ports);
        }
    }

    fn settle_splits(&mut self, name: &ObjectName) {
        let Some(service) = self.next.service(name).cloned() else { return };
        for (port, family) in service.ports.iter().flat_map(|port| Family::ALL.map(|family| (port, family))) {
            let key = ServicePortKey { service: name.clone(), port: port.port, family };
            let resolved = routes::resolve(&self.next, &key);
            let splits = &mut self.next.derived.splits;
            match (resolved, splits.get(&key)) {
                (Some(mut split), Some(held)) => {
                    split.keep(held);
                    if split != *held {
                        splits.insert(key, split);
                    }
                }
                (Some(split), None) => _ = splits.insert(key, split),
                (None, _) => _ = splits.remove(&key),
            }
        }
    }

    fn settle_policies(&mut self, namespace: Name) {
        let tables = &self.next.primary;
        let authorization = tables.authorization_in.at(&namespace);
        let authentication = tables.authentication_in.at(&namespace);
        if authorization.is_empty() && authentication.is_empty() {
            self.next.derived.policies.remove(&namespace);
        } else {
            let compiled = NamespacePolicies::compile(authorization, authentication);
            self.next.derived.policies.insert(namespace, Arc::new(compiled));
        }
    }
}
