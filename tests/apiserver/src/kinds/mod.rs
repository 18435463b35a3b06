//! What is served: built-in kinds from the types of `k8s-openapi`, others from CustomResourceDefinitions.
//!
//! A [`Resource`] is one plural in one version of one group. Handlers ask it how to decode, default, check and number a
//! body; they never ask what kind it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

pub(crate) mod builtin;
mod custom;
mod defaults;
mod events;
mod pod;
mod validate;

pub(crate) use builtin::Builtin;
pub(crate) use custom::{Custom, resources_of};
pub(crate) use pod::admit as admit_pod;
pub(crate) use validate::metadata as metadata_errors;

/// What a resource's bodies are held to.
#[derive(Clone)]
pub(crate) enum Shape {
    /// A type of the Kubernetes API.
    Builtin(&'static Builtin),
    /// A structural schema.
    Custom(Arc<Custom>),
}

/// When `metadata.generation` counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Generation {
    /// Never: the kind has none.
    Never,
    /// When `spec` changes.
    Spec,
    /// When anything but metadata and status changes.
    Body,
}

/// One plural of one version of one group.
#[derive(Clone)]
pub(crate) struct Resource {
    /// Empty for the core group.
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) namespaced: bool,
    /// Whether there is a status subresource.
    pub(crate) status: bool,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) generation: Generation,
    pub(crate) shape: Shape,
}

impl Resource {
    /// `apps/v1`, or `v1` for the core group.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `leases.coordination.k8s.io`, as messages name it.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The table its objects are in, which versions share, and both groups of events.
    pub(crate) fn table(&self) -> String {
        if self.is(events::GROUP, "events") { "events".into() } else { self.qualified() }
    }

    /// Whether objects are stored in another form than they are served in.
    pub(crate) fn is_converted(&self) -> bool {
        self.is(events::GROUP, "events")
    }

    /// An object as it is stored.
    pub(crate) fn to_stored(&self, object: Value) -> Value {
        if self.is_converted() { events::to_core(object) } else { object }
    }

    /// A stored object as it is served.
    pub(crate) fn to_served(&self, object: Value) -> Value {
        if self.is_converted() { events::from_core(object) } else { object }
    }

    /// `Lease.coordination.k8s.io`.
    pub(crate) fn qualified_kind(&self) -> String {
        if self.group.is_empty() { self.kind.clone() } else { format!("{}.{}", self.kind, self.group) }
    }

    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    pub(crate) fn builtin(&self) -> Option<&'static Builtin> {
        match &self.shape {
            Shape::Builtin(builtin) => Some(builtin),
            Shape::Custom(_) => None,
        }
    }

    pub(crate) fn custom(&self) -> Option<&Custom> {
        match &self.shape {
            Shape::Builtin(_) => None,
            Shape::Custom(custom) => Some(custom),
        }
    }

    /// Fields beside name and namespace that field selectors may name.
    pub(crate) fn selectable(&self) -> Vec<String> {
        match &self.shape {
            Shape::Builtin(builtin) => builtin.fields.iter().map(|&field| field.to_owned()).collect(),
            Shape::Custom(custom) => custom.selectable.clone(),
        }
    }

    /// The object that bookmarks carry, but for its metadata: what is left of a type with nothing set.
    pub(crate) fn empty(&self) -> Value {
        let mut empty = self.builtin().map_or_else(|| json!({}), |builtin| (builtin.empty)());
        empty["kind"] = self.kind.clone().into();
        empty["apiVersion"] = self.api_version().into();
        empty
    }
}

/// All resources, by group, version and plural.
#[derive(Default)]
pub(crate) struct Registry {
    resources: BTreeMap<(String, String, String), Arc<Resource>>,
}

impl Registry {
    /// With every built-in kind.
    pub(crate) fn new() -> Self {
        let mut registry = Self::default();
        for builtin in builtin::ALL {
            registry.add(builtin.resource());
        }
        registry
    }

    pub(crate) fn add(&mut self, resource: Resource) {
        let key = (resource.group.clone(), resource.version.clone(), resource.plural.clone());
        self.resources.insert(key, Arc::new(resource));
    }

    /// Stops serving a custom plural, in all versions.
    pub(crate) fn remove(&mut self, group: &str, plural: &str) {
        self.resources.retain(|(g, _, p), resource| g != group || p != plural || resource.builtin().is_some());
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.resources.get(&(group.to_owned(), version.to_owned(), plural.to_owned())).cloned()
    }

    /// Any version of a plural.
    pub(crate) fn any_version(&self, group: &str, plural: &str) -> Option<Arc<Resource>> {
        self.resources.values().find(|resource| resource.is(group, plural)).cloned()
    }

    pub(crate) fn has(&self, group: &str, version: &str) -> bool {
        self.resources.keys().any(|(g, v, _)| g == group && v == version)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }
}
