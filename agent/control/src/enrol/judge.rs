//! The judgement: a cluster as it is and a namespace in; findings out. Pure.

use serde::Serialize;
use weft_core::model::Name;
use weft_core::snapshot::Snapshot;

use super::cluster::Cluster;
use super::network::{Direction, Namespaces, Policy, Ports, open};
use super::pod::Pod;
use super::{clients, paths, plaintext, standing};
use crate::install::check::{Finding, Grade};
use crate::resource::MESH_LABEL;

/// What the label would do to a namespace.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The namespace.
    pub namespace: String,
    /// Whether it is labelled already.
    pub labelled: bool,
    /// Pods that would be in the mesh.
    pub joining: usize,
    /// Pods of it that would not.
    pub staying: usize,
    /// What would come of it. What is [`Grade::Wrong`] works now and would not then.
    pub findings: Vec<Finding>,
}

impl Report {
    /// How many findings say that something would break.
    #[must_use]
    pub fn breaks(&self) -> usize {
        self.findings.iter().filter(|finding| finding.grade == Grade::Wrong).count()
    }
}

/// A cluster as it would be if the namespace were labelled.
pub(super) struct After<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) snapshot: Snapshot,
    pub(super) namespaces: Namespaces,
    pub(super) namespace: &'a Name,
    /// Pods of the namespace that would be meshed.
    pub(super) joining: Vec<Placed<'a>>,
    /// Meshed pods of other namespaces.
    pub(super) meshed: Vec<Placed<'a>>,
    /// Pods that would stay outside the mesh, wherever they are.
    pub(super) outside: Vec<Placed<'a>>,
}

/// A pod and the NetworkPolicies that restrict it.
#[derive(Clone)]
pub(super) struct Placed<'a> {
    pub(super) pod: &'a Pod,
    pub(super) ingress: Vec<&'a Policy>,
    pub(super) egress: Vec<&'a Policy>,
}

impl<'a> After<'a> {
    fn new(cluster: &'a Cluster, namespace: &'a Name) -> Self {
        let (snapshot, namespaces) = cluster.labelled(namespace);
        let mut after = Self {
            cluster,
            snapshot,
            namespaces,
            namespace,
            joining: Vec::new(),
            meshed: Vec::new(),
            outside: Vec::new(),
        };
        for pod in cluster.pods.iter().filter(|pod| !pod.over) {
            let restricting =
                |direction| cluster.policies.iter().filter(|policy| policy.restricts(direction, pod)).collect();
            let placed =
                Placed { pod, ingress: restricting(Direction::Ingress), egress: restricting(Direction::Egress) };
            let meshed = after.snapshot.is_labelled(&pod.workload) && !pod.workload.host_network;
            match (meshed, pod.workload.name.namespace == *namespace) {
                (true, true) => after.joining.push(placed),
                (true, false) => after.meshed.push(placed),
                (false, _) => after.outside.push(placed),
            }
        }
        after
    }

    /// Pods of the namespace that would stay outside.
    pub(super) fn staying(&self) -> impl Iterator<Item = &'a Pod> {
        self.outside.iter().map(|placed| placed.pod).filter(|pod| pod.workload.name.namespace == *self.namespace)
    }

    /// The TCP ports NetworkPolicies leave open from one pod to another: (at the client, at the server).
    pub(super) fn open(&self, client: &Placed<'_>, server: &Placed<'_>) -> (Ports, Ports) {
        let egress = open(&client.egress, Direction::Egress, (server.pod, server.pod), &self.namespaces);
        let ingress = open(&server.ingress, Direction::Ingress, (client.pod, server.pod), &self.namespaces);
        (egress, ingress)
    }
}

/// Judges what the label would do to a namespace.
pub(super) fn judge(cluster: &Cluster, namespace: &Name) -> Report {
    let after = After::new(cluster, namespace);
    let mut findings = standing::findings(&after);
    findings.extend(paths::findings(&after));
    findings.extend(plaintext::findings(&after));
    findings.extend(clients::findings(&after));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.grade));
    findings.extend(cluster.remarks.iter().cloned());
    let labels = cluster.namespaces.get(namespace.as_str());
    Report {
        namespace: namespace.to_string(),
        labelled: labels.and_then(|labels| labels.get(MESH_LABEL)).is_some_and(|value| value == "enabled"),
        joining: after.joining.len(),
        staying: after.staying().count(),
        findings,
    }
}
