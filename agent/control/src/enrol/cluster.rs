//! What is known of a cluster when the label is judged.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde::de::DeserializeOwned;
use serde_json::Value;
use weft_core::model::{Labels, MeshLabel, Name, Namespace, TrustDomain};
use weft_core::snapshot::{Delta, Resource, Snapshot};

use super::network::{Namespaces, Policy};
use super::pod::Pod;
use crate::install::check::Finding;
use crate::kubernetes::Item;
use crate::resource::{Kind, MESH_LABEL};

/// Kinds that are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Seen {
    Namespace,
    Pod,
    NetworkPolicy,
    Service,
    PeerAuthentication,
    AuthorizationPolicy,
}

/// A cluster, or as much of one as could be read.
pub(super) struct Cluster {
    snapshot: Snapshot,
    deltas: Vec<Delta>,
    pub(super) namespaces: Namespaces,
    pub(super) pods: Vec<Pod>,
    pub(super) policies: Vec<Policy>,
    /// Services of the namespace that is judged.
    pub(super) services: Vec<core::Service>,
    /// What could not be read or understood.
    pub(super) remarks: Vec<Finding>,
}

impl Cluster {
    pub(super) fn new(trust_domain: &TrustDomain) -> Self {
        Self {
            snapshot: Snapshot::new(trust_domain.clone()),
            deltas: Vec::new(),
            namespaces: Namespaces::new(),
            pods: Vec::new(),
            policies: Vec::new(),
            services: Vec::new(),
            remarks: Vec::new(),
        }
    }

    /// Adds an object.
    pub(super) fn add(&mut self, seen: Seen, object: Value) {
        let name = format!("{seen:?} {}", object["metadata"]["name"].as_str().unwrap_or("?"));
        if let Err(cause) = self.take(seen, object) {
            self.remarks.push(Finding::remark(format!("{name} cannot be understood: {cause}"), "mend it"));
        }
    }

    fn take(&mut self, seen: Seen, object: Value) -> Result<(), String> {
        match seen {
            Seen::Namespace => {
                let space: core::Namespace = typed(object.clone())?;
                let name = space.metadata.name.unwrap_or_default();
                self.namespaces.insert(name, space.metadata.labels.unwrap_or_default());
                self.read(Kind::Namespace, &object)
            }
            Seen::Pod => {
                let pod = Pod::of(&typed(object)?).ok_or("it has no name")?;
                self.deltas.push(Delta::Put(Resource::Workload(pod.workload.clone())));
                self.pods.push(pod);
                Ok(())
            }
            Seen::NetworkPolicy => {
                self.policies.push(Policy::of(&typed::<NetworkPolicy>(object)?)?);
                Ok(())
            }
            Seen::Service => {
                self.services.push(typed(object)?);
                Ok(())
            }
            Seen::PeerAuthentication => self.read(Kind::PeerAuthentication, &object),
            Seen::AuthorizationPolicy => self.read(Kind::AuthorizationPolicy, &object),
        }
    }

    /// Reads an object as agents do.
    fn read(&mut self, kind: Kind, object: &Value) -> Result<(), String> {
        let item = Item::read(kind, object.to_string().as_bytes()).map_err(|error| error.to_string())?;
        self.deltas.extend(item.resource.map(Delta::Put));
        let wrong = item.findings.into_iter().find(|finding| !finding.warning);
        wrong.map_or(Ok(()), |finding| Err(format!("{} {}", finding.path, finding.reason).trim_start().to_owned()))
    }

    /// What agents would know of it if the namespace were labelled.
    pub(super) fn labelled(&self, name: &Name) -> (Snapshot, Namespaces) {
        let mut namespaces = self.namespaces.clone();
        namespaces.entry(name.to_string()).or_default().insert(MESH_LABEL.to_owned(), "enabled".to_owned());
        let label = Namespace {
            name: name.clone(),
            mesh: Some(MeshLabel::Enabled),
            labels: Labels::default(),
            fast_path: true,
            detect: None,
        };
        let deltas = self.deltas.iter().cloned().chain([Delta::Put(Resource::Namespace(label))]);
        (self.snapshot.apply(deltas), namespaces)
    }
}

fn typed<T: DeserializeOwned>(object: Value) -> Result<T, String> {
    serde_json::from_value(object).map_err(|error| error.to_string())
}
