//! What becomes of an object of the API server.

use serde::Deserialize;
use weft_core::snapshot::Resource;

use super::trim;
use crate::crd::SliceWorkload;
use crate::manifests::ObjectRef;
use crate::resource::Finding;
use crate::resource::gateway::Parent;

/// An object, as it is now.
#[derive(Debug)]
pub struct Item {
    /// Which it is.
    pub object: ObjectRef,
    /// What it became; `None` for what the mesh has no use for.
    pub resource: Option<Resource>,
    /// Whether it was understood. If not, an earlier version that was stays in force.
    pub valid: bool,
    /// What is wrong with it.
    pub findings: Vec<Finding>,
    /// What it says beside what the model holds of it.
    pub facts: Facts,
}

/// What an object says beside what the model holds of it, by kind.
#[derive(Debug)]
pub enum Facts {
    /// Nothing that is of use.
    None,
    /// Of a Pod.
    Pod(PodFacts),
    /// Of a WorkloadSlice.
    Slice(SliceFacts),
    /// Of an object whose status says what has become of it.
    Attached(Box<Attached>),
}

/// What a Pod says beside what the model holds of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodFacts {
    /// Its UID.
    pub uid: Box<str>,
    /// Its node; empty until it has one.
    pub node: Box<str>,
    /// `weft.dev/status`, as its node's agent wrote it.
    pub status: Option<Box<str>>,
}

/// A WorkloadSlice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SliceFacts {
    /// Its revision, for who writes it.
    pub revision: String,
    /// Its pods.
    pub workloads: Vec<SliceWorkload>,
}

/// A route or a policy, of whichever kind.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(from = "trim::Attached")]
pub struct Attached {
    /// Its revision, for who writes its status.
    pub revision: String,
    /// The generation of its spec.
    pub generation: Option<i64>,
    /// What it is attached to: its parentRefs, or its targetRefs.
    pub to: Vec<Parent>,
    /// What stands in its `status.parents`, `status.ancestors` or `status.conditions`, as it stands there: most of it may be other
    /// controllers'.
    pub said: Vec<serde_json::Value>,
}
