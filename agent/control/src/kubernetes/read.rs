//! What the API server sends, read: lines of a watch and pages of a list, as the model has them.
//!
//! The kinds there are many or much of are read into trimmed types; all others by the very functions that read manifests,
//! so that a policy means the same in a directory and in a cluster.

use std::borrow::Cow;

use k8s_openapi::api::core::v1 as core;
use kube::core::Status;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use weft_core::model::ObjectName;
use weft_core::snapshot::Resource;

use super::item::{Attached, Facts, Item, PodFacts, SliceFacts};
use super::trim;
use crate::manifests::{Body, Header, ObjectRef, Unreadable, convert, selector_of, unknown_fields};
use crate::resource::{self, Findings, Kind, STATUS_ANNOTATION, authorization_policy};

/// Marks the bookmark that ends the initial events of a streaming list.
pub(super) const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// One line of a watch.
#[derive(Debug)]
pub(super) enum Line {
    /// Added or modified; with the revision to go on from.
    Put(Box<Item>, String),
    /// Deleted, or no longer selected.
    Deleted(ObjectRef, String),
    /// Nothing new up to this revision; `true` ends a streaming list.
    Bookmark(String, bool),
    /// The server ends the watch with this.
    Error(Box<Status>),
}

/// One page of a list.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) items: Vec<Item>,
    pub(super) revision: String,
    /// Where the next page begins; empty after the last.
    pub(super) next: String,
}

/// The functions that read one kind.
#[derive(Clone, Copy)]
pub(super) struct Reader {
    pub(super) line: fn(Kind, &[u8]) -> Result<Line, serde_json::Error>,
    pub(super) page: fn(Kind, &[u8]) -> Result<Page, serde_json::Error>,
    pub(super) object: fn(Kind, &[u8]) -> Result<Item, serde_json::Error>,
}

impl Reader {
    /// The one for a kind.
    pub(super) fn of(kind: Kind) -> Self {
        match kind {
            Kind::Node => Self::into::<trim::Node>(),
            Kind::Pod => Self::into::<trim::Pod>(),
            Kind::Service => Self::into::<trim::Service>(),
            Kind::EndpointSlice => Self::into::<trim::EndpointSlice>(),
            Kind::WorkloadSlice => Self::into::<trim::WorkloadSlice>(),
            _ => Self::into::<Whole>(),
        }
    }

    fn into<T: Readable>() -> Self {
        Self { line: line::<T>, page: page::<T>, object: object::<T> }
    }
}

impl Item {
    /// Reads one object, as the API server sends it.
    ///
    /// # Errors
    /// When it is none of this kind.
    pub fn read(kind: Kind, object: &[u8]) -> Result<Self, serde_json::Error> {
        (Reader::of(kind).object)(kind, object)
    }
}

/// What an object of a kind is read into.
trait Readable: DeserializeOwned {
    fn meta(&self) -> Result<Cow<'_, trim::Meta>, serde_json::Error>;
    fn item(self, object: ObjectRef) -> Item;
}

/// An object of a kind there are few of.
#[derive(Deserialize)]
#[serde(transparent)]
struct Whole(serde_json::Value);

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Event<T> {
    #[serde(rename = "type")]
    kind: String,
    object: T,
}

#[derive(Deserialize)]
#[serde(default)]
struct List<T> {
    metadata: ListMeta,
    // Go writes an empty list as null.
    items: Option<Vec<T>>,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { metadata: ListMeta::default(), items: None }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    next: String,
}

fn line<T: Readable>(kind: Kind, line: &[u8]) -> Result<Line, serde_json::Error> {
    // Read once, for nearly all are objects of the kind; a Status need not look like one.
    let (what, object) = match serde_json::from_slice::<Event<T>>(line) {
        Ok(event) if event.kind != "ERROR" => (event.kind, event.object),
        other => {
            let head: Head = serde_json::from_slice(line)?;
            if head.kind == "ERROR" {
                return Ok(Line::Error(Box::new(serde_json::from_slice::<Event<Status>>(line)?.object)));
            }
            other.map(|event| (event.kind, event.object))?
        }
    };
    let meta = object.meta()?;
    match what.as_str() {
        "BOOKMARK" => {
            let end = meta.annotation(INITIAL_EVENTS_END) == Some("true");
            Ok(Line::Bookmark(meta.resource_version.clone(), end))
        }
        "DELETED" => Ok(Line::Deleted(reference(kind, &meta), meta.resource_version.clone())),
        _ => {
            let (reference, revision) = (reference(kind, &meta), meta.resource_version.clone());
            drop(meta);
            Ok(Line::Put(Box::new(object.item(reference)), revision))
        }
    }
}

fn page<T: Readable>(kind: Kind, body: &[u8]) -> Result<Page, serde_json::Error> {
    let list: List<T> = serde_json::from_slice(body)?;
    let mut items = Vec::new();
    for object in list.items.into_iter().flatten() {
        let reference = reference(kind, &*object.meta()?);
        items.push(object.item(reference));
    }
    Ok(Page { items, revision: list.metadata.resource_version, next: list.metadata.next })
}

