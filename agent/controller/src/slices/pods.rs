//! The pods there are, as slices are to say it, and addresses that more than one of them claims.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use weft_control::crd::SliceWorkload;
use weft_control::kubernetes::{Facts, Item, Names};
use weft_control::manifests::ObjectRef;
use weft_control::resource::workload_slice;
use weft_control::standing::Standing;
use weft_core::snapshot::Resource;

/// A pod's namespace and name.
pub(crate) type PodName = (Box<str>, Box<str>);

/// What a change of a Pod means for the slices.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// It is there, or has changed.
    Put(Arc<SliceWorkload>),
    /// The pod with this UID has gone, or has no address any more.
    Remove(String),
}

/// The pods that have an address.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    pods: BTreeMap<PodName, Arc<SliceWorkload>>,
    /// Who has an address. Those on their node's network share it with the node, and are left out.
    claims: HashMap<IpAddr, BTreeSet<PodName>>,
    /// Addresses that several have.
    contested: BTreeSet<IpAddr>,
}

impl Pods {
    /// A Pod is there, or has changed.
    pub(crate) fn put(&mut self, item: &Item, changes: &mut Vec<Change>) {
        let next = entry(item).map(Arc::new);
        let name = name_of(&item.object);
        let before = self.pods.get(&name).cloned();
        if before == next {
            return;
        }
        if let Some(before) = before {
            self.claim(&name, &before, false);
            self.pods.remove(&name);
            if next.as_ref().is_none_or(|next| next.uid != before.uid) {
                changes.push(Change::Remove(before.uid.clone()));
            }
        }
        if let Some(next) = next {
            self.claim(&name, &next, true);
            self.pods.insert(name, next.clone());
            changes.push(Change::Put(next));
        }
    }

    /// A Pod has gone.
    pub(crate) fn remove(&mut self, object: &ObjectRef, changes: &mut Vec<Change>) {
        let name = name_of(object);
        if let Some(before) = self.pods.remove(&name) {
            self.claim(&name, &before, false);
            changes.push(Change::Remove(before.uid.clone()));
        }
    }

    /// These are all there are.
    pub(crate) fn keep_only(&mut self, names: &Names, changes: &mut Vec<Change>) {
        let present = names.places();
        let gone = |name: &&PodName| !present.contains(&(&*name.0, &*name.1));
        let gone: Vec<PodName> = self.pods.keys().filter(gone).cloned().collect();
        for name in gone {
            if let Some(before) = self.pods.remove(&name) {
                self.claim(&name, &before, false);
                changes.push(Change::Remove(before.uid.clone()));
            }
        }
    }

    /// All of them, by namespace and name.
    pub(crate) fn all(&self) -> impl Iterator<Item = Arc<SliceWorkload>> + '_ {
        self.pods.values().cloned()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.pods.len()
    }

    /// Addresses that several pods claim, and those pods. The first of them has it, unless a later one is live.
    pub(crate) fn contested(&self) -> BTreeMap<IpAddr, Vec<Arc<SliceWorkload>>> {
        let pods = |ip: &IpAddr| {
            let names = self.claims.get(ip).into_iter().flatten();
            names.filter_map(|name| self.pods.get(name).cloned()).collect()
        };
        self.contested.iter().map(|ip| (*ip, pods(ip))).collect()
    }

    fn claim(&mut self, name: &PodName, entry: &SliceWorkload, claims: bool) {
        let pod = entry.pod.iter().filter(|pod| !pod.host_network);
        for ip in pod.flat_map(|pod| &pod.ips).filter_map(|ip| ip.parse::<IpAddr>().ok()) {
            let all = self.claims.entry(ip).or_default();
            if claims {
                all.insert(name.clone());
            } else {
                all.remove(name);
            }
            let count = all.len();
            if count > 1 {
                self.contested.insert(ip);
            } else {
                self.contested.remove(&ip);
            }
            if count == 0 {
                self.claims.remove(&ip);
            }
        }
    }
}

/// What slices say of a Pod; `None` while it has no address or no node.
fn entry(item: &Item) -> Option<SliceWorkload> {
    let (Some(Resource::Workload(workload)), Facts::Pod(facts)) = (&item.resource, &item.facts) else { return None };
    workload_slice::entry(workload, facts.status.as_deref() == Some(Standing::ENROLLED))
}

fn name_of(object: &ObjectRef) -> PodName {
    (object.namespace.as_str().into(), object.name.as_str().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_control::resource::Kind;

    fn pod(name: &str, uid: &str, ip: &str, status: &str) -> Item {
        let pod = format!(
            r#"{{"metadata": {{"name": "{name}", "namespace": "demo", "uid": "{uid}",
                "annotations": {{"weft.dev/status": "{status}"}}}},
                "spec": {{"nodeName": "n1", "containers": []}}, "status": {{"podIP": "{ip}"}}}}"#
        );
        Item::read(Kind::Pod, pod.as_bytes()).unwrap()
    }

    fn told(changes: &mut Vec<Change>) -> Vec<String> {
        let text = |change: Change| match change {
            Change::Put(pod) => format!("+{}{}", pod.uid, if pod.live { " live" } else { "" }),
            Change::Remove(uid) => format!("-{uid}"),
        };
        std::mem::take(changes).into_iter().map(text).collect()
    }

    #[test]
    fn pods_come_when_they_have_an_address_and_change_when_they_say_something_else() {
        let (mut pods, mut changes) = (Pods::default(), Vec::new());
        pods.put(&pod("a", "1", "", ""), &mut changes);
        assert!(told(&mut changes).is_empty());
        pods.put(&pod("a", "1", "10.0.0.1", ""), &mut changes);
        pods.put(&pod("a", "1", "10.0.0.1", "pending: no sandbox"), &mut changes);
        pods.put(&pod("a", "1", "10.0.0.1", "enrolled"), &mut changes);
        assert_eq!(told(&mut changes), ["+1", "+1 live"]);
        // A StatefulSet's next pod of the name.
        pods.put(&pod("a", "2", "10.0.0.2", ""), &mut changes);
        assert_eq!(told(&mut changes), ["-1", "+2"]);
        let other = pod("b", "3", "10.0.0.3", "");
        pods.put(&other, &mut changes);
        pods.keep_only(&[&other.object].into_iter().collect(), &mut changes);
        assert_eq!((told(&mut changes), pods.count()), (vec!["+3".to_owned(), "-2".to_owned()], 1));
    }

    #[test]
    fn an_address_that_two_pods_have_is_contested_until_one_lets_go() {
        let (mut pods, mut changes) = (Pods::default(), Vec::new());
        pods.put(&pod("b", "2", "10.0.0.1", ""), &mut changes);
        assert!(pods.contested().is_empty());
        pods.put(&pod("a", "1", "10.0.0.1", ""), &mut changes);
        let contested = pods.contested();
        let who: Vec<_> = contested[&"10.0.0.1".parse().unwrap()].iter().map(|pod| pod.uid.as_str()).collect();
        assert_eq!(who, ["1", "2"]);
        pods.remove(&pod("a", "1", "", "").object, &mut changes);
        assert!(pods.contested().is_empty());
    }
}
