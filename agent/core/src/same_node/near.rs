//! What of a big cluster concerns the pods of one node: of most changes it can be told at once that the kernel need not hear of
//! them.

use std::collections::HashSet;
use std::net::IpAddr;

use super::Local;
use crate::model::{EndpointSlice, ObjectName, Service};
use crate::snapshot::{Delta, Key, Resource, Snapshot};

/// The surroundings of a node's pods, as one snapshot has them.
#[derive(Clone, Debug, Default)]
pub struct Near {
    /// Services with an endpoint here.
    services: HashSet<ObjectName>,
    /// Addresses of the pods and of those services.
    addresses: HashSet<IpAddr>,
}

impl Near {
    /// Those of `pods`.
    #[must_use]
    pub fn of(snapshot: &Snapshot, pods: &[Local]) -> Self {
        let mut near = Self::default();
        for ip in pods.iter().flat_map(|pod| &pod.workload.addresses) {
            near.addresses.insert(*ip);
            near.services.extend(snapshot.services_with_endpoint_at(*ip).into_iter().cloned());
        }
        let services = near.services.iter().filter_map(|name| snapshot.service(name));
        near.addresses.extend(services.flat_map(|service| service.cluster_ips.iter().copied()));
        near
    }

    /// Whether a change to what is `known` may change what [`super::same_node`] says of those pods. What it does to the shares
    /// of pods elsewhere ([`Resource::Peers`]) is left out: who follows changes looks again before long.
    #[must_use]
    pub fn is_concerned(&self, delta: &Delta, known: &Snapshot) -> bool {
        match delta {
            Delta::Put(Resource::EndpointSlice(slice)) => {
                self.lists(slice) || known.slice(&slice.name).is_some_and(|old| self.lists(old))
            }
            Delta::Remove(Key::EndpointSlice(name)) => known.slice(name).is_some_and(|old| self.lists(old)),
            Delta::Put(Resource::Service(service)) => {
                self.meets(service) || known.service(&service.name).is_some_and(|old| self.meets(old))
            }
            Delta::Remove(Key::Service(name)) => known.service(name).is_some_and(|old| self.meets(old)),
            Delta::Put(Resource::Peers(_)) | Delta::Remove(Key::Peers(_)) => false,
            _ => true,
        }
    }

    fn lists(&self, slice: &EndpointSlice) -> bool {
        self.services.contains(&slice.service)
            || slice.endpoints.iter().any(|endpoint| self.addresses.contains(&endpoint.address))
    }

    fn meets(&self, service: &Service) -> bool {
        self.services.contains(&service.name) || service.cluster_ips.iter().any(|ip| self.addresses.contains(ip))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::same_node;
    use super::*;
    use crate::balance::Balancers;
    use crate::model::NodeLiveness;
    use crate::testing::snapshot;
    use crate::testing::strategies::{deltas, deltas_of_many, workloads};

    fn locals(snapshot: &Snapshot) -> Vec<Local> {
        let of = |(number, workload)| Local { cookie: u64::from(number), number: Some(number), workload };
        (0..).zip(snapshot.workloads_on("n1").cloned()).map(of).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// What concerns nobody here changes nothing of what the kernel is told.
        #[test]
        fn what_is_left_out_changes_nothing(
            pods in vec(workloads(), 1..6), many in vec(deltas_of_many(), 1..20), more in vec(deltas(), 0..4), delta in deltas_of_many(),
        ) {
            let live = NodeLiveness { node: "n1".into(), live: ["u1", "u2", "u3", "u4"].map(Into::into).into() };
            let pods = pods.into_iter().map(Resource::Workload).chain([Resource::Liveness(live)]);
            let before = snapshot(pods).apply(many).apply(more);
            let pods = locals(&before);
            if !Near::of(&before, &pods).is_concerned(&delta, &before) {
                let now = Instant::now();
                let plan = |snapshot: &Snapshot| same_node(snapshot, &pods, &Balancers::new(), 16, now);
                prop_assert_eq!(plan(&before), plan(&before.apply([delta])));
            }
        }
    }
}
