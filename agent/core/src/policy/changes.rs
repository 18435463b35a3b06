//! Which workloads a change of the snapshot can concern, so that live connections to the others are left in peace.
//!
//! A verdict depends on the destination (its labels and namespace), on the policies that select it and on facts of the
//! connection that do not change. So only a changed pod, or a changed policy that selects the pod, can turn it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use imbl::ordmap::DiffItem;

use crate::model::{AuthorizationPolicy, Name, ObjectName, PeerAuthentication, Scope, Selector, Workload};
use crate::snapshot::{NamespacePolicies, Snapshot};

/// What changed between two snapshots, as far as authorization goes.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    workloads: HashSet<Arc<str>>,
    policies: HashMap<Name, Vec<Selector>>,
}

impl Changes {
    /// Whether nothing changed that any verdict depends on.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.workloads.is_empty() && self.policies.is_empty()
    }

    /// Whether a verdict about connections to `destination` may differ now. May say so needlessly; never fails to.
    #[must_use]
    pub fn concerns(&self, destination: &Workload) -> bool {
        let selectors = self.policies.get(&destination.name.namespace);
        self.workloads.contains(&destination.uid)
            || selectors.is_some_and(|all| all.iter().any(|selector| selector.matches(&destination.labels)))
    }
}

/// Compares two snapshots. Costs the difference of one line of snapshots, not their size.
#[must_use]
pub fn changes(old: &Snapshot, new: &Snapshot) -> Changes {
    let mut changes = Changes::default();
    for item in old.workload_table().diff(new.workload_table()) {
        match item {
            DiffItem::Add(_, w) | DiffItem::Remove(_, w) => _ = changes.workloads.insert(w.uid.clone()),
            DiffItem::Update { old: (_, old), new: (_, new) } => {
                changes.workloads.extend([old.uid.clone(), new.uid.clone()]);
            }
        }
    }
    let none = NamespacePolicies::default();
    for item in old.policy_table().diff(new.policy_table()) {
        let (namespace, old, new): (_, &NamespacePolicies, &NamespacePolicies) = match item {
            DiffItem::Add(namespace, new) => (namespace, &none, new),
            DiffItem::Remove(namespace, old) => (namespace, old, &none),
            DiffItem::Update { old: (_, old), new: (namespace, new) } => (namespace, old, new),
        };
        changes.policies.insert(namespace.clone(), selectors(old, new));
    }
    changes
}

/// The selectors, old and new, of the policies that differ.
fn selectors(old: &NamespacePolicies, new: &NamespacePolicies) -> Vec<Selector> {
    let scope = |policy: &AuthorizationPolicy| match &policy.scope {
        Scope::Namespace => Selector::default(),
        Scope::Workloads(selector) => selector.clone(),
    };
    let selector = |policy: &PeerAuthentication| policy.selector.clone();
    let mut found = Vec::new();
    differing(&old.authorization, &new.authorization, |p| &p.name, |p| found.push(scope(p)));
    differing(&old.authentication, &new.authentication, |p| &p.name, |p| found.push(selector(p)));
    found
}

/// Calls `found` for whatever is on one side only, or differs from its namesake on the other.
fn differing<T: PartialEq>(
    old: &[Arc<T>],
    new: &[Arc<T>],
    name: impl Fn(&T) -> &ObjectName,
    mut found: impl FnMut(&T),
) {
    let by_name = |list: &'_ [Arc<T>], wanted: &ObjectName| list.binary_search_by(|p| name(p).cmp(wanted)).ok();
    for (these, those) in [(old, new), (new, old)] {
        for policy in these {
            let twin = by_name(those, name(policy)).map(|at| &those[at]);
            if twin.is_none_or(|twin| !Arc::ptr_eq(twin, policy) && twin != policy) {
                found(policy);
            }
        }
    }
}
