//! The shipped manifests, object by object: where each is served, and in what order they need each other.

use std::fmt;

use serde_json::Value;

use super::InstallError;

const MANIFESTS: &str = include_str!("../../../../deploy/weft.yaml");

/// A kind that is installed: its group and version, where it is served, and whether in a namespace. What others need comes
/// first.
pub(super) struct Kind {
    pub(super) api_version: &'static str,
    pub(super) name: &'static str,
    plural: &'static str,
    namespaced: bool,
}

const fn kind(api_version: &'static str, name: &'static str, plural: &'static str, namespaced: bool) -> Kind {
    Kind { api_version, name, plural, namespaced }
}

pub(super) const KINDS: [Kind; 15] = [
    kind("v1", "Namespace", "namespaces", false),
    kind("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", false),
    kind("v1", "ServiceAccount", "serviceaccounts", true),
    kind("v1", "Secret", "secrets", true),
    kind("v1", "ConfigMap", "configmaps", true),
    kind("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", false),
    kind("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", false),
    kind("rbac.authorization.k8s.io/v1", "Role", "roles", true),
    kind("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings", true),
    kind("v1", "Service", "services", true),
    kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", true),
    kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", true),
    // Whoever issues certificates before those who ask for them.
    kind("apps/v1", "Deployment", "deployments", true),
    kind("apps/v1", "DaemonSet", "daemonsets", true),
    kind("coordination.k8s.io/v1", "Lease", "leases", true),
];

/// An object of the manifests.
#[derive(Clone, Debug)]
pub struct Object {
    rank: usize,
    /// As it is applied.
    pub value: Value,
}

impl Object {
    pub(super) fn new(value: Value) -> Result<Self, InstallError> {
        let known = |kind: &Kind| value["kind"] == kind.name && value["apiVersion"] == kind.api_version;
        match KINDS.iter().position(known) {
            Some(rank) => Ok(Self { rank, value }),
            None => Err(InstallError::Manifests(format!("{} {} is not known", value["apiVersion"], value["kind"]))),
        }
    }

    pub(super) fn kind(&self) -> &'static Kind {
        &KINDS[self.rank]
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.value["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// Whether it lies in a namespace.
    #[must_use]
    pub fn is_namespaced(&self) -> bool {
        self.kind().namespaced
    }

    /// Group, resource and namespace, as rights are granted on them.
    pub(super) fn resource(&self) -> (&'static str, &'static str, &str) {
        let Kind { api_version, plural, namespaced, .. } = self.kind();
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let namespace = self.value["metadata"]["namespace"].as_str().filter(|_| *namespaced);
        (group, plural, namespace.unwrap_or_default())
    }

    /// Whether other objects, which people wrote, go with it.
    #[must_use]
    pub fn is_definition(&self) -> bool {
        self.kind().name == "CustomResourceDefinition"
    }

    /// Where the API server has it.
    #[must_use]
    pub fn path(&self) -> String {
        let Kind { api_version, plural, namespaced, .. } = self.kind();
        let root = if api_version.contains('/') { "apis" } else { "api" };
        let namespace = self.value["metadata"]["namespace"].as_str().unwrap_or(super::NAMESPACE);
        let within = if *namespaced { format!("namespaces/{namespace}/") } else { String::new() };
        format!("/{root}/{api_version}/{within}{plural}/{}", self.name())
    }

    /// Moves it from the shipped manifests' namespace to another.
    pub(super) fn set_namespace(&mut self, namespace: &str) {
        if self.value["metadata"]["namespace"] == super::NAMESPACE {
            self.value["metadata"]["namespace"] = namespace.into();
        }
        if self.value["kind"] == "Namespace" {
            self.value["metadata"]["name"] = namespace.into();
        }
    }

    /// Has its containers made of another image.
    pub(super) fn set_image(&mut self, image: &str) {
        let Some(spec) = self.value.pointer_mut("/spec/template/spec") else { return };
        for list in ["initContainers", "containers"] {
            for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                container["image"] = image.into();
            }
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = self.kind().api_version.split_once('/').map(|(group, _)| format!(".{group}")).unwrap_or_default();
        write!(f, "{}{group}/{}", self.kind().name.to_lowercase(), self.name())
    }
}

/// The shipped objects, in the order in which they need each other.
///
/// # Errors
/// Only if they cannot be read, which a test rules out.
pub fn shipped() -> Result<Vec<Object>, InstallError> {
    let values: Vec<Value> =
        serde_saphyr::from_multiple(MANIFESTS).map_err(|error| InstallError::Manifests(error.to_string()))?;
    let mut objects = values.into_iter().map(Object::new).collect::<Result<Vec<_>, _>>()?;
    objects.sort_by_key(|object| object.rank);
    Ok(objects)
}