fn object<T: Readable>(kind: Kind, object: &[u8]) -> Result<Item, serde_json::Error> {
    let object: T = serde_json::from_slice(object)?;
    let reference = reference(kind, &*object.meta()?);
    Ok(object.item(reference))
}

fn reference(kind: Kind, meta: &trim::Meta) -> ObjectRef {
    ObjectRef { kind, namespace: meta.namespace.clone(), name: meta.name.clone() }
}

/// The item of an object that was converted with `findings`.
fn item(object: ObjectRef, resource: Option<Resource>, findings: Findings, facts: Facts) -> Item {
    Item { object, resource, valid: !findings.invalid(), findings: findings.into_vec(), facts }
}

impl Readable for trim::Pod {
    fn meta(&self) -> Result<Cow<'_, trim::Meta>, serde_json::Error> {
        Ok(Cow::Borrowed(&self.metadata))
    }

    fn item(self, object: ObjectRef) -> Item {
        let pod = PodFacts {
            uid: self.metadata.uid.as_str().into(),
            node: self.spec.node_name.as_deref().unwrap_or_default().into(),
            status: self.metadata.annotation(STATUS_ANNOTATION).map(Into::into),
        };
        let mut findings = Findings::default();
        let mut workload = resource::pod::convert(&core::Pod::from(self), &mut findings);
        if let Some(workload) = &mut workload {
            // Here whoever may write a Pod would choose the namespace that is entered: it is found by the UID instead.
            workload.netns = None;
        }
        item(object, workload.map(Resource::Workload), findings, Facts::Pod(pod))
    }
}

impl Readable for trim::Node {
    fn meta(&self) -> Result<Cow<'_, trim::Meta>, serde_json::Error> {
        Ok(Cow::Borrowed(&self.metadata))
    }

    fn item(self, object: ObjectRef) -> Item {
        let mut findings = Findings::default();
        let node = resource::node::convert(&core::Node::from(self), &mut findings);
        item(object, node.map(Resource::Node), findings, Facts::None)
    }
}

impl Readable for trim::Service {
    fn meta(&self) -> Result<Cow<'_, trim::Meta>, serde_json::Error> {
        Ok(Cow::Borrowed(&self.metadata))
    }

    fn item(self, object: ObjectRef) -> Item {
        let mut findings = Findings::default();
        let service = resource::service::convert(&core::Service::from(self), &mut findings);
        item(object, service.map(Resource::Service), findings, Facts::None)
    }
}

impl Readable for trim::EndpointSlice {
    fn meta(&self) -> Result<Cow<'_, trim::Meta>, serde_json::Error> {
        Ok(Cow::Borrowed(&self.metadata))
    }

    fn item(self, object: ObjectRef) -> Item {
        let mut findings = Findings::default();
        let slice = self.convert(&mut findings);
        item(object, slice.map(Resource::EndpointSlice), findings, Facts::None)
    }
}

impl Readable for trim::WorkloadSlice {
    fn meta(&self) -> Result<Cow<'_, trim::Meta>, serde_json::Error> {
        Ok(Cow::Borrowed(&self.metadata))
    }

    fn item(self, object: ObjectRef) -> Item {
        let facts = SliceFacts { revision: self.metadata.resource_version, workloads: self.spec.workloads };
        item(object, None, Findings::default(), Facts::Slice(facts))
    }
}

impl Readable for Whole {
    fn meta(&self) -> Result<Cow<'_, trim::Meta>, serde_json::Error> {
        trim::Meta::deserialize(&self.0["metadata"]).map(Cow::Owned)
    }

    fn item(mut self, object: ObjectRef) -> Item {
        let mut findings = Findings::default();
        if let Some(metadata) = self.0["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        let facts = match object.kind {
            Kind::TcpRoute
            | Kind::HttpRoute
            | Kind::GrpcRoute
            | Kind::BackendTrafficPolicy
            | Kind::TrafficPolicy
            | Kind::AuthorizationPolicy
            | Kind::PeerAuthentication => {
                Attached::deserialize(&self.0).map_or(Facts::None, |facts| Facts::Attached(Box::new(facts)))
            }
            _ => Facts::None,
        };
        match self.convert(object.kind, &mut findings) {
            Ok(resource) => item(object, resource, findings, facts),
            Err(unreadable) => {
                findings.error("", unreadable.reason);
                let name = ObjectName::new(&object.namespace, &object.name).ok();
                let refusing = name
                    .filter(|_| object.kind == Kind::AuthorizationPolicy)
                    .map(|name| authorization_policy::refusing(name, selector_of(Body::Value(&self.0))));
                item(object, refusing.map(Resource::AuthorizationPolicy), findings, facts)
            }
        }
    }
}

impl Whole {
    fn convert(&self, kind: Kind, findings: &mut Findings) -> Result<Option<Resource>, Unreadable> {
        let body = Body::Value(&self.0);
        let header: Header = body.read()?;
        unknown_fields(kind, &header, body, findings);
        convert(kind, body, findings)
    }
}

/// Whether bytes are one whole JSON value: a watch's last line may be cut short by the end of its connection.
pub(super) fn is_whole(line: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(line).is_ok()
}
