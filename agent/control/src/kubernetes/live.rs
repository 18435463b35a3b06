//! The pods of this node: what is written on them, and which of them are live.
//!
//! The agent says by itself which are; before it has looked at all of them, what its predecessor wrote on them holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use weft_core::model::NodeLiveness;
use weft_core::snapshot::{Delta, Resource};

use super::item::{Facts, Item, PodFacts};
use super::names::Names;
use super::watch::PAUSE_MAX;
use crate::manifests::ObjectRef;
use crate::standing::Standing;

/// A pod of this node, as the API server has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Observed {
    pub(super) object: ObjectRef,
    /// Its `weft.dev/status`.
    pub(super) status: Option<Box<str>>,
    /// A WorkloadSlice says that it is live.
    pub(super) published: bool,
}

/// Pods of this node by UID.
pub(super) type Here = BTreeMap<Arc<str>, Observed>;

/// Time in which a mark is written and read again while the API server is there.
const SOON: Duration = Duration::from_secs(1);

/// What is written on the pods of this node.
#[derive(Clone, Debug)]
pub struct Marks(pub(super) watch::Receiver<Arc<Here>>);

impl Marks {
    /// Waits until a pod carries no word of being enrolled and no slice says that it is live, or it is gone, or nobody
    /// looks any more; and until every other agent can have read so. If it took long, the API server or the controller was
    /// away, and they come back to it one by one.
    pub(crate) async fn gone(&self, uid: &str) {
        let began = Instant::now();
        let marked = |pod: &Observed| pod.status.as_deref() == Some(Standing::ENROLLED);
        let enrolled = |here: &Here| here.get(uid).is_some_and(|pod| marked(pod) || pod.published);
        // An error: the source has ended.
        let _ = self.0.clone().wait_for(|here| !enrolled(here)).await;
        if began.elapsed() > SOON {
            tokio::time::sleep(PAUSE_MAX + SOON).await;
        }
    }
}

/// What is written on the pods of this node, and who of them is live.
#[derive(Debug, Default)]
pub(super) struct Live {
    node: Arc<str>,
    /// The agent has said by itself which pods are live.
    told: bool,
    /// By what is written on them.
    marked: BTreeSet<Arc<str>>,
    pub(super) here: Here,
}

impl Live {
    pub(super) fn new(node: Arc<str>) -> Self {
        Self { node, ..Self::default() }
    }

    pub(super) fn put(&mut self, item: &Item) {
        self.forget(&item.object);
        let Facts::Pod(PodFacts { uid, node, status }) = &item.facts else { return };
        if **node == *self.node {
            let observed = Observed { object: item.object.clone(), status: status.clone(), published: false };
            self.here.insert(Arc::from(&**uid), observed);
        }
    }

    pub(super) fn forget(&mut self, object: &ObjectRef) {
        self.here.retain(|_, observed| observed.object != *object);
    }

    /// These are all the pods there are.
    pub(super) fn keep_only(&mut self, names: &Names) {
        let present = names.places();
        self.here.retain(|_, observed| present.contains(&(&*observed.object.namespace, &*observed.object.name)));
    }

    /// From here on this node's pods are live on the agent's own word, which is this.
    pub(super) fn tell(&mut self, own: BTreeSet<Arc<str>>) -> Delta {
        self.told = true;
        self.liveness(own)
    }

    /// What follows from what has been written since the last time; nothing once the agent has said so itself.
    pub(super) fn changes(&mut self, deltas: &mut Vec<Delta>) {
        if self.told {
            return;
        }
        let marked = |observed: &Observed| observed.status.as_deref() == Some(Standing::ENROLLED);
        let live: BTreeSet<_> =
            self.here.iter().filter(|(_, observed)| marked(observed)).map(|(uid, _)| uid.clone()).collect();
        if live != self.marked {
            self.marked = live.clone();
            deltas.push(self.liveness(live));
        }
    }

    fn liveness(&self, live: BTreeSet<Arc<str>>) -> Delta {
        Delta::Put(Resource::Liveness(NodeLiveness { node: self.node.clone(), live }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::read::Reader;
    use crate::resource::Kind;

    fn pod(name: &str, uid: &str, node: &str, status: &str) -> Item {
        let pod = format!(
            r#"{{"items": [{{"metadata": {{"name": "{name}", "namespace": "demo", "uid": "{uid}",
                "annotations": {{"weft.dev/status": "{status}"}}}}, "spec": {{"nodeName": "{node}", "containers": null}}}}]}}"#
        );
        (Reader::of(Kind::Pod).page)(Kind::Pod, pod.as_bytes()).unwrap().items.remove(0)
    }

    fn told(live: &mut Live) -> Vec<Vec<String>> {
        let mut deltas = Vec::new();
        live.changes(&mut deltas);
        let told = deltas.into_iter().map(|delta| match delta {
            Delta::Put(Resource::Liveness(node)) => node.live.iter().map(ToString::to_string).collect(),
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    #[test]
    fn what_a_predecessor_wrote_holds_until_the_agent_has_looked() {
        let mut live = Live::new("n1".into());
        live.put(&pod("own", "3", "n1", "enrolled"));
        live.put(&pod("waits", "5", "n1", "pending: no address"));
        live.put(&pod("foreign", "4", "n2", "enrolled"));
        assert_eq!(told(&mut live), [["3"]]);
        assert_eq!(live.here.len(), 2, "pods of other nodes are none of its business");
        // The same name, another pod: a StatefulSet's.
        live.put(&pod("own", "9", "n1", "enrolled"));
        assert_eq!(told(&mut live), [["9"]]);
        let Delta::Put(Resource::Liveness(own)) = live.tell(BTreeSet::from(["4".into()])) else { panic!() };
        assert_eq!(own.live, BTreeSet::from(["4".into()]));
        live.put(&pod("own", "3", "n1", "enrolled"));
        assert!(told(&mut live).is_empty());
        live.keep_only(&Names::default());
        assert!(live.here.is_empty());
    }
}
