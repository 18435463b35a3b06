//! `weft check --manifests DIR`: everything that is wrong with a directory, without running anything.
//!
//! Beyond what the source itself reports it looks at how objects fit together: all of it warnings, because a missing
//! half may be on its way, and because each has a defined meaning while the mesh runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use weft_core::model::{
    AuthorizationPolicy, EndpointSlice, MeshLabel, Name, ObjectName, Scope, Selector, Service, TrustDomain, Workload,
};
use weft_core::snapshot::{Delta, Resource, Snapshot};

use super::memory::Memory;
use super::problem::{ObjectRef, Problem, Severity};
use crate::resource::{Kind, MESH_LABEL, NETNS_ANNOTATION};
use crate::review::review;

/// Checks the manifests of a directory, for a mesh of this trust domain. Sorted by file and line; empty if all is well.
#[must_use]
pub fn check(directory: &Path, trust_domain: &TrustDomain) -> Vec<Problem> {
    let mut memory = Memory::default();
    let mut problems = memory.refresh(&[PathBuf::from(directory)]).problems;
    let mut review = Review::of(&memory, trust_domain);
    let mut misfits: BTreeMap<ObjectRef, Vec<String>> = BTreeMap::new();
    for misfit in self::review(&review.snapshot) {
        misfits.entry(misfit.object).or_default().push(misfit.reason);
    }
    for (path, object, held) in memory.objects() {
        let place = Place { path, line: held.line, object };
        for reason in misfits.remove(object).into_iter().flatten() {
            review.warn(&place, reason);
        }
        match &held.resource {
            Some(Resource::Workload(pod)) => review.pod(&place, pod),
            Some(Resource::Service(service)) => review.service(&place, service),
            Some(Resource::EndpointSlice(slice)) => review.slice(&place, slice),
            Some(Resource::PeerAuthentication(policy)) => {
                review.selector(&place, &policy.name.namespace, Some(&policy.selector));
            }
            Some(Resource::AuthorizationPolicy(policy)) => {
                let selector = match &policy.scope {
                    Scope::Namespace => None,
                    Scope::Workloads(selector) => Some(selector),
                };
                review.selector(&place, &policy.name.namespace, selector);
                review.principals(&place, policy);
            }
            _ => {}
        }
    }
    problems.append(&mut review.problems);
    problems.sort();
    problems
}

struct Place<'a> {
    path: &'a Path,
    line: usize,
    object: &'a ObjectRef,
}

/// The objects, as the checks look them up.
struct Review<'a> {
    snapshot: Snapshot,
    meshed_namespaces: BTreeSet<&'a Name>,
    pods: Vec<&'a Workload>,
    services: BTreeMap<&'a ObjectName, &'a Service>,
    sliced: BTreeSet<&'a ObjectName>,
    accounts: BTreeSet<(&'a str, &'a str)>,
    problems: Vec<Problem>,
}

impl<'a> Review<'a> {
    fn of(memory: &'a Memory, trust_domain: &TrustDomain) -> Self {
        let put = memory.objects().into_iter().filter_map(|(_, _, held)| held.resource.clone()).map(Delta::Put);
        let mut review = Self {
            snapshot: Snapshot::new(trust_domain.clone()).apply(put),
            meshed_namespaces: BTreeSet::new(),
            pods: Vec::new(),
            services: BTreeMap::new(),
            sliced: BTreeSet::new(),
            accounts: BTreeSet::new(),
            problems: Vec::new(),
        };
        for (_, object, held) in memory.objects() {
            match &held.resource {
                Some(Resource::Namespace(n)) if n.mesh == Some(MeshLabel::Enabled) => {
                    review.meshed_namespaces.insert(&n.name);
                }
                Some(Resource::Workload(pod)) => review.pods.push(pod),
                Some(Resource::Service(service)) => _ = review.services.insert(&service.name, service),
                Some(Resource::EndpointSlice(slice)) => _ = review.sliced.insert(&slice.service),
                None if object.kind == Kind::ServiceAccount => {
                    review.accounts.insert((&object.namespace, &object.name));
                }
                _ => {}
            }
        }
        review
    }

    fn warn(&mut self, place: &Place<'_>, reason: String) {
        self.problems.push(Problem {
            file: place.path.to_string_lossy().into(),
            line: Some(place.line),
            severity: Severity::Warning,
            object: Some(place.object.clone()),
            reason,
        });
    }

    fn pod(&mut self, place: &Place<'a>, pod: &'a Workload) {
        let account = (pod.name.namespace.as_str(), pod.service_account.as_str());
        let listed = self.accounts.iter().any(|(namespace, _)| *namespace == account.0);
        if listed && account.1 != "default" && !self.accounts.contains(&account) {
            self.warn(place, format!("runs as service account {}/{}, which is nowhere defined", account.0, account.1));
        }
        let by_namespace = self.meshed_namespaces.contains(&pod.name.namespace);
        let meshed = pod.mesh.map_or(by_namespace, |label| label == MeshLabel::Enabled);
        if !meshed {
            return;
        }
        if pod.host_network {
            self.warn(place, format!("is labelled {MESH_LABEL}=enabled but shares its node's network: it stays out"));
        } else if pod.addresses.is_empty() {
            self.warn(place, "is to be meshed but has no status.podIP: it stays out until it has one".to_owned());
        } else if pod.netns.is_none() {
            let remedy = format!("add the annotation {NETNS_ANNOTATION} with the path of its network namespace");
            self.warn(place, format!("is to be meshed, but a standalone agent cannot find it: {remedy}"));
        }
        if pod.node.is_empty() {
            self.warn(place, "has no spec.nodeName: no agent will take it for its own".to_owned());
        }
    }

    fn service(&mut self, place: &Place<'a>, service: &'a Service) {
        if !service.cluster_ips.is_empty() && !service.ports.is_empty() && !self.sliced.contains(&service.name) {
            self.warn(place, "has no EndpointSlice: connections to it are refused".to_owned());
        }
    }

    fn slice(&mut self, place: &Place<'a>, slice: &EndpointSlice) {
        let Some(service) = self.services.get(&slice.service) else { return };
        let missing: Vec<_> = service.ports.iter().filter(|port| slice.port(&port.name).is_none()).collect();
        if let Some(port) = missing.first() {
            let reason = format!(
                "has no port named {:?}, as port {} of Service {} is: it serves nothing there",
                port.name, port.port, slice.service
            );
            self.warn(place, reason);
        }
    }

    fn principals(&mut self, place: &Place<'a>, policy: &AuthorizationPolicy) {
        let peers = policy.rules.iter().flat_map(|rule| &rule.from);
        let named = peers.flat_map(|peer| peer.principals.any.iter().chain(&peer.principals.none));
        let foreign: Vec<_> = named.filter(|id| id.trust_domain != *self.snapshot.trust_domain()).collect();
        for identity in foreign {
            self.warn(place, format!("names {identity}: no peer of this mesh can be of that trust domain"));
        }
    }

    fn selector(&mut self, place: &Place<'a>, namespace: &Name, selector: Option<&Selector>) {
        let Some(selector) = selector.filter(|selector| !selector.is_empty()) else { return };
        if !self.pods.iter().any(|pod| pod.name.namespace == *namespace && selector.matches(&pod.labels)) {
            self.warn(place, format!("selects no pod of namespace {namespace}"));
        }
    }
}
