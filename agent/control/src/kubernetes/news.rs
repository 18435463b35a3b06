//! What is asked of a watch, and what it has to tell.

use std::sync::Arc;

use super::item::Item;
use super::names::Names;
use crate::manifests::ObjectRef;
use crate::resource::Kind;

/// What is watched of a kind.
#[derive(Clone, Debug)]
pub struct Interest {
    /// The kind.
    pub kind: Kind,
    /// Only objects of this namespace.
    pub namespace: Option<Arc<str>>,
    /// Only objects these fields select, such as `spec.nodeName=n1`.
    pub fields: Option<String>,
}

impl From<Kind> for Interest {
    fn from(kind: Kind) -> Self {
        Self { kind, namespace: None, fields: None }
    }
}

/// What a watch has to tell.
#[derive(Debug)]
pub enum News {
    /// An object is there; the list it is in is still being read.
    Found(Box<Item>),
    /// A list has been read to its end: of the kind there are these, each of which has been told of, and no other.
    Listed(Names),
    /// An object is there, or has changed.
    Put(Box<Item>),
    /// An object has gone.
    Deleted(ObjectRef),
    /// The cluster does not have the kind.
    Absent,
}
