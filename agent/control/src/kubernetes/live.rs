//! Which pods are live, as their nodes' agents have written on them: the annotation `weft.dev/status` of every Pod,
//! gathered by node.
//!
//! A stand-in until the controller publishes WorkloadSlices: with those, agents watch their own node's Pods only.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use weft_core::model::NodeLiveness;
use weft_core::snapshot::{Delta, Key, Resource};

use super::read::{Item, PodFacts};
use super::watch::PAUSE_MAX;
use crate::manifests::ObjectRef;
use crate::standing::Standing;

/// A pod of this node, as the API server has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Observed {
    pub(super) object: ObjectRef,
    /// Its `weft.dev/status`.
    pub(super) status: Option<Box<str>>,
}

/// Pods of this node by UID.
pub(super) type Here = BTreeMap<Arc<str>, Observed>;

/// Time in which a mark is written and read again while the API server is there.
const SOON: Duration = Duration::from_secs(1);

/// What is written on the pods of this node.
#[derive(Clone, Debug)]
pub struct Marks(pub(super) watch::Receiver<Arc<Here>>);

impl Marks {
    /// Waits until a pod carries no word of being enrolled, or is gone, or nobody looks any more; and until every other
    /// agent can have read so. If it took long, the API server was away, and they come back to it one by one.
    pub(crate) async fn gone(&self, uid: &str) {
        let began = Instant::now();
        let enrolled = |here: &Here| here.get(uid).is_some_and(|pod| pod.status.as_deref() == Some(Standing::ENROLLED));
        // An error: the source has ended.
        let _ = self.0.clone().wait_for(|here| !enrolled(here)).await;
        if began.elapsed() > SOON {
            tokio::time::sleep(PAUSE_MAX + SOON).await;
        }
    }
}

/// The live pods of every other node, and what is written on those of this one.
#[derive(Debug, Default)]
pub(super) struct Live {
    node: Arc<str>,
    /// The agent has said by itself which pods of its node are live; before that, what its predecessor wrote holds.
    told: bool,
    /// Live pods of other nodes.
    pods: HashMap<ObjectRef, (Arc<str>, Arc<str>)>,
    nodes: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    touched: BTreeSet<Arc<str>>,
    pub(super) here: Here,
}

impl Live {
    pub(super) fn new(node: Arc<str>) -> Self {
        Self { node, ..Self::default() }
    }

    pub(super) fn put(&mut self, item: &Item) {
        self.forget(&item.object);
        let Some(PodFacts { uid, node, status }) = &item.pod else { return };
        let uid: Arc<str> = Arc::from(&**uid);
        if **node == *self.node {
            self.here.insert(uid.clone(), Observed { object: item.object.clone(), status: status.clone() });
            if self.told {
                return;
            }
        }
        if status.as_deref() == Some(Standing::ENROLLED) {
            let node: Arc<str> =
                self.nodes.get_key_value(&**node).map_or_else(|| (&**node).into(), |(node, _)| node.clone());
            self.nodes.entry(node.clone()).or_default().insert(uid.clone());
            self.touched.insert(node.clone());
            self.pods.insert(item.object.clone(), (node, uid));
        }
    }

    pub(super) fn forget(&mut self, object: &ObjectRef) {
        self.here.retain(|_, observed| observed.object != *object);
        if let Some((node, uid)) = self.pods.remove(object) {
            if let Some(live) = self.nodes.get_mut(&node) {
                live.remove(&uid);
            }
            self.touched.insert(node);
        }
    }

    /// These are all the pods there are.
    pub(super) fn replace(&mut self, items: &[Item]) {
        self.touched.extend(std::mem::take(&mut self.nodes).into_keys());
        self.pods.clear();
        self.here.clear();
        items.iter().for_each(|item| self.put(item));
    }

    /// From here on this node's pods are live on the agent's own word, which is this.
    pub(super) fn tell(&mut self, own: BTreeSet<Arc<str>>) -> Delta {
        self.told = true;
        self.nodes.remove(&self.node);
        self.touched.remove(&self.node);
        self.pods.retain(|_, (node, _)| *node != self.node);
        liveness(self.node.clone(), own)
    }

    /// What follows for the nodes whose pods have changed since the last time.
    pub(super) fn changes(&mut self, deltas: &mut Vec<Delta>) {
        for node in std::mem::take(&mut self.touched) {
            deltas.push(match self.nodes.get(&node).filter(|live| !live.is_empty()) {
                Some(live) => liveness(node, live.clone()),
                None => {
                    self.nodes.remove(&node);
                    Delta::Remove(Key::Liveness(node))
                }
            });
        }
    }
}

/// That `node` serves these pods.
fn liveness(node: Arc<str>, live: BTreeSet<Arc<str>>) -> Delta {
    Delta::Put(Resource::Liveness(NodeLiveness { node, live }))
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

    fn told(live: &mut Live) -> Vec<(String, Vec<String>)> {
        let mut deltas = Vec::new();
        live.changes(&mut deltas);
        let told = deltas.into_iter().map(|delta| match delta {
            Delta::Put(Resource::Liveness(node)) => {
                (node.node.to_string(), node.live.iter().map(ToString::to_string).collect())
            }
            Delta::Remove(Key::Liveness(node)) => (node.to_string(), Vec::new()),
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    #[test]
    fn a_pod_is_live_on_the_word_of_its_agent_and_until_it_goes() {
        let mut live = Live::new("n1".into());
        live.tell(BTreeSet::new());
        live.put(&pod("a", "1", "n2", "enrolled"));
        live.put(&pod("b", "2", "n2", "pending: no address"));
        live.put(&pod("own", "3", "n1", "enrolled"));
        assert_eq!(told(&mut live), [("n2".to_owned(), vec!["1".to_owned()])]);
        assert_eq!(live.here.len(), 1);
        // The same name, another pod: a StatefulSet's.
        live.put(&pod("a", "9", "n3", "enrolled"));
        assert_eq!(told(&mut live), [("n2".to_owned(), vec![]), ("n3".to_owned(), vec!["9".to_owned()])]);
        live.replace(&[pod("b", "2", "n2", "enrolled")]);
        assert_eq!(told(&mut live), [("n2".to_owned(), vec!["2".to_owned()]), ("n3".to_owned(), vec![])]);
        live.forget(&pod("b", "2", "n2", "enrolled").object);
        assert_eq!(told(&mut live), [("n2".to_owned(), vec![])]);
        assert!(live.here.is_empty() && told(&mut live).is_empty());
    }

    #[test]
    fn what_a_predecessor_wrote_holds_until_the_agent_has_looked() {
        let mut live = Live::new("n1".into());
        live.put(&pod("own", "3", "n1", "enrolled"));
        assert_eq!(told(&mut live), [("n1".to_owned(), vec!["3".to_owned()])]);
        let Delta::Put(Resource::Liveness(own)) = live.tell(BTreeSet::from(["4".into()])) else { panic!() };
        assert_eq!(own.live, BTreeSet::from(["4".into()]));
        live.put(&pod("own", "3", "n1", "enrolled"));
        assert!(told(&mut live).is_empty());
    }
}
